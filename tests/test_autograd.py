"""Gradients, forward-mode AD and torch.func: like torch's own, or refused; never silently zero."""

import itertools

import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
from cases import LAYOUTS, SPECS, make_arguments, named
from harness import best_isa, call_of, check_accurate, outputs
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import torchext
from torchext.nn import functional
from torchext.ops import OPS

CHECKED = {
    "primes",
    "ceil-cut-padded-channels_last",
    "over-256-taps",
    "unbatched",
    "empty-batch",
    "window-in-padding",
    "dilated-down",
    "upsampled",
    "counted-False-7-contiguous",
    "padded-over-stride",
}
DIFFERENTIABLE = [name for name, op in OPS.items() if op.backward or "_backward" in name]


def each_op(ops, names):
    found = [
        pytest.param(op, case, id=f"{op}-{case.name}") for op in ops for case in named(op, names)
    ]
    return pytest.mark.parametrize(("op", "case"), found)


def kernel(op):
    return getattr(torch.ops.torchext, op).default


def leaves(op, args):
    """The arguments, floating tensors that have a gradient made leaves that want it."""
    names = [argument.name for argument in kernel(op)._schema.arguments]

    def leaf(name, x):
        wants = isinstance(x, torch.Tensor) and x.is_floating_point()
        return x.detach().requires_grad_() if wants and name not in OPS[op].constants else x

    return [leaf(name, x) for name, x in zip(names, args, strict=False)]


def spread(shape, dtype, generator):
    """Distinct numbers a good way apart, so that no small step changes which one is the largest."""
    count = torch.Size(shape).numel()
    return (torch.randperm(count, generator=generator) / 8 - 3).view(shape).to(dtype)


@each_op(OPS, CHECKED)
def test_opcheck(op, case):
    args = make_arguments(op, case, torch.float32, spread)
    args = leaves(op, args) if op in DIFFERENTIABLE else args
    torch.library.opcheck(kernel(op), tuple(args))


@each_op(DIFFERENTIABLE, CHECKED)
def test_every_input_gets_a_gradient(op, case):
    args = leaves(op, make_arguments(op, case, torch.float32))
    wanted = [x for x in args if isinstance(x, torch.Tensor) and x.requires_grad]
    assert wanted
    ys = [y for y in outputs(kernel(op)(*args)) if y.requires_grad]
    assert ys
    for x, gradient in zip(
        wanted, torch.autograd.grad(sum(map(torch.sum, ys)), wanted), strict=True
    ):
        assert gradient.shape == x.shape
        assert gradient.dtype == x.dtype


def floating_outputs(op):
    """The op as a function of its floating inputs, for gradcheck."""

    def function(*args):
        return tuple(y for y in outputs(kernel(op)(*args)) if y.requires_grad)

    return function


NUMERIC = CHECKED - {"over-256-taps", "window-in-padding"}  # slow; -inf has no difference quotient


# What a backward op is given of the forward op's doing doesn't follow its difference quotients.
STATISTICS = {"mean", "lse", "scale", "saved"}
GIVEN = {name for name in DIFFERENTIABLE if STATISTICS & {*OPS[name].constants}}


@each_op([name for name in DIFFERENTIABLE if name not in GIVEN], NUMERIC)
def test_gradcheck(op, case):
    args = leaves(op, make_arguments(op, case, torch.float64, spread))
    assert torch.autograd.gradcheck(floating_outputs(op), args, fast_mode=True)


@each_op([name for name, op in OPS.items() if op.backward], NUMERIC)
def test_gradgradcheck(op, case):
    args = leaves(op, make_arguments(op, case, torch.float64, spread))
    assert torch.autograd.gradgradcheck(floating_outputs(op), args, fast_mode=True)


@pytest.mark.parametrize("op", [name for name in OPS if name.endswith("_inference")])
def test_inference_ops_say_that_they_have_no_gradient(op):
    (case,) = (case for case in SPECS[op].cases if case.name == "primes")
    x, *rest = leaves(op, make_arguments(op, case, torch.float32))
    y = outputs(kernel(op)(x, *rest))[0]
    with pytest.warns(UserWarning, match="autograd kernel was not registered"):
        y.sum().backward()
    assert x.grad is None


# torch.func and forward AD: (name in F and in torchext.nn.functional, arguments).
FUNCTIONS = [
    ("max_pool2d", (3, 2, 1)),
    ("max_pool2d", (2, 1, 0, (1, 2), True)),
    ("avg_pool2d", (3, 2, 1, True, False)),
    ("adaptive_avg_pool2d", ((2, 3),)),
]
each_function = pytest.mark.parametrize(("name", "arguments"), FUNCTIONS)
each_layout = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


