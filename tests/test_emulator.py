"""The emulator: every bug planted in a real kernel is found, no clean kernel is accused, and its
counters say what kernels cost. tests/test_ops.py runs all ops on it."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import SPECS, named
from families.attention import pair_index
from families.case import Case
from harness import EMULATOR, FLOATS, Call, call_of, check_accurate, decompose, map_tensors
from planted_bugs import BUGS, build, found_by

from torchext import emulator
from torchext.ops import OPS
from torchext.ops.attention import MOST_CHANNELS_OF_CUDA

pytestmark = pytest.mark.skipif(bool(emulator.why_not()), reason=emulator.why_not())
EMULATED = [op for op in OPS if emulator.has(op)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the emulator says of each planted bug, by its number."""
    libraries = build(tmp_path_factory.mktemp("planted"))

    def run(library_and_bugs):
        library, bugs = library_and_bugs
        return found_by(library, [BUGS.index(bug) for bug in bugs])

    with ThreadPoolExecutor(2) as pool:
        return {number: kind for one in pool.map(run, libraries) for number, kind in one.items()}


@pytest.mark.xdist_group("planted")
def test_planted_bugs_are_found(found):
    missed = {}
    for number, bug in enumerate(BUGS):
        kind, _, words = found[number].partition(":")
        if kind not in bug.kinds.split():
            missed[str(bug)] = (found[number], bug.kinds)
        elif kind != "result":
            assert "csrc/cuda/" in words, (str(bug), words)
            assert "thread (" in words or kind == "deadlock", words
            assert "replay: seed 1, launch" in words, words
    assert not missed


def small_cases(op):
    cases = sorted(SPECS[op].cases, key=lambda case: torch.Size(case.shape).numel())
    return [case for case in cases if torch.Size(case.shape).numel() > 0][:2] + named(op, ["seven"])


@pytest.mark.parametrize("op", EMULATED)
def test_no_false_alarms(op):
    """In 50 orders of threads, with copies that land late or at any time."""
    for case in small_cases(op)[:2]:
        call = call_of(op, case, torch.float32)
        for seed in range(2, 52):
            with emulator.settings(seed=seed, late_copies=seed % 2, workers=1 + seed % 2):
                check_accurate(EMULATOR(op, *call.args), call)


def test_launches_are_refused_as_by_the_chip():
    x = torch.randn(1, 8, 16, 16)
    with (
        emulator.settings(shared_bytes=16),
        pytest.raises(RuntimeError, match=r"emulator: launch: got \d+ bytes of shared memory"),
    ):
        torch.ops.torchext_emu.adaptive_avg_pool2d_inference(x, [1, 1])


def test_settings_are_restored():
    before = emulator.Settings.current().seed
    with emulator.settings(seed=99):
        assert emulator.Settings.current().seed == 99
    assert emulator.Settings.current().seed == before
    with (
        pytest.raises(ValueError, match="settings: got 'sed', expected one of seed"),
        emulator.settings(sed=1),
    ):
        pass


def test_profile_wants_an_op_with_a_kernel():
    with pytest.raises(ValueError, match="profile: got 'no_such_op', expected an op that has"):
        emulator.profile("no_such_op")


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 2)])
def test_a_class_out_of_range_is_nan(shape):
    """Nobody waits for a GPU to look at targets; torch ends the process's CUDA context there."""
    op = torch.ops.torchext_emu.cross_entropy
    target = torch.zeros(shape[:1] + shape[2:], dtype=torch.int64)
    target[1] = 7
    loss, lse, total = op(torch.randn(shape), target, None, 0, -100, 0.0)
    assert loss[1].isnan().all() and not loss[[0, 2]].isnan().any()
    assert op(torch.randn(shape), target, None, 1, -100, 0.0)[0].isnan()
    x = torch.randn(shape)
    back = torch.ops.torchext_emu.cross_entropy_backward
    grad = back(torch.ones_like(loss), x, target, None, lse, total, 0, -100, 0.0)
    assert grad[1].isnan().any() and not grad[[0, 2]].isnan().any()


def image(*shape):
    return torch.randn(shape).bfloat16().to(memory_format=torch.channels_last)


