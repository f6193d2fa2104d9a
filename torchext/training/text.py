"""Texts as data for a model of characters."""

import torch
from torch import nn
from torch.utils.data import Dataset

from .data import Data

LEAST = 320  # pieces an epoch: a short text is seen again and again
HELD_OUT = 10  # the last tenth of a text validates, if it has so many pieces


class Pieces(Dataset):
    """(characters, what follows each), one piece after another."""

    def __init__(self, tokens, length):
        self.tokens, self.length = tokens, min(length, len(tokens) - 1)

    def __len__(self):
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, i):
        return self._piece(i * self.length)

    def _piece(self, start):
        piece = self.tokens[start : start + self.length + 1]
        return piece[:-1], piece[1:]


class RandomPieces(Pieces):
    """As many, wherever torch's generator says."""

    def __len__(self):
        return max(super().__len__(), LEAST)

    def __getitem__(self, i):
        return self._piece(torch.randint(len(self.tokens) - self.length, ()).item())


class NextCharacter(nn.Module):
    """A CharLM's scores as cross_entropy wants them: [batch, characters, time]."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        scores, _ = self.model(tokens)
        return scores.transpose(1, 2)


def pieces_of(text, vocabulary, length):
    """The Data of a text in pieces of this length."""
    if len(text) < 2:
        raise ValueError(f"text: got {text!r}, expected two characters or more")
    tokens = vocabulary.encode(text)
    cut = len(tokens) - len(tokens) // HELD_OUT
    train, val = (tokens[:cut], tokens[cut:]) if cut > HELD_OUT * length else (tokens, tokens)
    characters = list(vocabulary.characters)
    return Data(RandomPieces(train, length), Pieces(val, length), characters, channels=0)
