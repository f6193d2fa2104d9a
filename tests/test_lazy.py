"""Registrations that wait for a module: done at its import, whatever was asked about it before."""

import importlib.util
import sys

import pytest

from torchext.ops._lazy import when_imported


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that nobody has imported."""
    name = f"module_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_waits(module):
    seen = []
    when_imported(module, lambda m: seen.append(m.answer))
    when_imported(module, lambda m: seen.append(-m.answer))
    assert importlib.util.find_spec(module) is not None  # asking is not importing
    assert seen == []
    importlib.import_module(module)
    assert seen == [42, -42]
    when_imported(module, lambda m: seen.append(0))
    assert seen == [42, -42, 0]


def test_failure_is_told(module):
    """Another's import survives a callback that fails."""
    seen = []
    when_imported(module, lambda m: m.no_such_name)
    when_imported(module, lambda m: seen.append(m.answer))
    with pytest.warns(UserWarning, match=f"torchext: not registered with {module}: .*no_such_name"):
        assert importlib.import_module(module).answer == 42
    assert seen == [42]


def test_module_that_fails(module, tmp_path):
    """The callbacks wait on for an import that succeeds."""
    seen = []
    (tmp_path / f"{module}.py").write_text("1 / 0\n")
    when_imported(module, lambda m: seen.append(m.answer))
    with pytest.raises(ZeroDivisionError):
        importlib.import_module(module)
    (tmp_path / f"{module}.py").write_text("answer = 4242\n")
    importlib.invalidate_caches()
    importlib.import_module(module)
    assert seen == [4242]
