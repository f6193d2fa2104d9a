"""Functions with torch.nn.functional's signatures, running torchext's kernels."""

import torch

from .._fallback import notice
from ..ops import attention as _attentions
from ..ops._activation import KINDS as _ACTIVATIONS
from ..ops._op import needs_grad as _needs_grad
from ..ops.adaptive_avg_pool2d import adaptive_avg_pool2d as _adaptive_avg_pool2d
from ..ops.adaptive_avg_pool2d import (
    adaptive_avg_pool2d_inference as _adaptive_avg_pool2d_inference,
)
from ..ops.attention_qkv import attention_qkv as _attention_qkv
from ..ops.attention_qkv import attention_qkv_inference as _attention_qkv_inference
from ..ops.avg_pool2d import avg_pool2d as _avg_pool2d
from ..ops.avg_pool2d import avg_pool2d_inference as _avg_pool2d_inference
from ..ops.conv2d import run as _conv2d
from ..ops.conv_bn_act import run as _conv_bn_act
from ..ops.conv_transpose2d import conv_transpose2d as _conv_transpose2d
from ..ops.conv_transpose2d import conv_transpose2d_inference as _conv_transpose2d_inference
from ..ops.depthwise_separable import depthwise_separable_inference as _depthwise_separable
from ..ops.linear import run as _linear
from ..ops.max_pool2d import max_pool2d as _max_pool2d
from ..ops.max_pool2d import max_pool2d_indices as _max_pool2d_indices
from ..ops.max_pool2d import max_pool2d_inference as _max_pool2d_inference
from ..ops.window_attention import window_attention as _window_attention
from ..ops.window_attention import window_attention_inference as _window_attention_inference
from ._dense import (  # noqa: F401 - they belong to this module's interface
    batch_norm,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    dropout,
    elu,
    gelu,
    group_norm,
    hardsigmoid,
    hardswish,
    layer_norm,
    leaky_relu,
    local_response_norm,
    log_softmax,
    relu,
    relu6,
    sigmoid,
    silu,
    softmax,
    tanh,
)
from ._dense import new_seed as _new_seed
from ._recurrent import (  # noqa: F401
    gru,
    gru_cell,
    lstm,
    lstm_cell,
    rnn_relu,
    rnn_relu_cell,
    rnn_tanh,
    rnn_tanh_cell,
)


def _pair(value):
    """Values for two axes. One int may stand for both: the ops' int[2] take it, and faster."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return value
    return list(value) * 2 if len(value) == 1 else value


def _two(value):
    value = _pair(value)
    return list(value) if isinstance(value, (tuple, list)) else [value, value]


def max_pool2d(
    input,
    kernel_size,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode=False,
    return_indices=False,
):
    kernel_size = _pair(kernel_size)
    stride = kernel_size if stride is None or stride == [] else _pair(stride)
    arguments = (kernel_size, stride, _pair(padding), _pair(dilation), ceil_mode)
    if return_indices:
        y, offsets = _max_pool2d(input, *arguments)
        return y, _max_pool2d_indices(offsets, input.shape[-2:], *arguments)
    if _needs_grad(input):
        return _max_pool2d(input, *arguments)[0]
    return _max_pool2d_inference(input, *arguments)


def avg_pool2d(
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
):
    kernel_size = _pair(kernel_size)
    stride = kernel_size if stride is None or stride == [] else _pair(stride)
    op = _avg_pool2d if _needs_grad(input) else _avg_pool2d_inference
    return op(
        input, kernel_size, stride, _pair(padding), ceil_mode, count_include_pad, divisor_override
    )


def adaptive_avg_pool2d(input, output_size):
    single = output_size is None or isinstance(output_size, (int, torch.SymInt))
    size = [output_size, output_size] if single else _pair(output_size)
    if None in size:  # keeps the input's size
        size = [input.shape[d] if n is None else n for d, n in zip((-2, -1), size, strict=True)]
    op = _adaptive_avg_pool2d if _needs_grad(input) else _adaptive_avg_pool2d_inference
    return op(input, size)


def _same_padding(op, input, weight, stride, dilation):
    """(input, padding) for padding="same": where an odd one remains, it goes to the end."""
    if any(n != 1 for n in stride):
        raise ValueError(f"{op}: padding: got 'same' with stride {stride}, expected stride 1")
    totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    ends = [n for total in reversed(totals) for n in (0, total % 2)]
    return torch.nn.functional.pad(input, ends) if any(ends) else input, [n // 2 for n in totals]


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    stride, dilation = _two(stride), _two(dilation)
    if padding == "same":
        input, padding = _same_padding("conv2d", input, weight, stride, dilation)
    elif padding == "valid":
        padding = 0
    elif isinstance(padding, str):
        raise ValueError(f"conv2d: padding: got {padding!r}, expected 'same', 'valid' or numbers")
    needs_grad = _needs_grad(input, weight, bias)
    arguments = (stride, _two(padding), dilation, groups, 0)
    return _conv2d(input, weight, bias, None, *arguments, needs_grad)


def check_activation(activation):
    """An activation's name, or None, if there is one that kernels fuse."""
    known = [name for name in _ACTIVATIONS if name not in ("none", "step")]
    if activation is not None and activation not in known:
        raise ValueError(f"activation: got {activation!r}, expected None or one of {known}")
    return activation


