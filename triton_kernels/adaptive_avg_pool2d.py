"""adaptive_avg_pool2d: means over windows that tile the input; the kernels are avg_pool2d's."""

from torchext.ops import OPS

from .avg_pool2d import AdaptiveWindow, average, average_backward


def _windows(input_size, output_size):
    return map(AdaptiveWindow.over, input_size, output_size)


def adaptive_avg_pool2d(x, output_size):
    y = OPS["adaptive_avg_pool2d"].fake(x, output_size)
    average(x, y, *_windows(x.shape[-2:], output_size))
    return y


def adaptive_avg_pool2d_backward(grad_y, input_size, channels_last):
    grad_x = OPS["adaptive_avg_pool2d_backward"].fake(grad_y, input_size, channels_last)
    channels_last = channels_last and grad_y.dim() == 4
    average_backward(grad_y, grad_x, *_windows(input_size, grad_y.shape[-2:]), channels_last)
    return grad_x


KERNELS = {
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "adaptive_avg_pool2d_inference": adaptive_avg_pool2d,
    "adaptive_avg_pool2d_backward": adaptive_avg_pool2d_backward,
}
