"""Normalisation modules."""

from torch import nn

from . import functional as F


def _batch_norm(self, input):
    """torch.nn's forward, with this package's function."""
    self._check_input_dim(input)
    momentum = 0.0 if self.momentum is None else self.momentum
    tracking = self.training and self.track_running_stats
    if tracking and self.num_batches_tracked is not None:
        self.num_batches_tracked.add_(1)
        if self.momentum is None:  # a cumulative average
            momentum = 1.0 / float(self.num_batches_tracked)
    running = not self.training or self.track_running_stats
    return F.batch_norm(
        input,
        self.running_mean if running else None,
        self.running_var if running else None,
        self.weight,
        self.bias,
        self.training or (self.running_mean is None and self.running_var is None),
        momentum,
        self.eps,
    )


class BatchNorm1d(nn.BatchNorm1d):
    forward = _batch_norm


class BatchNorm2d(nn.BatchNorm2d):
    forward = _batch_norm


class GroupNorm(nn.GroupNorm):
    def forward(self, input):
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class LayerNorm(nn.LayerNorm):
    def forward(self, input):
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class LocalResponseNorm(nn.LocalResponseNorm):
    def forward(self, input):
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)
