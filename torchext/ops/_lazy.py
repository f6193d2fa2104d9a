"""Work put off until a module is imported: registrations that would make `import torchext` slow."""

import importlib.abc
import importlib.util
import sys

_waiting = {}  # module name -> callbacks


def when_imported(name, callback):
    """Calls callback(module) once module `name` has been imported; now, if it has been already."""
    if name in sys.modules:
        callback(sys.modules[name])
        return
    if not _waiting:
        sys.meta_path.insert(0, _Finder())
    _waiting.setdefault(name, []).append(callback)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: lets the others find the module, then runs the callbacks after it."""

    def find_spec(self, name, path=None, target=None):
        if name not in _waiting:
            return None
        callbacks = _waiting.pop(name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            for callback in callbacks:
                callback(module)

        spec.loader.exec_module = exec_module
        return spec
