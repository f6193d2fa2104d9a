"""The benchmark harness: `torchext bench`, and behind `pytest benchmarks/`.

case.py, cases/  what is timed: data           contenders.py  who competes: small classes
race.py          gate, then turns in rounds    team.py, worker.py, timing.py  processes, the clock
gate.py          outputs against f64           roofline.py    the machine's limits, in the same run
results.py       JSON, pytest-benchmark's      table.py, chart.py  what people read
"""


def main(argv):
    from .cli import main

    return main(argv)
