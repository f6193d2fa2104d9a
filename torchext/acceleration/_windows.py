"""Swin's attention, whatever its spelling: elements are followed from an image that is rolled and
cut into windows to the image that is put together from them again.

    image -> windows -> linear -> attention -> (linear ->) image
    image -> linear -> window_attention (-> linear)
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import fx, nn

from ..ops import window_attention as _op
from ._attention import SDPA, arguments, elements_of, follow, is_view, root_of, shape_of, value_of
from ._capture import aten
from ._raise import emitter

_LINEAR = aten.linear.default


def window_attention(qkv, mask, table, index, window, shift, scale):
    """The op; its table and index are what mask, [windows or 1, heads, N, N], has."""
    (h, w), (B, H, W, channels) = window, qkv.shape
    x = qkv.roll([-s for s in shift], (1, 2))
    x = x.view(B, H // h, h, W // w, w, 3, mask.shape[1], -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = x.flatten(5, 6).flatten(2, 3).unbind()
    y = SDPA(q, k, v, mask, scale=scale)
    y = y.view(B, H // h, W // w, -1, h, w, y.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6)
    return y.reshape(B, H, W, channels // 3).roll(shift, (1, 2))


def fuse_windows(program):
    """Finds such attentions; returns how often."""
    count = 0
    for node in list(program.graph.nodes):
        if (
            node.target is SDPA
            and (windows := _windows_of(node)) is not None
            and _is_masked(program, node, windows)
            and (path := _path_to_image(node, windows)) is not None
        ):
            _replace(program.graph, node, windows, path)
            count += 1
    program.graph.eliminate_dead_code()
    return count


@dataclass
class _Windows:
    image: fx.Node
    linear: fx.Node  # which makes q, k and v of it
    size: tuple
    shift: tuple
    heads: int

    @property
    def count(self):
        _, H, W, _ = shape_of(self.image)
        return H // self.size[0] * (W // self.size[1])

    def cut(self, image, *heads):
        """An image's values as the op takes them: [B, windows, heads, N, D], or three such."""
        return _op._windows_of(image, _op._pixels(image, self.size, self.shift), *heads)


def _windows_of(node):
    """The windows that node's q, k and v are; or None."""
    shapes = [shape_of(x) for x in node.args[:3]]
    roots = [root_of(x) for x in node.args[:3]]
    linear = roots[0][0]
    if len(set(shapes)) > 1 or len(shapes[0]) not in (4, 5) or prod(shapes[0]) == 0:
        return None
    if any(root is not linear for root, _ in roots) or linear.target is not _LINEAR:
        return None
    start, chain = root_of(linear.args[0])
    for i in range(len(chain) + 1):
        image, part = chain[i - 1] if i else (start, None)
        if part is not None or len(shape_of(image)) != 4:
            continue
        rows = _rows(follow(elements_of(image), chain[i:]), shape_of(image)[3])
        if rows is not None:
            rows = _widened(rows, shape_of(linear)[-1])
            windows = _cut(image, linear, [follow(rows, c) for _, c in roots])
            if windows is not None:
                return windows
    return None


