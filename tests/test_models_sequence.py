"""Recurrent models, the language model of characters and the model of images with text: against
torch.nn's layers, one sequence and one step at a time, and learning small tasks."""

import json

import pytest
import torch
from against_torch import check_like, same_state
from torch import nn
from torch.nn.functional import cross_entropy

from torchext import models

THEIRS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
LENGTHS = [9, 3, 1, 7, 9]
PRODUCTS = 9 * 4 * 7  # that a first step's gradient has come through: steps, gates, units

each_cell = pytest.mark.parametrize("cell", THEIRS)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def learn(model, loss_of, steps, rate=0.02):
    """The losses of a training."""
    optimiser = torch.optim.Adam(model.parameters(), rate)
    losses = []
    for _ in range(steps):
        loss = loss_of()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


class OneByOne(nn.Module):
    """SequenceClassifier or Tagger: each sequence alone, without its padding."""

    def __init__(self, ours, cell, inputs, vocabulary, tags, **options):
        super().__init__()
        if vocabulary:
            self.embed = nn.Embedding(vocabulary, inputs)
        self.rnn = THEIRS[cell](inputs, 7, batch_first=True, **options)
        self.fc = nn.Linear(ours.fc.in_features, 4)
        self.tags = tags

    def forward(self, x, lengths):
        answers = []
        for sequence, length in zip(x, lengths, strict=True):
            sequence = sequence[:length]
            y, h = self.rnn(self.embed(sequence) if hasattr(self, "embed") else sequence)
            if self.tags:
                answers.append(nn.functional.pad(y, (0, 0, 0, len(x[0]) - length)))
            else:
                h = h[0] if isinstance(h, tuple) else h
                answers.append(h[-2:].flatten() if self.rnn.bidirectional else h[-1])
        return self.fc(torch.stack(answers))


@each_cell
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("vocabulary", [None, 11])
@pytest.mark.parametrize("kind", ["SequenceClassifier", "Tagger"])
def test_many_to_one_and_tags_like_torch(kind, cell, bidirectional, layers, vocabulary):
    options = {"cell": cell, "layers": layers, "bidirectional": bidirectional}
    model = getattr(models, kind)(5, 4, hidden_size=7, vocabulary=vocabulary, **options)
    options = {"num_layers": layers, "bidirectional": bidirectional}
    plain = OneByOne(model, cell, 5, vocabulary, kind == "Tagger", **options)
    x = torch.randn(5, 9, 5) if vocabulary is None else torch.randint(11, (5, 9))
    check_like(same_state(plain, model), model, x, LENGTHS, terms=PRODUCTS)


@pytest.mark.parametrize("kind", ["SequenceClassifier", "Tagger"])
def test_lengths_may_be_left_out(kind):
    model = getattr(models, kind)(5, 4)
    x = torch.randn(3, 6, 5)
    torch.testing.assert_close(model(x), model(x, torch.tensor([6, 6, 6])))


class StepByStep(nn.Module):
    """Captioner or Seq2Seq: the decoder gets one token after another."""

    def __init__(self, ours, cell, layers):
        super().__init__()
        self.embed = nn.Embedding(13, 6)
        self.rnn = THEIRS[cell](6, 7, layers, batch_first=True)
        self.fc = nn.Linear(7, 13)
        if isinstance(ours, models.Captioner):
            self.begin = nn.Linear(5, 7 * layers)
        else:
            self.read = nn.ModuleList(
                [nn.Embedding(11, 6), THEIRS[cell](6, 7, layers, batch_first=True)]
            )

    def forward(self, x, tokens, lengths=None):
        if lengths is None:
            h = self.begin(x).view(len(x), -1, 7).transpose(0, 1).contiguous()
            state = (h, torch.zeros_like(h)) if isinstance(self.rnn, nn.LSTM) else h
        else:
            embed, rnn = self.read
            states = [rnn(embed(row[None, :n]))[1] for row, n in zip(x, lengths, strict=True)]
            if isinstance(rnn, nn.LSTM):
                state = tuple(torch.cat(each, 1) for each in zip(*states, strict=True))
            else:
                state = torch.cat(states, 1)
        last, scores = torch.full_like(tokens[:, :1], 2), []
        for step in tokens.split(1, 1):
            y, state = self.rnn(self.embed(last), state)
            scores.append(self.fc(y))
            last = step
        return torch.cat(scores, 1)


