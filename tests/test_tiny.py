"""In a few seconds: every op once, on the ISA in use, and its gradient. Before each commit, under
other versions of torch, on emulated CPUs and under sanitizers."""

import pytest
import torch
from cases import SPECS
from harness import FLOATS, Backend, call_of, check_accurate

import torchext
from torchext.ops import OPS

LAYERS = {
    "max_pool2d": (torchext.nn.MaxPool2d, torch.nn.MaxPool2d, (3, 2, 1)),
    "avg_pool2d": (torchext.nn.AvgPool2d, torch.nn.AvgPool2d, (3, 2, 1)),
    "adaptive_avg_pool2d": (torchext.nn.AdaptiveAvgPool2d, torch.nn.AdaptiveAvgPool2d, ((3, 4),)),
    "global average": (torchext.nn.AdaptiveAvgPool2d, torch.nn.AdaptiveAvgPool2d, (1,)),
}
FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("op", OPS)
def test_op(op):
    for case in SPECS[op].cases[:3]:
        call = call_of(op, case, torch.float32)
        check_accurate(Backend("as chosen")(op, *call.args), call)


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_is_torchs(layer):
    ours, theirs, arguments = LAYERS[layer]
    for dtype in FLOATS:
        for memory_format in FORMATS:
            x = torch.randn(2, 35, 9, 11).to(dtype).to(memory_format=memory_format)
            mine, reference = x.clone().requires_grad_(), x.clone().requires_grad_()
            y, expected = ours(*arguments)(mine), theirs(*arguments)(reference)
            g = torch.randn_like(y)
            y.backward(g)
            expected.backward(g)
            tolerance = 2 * torch.finfo(dtype).eps
            torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(
                mine.grad, reference.grad, rtol=4 * tolerance, atol=4 * tolerance
            )
            assert y.stride() == expected.stride()


def test_indices_are_torchs():
    x = torch.randn(2, 3, 9, 11)
    y, indices = torchext.nn.functional.max_pool2d(x, 3, 2, 1, return_indices=True)
    expected = torch.nn.functional.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert torch.equal(y, expected[0])
    assert torch.equal(indices, expected[1])


def test_bad_input_is_refused_in_words():
    with pytest.raises(RuntimeError, match=r"max_pool2d: stride: got \[0, 0\], expected"):
        torchext.nn.functional.max_pool2d(torch.randn(1, 1, 4, 4), 2, 0)
