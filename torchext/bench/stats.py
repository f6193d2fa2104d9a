"""Numbers from samples. A speed-up is another contender's time over ours: above 1, we are faster.

`rounds` is a list, round by round, of a contender's samples in seconds per call.
"""

import math
import statistics


def minimum(rounds):
    return min(min(samples) for samples in rounds)


def median(rounds):
    return statistics.median(sample for samples in rounds for sample in samples)


def paired(ours, other):
    """The median of per-round ratios: slow phases of the machine hit both sides of each ratio."""
    return statistics.median(
        statistics.median(theirs) / statistics.median(mine)
        for mine, theirs in zip(ours, other, strict=True)
    )


def speedups(ours, others):
    """Ours against the fastest of `others` ({name: rounds}), by each measure on its own."""
    if not others:
        return None
    by_median = {name: median(rounds) / median(ours) for name, rounds in others.items()}
    return {
        "against": min(by_median, key=by_median.get),
        "min": min(minimum(rounds) for rounds in others.values()) / minimum(ours),
        "median": min(by_median.values()),
        "paired": min(paired(ours, rounds) for rounds in others.values()),
    }


def geometric_mean(values):
    return math.exp(statistics.fmean(math.log(value) for value in values))


def roofline_s(case, limits):
    """The least time that one call of the case can take; None where the limits are unknown."""
    if not case.bytes or not limits:
        return None
    return max(
        case.bytes / limits["bytes_per_s"],
        case.flops / limits["flops_per_s"],
    )


def summary(samples, calls):
    """What pytest-benchmark stores of the samples; `calls` were timed together in each."""
    ordered = sorted(samples)
    mean = statistics.fmean(ordered)
    deviation = statistics.stdev(ordered) if len(ordered) > 1 else 0.0
    q1, middle, q3 = (
        statistics.quantiles(ordered, method="inclusive") if len(ordered) > 1 else ordered * 3
    )
    fence = 1.5 * (q3 - q1)
    inside = [x for x in ordered if q1 - fence <= x <= q3 + fence]
    far = sum(abs(x - mean) > deviation for x in ordered)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": deviation,
        "rounds": len(ordered),
        "median": middle,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": len(ordered) - len(inside),
        "stddev_outliers": far,
        "outliers": f"{far};{len(ordered) - len(inside)}",
        "ld15iqr": inside[0],
        "hd15iqr": inside[-1],
        "ops": 1 / mean,
        "total": sum(ordered),
        "iterations": calls,
    }
