"""The forward of an accelerated model: the fast path where it is the same, the model's own else."""

import copy
import math
import weakref

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from .. import _explain, _memory
from ..ops._op import _nothing_but_kernels
from ._capture import NotCapturedError, capture, tidy
from ._compiled import Compiled
from ._gate import Gate
from ._layers import Trial, leave_layers, use_layers
from ._lower import lower
from ._raise import raise_to_aten
from ._report import Report
from ._stand_in import StandIn
from ._timing import least_times, waiter

FEW_DIGITS = {torch.bfloat16, torch.float16}
MOST_SHAPES = 8  # of input for which code is kept; others run the model's own forward
_GATE = Gate()


class Accelerated(StandIn):
    """Stands for `forward` in an accelerated copy of a model."""

    KEPT = (*StandIn.KEPT, "dtype", "strict", "precision")

    def __init__(self, model, source, dtype, strict, precision):
        super().__init__(model, source)
        self.dtype, self.strict, self.precision = dtype, strict, precision
        self._forget()

    def _forget(self):  # code is made again when it is needed
        self.report = self.model.torchext_report = Report(type(self.model).__name__)
        self._compiled = {}  # the call's key -> Compiled, or why there is none
        self._prepared = weakref.WeakValueDictionary()
        self._tree = self._settings = None
        self._by_layers = False

    def __call__(self, *args, **kwargs):
        # torch.export sets is_compiling() for all threads: those that wait for it don't compile.
        if torch.compiler.is_dynamo_compiling() or (
            torch.compiler.is_compiling() and _GATE.is_open()
        ):
            return self.own_forward(*args, **kwargs)
        with _GATE:
            return self._call(args, kwargs)

    def _call(self, args, kwargs):
        tensors, key = _key(args, kwargs)
        if tensors is None or not self._applies(tensors):
            return self.own_forward(*args, **kwargs)
        compiled = self._compiled.get(key)
        if compiled is None and _is_capturing(tensors):
            self.report.note(
                "the model's own forward: a CUDA graph was captured before it was built"
            )
            return self.own_forward(*args, **kwargs)
        if compiled is None:
            with _GATE.alone(), _disable_current_modes():
                compiled = self._compiled.get(key) or self._build(args, kwargs, tensors)
                self._compiled[key] = compiled
                _memory.give_back()
        if isinstance(compiled, str):
            return self.own_forward(*args, **kwargs)
        compiled.follow()
        if torch.is_grad_enabled():
            parameters = [x for x in compiled.seen if x.requires_grad]
            if parameters or any(x.requires_grad for x in tensors):
                return self._with_gradient(compiled, args, kwargs, tensors, parameters)
        with torch._C._AutoDispatchBelowAutograd():
            return compiled(*tensors)

    def _applies(self, tensors):
        """Whether nothing about this call asks for the model's own way."""
        modes = _explain.onlookers()
        if not all(_nothing_but_kernels(x, modes) for x in tensors):
            return False
        if self._tree is None or any(held.get(name) is not m for held, name, m in self._tree):
            self._compiled.clear()  # somebody has put other modules in
            self._tree = [
                (module._modules, name, child)
                for module in self.model.modules()
                for name, child in module._modules.items()
            ]
        if self.model.training or any(m.training for _, _, m in self._tree if m is not None):
            return False
        if type(self.model) is not self.kind:  # FSDP2 does that, and hides changes of weights
            self.report.note(f"the model's own forward: its class became {type(self.model)}")
            return False
        if hooked := self.hooked():
            self.report.note(f"the model's own forward: hooks on {', '.join(hooked)}")
        return not hooked

    def refresh(self):
        if self._settings != _settings_of(self.model):
            self._compiled.clear()
        self._prepared.clear()
        for compiled in self._compiled.values():
            if not isinstance(compiled, str):
                compiled.refresh()

    def _build(self, args, kwargs, tensors):
        """Code for calls like this one; or why there is none."""
        if len(self._compiled) >= MOST_SHAPES:
            return self._give_up(f"more than {MOST_SHAPES} shapes of input", refuse=False)
        try:
            model = self._twin(self.dtype)
            # Each a tensor of its own: of one that came twice, the graph would have one input.
            cast = [x.to(self.dtype) if self._is_cast(x) else x.detach() for x in tensors]
            program = capture(model, *_with_tensors(args, kwargs, cast), self.model)
        except NotCapturedError as error:
            why = self._give_up(str(error))
            self._go_by_layers(args, kwargs)
            return why
        raise_to_aten(program.graph)
        tidy(program.graph)
        compiled = Compiled(program, lower(program, self.precision), self.dtype, self._prepared)
        compiled.tune(tensors)
        compiled.prepare()
        self.report.places(compiled.places)
        self._settings = _settings_of(self.model)
        return self._verify(compiled, args, kwargs, tensors) or compiled

    def _go_by_layers(self, args, kwargs):
        """Where there is no graph, each layer by itself, by what is faster."""
        if self._by_layers or self.dtype is not None:
            return
        self._by_layers = True
        use_layers(self.model, self.report)
        with torch.no_grad(), Trial(self.model, self.report):
            ours = self.own_forward(*args, **kwargs)
        if not error_of(ours, self.source(*args, **kwargs)) <= 1e-3:
            self.report.note("PyTorch's own layers: results differ")
            leave_layers(self.model)

    def _is_cast(self, x):
        return self.dtype is not None and x.is_floating_point()

    def _twin(self, dtype):
        """The model without this forward; a copy in that dtype, unless it is None."""
        twin = copy.copy(self.model)
        twin.__dict__ = {k: v for k, v in self.model.__dict__.items() if k != "forward"}
        return twin if dtype is None else copy.deepcopy(twin).to(dtype)

    def _give_up(self, why, refuse=True):
        if self.strict and refuse:
            raise RuntimeError(f"accelerate: {type(self.model).__name__}: {why}")
        self.report.note(f"the model's own forward: {why}")
        return why

    def _verify(self, compiled, args, kwargs, tensors):
        """Why the code can't be used, or wins nothing; else None."""

        def own():
            return self.own_forward(*args, **kwargs)

        with torch.no_grad():
            ours, expected, limit = compiled(*tensors), own(), self._limit(tensors)
            error = error_of(ours, expected)
            if not error <= limit and not self._as_exact(ours, expected, args, kwargs, tensors):
                why = f"results differ by {error:.1e} of the largest, more than {limit:.0e}"
                return self._give_up(why)
            ways = [own, lambda: compiled(*tensors)]
            seconds = least_times(ways, wait=waiter(tensors))
        self.report.measured(error, *seconds)
        if seconds[1] > seconds[0]:
            return self._give_up("it is faster", refuse=False)
        return None

    def _limit(self, tensors):
        """How far results may be from eager's, of the largest: sums run in another order."""
        dtypes = {x.dtype for x in tensors if x.is_floating_point()} | {self.dtype}
        return 5e-2 if dtypes & FEW_DIGITS else 1e-3

    def _as_exact(self, ours, own, args, kwargs, tensors):
        """In few digits two right results of a deep model may differ by more than the limit:
        whether ours is at most twice as far from float32's as PyTorch's in as few."""

        def results_in(dtype):
            cast = [x.to(dtype) if x.is_floating_point() else x for x in tensors]
            cast_args, cast_kwargs = _with_tensors(args, kwargs, cast)
            return self._twin(dtype)(*cast_args, **cast_kwargs)

        if self.dtype in FEW_DIGITS:
            theirs, exact = results_in(self.dtype), own
        elif any(x.dtype in FEW_DIGITS for x in tensors):
            theirs, exact = own, results_in(torch.float32)
        else:
            return False
        return error_of(ours, exact) <= 2 * error_of(theirs, exact)

    def _with_gradient(self, compiled, args, kwargs, tensors, parameters):
        outputs = _Gradient.apply(
            lambda: compiled(*tensors),
            lambda inputs: self._own_with(args, kwargs, inputs),
            len(tensors),
            *tensors,
            *parameters,
        )
        return pytree.tree_unflatten(outputs, compiled.program.out_spec)

    def _own_with(self, args, kwargs, tensors):
        args, kwargs = _with_tensors(args, kwargs, tensors)
        with _GATE:
            return self.own_forward(*args, **kwargs)


