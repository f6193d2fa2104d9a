"""`torchext bench`: see torchext.bench."""

from .bench import main

__all__ = ["main"]
