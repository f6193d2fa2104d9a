"""`torchext train`: see torchext.training."""

from .training.cli import main

__all__ = ["main"]
