"""python -m benchmarks.report: results/<machine>.md and .png from every results/<machine>.json."""

import sys
from pathlib import Path

from torchext.bench import chart, results, table

RESULTS = Path(__file__).parent / "results"


def main():
    if not chart.available():
        print("benchmarks.report: no charts without matplotlib: pip install matplotlib")
    for file in sorted(RESULTS.glob("*.json")):
        document = results.read(file)
        file.with_suffix(".md").write_text(table.markdown(document))
        if chart.available():
            chart.draw(document, file.with_suffix(".png"))
        print(f"{file.stem}: {len(results.timed(document))} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
