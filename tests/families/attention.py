"""Attention: the shapes that ViT and Swin attend over, cut to few heads, and odd ones."""

import math

import hypothesis.strategies as st
import torch

from torchext.ops import OPS

from .case import Case, Spec

# (name, shape of the query, shape of the key, columns of the value, mask, causal, scale, dropout).
# mask: None, or (kind, shape); "bool" hides all keys from the first query; with "seen" all
# queries see the first key.


def _case(name, query, key=None, columns=None, mask=None, causal=False, scale=None, dropout=0.0):
    key = query if key is None else key
    columns = query[-1] if columns is None else columns
    grouped = len(query) > 2 and key[-3] != query[-3]
    return Case(name, query, (key, columns, mask, causal, scale, grouped, dropout))


CASES = (
    _case("swin", (4, 3, 49, 32), mask=("add", (3, 49, 49))),
    _case("vit", (1, 2, 197, 64)),
    _case("causal", (2, 2, 37, 16), causal=True),
    _case("causal-more-keys", (1, 2, 9, 8), (1, 2, 21, 8), causal=True),
    _case("causal-fewer-keys", (1, 2, 150, 8), (1, 2, 140, 8), causal=True),
    _case("causal-long", (1, 1, 290, 8), causal=True),
    _case("grouped", (2, 4, 6, 5), (2, 2, 7, 5), 3, scale=0.01),
    _case("grouped-one-head", (1, 3, 20, 8), (1, 1, 33, 8), mask=("add", (3, 1, 33)), causal=True),
    _case("primes", (3, 2, 5, 7), (3, 2, 11, 7), 3, ("add", (2, 5, 11)), scale=0.01),
    _case("laid-out", (2, 3, 2), (2, 5, 2), 3, ("add", (2, 3, 5)), scale=0.01),
    _case("unbatched", (3, 5, 6), (3, 4, 6), mask=("seen", (5, 4)), scale=0.02),
    _case("one-matrix", (5, 4), (6, 4), mask=("add", (1, 6)), causal=True, scale=0.02),
    _case("many-batches", (2, 1, 2, 3, 5, 4), mask=("add", (2, 1, 1, 3, 1, 5))),
    _case("bool", (2, 3, 17, 8), (2, 3, 33, 8), mask=("bool", (2, 1, 17, 33))),
    _case("bool-keys", (2, 3, 17, 8), mask=("seen", (2, 1, 1, 17))),
    _case("bool-causal", (2, 17, 8), mask=("bool", (17, 1)), causal=True),
    _case("add-all", (2, 3, 18, 8), (2, 3, 19, 8), mask=("add", (2, 3, 18, 19))),
    _case("add-float32", (2, 3, 18, 8), (2, 3, 19, 8), mask=("float32", (3, 18, 19))),
    _case("add-scalar", (2, 3, 8), mask=("add", ())),
    _case("dropout", (2, 2, 37, 16), (2, 2, 150, 16), dropout=0.25),
    _case("dropout-all", (1, 2, 9, 8), dropout=1.0),
    _case("dropout-grouped", (2, 4, 21, 5), (2, 2, 35, 5), 3, scale=0.01, dropout=0.5),
    _case("dropout-causal", (1, 3, 140, 8), mask=("add", (3, 1, 140)), causal=True, dropout=0.1),
    _case("one-token", (1, 1, 1, 1)),
    _case("one-key", (1, 2, 90, 3), (1, 2, 1, 3)),
    _case("no-keys", (1, 2, 3, 4), (1, 2, 0, 4), mask=("add", (3, 1))),
    _case("no-queries", (1, 2, 0, 4), (1, 2, 5, 4)),
    _case("no-columns", (1, 2, 3, 4), columns=0),
    _case("empty-batch", (0, 2, 3, 4), mask=("add", (3, 3))),
    *(_case(f"keys-{n}", (1, 1, n - 1, 8), (1, 1, n, 8)) for n in (15, 17, 127, 129, 260)),
    *(_case(f"columns-{d}", (1, 2, 7, d), columns=d + 1) for d in (8, 15, 33, 59, 111, 256)),
)


SEED = 2**40 + 7


