"""Checkpoints: written whole or not at all, and read only in ways that run no code."""

import os
from pathlib import Path

import torch

from .._command import first_line, needed


def save(state, file):
    """A kill in the middle leaves the file as it was."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.unfinished")
    with open(unfinished, "wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(unfinished, file)


def load(file):
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each damage has its own
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{file}: expected a checkpoint ({reason})") from error
    if not isinstance(state, dict):
        raise ValueError(f"{file}: expected a checkpoint, got a {type(state).__name__}")
    return state


def load_weights(file):
    """A model's state dict: of a checkpoint of ours, a plain one, or a .safetensors."""
    if Path(file).suffix == ".safetensors":
        return needed("safetensors.torch", "safetensors").load_file(file)
    state = load(file)
    return state["model"] if "model" in state and "options" in state else state
