"""PyTorch's features on a whole model: compile, export, ONNX, AOTInductor, DTensor, DDP, pickle."""

import contextlib
import copy
import inspect
import io
import os
import pickle

import pytest
import torch
from stack import Everything, gradients, make_twins, run_python
from torch import nn
from torch.nn.modules.loss import _Loss
from torch.testing import assert_close as assert_very_close
from torch.utils.flop_counter import FlopCounterMode

import torchext
from torchext import _compile_cache

SHAPES = [(2, 3, 20, 24), (3, 3, 28, 36), (4, 3, 33, 17)]
LAYERS = [
    ("MaxPool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}),
    ("MaxPool2d", {"kernel_size": (2, 3), "return_indices": True, "ceil_mode": True}),
    ("AvgPool2d", {"kernel_size": 3, "stride": (2, 1), "count_include_pad": False}),
    ("AdaptiveAvgPool2d", {"output_size": (None, 3)}),
]


def assert_close(got, expected):
    """Through many layers, in another order of sums."""
    assert_very_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """A seed of its own, and no compiled code from the tests before."""
    monkeypatch.setenv("CI", "1")  # inductor forgives less there
    torch.manual_seed(0)
    yield
    torch.compiler.reset()


def make_input(shape=SHAPES[0], memory_format=torch.contiguous_format):
    return torch.randn(shape).to(memory_format=memory_format)


def torchext_nodes(graph):
    return [
        str(node.target).removesuffix(".default")
        for node in graph.nodes
        if str(node.target).startswith("torchext.")
    ]


# The modules themselves.


@pytest.mark.parametrize(("name", "arguments"), LAYERS)
def test_layer_is_torchs(name, arguments):
    ours, theirs = getattr(torchext.nn, name), getattr(nn, name)
    assert issubclass(ours, theirs)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert repr(ours(**arguments)) == repr(theirs(**arguments))
    assert ours(**arguments).extra_repr() == theirs(**arguments).extra_repr()


def test_every_layer_is_in_the_stack():
    used = {type(layer) for layer in Everything(torchext.nn).modules()}
    layers = [getattr(torchext.nn, name) for name in torchext.nn.__all__]
    # Losses take two arguments: test_nn_dense.py has them. torch.nn has no window attention and no
    # fused blocks: test_attention.py and test_conv_bn.py have them.
    layers = [c for c in layers if isinstance(c, type) and hasattr(nn, c.__name__)]
    assert {c for c in layers if not issubclass(c, _Loss)} <= used


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_eager(shape, memory_format):
    ours, theirs = (m.to(memory_format=memory_format) for m in make_twins())
    x = make_input(shape, memory_format)
    assert_close(gradients(ours, x), gradients(theirs, x))
    with torch.inference_mode():
        assert_close(ours(x), theirs(x))


def test_copies():
    ours, theirs = make_twins()
    x = make_input()
    y = ours(x)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert torch.equal(copy.deepcopy(ours)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(ours))(x), y)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    other = Everything(torchext.nn)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), y)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), y)


def test_hooks():
    ours, _ = make_twins()
    fired = []
    pools = {
        name: m for name, m in ours.named_modules() if type(m).__module__ == "torchext.nn.pooling"
    }
    for name, layer in pools.items():
        layer.register_forward_pre_hook(lambda *_, name=name: fired.append(("before", name)))
        layer.register_forward_hook(lambda *_, name=name: fired.append(("after", name)))
        layer.register_full_backward_hook(lambda *_, name=name: fired.append(("backward", name)))
    ours(make_input().requires_grad_()).sum().backward()
    expected = [(when, name) for name in pools for when in ("before", "after")]
    assert fired == expected + [("backward", name) for name in reversed(pools)]


def test_fx():
    """A module is one call, under its own name, as torch's are."""
    ours, theirs = make_twins()
    traced, expected = torch.fx.symbolic_trace(ours), torch.fx.symbolic_trace(theirs)
    calls, torchs = (
        [node.target for node in graph.graph.nodes if node.op == "call_module"]
        for graph in (traced, expected)
    )
    assert calls == torchs
    assert len(calls) > 25
    x = make_input(SHAPES[1])
    assert_close(gradients(traced, x), gradients(ours, x))