def _inference(values, query, key_shape, columns, mask, causal, scale, grouped, dropout):
    key, value = values(key_shape), values((*key_shape[:-1], columns))
    if mask is not None:
        kind, shape = mask
        mask = values(shape)
        if kind == "float32":
            mask = mask.to(torch.float64 if query.dtype == torch.float64 else torch.float32)
        if kind == "bool":
            mask = (mask > -0.5).index_fill(-2, torch.tensor(0, device=mask.device), False)
        if kind == "seen":
            mask = (mask > -0.5).index_fill(-1, torch.tensor(0, device=mask.device), True)
    return query, key, value, mask, causal, scale, grouped


def _arguments(*args):
    return *_inference(*args), args[-1], SEED


def _has_gradient(mask):
    """One number's gradient is a sum that cancels: no error is small beside it."""
    return mask is not None and mask.dtype != torch.bool and mask.numel() != 1


def _backward(values, query, *rest):
    args = _arguments(values, query, *rest)
    y, logsumexp = OPS["attention"].decomposition(*args)
    mask_grad = _has_gradient(args[3])
    grads = values(y.shape), values(logsumexp.shape).to(logsumexp.dtype)
    return *grads, *args[:4], y, logsumexp, *args[4:], mask_grad


def _terms(shape, key, *rest):
    return max(shape[-1], key[-2])


def _backward_terms(shape, key, columns, *rest):
    terms = shape[-1] + columns + key[-2] + math.prod(shape[:-1])  # sums of products of sums
    return 16 * terms  # and of differences of sums, which cancel


def _never(case):
    return False  # exponentials are no integers


# Packed: (mask, causal, scale).

PACKED = (
    Case("vit", (1, 50, 3, 2, 64), (("add", (2, 50, 50)), False, None)),
    Case("laid-out", (1, 4, 3, 2, 3), (("add", (2, 4, 4)), False, 0.01)),
    Case("primes", (3, 5, 3, 2, 7), (("add", (2, 5, 1)), False, 0.01)),
    Case("one-token", (1, 1, 3, 1, 1), (None, False, None)),
    Case("causal", (2, 33, 3, 3, 16), (None, True, None)),
    Case("bool", (2, 9, 3, 3, 8), (("bool", (9, 9)), True, None)),
    Case("empty-batch", (0, 5, 3, 2, 4), (("add", (5, 5)), False, None)),
)


def _packed(values, qkv, mask, causal, scale):
    B, N, _, H, D = qkv.shape
    *_, mask, _, _, _ = _inference(
        values, qkv[:, :, 0], (B, N, H, D), 1, mask, causal, scale, False, 0.0
    )
    return qkv, mask, causal, scale


def _packed_backward(values, qkv, *rest):
    args = _packed(values, qkv, *rest)
    y, logsumexp = OPS["attention_qkv"].decomposition(*args)
    mask_grad = _has_gradient(args[1])
    grads = values(y.shape), values(logsumexp.shape).to(logsumexp.dtype)
    return *grads, *args[:2], y, logsumexp, *args[2:], mask_grad


def _packed_terms(shape, *rest):
    return 32 * (shape[0] * shape[1] + shape[4]) * shape[3]


# Windows: (heads, window, shift, scale).

WINDOWS = (
    Case("swin", (1, 14, 14, 3 * 32), (2, [7, 7], [3, 3], None)),
    Case("swin-still", (2, 14, 7, 3 * 6), (3, [7, 7], [0, 0], None)),
    Case("primes", (2, 4, 3, 3 * 6), (3, [2, 3], [1, 2], 0.01)),
    Case("laid-out", (1, 4, 3, 3 * 2), (1, [2, 3], [1, 2], 0.01)),
    Case("one-way", (1, 4, 6, 3 * 4), (1, [2, 3], [0, 2], None)),
    Case("one-token", (1, 1, 1, 3), (1, [1, 1], [0, 0], None)),
    Case("empty-batch", (0, 4, 4, 12), (2, [2, 2], [1, 1], None)),
)


def pair_index(h, w):
    """Swin's: which row of the table stands for pixels i and j of a window, by their distance."""
    at = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")).flatten(1)
    apart = at[:, :, None] - at[:, None]
    return ((apart[0] + h - 1) * (2 * w - 1) + apart[1] + w - 1).flatten()


def _finite(x):
    """-100 leaves less than the smallest normal number: 0, and 0 * inf is NaN."""
    return x.where(~x.isinf(), 1) if x.isinf().any() else x


def _windows(values, qkv, heads, window, shift, scale):
    qkv = _finite(qkv)
    table = values(((2 * window[0] - 1) * (2 * window[1] - 1), heads))
    return qkv, table, pair_index(*window).to(qkv.device), window, shift, scale


