"""Bad input: refused by every implementation alike (kernels, Triton, fakes), in words that name the
op and the argument, and never by a crash. What torch accepts and is merely odd works."""

import numpy as np
import pytest
import torch
from harness import BACKENDS, TRITON, params
from torch._subclasses.fake_tensor import FakeTensorMode

import torchext
from torchext.nn import functional as F

HUGE = 2**62
INT32_MAX = 2**31 - 1


def x(*shape, dtype=torch.float32):
    return (
        torch.arange(max(1, torch.Size(shape).numel()))
        .to(dtype)[: torch.Size(shape).numel()]
        .view(shape)
    )


def _max(shape=(2, 3, 8, 8), kernel=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), **kw):
    return "max_pool2d", (x(*shape, **kw), kernel, stride, padding, dilation, False)


def _avg(shape=(2, 3, 8, 8), kernel=(2, 2), stride=(2, 2), padding=(0, 0), divisor=None, **kw):
    return "avg_pool2d", (x(*shape, **kw), kernel, stride, padding, False, True, divisor)


def _adaptive(shape=(2, 3, 8, 8), size=(1, 1), **kw):
    return "adaptive_avg_pool2d", (x(*shape, **kw), size)


def _max_back(grad=None, offsets=None, input_size=(8, 8), kernel=(2, 2)):
    grad = x(2, 3, 4, 4) if grad is None else grad
    offsets = torch.zeros(2, 3, 4, 4, dtype=torch.uint8) if offsets is None else offsets
    rest = (input_size, kernel, (2, 2), (0, 0), (1, 1), False)
    return "max_pool2d_backward", (grad, offsets, *rest)


def _avg_back(grad=None, input_size=(8, 8), kernel=(2, 2)):
    grad = x(2, 3, 4, 4) if grad is None else grad
    return "avg_pool2d_backward", (
        grad,
        input_size,
        False,
        kernel,
        (2, 2),
        (0, 0),
        False,
        True,
        None,
    )


def _adaptive_back(grad=None, input_size=(8, 8)):
    return "adaptive_avg_pool2d_backward", (
        x(2, 3, 4, 4) if grad is None else grad,
        input_size,
        False,
    )


def _indices(offsets=None, input_size=(8, 8)):
    offsets = torch.zeros(2, 3, 4, 4, dtype=torch.uint8) if offsets is None else offsets
    return "max_pool2d_indices", (offsets, input_size, (2, 2), (2, 2), (0, 0), (1, 1), False)


