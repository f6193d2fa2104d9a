"""conv_transpose2d: conv2d's gradient of x, with a bias; the kernels are conv2d's."""

from torchext.ops import OPS

from .conv2d import convolve


def conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation):
    arguments = (stride, padding, output_padding, groups, dilation)
    y = OPS["conv_transpose2d"].fake(x, weight, bias, *arguments)
    convolve(x, weight, y, stride, padding, dilation, groups, bias, transposed=True)
    return y


KERNELS = {"conv_transpose2d": conv_transpose2d, "conv_transpose2d_inference": conv_transpose2d}
