"""attention: softmax(query @ key^T * scale + mask) @ value, without ever keeping the scores.

Rows that see no key (all masked, or there are none) are zeros, as in torch. `logsumexp` of the
rows of scores is what the backward needs; 16-bit types are computed in float32. With dropout_p some
of the probabilities are dropped, by the seed alone: csrc/op/attention.h says which.
"""

import math

import torch

from ._dense import compute_dtype
from ._op import Op, check
from .dropout import philox, scale_of, threshold_of

MOST_DIMENSIONS = 8  # csrc/common/layout.h's Dims
MOST_CHANNELS_OF_CUDA = 384  # whose rows fit into shared memory, in every dtype, also backward


def _wide(x, group=1):
    """In the type that is computed in, heads repeated for the query heads that share them."""
    x = x.to(compute_dtype(x))
    return x if group == 1 else x.repeat_interleave(group, -3)


def _scores(query, key, mask, is_causal, scale):
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    if mask is not None:
        seen = mask.dtype == torch.bool
        scores = scores + (
            torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)
            if seen
            else mask
        )
    if is_causal:
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores + torch.zeros_like(ahead, dtype=scores.dtype).masked_fill(ahead, -math.inf)
    return scores


def _shares(scores, dropout_p, seed):
    """What dropout leaves of each probability: none, or more than all."""
    rows, Lk = scores.shape[:-1].numel(), scores.shape[-1]
    groups = -(-Lk // 16)
    words = philox(torch.arange(rows * groups * 4, device=scores.device), seed)
    words = words.view(2, 2, rows, groups, 4).permute(2, 3, 0, 4, 1).reshape(rows, groups * 16)
    kept = words[:, :Lk] >= threshold_of(dropout_p)
    return kept.view(scores.shape).to(scores.dtype) * scale_of(dropout_p, True)


def _group(query, key, enable_gqa):
    return query.shape[-3] // key.shape[-3] if enable_gqa else 1


def decomposition(query, key, value, mask, is_causal, scale, enable_gqa, dropout_p=0.0, seed=0):
    dtype, group = query.dtype, _group(query, key, enable_gqa)
    query, key, value = _wide(query), _wide(key, group), _wide(value, group)
    scores = _scores(query, key, mask, is_causal, scale)
    most = scores.detach().amax(-1, keepdim=True) if key.shape[-2] else scores.new_zeros(())
    most = most.masked_fill(most == -math.inf, 0)
    exponentials = (scores - most).exp()
    sums = exponentials.sum(-1, keepdim=True)
    p = exponentials / sums.masked_fill(sums == 0, 1)
    y = (p * _shares(p, dropout_p, seed) if dropout_p else p) @ value
    return y.to(dtype), (sums.log() + most).squeeze(-1)


def _attention_inference(*args):
    return decomposition(*args)[0]


def decomposition_backward(
    grad_y,
    grad_logsumexp,
    query,
    key,
    value,
    mask,
    y,
    logsumexp,
    is_causal,
    scale,
    enable_gqa,
    dropout_p,
    seed,
    mask_grad,
):
    dtype, group = query.dtype, _group(query, key, enable_gqa)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    grad_y, y, query = _wide(grad_y), _wide(y), _wide(query)
    key, value = _wide(key, group), _wide(value, group)
    scores = _scores(query, key, mask, is_causal, scale)
    shift = logsumexp.masked_fill(logsumexp == -math.inf, 0)
    p = (scores - shift.unsqueeze(-1)).exp()
    delta = (grad_y * y).sum(-1) - grad_logsumexp
    shares = _shares(p, dropout_p, seed) if dropout_p else 1
    ds = p * (grad_y @ value.mT * shares - delta.unsqueeze(-1))
    grad_q, grad_k, grad_v = ds @ key * scale, ds.mT @ query * scale, (p * shares).mT @ grad_y
    if group > 1:
        grad_k, grad_v = (g.unflatten(-3, (-1, group)).sum(-3) for g in (grad_k, grad_v))
    grad_mask = ds.sum_to_size(mask.shape).to(mask.dtype) if mask_grad else grad_y.new_empty(0)
    return (
        grad_q.to(dtype),
        grad_k.to(dtype),
        grad_v.to(dtype),
        grad_mask if mask_grad else grad_mask.to(dtype),
    )


def empty_heads(x, shape):
    """Dense; from 4 dimensions on its heads lie side by side in a row, as in torch's."""
    if len(shape) < 4:
        return x.new_empty(shape)
    return x.new_empty((*shape[:-3], shape[-2], shape[-3], shape[-1])).transpose(-2, -3)


def check_companion(op, argument, x, query, shape=None):
    check(x.device == query.device, op, argument, x.device, f"the query's, {query.device}")
    check(x.dtype == query.dtype, op, argument, x.dtype, f"the query's, {query.dtype}")
    if shape is not None:
        check(list(x.shape) == list(shape), op, argument, list(x.shape), list(shape))


def _broadcasts(mask, scores):
    return mask.dim() <= len(scores) and all(
        m == 1 or m == s for m, s in zip(reversed(mask.shape), reversed(scores), strict=False)
    )


def _check(op, query, key, value, mask, enable_gqa):
    check(query.is_floating_point(), op, "query", query.dtype, "a floating dtype")
    check_companion(op, "key", key, query)
    check_companion(op, "value", value, query)
    rank = query.dim()
    check(
        2 <= rank <= MOST_DIMENSIONS, op, "query", f"{rank} dimensions", f"2 to {MOST_DIMENSIONS}"
    )
    check(key.dim() == rank, op, "key", f"{key.dim()} dimensions", f"the query's, {rank}")
    check(value.dim() == rank, op, "value", f"{value.dim()} dimensions", f"the query's, {rank}")
    check(rank > 2 or not enable_gqa, op, "query", "2 dimensions", "heads for enable_gqa")
    check(query.shape[-1] > 0, op, "query", "0 channels", "at least 1")
    *leads, _, D = query.shape
    if enable_gqa:
        heads = key.shape[-3]
        divides = heads > 0 and leads[-1] % heads == 0
        check(divides, op, "key", f"{heads} heads", f"a divisor of the query's, {leads[-1]}")
        leads[-1] = heads
    Lk = key.shape[-2]
    check_companion(op, "key", key, query, (*leads, Lk, D))
    check_companion(op, "value", value, query, (*leads, Lk, value.shape[-1]))
    check_mask(op, mask, query, [*query.shape[:-1], Lk])


def check_mask(op, mask, query, scores):
    if mask is None:
        return
    check(mask.device == query.device, op, "mask", mask.device, f"the query's, {query.device}")
    fits = _broadcasts(mask, scores)
    check(fits, op, "mask", list(mask.shape), f"one that broadcasts to {scores}")
    good = mask.dtype in (torch.bool, torch.float32, query.dtype)
    expected = f"torch.bool, torch.float32 or the query's, {query.dtype}"
    check(good, op, "mask", mask.dtype, expected)


def check_rows(op, query, shape, logsumexp, grad_logsumexp):
    for argument, x in (("logsumexp", logsumexp), ("grad_logsumexp", grad_logsumexp)):
        check(x.device == query.device, op, argument, x.device, f"the query's, {query.device}")
        check(x.dtype == compute_dtype(query), op, argument, x.dtype, compute_dtype(query))
        check(list(x.shape) == list(shape), op, argument, list(x.shape), list(shape))


def empty_mask_gradient(op, query, mask, mask_grad):
    floating = mask is not None and mask.dtype != torch.bool
    check(not mask_grad or floating, op, "mask_grad", True, "False where there is no floating mask")
    return mask.new_empty(mask.shape) if mask_grad else query.new_empty(0)


def _fake_inference(query, key, value, mask, is_causal, scale, enable_gqa):
    _check("attention", query, key, value, mask, enable_gqa)
    return empty_heads(query, (*query.shape[:-1], value.shape[-1]))


def _check_dropout(op, dropout_p):
    check(0 <= dropout_p <= 1, op, "dropout_p", dropout_p, "0 to 1")


def _fake(query, *args):
    *args, dropout_p, _ = args
    y = _fake_inference(query, *args)
    _check_dropout("attention", dropout_p)
    return y, query.new_empty(query.shape[:-1], dtype=compute_dtype(query))


def _fake_backward(
    grad_y,
    grad_logsumexp,
    query,
    key,
    value,
    mask,
    y,
    logsumexp,
    is_causal,
    scale,
    enable_gqa,
    dropout_p,
    seed,
    mask_grad,
):
    op = "attention_backward"
    _check(op, query, key, value, mask, enable_gqa)
    _check_dropout(op, dropout_p)
    y_shape = (*query.shape[:-1], value.shape[-1])
    check_companion(op, "grad_y", grad_y, query, y_shape)
    check_companion(op, "y", y, query, y_shape)
    check_rows(op, query, query.shape[:-1], logsumexp, grad_logsumexp)
    grad_mask = empty_mask_gradient(op, query, mask, mask_grad)
    return *(empty_heads(x, x.shape) for x in (query, key, value)), grad_mask


def _save(ctx, inputs, output):
    query, key, value, mask, *ctx.arguments = inputs
    ctx.save_for_backward(query, key, value, mask, *output)


def _backward(ctx, grad_y, grad_logsumexp):
    query, key, value, mask, y, logsumexp = ctx.saved_tensors
    mask_grad = ctx.needs_input_grad[3]
    *grads, grad_mask = attention_backward(
        *(grad_y, grad_logsumexp, query, key, value, mask, y, logsumexp, *ctx.arguments, mask_grad),
        namespace=ctx.namespace,
    )
    return *grads, grad_mask if mask_grad else None, *(None for _ in ctx.arguments)


def _products(query, key, value, of_qk, of_v):
    """FLOPs of so many products with D and with Dv columns."""
    Lk, D, Dv = key[-2], query[-1], value[-1]
    return 2 * math.prod(query[:-1]) * Lk * (of_qk * D + of_v * Dv)


def _flops(query, key, value, *args):
    return _products(query, key, value, 1, 1)


def _flops_backward(grad_y, grad_logsumexp, query, key, value, *args):
    return _products(query, key, value, 3, 2)


_TENSORS = ("query", "key", "value")

# Sharded, a mask or its gradient would need other placements than the rest: replicated only.
attention_inference = Op(
    name="attention_inference",
    decomposition=_attention_inference,
    fake=_fake_inference,
    autocast=(*_TENSORS, "mask"),
    flops=_flops,
    batched=_TENSORS,
    sample_dims=None,
    sharded_dims=(),
)
attention = Op(
    name="attention",
    decomposition=decomposition,
    fake=_fake,
    save=_save,
    backward=_backward,
    autocast=(*_TENSORS, "mask"),
    flops=_flops,
    batched=_TENSORS,
    sample_dims=None,
    sharded_dims=(),
)
attention_backward = Op(
    name="attention_backward",
    decomposition=decomposition_backward,
    fake=_fake_backward,
    flops=_flops_backward,
    batched=(),  # the mask's gradient is summed over its batch
    sharded_dims=(),
)
