"""accelerate(): the same results, what is fused and what must not be, and what users rely on."""

import collections
import copy
import math
import pickle
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchext
from torchext.acceleration import _forward, _layers, _tuning
from torchext.acceleration._attention import pack_attention
from torchext.acceleration._capture import capture, tidy
from torchext.acceleration._lower import lower, taps_first
from torchext.acceleration._places import Candidate, Place
from torchext.acceleration._raise import raise_to_aten

IMAGE = (2, 8, 12, 12)


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch):
    """A seed, and no race whose end depends on the machine: candidates and fused code win."""
    torch.manual_seed(0)
    monkeypatch.setattr(_forward, "least_times", lambda functions, wait: [1.0] * len(functions))
    monkeypatch.setattr(_layers, "least_times", lambda functions, wait: (1.0,) * len(functions))
    monkeypatch.setattr(_tuning, "choice", lambda times: 0)
    monkeypatch.setattr(_tuning, "LEAST_ROUNDS", 1)
    monkeypatch.setattr(_tuning, "MOST_SECONDS", 0)


def settled(model):
    """In eval mode, with batch norms that have seen something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def places(model, *args):
    """What the patterns find: "kind" of each place."""
    program = capture(model, args, {}, model)
    raise_to_aten(program.graph)
    tidy(program.graph)
    return sorted(place.what for place in lower(program, "fast"))


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


class Residual(nn.Module):
    def __init__(self, act=F.relu):
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.act = act

    def forward(self, x):
        y = self.act(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + x)


class Function(nn.Module):
    """A forward from layers and a function of them."""

    def __init__(self, function, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = function

    def forward(self, *args):
        return self.function(self, *args)


def conv(**kwargs):
    return nn.Conv2d(8, 8, 3, padding=1, **kwargs)


# Each: a model, its inputs' shapes, and the places that are found.
PATTERNS = {
    "residual block": (
        lambda: Residual(),
        (IMAGE,),
        ["conv2d + batch norm + relu", "conv2d + batch norm + residual + relu"],
    ),
    "activation": (
        lambda: nn.Sequential(conv(), nn.Hardswish()),
        (IMAGE,),
        ["conv2d + hardswish"],
    ),
    "other slope": (
        lambda: nn.Sequential(conv(), nn.LeakyReLU(0.2)),
        (IMAGE,),
        ["conv2d"],
    ),
    "convolution used twice": (
        lambda: Function(
            lambda m, x: m.bn(m.conv(x)) + m.conv(x + 1), conv=conv(), bn=nn.BatchNorm2d(8)
        ),
        (IMAGE,),
        ["conv2d", "conv2d + batch norm + residual"],
    ),
    "intermediate used elsewhere": (
        lambda: Function(
            lambda m, x: (lambda y: m.bn(y).relu() * y)(m.conv(x)),
            conv=conv(),
            bn=nn.BatchNorm2d(8),
        ),
        (IMAGE,),
        ["batch_norm", "conv2d", "relu"],
    ),
    "batch norm shared": (
        lambda: Function(
            lambda m, x: m.bn(m.a(x)) + m.bn(m.b(x)), a=conv(), b=conv(), bn=nn.BatchNorm2d(8)
        ),
        (IMAGE,),
        ["conv2d + batch norm", "conv2d + batch norm + residual"],
    ),
    "residual that broadcasts": (
        lambda: Function(lambda m, x: m.conv(x) + x.mean((2, 3), keepdim=True), conv=conv()),
        (IMAGE,),
        ["conv2d"],
    ),
    "scaled residual": (
        lambda: Function(lambda m, x: torch.add(m.conv(x), x, alpha=2), conv=conv()),
        (IMAGE,),
        ["conv2d"],
    ),
    "itself added": (
        lambda: Function(lambda m, x: (lambda y: y + y)(m.conv(x)), conv=conv()),
        (IMAGE,),
        ["conv2d"],
    ),
    "weights made by the input": (
        lambda: Function(lambda m, x: F.conv2d(x, x[:, :, :3, :3])),
        ((8, 8, 12, 12),),
        [],
    ),
    "depthwise and pointwise": (
        lambda: nn.Sequential(
            conv(groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.Conv2d(8, 40, 1),
            nn.SiLU(),
        ),
        (IMAGE,),
        ["depthwise conv2d + batch norm + relu6 + conv2d + silu"],
    ),
    "depthwise alone": (
        lambda: Function(lambda m, x: (lambda y: m.b(y) + y)(m.a(x)), a=conv(groups=8), b=conv()),
        (IMAGE,),
        ["conv2d + residual", "depthwise conv2d"],
    ),
    "mlp": (
        lambda: Function(
            lambda m, x: m.b(F.gelu(m.a(m.norm(x)))) + x,
            a=nn.Linear(16, 64),
            b=nn.Linear(64, 16),
            norm=nn.LayerNorm(16),
        ),
        ((3, 20, 16),),
        ["layer_norm", "linear + gelu", "linear + residual"],
    ),
    "few rows": (lambda: nn.Linear(16, 33), ((2, 16),), ["linear"]),
    "pools": (
        lambda: nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)),
        (IMAGE,),
        ["adaptive_avg_pool2d", "avg_pool2d", "max_pool2d"],
    ),
    "attention": (
        lambda: nn.MultiheadAttention(16, 4, batch_first=True),
        ((2, 9, 16),) * 3,
        ["linear"] * 4 + ["softmax"],
    ),
    "attention with a mask": (
        lambda: Function(
            lambda m, q, mask: F.scaled_dot_product_attention(q, q, q, mask, scale=0.3)
        ),
        ((2, 4, 9, 16), (9, 9)),
        ["scaled_dot_product_attention"],
    ),
    "norms": (
        lambda: nn.Sequential(nn.GroupNorm(2, 8), nn.BatchNorm2d(8), nn.Softmax(1), nn.Sigmoid()),
        (IMAGE,),
        ["batch_norm", "group_norm", "sigmoid", "softmax"],
    ),
    "our own modules": (
        lambda: nn.Sequential(
            torchext.nn.ConvBNAct(8, 8, 3),
            torchext.nn.DepthwiseSeparable(8, 40, activation=("relu6", None)),
            torchext.nn.MaxPool2d(2),
            torchext.nn.GELU("tanh"),
        ),
        (IMAGE,),
        [
            "conv2d + batch norm + relu",
            "depthwise conv2d + batch norm + relu6 + conv2d + batch norm",
            "gelu",
            "max_pool2d",
        ],
    ),
    "our own transformer": (
        lambda: Function(
            lambda m, x: (
                x + m.b(m.a(m.norm(x)))[0].softmax(-1) + m.attention(x, x, x, need_weights=False)[0]
            ),
            a=torchext.nn.Linear(16, 64),
            b=torchext.nn.Linear(64, 16),
            norm=torchext.nn.LayerNorm(16),
            attention=torchext.nn.MultiheadAttention(16, 4, batch_first=True),
        ),
        ((3, 20, 16),),
        ["layer_norm", "linear", "linear", "linear", "linear + residual", "softmax"],
    ),
    "recurrent layers": (
        lambda: Function(
            lambda m, x: [layer(x)[0] for layer in m.children()],
            a=nn.LSTM(8, 6, 2, batch_first=True),
            b=nn.GRU(8, 6, bidirectional=True),
            c=nn.RNN(8, 6),
            d=nn.RNN(8, 6, nonlinearity="relu", bias=False),
        ),
        ((5, 3, 8),),
        ["gru", "lstm", "rnn_relu", "rnn_tanh"],
    ),
    "recurrent cells": (
        lambda: Function(
            lambda m, x: m.d(m.c(m.b(m.a(x, (x, x))[0]))),
            a=nn.LSTMCell(8, 8),
            b=nn.GRUCell(8, 8),
            c=nn.RNNCell(8, 8, bias=False),
            d=nn.RNNCell(8, 8, nonlinearity="relu"),
        ),
        ((3, 8),),
        ["gru_cell", "lstm_cell", "rnn_relu_cell", "rnn_tanh_cell"],
    ),
    "grouped, few columns": (
        lambda: nn.Sequential(conv(groups=2), nn.Conv2d(8, 3, 1)),
        (IMAGE,),
        ["conv2d", "conv2d"],
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name):
    make, shapes, expected = PATTERNS[name]
    model, inputs = settled(make()), [torch.randn(shape) for shape in shapes]
    assert places(model, *inputs) == expected
    fast = torchext.accelerate(model, tuple(inputs))
    with torch.no_grad():
        if expected:
            assert fast.torchext_report.rows, fast.torchext_report
        assert_same(fast(*inputs), model(*inputs))


def test_lists_of_parameters_are_no_concern_of_the_users(recwarn):
    model = settled(nn.LSTM(8, 6))
    fast = torchext.accelerate(model, torch.randn(5, 3, 8))
    assert [row["runs"] for row in fast.torchext_report.rows]
    assert not [one for one in recwarn if "_flat_weights" in str(one.message)]


@pytest.mark.parametrize("candidate", range(5))
def test_every_candidate_is_right(candidate, monkeypatch):
    """Whatever a machine finds the fastest."""
    monkeypatch.setattr(_tuning, "choice", lambda times: min(candidate, len(times) - 1))
    for name, (make, shapes, _) in PATTERNS.items():
        model, inputs = settled(make()), [torch.randn(shape) for shape in shapes]
        with torch.no_grad():
            fast = torchext.accelerate(model, tuple(inputs), strict=True)
            assert_same(fast(*inputs), model(*inputs))
            assert not fast.torchext_report.notes, name


def test_the_fastest_candidate_is_chosen(monkeypatch):
    """In turns, each where it stands; places alike share their times, and a tie is no reason."""
    monkeypatch.undo()
    x, graph, ran = torch.randn(4), torch.fx.Graph(), []
    source = graph.placeholder("x")

    def slow(x, seconds):
        ran.append(seconds)
        time.sleep(seconds)
        return x + 1

    def place(source, *seconds):
        node = graph.call_function(slow, (source, 0.0))
        candidates = [Candidate(str(s), slow, (source, s)) for s in seconds]
        return Place("", "", node, candidates)

    first = place(source, 0.02, 0.001)
    second = place(first.node, 0.02, 0.001)
    third = place(second.node, 0.005, 0.02, 0.005)
    graph.output(third.node)
    _tuning.tune(graph, [first, second, third], {source: x})
    assert [p.chosen for p in (first, second, third)] == [1, 1, 0]
    assert first.times == second.times
    assert [first.node.args, third.node.args] == [(source, 0.001), (second.node, 0.005)]
    assert ran[:9] == [0.02, 0.02, 0.005, 0.001, 0.001, 0.02, 0.02, 0.02, 0.005]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, y):
        return self.linear(x) - y


def test_a_tensor_given_twice_is_two_inputs():
    model, x, y = Two().eval(), torch.randn(3, 4), torch.randn(3, 4)
    fast = torchext.accelerate(model, (x, x))
    with torch.no_grad():
        assert_same(fast(x, y), model(x, y))
        assert_same(fast(x, x), model(x, x))


def test_layers_of_constants_are_no_places():
    class Bias(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp, self.points = nn.Linear(2, 5), nn.Parameter(torch.randn(7, 2))

        def forward(self, x):
            return x + self.mlp(self.points)

    model, x = Bias().eval(), torch.randn(7, 5)
    fast = torchext.accelerate(model, x, strict=True)
    with torch.no_grad():
        assert_same(fast(x), model(x))


def test_error_of_other_structures():
    x = torch.randn(3)
    assert _forward.error_of((x, x), (x,)) == _forward.error_of((x,), [x]) == math.inf
    assert _forward.error_of({"a": x}, {"a": x}) == 0


def test_shapes_share_what_was_prepared():
    model, x = settled(Residual()), torch.randn(IMAGE)
    fast = torchext.accelerate(model, x)
    fast(x[:1])
    for change in (lambda: None, lambda: model.conv1.weight.data.mul_(2)):
        change()
        torchext.refresh(fast)
        one, other = ({v.data_ptr() for v in c._values} for c in fast.forward._compiled.values())
        assert len(one & other) >= len(one) - 1  # biases of a fold are made with it
        with torch.no_grad():
            assert_same(fast(x[:1]), model(x[:1]))


def test_shapes_are_prepared_while_others_call():
    """torch.export changes nn.Module for all threads: they wait for it, and it for them."""
    model = settled(Residual())
    fast, failed = torchext.accelerate(model), []
    inputs = [torch.randn(n, *IMAGE[1:]) for n in range(1, 6)]
    with torch.no_grad():
        expected = [model(x) for x in inputs]

    def call(first):
        for i in range(first, first + 12):
            x, y = inputs[i // 3], expected[i // 3]
            try:
                with torch.no_grad():
                    assert_same(fast(x), y)
                fast(x.clone().requires_grad_()).sum().backward()
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert not fast.torchext_report.notes


def test_an_accelerated_model_is_exported_as_the_original():
    model, x = settled(Residual()), torch.randn(IMAGE)
    fast = torchext.accelerate(model, x)
    dims = {0: torch.export.Dim("batch")}
    y = torch.randn(2, *IMAGE[1:])
    for exported in (fast, torchext.restore(fast)):
        program = torch.export.export(exported, (x,), dynamic_shapes=(dims,))
        assert_same(program.module()(y), model(y))


def test_strict_precision_adds_up_directly():
    model, x = settled(Residual()), torch.randn(IMAGE)
    names = {}
    for precision in ("fast", "strict"):
        program = capture(model, (x,), {}, model)
        tidy(program.graph)
        places = lower(program, precision)
        names[precision] = {c.name for place in places for c in place.candidates}
    assert names["fast"] - names["strict"] == {"torchext, Winograd"}
    assert torchext.accelerate(model, x, precision="strict").torchext_report.error is not None


def _timms(m, x):
    B, N, C = x.shape
    q, k, v = m.qkv(x).reshape(B, N, 3, 4, C // 4).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, C)


def _chunked(m, x):
    q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in m.qkv(x).chunk(3, -1))
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(q, k, v, mask, scale=0.2).transpose(1, 2).flatten(2)


def _length_first(m, x):
    q, k, v = m.qkv(x.transpose(0, 1)).unflatten(-1, (3, 4, -1)).permute(2, 1, 3, 0, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return y.permute(2, 0, 1, 3).flatten(2).transpose(0, 1)


def _keys_of_values(m, x):
    q, k, v = m.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, v, k)


def _heads_inside(m, x):
    q, k, v = m.qkv(x).unflatten(-1, (4, 3, -1)).permute(3, 0, 2, 1, 4)
    return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize(
    ("function", "packed"),
    [(_timms, 1), (_chunked, 1), (_length_first, 1), (_keys_of_values, 0), (_heads_inside, 0)],
)
def test_packed_attention(function, packed):
    model = Function(function, qkv=nn.Linear(16, 48)).eval()
    x = torch.randn(2, 9, 16)
    program = capture(model, (x,), {}, model)
    tidy(program.graph)
    assert pack_attention(program.graph) == packed
    fast = torchext.accelerate(model, x, strict=True)
    with torch.no_grad():
        assert_same(fast(x), model(x))


def test_is_a_drop_in():
    model, x = settled(Residual()), torch.randn(IMAGE)
    before = {name: (x.data_ptr(), x.clone()) for name, x in model.state_dict().items()}
    fast = torchext.accelerate(model, x)
    assert type(fast) is type(model)
    assert fast is not model
    assert "forward" not in vars(model)
    for (name, mine), (theirs_name, theirs) in zip(
        fast.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert name == theirs_name
        assert mine.data_ptr() == theirs.data_ptr() == before[name][0]
        assert torch.equal(mine, before[name][1])
    assert [id(p) for p in fast.parameters()] == [id(p) for p in model.parameters()]
    assert torchext.restore(fast) is model
    assert torchext.restore(torchext.accelerate(fast)) is model


def test_gradients_are_the_models():
    model, x = settled(Residual()), torch.randn(IMAGE)
    fast = torchext.accelerate(model, x)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = fast(mine)
    assert y.requires_grad
    y.square().sum().backward()
    got = [mine.grad, *(p.grad.clone() for p in model.parameters())]
    model.zero_grad()
    model(theirs).square().sum().backward()
    assert_same(got, [theirs.grad, *(p.grad for p in model.parameters())])


def test_training_mode_is_the_models():
    model, x = settled(Residual()), torch.randn(IMAGE)
    fast, twin = torchext.accelerate(model, x), copy.deepcopy(model)
    assert_same(fast.train()(x), twin.train()(x))
    assert_same(fast.bn1.running_mean, twin.bn1.running_mean)
    with torch.no_grad():
        assert_same(fast.eval()(x), twin.eval()(x))


def test_a_model_in_training_mode_is_left_alone():
    model, x = settled(Residual()).train(), torch.randn(IMAGE)
    before = model.bn1.running_mean.clone()
    fast = torchext.accelerate(model, x)
    assert torch.equal(model.bn1.running_mean, before)
    assert "call eval()" in str(fast.torchext_report)
    with torch.no_grad():
        assert_same(fast.eval()(x), model.eval()(x))
    assert fast.torchext_report.rows


def test_follows_weights():
    model, x = settled(Residual()), torch.randn(IMAGE)
    with torch.no_grad():
        fast = torchext.accelerate(model, x)
        model.conv1.weight.mul_(2)
        assert_same(fast(x), model(x))
        model.bn2.running_mean.add_(1)
        assert_same(fast(x), model(x))
        fast.conv2.weight = nn.Parameter(torch.randn(8, 8, 3, 3))
        model.conv2.weight = fast.conv2.weight
        assert_same(fast(x), model(x))
        model.conv1.weight.data.mul_(2)  # which PyTorch does not count
        torchext.refresh(fast)
        assert_same(fast(x), model(x))
        fast.load_state_dict({k: v + 0.1 for k, v in model.state_dict().items()})
        assert_same(fast(x), torchext.restore(fast)(x))


def test_refresh_follows_settings():
    """Other attributes are in the code as they were, as refresh's documentation says."""
    model = Function(lambda m, x: m.conv(x) * m.scale, conv=conv(), scale=2.0).eval()
    x = torch.randn(IMAGE)
    with torch.no_grad():
        fast = torchext.accelerate(model, x)
        assert_same(fast(x), model(x))
        fast.scale = model.scale = 3.0
        torchext.refresh(fast)
        assert_same(fast(x), model(x))


