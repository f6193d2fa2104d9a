"""layer_norm and its gradients: a program reads a row whole, or a block of columns row by row for
the gradients of the weights. Not timed yet.
"""

import triton
import triton.language as tl

from torchext.ops import OPS

from ._rows import is_large, row_of, widened

MOST_THREADS = 16  # warps, where a row is long
COLUMNS = 32  # of a program that sums over rows
ROWS = 32


@triton.jit
def _layer_norm_kernel(
    x,
    residual,
    weight,
    bias,
    y,
    total,
    mean,
    rstd,
    size,
    eps: tl.constexpr,
    large: tl.constexpr,
    B: tl.constexpr,
):
    row, start = row_of(size, large)
    k = tl.arange(0, B)
    inside = k < size
    v = widened(tl.load(x + start + k, inside, 0.0))
    if residual is not None:
        v += widened(tl.load(residual + start + k, inside, 0.0))
        v = v.to(total.dtype.element_ty)  # normalised as it is stored
        tl.store(total + start + k, v, inside)
        v = widened(v)
    m = tl.sum(v, axis=0) / size
    d = tl.where(inside, v - m, 0.0)
    r = 1 / tl.sqrt(tl.sum(d * d, axis=0) / size + eps)
    d *= r
    if weight is not None:
        d *= widened(tl.load(weight + k, inside, 0.0))
    if bias is not None:
        d += widened(tl.load(bias + k, inside, 0.0))
    tl.store(y + start + k, d, inside)
    tl.store(mean + row, m)
    tl.store(rstd + row, r)


@triton.jit
def _layer_norm_backward_kernel(
    grad_y, x, mean, rstd, weight, grad_x, size, large: tl.constexpr, B: tl.constexpr
):
    row, start = row_of(size, large)
    k = tl.arange(0, B)
    inside = k < size
    g = widened(tl.load(grad_y + start + k, inside, 0.0))
    if weight is not None:
        g *= widened(tl.load(weight + k, inside, 0.0))
    r = tl.load(rstd + row)
    xhat = tl.where(inside, (widened(tl.load(x + start + k, inside, 0.0)) - tl.load(mean + row)), 0)
    xhat *= r
    of_g = tl.sum(g, axis=0) / size
    of_products = tl.sum(g * xhat, axis=0) / size
    tl.store(grad_x + start + k, (g - of_g - xhat * of_products) * r, inside)


@triton.jit
def _layer_norm_weights_kernel(
    grad_y,
    x,
    mean,
    rstd,
    grad_weight,
    grad_bias,
    rows,
    size,
    large: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    of_weight = widened(tl.zeros([1, COLUMNS], grad_weight.dtype.element_ty))
    of_bias = of_weight
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        if large:
            row = row.to(tl.int64)
        inside = (row < rows) & (column < size)
        g = widened(tl.load(grad_y + row * size + column, inside, 0.0))
        v = widened(tl.load(x + row * size + column, inside, 0.0))
        m = tl.load(mean + row, row < rows, 0.0)
        r = tl.load(rstd + row, row < rows, 0.0)
        of_weight += tl.sum(tl.where(inside, g * ((v - m) * r), 0.0), axis=0, keep_dims=True)
        of_bias += tl.sum(g, axis=0, keep_dims=True)
    tl.store(grad_weight + column, of_weight, column < size)
    tl.store(grad_bias + column, of_bias, column < size)


def _block(size):
    block = triton.next_power_of_2(size)
    return {"B": block, "num_warps": min(MOST_THREADS, max(1, block // 256))}


def _flat(tensor):
    return None if tensor is None else tensor.contiguous()


def _normalize(op, x, residual, size, weight, bias, eps):
    arguments = (x,) if residual is None else (x, residual)
    y, *total, mean, rstd = OPS[op].fake(*arguments, size, weight, bias, eps)
    rows = x.numel() // size
    if rows:
        _layer_norm_kernel[(rows,)](
            *(x.contiguous(), _flat(residual), _flat(weight), _flat(bias), y, *(total or [None])),
            *(mean, rstd, size, eps, is_large(x)),
            **_block(size),
        )
    return y, *total, mean, rstd


def layer_norm(x, *arguments):
    return _normalize("layer_norm", x, None, *arguments)


def layer_norm_inference(x, *arguments):
    return layer_norm(x, *arguments)[0]


def add_layer_norm(x, residual, *arguments):
    return _normalize("add_layer_norm", x, residual, *arguments)


def add_layer_norm_inference(x, residual, *arguments):
    return add_layer_norm(x, residual, *arguments)[:2]


def layer_norm_backward(grad_y, x, mean, rstd, size, weight, eps, of_weights):
    grad_x, grad_weight, grad_bias = OPS["layer_norm_backward"].fake(
        grad_y, x, mean, rstd, size, weight, eps, of_weights
    )
    rows, large = x.numel() // size, is_large(x)
    tensors = [t.contiguous() for t in (grad_y, x, mean, rstd)]
    if rows:
        _layer_norm_backward_kernel[(rows,)](
            *tensors, _flat(weight), grad_x, size, large, **_block(size)
        )
    if of_weights:
        _layer_norm_weights_kernel[(triton.cdiv(size, COLUMNS),)](
            *tensors, grad_weight, grad_bias, rows, size, large, ROWS, COLUMNS
        )
    return grad_x, grad_weight, grad_bias


KERNELS = {
    "layer_norm": layer_norm,
    "layer_norm_inference": layer_norm_inference,
    "layer_norm_backward": layer_norm_backward,
    "add_layer_norm": add_layer_norm,
    "add_layer_norm_inference": add_layer_norm_inference,
}
