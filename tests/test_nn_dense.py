"""Activations, normalisation, softmax and losses of torchext.nn against torch.nn's."""

import copy
import inspect
import pickle

import pytest
import torch

import torchext

IMAGE, ROWS = (3, 6, 5, 4), (3, 7, 12)
MODULES = [
    *((name, {}, IMAGE) for name in ("ReLU", "ReLU6", "LeakyReLU", "ELU", "SiLU", "GELU")),
    *((name, {}, IMAGE) for name in ("Sigmoid", "Tanh", "Hardswish", "Hardsigmoid")),
    ("ReLU", {"inplace": True}, IMAGE),
    ("GELU", {"approximate": "tanh"}, ROWS),
    ("Softmax", {"dim": -1}, ROWS),
    ("Softmax", {"dim": 1}, IMAGE),
    ("LogSoftmax", {"dim": 0}, ROWS),
    ("LayerNorm", {"normalized_shape": 12}, ROWS),
    ("LayerNorm", {"normalized_shape": (7, 12), "bias": False}, ROWS),
    ("LayerNorm", {"normalized_shape": (12,), "elementwise_affine": False}, ROWS),
    ("GroupNorm", {"num_groups": 3, "num_channels": 6}, IMAGE),
    ("GroupNorm", {"num_groups": 1, "num_channels": 6, "affine": False}, IMAGE),
    ("BatchNorm2d", {"num_features": 6}, IMAGE),
    ("BatchNorm2d", {"num_features": 6, "momentum": None}, IMAGE),
    ("BatchNorm2d", {"num_features": 6, "affine": False}, IMAGE),
    ("BatchNorm2d", {"num_features": 6, "track_running_stats": False}, IMAGE),
    ("LocalResponseNorm", {"size": 5}, IMAGE),
    ("LocalResponseNorm", {"size": 4, "alpha": 0.5, "beta": 0.6, "k": 2.0}, IMAGE),
    ("LocalResponseNorm", {"size": 20, "alpha": 0.5}, ROWS),
    ("BatchNorm1d", {"num_features": 7}, ROWS),
    ("BatchNorm1d", {"num_features": 7}, (5, 7)),
]
each_module = pytest.mark.parametrize(
    ("name", "arguments", "shape"), MODULES, ids=[f"{n}-{k}" for k, (n, *_) in enumerate(MODULES)]
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def twins(name, arguments, dtype=torch.float32):
    """(ours, torch's), with the same weights, none of them 0 or 1."""
    ours, theirs = (getattr(nn, name)(**arguments) for nn in (torchext.nn, torch.nn))
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    return ours.to(dtype), theirs.to(dtype)


def gradients(module, x, grad):
    x = x.detach().requires_grad_()
    y = module(x * 1)
    return y, torch.autograd.grad(y, [x, *module.parameters()], grad)


@each_module
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_like_torch(name, arguments, shape, dtype, channels_last):
    if channels_last and len(shape) != 4:
        return
    if name == "LocalResponseNorm" and dtype == torch.bfloat16:
        return  # torch has none on a CPU
    ours, theirs = twins(name, arguments, dtype)
    assert repr(ours) == repr(theirs)
    assert inspect.signature(type(ours)) == inspect.signature(type(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    tolerance = {"rtol": 2e-2, "atol": 4e-2} if dtype == torch.bfloat16 else {}
    for training in (True, True, False):
        x, grad = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
        if channels_last:
            x = x.to(memory_format=torch.channels_last)
        for module in (ours, theirs):
            module.train(training)
        got, expected = gradients(ours, x, grad), gradients(theirs, x, grad)
        torch.testing.assert_close(got, expected, **tolerance)
        with torch.no_grad():
            y, expected = ours(x.clone()), theirs(x.clone())
        torch.testing.assert_close(y, expected, **tolerance)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), **tolerance)


@each_module
def test_copies(name, arguments, shape):
    ours, _ = twins(name, arguments)
    ours.eval()
    x = torch.randn(shape)
    y = ours(x.clone())
    for module in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(module(x.clone()), y)


@pytest.mark.filterwarnings("ignore::torchext.FallbackWarning")
@pytest.mark.parametrize("name,arguments", [("leaky_relu", (0.2,)), ("elu", (2.0,))])
def test_other_slopes(name, arguments):
    x = torch.randn(3, 5)
    ours, theirs = (getattr(f, name) for f in (torchext.nn.functional, torch.nn.functional))
    assert torch.equal(ours(x, *arguments), theirs(x, *arguments))


def test_inplace():
    x = torch.randn(3, 5)
    assert torchext.nn.functional.relu(x, inplace=True) is x


def test_batch_of_one_value_is_refused():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        torchext.nn.BatchNorm1d(3)(torch.randn(1, 3))


def test_empty_batch_leaves_running_statistics():
    module = torchext.nn.BatchNorm2d(3)
    assert module(torch.randn(0, 3, 2, 2)).shape == (0, 3, 2, 2)
    assert torch.equal(module.running_mean, torch.zeros(3))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(5, 7), (2, 7, 3, 4), (7,)])
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
def test_cross_entropy(weighted, reduction, smoothing, shape, kind):
    axis = 1 if len(shape) > 1 else 0
    x = torch.randn(shape, requires_grad=True)
    items = [n for d, n in enumerate(shape) if d != axis]
    target = torch.randint(7, items) if kind == "classes" else torch.randn(shape).softmax(axis)
    weight = torch.rand(7) + 0.5 if weighted else None
    arguments = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
    if kind == "classes" and items:
        arguments["ignore_index"] = target.view(-1)[0].item()
    ours, theirs = (nn.CrossEntropyLoss(**arguments) for nn in (torchext.nn, torch.nn))
    y, expected = ours(x, target), theirs(x, target)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    got, wanted = (torch.autograd.grad(loss, x, grad) for loss in (y, expected))
    torch.testing.assert_close(got, wanted)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, target), expected)


