"""ConvBNAct and DepthwiseSeparable against torch.nn's modules, one after the other."""

import copy
import pickle

import pytest
import torch
from torch import nn

import torchext

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    None: nn.Identity,
}


class Reference(nn.Module):
    """ConvBNAct's meaning, with its state dict."""

    def __init__(self, ours):
        super().__init__()
        self.conv, self.bn = copy.deepcopy(ours.conv), copy.deepcopy(ours.bn)
        self.act = ACTIVATIONS[ours.activation]()

    def forward(self, input, residual=None):
        u = self.bn(self.conv(input))
        return self.act(u if residual is None else u + residual)


class SeparableReference(nn.Module):
    def __init__(self, ours):
        super().__init__()
        self.depthwise, self.pointwise = Reference(ours.depthwise), Reference(ours.pointwise)

    def forward(self, input, residual=None):
        return self.pointwise(self.depthwise(input), residual)


BLOCKS = [
    ("ConvBNAct", (6, 8, 3), {}),
    ("ConvBNAct", (6, 8, 3, 2), {"activation": None, "momentum": None}),
    ("ConvBNAct", (6, 6, 5), {"groups": 6, "activation": "silu", "eps": 1e-3}),
    ("ConvBNAct", (6, 8, 1), {"activation": "hardswish", "bias": True}),
    ("ConvBNAct", (6, 8, (3, 1)), {"padding": (2, 0), "dilation": (2, 1)}),
    ("ConvBNAct", (6, 8, 1), {"track_running_stats": False}),
    *(
        ("ConvBNAct", (6, 8, 1), {"activation": name})
        for name in ("leaky_relu", "elu", "gelu", "gelu_tanh", "sigmoid", "tanh", "hardsigmoid")
    ),
    ("DepthwiseSeparable", (6, 8), {}),
    ("DepthwiseSeparable", (6, 10), {"stride": 2, "momentum": None}),
    ("DepthwiseSeparable", (6, 6, 5), {"activation": ("relu6", None)}),
    ("DepthwiseSeparable", (6, 8), {"track_running_stats": False}),
]
each_block = pytest.mark.parametrize(
    ("name", "arguments", "options"), BLOCKS, ids=[f"{n}-{k}" for k, (n, *_) in enumerate(BLOCKS)]
)


def twins(name, arguments, options, dtype=torch.float32):
    """(ours, torch's), no weight of them 0 or 1, with some statistics."""
    torch.manual_seed(0)
    ours = getattr(torchext.nn, name)(*arguments, **options)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    for key, buffer in ours.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape) + ("var" in key))
    ours = ours.to(dtype)
    reference = Reference if name == "ConvBNAct" else SeparableReference
    return ours, reference(ours)


def gradients(module, x, residual, grad):
    leaves = [t.detach().clone().requires_grad_() for t in (x, residual) if t is not None]
    y = module(*leaves)
    return y, torch.autograd.grad(y, [*leaves, *module.parameters()], grad)


@each_block
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_like_torch(name, arguments, options, residual, channels_last):
    ours, theirs = twins(name, arguments, options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    if channels_last:
        ours, theirs = (m.to(memory_format=torch.channels_last) for m in (ours, theirs))
    close = {"rtol": 1e-4, "atol": 1e-4}
    for training in (True, True, False):
        x = torch.randn(3, 6, 9, 8)
        if channels_last:
            x = x.to(memory_format=torch.channels_last)
        ours.train(training), theirs.train(training)
        shape = copy.deepcopy(theirs)(x).shape
        added, grad = torch.randn(shape) if residual else None, torch.randn(shape)
        expected = gradients(theirs, x, added, grad)
        torch.testing.assert_close(gradients(ours, x, added, grad), expected, **close)
        with torch.no_grad():
            torch.testing.assert_close(ours(x, added), theirs(x, added), **close)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), **close)


