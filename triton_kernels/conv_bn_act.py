"""conv_bn_act: conv2d's kernels, with batch norm as a scale and a shift of their sums; in training
conv2d's and channel_norm's, one after the other."""

from torchext.ops import OPS
from torchext.ops._dense import compute_dtype

from ._rows import laid_out_as
from .channel_norm import Gate, Layout, backward, normalise, statistics_of_batch
from .conv2d import convolve


def folded(x, gamma, beta, mean, var, eps, bias=None):
    """(scale, shift), computed in float64 and rounded once."""
    scale = (var.reshape(-1).double() + eps).rsqrt()
    scale = scale if gamma is None else scale * gamma.reshape(-1)
    shift = (-mean if bias is None else bias - mean.reshape(-1).double()).reshape(-1) * scale
    shift = shift if beta is None else shift + beta.reshape(-1)
    return scale.to(compute_dtype(x)), shift.to(compute_dtype(x))


def conv_bn_act(x, weight, bias, gamma, beta, running_mean, running_var, residual, *rest):
    arguments = (x, weight, bias, gamma, beta, running_mean, running_var, residual, *rest)
    y, z, *results = OPS["conv_bn_act"].fake(*arguments)
    training, momentum, eps, *geometry, activation = rest
    convolve(x, weight, z, *geometry, bias)
    layout = Layout(z)
    statistics_of_batch(layout, results, running_mean, running_var, training, momentum, eps)
    residual = None if residual is None else laid_out_as(z, residual)
    normalise(layout, y, *results[:2], gamma, beta, residual, activation)
    return y, z, *results


def conv_bn_act_inference(x, weight, bias, gamma, beta, running_mean, running_var, residual, *rest):
    arguments = (x, weight, bias, gamma, beta, running_mean, running_var, residual, *rest)
    training, _, eps, *geometry, activation = rest
    if training:
        return conv_bn_act(*arguments)[0]
    y = OPS["conv_bn_act_inference"].fake(*arguments)
    scale, shift = folded(x, gamma, beta, running_mean, running_var, eps, bias)
    convolve(x, weight, y, *geometry, shift, residual, activation, scale=scale)
    return y


def conv_bn_act_backward(grad_y, z, residual, mean, rstd, gamma, beta, *rest):
    arguments = (grad_y, z, residual, mean, rstd, gamma, beta, *rest)
    grad_z, grad_residual, *grads = OPS["conv_bn_act_backward"].fake(*arguments)
    training, _, activation, of_residual = rest
    shift = mean.new_zeros(z.shape[1]) if beta is None else beta.reshape(-1)
    residual = None if residual is None else laid_out_as(grad_z, residual)
    gate = Gate(activation, shift, residual, grad_residual if of_residual else None)
    statistics = (mean.view(-1), rstd.view(-1), 0)
    backward((grad_z, *grads), grad_y, z, *statistics, gamma, training, gate)
    return grad_z, grad_residual, *grads


KERNELS = {
    "conv_bn_act": conv_bn_act,
    "conv_bn_act_inference": conv_bn_act_inference,
    "conv_bn_act_backward": conv_bn_act_backward,
}
