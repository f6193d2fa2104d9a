"""attention: y = softmax(q @ k^T * scale + mask) @ v, blocks of queries times blocks of keys.

Forward: a program has a block of queries, and passes all keys with an online softmax. Backward
makes the scores again, from logsumexp: one kernel by blocks of keys (gradients of k and v), one by
blocks of queries (of q), and one for the mask's, which adds up the matrices that share it.
Matrices are numbered (batch, heads of keys, query heads that share one). Not timed yet.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from torchext.ops import OPS
from torchext.ops import window_attention as _windows
from torchext.ops._dense import compute_dtype
from torchext.ops.dropout import scale_of, threshold_of

from ._pool2d import widened
from .dropout import halves, philox

# Queries and keys of a block, for 16-bit types and up to 64 columns: what registers hold.
FORWARD, BACKWARD = (64, 32), (32, 16)
NO_MASK, BOOLEAN, ADDED = map(tl.constexpr, range(3))


@triton.jit
def _matrix(index, heads, group, stride):
    """Where matrix `index` begins."""
    index = index.to(tl.int64)
    b = index // group // heads
    return b * stride[0] + index // group % heads * stride[1] + index % group * stride[2]


@triton.jit
def _load(x, rows, columns, stride, length, width):
    """Rows and columns (one of them lies down) of a matrix, zeros outside."""
    at = x + rows.to(tl.int64) * stride[3] + columns * stride[4]
    return tl.load(at, (rows < length) & (columns < width), 0.0)


@triton.jit
def _product(a, b):
    return tl.dot(
        a, b, input_precision="ieee", out_dtype=tl.float64 if a.dtype == tl.float64 else tl.float32
    )


@triton.jit
def _product_wide(a, b):
    """a @ b for an `a` wider than b: in two parts, so that 16-bit products lose nothing of it."""
    high = a.to(b.dtype)
    product = _product(high, b)
    if a.dtype != b.dtype:
        finite = tl.where(tl.abs(b) < float("inf"), b, 0.0)  # what is not is in the first product
        product += _product((a - high.to(a.dtype)).to(b.dtype), finite)
    return product


@triton.jit
def _scores(q, k, scale, mask, mask_stride, m, n, shape, causal: tl.constexpr, kind: tl.constexpr):
    """A block of scores, -inf beyond the last key; m stands, n lies."""
    s = _product(q, k) * scale
    if kind != NO_MASK:
        added = _load(mask, m, n, mask_stride, shape.Lq, shape.Lk)
        if kind == BOOLEAN:
            s += tl.where(added != 0, 0.0, float("-inf"))
        else:
            s += added.to(s.dtype)
    if causal:
        s += tl.where(n > m, float("-inf"), 0.0)
    return tl.where(n < shape.Lk, s, float("-inf"))


@triton.jit
def _shares(drop, rows, n, Lk, share: tl.constexpr):
    """What dropout leaves of a block's probabilities: csrc/op/attention.h says which word decides.
    rows: of all matrices."""
    counter = rows * ((Lk + 15) // 16 * 4) + n // 16 * 4 + n % 8 // 2
    a, b, c, d = philox(counter, drop.low, drop.high)
    even = n % 2 == 0
    word = tl.where(n % 16 < 8, tl.where(even, a, b), tl.where(even, c, d))
    return tl.where(word.to(tl.int64) >= drop.threshold, share, 0.0)


@triton.jit
def _attention_kernel(
    q,
    k,
    v,
    mask,
    y,
    logsumexp,
    shape,
    q_stride,
    k_stride,
    v_stride,
    mask_stride,
    y_stride,
    scale,
    causal: tl.constexpr,
    kind: tl.constexpr,
    share: tl.constexpr,
    drop,
    block,
):
    index = tl.program_id(1)
    first = tl.program_id(0) * block.M
    q += _matrix(index, shape.heads, shape.group, q_stride)
    k += _matrix(index, shape.heads, shape.group, k_stride)
    v += _matrix(index, shape.heads, shape.group, v_stride)
    y += _matrix(index, shape.heads, shape.group, y_stride)
    if kind != NO_MASK:
        mask += _matrix(index, shape.heads, shape.group, mask_stride)
    m = first + tl.arange(0, block.M)[:, None]
    d = tl.arange(0, block.D)
    c = tl.arange(0, block.C)[None, :]
    q_block = _load(q, m, d[None, :], q_stride, shape.Lq, shape.D)

    o = widened(tl.zeros([block.M, block.C], y.dtype.element_ty))
    sum = widened(tl.zeros([block.M, 1], y.dtype.element_ty))
    most = sum + float("-inf")
    end = tl.minimum(first + block.M, shape.Lk) if causal else shape.Lk
    for key in range(0, end, block.N):
        n = key + tl.arange(0, block.N)
        k_block = _load(k, n[None, :], d[:, None], k_stride, shape.Lk, shape.D)
        s = _scores(q_block, k_block, scale, mask, mask_stride, m, n[None, :], shape, causal, kind)
        next = tl.maximum(most, tl.max(s, 1, keep_dims=True))
        shift = tl.where(next == float("-inf"), 0.0, next)  # nothing seen yet: all is 0
        p = tl.exp(s - shift)
        keep = tl.exp(most - shift)
        sum = sum * keep + tl.sum(p, 1, keep_dims=True)
        if share is not None:
            rows = index.to(tl.int64) * shape.Lq + m
            p *= _shares(drop, rows, n[None, :], shape.Lk, share)
        v_block = _load(v, n[:, None], c, v_stride, shape.Lk, shape.Dv)
        o = o * keep + _product_wide(p, v_block)
        most = next
    none = sum == 0  # saw no key: y = 0
    inside = m < shape.Lq
    o = o / tl.where(none, 1.0, sum)
    tl.store(y + m.to(tl.int64) * y_stride[3] + c * y_stride[4], o, inside & (c < shape.Dv))
    rows = index.to(tl.int64) * shape.Lq + m
    tl.store(logsumexp + rows, tl.where(none, float("-inf"), most + tl.log(sum)), inside)


@triton.jit
def _gradients_of_scores(
    q,
    k,
    v,
    grad_y,
    logsumexp,
    delta,
    row,
    scale,
    mask,
    mask_stride,
    m,
    n,
    shape,
    causal: tl.constexpr,
    kind: tl.constexpr,
    share: tl.constexpr,
    drop,
):
    """(p, ds) of a block: its probabilities as dropout leaves them, and the gradient of its
    scores. row: the matrix's first of all."""
    inside = m < shape.Lq
    shift = tl.load(logsumexp + row + m, inside, float("inf"))
    shift = tl.where(shift == float("-inf"), 0.0, shift)
    p = tl.exp(_scores(q, k, scale, mask, mask_stride, m, n, shape, causal, kind) - shift)
    left = p
    grad = _product(grad_y, v)
    if share is not None:
        shares = _shares(drop, row + m, n, shape.Lk, share)
        left = p * shares
        grad *= shares
    return left, p * (grad - tl.load(delta + row + m, inside, 0.0))


