"""Kernels go where torch's current stream and the tensors' device say, and into CUDA graphs."""

import pytest
import torch
from cases import SPECS
from families.case import Case
from harness import call_of, check_accurate, map_tensors, outputs, tensors_of

has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
each_op = pytest.mark.parametrize(
    "op", [op for op in SPECS if has_kernel(f"torchext::{op}", "CUDA")]
)


def small_call(op):
    cases = [case for case in SPECS[op].cases if torch.Size(case.shape).numel() > 0]
    return call_of(op, min(cases, key=lambda case: torch.Size(case.shape).numel()), torch.float32)


def run(op, args):
    return outputs(getattr(torch.ops.torchext, op)(*args))


@each_op
def test_graphs(op):
    """Captured once, replayed with other numbers."""
    call = small_call(op)
    args = map_tensors(lambda x: x.cuda(), call.args)
    kept = map_tensors(torch.clone, args)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(op, args)  # builds and asks what it has to
    torch.cuda.current_stream().wait_stream(side)
    map_tensors(lambda x: x.zero_() if x.is_floating_point() else x, args)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ys = run(op, args)
    for to, x in zip(tensors_of(args), tensors_of(kept), strict=True):
        to.copy_(x)
    graph.replay()
    check_accurate(ys, call)


@each_op
def test_streams(op):
    """A side stream's work does not wait for the default stream's."""
    call = small_call(op)
    args = map_tensors(lambda x: x.cuda(), call.args)
    run(op, args)
    torch.cuda.synchronize()
    side, busy = torch.cuda.Stream(), torch.cuda.Event()
    torch.cuda._sleep(2**30)  # cycles: half a second
    busy.record()
    with torch.cuda.stream(side):
        ys = run(op, args)
    side.synchronize()
    assert not busy.query()
    torch.cuda.synchronize()
    check_accurate(ys, call)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@each_op
def test_other_devices(op):
    call = small_call(op)
    ys = run(op, map_tensors(lambda x: x.to("cuda:1"), call.args))
    assert torch.cuda.current_device() == 0
    assert all(y.device.index == 1 for y in ys)
    check_accurate(ys, call)


def test_layers_of_many_blocks_in_graphs():
    """The launch whose blocks meet each other."""
    call = call_of("lstm", Case("wide", (5, 3, 8), (600, True, [], False)), torch.float32)
    args = map_tensors(lambda x: x.cuda(), call.args)
    run("lstm", args)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ys = run("lstm", args)
    for _ in range(3):
        graph.replay()
    check_accurate(ys, call)