def test_flops():
    totals = []
    for module in make_twins():
        with FlopCounterMode(display=False) as counter:
            module(make_input()).sum().backward()
        totals.append(counter.get_total_flops())
    # torch does not count its LSTM, and passes by the gradients of states that begin as zeros: of
    # 4, 3 and 1 gates of each sequence's and cell's first step.
    rows, channels, steps = SHAPES[0][0], 8, 3
    product = 2 * rows * channels**2
    lstm = 3 * steps * 2 * 4 * product
    assert totals[0] - totals[1] == lstm + (3 + 1 + 4 + 3 + 1) * product


# Graphs.


@pytest.fixture(autouse=True)
def compiles_recurrent_layers():
    """torch.compile leaves nn.LSTM and its subclasses out if not told otherwise."""
    with torch._dynamo.config.patch(allow_rnn=True):
        yield


def test_compile_trains():
    """One graph, forward and backward, serves every batch and image size."""
    from torch._dynamo.testing import CompileCounterWithBackend

    ours, theirs = make_twins()
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for shape in SHAPES:
        x = make_input(shape)
        y, grads = gradients(compiled, x)
        assert_close((y, grads), gradients(theirs, x))
        assert torchext_nodes(counter.graphs[-1].graph)
        counts.append(counter.frame_count)
    # torch itself compiles what has floats among its attributes (eps, ...) once more at the start.
    assert len(set(counts)) == 1


def test_compile_infers_channels_last():
    from torch._dynamo.testing import CompileCounterWithBackend

    ours, theirs = (m.to(memory_format=torch.channels_last).eval() for m in make_twins())
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    with torch.no_grad():
        for shape in SHAPES:
            x = make_input(shape, torch.channels_last)
            assert_close(compiled(x), theirs(x))
            counts.append(counter.frame_count)
    assert len(set(counts)) == 1


def test_compile_cache_knows_the_version(monkeypatch):
    """Code compiled for other schemas is not taken from the disk after an upgrade."""
    from torch._dynamo.utils import counters
    from torch._inductor.utils import fresh_cache

    def hit():
        torch.compiler.reset()
        counters.clear()
        torch.compile(torchext.nn.functional.relu6)(make_input())
        return (
            counters["inductor"]["fxgraph_cache_hit"]
            + counters["aot_autograd"]["autograd_cache_hit"]
        )

    with fresh_cache():
        assert not hit()
        assert hit()
        with torch.compiler.config.patch(cache_key_tag="the user's own"):
            monkeypatch.setattr(_compile_cache, "build_info", lambda: {"sources": "others"})
            _compile_cache.tag()
            assert torch.compiler.config.cache_key_tag.startswith("the user's own torchext-")
            assert not hit()
        assert hit()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_export(strict, grad, tmp_path):
    ours, theirs = make_twins()
    batch = torch.export.Dim("batch")
    with torch.set_grad_enabled(grad):
        program = torch.export.export(
            ours, (make_input(),), dynamic_shapes=({0: batch},), strict=strict
        )
        kind = "" if grad else "_inference"
        nodes = [
            f"torchext.conv2d{kind}",
            f"torchext.max_pool2d{kind}",
            "torchext.max_pool2d",  # return_indices
            "torchext.max_pool2d_indices",
            f"torchext.conv2d{kind}",
            f"torchext.conv_transpose2d{kind}",
            f"torchext.avg_pool2d{kind}",
            "torchext.batch_norm",  # which gives new running statistics
            f"torchext.conv2d{kind}",  # in one dimension
            "torchext.batch_norm",
            f"torchext.group_norm{kind}",
            f"torchext.local_response_norm{kind}",
            *(f"torchext.{op}{kind}" for op in ("linear", "attention_qkv", "linear")),
            *(f"torchext.{op}{kind}" for op in ("lstm", "gru", "rnn")),
            *(f"torchext.{op}_cell{kind}" for op in ("lstm", "gru", "rnn")),
            *[f"torchext.activation{kind}"] * 10,
            *[f"torchext.softmax{kind}"] * 2,
            f"torchext.adaptive_avg_pool2d{kind}",
            f"torchext.layer_norm{kind}",
            f"torchext.linear{kind}",
        ]
        torch.export.save(program, tmp_path / "stack.pt2")
        x = make_input((5, *SHAPES[0][1:]))
        for p in (
            program,
            program.run_decompositions(),
            torch.export.load(tmp_path / "stack.pt2"),
        ):
            assert torchext_nodes(p.graph) == nodes
            assert_close(p.module()(x), theirs(x))