@triton.jit
def _keys_backward_kernel(
    grad_y,
    q,
    k,
    v,
    mask,
    logsumexp,
    delta,
    grad_k,
    grad_v,
    shape,
    grad_y_stride,
    q_stride,
    k_stride,
    v_stride,
    mask_stride,
    grad_k_stride,
    grad_v_stride,
    scale,
    causal: tl.constexpr,
    kind: tl.constexpr,
    share: tl.constexpr,
    drop,
    block,
):
    matrix = tl.program_id(1)  # of keys
    first = tl.program_id(0) * block.N
    n = first + tl.arange(0, block.N)
    d = tl.arange(0, block.D)
    c = tl.arange(0, block.C)
    base = matrix * shape.group
    k += _matrix(base, shape.heads, shape.group, k_stride)
    v += _matrix(base, shape.heads, shape.group, v_stride)
    k_block = _load(k, n[None, :], d[:, None], k_stride, shape.Lk, shape.D)
    v_block = _load(v, n[None, :], c[:, None], v_stride, shape.Lk, shape.Dv)
    k_sum = widened(tl.zeros([block.N, block.D], grad_k.dtype.element_ty))
    v_sum = widened(tl.zeros([block.N, block.C], grad_k.dtype.element_ty))
    for g in range(shape.group):
        index = base + g
        q_matrix = q + _matrix(index, shape.heads, shape.group, q_stride)
        grad_matrix = grad_y + _matrix(index, shape.heads, shape.group, grad_y_stride)
        mask_matrix = mask
        if kind != NO_MASK:
            mask_matrix += _matrix(index, shape.heads, shape.group, mask_stride)
        rows = index.to(tl.int64) * shape.Lq
        begin = first // block.M * block.M if causal else 0
        for query in range(begin, shape.Lq, block.M):
            m = query + tl.arange(0, block.M)[:, None]
            q_block = _load(q_matrix, m, d[None, :], q_stride, shape.Lq, shape.D)
            grad_block = _load(grad_matrix, m, c[None, :], grad_y_stride, shape.Lq, shape.Dv)
            p, ds = _gradients_of_scores(
                *(q_block, k_block, v_block, grad_block, logsumexp, delta, rows, scale),
                *(mask_matrix, mask_stride, m, n[None, :], shape, causal, kind, share, drop),
            )
            v_sum += _product_wide(tl.trans(p), grad_block)
            k_sum += _product_wide(tl.trans(ds), q_block)
    grad_k += _matrix(base, shape.heads, shape.group, grad_k_stride)
    grad_v += _matrix(base, shape.heads, shape.group, grad_v_stride)
    n = n[:, None]
    at = n.to(tl.int64)
    d = d[None, :]
    c = c[None, :]
    tl.store(
        grad_k + at * grad_k_stride[3] + d * grad_k_stride[4],
        k_sum * scale,
        (n < shape.Lk) & (d < shape.D),
    )
    tl.store(
        grad_v + at * grad_v_stride[3] + c * grad_v_stride[4],
        v_sum,
        (n < shape.Lk) & (c < shape.Dv),
    )


