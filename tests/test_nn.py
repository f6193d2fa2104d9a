"""torchext.nn against torch.nn: values, gradients, strides, dtypes, and all kinds of arguments."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from cases import SPECS, make_arguments
from harness import FLOATS, Call, check_accurate, error_of, same_bits, torchs_own_kernels

import torchext
from torchext.nn import functional

DEVICES = ["cpu"]
if torch.cuda.is_available():
    DEVICES.append(pytest.param("cuda", marks=pytest.mark.gpu))
each_device = pytest.mark.parametrize("device", DEVICES)

FUNCTIONS = [
    pytest.param(name, case, id=f"{name}-{case.name}")
    for name in ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
    for case in SPECS[name].cases
    if "in-padding" not in case.name  # there torch's kernel corrupts the heap
]
each_function = pytest.mark.parametrize(("name", "case"), FUNCTIONS)


def both(name, x, *arguments, **kwargs):
    """(ours, torch's)"""
    return (
        getattr(functional, name)(x, *arguments, **kwargs),
        getattr(F, name)(x, *arguments, **kwargs),
    )


def same_kind(y, expected):
    same = y.shape == expected.shape and y.dtype == expected.dtype and y.device == expected.device
    return same and (y.stride() == expected.stride() or y.numel() == 0)


def check_like_torch(op, case, y, by_torch, reference):
    terms = SPECS[op].terms(case.shape, *case.arguments)
    check_accurate([y], Call(op, [], (reference.cpu(),), (by_torch.cpu(),), terms))


@each_device
@each_function
def test_forward(name, case, device):
    for dtype in FLOATS:
        x, *arguments = make_arguments(name, case, dtype)
        x = x.to(device)
        y, by_torch = both(name, x, *arguments)
        assert same_kind(y, by_torch)
        if name == "max_pool2d":
            assert same_bits([y], [by_torch])
        else:
            reference = getattr(F, name)(x.double(), *arguments)
            check_like_torch(name, case, y, by_torch, reference)


@each_device
@each_function
def test_gradient(name, case, device):
    if case.name.startswith("no-outputs"):  # torch refuses; here a gradient of zeros
        x, *arguments = make_arguments(name, case, torch.float32)
        y = getattr(functional, name)(x.requires_grad_(), *arguments)
        assert not torch.autograd.grad(y.sum(), x)[0].any()
        return
    for dtype in FLOATS:
        x, *arguments = make_arguments(name, case, dtype)
        x = x.to(device).requires_grad_()
        wide = x.detach().double().requires_grad_()
        y, by_torch = both(name, x, *arguments)
        reference = getattr(F, name)(wide, *arguments)
        assert y.requires_grad
        grad_y = torch.randn_like(by_torch)
        (got,) = torch.autograd.grad(y, x, grad_y)
        with torchs_own_kernels():
            (expected,) = torch.autograd.grad(by_torch, x, grad_y)
            (reference,) = torch.autograd.grad(reference, wide, grad_y.double())
        check_like_torch(f"{name}_backward", case, got, expected, reference)
        if case.arguments != ([1, 1],):  # torch's global average is a mean: its gradient is NCHW
            assert same_kind(got, expected)


@each_device
@pytest.mark.parametrize(
    "case",
    [case for name, case in (p.values for p in FUNCTIONS) if name == "max_pool2d"],
    ids=lambda case: case.name,
)
def test_indices(case, device):
    for dtype in (torch.float32, torch.bfloat16):
        x, *arguments = make_arguments("max_pool2d", case, dtype)
        ours, theirs = both("max_pool2d", x.to(device), *arguments, return_indices=True)
        for y, expected in zip(ours, theirs, strict=True):
            assert same_kind(y, expected)
            assert same_bits([y], [expected])


def test_indices_feed_max_unpool():
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    y, indices = functional.max_pool2d(x, 2, return_indices=True)
    assert not indices.requires_grad
    with torchs_own_kernels():
        F.max_unpool2d(y, indices, 2).sum().backward()
    assert torch.equal(x.grad.bool(), F.interpolate(y.detach(), scale_factor=2) == x)


@pytest.mark.parametrize(
    ("name", "arguments", "kwargs"),
    [
        ("max_pool2d", (2,), {}),
        ("max_pool2d", ((3, 2),), {}),
        ("max_pool2d", ([3],), {}),
        ("max_pool2d", (3, None, 1), {}),
        ("max_pool2d", (3, [], 1), {}),
        ("max_pool2d", (3, 2, (1, 0), (1, 2), True), {}),
        ("max_pool2d", (3,), {"stride": (1, 2), "ceil_mode": True}),
        ("max_pool2d", (torch.Size([3, 2]),), {}),
        ("max_pool2d", (2,), {"return_indices": True}),
        ("avg_pool2d", (2,), {}),
        ("avg_pool2d", ((3, 2), None, 1), {}),
        ("avg_pool2d", (3, [], (1, 0), True, False), {}),
        ("avg_pool2d", (3,), {"stride": [2], "divisor_override": 5}),
        ("adaptive_avg_pool2d", (1,), {}),
        ("adaptive_avg_pool2d", ((3, 2),), {}),
        ("adaptive_avg_pool2d", ((None, 2),), {}),
        ("adaptive_avg_pool2d", ([3, None],), {}),
        ("adaptive_avg_pool2d", (None,), {}),
    ],
)
def test_arguments(name, arguments, kwargs):
    x = torch.randn(2, 3, 9, 8)
    if arguments == (None,):  # torch.nn.AdaptiveAvgPool2d takes it, the function does not
        assert torch.equal(functional.adaptive_avg_pool2d(x, None), x)
        return
    ours, theirs = both(name, x, *arguments, **kwargs)
    for y, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    ("kind", "arguments", "kwargs"),
    [
        ("MaxPool2d", (3,), {}),
        ("MaxPool2d", (3, 2, 1), {"dilation": 2, "ceil_mode": True}),
        ("MaxPool2d", ((3, 2), None, (1, 0)), {"return_indices": True}),
        ("AvgPool2d", (2,), {}),
        ("AvgPool2d", ((3, 2), 1, 1), {"ceil_mode": True, "count_include_pad": False}),
        ("AvgPool2d", (3,), {"divisor_override": 4}),
        ("AdaptiveAvgPool2d", (1,), {}),
        ("AdaptiveAvgPool2d", ((None, 3),), {}),
    ],
)
def test_modules(kind, arguments, kwargs, grad):
    ours = getattr(torchext.nn, kind)(*arguments, **kwargs)
    theirs = getattr(torch.nn, kind)(*arguments, **kwargs)
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    assert ours.state_dict() == theirs.state_dict()
    x = torch.randn(2, 3, 9, 8, requires_grad=grad)
    for module in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        for y, expected in zip(module(x), theirs(x), strict=True):
            torch.testing.assert_close(y, expected)
            assert y.requires_grad == expected.requires_grad


def test_fx_traces_a_module_as_one_call():
    model = torch.nn.Sequential(torchext.nn.MaxPool2d(2), torchext.nn.AdaptiveAvgPool2d(1))
    traced = torch.fx.symbolic_trace(model)
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes(grad):
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    with grad():
        y = functional.max_pool2d(x, 2)
        expected = F.max_pool2d(x, 2)
    assert torch.equal(y, expected)
    assert y.requires_grad == expected.requires_grad
    assert y.is_inference() == expected.is_inference()


def test_input_changed_after_forward():
    """The gradient needs only what forward saved: as in torch, writing to the input is harmless."""
    x = torch.randn(1, 2, 4, 4)
    leaf = x.clone().requires_grad_()
    y = functional.avg_pool2d(leaf.clone(), 2)
    expected = torch.full_like(x, 0.25)
    (got,) = torch.autograd.grad(y.sum(), leaf)
    assert error_of(got, expected.double()) == 0
