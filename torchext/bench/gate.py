"""The correctness gate: no speed is reported for an output that is wrong.

The judge is the case's reference in f64 on the same (rounded) inputs. An output's error is
max|y - judge| / max|judge|; PyTorch's own error in the case's dtype sets how much is allowed.
"""

import dataclasses
import math

import torch

from .case import bind, flatten, parameters_of, prepare

EPS32 = 2.0**-23


@dataclasses.dataclass(frozen=True)
class Verdict:
    error: float | None = None  # the worst output's
    allowed: float | None = None
    reason: str = ""  # why it is red; "" if it is green


def judge(case):
    """[(f64 output, error allowed)] for each output, then each gradient in training."""
    wanted = _outputs(case, case.reference, torch.float64)
    seen = _outputs(case, case.reference, None)
    weights = len(parameters_of(case.reference())) if case.training else 0
    floor = max(
        4 * EPS32,
        EPS32 * math.sqrt(case.sum_length),
        torch.finfo(getattr(torch, case.dtype)).eps / 2,
    )
    allowed = [max(floor, 2 * relative_error(y, y64)) for y, y64 in zip(seen, wanted, strict=True)]
    first_weight = len(allowed) - weights  # a weight's gradient sums over the whole batch
    allowed = [3 * a if i >= first_weight else a for i, a in enumerate(allowed)]
    return list(zip(wanted, allowed, strict=True))


def _outputs(case, make, dtype):
    torch.manual_seed(0)  # as in every worker: or the judge's weights would be others each time
    function = prepare(case, make(), "contiguous", dtype)
    outputs = flatten(bind(case, function, "contiguous", dtype)())
    return [y.detach().cpu() for y in outputs]


def check(case, outputs, judged):
    """The Verdict on a contender's outputs."""
    if len(outputs) != len(judged):
        return Verdict(reason=f"{len(outputs)} outputs, expected {len(judged)}")
    worst = Verdict(0.0, math.inf)
    for i, (y, (wanted, allowed)) in enumerate(zip(outputs, judged, strict=True)):
        if y.shape != wanted.shape:
            return Verdict(
                reason=f"output {i}: shape {list(y.shape)}, expected {list(wanted.shape)}"
            )
        if y.is_floating_point() and y.dtype is not getattr(torch, case.dtype):
            return Verdict(reason=f"output {i}: {y.dtype}, expected torch.{case.dtype}")
        error = relative_error(y, wanted)
        if error > allowed:
            return Verdict(error, allowed, f"output {i}: error {error:.1e}, allowed {allowed:.1e}")
        if error / allowed >= worst.error / worst.allowed:
            worst = Verdict(error, allowed)
    return worst


def relative_error(y, wanted):
    """max|y - wanted| / max|wanted|; infinite unless the same are NaN, inf and -inf."""
    if wanted.numel() == 0:
        return 0.0
    y = y.detach().cpu().double()
    finite = wanted.isfinite()
    if not torch.isclose(y[~finite], wanted[~finite], equal_nan=True).all():
        return math.inf
    if not y[finite].isfinite().all():
        return math.inf
    difference = torch.where(finite, y - wanted, 0).abs().max().item()
    scale = torch.where(finite, wanted, 0).abs().max().item()
    return difference / scale if scale else difference
