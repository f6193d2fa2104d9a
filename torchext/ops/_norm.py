"""What the gradients of all norms share: what they keep, and those of the weights."""


def _like_weight(grad, weight):
    """A weight's gradient in its shape and dtype, `weight`; by comparing, for that costs less."""
    if weight is None:
        return None
    shape, dtype = weight
    grad = grad if grad.shape == shape else grad.view(shape)
    return grad if grad.dtype == dtype else grad.to(dtype)


def save_weights(ctx, x, weight, bias, mean, rstd):
    ctx.weight = None if weight is None else (weight.shape, weight.dtype)
    ctx.bias = None if bias is None else (bias.shape, bias.dtype)
    ctx.save_for_backward(x, mean, rstd, *(() if weight is None else (weight,)))


def gradients(ctx, backward, grad_y, before, after):
    """(grad_x, grad_weight, grad_bias); `before` and `after` the weight are the op's arguments."""
    x, mean, rstd, *weight = ctx.saved_tensors
    of_weights = ctx.weight is not None or ctx.bias is not None
    grad_x, grad_weight, grad_bias = backward(
        *(grad_y, x, mean, rstd, *before, weight[0] if weight else None, *after, of_weights),
        namespace=ctx.namespace,
    )
    return grad_x, _like_weight(grad_weight, ctx.weight), _like_weight(grad_bias, ctx.bias)
