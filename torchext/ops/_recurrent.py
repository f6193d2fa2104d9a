"""What the recurrent ops share: the recurrence in ATen, its gradient, its shapes over SymInt.

A cell is two functions of one step:
  forward   (x, r, h, c) -> (new h, new c, what its gradient needs, h at the end)
  backward  (saved, h, dh, dc) -> (dx, dr, dh, dc)
x and r are the products of the input and of the hidden state, with their biases; h and c are the
states before the step (c is None but for lstm), dh and dc the gradients of the new states and then
of the old ones, dh without what passes through dr. 16-bit tensors are computed in float32, states
included.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ._dense import compute_dtype
from ._op import Op, check, no_gradient_of
from ._pool2d import check_dtype, check_same_device


def _widened(tensors):
    return [t if t is None else t.to(compute_dtype(t)) for t in tensors]


def steps_of(x, batch_sizes):
    """A tensor's part in each step; batch_sizes is empty if padded, None for a cell."""
    return [x] if batch_sizes is None else x.split(batch_sizes) if batch_sizes else x.unbind()


def _joined(steps, batch_sizes):
    return steps[0] if batch_sizes is None else (torch.cat if batch_sizes else torch.stack)(steps)


def _over(new, old):
    """The rows of a state: those that have a step get a new one, the others keep theirs."""
    return new if new.shape[0] == old.shape[0] else torch.cat([new, old[new.shape[0] :]])


def recur(forward, x, h, c, w_ih, w_hh, b_ih, b_hh, batch_sizes, reverse):
    """(y, h, c, saved) of a sequence: padded [T, B, I], packed [N, I], or one step [B, I]."""
    order = -1 if reverse else 1
    ys, kept = [], []
    for step in steps_of(F.linear(x, w_ih, b_ih), batch_sizes)[::order]:
        n = step.shape[0]
        c_now = c if c is None else c[:n]
        y, c_new, saved = forward(step, F.linear(h[:n], w_hh, b_hh), h[:n], c_now)
        h, c = _over(y, h), c if c is None else _over(c_new, c)
        ys.append(y)
        kept.append(saved)
    saved = None if kept[0] is None else torch.cat(kept[::order])
    return _joined(ys[::order], batch_sizes), h, c, saved


def recur_backward(
    backward, grad_y, dh, dc, x, h0, w_ih, w_hh, hidden, batch_sizes, reverse, saved
):
    """Gradients of x, h, c and the weights and biases, from those of y, h and c."""
    order = -1 if reverse else 1
    grads = steps_of(grad_y, batch_sizes)[::order]
    sizes = [step.shape[0] for step in steps_of(x, batch_sizes)]
    kept = saved.split(sizes)[::order]
    h, before = h0, []  # the hidden states before each step
    for step in kept:
        before.append(h[: step.shape[0]])
        h = _over(step[:, -hidden:], h)
    dxs, drs = [], []
    for step, h, grad in zip(kept[::-1], before[::-1], grads[::-1], strict=True):
        n = step.shape[0]
        dx, dr, rest, dc_old = backward(step, h, dh[:n] + grad, dc if dc is None else dc[:n])
        through = dr @ w_hh
        dh = _over(through if rest is None else through + rest, dh)
        dc = dc if dc is None else _over(dc_old, dc)
        dxs.append(dx)
        drs.append(dr)
    dx, dr, h = (torch.cat(steps[::order]) for steps in (dxs[::-1], drs[::-1], before))
    grad_x = (dx @ w_ih).view_as(x)
    return (grad_x, dh, dc, dx.T @ x.flatten(0, -2), dr.T @ h, dx.sum(0), dr.sum(0))


# Shapes and checks: the rules of csrc/op/recurrent.cpp.


def _check_rank(op, argument, x, rank, what):
    check(x.dim() == rank, op, argument, f"{x.dim()} dimensions", f"{rank} {what}")


def _check_tensor(op, argument, x, shape, like, dtype):
    if x is not None:
        check_same_device(op, argument, x, like)
        check(x.dtype == dtype, op, argument, f"dtype {x.dtype}", dtype)
        check(tuple(x.shape) == tuple(shape), op, argument, f"shape {list(x.shape)}", list(shape))


