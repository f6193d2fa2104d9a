"""What PyTorch must know about an op, declared once: `Op` registers it all and calls the op.

An op's file in this folder reads like a specification: the decomposition (a few lines of ATen: the
op's meaning), the fake (shapes), and where they apply the gradient, autocast, vmap, FLOPs and
sharding. Everything else follows from these.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.autograd import forward_ad

from .. import _load
from .._fallback import notice
from ._lazy import when_imported

# Every op, by name: what the tests, `torchext info` and the documentation iterate.
OPS = {}

FLOATS = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
_CAST = FLOATS - {torch.float64}  # by autocast, as torch does
_DISABLED = os.environ.get("TORCHEXT_DISABLE", "0") not in ("", "0")
PLAIN = (torch.Tensor, torch.nn.Parameter)  # no subclass, whose sizes may be symbols
_functorch = torch._C._functorch
_VMAP = _functorch.TransformType.Vmap


class _Here(threading.local):
    disabled = False


_here = _Here()


@contextlib.contextmanager
def disabled():
    """Within, this thread's ops are plain PyTorch, as with TORCHEXT_DISABLE=1."""
    before, _here.disabled = _here.disabled, True
    try:
        yield
    finally:
        _here.disabled = before


@functools.cache  # a Library unregisters what it registered when it is collected
def library_of(namespace):
    return torch.library.Library(namespace, "FRAGMENT")


def check(condition, op, argument, got, expected):
    """The Python side of csrc's CHECK: the same words, for fakes and Triton kernels."""
    if condition is not True:  # asking torch costs 2 us
        torch._check(condition, lambda: f"{op}: {argument}: got {got}, expected {expected}")


def needs_grad(*tensors):
    """Whether a call on them takes the differentiable op; if not, `<op>_inference` is faster."""
    if torch.is_grad_enabled():
        for x in tensors:
            if getattr(x, "requires_grad", False):  # of what is no tensor, the op speaks better
                return True
    return False


def no_gradient_of(ctx, *outputs):
    """For save(): marks outputs; and for gradients that nobody gives, backward() gets None, not
    zeros."""
    ctx.mark_non_differentiable(*outputs)
    ctx.set_materialize_grads(False)


def _nothing_but_kernels(x, modes=0):
    """Whether a call on x may go past the dispatcher: the way through it and back to Python costs
    4 us, twice a training step. `modes` of it are no hindrance."""
    return (
        type(x) in PLAIN
        and not _here.disabled
        and (x.is_cpu or x.is_cuda)
        and x.layout is torch.strided
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == modes
        and not torch._C._is_torch_function_mode_enabled()
        and not torch.is_autocast_enabled("cpu" if x.is_cpu else "cuda")
        and _functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
    )


@dataclass(eq=False, kw_only=True)
class Op:
    """One schema of csrc/ops.cpp.

    decomposition  the op in ATen, with the schema's arguments: fallback, reference, and what
                   forward AD, functorch, double backward and ONNX use
    fake           shapes, strides and checks over SymInt, with the schema's arguments
    backward       (ctx, *grads) -> a gradient per argument; save(ctx, inputs, output) feeds it
    constants      names of floating tensors that have no gradient
    autocast       names of the arguments that are cast to autocast's dtype
    flops          FLOPs as torch.utils.flop_counter counts them, from the arguments' shapes
    batched        names of the tensors whose first dimension is the batch; None: all of them
    sample_dims    dimensions of one sample of a batched tensor: a tensor of so many has no batch
                   dimension. None: any number of leading dimensions are batch
    sharded_dims   DTensor: dims along which outputs and batched tensors may be sharded alike
    dtypes         of the first argument, for which kernels exist
    slower         with the op's arguments: why ATen is faster here, where that was measured; or ""
    pairs          how many int[2] arguments, each of which may be one int, follow the first
    """

    name: str
    decomposition: Callable
    fake: Callable
    backward: Callable | None = None
    save: Callable | None = None
    constants: tuple = ()
    autocast: tuple = ()
    flops: Callable = lambda *args, **kwargs: 0
    batched: tuple | None = None
    sample_dims: int | None = 3
    sharded_dims: tuple = (0,)
    dtypes: frozenset = FLOATS
    slower: Callable = lambda *args: ""
    pairs: int = 0
    _function: type | None = field(init=False, default=None)  # the kernel, as autograd calls it
    _direct: Callable | None = field(init=False, default=None)  # the kernel past the dispatcher

    def __post_init__(self):
        OPS[self.name] = self
        if not _load.why_not_loaded["cpu"]:
            self._function = register(self, "torchext")
            if not _DISABLED:
                self._direct = getattr(torch.ops.torchext, self.name).default._op

    def __call__(self, x, *args, namespace="torchext"):
        """The op on `x`: its kernel, or plain PyTorch with a notice.

        A gradient passes ctx.namespace, so that it stays in the namespace of its forward op.
        """
        if (
            namespace == "torchext"
            and self._direct is not None
            and _nothing_but_kernels(x)
            and x.dtype in self.dtypes
        ):
            if self._function is not None and torch.is_grad_enabled():
                return self._function.apply(x, *args)
            with torch._C._AutoDispatchBelowAutograd():
                return self._direct(x, *args)
        why_not = self._why_no_kernel(x)
        if why_not is None:
            return getattr(getattr(torch.ops, namespace), self.name)(x, *args)
        if why_not:
            notice(self.name, why_not)
        args = [[a, a] if k < self.pairs and isinstance(a, int) else a for k, a in enumerate(args)]
        return self.decomposition(x, *args)

    def fallback(self, x, *args):
        """What runs on a device without a kernel."""
        self._check_tensor(x)  # None has no device at all
        notice(self.name, f"no kernel for {x.device.type} tensors")
        return self.decomposition(x, *args)

    def _check_tensor(self, x):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{self.name}: input: got {type(x).__name__}, expected a Tensor")

    def _why_no_kernel(self, x):
        """None where the kernel runs; else why not ("" needs no notice: the user asked for it)."""
        self._check_tensor(x)
        if _DISABLED or _here.disabled:
            return ""
        if x.dtype not in self.dtypes:
            return f"no kernel for {x.dtype}"
        if x.layout is not torch.strided:
            return f"no kernel for {x.layout}"
        if forward_ad._current_level >= 0:
            return "forward-mode AD differentiates the decomposition"
        if (
            not torch.compiler.is_compiling()
            and _functorch.peek_interpreter_stack() is not None
            and any(level.key() != _VMAP for level in _functorch.get_interpreter_stack())
        ):
            return "torch.func transforms the decomposition"
        if _load.why_not_loaded["cpu"]:
            return "the library did not load"
        return None


