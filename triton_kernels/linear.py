"""linear as a convolution of one tap: rows are the pixels of one image."""

from torchext.ops import OPS
from torchext.ops._packed import unpack

from .conv2d import convolve
from .conv2d_backward_weight import conv2d_backward_weight

_POINT = ([1, 1], [0, 0], [1, 1], 1)  # stride, padding, dilation, groups


def _image(rows):
    """[..., C] as (1, C, 1, rows): a view, where the rows follow each other."""
    return rows.reshape(1, 1, -1, rows.shape[-1]).permute(0, 3, 1, 2)


def _optional_image(rows):
    return None if rows is None else _image(rows)


def linear(x, weight, bias, residual, activation):
    y = OPS["linear"].fake(x, weight, bias, residual, activation)
    if 0 in (*y.shape, *weight.shape):
        return OPS["linear"].decomposition(x, weight, bias, residual, activation)
    image = _optional_image(residual)
    convolve(_image(x), weight[..., None, None], _image(y), *_POINT, bias, image, activation)
    return y


def linear_packed(x, panels, out_features, *rest):
    OPS["linear_packed_inference"].fake(x, panels, out_features, *rest)
    return linear(x, unpack(panels, (out_features, x.shape[-1]), 1, x.dtype), *rest)


def linear_backward_input(grad_y, y, weight, activation):
    op = OPS["linear_backward_input"]
    grad_x = op.fake(grad_y, y, weight, activation)
    if 0 in (*grad_x.shape, *weight.shape):
        return op.decomposition(grad_y, y, weight, activation)
    convolve(
        _image(grad_y),
        weight[..., None, None],
        _image(grad_x),
        *_POINT,
        gate=_optional_image(y),
        gate_activation=activation if y is not None else 0,
        transposed=True,
    )
    return grad_x


def linear_backward_weight(grad_y, y, x, *arguments):
    op = OPS["linear_backward_weight"]
    op.fake(grad_y, y, x, *arguments)
    if 0 in (*grad_y.shape, *x.shape):
        return op.decomposition(grad_y, y, x, *arguments)
    images = _image(grad_y), _optional_image(y), _image(x)
    grad_weight, grad_bias = conv2d_backward_weight(*images, [1, 1], False, *_POINT, *arguments)
    return grad_weight[..., 0, 0], grad_bias


KERNELS = {
    "linear": linear,
    "linear_inference": linear,
    "linear_packed_inference": linear_packed,
    "linear_backward_input": linear_backward_input,
    "linear_backward_weight": linear_backward_weight,
}