def test_random_numbers_are_drawn_each_time():
    model = Function(lambda m, x: m.conv(x) + 1e-5 * torch.randn(8, 12, 12), conv=conv()).eval()
    x = torch.randn(IMAGE)
    with torch.no_grad():
        fast = torchext.accelerate(model, x, strict=True)
        assert not torch.equal(fast(x), fast(x))


def test_weights_made_in_inference_mode():
    x = torch.randn(IMAGE)
    with torch.inference_mode():
        model = settled(Residual())
        fast = torchext.accelerate(model, x)
        assert_same(fast(x), model(x))


def test_follows_modules():
    model, x = nn.Sequential(conv(), nn.ReLU()).eval(), torch.randn(IMAGE)
    with torch.no_grad():
        fast = torchext.accelerate(model, x)
        fast(x)
        fast[0] = model[0] = nn.Conv2d(8, 5, 1)
        assert_same(fast(x), model(x))


def test_new_shapes_and_dtypes():
    model = settled(Residual())
    fast = torchext.accelerate(model)
    with torch.no_grad():
        for shape in [IMAGE, (1, 8, 5, 7), (0, 8, 5, 7), (8, 9, 9)]:
            x = torch.randn(shape)
            if x.dim() == 3:
                with pytest.raises(ValueError, match="expected 4D input"):
                    fast(x)
                continue
            assert_same(fast(x), model(x))
            x = x.to(memory_format=torch.channels_last)
            assert_same(fast(x), model(x))
            assert fast(x).stride() == model(x).stride()
        x = torch.randn(IMAGE, dtype=torch.float64)
        assert_same(copy.deepcopy(fast).double()(x), copy.deepcopy(model).double()(x))