def _windows_backward(values, qkv, *rest):
    args = _windows(values, qkv, *rest)
    y, logsumexp = OPS["window_attention"].decomposition(*args)
    grads = _finite(values(y.shape)), values(logsumexp.shape).to(logsumexp.dtype)
    return *grads, *args[:3], y, logsumexp, *args[3:]


def _window_terms(shape, heads, window, *rest):
    return 32 * (math.prod(shape[:-1]) + shape[-1])


def _spec(cases, arguments, terms, **rest):
    return Spec(cases, arguments, terms, _never, _never, narrows=True, **rest)


SPECS = {
    "attention": _spec(CASES, _arguments, _terms, cancels=True),
    "attention_inference": _spec(CASES, _inference, _terms, cancels=True),
    "attention_backward": _spec(CASES, _backward, _backward_terms),
    "attention_qkv": _spec(PACKED, _packed, _packed_terms),
    "attention_qkv_inference": _spec(PACKED, _packed, _packed_terms),
    "attention_qkv_backward": _spec(PACKED, _packed_backward, _packed_terms),
    "window_attention": _spec(WINDOWS, _windows, _window_terms),
    "window_attention_inference": _spec(WINDOWS, _windows, _window_terms),
    "window_attention_backward": _spec(WINDOWS, _windows_backward, _window_terms),
}


# Bad input.


def _filled(*shape, dtype=torch.float32, device="cpu"):
    return torch.ones(shape, dtype=dtype, device=device)


def _call(
    query=(2, 3, 5, 8),
    key=(2, 3, 7, 8),
    value=(2, 3, 7, 4),
    mask=None,
    grouped=False,
    dropout=0.0,
    **tensors,
):
    args = [_filled(*shape) for shape in (query, key, value)]
    args = [tensors.get(n, x) for n, x in zip(("q", "k", "v"), args, strict=True)]
    return "attention", (*args, mask, False, None, grouped, dropout, 0)


def _qkv(*shape, mask=None, **kind):
    return "attention_qkv", (_filled(*shape, **kind), mask, False, None)


def _window(shape=(1, 4, 4, 12), table=(9, 2), index=None, window=(2, 2), shift=(1, 1), **kind):
    index = torch.zeros(16, dtype=torch.int64) if index is None else index
    table = table if isinstance(table, torch.Tensor) else _filled(*table)
    return "window_attention", (_filled(*shape, **kind), table, index, window, shift, None)


def _back(at=None, wrong=None, mask=None, mask_grad=False):
    *args, mask, causal, scale, grouped, dropout, seed = _call(mask=mask)[1]
    tensors = [_filled(2, 3, 5, 4), _filled(2, 3, 5), *args, mask, _filled(2, 3, 5, 4)]
    tensors += [_filled(2, 3, 5)]
    if at is not None:
        tensors[at] = wrong
    return "attention_backward", (*tensors, causal, scale, grouped, dropout, seed, mask_grad)


def _qkv_back(at=None, wrong=None, mask_grad=False):
    y, rows = _filled(2, 5, 12), _filled(2, 3, 5)
    tensors = [y, rows, _filled(2, 5, 3, 3, 4), None, y, rows]
    if at is not None:
        tensors[at] = wrong
    return "attention_qkv_backward", (*tensors, False, None, mask_grad)


def _window_back(at, wrong):
    y, rows = _filled(1, 4, 4, 4), _filled(1, 4, 2, 4)
    _, (*inputs, window, shift, scale) = _window()
    tensors = [y, rows, *inputs, y, rows]
    tensors[at] = wrong
    return "window_attention_backward", (*tensors, window, shift, scale)