@each_cell
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["Captioner", "Seq2Seq"])
def test_teacher_forcing_like_torch(kind, cell, layers):
    options = {"input_size": 6, "hidden_size": 7, "cell": cell, "layers": layers, "start": 2}
    tokens = torch.randint(13, (5, 8))
    if kind == "Captioner":
        model = models.Captioner(5, 13, **options)
        args = torch.randn(5, 5), tokens
    else:
        model = models.Seq2Seq(11, 13, **options)
        args = torch.randint(11, (5, 9)), tokens, LENGTHS
    check_like(same_state(StepByStep(model, cell, layers), model), model, *args, terms=PRODUCTS)


@each_cell
@pytest.mark.parametrize("kind", ["Captioner", "Seq2Seq"])
def test_greedy_takes_the_likeliest(kind, cell):
    model = models.Captioner(5, 13, cell=cell) if kind == "Captioner" else models.Seq2Seq(11, 13)
    x = torch.randn(6, 5) if kind == "Captioner" else torch.randint(11, (6, 9))
    tokens = model.generate(x, 10)
    assert tokens.shape == (6, 10)
    assert torch.equal(tokens, model(x, tokens).argmax(-1))


def test_nothing_follows_the_end():
    model = models.Captioner(5, 4)
    x = torch.randn(50, 5)
    free = model.generate(x, 30, temperature=1.0, generator=torch.Generator().manual_seed(1))
    ended = model.generate(
        x, 30, end=3, temperature=1.0, generator=torch.Generator().manual_seed(1)
    )
    first = (free == 3).int().argmax(1)  # of the ends; each row has one
    assert (free == 3).any(1).all()
    assert ended.shape[1] == first.max() + 1  # and then it stops
    for row, chosen, end in zip(ended, free, first, strict=True):
        assert torch.equal(row[: end + 1], chosen[: end + 1])
        assert (row[end:] == 3).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature(temperature):
    """How often each token is chosen, to five standard deviations."""
    model = models.Captioner(3, 5)
    model.decoder.fc.bias.data = torch.randn(5)
    x = torch.randn(1, 3)
    expected = (model(x, torch.zeros(1, 1, dtype=torch.int64))[0, 0] / temperature).softmax(-1)
    count = 20_000
    chosen = model.generate(x.expand(count, -1), 1, temperature=temperature)
    share = chosen.flatten().bincount(minlength=5) / count
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((share - expected).abs() < 5 * deviation).all()


def test_zero_length_generates_nothing():
    assert models.Captioner(5, 4).generate(torch.randn(2, 5), 0).shape == (2, 0)


@each_cell
def test_classifier_learns_what_came_first(cell):
    model = models.SequenceClassifier(8, 4, hidden_size=32, vocabulary=4, cell=cell)
    x, lengths = torch.randint(4, (64, 6)), torch.randint(1, 7, (64,))
    learn(model, lambda: cross_entropy(model(x, lengths), x[:, 0]), 60)
    assert (model(x, lengths).argmax(-1) == x[:, 0]).float().mean() > 0.95


def test_tagger_learns_what_comes_next():
    """Which only a bidirectional one can know."""
    model = models.Tagger(8, 4, hidden_size=32, vocabulary=4)
    x = torch.randint(4, (32, 6))
    losses = learn(model, lambda: cross_entropy(model(x)[:, :-1].mT, x[:, 1:]), 60)
    assert losses[-1] < losses[0] / 10


def test_captioner_learns_captions():
    model = models.Captioner(4, 6, input_size=16, hidden_size=32)
    features, captions = torch.eye(4), torch.tensor([[1, 2, 5], [3, 5, 5], [2, 2, 5], [4, 3, 5]])
    learn(model, lambda: cross_entropy(model(features, captions).mT, captions), 60)
    assert torch.equal(model.generate(features, 10, end=5), captions)