def register(op, namespace):
    """Tells PyTorch all about `op` under `namespace`, where its schema is already defined.

    Returns the autograd.Function of a differentiable op, for calls past the dispatcher.
    """
    qualified = f"{namespace}::{op.name}"
    library = library_of(namespace)
    function = None
    library.impl(op.name, op.fallback, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, op.fake, lib=library)
    if op.backward:
        function = _register_autograd(op, namespace, op.backward, op.save)
    elif "_backward" in op.name:
        function = _register_double_backward(op, namespace)
    overload = getattr(getattr(torch.ops, namespace), op.name).default
    torch.library.register_vmap(qualified, _fold_batch(op, overload), lib=library)
    if op.autocast:
        _register_autocast(op, namespace, library)
    torch._decomp.decomposition_table[overload] = op.decomposition  # ONNX export reads this table
    torch._decomp.meta_table[overload] = op.fake  # without it FakeTensor prefers the decomposition
    # Inductor would otherwise refuse, where CI is set, an op found in the decomposition table.
    when_imported(
        "torch._inductor.lowering",
        lambda module: module.make_fallback(overload, module.constrain_to_fake_tensors, warn=False),
    )
    when_imported(
        "torch.utils.flop_counter",
        lambda module: module.register_flop_formula(overload.overloadpacket)(
            lambda *args, out_shape=None, **kwargs: op.flops(*args, **kwargs)
        ),
    )
    when_imported("torch.distributed.tensor", lambda module: _register_sharding(op, overload))
    return function


def _register_autograd(op, namespace, backward, save):
    """As torch.library.register_autograd, at half its cost, and where that goes wrong right.

    It silently drops the tangents of forward AD, and torch.func refuses what it makes: there the
    decomposition runs. An op without a gradient (`<op>_inference`) has neither.
    """
    overload = getattr(getattr(torch.ops, namespace), op.name).default

    class Direct(torch.autograd.Function):
        """For calls past the dispatcher."""

        @staticmethod
        def forward(ctx, *args):
            with torch._C._AutoDispatchBelowAutograd():
                y = overload._op(*args)
            ctx.namespace = namespace
            save(ctx, args, y)
            return y

        @staticmethod
        def backward(ctx, *grads):
            if grads[0] is None and all(g is None for g in grads):
                return (None,) * len(ctx.needs_input_grad)
            return backward(ctx, *grads)

    class Dispatched(Direct):
        @staticmethod
        def forward(ctx, *args):
            *args, keyset = args
            y = below(keyset, args)
            ctx.namespace = namespace
            save(ctx, args, y)
            return y

        @staticmethod
        def backward(ctx, *grads):
            return *Direct.backward(ctx, *grads), None

    def below(keyset, args):
        with torch._C._AutoDispatchBelowAutograd():
            return overload.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    def autograd(keyset, *args):
        if forward_ad._current_level >= 0 or _functorch.peek_interpreter_stack() is not None:
            notice(op.name, "forward-mode AD and torch.func transform the decomposition")
            return op.decomposition(*args)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return Dispatched.apply(*args, keyset)
        return below(keyset, args)

    library_of(namespace).impl(op.name, autograd, "Autograd", with_keyset=True)
    return Direct