# Layers of networks cut to a few tiles.
IN_ONE_PASS = {
    "max_pool2d_inference": (image(2, 64, 56, 56), [3, 3], [2, 2], [1, 1], [1, 1], False),
    "max_pool2d": (image(2, 64, 56, 56), [3, 3], [2, 2], [1, 1], [1, 1], False),
    "avg_pool2d_inference": (image(1, 64, 28, 28), [2, 2], [2, 2], [0, 0], False, True, None),
    "adaptive_avg_pool2d_inference": (image(2, 512, 7, 7), [1, 1]),
    "activation_inference": (image(1, 64, 28, 28), 6),
    "activation_backward": (image(1, 64, 28, 28), image(1, 64, 28, 28), 6),
    "dropout_inference": (torch.randn(197, 768).bfloat16(), 0.5, 1, True),
    "softmax_inference": (torch.randn(128, 200).bfloat16(), 1, False),
    "softmax_backward": (torch.randn(128, 200), torch.rand(128, 200), 1, False),
    "cross_entropy": (torch.randn(64, 1000), torch.arange(64), None, 1, -100, 0.0),
    "batch_norm_inference": (
        image(1, 64, 28, 28),
        torch.ones(64),
        torch.ones(64),
        torch.zeros(64),
        torch.ones(64),
        False,
        0.1,
        1e-5,
    ),
    "layer_norm": (torch.randn(197, 768).bfloat16(), 768, torch.ones(768), torch.ones(768), 1e-5),
    "layer_norm_backward": (
        torch.randn(197, 768).bfloat16(),
        torch.randn(197, 768).bfloat16(),
        torch.zeros(197),
        torch.ones(197),
        768,
        torch.ones(768),
        1e-5,
        False,
    ),
}


def weight(outputs, channels, kernel):
    return image(outputs, channels, kernel, kernel)


_X, _W = image(2, 64, 16, 16), weight(128, 64, 3)
_ONES, _TWOS = [1, 1], [2, 2]
_CONV = (_ONES, _ONES, _ONES, 1, 0)
_STRIDED = (_TWOS, _ONES, _ONES, 1, 0)
_HALF = image(2, 128, 8, 8)
# op -> arguments, and the sums of products it must make: two operations each.
PRODUCTS = {
    "conv2d_inference": ((_X, _W, None, None, *_CONV), 512 * 128 * 576),
    "linear_inference": (
        (torch.randn(256, 768).bfloat16(), torch.randn(128, 768).bfloat16(), None, None, 0),
        256 * 768 * 128,
    ),
    "conv2d_backward_input": (
        (_HALF, None, _W, [16, 16], True, *_STRIDED),
        128 * 128 * 576,
    ),
    "conv2d_backward_weight": (
        (image(2, 128, 16, 16), None, _X, [3, 3], True, *_CONV, False),
        512 * 128 * 576,
    ),
}


@pytest.mark.parametrize("op", PRODUCTS)
def test_products(op):
    """Tensor cores do little more than they must, and no bank of shared memory waits."""
    args, products = PRODUCTS[op]
    profile = emulator.profile(op, *args)
    assert 2 * products <= profile.flops <= 2 * products / 0.95, str(profile)
    for line in profile.lines:
        if line.shared and (line.matrix_row or line.bytes == 16):
            assert line.wavefronts <= 1.05 * line.fewest_wavefronts, str(profile)


@pytest.fixture
def tf32():
    """torch's switches, as users know them."""
    switches = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "tf32"
    yield
    for switch, was in zip(switches, before, strict=True):
        switch.fp32_precision = was


def rounded_to_tf32(x):
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        return x
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("op", PRODUCTS)
def test_products_of_tf32(op, tf32):
    """Tensor cores where torch would take them, of float32 rounded to what they take."""
    args, products = PRODUCTS[op]
    args = map_tensors(torch.Tensor.float, args)
    args = map_tensors(lambda x: x + torch.randn_like(x) * 2**-9, args)
    profile = emulator.profile(op, *args)
    assert 2 * products <= profile.flops <= 2 * products / 0.95, str(profile)
    call = Call(
        op,
        args,
        *(decompose(op, map_tensors(rounded_to_tf32, args), d) for d in (torch.float64, None)),
        600,
    )
    check_accurate(EMULATOR(op, *args), call)