def check_layer(op, gates, x, hx, cx, w_ih, w_hh, b_ih, b_hh, batch_sizes=None):
    """(B, N, H, P), everything checked; batch_sizes None: a cell."""
    packed = bool(batch_sizes)
    if batch_sizes is None:
        _check_rank(op, "input", x, 2, "(B, I)")
    else:
        what = "(N, I), being packed" if packed else "(T, B, I)"
        _check_rank(op, "input", x, 2 if packed else 3, what)
    batch, rows = x.shape[-2], x.shape[0]
    if packed:
        for t, (last, size) in enumerate(itertools.pairwise([batch_sizes[0], *batch_sizes])):
            wanted = "positive sizes that never grow"
            check(1 <= size <= last, op, "batch_sizes", f"{size} at step {t}", wanted)
        total, wanted = sum(batch_sizes), f"the input's {rows} rows"
        check(total == rows, op, "batch_sizes", f"a sum of {total}", wanted)
        batch = batch_sizes[0]
    elif batch_sizes is not None:
        check(rows > 0, op, "input", "a sequence of length 0", "at least 1")
        rows = rows * batch
    check_dtype(op, "input", x)
    _check_rank(op, "w_ih", w_ih, 2, "(gates * H, I)")
    _check_rank(op, "w_hh", w_hh, 2, "(gates * H, H)")
    total = w_ih.shape[0]
    hidden = total // gates
    wanted = f"{gates} times the hidden size"
    check(hidden > 0 and hidden * gates == total, op, "w_ih", f"{total} rows", wanted)
    # The cell of an LSTM with projections has a hidden state of another size.
    state = w_hh.shape[1] if batch_sizes is None and cx is not None else hidden
    for argument, tensor, shape in [
        ("w_ih", w_ih, (total, x.shape[-1])),
        ("w_hh", w_hh, (total, state)),
        ("b_ih", b_ih, (total,)),
        ("b_hh", b_hh, (total,)),
        ("hx", hx, (batch, state)),
        ("cx", cx, (batch, hidden)),
    ]:
        _check_tensor(op, argument, tensor, shape, x, x.dtype)
    return batch, rows, hidden


LAYERS = []  # every one of them