REFUSED = [
    (
        "attention: integers",
        "query",
        _call(
            q=_filled(2, 3, 5, 8).long(), k=_filled(2, 3, 7, 8).long(), v=_filled(2, 3, 7, 4).long()
        ),
    ),
    ("attention: 1-d", "query", _call((8,), (8,), (8,))),
    ("attention: drops more than all", "dropout_p", _call(dropout=1.5)),
    ("attention: drops less than nothing", "dropout_p", _call(dropout=-0.5)),
    ("attention: drops no number", "dropout_p", _call(dropout=math.nan)),
    ("attention: 9-d", "query", _call((1,) * 9, (1,) * 9, (1,) * 9)),
    ("attention: no channels", "query", _call((2, 3, 5, 0), (2, 3, 7, 0))),
    ("attention: other channels", "key", _call(key=(2, 3, 7, 9))),
    ("attention: other key rank", "key", _call(key=(3, 7, 8))),
    ("attention: other value rank", "value", _call(value=(3, 7, 4))),
    ("attention: other length", "value", _call(value=(2, 3, 6, 4))),
    ("attention: other batch", "key", _call(key=(1, 3, 7, 8))),
    ("attention: other heads", "key", _call(key=(2, 1, 7, 8), value=(2, 1, 7, 4))),
    ("attention: 2 of 3 heads", "key", _call(key=(2, 2, 7, 8), value=(2, 2, 7, 4), grouped=True)),
    ("attention: no heads", "key", _call(key=(2, 0, 7, 8), value=(2, 0, 7, 4), grouped=True)),
    ("attention: heads of values", "value", _call(value=(2, 1, 7, 4), grouped=True)),
    ("attention: a group of 2-d", "query", _call((5, 8), (7, 8), (7, 4), grouped=True)),
    ("attention: mixed dtypes", "key", _call(k=_filled(2, 3, 7, 8).double())),
    ("attention: mixed value dtypes", "value", _call(v=_filled(2, 3, 7, 4).half())),
    ("attention: meta key", "key", _call(k=_filled(2, 3, 7, 8, device="meta"))),
    ("attention: meta mask", "mask", _call(mask=_filled(5, 7, device="meta"))),
    ("attention: mask shape", "mask", _call(mask=_filled(5, 6))),
    ("attention: mask rank", "mask", _call(mask=_filled(1, 1, 1, 5, 7))),
    ("attention: mask of integers", "mask", _call(mask=_filled(5, 7).long())),
    ("attention: mask of float16", "mask", _call(mask=_filled(5, 7).half())),
    ("attention: grad_y shape", "grad_y", _back(0, _filled(2, 3, 5, 5))),
    ("attention: grad_y dtype", "grad_y", _back(0, _filled(2, 3, 5, 4).double())),
    ("attention: grad_logsumexp shape", "grad_logsumexp", _back(1, _filled(2, 3, 4))),
    ("attention: y shape", "y", _back(6, _filled(2, 3, 4, 4))),
    ("attention: logsumexp dtype", "logsumexp", _back(7, _filled(2, 3, 5).double())),
    ("attention: no mask", "mask_grad", _back(mask_grad=True)),
    ("attention: boolean mask", "mask_grad", _back(mask=_filled(5, 7).bool(), mask_grad=True)),
    ("attention: mask of 4 queries", "mask", _call(mask=_filled(2, 3, 4, 7))),
    ("attention: mask of another batch", "mask", _call(mask=_filled(3, 1, 5, 7).bool())),
    ("attention: meta value", "value", _call(v=_filled(2, 3, 7, 4, device="meta"))),
    ("attention: meta y", "y", _back(6, _filled(2, 3, 5, 4, device="meta"))),
    ("attention: y dtype", "y", _back(6, _filled(2, 3, 5, 4).half())),
    ("attention: logsumexp shape", "logsumexp", _back(7, _filled(2, 3, 5, 1))),
    ("qkv: 6-d", "qkv", _qkv(1, 2, 5, 3, 3, 4)),
    ("qkv: mask of integers", "mask", _qkv(2, 5, 3, 3, 4, mask=_filled(5, 5).long())),
    ("qkv: mask of other heads", "mask", _qkv(2, 5, 3, 3, 4, mask=_filled(2, 5, 5))),
    ("qkv: grad_y shape", "grad_y", _qkv_back(0, _filled(2, 5, 3, 4))),
    ("qkv: y shape", "y", _qkv_back(4, _filled(2, 5, 11))),
    ("qkv: logsumexp shape", "logsumexp", _qkv_back(5, _filled(2, 5, 3))),
    ("qkv: no mask", "mask_grad", _qkv_back(mask_grad=True)),
    ("qkv: 4-d", "qkv", _qkv(2, 3, 3, 4)),
    ("qkv: two thirds", "qkv", _qkv(2, 5, 2, 3, 4)),
    ("qkv: no channels", "qkv", _qkv(2, 5, 3, 3, 0)),
    ("qkv: integers", "qkv", _qkv(2, 5, 3, 3, 4, dtype=torch.int64)),
    ("qkv: mask shape", "mask", _qkv(2, 5, 3, 3, 4, mask=_filled(5, 6))),
    ("windows: 3-d", "qkv", _window((4, 4, 12))),
    ("windows: integers", "qkv", _window(dtype=torch.int64, table=_filled(9, 2).long())),
    ("windows: channels", "qkv", _window((1, 4, 4, 10))),
    ("windows: part of one", "qkv", _window((1, 4, 5, 12))),
    ("windows: table dtype", "table", _window(table=_filled(9, 2).double())),
    ("windows: 1-d table", "table", _window(table=(9,))),
    ("windows: meta table", "table", _window(table=_filled(9, 2, device="meta"))),
    ("windows: no heads", "table", _window(table=(9, 0))),
    ("windows: channels of two thirds", "qkv", _window((1, 4, 4, 8))),
    ("windows: part of one above", "qkv", _window((1, 5, 4, 12))),
    ("windows: grad_y shape", "grad_y", _window_back(0, _filled(1, 4, 4, 12))),
    ("windows: grad_y dtype", "grad_y", _window_back(0, _filled(1, 4, 4, 4).double())),
    ("windows: y shape", "y", _window_back(5, _filled(1, 2, 8, 4))),
    ("windows: logsumexp shape", "logsumexp", _window_back(6, _filled(1, 4, 4, 2))),
    ("windows: no window", "window_size", _window(window=(0, 2))),
    ("windows: three sizes", "window_size", _window(window=(2, 2, 2))),
    ("windows: shift -1", "shift_size", _window(shift=(-1, 0))),
    ("windows: shifted by a window", "shift_size", _window(shift=(0, 2))),
    ("windows: int32 index", "index", _window(index=torch.zeros(16, dtype=torch.int32))),
    ("windows: short index", "index", _window(index=torch.zeros(15, dtype=torch.int64))),
]


