"""dropout by a seed: the same elements for any number of threads, layout, device and dtype.

Element i (row-major) is dropped where Philox 4x32-10's word for it is below p * 2^32. `scaled`
divides the others by 1 - p. The gradient is dropout, with the same seed, of the gradient.
"""

import torch

from ._dense import check_dtype, compute_dtype
from ._op import Op, check

_WORD = 0xFFFFFFFF


def philox(counter, seed):
    """Four words for each counter, [4, *counter.shape], as int64."""
    a, b, c, d = counter & _WORD, counter >> 32, counter * 0, counter * 0
    for n in range(10):
        key = [(seed + n * 0x9E3779B9) & _WORD, ((seed >> 32) + n * 0xBB67AE85) & _WORD]
        first, second = a * 0xD2511F53, c * 0xCD9E8D57  # wrap around: their bits are right
        a, b, c, d = (
            (second >> 32 & _WORD) ^ b ^ key[0],
            second & _WORD,
            (first >> 32 & _WORD) ^ d ^ key[1],
            first & _WORD,
        )
    return torch.stack([a, b, c, d])


def random_words(count, seed, device):
    """The word for each element: csrc/op/dropout.h says which."""
    i = torch.arange(count, device=device)
    return philox(i // 256 * 64 + i % 64, seed).gather(0, (i // 64 % 4)[None])[0]


def scale_of(p, scaled):
    return 1 / (1 - p) if scaled and p < 1 else 1.0


def threshold_of(p):
    return int(p * 2**32 + 0.5)


def _dropout(x, p, seed, scaled):
    kept = random_words(x.numel(), seed, x.device).reshape(x.shape) >= threshold_of(p)
    y = torch.where(kept, x.to(compute_dtype(x)) * scale_of(p, scaled), 0.0)
    return y.to(x.dtype).contiguous()


def _fake(x, p, seed, scaled):
    check_dtype("dropout", "input", x)
    check(0 <= p <= 1, "dropout", "p", p, "0 to 1")
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output):
    _, *ctx.arguments = inputs


def _backward(ctx, grad_y):
    return dropout(grad_y, *ctx.arguments, namespace=ctx.namespace), None, None, None


_common = {"sample_dims": None, "batched": (), "sharded_dims": ()}
dropout_inference = Op(name="dropout_inference", decomposition=_dropout, fake=_fake, **_common)
dropout = Op(
    name="dropout",
    decomposition=_dropout,
    fake=_fake,
    save=_save,
    backward=_backward,
    **_common,
)