def test_seq2seq_learns_to_reverse():
    model = models.Seq2Seq(6, 6, input_size=16, hidden_size=48, cell="gru")
    x = torch.randint(1, 5, (16, 4))
    answer = torch.cat([x.flip(1), torch.full((16, 1), 5)], 1)
    learn(model, lambda: cross_entropy(model(x, answer).mT, answer), 120)
    assert torch.equal(model.generate(x, 10, end=5), answer)


def test_vocabulary():
    vocabulary = models.CharVocabulary.from_text("hello, world")
    assert vocabulary.characters == " ,dehlorw"
    assert len(vocabulary) == 9
    assert vocabulary.encode("hold").tolist() == [4, 6, 5, 2]
    assert vocabulary.decode(vocabulary.encode("hold")) == "hold"
    assert vocabulary.encode("").shape == (0,)
    with pytest.raises(ValueError, match="CharVocabulary: text: got 'x', expected some of"):
        vocabulary.encode("ox")
    with pytest.raises(ValueError, match="characters: got some twice"):
        models.CharVocabulary("abca")


@each_cell
@pytest.mark.parametrize("embedding", [None, 8])
def test_charlm_learns_hello(cell, embedding):
    vocabulary = models.CharVocabulary.from_text("hello")
    model = models.CharLM(vocabulary, embedding, hidden_size=16, cell=cell)
    text = vocabulary.encode("hello")[None]
    learn(model, lambda: cross_entropy(model(text[:, :-1])[0].mT, text[:, 1:]), 60)
    assert model.sample("h", 4, temperature=0) == "hello"
    generator = torch.Generator().manual_seed(0)
    assert model.sample("hel", 2, temperature=0.1, generator=generator) == "hello"


def test_charlm_from_its_config(tmp_path):
    model = models.CharLM("abc", 5, hidden_size=6, cell="gru", layers=2, dropout=0.1).eval()
    torch.save({"config": model.config, "state": model.state_dict()}, tmp_path / "model.pt")
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert json.loads(json.dumps(model.config)) == model.config == saved["config"]
    copy = models.CharLM(**saved["config"]).eval()
    copy.load_state_dict(saved["state"])
    assert copy.vocabulary.characters == "abc"
    tokens = model.vocabulary.encode("abcab")[None]
    assert torch.equal(copy(tokens)[0], model(tokens)[0])
    assert copy.sample("a", 9, temperature=0) == model.sample("a", 9, temperature=0)


@each_cell
def test_charlm_carries_its_state(cell):
    model = models.CharLM("abcd", hidden_size=6, cell=cell, layers=2)
    tokens = torch.randint(4, (3, 8))
    whole, _ = model(tokens)
    first, state = model(tokens[:, :5])
    rest, _ = model(tokens[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)


def test_one_hot_is_the_identitys_embedding():
    one_hot, embedded = models.CharLM("abcd"), models.CharLM("abcd", embedding=4)
    embedded.load_state_dict({**one_hot.state_dict(), "embed.weight": torch.eye(4)})
    tokens = torch.randint(4, (3, 8))
    assert torch.equal(one_hot(tokens)[0], embedded(tokens)[0])
    assert one_hot.bfloat16()(tokens)[0].dtype == torch.bfloat16


class PlainBlock(nn.Module):
    def __init__(self, width, context):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)
        if context:
            self.norm2 = nn.LayerNorm(width)
            self.look = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x, hidden=None, context=None):
        y = self.norm1(x)
        if hidden is not None:
            hidden = hidden.repeat_interleave(2, 0)  # heads
        x = x + self.attend(y, y, y, attn_mask=hidden)[0]
        if context is not None:
            x = x + self.look(self.norm2(x), context, context)[0]
        return x + self.mlp(self.norm3(x))