def test_products_are_exact_without_the_switch():
    args, _ = PRODUCTS["conv2d_inference"]
    assert emulator.profile("conv2d_inference", *map_tensors(torch.Tensor.float, args)).flops == 0


@pytest.mark.parametrize("kernel", [1, 3])
def test_products_move_nothing_twice(kernel):
    """As soon as there are blocks enough for no sum to be split."""
    around = [kernel // 2] * 2
    args = (image(8, 32, 32, 32), weight(64, 32, kernel), torch.randn(64).bfloat16(), None)
    profile = emulator.profile("conv2d_inference", *args, _ONES, around, _ONES, 1, 1)
    assert len(profile.kernels) == 1
    assert profile.moved <= 1.15 * profile.necessary, str(profile)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("outputs", [24, 130])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_convolution_takes_the_batchs_statistics(dtype, outputs, groups):
    """In its epilogue: nobody reads its result but the norm's one pass. Sums are not split here."""
    window = ((1, 1), (1, 1), (1, 1), groups)
    weight = (outputs, 16 // groups, 3, 3)
    case = Case("block", (2, 16, 19, 23), (weight, "cgbsr", True, *window, 1), "channels_last")
    call = call_of("conv_bn_act", case, dtype)
    kernels = emulator.profile("conv_bn_act", *call.args).kernels
    assert not [kernel for kernel in kernels if "channel_moments" in kernel]
    check_accurate(EMULATOR("conv_bn_act", *call.args), call)


# Networks' first layers: outputs, channels, kernel, stride, padding.
FIRST = {
    "alexnet": (64, 3, 11, 4, 2),
    "vgg": (64, 3, 3, 1, 1),
    "resnet": (64, 3, 7, 2, 3),
    "mobilenet": (32, 3, 3, 2, 1),
    "lenet": (6, 1, 5, 1, 2),
    "swin": (96, 3, 4, 4, 0),
    "odd": (70, 3, 5, 3, 1),
}


@pytest.mark.parametrize("layer", FIRST)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_first_layers(layer, layout, dtype):
    """Of few channels, which nobody rounds up to eight: read where they lie, in either layout."""
    o, channels, kernel, stride, padding = FIRST[layer]
    window = ((stride, stride), (padding, padding), _ONES, 1, 1)
    size = 33 * stride
    case = Case(layer, (2, channels, size, size), ((o, channels, kernel, kernel), "br", *window))
    case = dataclasses.replace(case, layout=layout)
    call = call_of("conv2d_inference", case, dtype)
    kernels = emulator.profile("conv2d_inference", *call.args).kernels
    assert ["weight_lines" in kernels[0], "few_channels" in kernels[1]] == [True] * len(kernels)
    check_accurate(EMULATOR("conv2d_inference", *call.args), call)


@pytest.mark.parametrize("layer", ["vgg", "resnet", "mobilenet"])
def test_first_layers_move_nothing_twice(layer):
    o, channels, kernel, stride, padding = FIRST[layer]
    args = (image(2, channels, 64 * stride, 64 * stride), weight(o, channels, kernel), None, None)
    profile = emulator.profile("conv2d_inference", *args, [stride] * 2, [padding] * 2, _ONES, 1, 1)
    assert profile.moved <= 1.15 * profile.necessary, str(profile)
    for line in profile.lines:
        if line.shared and not line.writes:
            assert line.wavefronts <= 1.25 * line.fewest_wavefronts, str(profile)


def test_a_block_makes_many_tiles_of_a_first_layer():
    case = Case("many", (1030, 1, 4, 5), ((3, 1, 3, 3), "b", _ONES, _ONES, _ONES, 1, 1))
    call = call_of("conv2d_inference", case, torch.bfloat16)
    for seed in range(3):
        with emulator.settings(seed=seed):
            check_accurate(EMULATOR("conv2d_inference", *call.args), call)


def test_patches_waste_nothing():
    """Their pixels lie side by side: no channel is rounded up."""
    args = (image(1, 3, 224, 224), weight(64, 3, 16), None, None, [16, 16], [0, 0], _ONES, 1, 0)
    profile = emulator.profile("conv2d_inference", *args)
    assert profile.flops <= 2 * 256 * 64 * 768, str(profile)  # 196 patches in tiles of 64


@pytest.mark.parametrize("size", [(7, 9), (8, 16), (9, 17), (31, 33)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_first_layer_takes_the_batchs_statistics(size, layout):
    window = (_ONES, _ONES, _ONES, 1)
    case = Case("stem", (3, 3, *size), ((70, 3, 3, 3), "cgbs", True, *window, 1), layout)
    call = call_of("conv_bn_act", case, torch.bfloat16)
    check_accurate(EMULATOR("conv_bn_act", *call.args), call)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_moves_nothing_twice(stride):
    args = (image(2, 128, 28, 28), weight(128, 1, 3), None, None, [stride, stride], _ONES, _ONES)
    profile = emulator.profile("conv2d_inference", *args, 128, 1)
    assert profile.moved <= 1.15 * profile.necessary, str(profile)


@pytest.mark.parametrize(("stride", "most"), [(1, 2.5), (2, 2.0)])
def test_depthwise_weights_read_rows_once(stride, most):
    """Of registers: L2 is asked for three columns of each row, not for nine pixels an output."""
    x, grad = image(2, 128, 32 * stride, 32 * stride), image(2, 128, 32, 32)
    window = ([3, 3], True, [stride, stride], _ONES, _ONES, 128, 0)
    profile = emulator.profile("conv2d_backward_weight", grad, None, x, *window, False)
    asked = sum(32 * line.sectors for line in profile.lines if not line.writes)
    assert asked <= most * profile.necessary, str(profile)


@pytest.mark.parametrize("outputs", [64, 128])
def test_depthwise_separable_stores_nothing_in_between(outputs):
    def norm(channels):
        return (
            torch.ones(channels),
            torch.ones(channels),
            torch.ones(channels),
            torch.ones(channels),
        )

    block = (image(2, 128, 28, 28), weight(128, 1, 3), *norm(128), 1e-5)
    pointwise = (weight(outputs, 128, 1), *norm(outputs), 1e-5, None, _ONES, _ONES, _ONES, 1, 1)
    profile = emulator.profile("depthwise_separable_inference", *block, *pointwise)
    assert profile.moved <= 1.1 * profile.necessary, str(profile)
    assert profile.flops == 2 * 1600 * 128 * outputs  # 1568 pixels in tiles of 64


def check_banks(profile):
    for line in profile.lines:
        if line.shared and line.matrix_row:
            assert line.wavefronts == line.fewest_wavefronts, str(profile)


def test_attention_of_197_tokens():
    """Tiles waste little on a vision transformer's odd number, and nothing is moved twice."""
    qkv = torch.randn(1, 197, 3, 2, 64).bfloat16()
    profile = emulator.profile("attention_qkv_inference", qkv, None, False, None)
    needed = 2 * 2 * 2 * 197 * 197 * 64
    assert needed <= profile.flops <= 1.1 * needed, str(profile)
    assert profile.moved <= 1.01 * profile.necessary, str(profile)
    check_banks(profile)


def test_attention_of_windows():
    """All of the qkv product read where it lies; what windows need besides is small."""
    table = torch.randn(169, 3).bfloat16()
    qkv = torch.randn(4, 14, 14, 3 * 96).bfloat16()
    profile = emulator.profile(
        "window_attention_inference", qkv, table, pair_index(7, 7), [7, 7], [3, 3], None
    )
    assert profile.moved <= 1.15 * profile.necessary, str(profile)
    check_banks(profile)


@pytest.mark.parametrize("hidden", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recurrent_weights_are_read_once(dtype, hidden):
    """However many the steps: they stay in shared memory, whose banks nobody waits for."""
    steps, batch = 16, 8
    x, state = torch.randn(steps, batch, 64).to(dtype), torch.zeros(batch, hidden).to(dtype)
    weights = [torch.randn(4 * hidden, n).to(dtype) / 8 for n in (64, hidden)]
    profile = emulator.profile(
        "lstm_inference", x, state, state.clone(), *weights, None, None, [], False
    )
    wide = [line for line in profile.lines if line.bytes == 16 and not line.writes]
    weight = next(line for line in wide if "recurrent.cu:" in line.line and not line.shared)
    assert weight.sectors * 32 == weights[1].numel() * dtype.itemsize, str(profile)
    loads = [line for line in wide if "recurrent.cuh:" in line.line]
    assert loads
    for line in loads:
        assert line.wavefronts == line.fewest_wavefronts, str(profile)


@pytest.mark.parametrize("op", ["lstm_backward", "gru_backward"])
def test_gradients_of_bfloat16_recurrent_layers_take_tensor_cores(op):
    """Their three products do, of float32 rounded to TF32; others stay exact."""
    case = Case("layer", (16, 8, 64), (64, True, [], False))
    call = call_of(op, case, torch.bfloat16)
    products = 3 * 16 * 8 * 64 * (4 if op == "lstm_backward" else 3) * 64
    assert emulator.profile(op, *call.args).flops >= 2 * products
    for dtype in (torch.float16, torch.float32):
        assert emulator.profile(op, *call_of(op, case, dtype).args).flops == 0


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_recurrent_weights_that_fit_nowhere(op, reverse):
    """Then each step has a product of its own."""
    case = Case("large", (12, 10), (96, True, [5, 3, 2, 1, 1], reverse))
    with emulator.settings(multiprocessors=1, blocks_at_once=1):
        for name in (op, f"{op}_inference", f"{op}_backward"):
            call = call_of(name, case, torch.float64)
            assert len(emulator.profile(name, *call.args).kernels) > 5
            check_accurate(EMULATOR(name, *call.args), call)


@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_recurrent_rows_of_more_blocks_than_run_at_once(op):
    """Blocks that meet nobody need not run at once."""
    case = Case("many rows", (2, 40, 5), (8, True, [], False))
    with emulator.settings(blocks_at_once=2):
        for name in (op, f"{op}_backward"):
            call = call_of(name, case, torch.float32)
            check_accurate(EMULATOR(name, *call.args), call)


def test_dropout_of_attention_keeps_no_mask():
    """What is dropped follows from the seed, forward and backward."""
    case = Case("vit", (1, 2, 197, 64), ((1, 2, 197, 64), 64, None, False, None, False, 0.1))
    forward, back = (
        emulator.profile(op, *call_of(op, case, torch.bfloat16).args)
        for op in ("attention", "attention_backward")
    )
    assert forward.moved <= 1.05 * forward.necessary, str(forward)
    assert back.moved <= 2.5 * back.necessary, str(back)  # two kernels and delta's


@pytest.mark.parametrize("dtype", FLOATS)
def test_attention_of_wide_heads(dtype):
    D = MOST_CHANNELS_OF_CUDA
    case = Case("wide", (1, 1, 3, D), ((1, 1, 5, D), D, None, False, None, False, 0.0))
    for op in ("attention", "attention_backward"):
        call = call_of(op, case, dtype)
        check_accurate(EMULATOR(op, *call.args), call)
    x = torch.ones(1, 1, 3, 1000).to(dtype)
    with pytest.raises(RuntimeError, match=r"attention: CUDA: got rows of \d+ bytes .* fewer chan"):
        torch.ops.torchext_emu.attention_inference(x, x, x, None, False, None, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_matrices_share_blocks(dtype):
    """As soon as there are blocks enough: so few queries as leave warps over."""
    for op in ("attention", "attention_backward"):
        for Lq, Lk in ((5, 7), (17, 9)):
            case = Case(
                "many", (1030, 1, Lq, 4), ((1030, 1, Lk, 4), 4, None, False, None, False, 0.0)
            )
            call = call_of(op, case, dtype)
            check_accurate(EMULATOR(op, *call.args), call)


@pytest.mark.parametrize("op", IN_ONE_PASS)
def test_one_pass_over_memory(op):
    """What must be moved, moved once, 16 bytes at a time, and nothing else."""
    profile = emulator.profile(op, *map_tensors(torch.clone, IN_ONE_PASS[op]))
    assert profile.moved <= 1.15 * profile.necessary, str(profile)
    for line in profile.lines:
        if line.shared:
            assert line.wavefronts == line.fewest_wavefronts, str(profile)
        elif 32 * line.sectors > profile.necessary / 20 and line.sectors > 2 * line.requests:
            assert line.bytes in (8, 16), str(profile)
            # Weights in f32 are two accesses, 32 bytes apart from lane to lane; they stay in L1.
            halves = 2 if op.startswith("layer_norm") and line.bytes == 16 else 1
            assert line.sectors <= 1.15 * halves * line.fewest_sectors, str(profile)
