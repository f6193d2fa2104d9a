"""`torchext demo`: ops at real layer shapes, verified against PyTorch in float64 and timed."""

import argparse
import time

import torch

from . import nn

CASES = [  # name, torchext's module, torch's module, input shape
    ("max pool 3x3/2 of ResNet", nn.MaxPool2d, torch.nn.MaxPool2d, (3, 2, 1), (8, 64, 112, 112)),
    ("max pool 2x2/2 of VGG", nn.MaxPool2d, torch.nn.MaxPool2d, (2, 2), (1, 64, 224, 224)),
    ("max pool 3x3/2 of AlexNet", nn.MaxPool2d, torch.nn.MaxPool2d, (3, 2), (8, 192, 27, 27)),
    ("average pool 3x3/2", nn.AvgPool2d, torch.nn.AvgPool2d, (3, 2), (1, 64, 56, 56)),
    (
        "global average of ResNet-50",
        nn.AdaptiveAvgPool2d,
        torch.nn.AdaptiveAvgPool2d,
        (1,),
        (8, 2048, 7, 7),
    ),
]


def best_times(functions, seconds=0.5):
    """The least time of each, the functions taking turns so that noise meets all alike."""
    best = [float("inf")] * len(functions)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for k, function in enumerate(functions):
            function()
            start = time.perf_counter()
            function()
            best[k] = min(best[k], time.perf_counter() - start)
    return best


def error(y, exact):
    return ((y.double() - exact).abs().max() / exact.abs().max()).item()


def main(argv):
    argparse.ArgumentParser(prog="torchext demo", description=__doc__).parse_args(argv)
    torch.manual_seed(0)
    failed = 0
    print(f"{'':30}{'input':20}{'error':>9}{'torch':>9}{'':4}{'torchext':>10}{'torch':>9}")
    with torch.inference_mode():
        for name, ours, theirs, arguments, shape in CASES:
            x = torch.randn(shape).to(memory_format=torch.channels_last)
            ours, theirs = ours(*arguments), theirs(*arguments)
            exact = theirs(x.double())
            our_error, their_error = error(ours(x), exact), error(theirs(x), exact)
            right = our_error <= max(2 * their_error, 4 * 1.2e-7)
            failed += not right
            our_time, their_time = best_times(
                [lambda m=ours, x=x: m(x), lambda m=theirs, x=x: m(x)]
            )
            print(
                f"{name:30}{'x'.join(map(str, shape)):20}{our_error:9.1e}{their_error:9.1e}"
                f"{' ok ' if right else ' BAD'}{our_time * 1e3:8.3f}ms{their_time * 1e3:7.3f}ms"
                f"  {their_time / our_time:.1f}x"
            )
    print("all right" if not failed else f"{failed} WRONG")
    return 1 if failed else 0
