"""Work put off until a module is imported: registrations that would make `import torchext` slow."""

import importlib.abc
import importlib.util
import sys
import warnings

_waiting = {}  # module name -> callbacks


def when_imported(name, callback):
    """Calls callback(module) once module `name` has been imported; now, if it has been already."""
    if name in sys.modules:
        callback(sys.modules[name])
        return
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _waiting.setdefault(name, []).append(callback)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: lets the others find the module, and runs the callbacks after it."""

    def find_spec(self, name, path=None, target=None):
        if name not in _waiting:
            return None
        callbacks = _waiting.pop(name)  # or the search would come back here
        try:
            spec = importlib.util.find_spec(name)
        finally:
            _waiting[name] = callbacks
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                _run_callbacks(name, module)

            spec.loader.exec_module = exec_module
        return spec


_finder = _Finder()


def _run_callbacks(name, module):
    for callback in _waiting.pop(name, ()):
        try:
            callback(module)
        except Exception as error:  # somebody else's import must not fail because of torchext
            warnings.warn(f"torchext: not registered with {name}: {error!r}", stacklevel=2)