class PlainImageText(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_positions = nn.Parameter(torch.zeros(4, 8))
        self.positions = nn.Parameter(torch.zeros(7, 8))
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.image = nn.Sequential(PlainBlock(8, False), PlainBlock(8, False), nn.LayerNorm(8))
        self.embed = nn.Embedding(9, 8)
        self.text = nn.ModuleList([PlainBlock(8, True), PlainBlock(8, True)])
        self.norm, self.match, self.next = nn.LayerNorm(8), nn.Linear(8, 1), nn.Linear(8, 9)

    def forward(self, image, tokens, padding):
        image = self.image(self.patches(image).flatten(2).mT + self.patch_positions)
        count = tokens.shape[1]
        x = self.embed(tokens) + self.positions[:count]
        hidden = torch.ones(count, count, dtype=torch.bool).triu(1) | padding[:, None]
        for block in self.text:
            x = block(x, hidden, image)
        x = self.norm(x)
        means = [row[~left_out].mean(0) for row, left_out in zip(x, padding, strict=True)]
        return self.match(torch.stack(means))[:, 0], self.next(x)


def small_image_text():
    return models.ImageText(9, width=8, heads=2, image_size=8, patch_size=4, max_length=7)


PADDING = torch.tensor(
    [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1]], dtype=torch.bool
)


def test_image_text_like_torch():
    model = small_image_text()
    image, tokens = torch.randn(3, 3, 8, 8), torch.randint(9, (3, 6))
    check_like(same_state(PlainImageText(), model), model, image, tokens, PADDING, terms=200)


def test_padding_is_never_read():
    model = small_image_text()
    image, tokens = torch.randn(3, 3, 8, 8), torch.randint(9, (3, 6))
    match, scores = model(image, tokens, PADDING)
    others = torch.where(PADDING, (tokens + 1) % 9, tokens)
    other_match, other_scores = model(image, others, PADDING)
    assert torch.equal(other_match, match)
    assert torch.equal(other_scores[~PADDING], scores[~PADDING])
    for i, row in enumerate(PADDING):
        alone = model(image[i : i + 1], tokens[i : i + 1, ~row])
        torch.testing.assert_close(alone, (match[i : i + 1], scores[i : i + 1, ~row]))


def test_text_sees_what_came_before_and_the_image():
    model = small_image_text()
    image, tokens = torch.randn(1, 3, 8, 8), torch.randint(9, (1, 6))
    match, scores = model(image, tokens)
    changed = torch.cat([tokens[:, :4], (tokens[:, 4:] + 1) % 9], 1)
    other_match, other_scores = model(image, changed)
    assert torch.equal(other_scores[:, :4], scores[:, :4])
    assert not torch.isclose(other_match, match)
    assert not torch.isclose(model(image.flip(2), tokens)[1], scores).any(-1).all()


def test_image_text_learns():
    """Four images with a text each; and which belong together."""
    model = models.ImageText(9, width=32, heads=4, image_size=8, patch_size=4, max_length=7)
    image, text = torch.randn(4, 3, 8, 8), torch.randint(9, (4, 6))
    images, texts = image.repeat_interleave(4, 0), text.repeat(4, 1)
    belongs = torch.eye(4).flatten()

    def loss_of():
        match, _ = model(images, texts)
        _, scores = model(image, text)
        wrong = nn.functional.binary_cross_entropy_with_logits(match, belongs)
        return wrong + cross_entropy(scores[:, :-1].mT, text[:, 1:])

    losses = learn(model, loss_of, 60, rate=0.005)
    assert losses[-1] < losses[0] / 5
    assert torch.equal(model(images, texts)[0] > 0, belongs > 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.Tagger(4, 2, cell="elman"), "cell: got 'elman', expected one of lstm"),
        (lambda: models.CharLM("ab").sample("", 3), "CharLM.sample: prompt: got no characters"),
        (
            lambda: models.CharLM("ab").sample("a", 3, temperature=-1),
            "generate: temperature: got -1, expected 0 or more",
        ),
        (
            lambda: models.ImageText(9, image_size=30),
            "ImageText: image_size: got 30, expected a multiple of 8",
        ),
        (
            lambda: small_image_text()(torch.randn(1, 3, 8, 8), torch.ones(1, 8).long()),
            "ImageText: tokens: got 8, expected at most 7",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
