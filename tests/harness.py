"""How the op tests run an op and judge what it returns: backends, references, the error rule."""

import contextlib
import functools
import importlib.util
import math
import os
from dataclasses import dataclass

import pytest
import torch
import triton_interpreter
from cases import INTERPRETED, SPECS, make_arguments, named, normal
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from torchext import _host, _load, emulator
from torchext.ops import OPS
from torchext.ops._packed import pack, suits_pairs, unpack

torch.backends.cudnn.allow_tf32 = False  # matrix products' is off by default

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Backend:
    """One implementation of the ops: a namespace of torch.ops, on a device, with an ISA."""

    name: str
    namespace: str = "torchext"
    isa: str | None = None
    device: str = "cpu"

    def __str__(self):
        return self.name

    def why_not(self):
        """Why this machine can't run it; "" if it can."""
        if self.device == "cuda" and not torch.cuda.is_available():
            return "no GPU"
        if self.isa and not _host.cpu_features()[self.isa]:
            return f"this CPU has no {self.isa}"
        if self.namespace == "torchext":
            return ""
        if self.namespace == emulator.NAMESPACE:
            return emulator.why_not()
        if self.device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            return "Triton runs on the GPU here, not in its interpreter"
        return _why_no_triton()

    def use(self):
        if self.isa:
            _load.use_isa(self.isa)

    def moved(self, x):
        """The tensor on the backend's device, its memory as it was: Tensor.to() tidies up."""
        if x.device.type in (self.device, "meta"):
            return x
        memory = x.as_strided((x.untyped_storage().nbytes() // x.itemsize,), (1,), 0)
        return memory.to(self.device).as_strided(x.shape, x.stride(), x.storage_offset())

    def __call__(self, op, *args):
        """The op's outputs, always as a tuple; its tensors go to the backend's device first."""
        args = map_tensors(self.moved, args)
        if self.isa == PAIRS:
            args = in_pairs(op, args)
        return outputs(getattr(getattr(torch.ops, self.namespace), op)(*args))


PAIRS = "avx512_bf16"  # the ISA that differs from the one before it in bf16's products alone


def of_pairs(op):
    """Whether the op's products can be of pairs of bf16."""
    forward = op.startswith(("conv2d", "conv_bn_act", "linear")) and "backward" not in op
    return forward and "winograd" not in op


def in_pairs(op, args):
    """Packed weights as accelerate() packs them for that ISA."""
    if op not in ("conv2d_packed_inference", "linear_packed_inference") or args[0].dim() == 0:
        return args
    x, panels, size, *rest = args
    size, groups = (size, rest[-2]) if op.startswith("conv2d") else ((size, x.shape[-1]), 1)
    if not suits_pairs(x.dtype, size[1]):
        return args
    return x, pack(unpack(panels, size, groups, x.dtype), groups, in_one=2), args[2], *rest


@functools.cache
def _why_no_triton():
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    from torchext.ops import _triton

    if os.environ.get("TRITON_INTERPRET") == "1":
        triton_interpreter.repair()
    _triton.register_for_tests()
    return ""


CPU = tuple(Backend(isa, isa=isa) for isa in _load.ISAS)
TRITON = Backend("triton", namespace="torchext_triton")
EMULATOR = Backend("emulator", namespace=emulator.NAMESPACE)
BACKENDS = (
    *CPU,
    TRITON,
    EMULATOR,
    Backend("cuda", device="cuda"),
    Backend("triton-cuda", namespace="torchext_triton", device="cuda"),
)


def best_isa():
    return [backend for backend in CPU if not backend.why_not()][-1]


def params(backends):
    """Those of the backends that this machine has, as parameters of a test."""
    return [
        pytest.param(one, id=one.name, marks=[pytest.mark.gpu] * (one.device == "cuda"))
        for one in backends
        if not one.why_not()
    ]


def each_case(wanted=lambda op, case: True, backends=BACKENDS, interpreted=INTERPRETED):
    """Parametrizes (op, case, backend) over all of tests/cases.py, Triton's interpreter over few.

    Backends change fastest: they share a call's reference.
    """
    found = [
        pytest.param(op, case, *one.values, marks=one.marks, id=f"{op}-{case.name}-{one.id}")
        for op in OPS
        for case in SPECS[op].cases
        if wanted(op, case)
        for one in params(backends)
        if one.values[0] is not TRITON or case in named(op, interpreted)
        if one.values[0].isa != PAIRS or of_pairs(op) or backends is not BACKENDS
        if one.values[0] is not EMULATOR or emulator.has(op)
    ]
    return pytest.mark.parametrize(("op", "case", "backend"), found, indirect=["backend"])


@contextlib.contextmanager
def torchs_own_kernels():
    """Some of torch's refuse to run where determinism is asked for, as it is in conftest.py."""
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True)


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


def tensors_of(args):
    return [x for x in args if isinstance(x, torch.Tensor)]


def map_tensors(function, args):
    return [function(x) if isinstance(x, torch.Tensor) else x for x in args]


def dtypes_of(op):
    """Floating dtypes to test an op in; one where its inputs are integers anyway."""
    return FLOATS if torch.float32 in OPS[op].dtypes else (torch.float32,)


def few_dtypes(op, backend):
    """Enough where the dtype is not what is tested: one wide and one narrow."""
    few = (torch.float32,) if backend is TRITON else (torch.float32, torch.bfloat16)
    few = few[1:] if backend.isa == PAIRS else few
    return [dtype for dtype in dtypes_of(op) if dtype in few]


def all_dtypes(op, case, backend):
    """Every dtype of the op; in the interpreter only where the case is tiny."""
    tiny = math.prod(case.shape) <= 100
    few = backend.isa == PAIRS or (backend is TRITON and not tiny)
    return few_dtypes(op, backend) if few else dtypes_of(op)


def decompose(op, args, dtype=None):
    """The decomposition's outputs, floating tensors cast to `dtype` first."""
    if dtype:
        args = map_tensors(lambda x: x.to(dtype) if x.is_floating_point() else x, args)
    return outputs(OPS[op].decomposition(*args))


def fake_outputs(op, args, namespace="torchext"):
    """What PyTorch is told the op returns: shapes, strides, dtypes."""
    with FakeTensorMode() as mode:
        args = map_tensors(mode.from_tensor, args)
        return outputs(getattr(getattr(torch.ops, namespace), op)(*args))


@dataclass(frozen=True)
class Call:
    """A case's arguments, and what the decomposition makes of them in float64 and in its dtype."""

    op: str
    args: list
    reference: tuple
    torch: tuple
    terms: int


class NarrowFactors(TorchFunctionMode):
    """Rounds the factors of matrix products to `dtype`, as scaled_dot_product_attention does."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.matmul):
            args = [x.to(self.dtype).to(x.dtype) for x in args]
        return function(*args, **(kwargs or {}))


@functools.lru_cache(maxsize=64)  # the backends take turns on one call
def call_of(op, case, dtype, values=normal):
    args = make_arguments(op, case, dtype, values)
    terms = SPECS[op].terms(case.shape, *case.arguments)
    with NarrowFactors(dtype) if SPECS[op].narrows else contextlib.nullcontext():
        by_torch = decompose(op, args)
    return Call(op, args, decompose(op, args, torch.float64), by_torch, terms)


def allowed_error(dtype, terms, torch_error, slack=2):
    """DESIGN.md's error rule. float64, which is summed in float64, has its own eps."""
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    floor = max(4 * eps, eps * math.sqrt(terms), torch.finfo(dtype).eps / 2)
    return max(slack * torch_error, floor)


def error_of(got, reference):
    """max |got - reference| / max |reference|, over what is finite; among subnormal numbers as
    beside the smallest normal one: they have no more digits."""
    least = torch.finfo(got.dtype).smallest_normal
    finite = reference.isfinite()
    got, reference = got.double()[finite], reference[finite]
    if reference.numel() == 0:
        return 0.0
    wrong, size = (got - reference).abs().max().item(), reference.abs().max().item()
    return wrong / max(size, least) if size else math.inf if wrong else 0.0


worst = {}  # (op, dtype) -> (error / allowed, error): for the summary


def worst_growth(call):
    """How far beyond the error rule each output's error may grow for the most unlucky of values.

    Terms that are all alike round alike, to an error that grows with their number instead of its
    square root; and where terms cancel, it is their size that counts, not what is left of them.
    """
    if not (SPECS[call.op].reordered or SPECS[call.op].cancels):
        return (1,) * len(call.reference)

    def size(x):
        return x[x.isfinite()].abs().max().item() if x.isfinite().any() else 0

    def positive(x):
        return x.abs() if x.is_floating_point() else x

    whole = decompose(call.op, map_tensors(positive, call.args), torch.float64)
    sizes = [(size(x), size(left)) for x, left in zip(whole, call.reference, strict=True)]
    alike = math.sqrt(call.terms) if SPECS[call.op].reordered else 1
    return tuple(alike * max(1, x / left) if left else math.inf for x, left in sizes)


def check_accurate(got, call, growth=None):
    """The outputs of an op against its decomposition: the rule that every op test goes by.

    `growth`: worst_growth(call), where the values may be unlucky ones.
    """
    assert len(got) == len(call.reference)
    growth = growth or (1,) * len(got)
    for y, reference, by_torch, times in zip(got, call.reference, call.torch, growth, strict=True):
        y = y.cpu()
        assert y.dtype == by_torch.dtype
        assert y.shape == by_torch.shape
        if not y.is_floating_point():
            assert torch.equal(y, by_torch)
            continue
        # Where the reference overflows the dtype, infinity is the right answer.
        reference = torch.where(reference.to(y.dtype).isinf(), reference.to(y.dtype), reference)
        if SPECS[call.op].mixes and not all(x.isfinite().all() for x in tensors_of(call.args)):
            assert not y.isfinite()[~reference.isfinite()].any()
            reference = torch.where(y.isfinite(), reference, y.double())
        assert torch.equal(y.isnan(), reference.isnan())
        assert torch.equal(y.isinf(), reference.isinf())
        assert torch.equal(y[y.isinf()].double(), reference[reference.isinf()])
        by_torch = error_of(by_torch, reference)
        if not math.isfinite(by_torch):  # torch's own sum overflowed: no measure for ours
            by_torch = 0.0
        terms = call.terms * times**2
        allowed = allowed_error(y.dtype, terms, by_torch, SPECS[call.op].slack)
        error = error_of(y, reference)
        measured = (error / allowed, error)
        worst[call.op, y.dtype] = max(worst.get((call.op, y.dtype), measured), measured)
        assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


def bits(x):
    """A tensor's bits as integers, all NaNs alike: tells -0 from 0."""
    x = x.detach().cpu().contiguous()
    if x.is_floating_point():
        x = torch.where(x.isnan(), torch.nan, x)
    return x.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize])


def same_bits(got, expected):
    return all(torch.equal(bits(a), bits(b)) for a, b in zip(got, expected, strict=True))


def rounded(reference, dtype):
    """An exact float64 result, as a kernel that computes in float32 (or float64) stores it."""
    if not reference.is_floating_point():
        return reference
    return reference.to(torch.float64 if dtype == torch.float64 else torch.float32).to(dtype)
