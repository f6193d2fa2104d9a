"""Options, the backend fixture, and fresh memory that is always NaN."""

import os

import torch

# Read when triton is first imported, which nothing has done yet: without a GPU its kernels run in
# Triton's interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import harness
import poison
import pytest

from torchext import _load


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run what is marked long")


def pytest_configure(config):
    if _load.why_not_loaded["cpu"]:
        raise pytest.UsageError(f"the op tests need the library: {_load.why_not_loaded['cpu']}")
    if config.getoption("--long"):
        os.environ["TORCHEXT_TEST_LONG"] = "1"
    torch.set_num_threads(1)  # two make small tensors slower; test_layouts.py tests more
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # what Python code allocates ...
    for name, why_not in _load.why_not_loaded.items():
        if not why_not:  # ... and what the libraries do
            poison.fill_allocations(_load.library_directory() / f"libtorchext_{name}.so")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--long"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="long: runs with --long"))


def pytest_generate_tests(metafunc):
    """`cpu` runs a test on every ISA of this CPU."""
    if "cpu" in metafunc.fixturenames:
        metafunc.parametrize("cpu", harness.params(harness.CPU), indirect=True)


def _in_use(request):
    request.param.use()
    yield request.param
    harness.best_isa().use()


backend = pytest.fixture(_in_use)  # parametrized by harness.each_case
cpu = pytest.fixture(_in_use)


def pytest_terminal_summary(terminalreporter):
    """How near the error rule's limit each op came."""
    if harness.worst and terminalreporter.config.getoption("verbose") > 0:
        terminalreporter.section("largest errors, and what part of the allowed they are")
        for (op, dtype), (part, error) in sorted(harness.worst.items(), key=str):
            terminalreporter.line(f"{op:32} {str(dtype)[6:]:9} {error:9.2e} {part:5.0%}")