def conv_bn_act(
    input,
    weight,
    bias,
    running_mean,
    running_var,
    bn_weight=None,
    bn_bias=None,
    residual=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    activation=None,
):
    """activation(batch_norm(conv2d(input)) + residual); training updates the running statistics."""
    geometry = (_two(stride), _two(padding), _two(dilation), groups)
    norm = (bn_weight, bn_bias, running_mean, running_var)
    kind = _ACTIVATIONS[check_activation(activation) or "none"]
    arguments = (training, momentum, eps, *geometry, kind)
    needs_grad = _needs_grad(input, weight, bias, bn_weight, bn_bias, residual)
    y, *new = _conv_bn_act(input, weight, bias, *norm, residual, *arguments, needs_grad=needs_grad)
    if training:
        torch.nn.functional._verify_batch_size(y.shape)
    if training and running_mean is not None and input.shape[0] > 0:
        running_mean.copy_(new[0])
        running_var.copy_(new[1])
    return y


def depthwise_separable(
    input,
    weight,
    norm,
    pointwise_weight,
    pointwise_norm,
    residual=None,
    stride=1,
    padding=0,
    dilation=1,
    activation=None,
    pointwise_activation=None,
):
    """A depthwise convolution, norm and activation, then a pointwise one with norm, residual and
    activation; for inference. A norm is (weight, bias, running_mean, running_var, eps)."""
    activations = (activation, pointwise_activation)
    kinds = [_ACTIVATIONS[check_activation(name) or "none"] for name in activations]
    geometry = (_two(stride), _two(padding), _two(dilation))
    arguments = (weight, *norm, pointwise_weight, *pointwise_norm, residual)
    return _depthwise_separable(input, *arguments, *geometry, *kinds)


def _over_height(value):
    """An argument of a 1-d convolution for the second of two axes; 1 for the first."""
    return value if isinstance(value, str) else [1, value if isinstance(value, int) else value[0]]


def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if not isinstance(padding, str):
        padding = [0, _over_height(padding)[1]]
    y = conv2d(
        input.unsqueeze(-2),
        weight.unsqueeze(-2),
        bias,
        _over_height(stride),
        padding,
        _over_height(dilation),
        groups,
    )
    return y.squeeze(-2)


def conv_transpose2d(
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
):
    needs_grad = _needs_grad(input, weight, bias)
    op = _conv_transpose2d if needs_grad else _conv_transpose2d_inference
    pairs = map(_two, (stride, padding, output_padding))
    return op(input, weight, bias, *pairs, groups, _two(dilation))


def linear(input, weight, bias=None):
    if weight.dim() == 1:  # torch's other linear: a product with a vector
        return torch.nn.functional.linear(input, weight, bias)
    return _linear(input, weight, bias, None, 0, _needs_grad(input, weight, bias))


