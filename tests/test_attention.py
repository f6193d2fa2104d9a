"""Attention through torchext.nn: against torch.nn.functional, torch.nn and plain PyTorch."""

import itertools

import pytest
import torch
from stack import run_python
from torch import nn
from torch.testing import assert_close

import torchext
from torchext.nn import functional as F
from torchext.nn.attention import _relative_position_index


def both(query, key, value, *args, **kwargs):
    """Outputs and gradients of ours and of torch's, for the same grad_y."""
    results = []
    masks = [x for x in [*args, *kwargs.values()] if isinstance(x, torch.Tensor)]
    wanted = [x for x in (query, key, value, *masks) if x.is_floating_point()]
    for function in (
        F.scaled_dot_product_attention,
        nn.functional.scaled_dot_product_attention,
    ):
        leaves = {id(x): x.detach().requires_grad_() for x in wanted}
        leaf = lambda x: leaves.get(id(x), x)  # noqa: B023, E731
        y = function(
            *map(leaf, (query, key, value, *args)), **{k: leaf(x) for k, x in kwargs.items()}
        )
        grad_y = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
        results.append((y, torch.autograd.grad(y, list(leaves.values()), grad_y)))
    return results


def tensors(query=(2, 3, 5, 8), key=(2, 3, 7, 8), columns=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = query, key, (*key[:-1], columns)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3, 5, 8), (2, 3, 7, 8)),
        ((5, 8), (7, 8)),
        ((2, 1, 5, 8), (1, 3, 7, 8)),  # broadcast
        ((2, 3, 1, 2, 5, 8), (3, 1, 2, 7, 8)),
        ((2, 3, 5, 8), (2, 3, 0, 8)),
    ],
)
@pytest.mark.parametrize("causal", [False, True])
def test_like_torch(shapes, causal):
    ours, theirs = both(*tensors(*shapes), is_causal=causal, scale=0.3)
    assert_close(ours, theirs)


@pytest.mark.parametrize(
    "shape",
    [
        *((5, 7), (1, 7), (5, 1), (1, 1), (3, 5, 7), (1, 5, 1)),
        *((2, 1, 1, 7), (2, 1, 5, 1), (1, 3, 1, 7), (2, 3, 5, 7)),
    ],
)
@pytest.mark.parametrize("kind", ["bool", "add"])
def test_masks_like_torch(shape, kind):
    mask = torch.randn(shape, dtype=torch.float64)
    if kind == "bool":
        mask = (mask > -0.3).index_fill(-2, torch.tensor(0), False)  # nothing for query 0
    ours, theirs = both(*tensors(), attn_mask=mask)
    assert_close(ours, theirs)
    if kind == "bool":
        assert not ours[0][..., 0, :].any()


@pytest.mark.parametrize("heads", [1, 2, 3, 6])
@pytest.mark.parametrize("how", [{}, {"is_causal": True}, {"attn_mask": torch.ones(6, 5, 7)}])
def test_grouped_heads_like_torch(heads, how):
    how = {name: x.double() if name == "attn_mask" else x for name, x in how.items()}
    args = tensors((2, 6, 5, 8), (2, heads, 7, 8))
    ours, theirs = both(*args, enable_gqa=True, **how)
    assert_close(ours, theirs)


