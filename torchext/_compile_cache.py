"""Keeps torch.compile's cache on disk from serving code compiled for another torchext."""

from pathlib import Path

import torch.compiler.config

from ._load import build_info
from ._sources import digest_of


def tag():
    """Adds to the cache's key what compiled code depends on: our schemas, fakes, decompositions.

    The cache knows graphs by the names of their ops alone: after an upgrade it would call ops with
    the arguments that they had before.
    """
    ours = (
        f"torchext-{digest_of(Path(__file__).parent / 'ops', '*.py')}-{build_info().get('sources')}"
    )
    theirs = torch.compiler.config.cache_key_tag
    torch.compiler.config.cache_key_tag = f"{theirs} {ours}".strip()
