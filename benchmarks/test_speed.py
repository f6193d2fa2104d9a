"""pytest benchmarks/: every contender in every case, a quick selection; all of it with --full."""

import pytest

from torchext.bench import results


def test_speed(outcome, contender, benchmark):
    entry = outcome.entries[contender]
    if entry.status in ("absent", "untimed"):
        pytest.skip(f"{contender} {entry.status}: {entry.reason}")
    if entry.status == "failed":
        pytest.fail(entry.reason, pytrace=False)
    benchmark.group = outcome.case.name
    benchmark.extra_info.update(results.extra_info(outcome, contender))
    inject(benchmark, entry)


def inject(benchmark, entry):
    """Our samples in place of calls that pytest-benchmark would make in this process."""
    benchmark._mode = "injected"
    if benchmark.enabled:
        stats = benchmark._make_stats(entry.calls)
        for sample in entry.samples:
            stats.update(sample * entry.calls)