class _Gradient(torch.autograd.Function):
    """The fast path's results, with the gradient of the model's own forward, which is run only if
    somebody asks for it."""

    @staticmethod
    def forward(ctx, fast, own, count, *tensors):
        ctx.own, ctx.count = own, count
        ctx.save_for_backward(*tensors)
        return tuple(pytree.tree_leaves(fast()))

    @staticmethod
    def backward(ctx, *grads):
        tensors = ctx.saved_tensors
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_(x.requires_grad) for x in tensors[: ctx.count]]
            outputs = pytree.tree_leaves(ctx.own(inputs))
        wanted = [*inputs, *tensors[ctx.count :]]
        pairs = [
            (y, g)
            for y, g in zip(outputs, grads, strict=True)
            if isinstance(y, torch.Tensor) and y.requires_grad
        ]
        found = iter(
            torch.autograd.grad(
                [y for y, _ in pairs],
                [x for x in wanted if x.requires_grad],
                [g for _, g in pairs],
                allow_unused=True,
            )
        )
        return None, None, None, *(next(found) if x.requires_grad else None for x in wanted)


def _key(args, kwargs):
    """(the call's tensors, what the code is for); (None, None) where there can be no code."""
    if len(args) == 1 and not kwargs and type(args[0]) is torch.Tensor:
        return args, _facts(args[0])
    leaves, spec = pytree.tree_flatten((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    facts = [_facts(x) if isinstance(x, torch.Tensor) else x for x in leaves]
    key = (*facts, str(spec))
    try:
        hash(key)
    except TypeError:
        return None, None
    return (tensors, key) if tensors else (None, None)


def _is_capturing(tensors):
    """Whether a CUDA graph is being made, in which nothing can be timed."""
    return any(x.is_cuda for x in tensors) and torch.cuda.is_current_stream_capturing()


def _facts(x):
    turned = x.dim() == 4 and not x.is_contiguous()  # results have the strides of such images
    turned = turned and x.is_contiguous(memory_format=torch.channels_last)
    return x.shape, x.dtype, x.device, turned


def _with_tensors(args, kwargs, tensors):
    leaves, spec = pytree.tree_flatten((args, kwargs))
    rest = iter(tensors)
    leaves = [next(rest) if isinstance(x, torch.Tensor) else x for x in leaves]
    return pytree.tree_unflatten(leaves, spec)


def _settings_of(model):
    """The numbers and names among the modules' attributes, which the code has as they were."""
    plain = (bool, int, float, str, tuple, type(None))
    return [
        {name: value for name, value in vars(module).items() if isinstance(value, plain)}
        for module in model.modules()
    ]


def error_of(ours, expected):
    """The largest difference, of the largest value; infinite if they are not of the same kind."""
    ours, spec = pytree.tree_flatten(ours)
    expected, expected_spec = pytree.tree_flatten(expected)
    if spec != expected_spec:
        return math.inf
    worst = 0.0
    for a, b in zip(ours, expected, strict=True):
        if isinstance(b, torch.Tensor) and b.is_floating_point() and b.numel():
            scale = b.abs().max().item() or 1.0
            worst = max(worst, ((a - b).abs().max() / scale).item())
    return worst