# (what is wrong, the argument that the message must name, the call)
REFUSED = [
    *(
        (f"{pool.__name__[1:]}: {what}", argument, pool(**wrong))
        for pool in (_max, _avg)
        for what, argument, wrong in [
            ("stride 0", "stride", {"stride": (0, 2)}),
            ("stride -1", "stride", {"stride": (2, -1)}),
            ("kernel 0", "kernel_size", {"kernel": (2, 0)}),
            ("kernel -2", "kernel_size", {"kernel": (-2, 2)}),
            ("three kernel sizes", "kernel_size", {"kernel": (2, 2, 2)}),
            ("three strides", "stride", {"stride": (2, 2, 2)}),
            ("padding -1", "padding", {"padding": (-1, 0)}),
            ("padding over half", "padding", {"padding": (0, 2)}),
            ("padding 2^62", "padding", {"padding": (HUGE, HUGE)}),
            ("kernel over the input", "kernel_size", {"kernel": (9, 2)}),
            ("kernel 2^62", "kernel_size", {"kernel": (HUGE, 2)}),
            ("H = 0", "input", {"shape": (2, 3, 0, 8)}),
            ("C = 0", "input", {"shape": (2, 0, 8, 8)}),
            ("2-d", "input", {"shape": (8, 8)}),
            ("5-d", "input", {"shape": (1, 2, 3, 8, 8)}),
            ("int64", "input", {"dtype": torch.int64}),
            ("bool", "input", {"dtype": torch.bool}),
            ("complex", "input", {"dtype": torch.complex64}),
        ]
    ),
    ("dilation 0", "dilation", _max(dilation=(0, 1))),
    ("dilation 2^62 of 3 taps", "dilation", _max(kernel=(3, 3), dilation=(HUGE, 1))),
    ("dilation over the input", "kernel_size", _max(dilation=(8, 1))),
    ("dilation 2^31 - 1 of 2 taps", "kernel_size", _max(dilation=(INT32_MAX, 1))),
    ("dilation 2^62 of 2 taps", "kernel_size", _max(dilation=(1, HUGE))),
    ("padding over half a dilated kernel", "padding", _max(padding=(2, 0), dilation=(3, 1))),
    ("divisor 0", "divisor_override", _avg(divisor=0)),
    ("adaptive: size -1", "output_size", _adaptive(size=(-1, 1))),
    ("adaptive: three sizes", "output_size", _adaptive(size=(1, 1, 1))),
    ("adaptive: H = 0", "input", _adaptive(shape=(2, 3, 0, 8))),
    ("adaptive: 2-d", "input", _adaptive(shape=(8, 8))),
    ("adaptive: int64", "input", _adaptive(dtype=torch.int64)),
    ("grad of another shape", "grad_y", _max_back(grad=x(2, 3, 4, 5))),
    ("grad of another rank", "grad_y", _max_back(grad=x(3, 4, 4))),
    ("grad of integers", "grad_y", _max_back(grad=x(2, 3, 4, 4, dtype=torch.int64))),
    ("offsets of another shape", "offsets", _max_back(offsets=torch.zeros(2, 3, 5, 4).byte())),
    ("offsets of int64", "offsets", _max_back(offsets=torch.zeros(2, 3, 4, 4).long())),
    (
        "offsets of int32 for a small window",
        "offsets",
        _max_back(offsets=torch.zeros(2, 3, 4, 4).int()),
    ),
    ("input_size 0", "input_size", _max_back(input_size=(0, 8))),
    ("input_size -1", "input_size", _max_back(input_size=(8, -1))),
    ("three input sizes", "input_size", _max_back(input_size=(8, 8, 8))),
    ("input_size of another output", "offsets", _max_back(input_size=(20, 8))),
    ("indices: input_size 0", "input_size", _indices(input_size=(0, 8))),
    ("indices: float offsets", "offsets", _indices(offsets=x(2, 3, 4, 4))),
    ("avg grad of another shape", "grad_y", _avg_back(grad=x(2, 3, 4, 5))),
    ("avg grad 2-d", "grad_y", _avg_back(grad=x(4, 4))),
    ("avg grad 5-d", "grad_y", _avg_back(grad=x(1, 2, 3, 4, 4))),
    ("avg grad of integers", "grad_y", _avg_back(grad=x(2, 3, 4, 4, dtype=torch.int64))),
    ("avg input_size 0", "input_size", _avg_back(input_size=(0, 8))),
    ("avg input_size -1", "input_size", _avg_back(input_size=(8, -1))),
    ("avg input_size 2^62", "grad_y", _avg_back(input_size=(HUGE, 8))),
    ("avg input_size of another output", "grad_y", _avg_back(input_size=(8, 20))),
    ("three avg input sizes", "input_size", _avg_back(input_size=(8, 8, 8))),
    ("input_size 2^62", "offsets", _max_back(input_size=(HUGE, 8))),
    ("indices: input_size 2^62", "offsets", _indices(input_size=(8, HUGE))),
    ("indices: offsets 5-d", "offsets", _indices(offsets=torch.zeros(1, 2, 3, 4, 4).byte())),
    ("adaptive: size of one number", "output_size", _adaptive(size=(2,))),
    ("adaptive grad of integers", "grad_y", _adaptive_back(grad=x(2, 3, 4, 4).long())),
    ("adaptive grad 2-d", "grad_y", _adaptive_back(grad=x(4, 4))),
    ("adaptive input_size 0", "input_size", _adaptive_back(input_size=(8, 0))),
    ("adaptive input_size -1", "input_size", _adaptive_back(input_size=(-1, 8))),
]
refused = pytest.mark.parametrize(
    ("argument", "call"), [pytest.param(*rest, id=what) for what, *rest in REFUSED]
)


@refused
@pytest.mark.parametrize("backend", params(BACKENDS))
def test_refused(argument, call, backend):
    backend.use()
    op, args = call
    with pytest.raises(RuntimeError, match=rf"{op}: {argument}: got .*, expected "):
        backend(op, *args)


@refused
def test_refused_by_fake(argument, call):
    op, args = call
    with FakeTensorMode() as mode:
        args = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args]
        with pytest.raises(RuntimeError, match=rf"{op}: {argument}: got .*, expected "):
            getattr(torch.ops.torchext, op)(*args)


@pytest.mark.parametrize("backend", params(BACKENDS))
@pytest.mark.parametrize(
    "size", [(2**40, 2**20), (HUGE, 1), (HUGE, HUGE)], ids=["2^60", "2^62", "2^124"]
)
def test_impossible_sizes_are_errors(size, backend):
    """No such memory, or no such number: an error either way, before anything is written."""
    with pytest.raises((RuntimeError, MemoryError, OverflowError)):
        backend("adaptive_avg_pool2d", x(1, 1, 4, 4), size)
    with pytest.raises((RuntimeError, MemoryError, OverflowError)):
        backend("adaptive_avg_pool2d_backward", x(1, 1, 4, 4), size, False)