def _register_double_backward(op, namespace):
    """A gradient's own gradient: that of its decomposition."""

    overload = getattr(getattr(torch.ops, namespace), op.name).default
    names = [argument.name for argument in overload._schema.arguments]

    def save(ctx, inputs, output):
        ctx.save_for_backward(*(x for x in inputs if isinstance(x, torch.Tensor)))
        ctx.arguments = [None if isinstance(x, torch.Tensor) else x for x in inputs]
        ctx.is_tensor = [isinstance(x, torch.Tensor) for x in inputs]

    def backward(ctx, *grads):
        tensors = iter(ctx.saved_tensors)
        inputs = [
            next(tensors) if tensor else x
            for tensor, x in zip(ctx.is_tensor, ctx.arguments, strict=True)
        ]
        wanted = [
            i
            for i, (name, needed) in enumerate(zip(names, ctx.needs_input_grad, strict=False))
            if needed and name not in op.constants
        ]
        with torch.enable_grad():
            inputs = [
                x.detach().requires_grad_() if i in wanted else x for i, x in enumerate(inputs)
            ]
            ys = op.decomposition(*inputs)
        ys = ys if isinstance(ys, tuple) else (ys,)
        pairs = [
            (y, g) for y, g in zip(ys, grads, strict=True) if g is not None and y.requires_grad
        ]
        found = torch.autograd.grad(
            [y for y, _ in pairs],
            [inputs[i] for i in wanted],
            [g for _, g in pairs],
            allow_unused=True,
            materialize_grads=True,
        )
        found = iter(found)
        return tuple(next(found) if i in wanted else None for i in range(len(inputs)))

    return _register_autograd(op, namespace, backward, save)


def _tensor_names(op, overload):
    """(all arguments' names, those of its batched tensors)"""
    arguments = overload._schema.arguments
    tensors = [a.name for a in arguments if "Tensor" in str(a.type)]
    return [a.name for a in arguments], tensors if op.batched is None else list(op.batched)


def _fold_batch(op, overload):
    """vmap by folding the mapped dimension into the batch; one by one where weights are mapped."""
    names, batched = _tensor_names(op, overload)

    def fold(x, dim, size):
        """(x with the mapped dimension folded, whether x had no batch dimension)"""
        x = x.movedim(dim, 0) if dim is not None else x.expand(size, *x.shape)
        unbatched = op.sample_dims is None or x.dim() == op.sample_dims + 1
        return x if unbatched else x.flatten(0, 1), unbatched

    def one_by_one(size, in_dims, args):
        def sample(i):
            y = overload(
                *(
                    x if dim is None else x.select(dim, i)
                    for x, dim in zip(args, in_dims, strict=True)
                )
            )
            return y if isinstance(y, tuple) else (y,)

        ys = tuple(map(torch.stack, zip(*map(sample, range(size)), strict=True)))
        return (ys, (0,) * len(ys)) if len(ys) > 1 else (ys[0], 0)

    def vmap(info, in_dims, *args):
        in_dims = [
            dim if isinstance(x, torch.Tensor) else None
            for x, dim in zip(args, in_dims, strict=True)
        ]
        mapped = {n for n, dim in zip(names, in_dims, strict=False) if dim is not None}
        if not mapped.issubset(batched):
            return one_by_one(info.batch_size, in_dims, args)
        args, unbatched = list(args), False
        for i, (name, x, dim) in enumerate(zip(names, args, in_dims, strict=False)):
            if name in batched and isinstance(x, torch.Tensor):
                args[i], unbatched = fold(x, dim, info.batch_size)
        y = overload(*args)

        def unfold(t):
            return t if unbatched else t.unflatten(0, (info.batch_size, -1))

        if isinstance(y, tuple):
            return tuple(unfold(t) for t in y), (0,) * len(y)
        return unfold(y), 0

    return vmap


def _register_autocast(op, namespace, library):
    """Casts the named arguments, and only those, to the dtype of the autocast region."""
    overload = getattr(getattr(torch.ops, namespace), op.name).default
    names = [argument.name for argument in overload._schema.arguments]
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
        torch._C.DispatchKey.AutocastCUDA
    )
    for device in ("cpu", "cuda"):

        def autocast(*args, device=device):
            dtype = torch.get_autocast_dtype(device)
            with torch._C._ExcludeDispatchKeyGuard(keys):
                return overload(
                    *(
                        x.to(dtype)
                        if name in op.autocast and isinstance(x, torch.Tensor) and x.dtype in _CAST
                        else x
                        for name, x in zip(names, args, strict=False)
                    )
                )

        library.impl(op.name, autocast, f"Autocast{device.upper()}")


def _register_sharding(op, overload):
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.experimental import register_sharding

    outputs = len(overload._schema.returns)
    _, batched = _tensor_names(op, overload)
    arguments = overload._schema.arguments

    def place(argument, value, placement):
        if value is None or "Tensor" not in str(argument.type):
            return None
        return placement if argument.name in batched else Replicate()

    @register_sharding(overload)
    def strategy(*args, **kwargs):
        return [
            (
                [p] * outputs,
                [place(a, x, p) for a, x in zip(arguments, args, strict=False)],
            )
            for p in [Replicate(), *(Shard(dim) for dim in op.sharded_dims)]
        ]