# Any input.


@st.composite
def _attentions(draw, most):
    size = st.integers(0, min(40, most)) | st.integers(1, 3)
    leads = draw(st.lists(st.integers(0, 3), max_size=2))
    heads, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    Lq, Lk, D, Dv = draw(size), draw(size), max(1, draw(size)), draw(size)
    mask = draw(st.none() | st.sampled_from(["bool", "seen", "add", "float32"]))
    if mask is not None:
        kept = [n if draw(st.booleans()) else 1 for n in (*leads, heads * group, Lq, Lk)]
        mask = mask, tuple(kept[draw(st.integers(0, len(leads) + 1)) :])
        if 0 in mask[1] and mask[0] in ("bool", "seen"):
            mask = None
    scale = draw(st.sampled_from([1, -0.3])) / (16 * D)  # exp makes large scores' rounding larger
    key = (*leads, heads, Lk, D)
    query = (*leads, heads * group, Lq, D)
    dropout = draw(st.sampled_from([0.0, 0.0, 0.2, 0.5]))
    return query, (key, Dv, mask, draw(st.booleans()), scale, group > 1, dropout)


@st.composite
def _packings(draw, most):
    size = st.integers(0, min(40, most)) | st.integers(1, 3)
    B, N, H, D = draw(st.integers(0, 3)), draw(size), draw(st.integers(1, 3)), max(1, draw(size))
    mask = draw(st.none() | st.sampled_from(["seen", "add", "float32"]))
    if mask is not None:
        leads = [n if draw(st.booleans()) else 1 for n in (B, H, N)]
        mask = mask, (*leads, N)  # the gradients of a row cancel
        mask = None if 0 in mask[1] else mask
    return (B, N, 3, H, D), (mask, draw(st.booleans()), 1 / (16 * D))


@st.composite
def _images(draw, most):
    size, few = st.integers(1, min(7, most)), st.integers(1, min(3, most))
    window, counts = [draw(size), draw(size)], [draw(few), draw(few)]
    # Within a lone window it would leave pixels that see but themselves, whose gradients cancel.
    shift = [
        draw(st.integers(0, n - 1)) if c > 1 else 0 for n, c in zip(window, counts, strict=True)
    ]
    heads, D = draw(few), draw(size)
    H, W = (n * count for n, count in zip(window, counts, strict=True))
    return (draw(st.integers(0, 2)), H, W, 3 * heads * D), (heads, window, shift, 1 / (16 * D))


def _strategy(op):
    return _images if "window" in op else _packings if "qkv" in op else _attentions


FUZZED = {op: _strategy(op) for op in SPECS}