def test_classes_out_of_range():
    with pytest.raises(RuntimeError, match="target: got class 7, expected 0 to 6"):
        torchext.nn.functional.cross_entropy(torch.randn(2, 7), torch.tensor([0, 7]))


def make_network(nn):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        nn.BatchNorm2d(6), nn.SiLU(), nn.GroupNorm(3, 6), nn.GELU(), nn.LayerNorm(4), nn.Softmax(-1)
    )


def test_compile_and_export():
    ours, theirs = make_network(torchext.nn), make_network(torch.nn)
    x = torch.randn(IMAGE)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    grad = torch.randn(IMAGE)
    expected = gradients(theirs, x, grad)
    torch.testing.assert_close(gradients(compiled, x, grad), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    ours.eval(), theirs.eval()
    program = torch.export.export(ours, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = torch.randn(5, *IMAGE[1:])
    torch.testing.assert_close(program.module()(x), theirs(x))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["BCELoss", "BCEWithLogitsLoss"])
def test_binary_cross_entropy(name, weighted, reduction):
    x = torch.rand(5, 7, requires_grad=True)
    target, arguments = torch.rand(5, 7), {"reduction": reduction}
    if weighted:
        arguments["weight"] = torch.rand(7)
    if weighted and name != "BCELoss":
        arguments["pos_weight"] = torch.rand(7) + 1
    ours, theirs = (getattr(nn, name)(**arguments) for nn in (torchext.nn, torch.nn))
    y, expected = ours(x, target), theirs(x, target)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    got, wanted = (torch.autograd.grad(loss, x, grad) for loss in (y, expected))
    torch.testing.assert_close(got, wanted)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, target), expected)


def test_dropout():
    module, x = torchext.nn.Dropout(0.3), torch.rand(100, 1000, requires_grad=True)
    torch.manual_seed(1)
    y = module(x)
    (grad_x,) = torch.autograd.grad(y.sum(), x)
    assert ((y == 0).float().mean() - 0.3).abs() < 0.01
    torch.testing.assert_close(y, x * grad_x)
    torch.testing.assert_close(grad_x.unique(), torch.tensor([0, 1 / 0.7]))
    assert not torch.equal(module(x), y)
    torch.manual_seed(1)
    assert torch.equal(module(x), y)
    assert module.eval()(x) is x