@triton.jit
def _queries_backward_kernel(
    grad_y,
    q,
    k,
    v,
    mask,
    logsumexp,
    delta,
    grad_q,
    shape,
    grad_y_stride,
    q_stride,
    k_stride,
    v_stride,
    mask_stride,
    grad_q_stride,
    scale,
    causal: tl.constexpr,
    kind: tl.constexpr,
    share: tl.constexpr,
    drop,
    block,
):
    index = tl.program_id(1)
    first = tl.program_id(0) * block.M
    m = first + tl.arange(0, block.M)[:, None]
    d = tl.arange(0, block.D)
    c = tl.arange(0, block.C)
    k += _matrix(index, shape.heads, shape.group, k_stride)
    v += _matrix(index, shape.heads, shape.group, v_stride)
    q += _matrix(index, shape.heads, shape.group, q_stride)
    grad_y += _matrix(index, shape.heads, shape.group, grad_y_stride)
    if kind != NO_MASK:
        mask += _matrix(index, shape.heads, shape.group, mask_stride)
    rows = index.to(tl.int64) * shape.Lq
    q_block = _load(q, m, d[None, :], q_stride, shape.Lq, shape.D)
    grad_block = _load(grad_y, m, c[None, :], grad_y_stride, shape.Lq, shape.Dv)
    sum = widened(tl.zeros([block.M, block.D], grad_q.dtype.element_ty))
    end = tl.minimum(first + block.M, shape.Lk) if causal else shape.Lk
    for key in range(0, end, block.N):
        n = key + tl.arange(0, block.N)
        k_block = _load(k, n[None, :], d[:, None], k_stride, shape.Lk, shape.D)
        v_block = _load(v, n[None, :], c[:, None], v_stride, shape.Lk, shape.Dv)
        _, ds = _gradients_of_scores(
            *(q_block, k_block, v_block, grad_block, logsumexp, delta, rows, scale),
            *(mask, mask_stride, m, n[None, :], shape, causal, kind, share, drop),
        )
        sum += _product_wide(ds, tl.trans(k_block))
    grad_q += _matrix(index, shape.heads, shape.group, grad_q_stride)
    at = m.to(tl.int64) * grad_q_stride[3] + d[None, :] * grad_q_stride[4]
    tl.store(grad_q + at, sum * scale, (m < shape.Lq) & (d[None, :] < shape.D))