@pytest.mark.parametrize("columns", [8, 9, 31, 64, 100, 128, 255, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_head_size_like_torch(columns, dtype):
    args = tensors((2, 17, columns), (2, 19, columns), columns, dtype)
    ours, theirs = both(*args)
    assert_close(ours, theirs, atol=1e-5 if dtype == torch.float32 else 0.05, rtol=0.02)


def test_half_precision_takes_a_mask_of_float32_or_its_own():
    q, k, v = tensors(dtype=torch.bfloat16)
    mask = torch.randn(5, 7)
    y = F.scaled_dot_product_attention(q, k, v, mask)
    assert y.dtype == torch.bfloat16
    same = F.scaled_dot_product_attention(q, k, v, mask.bfloat16())
    assert_close(y, same, atol=0.05, rtol=0.05)


def test_mask_together_with_is_causal_is_refused_as_torch_does():
    with pytest.raises(RuntimeError, match="attn_mask should not be set when is_causal"):
        F.scaled_dot_product_attention(*tensors(), torch.zeros(5, 7), is_causal=True)


def test_dropout():
    """Of a share of the probabilities, others for each call, the same for a seed."""
    q, k = torch.zeros(2, 3, 50, 4), torch.zeros(2, 3, 40, 4)
    v = torch.eye(40).expand(2, 3, 40, 40)  # then y is the probabilities
    torch.manual_seed(0)
    ys = [F.scaled_dot_product_attention(q, k, v, dropout_p=0.25) for _ in range(2)]
    torch.manual_seed(0)
    assert torch.equal(F.scaled_dot_product_attention(q, k, v, dropout_p=0.25), ys[0])
    for y in ys:
        assert (y == 0).double().mean().item() == pytest.approx(0.25, abs=0.02)
        assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / 40 / 0.75))
    both = ((ys[0] == 0) & (ys[1] == 0)).double().mean().item()
    assert both == pytest.approx(0.25**2, abs=0.02)
    assert not F.scaled_dot_product_attention(q, k, v, dropout_p=1.0).any()
    with pytest.raises(RuntimeError, match="dropout probability has to be between 0 and 1"):
        F.scaled_dot_product_attention(q, k, v, dropout_p=1.1)


def test_gradients_go_through_dropout():
    args = [x.requires_grad_() for x in tensors()]

    def attend(*args):
        torch.manual_seed(0)
        return F.scaled_dot_product_attention(*args, dropout_p=0.5)

    assert torch.autograd.gradcheck(attend, [x.double() for x in args])


MEMORY = """
import resource, torch
from torchext.nn import functional as F

def attend(length):
    x = torch.ones(1, 1, length, 8, requires_grad=True)
    F.scaled_dot_product_attention(x, x, x).sum().backward()

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB
attend(64)
before = peak()
attend(8192)
print(peak() - before)
"""


def test_memory_is_linear_in_the_length():
    """Scores would take 256 MiB, forward and backward; the tensors take 256 KiB each."""
    grown, _ = run_python("-c", MEMORY)
    assert int(grown) < 32 << 10


def test_packed_like_torch():
    qkv = torch.randn(2, 5, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.randn(4, 5, 5, dtype=torch.float64, requires_grad=True)
    for args in ((), (mask,), (None, True), (None, False, 0.1)):
        wanted = [x for x in (qkv, *args) if isinstance(x, torch.Tensor)]
        ours = F.attention_qkv(qkv, *args)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attn_mask, is_causal, scale = *args, *(None, False, None)[len(args) :]
        theirs = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask, is_causal=is_causal, scale=scale
        )
        theirs = theirs.transpose(1, 2).flatten(2)
        assert_close(ours, theirs)
        grads = [torch.autograd.grad(y.square().sum(), wanted) for y in (ours, theirs)]
        assert_close(*grads)