def _why_torchs_attention(query, key, value, enable_gqa):
    if query.is_nested or key.is_nested or value.is_nested:
        return "no kernel for nested tensors"
    if query.dim() > _attentions.MOST_DIMENSIONS:
        return f"no kernel for over {_attentions.MOST_DIMENSIONS} dimensions"
    if enable_gqa and key.dim() > 2 and value.dim() > 2 and key.shape[-3] != value.shape[-3]:
        return "no kernel for keys and values of different numbers of heads"
    channels = max(query.shape[-1], value.shape[-1]) if query.dim() and value.dim() else 0
    if query.is_cuda and channels > _attentions.MOST_CHANNELS_OF_CUDA:
        return f"no CUDA kernel for heads of over {_attentions.MOST_CHANNELS_OF_CUDA} channels"
    return ""


def _leads_alike(tensors, fixed):
    """The tensors with leading dimensions broadcast to one another, but for the last `fixed`."""
    leads = [x.shape[:-fixed] for x in tensors]
    if all(lead == leads[0] for lead in leads) or any(x.dim() < fixed for x in tensors):
        return tensors
    whole = torch.broadcast_shapes(*leads)
    return [x.expand(*whole, *x.shape[-fixed:]) for x in tensors]


def scaled_dot_product_attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
):
    why_not = _why_torchs_attention(query, key, value, enable_gqa)
    refused = (is_causal and attn_mask is not None) or not 0 <= dropout_p <= 1  # by torch
    own_numbers = dropout_p > 0 and torch.compiler.is_compiling()  # a compiled graph draws its own
    if why_not or refused or own_numbers:
        if why_not:
            notice("scaled_dot_product_attention", why_not)
        return torch.nn.functional.scaled_dot_product_attention(
            *(query, key, value, attn_mask, dropout_p, is_causal),
            scale=scale,
            enable_gqa=enable_gqa,
        )
    query, key, value = _leads_alike([query, key, value], 3 if enable_gqa else 2)
    arguments = (query, key, value, attn_mask, is_causal, scale, enable_gqa)
    if dropout_p > 0 or _needs_grad(query, key, value, attn_mask):
        return _attentions.attention(*arguments, dropout_p, _new_seed() if dropout_p else 0)[0]
    return _attentions.attention_inference(*arguments)


def attention_qkv(qkv, attn_mask=None, is_causal=False, scale=None):
    """Attention of packed [B, N, 3, H, D], as a linear layer makes it, to [B, N, H * D]."""
    if _needs_grad(qkv, attn_mask):
        return _attention_qkv(qkv, attn_mask, is_causal, scale)[0]
    return _attention_qkv_inference(qkv, attn_mask, is_causal, scale)


def window_attention(qkv, table, index, window_size, shift_size, scale=None):
    """Attention within windows of an image [B, H, W, 3 * C] rolled by shift_size, to [B, H, W, C].

    A window's pixels i and j add table[index[i, j]] to their scores, one number for each head.
    """
    arguments = (qkv, table, index, list(window_size), list(shift_size), scale)
    if _needs_grad(qkv, table):
        return _window_attention(*arguments)[0]
    return _window_attention_inference(*arguments)


# torch.fx traces a call of these as one node, not their branches.
torch.fx.wrap("max_pool2d")
torch.fx.wrap("avg_pool2d")
torch.fx.wrap("adaptive_avg_pool2d")
torch.fx.wrap("conv1d")
torch.fx.wrap("conv_bn_act")
torch.fx.wrap("conv2d")
torch.fx.wrap("conv_transpose2d")
torch.fx.wrap("depthwise_separable")
torch.fx.wrap("linear")
for _name in (
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "dropout",
    "elu",
    "gelu",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "layer_norm",
    "leaky_relu",
    "local_response_norm",
    "log_softmax",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
):
    torch.fx.wrap(_name)
torch.fx.wrap("scaled_dot_product_attention")
torch.fx.wrap("attention_qkv")
torch.fx.wrap("window_attention")