@pytest.mark.parametrize("dilation", [INT32_MAX, HUGE])
@pytest.mark.parametrize("backend", params(BACKENDS))
def test_dilation_of_a_single_tap_means_nothing(dilation, backend):
    expected = torch.nn.functional.max_pool2d(x(1, 2, 4, 4), 1, 1)
    (y,) = backend(
        "max_pool2d_inference", x(1, 2, 4, 4), (1, 1), (1, 1), (0, 0), (dilation,) * 2, False
    )
    assert torch.equal(y.cpu(), expected)


@pytest.mark.parametrize("backend", params(BACKENDS))
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel", [(2, 2), (17, 17)], ids=["bytes", "wide"])
def test_forged_offsets_stay_inside(kernel, layout, backend):
    """Offsets are data: any value at all writes nothing but grad_x."""
    backend.use()
    dtype = torch.uint8 if kernel == (2, 2) else torch.int32
    low, high = (0, 256) if dtype is torch.uint8 else (-(2**31), 2**31)
    shape = (1, 3 if backend is TRITON else 35, 2, 2)
    offsets = torch.randint(low, high, shape).to(dtype).contiguous(memory_format=layout)
    grad = torch.ones(shape).contiguous(memory_format=layout)
    size = tuple((n - 1) * 2 + k for n, k in zip(shape[2:], kernel, strict=True))
    rest = (size, kernel, (2, 2), (0, 0), (1, 1), False)
    (grad_x,) = backend("max_pool2d_backward", grad, offsets, *rest)
    assert grad_x.isfinite().all()
    assert grad_x.sum() <= grad.sum()
    (indices,) = backend("max_pool2d_indices", offsets, *rest)
    assert ((indices >= 0) & (indices < size[0] * size[1])).all()


@pytest.mark.parametrize("call", [_max_back, _avg_back, _adaptive_back])
def test_other_devices_are_refused(call):
    """A meta tensor has no data: torch's own ops have been known to read it all the same."""
    op, (first, *rest) = call()
    if isinstance(rest[0], torch.Tensor):
        with pytest.raises(RuntimeError, match=r"got a tensor on .*, expected one on"):
            getattr(torch.ops.torchext, op)(first, rest[0].to("meta"), *rest[1:])
        with pytest.raises(RuntimeError, match=r"got a tensor on .*, expected one on"):
            getattr(torch.ops.torchext, op)(first.to("meta"), *rest)
    else:
        assert getattr(torch.ops.torchext, op)(first.to("meta"), *rest).device.type == "meta"


@pytest.mark.parametrize("function", [F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d])
@pytest.mark.parametrize("wrong", [None, 3.0, [[1.0]], np.ones((1, 2, 4, 4), np.float32)], ids=type)
def test_not_a_tensor(function, wrong):
    with pytest.raises(
        TypeError, match=rf"{function.__name__}\w*: input: got .*, expected a Tensor"
    ):
        function(wrong, 2)


@pytest.mark.parametrize("call", [_max, _avg, _adaptive, _max_back, _avg_back, _adaptive_back])
@pytest.mark.parametrize("wrong", [None, 3.0, np.ones((1, 2, 4, 4), np.float32)], ids=type)
def test_not_a_tensor_for_the_op(call, wrong):
    op, (_, *rest) = call()
    with pytest.raises((RuntimeError, TypeError), match=rf"(?s){op}.*(input|grad_y)"):
        getattr(torch.ops.torchext, op)(wrong, *rest)


@pytest.mark.filterwarnings("ignore::torchext.FallbackWarning")  # no kernel for it: ATen refuses
@pytest.mark.parametrize("call", [_max, _avg, _adaptive, _max_back, _avg_back, _adaptive_back])
def test_sparse_is_refused(call):
    op, (first, *rest) = call()
    with pytest.raises(RuntimeError):
        getattr(torch.ops.torchext, op)(first.to_sparse(), *rest)
    if isinstance(rest[0], torch.Tensor):
        with pytest.raises(RuntimeError):
            getattr(torch.ops.torchext, op)(first, rest[0].to_sparse(), *rest[1:])


@pytest.mark.parametrize("layer", ["MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d"])
def test_empty_batch_works(layer):
    empty = torch.empty(0, 3, 8, 8, requires_grad=True)
    y = getattr(torchext.nn, layer)(2)(empty)
    assert y.shape == getattr(torch.nn, layer)(2)(empty).shape
    y.sum().backward()
    assert empty.grad.shape == empty.shape