@each_block
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(name, arguments, options, dtype):
    """As far from exact results as torch's, twice at most."""
    ours, theirs = twins(name, arguments, options, dtype)
    exact = copy.deepcopy(theirs).double()
    for training in (True, False):
        x = torch.randn(3, 6, 9, 8).to(dtype)
        with torch.no_grad():
            y, expected, reference = (
                m.train(training)(x.to(next(m.parameters()).dtype)) for m in (ours, theirs, exact)
            )
        errors = [(t.double() - reference).abs().max() for t in (y, expected)]
        assert errors[0] <= 2 * errors[1] + 1e-14 * reference.abs().max()


@each_block
def test_copies(name, arguments, options):
    ours, _ = twins(name, arguments, options)
    x = torch.randn(2, 6, 9, 8)
    y = ours.eval()(x)
    for module in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(module(x), y)


def test_plain_state_dicts():
    ours, _ = twins("ConvBNAct", (6, 8, 3), {})
    plain = nn.ModuleDict({"conv": nn.Conv2d(6, 8, 3, bias=False), "bn": nn.BatchNorm2d(8)})
    plain.load_state_dict(ours.state_dict())
    ours.load_state_dict(plain.state_dict())


def test_autocast():
    ours, theirs = twins("ConvBNAct", (6, 8, 3), {})
    x = torch.randn(3, 6, 9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = ours(x), theirs(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=4e-2, check_dtype=False)
    assert ours.bn.running_mean.dtype == torch.float32
    torch.testing.assert_close(ours.bn.running_mean, theirs.bn.running_mean, rtol=1e-2, atol=1e-2)


def test_empty_batch_leaves_running_statistics():
    module = torchext.nn.ConvBNAct(3, 4, 3)
    assert module(torch.randn(0, 3, 5, 5)).shape == (0, 4, 5, 5)
    assert torch.equal(module.bn.running_mean, torch.zeros(4))
    separable = torchext.nn.DepthwiseSeparable(3, 4).eval()
    with torch.no_grad():
        assert separable(torch.randn(0, 3, 5, 5)).shape == (0, 4, 5, 5)


def test_refused():
    block = torchext.nn.ConvBNAct(3, 4, 3)
    with pytest.raises(ValueError, match="expected 4D input"):
        block(torch.randn(3, 5, 5))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        block(torch.randn(1, 3, 1, 1))
    with pytest.raises(ValueError, match="activation: got 'swish', expected None or one of"):
        torchext.nn.ConvBNAct(3, 4, 3, activation="swish")


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = torchext.nn.ConvBNAct(3, 8, 3, 2, activation="relu6")
        self.block = torchext.nn.DepthwiseSeparable(8, 8, activation=("relu6", None))

    def forward(self, x):
        x = self.stem(x)
        return self.block(x, x)


def test_compile_export_and_fx():
    network, x = Network(), torch.randn(3, 3, 12, 14)
    traced = torch.fx.symbolic_trace(copy.deepcopy(network))
    compiled = copy.deepcopy(network)
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    grad = torch.randn(3, 8, 6, 7)
    expected = gradients(network, x, None, grad)
    torch.testing.assert_close(gradients(traced, x, None, grad), expected)
    leaf = x.clone().requires_grad_()
    y = run(leaf)
    got = torch.autograd.grad(y, [leaf, *compiled.parameters()], grad)
    torch.testing.assert_close((y, got), expected)
    for other in (traced, compiled):
        torch.testing.assert_close(other.state_dict(), network.state_dict())

    network.eval()
    with torch.no_grad():
        batch = torch.export.Dim("batch")
        program = torch.export.export(network, (x,), dynamic_shapes=({0: batch},))
        called = {str(node.target) for node in program.graph.nodes}
        assert "torchext.depthwise_separable_inference.default" in called
        x = torch.randn(5, 3, 12, 14)
        torch.testing.assert_close(program.module()(x), network(x))