def test_hooks_are_respected():
    model, x = settled(Residual()), torch.randn(IMAGE)
    seen = []
    model.bn1.register_forward_hook(lambda *_: seen.append("before"))
    fast = torchext.accelerate(model, x)
    fast.conv2.register_forward_hook(lambda *_: seen.append("after"))
    seen.clear()
    with torch.no_grad():
        assert_same(fast(x), model(x))
    assert seen == ["before", "after", "before"]
    for module in fast.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            hooks.clear()
    with torch.no_grad():
        assert_same(fast(x), torchext.restore(fast)(x))
    assert seen[3:] == ["before"]  # the original's
    assert fast.torchext_report.rows
    assert "hooks on bn1" in str(fast.torchext_report)
    root = torchext.accelerate(settled(Residual()), x)
    root.register_forward_hook(lambda m, args, y: y + 1)
    with torch.no_grad():
        assert_same(root(x), torchext.restore(root)(x) + 1)
        assert root.torchext_report.rows


def test_keyword_arguments_and_structured_outputs():
    Outputs = collections.namedtuple("Outputs", "image score")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv()

        def forward(self, image, scale=1.0, more=None):
            y = self.conv(image) * scale
            if more is not None:
                y = y + more["bias"]
            return Outputs(image=y, score=[y.mean(), {"none": None, "n": 3}])

    model, x = Model().eval(), torch.randn(IMAGE)
    fast = torchext.accelerate(model, {"image": x})
    fast(image=x).image.sum().backward()
    assert model.conv.weight.grad is not None
    with torch.no_grad():
        for kwargs in ({}, {"scale": 2.0}, {"more": {"bias": torch.randn(8, 1, 1)}}):
            ours, theirs = fast(image=x, **kwargs), model(image=x, **kwargs)
            assert type(ours) is Outputs
            assert_same(ours.image, theirs.image)
            assert_same(ours.score[0], theirs.score[0])
            assert ours.score[1] == theirs.score[1]
    assert not fast.torchext_report.notes