@triton.jit
def _mask_backward_kernel(
    grad_y,
    q,
    k,
    v,
    mask,
    logsumexp,
    delta,
    grad_mask,
    shape,
    grad_y_stride,
    q_stride,
    k_stride,
    v_stride,
    mask_stride,
    grad_mask_stride,
    own,  # sizes of grad_mask's leading dimensions: 1 where matrices share it
    shared,  # the others' sizes
    scale,
    causal: tl.constexpr,
    kind: tl.constexpr,
    share: tl.constexpr,
    drop,
    block,
):
    first = tl.program_id(0) * block.M
    m = first + tl.arange(0, block.M)[:, None]
    n = tl.program_id(1) * block.N + tl.arange(0, block.N)[None, :]
    mine = tl.program_id(2)
    d = tl.arange(0, block.D)
    c = tl.arange(0, block.C)
    sum = widened(tl.zeros([block.M, block.N], grad_mask.dtype.element_ty))
    for other in range(shared[0] * shared[1] * shared[2]):
        b = mine // own[2] // own[1] + other // shared[2] // shared[1]
        h = mine // own[2] % own[1] + other // shared[2] % shared[1]
        g = mine % own[2] + other % shared[2]
        index = (b * shape.heads + h) * shape.group + g
        rows = index.to(tl.int64) * shape.Lq
        q_matrix = q + _matrix(index, shape.heads, shape.group, q_stride)
        k_matrix = k + _matrix(index, shape.heads, shape.group, k_stride)
        v_matrix = v + _matrix(index, shape.heads, shape.group, v_stride)
        grad_matrix = grad_y + _matrix(index, shape.heads, shape.group, grad_y_stride)
        mask_matrix = mask + _matrix(index, shape.heads, shape.group, mask_stride)
        _, ds = _gradients_of_scores(
            _load(q_matrix, m, d[None, :], q_stride, shape.Lq, shape.D),
            _load(k_matrix, n, d[:, None], k_stride, shape.Lk, shape.D),
            _load(v_matrix, n, c[:, None], v_stride, shape.Lk, shape.Dv),
            _load(grad_matrix, m, c[None, :], grad_y_stride, shape.Lq, shape.Dv),
            *(logsumexp, delta, rows, scale),
            *(mask_matrix, mask_stride, m, n, shape, causal, kind, share, drop),
        )
        sum += ds
    at = mine.to(tl.int64) * grad_mask_stride + m.to(tl.int64) * shape.Lk + n
    tl.store(grad_mask + at, sum, (m < shape.Lq) & (n < shape.Lk))


class Shape(NamedTuple):
    heads: int
    group: int
    Lq: int
    Lk: int
    D: int
    Dv: int


class Drop(NamedTuple):
    low: int
    high: int
    threshold: int


class Block(NamedTuple):
    """Constants: queries, keys, columns of q and k, columns of v and y."""

    M: int
    N: int
    D: int
    C: int


def _power_of_two(n):
    return max(16, triton.next_power_of_2(n))