def test_vmap():
    q, k, v = tensors((4, 2, 3, 5, 8), (4, 2, 3, 7, 8))
    expected = nn.functional.scaled_dot_product_attention(q, k, v)
    assert_close(torch.vmap(F.scaled_dot_product_attention)(q, k, v), expected)
    shared = torch.vmap(F.scaled_dot_product_attention, (0, None, None))(q, k[0], v[0])
    assert_close(shared[1], nn.functional.scaled_dot_product_attention(q[1], k[0], v[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", [None, torch.bool, torch.float32])
def test_autocast_like_torch(dtype, kind):
    args = tensors(dtype=dtype)
    mask = (
        None if kind is None else torch.randn(5, 7) > 0 if kind == torch.bool else torch.ones(5, 7)
    )
    if mask is not None and kind != torch.bool and dtype == torch.float64:
        mask = mask.double()
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (f.scaled_dot_product_attention(*args, mask) for f in (F, nn.functional))
    assert ours.dtype == theirs.dtype == (dtype if dtype == torch.float64 else torch.bfloat16)
    assert_close(ours, theirs, atol=0.05, rtol=0.05)


def test_autocast_of_packed_and_windows():
    qkv, table = torch.randn(2, 4, 3, 2, 6, requires_grad=True), torch.randn(9, 2)
    index = _relative_position_index(2, 2)
    for dtype, expected in ((torch.float32, torch.bfloat16), (torch.float64, torch.float64)):
        x = qkv.to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            assert F.attention_qkv(x).dtype == expected
            image = x.reshape(2, 2, 2, 36)
            y = F.window_attention(image, table.to(dtype), index, (2, 2), (1, 1))
        assert y.dtype == expected


def test_compiles():
    q, k, v = (x.requires_grad_() for x in tensors())
    compiled = torch.compile(F.scaled_dot_product_attention, fullgraph=True, dynamic=True)
    assert_close(compiled(q, k, v), F.scaled_dot_product_attention(q, k, v))
    torch.compiler.reset()


# torch.nn.MultiheadAttention.

OPTIONS = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"add_bias_kv": True, "add_zero_attn": True},
    {"add_zero_attn": True, "batch_first": True},
    {"kdim": 5, "vdim": 3, "batch_first": True},
]


def twins(**options):
    torch.manual_seed(0)
    ours = torchext.nn.MultiheadAttention(12, 3, dtype=torch.float64, **options)
    theirs = nn.MultiheadAttention(12, 3, dtype=torch.float64, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def inputs(options, batch=2):
    """(query, key, value) of lengths 4 and 6."""
    sizes = [(4, 12), (6, options.get("kdim", 12)), (6, options.get("vdim", 12))]
    found = [torch.randn(L, batch, E, dtype=torch.float64) for L, E in sizes]
    return [x.transpose(0, 1) for x in found] if options.get("batch_first") else found


def check_twins(ours, theirs, args, **kwargs):
    for weights in ({"need_weights": False}, {}, {"average_attn_weights": False}):
        got, expected = (m(*args, **weights, **kwargs) for m in (ours, theirs))
        assert_close(got, expected)
        parameters = [
            torch.autograd.grad(y.square().sum(), list(m.parameters()))
            for m, (y, _) in ((ours, got), (theirs, expected))
        ]
        assert_close(*parameters)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_multihead_attention_is_torchs(options):
    ours, theirs = twins(**options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    args = inputs(options)
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    causal = torch.ones(4, 6, dtype=torch.bool).triu(1)
    per_head = torch.rand(6, 4, 6) > 0.7
    per_head[..., 0] = False
    masks = [None, causal, per_head, torch.randn(4, 6, dtype=torch.float64)]
    for padded, mask in itertools.product([None, padding], masks):
        kind = torch.zeros(2, 6, dtype=torch.float64)
        if padded is not None and mask is not None and mask.is_floating_point():
            padded = kind.masked_fill(padded, -torch.inf)  # torch wants masks of one kind
        check_twins(ours, theirs, args, key_padding_mask=padded, attn_mask=mask)
    if "bias_kv" not in str(options) and "zero" not in str(options):
        check_twins(ours, theirs, args, attn_mask=causal, is_causal=True)


@pytest.mark.parametrize("options", [{}, {"batch_first": True}], ids=str)
def test_self_attention_is_torchs(options):
    ours, theirs = twins(**options)
    x = inputs(options)[0]
    check_twins(ours, theirs, (x, x, x))
    check_twins(ours, theirs, (x[0], x[0], x[0]))  # unbatched
    padding = torch.zeros(x.shape[:2] if options else x.shape[:2][::-1], dtype=torch.bool)
    padding[..., -1] = True
    check_twins(ours, theirs, (x, x, x), key_padding_mask=padding)


def test_dropout_of_weights():
    ours, _ = twins(dropout=0.5)
    x = inputs({})[0]
    _, weights = ours(x, x, x, average_attn_weights=False)
    assert 0 < (weights == 0).double().mean() < 1
    y = ours(x, x, x, need_weights=False)[0]
    assert (y - ours(x, x, x, need_weights=False)[0]).abs().max() > 0.01
    ours.eval()
    assert_close(ours(x, x, x)[0], ours(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("grad", [False, True])
def test_modules_compile_and_export(grad):
    attend = torchext.nn.MultiheadAttention(12, 3, batch_first=True)
    windows = torchext.nn.WindowAttention(12, (2, 2), (1, 1), 3)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend, self.windows = attend, windows

        def forward(self, x):
            x = self.windows(x)
            tokens = x.flatten(1, 2)
            return self.attend(tokens, tokens, tokens, need_weights=False)[0]

    model, x = Both(), torch.randn(3, 4, 5, 12)
    with torch.set_grad_enabled(grad):
        compiled = torch.compile(model, fullgraph=True, dynamic=True)
        for size in (5, 6):
            y = torch.randn(3, 4, size, 12)
            assert_close(compiled(y), model(y))
        batch = {0: torch.export.Dim("batch")}
        program = torch.export.export(model, (x,), dynamic_shapes=(batch,))
        assert_close(program.module()(x[:2]), model(x[:2]))
        assert_close(program.run_decompositions().module()(x[:2]), model(x[:2]))
    torch.compiler.reset()


# Windows.


def partition(image, window):
    """[B, H, W, C] as [B * windows, N, C]."""
    (B, H, W, C), (h, w) = image.shape, window
    return image.view(B, H // h, h, W // w, w, C).transpose(2, 3).reshape(-1, h * w, C)


def swin(layer, x):
    """Swin's attention step by step, as torchvision has it."""
    (B, H, W, C), (h, w), heads, N = x.shape, layer.window_size, layer.num_heads, 16
    x = nn.functional.pad(x, (0, 0, 0, -W % w, 0, -H % h))
    high, wide = x.shape[1:3]
    shift = 0 if high <= h else layer.shift_size[0], 0 if wide <= w else layer.shift_size[1]
    x = partition(x.roll([-s for s in shift], (1, 2)), (h, w))
    q, k, v = layer.qkv(x).view(-1, N, 3, heads, C // heads).permute(2, 0, 3, 1, 4)
    scores = q * (C // heads) ** -0.5 @ k.mT
    bias = layer.relative_position_bias_table[layer.relative_position_index]
    scores = scores + bias.view(N, N, heads).permute(2, 0, 1)
    regions = torch.zeros(1, high, wide, 1)
    parts = [((0, -n), (-n, -s), (-s, None)) for n, s in zip((h, w), shift, strict=True)]
    for number, (rows, columns) in enumerate(itertools.product(*parts)):
        regions[:, slice(*rows), slice(*columns)] = number
    regions = partition(regions, (h, w))  # [windows, N, 1]
    apart = (regions != regions.mT).repeat(B, 1, 1).unsqueeze(1)
    y = (scores - 100 * apart).softmax(-1) @ v
    y = layer.proj(y.transpose(1, 2).reshape(-1, N, C)).view(B, high // h, wide // w, h, w, C)
    y = y.transpose(2, 3).reshape(B, high, wide, C).roll(shift, (1, 2))
    return y[:, :H, :W]


@pytest.mark.parametrize("size", [(8, 12), (7, 10), (4, 4), (4, 9), (12, 3)])
@pytest.mark.parametrize("shift", [(0, 0), (2, 2), (2, 1), (0, 3)])
def test_window_attention_is_swins(size, shift):
    layer = torchext.nn.WindowAttention(12, (4, 4), shift, 3).double()
    assert [*layer.state_dict()] == [
        "relative_position_bias_table",
        "relative_position_index",
        *("qkv.weight", "qkv.bias", "proj.weight", "proj.bias"),
    ]
    x = torch.randn(2, *size, 12, dtype=torch.float64, requires_grad=True)
    wanted = [x, *layer.parameters()]
    ys = [layer(x), swin(layer, x)]
    grads = [torch.autograd.grad(y.square().sum(), wanted) for y in ys]
    assert_close(*ys)
    assert_close(*grads)
    layer.attention_dropout = 1e-300  # never drops anything
    assert_close(layer(x), ys[0])


def test_wrong_indices_are_refused():
    qkv, table = torch.ones(1, 2, 2, 6), torch.ones(9, 1)
    for wrong in (9, -1):
        with pytest.raises(RuntimeError, match=r"window_attention: index: got .*, expected"):
            F.window_attention(qkv, table, torch.full((16,), wrong), (2, 2), (0, 0))