def test_copies_and_pickles():
    model, x = settled(Residual()), torch.randn(IMAGE)
    fast = torchext.accelerate(model, x)
    with torch.no_grad():
        expected = model(x)
        other = copy.deepcopy(fast)
        other.conv1.weight.zero_()
        assert not torch.allclose(other(x), expected)
        assert_same(fast(x), expected)
        assert_same(pickle.loads(pickle.dumps(fast))(x), expected)


def test_is_explained_as_it_runs():
    model = nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(2)).eval()
    fast = torchext.accelerate(model)
    for _ in range(2):  # the first call builds it
        with torch.no_grad():
            steps = torchext.explain(fast, torch.randn(IMAGE))
        assert [step.op for step in steps] == ["conv2d_packed_inference", "max_pool2d_inference"]


def test_what_cannot_be_captured_runs_by_itself():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv()

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else x

    model, x = Branches().eval(), torch.ones(IMAGE)
    fast = torchext.accelerate(model, x)
    assert "the model's own forward: torch.export" in str(fast.torchext_report)
    assert type(fast.conv) is torchext.nn.Conv2d  # layer by layer
    assert type(model.conv) is nn.Conv2d
    assert fast.torchext_report.rows[0]["runs"] == "torchext"
    with torch.no_grad():
        assert_same(fast(x), model(x))
        assert_same(fast(-x), model(-x))
    with pytest.raises(RuntimeError, match="accelerate: Branches: torch"):
        torchext.accelerate(model, x, strict=True)