def _cut(image, linear, parts):
    """The windows, if q, k and v are these parts of the linear layer's image."""
    heads, N, D = parts[0].shape[-3:]
    B, H, W, _ = shape_of(image)
    channels = shape_of(linear)[-1]
    first = parts[0].view(-1, heads, N, D)[0, 0, :, 0] // channels
    row, column = first // W, first % W
    w = int((row == row[0]).sum())
    size, shift = (N // w, w), (int(row[0]), int(column[0]))
    if N % w or H % size[0] or W % w or shift[0] >= size[0] or shift[1] >= w:
        return None
    if channels != 3 * heads * D or prod(shape_of(linear)) != B * H * W * channels:
        return None
    windows = _Windows(image, linear, size, shift, heads)
    whole = torch.arange(B * H * W * channels).view(B, H, W, channels)
    expected = windows.cut(whole, 3, heads)
    same = all(torch.equal(x.reshape(y.shape), y) for x, y in zip(parts, expected, strict=True))
    return windows if same else None


def _rows(elements, channels):
    """The number of each row of channels, [..., 1]; None if rows were taken apart."""
    rows = elements[..., :1] // channels
    whole = elements.shape[-1] == channels and torch.equal(_widened(rows, channels), elements)
    return rows if whole else None


def _widened(rows, channels):
    """The elements of rows of so many channels."""
    return rows * channels + torch.arange(channels)


def _mask_shape(node, windows):
    """The mask's, as [windows or 1, heads or 1, N, N]; None if it has a batch of its own."""
    mask, *_ = arguments(*node.args, **node.kwargs)
    shape = (1,) * (len(shape_of(node)) - len(shape_of(mask))) + shape_of(mask)
    if len(shape) == 5:
        return shape[1:] if shape[0] == 1 else None
    return shape if shape[0] == 1 or shape_of(windows.image)[0] == 1 else None


def _is_masked(program, node, windows):
    """Whether the mask is, whatever the weights, one bias for all windows and -100 between pixels
    that are neighbours only since the image was rolled."""
    mask, dropout, causal, _ = arguments(*node.args, **node.kwargs)
    if dropout > 0 or causal or mask is None:
        return dropout == 0 and not causal and not any(windows.shift)
    generator = torch.Generator().manual_seed(0)

    def drawn(placeholder):
        held, name = program.sources.get(placeholder, ({}, None))
        x = held.get(name)
        if isinstance(x, nn.Parameter) and x.is_floating_point():
            return torch.randn(x.shape, generator=generator).to(x)
        return x

    shape, value = _mask_shape(node, windows), value_of(mask, drawn)
    if shape is None or value is None or mask.meta["val"].dtype != node.meta["val"].dtype:
        return False
    N = shape_of(node)[-2]
    value = value.reshape(shape).expand(-1, windows.heads, N, N).float().cpu()
    table = value[0].permute(1, 2, 0).reshape(N * N, windows.heads)
    image = torch.empty(shape_of(windows.image))
    expected = _op._mask(image, table, torch.arange(N * N), windows.size, windows.shift)
    tolerance = 400 * torch.finfo(mask.meta["val"].dtype).eps
    return torch.allclose(value.expand(windows.count, -1, -1, -1), expected, atol=tolerance)


def _path_to_image(node, windows):
    """The nodes behind node, up to the last that is the image put together; or None."""
    B, H, W, _ = shape_of(windows.image)
    channels = windows.heads * shape_of(node)[-1]
    whole = torch.arange(B * H * W * channels).view(B, H, W, channels)
    elements = windows.cut(whole, windows.heads).reshape(shape_of(node))
    path, together = [], None
    while True:
        if elements.shape == whole.shape and torch.equal(elements, whole):
            together = list(path)
        users = list(node.users)
        if len(users) != 1 or users[0].args[:1] != (node,):
            return together
        node = users[0]
        path.append(node)
        if is_view(node):
            elements = node.target(elements, *node.args[1:], **node.kwargs)
            continue
        rows = _rows(elements, channels) if node.target is _LINEAR else None
        if rows is None:
            return together
        channels = shape_of(node)[-1]
        elements = _widened(rows, channels)
        whole = torch.arange(B * H * W * channels).view(B, H, W, channels)


def _replace(graph, node, windows, path):
    mask, _, _, scale = arguments(*node.args, **node.kwargs)
    N, value, replaced = shape_of(node)[-2], node.meta["val"], [node, *path]
    with graph.inserting_before(replaced[-1]):
        emit = emitter(graph, node)
        whole = {"dtype": value.dtype, "device": value.device}
        if mask is None:
            mask = emit(aten.full.default, (1, windows.heads, N, N), 0.0, **whole)
        else:
            mask = emit(aten.reshape.default, mask, _mask_shape(node, windows))
            mask = emit(aten.expand.default, mask, (-1, windows.heads, N, N))
        table = emit(aten.permute.default, emit(aten.select.int, mask, 0, 0), (1, 2, 0))
        table = emit(aten.reshape.default, table, (N * N, windows.heads))
        index = emit(aten.arange.default, N * N, device=value.device)
        linear = windows.linear
        y = emitter(graph, linear)(_LINEAR, windows.image, *linear.args[1:])
        rest = (list(windows.size), list(windows.shift), scale)
        y = emit(window_attention, y, mask, table, index, *rest)
        for linear in path:
            if linear.target is _LINEAR:
                y = emitter(graph, linear)(_LINEAR, y, *linear.args[1:])
    replaced[-1].replace_all_uses_with(y)
    for old in reversed(replaced):  # the attention may draw random numbers, as far as fx knows
        graph.erase_node(old)
