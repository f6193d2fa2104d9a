"""Recurrent models: from a sequence to an answer, from a thing to a sequence, from one to another.

Sequences are [batch, time, features], or [batch, time] of tokens. `lengths` says how many steps of
each are valid: the rest is never read.
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .. import nn as tn

CELLS = {"lstm": tn.LSTM, "gru": tn.GRU, "rnn": tn.RNN}


def _layers(cell, input_size, hidden_size, layers, dropout, bidirectional=False):
    if cell not in CELLS:
        raise ValueError(f"cell: got {cell!r}, expected one of {', '.join(CELLS)}")
    return CELLS[cell](
        input_size,
        hidden_size,
        layers,
        batch_first=True,
        dropout=dropout,
        bidirectional=bidirectional,
    )


class Encoder(nn.Module):
    """Reads a sequence: (what it knows at each step, [batch, time, num_features], its last state)

    vocabulary  how many different tokens there are, which are embedded in `input_size` features;
                None: each step is so many features already
    """

    def __init__(
        self,
        input_size,
        hidden_size=128,
        vocabulary=None,
        cell="lstm",
        layers=1,
        bidirectional=False,
        dropout=0.0,
    ):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, input_size) if vocabulary else nn.Identity()
        self.rnn = _layers(cell, input_size, hidden_size, layers, dropout, bidirectional)
        self.num_features = hidden_size * (2 if bidirectional else 1)

    def forward(self, x, lengths=None):
        x = self.embed(x)
        if lengths is None:
            return self.rnn(x)
        lengths = torch.as_tensor(lengths, device="cpu")
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, state = self.rnn(packed)
        return pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0], state


class Decoder(nn.Module):
    """Scores what comes after each token: (scores [batch, time, vocabulary], its last state)

    input_size  of the tokens' embedding; None: one-hot
    """

    def __init__(
        self, vocabulary, input_size=None, hidden_size=128, cell="lstm", layers=1, dropout=0.0
    ):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, input_size) if input_size else OneHot(vocabulary)
        self.rnn = _layers(cell, input_size or vocabulary, hidden_size, layers, dropout)
        self.fc = tn.Linear(hidden_size, vocabulary)

    def forward(self, tokens, state=None):
        y, state = self.rnn(self.embed(tokens), state)
        return self.fc(y), state

    @torch.no_grad()
    def generate(self, tokens, max_length, state=None, end=None, temperature=0.0, generator=None):
        """What goes on after these tokens, [batch, at most max_length]; after `end`, only that.

        temperature  0: the likeliest; 1: by chance, as likely as the model thinks; less: safer
        """
        if temperature < 0:
            raise ValueError(f"generate: temperature: got {temperature}, expected 0 or more")
        made, ended = [], torch.zeros(len(tokens), 1, dtype=torch.bool, device=tokens.device)
        while len(made) < max_length and not ended.all():
            scores, state = self(tokens, state)
            tokens = _choose(scores[:, -1], temperature, generator)
            if end is not None:
                tokens = tokens.masked_fill(ended, end)
                ended = ended | (tokens == end)
            made.append(tokens)
        return torch.cat(made, 1) if made else tokens[:, :0]


def _choose(scores, temperature, generator):
    """A token for each row of scores, [batch, 1]."""
    if temperature == 0:
        return scores.argmax(-1, keepdim=True)
    return torch.multinomial((scores / temperature).softmax(-1), 1, generator=generator)


class OneHot(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.register_buffer("rows", torch.eye(vocabulary), persistent=False)

    def forward(self, tokens):
        return nn.functional.embedding(tokens, self.rows)


class SequenceClassifier(nn.Module):
    """Many to one: scores of a sequence's classes, [batch, num_classes].

    More arguments, here and below: those of Encoder and Decoder.
    """

    def __init__(self, input_size, num_classes, **encoder):
        super().__init__()
        self.encoder = Encoder(input_size, **encoder)
        self.fc = tn.Linear(self.encoder.num_features, num_classes)

    def forward(self, x, lengths=None):
        _, state = self.encoder(x, lengths)
        last = state[0] if isinstance(state, tuple) else state  # [layers * directions, batch, size]
        directions = 2 if self.encoder.rnn.bidirectional else 1
        return self.fc(torch.cat(last[-directions:].unbind(), -1))


class Tagger(nn.Module):
    """Many to many, step by step: scores of each step's classes, [batch, time, num_classes]."""

    def __init__(self, input_size, num_classes, bidirectional=True, **encoder):
        super().__init__()
        self.encoder = Encoder(input_size, bidirectional=bidirectional, **encoder)
        self.fc = tn.Linear(self.encoder.num_features, num_classes)

    def forward(self, x, lengths=None):
        return self.fc(self.encoder(x, lengths)[0])


class _Speaker(nn.Module):
    """Something that is understood, and a decoder that starts from there with the token `start`."""

    def __init__(self, start, decoder):
        super().__init__()
        self.start, self.decoder = start, decoder

    def _score(self, tokens, state):
        """Scores of each token, [batch, time, vocabulary], given those before it."""
        before = torch.cat([self._starts(tokens), tokens[:, :-1]], 1)
        return self.decoder(before, state)[0]

    def _starts(self, batch):
        return torch.full((len(batch), 1), self.start, device=batch.device)


class Captioner(_Speaker):
    """One to many: a caption's tokens from an image's features [batch, in_features]."""

    def __init__(self, in_features, vocabulary, input_size=64, start=0, **decoder):
        super().__init__(start, Decoder(vocabulary, input_size, **decoder))
        rnn = self.decoder.rnn
        self.begin = tn.Linear(in_features, rnn.num_layers * rnn.hidden_size)

    def forward(self, features, tokens):
        """Teacher forcing: scores of each of these tokens, given those before it."""
        return self._score(tokens, self._state(features))

    @torch.no_grad()
    def generate(self, features, max_length, **how):
        """`how`: end, temperature and generator of Decoder.generate."""
        state = self._state(features)
        return self.decoder.generate(self._starts(features), max_length, state, **how)

    def _state(self, features):
        rnn = self.decoder.rnn
        h = self.begin(features).unflatten(1, (rnn.num_layers, -1)).transpose(0, 1).contiguous()
        return (h, torch.zeros_like(h)) if isinstance(rnn, nn.LSTM) else h


class Seq2Seq(_Speaker):
    """Many to many: a sequence's tokens from another's; the decoder starts where the encoder ended.

    source, target  how many different tokens there are of either
    """

    def __init__(
        self,
        source,
        target,
        input_size=64,
        hidden_size=128,
        start=0,
        cell="lstm",
        layers=1,
        dropout=0.0,
    ):
        rest = {"hidden_size": hidden_size, "cell": cell, "layers": layers, "dropout": dropout}
        super().__init__(start, Decoder(target, input_size, **rest))
        self.encoder = Encoder(input_size, vocabulary=source, **rest)

    def forward(self, source, tokens, lengths=None):
        """Teacher forcing: scores of each of these tokens, given those before it."""
        return self._score(tokens, self.encoder(source, lengths)[1])

    @torch.no_grad()
    def generate(self, source, max_length, lengths=None, **how):
        """`how`: end, temperature and generator of Decoder.generate."""
        state = self.encoder(source, lengths)[1]
        return self.decoder.generate(self._starts(source), max_length, state, **how)