def test_wrong_results_are_refused(monkeypatch):
    model, x = settled(Residual()), torch.randn(IMAGE)
    monkeypatch.setattr("torchext.acceleration._lower.fold", lambda w, *rest: (w, w[:, 0, 0, 0]))
    fast = torchext.accelerate(model, x)
    assert "results differ by" in str(fast.torchext_report)
    with torch.no_grad():
        assert_same(fast(x), model(x))
    with pytest.raises(RuntimeError, match="results differ by"):
        torchext.accelerate(model, x, strict=True)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_few_digits_need_only_be_as_exact_as_pytorchs(monkeypatch, dtype):
    """Between two right results of a deep model in bf16 lies more than any fixed limit."""
    monkeypatch.setattr(_forward.Accelerated, "_limit", lambda *_: 0.0)
    model, x = settled(Residual()), torch.randn(IMAGE)
    if dtype is None:
        model, x = model.bfloat16(), x.bfloat16()
    fast = torchext.accelerate(model, x, dtype=dtype)
    assert "results differ by" not in str(fast.torchext_report)
    monkeypatch.setattr("torchext.acceleration._lower.fold", lambda w, *rest: (w, w[:, 0, 0, 0]))
    fast = torchext.accelerate(model, x, dtype=dtype)
    assert "results differ by" in str(fast.torchext_report)


