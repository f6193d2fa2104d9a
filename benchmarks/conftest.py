"""pytest-benchmark as an interface to torchext.bench, which times in worker processes."""

import pytest

from torchext.bench import machine, results
from torchext.bench.case import select
from torchext.bench.cli import QUICK_ROUNDS, ROUNDS
from torchext.bench.contenders import CONTENDERS
from torchext.bench.race import Race

OUTCOMES = pytest.StashKey()  # case's name -> Outcome


def pytest_addoption(parser):
    group = parser.getgroup("torchext")
    group.addoption("--full", action="store_true", help="all cases and rounds, not a quick few")
    group.addoption("--cases", default="", help="only cases with all of these words in their name")
    group.addoption("--device", default="cpu", choices=("cpu", "cuda"))
    group.addoption("--threads", type=int, default=machine.cores())
    group.addoption("--race-rounds", type=int, help="turns of each contender in each case")


def pytest_configure(config):
    config.stash[OUTCOMES] = {}


def pytest_generate_tests(metafunc):
    """One test for each case and contender: pytest-benchmark shows a case's contenders together."""
    option = metafunc.config.getoption
    chosen = select(wanted=option("--cases"), quick=not option("--full"), device=option("--device"))
    entries = [
        pytest.param(module, case, contender.name, id=f"{case.name}-{contender.name}")
        for module, case in chosen
        for contender in CONTENDERS
        if contender.applies(case)
    ]
    metafunc.parametrize("module, case, contender", entries)


@pytest.fixture(scope="session")
def race(request):
    option = request.config.getoption
    rounds = option("--race-rounds") or (ROUNDS if option("--full") else QUICK_ROUNDS)
    with Race(option("--threads"), rounds) as race:
        yield race


@pytest.fixture
def outcome(race, module, case, request):
    """The case's Outcome; all its contenders are timed together when the first is asked for."""
    outcomes = request.config.stash[OUTCOMES]
    if case.name not in outcomes:
        outcomes[case.name] = race.run(module, case)
    return outcomes[case.name]


@pytest.hookimpl(optionalhook=True)  # of the plugin, which may be missing
def pytest_benchmark_generate_machine_info(config):
    """Ours: the plugin's own has the host's name."""
    return machine.describe(config.getoption("--device"), config.getoption("--threads"))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config, output_json):
    output_json["not_timed"] = [
        item for outcome in config.stash[OUTCOMES].values() for item in results.not_timed(outcome)
    ]