@dataclass(frozen=True)
class Layer:
    """A kind of cell, over sequences (op <name>) or alone (<name>_cell): what its three ops need.

    Every op's arguments are input, hx, cx (if has_c), w_ih, w_hh, b_ih, b_hh, then for sequences
    batch_sizes and reverse, then the cell's options. A gradient has the gradients of the outputs
    before them, and saved after them.
    """

    name: str
    forward: Callable
    backward: Callable
    gates: int
    saved: int  # rows of H that a step saves, the last of which is h
    has_c: bool
    sequence: bool
    options: int = 0

    @property
    def tensors(self):
        return 6 + self.has_c

    @property
    def arguments(self):
        return self.tensors + 2 * self.sequence + self.options

    @property
    def outputs(self):
        return 1 + self.has_c + self.sequence

    def parts(self, args):
        """((x, h, c, weights and biases), (batch_sizes, reverse), options): None where absent."""
        x, h, *rest = args
        c = rest.pop(0) if self.has_c else None
        steps = rest[4:6] if self.sequence else (None, False)
        return (x, h, c, *rest[:4]), steps, rest[4 + 2 * self.sequence :]

    def training(self, *args):
        return self.run(self.forward, args)

    def inference(self, *args):
        return _single(self.run(self.forward, args)[:-1])

    def gradient(self, *args):
        """From what the recurrence, done again, saves: so that it has gradients itself."""
        saved = self.run(self.forward, args[self.outputs : -1])[-1]
        return self.run_gradient(self.backward, args, saved)

    def run(self, forward, args):
        """The op's outputs and, at the end, what was saved (perhaps None)."""
        tensors, steps, options = self.parts(args)
        y, h, c, saved = recur(lambda *now: forward(*now, *options), *_widened(tensors), *steps)
        return *(t.to(args[0].dtype) for t in self._outputs(y, h, c)), saved

    def run_gradient(self, backward, args, saved):
        """The gradient op's outputs."""
        grads, args = args[: self.outputs], args[self.outputs : -1]
        tensors, steps, options = self.parts(args)
        x, h, _, w_ih, w_hh, *_ = _widened(tensors)
        hidden = w_ih.shape[0] // self.gates
        grad_y, *states = (g if g is None else g.to(x.dtype) for g in grads)
        if not self.sequence:
            states.insert(0, None)  # of h, whose gradient is y's
        states = [x.new_zeros(h.shape[0], hidden) if g is None else g for g in states]
        dh, dc = states if self.has_c else (*states, None)
        found = recur_backward(
            lambda *now: backward(*now, *options),
            *(grad_y, dh, dc, x, h, w_ih, w_hh, hidden, *steps, saved),
        )
        return tuple(g.to(args[0].dtype) for g in found if g is not None)

    def fake(self, op, training):
        def shapes(*args):
            (x, *tensors), (batch_sizes, _), _ = self.parts(args)
            batch, rows, hidden = check_layer(op, self.gates, x, *tensors, batch_sizes)
            y, h, c = (x.new_empty(size) for size in self._sizes(x, batch, hidden))
            saved = x.new_empty((rows, self.saved * hidden), dtype=compute_dtype(x))
            found = self._outputs(y, h, c if self.has_c else None)
            return (*found, saved) if training else _single(found)

        return shapes

    def fake_gradient(self, op):
        def shapes(*args):
            grads, args = args[: self.outputs], args[self.outputs :]
            saved = args[-1]
            (x, *tensors), (batch_sizes, _), _ = self.parts(args)
            batch, rows, hidden = check_layer(op, self.gates, x, *tensors, batch_sizes)
            size, state, _ = self._sizes(x, batch, hidden)
            names = ("grad_y", "grad_hy", "grad_cy")[not self.sequence :]
            for name, grad in zip(names, grads, strict=False):
                _check_tensor(op, name, grad, size if name == "grad_y" else state, x, x.dtype)
            _check_tensor(op, "saved", saved, (rows, self.saved * hidden), x, compute_dtype(x))
            w_ih = args[self.tensors - 4]
            found = [t.new_empty(t.shape) for t in args[: self.tensors - 2]]
            return (*found, w_ih.new_empty(w_ih.shape[:1]), w_ih.new_empty(w_ih.shape[:1]))

        return shapes

    def flops(self, x, *args, times=1):
        w_ih, w_hh = args[self.tensors - 5 : self.tensors - 3]
        return 2 * times * math.prod(x[:-1]) * (math.prod(w_ih) + math.prod(w_hh))

    def flops_of_gradient(self, *args):
        return self.flops(*args[self.outputs :], times=2)

    def _sizes(self, x, batch, hidden):
        """Of y, h and c."""
        return (*x.shape[:-1], hidden), (batch, hidden), (batch, hidden)

    def _outputs(self, y, h, c):
        found = (y if self.sequence else None, h, c)
        return tuple(t for t in found if t is not None)

    def save(self, ctx, args, outputs):
        saved = outputs[-1]
        no_gradient_of(ctx, saved)
        ctx.save_for_backward(*args[: self.tensors], saved)
        ctx.rest = args[self.tensors :]

    def make_ops(self):
        """(op, its inference form, its gradient), registered."""
        LAYERS.append(self)
        states = ("input", "hx", "cx")[: 2 + self.has_c]
        common = {
            "autocast": (*states, "w_ih", "w_hh", "b_ih", "b_hh"),
            "batched": () if self.sequence else states,
            "sample_dims": 1,
            "sharded_dims": () if self.sequence else (0,),
        }
        backward_op = Op(
            name=f"{self.name}_backward",
            decomposition=self.gradient,
            fake=self.fake_gradient(f"{self.name}_backward"),
            flops=self.flops_of_gradient,
            constants=("saved",),
            batched=(),
            sharded_dims=(),
        )

        def backward(ctx, *grads):
            *tensors, saved = ctx.saved_tensors
            first, *grads = grads[:-1]  # saved has none
            if first is None:  # only the last state was used
                x, hidden = tensors[0], saved.shape[-1] // self.saved
                first = x.new_zeros((*x.shape[:-1], hidden))
            found = backward_op(first, *grads, *tensors, *ctx.rest, saved, namespace=ctx.namespace)
            found = [g if t is not None else None for g, t in zip(found, tensors, strict=True)]
            return *found, *(None for _ in ctx.rest)

        op = Op(
            name=self.name,
            decomposition=self.training,
            fake=self.fake(self.name, True),
            flops=self.flops,
            save=self.save,
            backward=backward,
            **common,
        )
        inference = Op(
            name=f"{self.name}_inference",
            decomposition=self.inference,
            fake=self.fake(self.name, False),
            flops=self.flops,
            **common,
        )
        return op, inference, backward_op


def _single(outputs):
    return outputs if len(outputs) > 1 else outputs[0]