def through_nn(name, arguments):
    return lambda x: getattr(functional, name)(x, *arguments)


def through_op(name, arguments):
    """The same through torch.ops, called as anyone might."""
    pair = [[n, n] if isinstance(n, int) and not isinstance(n, bool) else n for n in arguments]
    defaults = {
        "max_pool2d": [None, None, [0, 0], [1, 1], False],
        "avg_pool2d": [None, None, [0, 0], False, True, None],
        "adaptive_avg_pool2d": [None],
    }[name]
    args = [*pair, *defaults[len(pair) :]]
    return lambda x: outputs(kernel(name)(x, *args))[0]


def through_torch(name, arguments):
    return lambda x: getattr(F, name)(x, *arguments)


# What these transform is the decomposition, and a notice says so.
decomposed = pytest.mark.filterwarnings("ignore::torchext.FallbackWarning")
each_way = pytest.mark.parametrize("way", [through_nn, through_op])


def sample(layout="contiguous", *batch):
    x = spread((*batch, 2, 3, 7, 8), torch.float64, torch.Generator().manual_seed(1))
    return LAYOUTS[layout](x)


@decomposed
@each_way
@each_function
@each_layout
def test_func_gradients(way, name, arguments, layout):
    x = sample(layout)
    ours, theirs = way(name, arguments), through_torch(name, arguments)

    def loss(function):
        return lambda x: function(x).square().sum()

    torch.testing.assert_close(grad(loss(ours))(x), grad(loss(theirs))(x))
    (y, pull), (expected, pull_torch) = vjp(ours, x), vjp(theirs, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(pull(y), pull_torch(y))
    one = x[:1, :1, :4, :4]
    torch.testing.assert_close(jacrev(ours)(one), jacrev(theirs)(one))
    torch.testing.assert_close(jacfwd(ours)(one), jacfwd(theirs)(one))
    torch.testing.assert_close(hessian(loss(ours))(one), hessian(loss(theirs))(one))
    per_sample = vmap(grad(loss(ours)))(x[:, None])
    torch.testing.assert_close(per_sample, vmap(grad(loss(theirs)))(x[:, None]))
    torch.testing.assert_close(grad(lambda x: vmap(loss(ours))(x).sum())(x), 2 * pull(y)[0])


@each_way
@each_function
@each_layout
@pytest.mark.parametrize("dim", [0, 1, 3, -1])
@pytest.mark.parametrize("inner", [(2, 3, 7, 8), (3, 7, 8)])
def test_vmap(way, name, arguments, layout, dim, inner):
    """Over any dimension, of batches and of single images; without a notice: the kernel runs."""
    x = LAYOUTS[layout](spread((5, *inner), torch.float64, torch.Generator()))
    x = x.movedim(0, dim)
    ours, theirs = way(name, arguments), through_torch(name, arguments)
    torch.testing.assert_close(vmap(ours, dim)(x), vmap(theirs, dim)(x))
    torch.testing.assert_close(vmap(ours, dim, out_dims=1)(x), vmap(theirs, dim, out_dims=1)(x))
    nested = vmap(vmap(ours, dim), 0)(torch.stack([x, -x]))
    torch.testing.assert_close(nested, vmap(vmap(theirs, dim), 0)(torch.stack([x, -x])))


@each_way
@each_function
def test_vmap_over_nothing_but_the_window(way, name, arguments):
    """in_dims None: the same input for all, so no dimension to fold."""
    x = sample()
    ours = way(name, arguments)
    got = vmap(lambda x, scale: ours(x) * scale, (None, 0))(x, torch.arange(3.0))
    torch.testing.assert_close(got, torch.stack([ours(x) * n for n in range(3)]))


@each_op([name for name in OPS if "_backward" in name], {"primes", "unbatched"})
def test_vmap_of_backward_ops(op, case):
    """Every combination of mapped and shared tensors; of many, all that map one or two, or all."""
    args = make_arguments(op, case, torch.float64)
    tensors = [i for i, x in enumerate(args) if isinstance(x, torch.Tensor) and x.dim()]
    for dims in itertools.product([None, 1], repeat=len(tensors)):
        mapped = dims.count(1)
        if mapped == 0 or (len(dims) > 6 and 2 < mapped < len(dims)):
            continue
        stacked, in_dims = list(args), [None] * len(args)
        for i, dim in zip(tensors, dims, strict=True):
            in_dims[i] = dim
            stacked[i] = torch.stack([args[i], args[i].flip(0)], dim) if dim else args[i]
        each = [
            outputs(
                kernel(op)(*(x.select(1, n) if in_dims[i] else x for i, x in enumerate(stacked)))
            )
            for n in range(2)
        ]
        got = outputs(vmap(kernel(op), tuple(in_dims))(*stacked))
        torch.testing.assert_close(got, tuple(map(torch.stack, zip(*each, strict=True))))


@decomposed
@each_way
@each_function
@each_layout
def test_forward_ad(way, name, arguments, layout):
    x, tangent = sample(layout), sample(layout).flip(0).sin()
    ours, theirs = way(name, arguments), through_torch(name, arguments)
    expected = jvp(theirs, (x,), (tangent,))
    torch.testing.assert_close(jvp(ours, (x,), (tangent,)), expected)
    with fwd.dual_level():
        y = fwd.unpack_dual(ours(fwd.make_dual(x, tangent)))
        torch.testing.assert_close((y.primal, y.tangent), expected)
    assert expected[1].any()


@decomposed
@each_way
@each_function
def test_forward_over_reverse(way, name, arguments):
    x, tangent = sample(), sample().flip(0).sin()

    def gradient(function):
        return grad(lambda x: function(x).pow(3).sum())

    ours, theirs = (gradient(way(name, arguments)) for way in (way, through_torch))
    torch.testing.assert_close(jvp(ours, (x,), (tangent,)), jvp(theirs, (x,), (tangent,)))


@decomposed
@each_op([name for name in OPS if "_backward" in name], {"primes"})
def test_forward_ad_of_backward_ops(op, case):
    grad_y, *rest = make_arguments(op, case, torch.float64)
    _, tangent = jvp(lambda g: kernel(op)(g, *rest), (grad_y,), (grad_y,))
    none = outputs(kernel(op)(torch.zeros_like(grad_y), *rest))
    expected = [y - z for y, z in zip(outputs(kernel(op)(grad_y, *rest)), none, strict=True)]
    torch.testing.assert_close(outputs(tangent), tuple(expected))  # affine in grad_y


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"])
def test_transforms_say_that_no_kernel_runs(name):
    arguments = dict(FUNCTIONS)[name]
    for way in (through_nn, through_op):
        with pytest.warns(torchext.FallbackWarning, match=rf"{name}\w* runs as plain"):
            grad(lambda x: way(name, arguments)(x).sum())(sample())  # noqa: B023
        with pytest.warns(torchext.FallbackWarning, match=rf"{name}\w* runs as plain"):
            jvp(way(name, arguments), (sample(),), (sample(),))


def test_kernels_serve_vmap(monkeypatch):
    """vmap folds its dimension into the batch: it needs no decomposition."""
    for op in OPS.values():
        monkeypatch.setattr(op, "decomposition", None)
    for name, arguments in FUNCTIONS:
        vmap(through_nn(name, arguments))(sample("contiguous", 2))


def test_gradient_of_the_kernel_is_accurate():
    """Through autograd, as accurate as the op itself: nothing is rounded on the way."""
    (case,) = (case for case in SPECS["avg_pool2d_backward"].cases if case.name == "resnet-stem")
    for dtype in (torch.float32, torch.bfloat16):
        call = call_of("avg_pool2d_backward", case, dtype)
        x = torch.zeros(case.shape, dtype=dtype, requires_grad=True)
        best_isa().use()
        y = kernel("avg_pool2d")(x, *case.arguments)
        check_accurate(torch.autograd.grad(y, x, call.args[0]), call)


class _Undefined(torch.autograd.Function):
    """Passes its input, but no gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad_y):
        return None


@pytest.mark.parametrize("name", ["layer_norm", "softmax", "lstm"])
def test_undefined_gradient(name):
    x = torch.randn(3, 4, requires_grad=True)
    y = {
        "layer_norm": lambda: functional.layer_norm(x, [4], torch.ones(4), torch.zeros(4)),
        "softmax": lambda: functional.softmax(x, 1),
        "lstm": lambda: torchext.nn.LSTM(4, 4)(x)[0],
    }[name]()
    (_Undefined.apply(y) + x).sum().backward()
    assert torch.equal(x.grad, torch.ones(3, 4))
