"""accelerate(mode="training"), torchext.use() and torch.compile's backend."""

import copy
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from against_torch import check_like
from torch import nn

import torchext
from torchext import acceleration
from torchext.acceleration._training import Block, Paired

IMAGE = (4, 8, 10, 10)


@pytest.fixture(autouse=True)
def _no_races(monkeypatch):
    """A seed, and no race whose end depends on the machine: ours are kept."""
    torch.manual_seed(0)
    for module in ("_training", "_layers"):
        monkeypatch.setattr(
            f"torchext.acceleration.{module}.least_times",
            lambda functions, wait: [f() for f in functions] and (1.0,) * len(functions),
        )


class Network(nn.Module):
    """Blocks as ResNet and MobileNet have them, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.SiLU()
        )
        self.conv1 = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.bn2 = nn.BatchNorm2d(12)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.head(self.relu(y).mean((2, 3)))


def blocks(model):
    """The convolutions that became one op with what follows."""
    return torchext.accelerate(model, torch.randn(IMAGE), mode="training").forward.pairs()


def test_pairs_and_layers():
    model = Network().train()
    fast = torchext.accelerate(model, torch.randn(IMAGE), mode="training")
    assert type(fast) is Network
    assert isinstance(fast.forward, Paired)
    assert fast.forward.pairs() == ["conv1", "conv2", "stem.0"]
    assert type(fast.head) is torchext.nn.Linear
    assert type(model.head) is nn.Linear
    assert [id(p) for p in fast.parameters()] == [id(p) for p in model.parameters()]
    assert torchext.restore(fast) is model
    assert list(fast.state_dict()) == list(model.state_dict())
    runs = {row["where"]: row["runs"] for row in fast.torchext_report.rows}
    assert runs["conv2"] == runs["head"] == "torchext"
    assert runs["relu"] == "ATen: in place"


@pytest.mark.parametrize("example", [None, IMAGE])
def test_steps_are_torchs(example):
    """Outputs, gradients and running statistics."""
    model = Network().train()
    statistics = [b.clone() for b in model.buffers()]
    fast = torchext.accelerate(model, example and torch.randn(example), mode="training")
    for mine, before in zip(model.buffers(), statistics, strict=True):
        assert torch.equal(mine, before)  # trying it out left no traces
    check_like(copy.deepcopy(model), fast, torch.randn(IMAGE), terms=12 * 9 + 100)
    twin, x = copy.deepcopy(model), torch.randn(IMAGE)
    fast(x), twin(x)
    for (name, mine), theirs in zip(fast.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6, msg=name)
    torch.testing.assert_close(fast.eval()(x), twin.eval()(x), rtol=1e-4, atol=1e-5)


def test_learns_as_torch_does():
    model = Network().train()
    twin, fast = (
        copy.deepcopy(model),
        torchext.accelerate(model, torch.randn(IMAGE), mode="training"),
    )
    x, target = torch.randn(IMAGE), torch.tensor([0, 1, 2, 3])
    curves = []
    for network in (twin, fast):
        optimiser = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
        losses = []
        for _ in range(10):
            optimiser.zero_grad()
            loss = F.cross_entropy(network(x), target)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0][-1] < 0.5 * curves[0][0]
    torch.testing.assert_close(*map(torch.tensor, curves), rtol=1e-3, atol=1e-4)


class Shape(nn.Module):
    def __init__(self, function, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def conv(**kwargs):
    return nn.Conv2d(8, 8, 3, padding=1, **kwargs)


def norm(**kwargs):
    return nn.BatchNorm2d(8, **kwargs)


@pytest.mark.parametrize(
    ("make", "pairs"),
    [
        (
            lambda: Shape(lambda m, x: m.n(m.a(x)) + m.n(m.b(x)), a=conv(), b=conv(), n=norm()),
            [],
        ),
        (lambda: Shape(lambda m, x: m.n(m.a(m.a(x))), a=conv(), n=norm()), []),
        (
            lambda: Shape(lambda m, x: (lambda y: m.n(y) + y)(m.a(x)), a=conv(), n=norm()),
            [],
        ),
        (
            lambda: Shape(lambda m, x: m.n(m.a(x)) if x.sum() > 0 else x, a=conv(), n=norm()),
            [],
        ),
        (lambda: nn.Sequential(conv(), norm(momentum=None)), []),
        (
            lambda: nn.Sequential(conv(padding_mode="circular"), norm()),
            [],
        ),
        (lambda: nn.Sequential(conv(), norm(track_running_stats=False)), ["0"]),
        (
            lambda: Shape(
                lambda m, x: F.relu(m.n(m.a(x)) + x.mean((2, 3), True)),
                a=conv(),
                n=nn.BatchNorm2d(8),
            ),
            ["a"],
        ),
        (
            lambda: Shape(lambda m, x: F.relu6(x + m.n(m.a(x))), a=conv(), n=norm()),
            ["a"],
        ),
    ],
)
def test_what_is_paired(make, pairs):
    """And that it is right, paired or not."""
    model, x = make().train(), torch.randn(IMAGE)
    fast = torchext.accelerate(model, x, mode="training")
    assert fast.forward.pairs() == pairs
    twin = copy.deepcopy(model)
    torch.testing.assert_close(fast(x), twin(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast(-x), twin(-x), rtol=1e-4, atol=1e-5)


def test_hooks_and_copies():
    model, x = Network().train(), torch.randn(IMAGE)
    fast = torchext.accelerate(model, x, mode="training")
    expected = copy.deepcopy(model)(x)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        torch.testing.assert_close(other(x), expected)
    seen = []
    fast.bn1.register_forward_hook(lambda *_: seen.append("bn1"))
    torch.testing.assert_close(fast(x), expected)
    assert seen == ["bn1"]


def test_slower_ways_are_left(monkeypatch):
    module = "torchext.acceleration._training.least_times"
    monkeypatch.setattr(module, lambda functions, wait: (2.0, 1.0, 3.0))
    fast = torchext.accelerate(Network().train(), torch.randn(IMAGE), mode="training")
    assert "no pairs" in str(fast.torchext_report)
    assert type(fast.conv1) is torchext.nn.Conv2d
    assert not fast.forward.pairs() or not fast.forward._pairing
    monkeypatch.setattr(module, lambda functions, wait: (1.0, 2.0, 3.0))
    fast = torchext.accelerate(Network().train(), torch.randn(IMAGE), mode="training")
    assert "PyTorch's own layers" in str(fast.torchext_report)
    assert type(fast.conv1) is nn.Conv2d
    monkeypatch.setattr(
        "torchext.acceleration._layers.least_times", lambda functions, wait: (2.0, 1.0)
    )
    fast = torchext.accelerate(Network().train(), torch.randn(IMAGE), mode="training")
    assert type(fast.conv1) is nn.Conv2d


def test_layers_of_other_kinds_stay():
    class Mine(nn.Conv2d):
        pass

    model = nn.Sequential(
        Mine(8, 8, 1), nn.Dropout(0.5), nn.utils.parametrizations.weight_norm(conv())
    )
    fast = torchext.accelerate(model, mode="training")
    assert [type(m) for m in fast] == [type(m) for m in model]
    with pytest.raises(ValueError, match=r"accelerate: dtype: got torch.bfloat16"):
        torchext.accelerate(model, mode="training", dtype=torch.bfloat16)


def test_a_block_says_what_is_wrong():
    block = Block(torchext.nn.Conv2d(8, 8, 3), torchext.nn.BatchNorm2d(8), "relu")
    with pytest.raises(ValueError, match="expected 4D input"):
        block(torch.randn(8, 5, 5))


def called(function, *args):
    return {step.op for step in torchext.explain(function, *args)}


def test_use_reroutes_functions():
    x, weight = torch.randn(IMAGE), torch.randn(5, 8, 3, 3)
    lstm = nn.LSTM(10, 6)

    def compute():
        y = F.relu(F.conv2d(x, weight))
        y = F.batch_norm(F.max_pool2d(y, 2), torch.zeros(5), torch.ones(5))
        return torch.softmax(F.layer_norm(y, y.shape[-1:]), 1), lstm(x[0])[0]

    def compute_by_us():
        with torchext.use():
            return compute()

    expected = compute()
    for got, wanted in zip(compute_by_us(), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert not called(compute)
        ops = {"conv2d_inference", "activation_inference", "max_pool2d_inference"}
        ops |= {"batch_norm_inference", "layer_norm_inference", "lstm_inference"}
        assert ops <= called(compute_by_us)


def test_use_is_of_one_thread():
    found = []

    def other():
        with torch.no_grad():
            found.append(called(F.relu, torch.randn(3)))

    with torchext.use():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with torch.no_grad():
            assert called(F.relu, torch.randn(3)) == {"activation_inference"}
    assert found == [set()]


def test_backend_of_torch_compile(monkeypatch):
    made, own = [], torchext.accelerate

    def accelerate(*args):
        made.append(own(*args))
        return made[-1]

    monkeypatch.setattr(acceleration, "accelerate", accelerate)
    model = Network().eval()
    compiled = torch.compile(model, backend="torchext", fullgraph=True)
    with torch.no_grad():
        for shape in (IMAGE, (1, 8, 9, 7), (3, 8, 12, 12)):
            x = torch.randn(shape)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
        assert "depthwise conv2d + batch norm + residual + relu" in [
            row["what"] for row in made[0].torchext_report.rows
        ]
        model.conv1.weight.mul_(2)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    twin = copy.deepcopy(model.train())
    x = torch.randn(IMAGE)
    for network in (compiled, twin):
        network(x).square().sum().backward()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-4)
    torch.compiler.reset()
