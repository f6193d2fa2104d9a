"""Bad input to pooling beyond the table: what is no tensor, no memory, forged or merely odd."""

import numpy as np
import pytest
import torch
from families.pooling import (
    HUGE,
    INT32_MAX,
    _adaptive,
    _adaptive_back,
    _avg,
    _avg_back,
    _max,
    _max_back,
    filled,
)
from harness import BACKENDS, TRITON, params

import torchext
from torchext.nn import functional as F


@pytest.mark.parametrize("backend", params(BACKENDS))
@pytest.mark.parametrize(
    "size", [(2**40, 2**20), (HUGE, 1), (HUGE, HUGE)], ids=["2^60", "2^62", "2^124"]
)
def test_impossible_sizes_are_errors(size, backend):
    """No such memory, or no such number: an error either way, before anything is written."""
    with pytest.raises((RuntimeError, MemoryError, OverflowError)):
        backend("adaptive_avg_pool2d", filled(1, 1, 4, 4), size)
    with pytest.raises((RuntimeError, MemoryError, OverflowError)):
        backend("adaptive_avg_pool2d_backward", filled(1, 1, 4, 4), size, False)


@pytest.mark.parametrize("dilation", [INT32_MAX, HUGE])
@pytest.mark.parametrize("backend", params(BACKENDS))
def test_dilation_of_a_single_tap_means_nothing(dilation, backend):
    expected = torch.nn.functional.max_pool2d(filled(1, 2, 4, 4), 1, 1)
    (y,) = backend(
        "max_pool2d_inference", filled(1, 2, 4, 4), (1, 1), (1, 1), (0, 0), (dilation,) * 2, False
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
