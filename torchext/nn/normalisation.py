"""Normalisation modules."""

from torch import nn

from . import functional as F


def statistics_for(mean, var, batches, training, tracking, momentum):
    """(running mean, running variance, whether by the batch's, momentum) of one forward."""
    if training and tracking and batches is not None:
        batches.add_(1)
        if momentum is None:  # a cumulative average
            momentum = 1.0 / float(batches)
    if training and not tracking:
        mean = var = None
    by_batch = training or (mean is None and var is None)
    return mean, var, by_batch, 0.0 if momentum is None else momentum


def _batch_norm(self, input):
    self._check_input_dim(input)
    mean, var, by_batch, momentum = statistics_for(
        *(self.running_mean, self.running_var, self.num_batches_tracked),
        *(self.training, self.track_running_stats, self.momentum),
    )
    return F.batch_norm(input, mean, var, self.weight, self.bias, by_batch, momentum, self.eps)


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
