"""A language model of characters (Karpathy, 2015)."""

import torch

from .recurrent import Decoder


class CharVocabulary:
    """A number for each of some different characters; `characters` is all there is to save."""

    def __init__(self, characters):
        self.characters = characters
        self._number = {character: i for i, character in enumerate(characters)}
        if len(self._number) != len(characters):
            raise ValueError("CharVocabulary: characters: got some twice, expected each once")

    @classmethod
    def from_text(cls, text):
        return cls("".join(sorted(set(text))))

    def __len__(self):
        return len(self.characters)

    def encode(self, text):
        """Their numbers, an int64 tensor [len(text)]."""
        unknown = set(text) - self._number.keys()
        if unknown:
            raise ValueError(
                f"CharVocabulary: text: got {min(unknown)!r}, expected some of {self.characters!r}"
            )
        return torch.tensor([self._number[character] for character in text], dtype=torch.int64)

    def decode(self, numbers):
        return "".join(self.characters[i] for i in numbers)


class CharLM(Decoder):
    """Scores each character's next: (scores [batch, time, characters], state).

    vocabulary  a CharVocabulary, or its characters
    embedding   into how many features; None: one-hot

    `config` is plain data, and CharLM(**config) another such model.
    """

    def __init__(
        self, vocabulary, embedding=None, hidden_size=128, cell="lstm", layers=1, dropout=0.0
    ):
        if isinstance(vocabulary, str):
            vocabulary = CharVocabulary(vocabulary)
        super().__init__(len(vocabulary), embedding, hidden_size, cell, layers, dropout)
        self.vocabulary = vocabulary
        self.config = {
            "vocabulary": vocabulary.characters,
            "embedding": embedding,
            "hidden_size": hidden_size,
            "cell": cell,
            "layers": layers,
            "dropout": dropout,
        }

    def sample(self, prompt, length, temperature=1.0, generator=None):
        """The prompt and `length` characters that follow it; temperature 0: the likeliest."""
        if not prompt:
            raise ValueError("CharLM.sample: prompt: got no characters, expected one or more")
        tokens = self.vocabulary.encode(prompt)[None].to(self.fc.weight.device)
        more = self.generate(tokens, length, temperature=temperature, generator=generator)
        return prompt + self.vocabulary.decode(more[0].tolist())