class _Call:
    """One call's inputs as matrices (batch, heads of keys, query heads that share one)."""

    def __init__(
        self, query, key, value, mask, is_causal, scale, enable_gqa, dropout_p, seed, most
    ):
        heads = key.shape[-3] if enable_gqa else query.shape[-3] if query.dim() > 2 else 1
        group = query.shape[-3] // heads if enable_gqa else 1
        self.shape = Shape(
            heads, group, query.shape[-2], key.shape[-2], query.shape[-1], value.shape[-1]
        )
        self.tensors = self.matrices(query), self.matrices(key), self.matrices(value)
        self.scale = query.shape[-1] ** -0.5 if scale is None else scale
        kind = 0 if mask is None else 1 if mask.dtype == torch.bool else 2
        share = scale_of(dropout_p, True) if dropout_p else None
        drop = Drop(*halves(seed), threshold_of(dropout_p))
        self.mask = query  # unused, but a pointer
        if mask is not None:
            mask = mask.view(torch.uint8) if mask.dtype == torch.bool else mask
            self.mask = self.matrices(mask.expand(*query.shape[:-1], key.shape[-2]))
        columns = _power_of_two(query.shape[-1]), _power_of_two(value.shape[-1])
        most = (most[0] // 2, most[1]) if query.element_size() > 2 else most
        most = (16, 16) if query.element_size() == 8 or max(columns) > 64 else most
        sizes = (min(m, _power_of_two(n)) for m, n in zip(most, self.shape[2:4], strict=True))
        block = Block(*map(tl.constexpr, (*sizes, *columns)))
        self.block, self.how = block, (is_causal, kind, share, drop, block)

    def matrices(self, x):
        """(batch, heads, group, rows, columns), of strides 0 along sizes of 1."""
        *leads, rows, columns = x.shape
        heads = leads[-1] if leads else 1
        group = self.shape.group if heads != self.shape.heads else 1
        x = x.reshape(
            -1 if x.numel() else math.prod(leads[:-1]), heads // group, group, rows, columns
        )
        return x.expand(-1, -1, self.shape.group, -1, -1)

    def blocks(self, which):
        length, block = ((self.shape.Lq, self.block.M), (self.shape.Lk, self.block.N))[which]
        return triton.cdiv(length, block.value)


def _strides(*tensors):
    return tuple(x.stride() for x in tensors)


def attention(query, key, value, mask, is_causal, scale, enable_gqa, dropout_p=0.0, seed=0):
    args = query, key, value, mask, is_causal, scale, enable_gqa, dropout_p, seed
    y, logsumexp = OPS["attention"].fake(*args)
    call = _Call(*args, FORWARD)
    if logsumexp.numel():
        _attention_kernel[call.blocks(0), logsumexp.numel() // call.shape.Lq](
            *(*call.tensors, call.mask, y, logsumexp, call.shape),
            *_strides(*call.tensors, call.mask, call.matrices(y)),
            *(call.scale, *call.how),
        )
    return y, logsumexp


def attention_inference(*args):
    return attention(*args)[0]


def attention_backward(
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
    grads = OPS["attention_backward"].fake(
        *(grad_y, grad_logsumexp, query, key, value, mask, y, logsumexp),
        *(is_causal, scale, enable_gqa, dropout_p, seed, mask_grad),
    )
    grad_q, grad_k, grad_v, grad_mask = grads
    arguments = is_causal, scale, enable_gqa, dropout_p, seed
    call = _Call(query, key, value, mask, *arguments, BACKWARD)
    wide = compute_dtype(query)
    delta = (grad_y.to(wide) * y.to(wide)).contiguous().sum(-1) - grad_logsumexp
    grad_matrices = call.matrices(grad_y)
    tensors = (grad_matrices, *call.tensors, call.mask)
    inputs = (*tensors, logsumexp.contiguous(), delta.contiguous())
    queries = math.prod(query.shape[:-2])
    rest = (call.scale, *call.how)
    if key.numel():
        _keys_backward_kernel[call.blocks(1), queries // call.shape.group](
            *(*inputs, grad_k, grad_v, call.shape, *_strides(*tensors)),
            *_strides(call.matrices(grad_k), call.matrices(grad_v)),
            *rest,
        )
    if grad_q.numel():
        _queries_backward_kernel[call.blocks(0), queries](
            *(*inputs, grad_q, call.shape, *_strides(*tensors, call.matrices(grad_q))), *rest
        )
    if mask_grad:
        leads, whole = call.mask.shape[:3], (1,) * (query.dim() - mask.dim()) + tuple(mask.shape)
        *batch, heads = whole[:-2] or (1,)
        kept = math.prod(batch) > 1, heads > 1, heads > 1
        own = [n if keeps else 1 for n, keeps in zip(leads, kept, strict=True)]
        shared = [n // o if o else 0 for n, o in zip(leads, own, strict=True)]
        sums = query.new_zeros((*own, *query.shape[-2:-1], key.shape[-2]), dtype=wide)
        if sums.numel() and queries:
            _mask_backward_kernel[call.blocks(0), call.blocks(1), math.prod(own)](
                *(*inputs, sums, call.shape, *_strides(*tensors), sums.stride(2)),
                *(tuple(own), tuple(shared), *rest),
            )
        grad_mask.copy_(_summed(sums, query.shape, mask))
    return grads


def _summed(sums, query_shape, mask):
    """Gradients of the mask as it was expanded, summed to its own shape."""
    leads = query_shape[:-2]
    batch = leads[:-1] if sums.shape[0] == math.prod(leads[:-1]) else [1] * len(leads[:-1])
    heads = sums.shape[1] * sums.shape[2]
    return sums.reshape(*batch, *([heads] if leads else []), *sums.shape[3:]).sum_to_size(
        mask.shape
    )


def attention_qkv(qkv, mask, is_causal, scale):
    y, _ = OPS["attention_qkv"].fake(qkv, mask, is_causal, scale)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    y, logsumexp = attention(q, k, v, mask, is_causal, scale, False)
    return y.transpose(1, 2).flatten(2), logsumexp


def attention_qkv_inference(*args):
    return attention_qkv(*args)[0]


def attention_qkv_backward(
    grad_y, grad_logsumexp, qkv, mask, y, logsumexp, is_causal, scale, mask_grad
):
    args = grad_y, grad_logsumexp, qkv, mask, y, logsumexp, is_causal, scale, mask_grad
    grad_qkv, _ = OPS["attention_qkv_backward"].fake(*args)
    grad_y, y = (x.unflatten(-1, qkv.shape[3:]).transpose(1, 2) for x in (grad_y, y))
    *grads, grad_mask = attention_backward(
        *(grad_y, grad_logsumexp, *qkv.permute(2, 0, 3, 1, 4), mask, y, logsumexp),
        *(is_causal, scale, False, 0.0, 0, mask_grad),
    )
    for to, grad in zip(grad_qkv.permute(2, 0, 3, 1, 4), grads, strict=True):
        to.copy_(grad)
    return grad_qkv, grad_mask


def window_attention(qkv, table, index, window_size, shift_size, scale):
    """Windows are copied out of the image, and back."""
    args = qkv, table, index, window_size, shift_size, scale
    OPS["window_attention"].fake(*args)
    return _windows.run(attention, *args)


def window_attention_inference(*args):
    return window_attention(*args)[0]


def window_attention_backward(*args):
    OPS["window_attention_backward"].fake(*args)
    return _windows.run_backward(attention_backward, *args)


KERNELS = {
    "attention": attention,
    "attention_inference": attention_inference,
    "attention_backward": attention_backward,
    "attention_qkv": attention_qkv,
    "attention_qkv_inference": attention_qkv_inference,
    "attention_qkv_backward": attention_qkv_backward,
    "window_attention": window_attention,
    "window_attention_inference": window_attention_inference,
    "window_attention_backward": window_attention_backward,
}