def test_slower_code_is_not_used(monkeypatch):
    monkeypatch.setattr(_forward, "least_times", lambda functions, wait: [1.0, 2.0])
    model, x = settled(Residual()), torch.randn(IMAGE)
    fast = torchext.accelerate(model, x)
    assert "the model's own forward: it is faster" in str(fast.torchext_report)
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype(dtype):
    model, x = settled(Residual()), torch.randn(IMAGE)
    fast = torchext.accelerate(model, x, dtype=dtype)
    with torch.no_grad():
        y = fast(x)
        assert y.dtype == torch.float32
        assert not torch.equal(y, model(x))
        torch.testing.assert_close(y, model(x), rtol=5e-2, atol=1e-1)
    assert model.conv1.weight.dtype == torch.float32


def test_other_modes_of_torch():
    model, x = settled(Residual()), torch.randn(IMAGE)
    fast = torchext.accelerate(model, x)
    with torch.inference_mode():
        assert_same(fast(x), model(x))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(fast(x), model(x))
    tangent = torch.randn(IMAGE)
    ours, theirs = (torch.func.jvp(m, (x,), (tangent,)) for m in (fast, model))
    assert_same(ours, theirs)
    assert_same(torch.func.vmap(fast)(x[None]), torch.func.vmap(model)(x[None]))
    with torch.no_grad():
        assert_same(torch.compile(fast, backend="eager", fullgraph=True)(x), model(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: torchext.accelerate(F.relu), "accelerate: model: got function"),
        (lambda: torchext.accelerate(nn.ReLU(), mode="fast"), "accelerate: mode: got 'fast'"),
        (lambda: torchext.accelerate(nn.ReLU(), precision=32), "accelerate: precision: got 32"),
        (lambda: torchext.restore(nn.ReLU()), "restore: model: got ReLU"),
        (lambda: torchext.refresh(None), "refresh: model: got NoneType"),
    ],
)
def test_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_depthwise_filters_are_prepared_as_kernels_read_them():
    weight = torch.randn(24, 1, 5, 3)
    filters = taps_first(weight)
    assert torch.equal(filters, weight) and filters.stride()[0] == 1
    assert filters.stride()[2:] == (3 * 24, 24)