def test_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    ours, theirs = (m.eval() for m in make_twins())
    batch = torch.export.Dim("batch")
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter's progress
        program = torch.onnx.export(
            ours, (make_input(),), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
        )
    program.save(tmp_path / "stack.onnx")
    assert {node.domain for node in program.model.graph} == {""}  # ONNX's own operators only
    session = onnxruntime.InferenceSession(tmp_path / "stack.onnx")
    x = make_input((5, *SHAPES[0][1:]))
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_close(torch.from_numpy(y), theirs(x).detach())


def test_aot_inductor(tmp_path):
    """A compiled package runs where torchext was imported, without the Python model."""
    from torch._inductor import aoti_compile_and_package

    ours, theirs = (m.eval() for m in make_twins())
    x = make_input((5, *SHAPES[0][1:]))
    batch = torch.export.Dim("batch", max=64)
    with torch.no_grad():
        program = torch.export.export(ours, (make_input(),), dynamic_shapes=({0: batch},))
        package = aoti_compile_and_package(program, package_path=str(tmp_path / "stack.pt2"))
        torch.save((x, theirs(x)), tmp_path / "expected.pt")
    run_python(
        "-c",
        "import sys, torch, torchext\n"
        "model = torch._inductor.aoti_load_package(sys.argv[1])\n"
        "x, y = torch.load(sys.argv[2])\n"
        "torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-4)\n",
        package,
        tmp_path / "expected.pt",
    )


# Two processes.


def spawn_two(worker, tmp_path, *arguments):
    """Runs worker(rank, ...) in two processes that form a gloo group."""
    store = f"file://{tmp_path}/store"
    torch.multiprocessing.spawn(join_group, (worker, store, *arguments), nprocs=2)


def join_group(rank, worker, store, *arguments):
    torch.manual_seed(0)
    torch.set_num_threads(1)  # two processes share the test machine
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=2)
    worker(rank, *arguments)
    torch.distributed.destroy_process_group()
    os._exit(0)  # an ordinary exit aborts now and then, in torch 2.15's gloo threads


def test_sharding_is_registered_late():
    code = "import sys, torchext; print('torch.distributed.tensor' in sys.modules)"
    assert run_python("-c", code)[0] == "False\n"


def test_dtensor(tmp_path):
    spawn_two(check_dtensor, tmp_path)


def check_dtensor(rank):
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (2,))
    x = torch.randn(4, 6, 9, 11)
    F = torchext.nn.functional
    pools = [
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: torch.mul(*F.max_pool2d(x, 3, 2, 1, return_indices=True)),
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    ]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for dim in (0, 1):  # batch, channels
            for pool in pools:
                whole = x.to(memory_format=memory_format, copy=True).requires_grad_()
                shards = distribute_tensor(whole.detach(), mesh, [Shard(dim)]).requires_grad_()
                y, parts = pool(whole), pool(shards)
                assert parts.placements == (Shard(dim),)  # nothing was gathered on the way
                assert_close(parts.full_tensor(), y)
                with torch.no_grad():  # the ops' inference forms
                    assert_close(pool(shards).full_tensor(), y)
                y.square().sum().backward()
                parts.square().sum().backward()
                assert shards.grad.placements == (Shard(dim),)
                assert_close(shards.grad.full_tensor(), whole.grad)


@pytest.mark.parametrize(
    ("wrap", "accelerated"),
    [("DDP", None), ("FSDP2", None), ("DDP", "inference"), ("FSDP2", "inference")],
)
def test_data_parallel(wrap, accelerated, tmp_path):
    spawn_two(check_data_parallel, tmp_path, wrap, accelerated)


def check_data_parallel(rank, wrap, accelerated):
    """One step on halves of a batch moves the weights as a step on the whole of it does."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    ours, theirs = (m.eval() for m in make_twins())  # statistics would be of half a batch
    if accelerated:
        ours = torchext.accelerate(ours, mode=accelerated)
    if wrap == "DDP":
        parallel = nn.parallel.DistributedDataParallel(ours)
    else:
        parallel = fully_shard(ours, mesh=torch.distributed.init_device_mesh("cpu", (2,)))
    x = torch.randn(4, 3, 20, 24)
    for module, batch in ((parallel, x.chunk(2)[rank]), (theirs, x)):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        module(batch).square().mean().backward()
        optimizer.step()
    state = {
        name: p.full_tensor() if isinstance(p, DTensor) else p
        for name, p in ours.state_dict().items()
    }
    assert_close(state, theirs.state_dict())
