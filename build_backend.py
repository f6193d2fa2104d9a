"""PEP 517 backend: setuptools, with torch required for the build only where the user has none.

Torch's headers are all the build needs of it. Build isolation hides the user's torch from imports
but not from sight: its headers are used where they lie, so that a build neither downloads a second
torch nor compiles against another one than it will run with.
"""

import importlib.metadata
import re
import site
import sys
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (the hooks of PEP 517)

MINIMUM_TORCH = (2, 10)


def package_paths():
    """Where packages may lie: the build's own path, then the environment that is installed into."""
    user_site = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [*sys.path, *site.getsitepackages(), *user_site]


def find_torch():
    """(version, directory) of the torch the build would use, or None."""
    for distribution in importlib.metadata.distributions(name="torch", path=package_paths()):
        version = distribution.version
        directory = Path(distribution.locate_file("torch"))
        numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
        if numbers >= MINIMUM_TORCH and (directory / "include/torch/csrc/stable").is_dir():
            return version, directory
    return None


def _with_torch(requirements):
    return requirements + ([] if find_torch() else ["torch>=2.10"])


def get_requires_for_build_wheel(config_settings=None):
    return _with_torch(build_meta.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings=None):
    return _with_torch(build_meta.get_requires_for_build_editable(config_settings))
