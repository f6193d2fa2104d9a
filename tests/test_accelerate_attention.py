"""accelerate(): what is seen as attention, in whatever words a model has it, and what is not."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.utils import _pytree as pytree

import torchext
from torchext.acceleration._attention import SDPA, attention_qkv, pack_attention
from torchext.acceleration._capture import capture, tidy
from torchext.acceleration._lower import LAYERS
from torchext.acceleration._scores import fuse_attention
from torchext.acceleration._windows import fuse_windows, window_attention

B, H, N, D = 2, 3, 5, 4
SHAPE = (B, H, N, D)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Function(nn.Module):
    """A forward from a function, and what else it needs."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args):
        return self.function(self, *args)


class Several(nn.Module):
    """Models of the same inputs, by name: exported once, for time."""

    def __init__(self, models):
        super().__init__()
        self.names, self.models = list(models), nn.ModuleList(models.values())

    def forward(self, *inputs):
        return {name: m(*inputs) for name, m in zip(self.names, self.models, strict=True)}


class BothWays(fx.Interpreter):
    """Runs a graph, and each attention in it by torchext and by ATen."""

    def call_function(self, target, args, kwargs):
        y = super().call_function(target, args, kwargs)
        if target in WORDS:
            op, its = LAYERS[target](*args, **kwargs)
            torch.testing.assert_close(op(*its), y)
        return y


WORDS = {SDPA: "attention", attention_qkv: "packed", window_attention: "windows"}


def words_of(models, *inputs):
    """{name: what attentions are found in the model of this name}, whose results stay the same."""
    model = Several(models).eval()
    program = capture(model, inputs, {}, model)
    tidy(program.graph)
    fuse_attention(program.graph)
    fuse_windows(program)
    pack_attention(program.graph)
    tensors = [
        next(x for n, x in zip(program.inputs, inputs, strict=True) if n is node)
        if node in program.inputs
        else program.sources[node][0][program.sources[node][1]]
        for node in program.graph.nodes
        if node.op == "placeholder"
    ]
    with torch.no_grad():
        expected = model(*inputs)
        got = BothWays(fx.GraphModule({}, program.graph)).run(*tensors)
    got = pytree.tree_unflatten(got, program.out_spec)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    output = next(node for node in program.graph.nodes if node.op == "output")
    last = pytree.tree_unflatten(output.args[0], program.out_spec)
    return {name: _words_before(pytree.tree_leaves(last[name])) for name in models}


def _words_before(nodes):
    seen, todo = set(), list(nodes)
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += node.all_input_nodes
    return sorted(WORDS[node.target] for node in seen if node.target in WORDS)


def functions(them):
    return {name: Function(function) for name, function in them.items()}


def qkv():
    return [torch.randn(SHAPE) for _ in range(3)]


BIAS, PADDING = torch.randn(H, N, N), torch.randn(B, 1, 1, N)
AHEAD, SECOND = torch.ones(N, N, dtype=torch.bool).triu(1), torch.arange(N)[None] == 1


def _windowed(m, q, k, v):
    """Scores of windows get a mask of their own, as in Swin."""
    q, k, v = (x.flatten(0, 1).reshape(B * H // 2, 2, N, D) for x in (q, k, v))
    scores = (q @ k.mT).reshape(1, B * H // 2, 2, N, N) + PADDING[0]
    scores = (
        scores + torch.arange(B * H // 2.0).view(1, -1, 1, 1, 1).expand(-1, -1, -1, N, N) * AHEAD
    )
    return (scores.view(B * H // 2, 2, N, N).softmax(-1) @ v).view(SHAPE)


SPELLINGS = {
    "no scale": lambda m, q, k, v: (q @ k.mT).softmax(-1) @ v,
    "q scaled": lambda m, q, k, v: ((q * 0.3) @ k.mT).softmax(-1) @ v,
    "k scaled, then turned": lambda m, q, k, v: (q @ (k * 0.3).mT).softmax(-1) @ v,
    "k turned, then scaled": lambda m, q, k, v: (q @ (k.mT * 0.3)).softmax(-1) @ v,
    "both scaled": lambda m, q, k, v: ((q / 1.5) @ (2 * k).transpose(2, 3)).softmax(-1) @ v,
    "scores scaled": lambda m, q, k, v: ((q @ k.mT) * D**-0.5).softmax(-1) @ v,
    "scores divided": lambda m, q, k, v: F.softmax(q @ k.mT / math.sqrt(D), 3) @ v,
    "scaled by heads": lambda m, q, k, v: (
        ((q @ k.mT) * PADDING[:1, 0, 0, :H, None, None]).softmax(-1) @ v
    ),
    "divided by a number's tensor": lambda m, q, k, v: (
        (q @ k.mT / torch.tensor(3.0)).softmax(-1) @ v
    ),
    "k comes turned": lambda m, q, k, v: (q @ k.permute(0, 1, 3, 2).sin()).softmax(-1) @ v,
    "bias": lambda m, q, k, v: (q @ k.mT * 0.5 + BIAS).softmax(-1) @ v,
    "bias and mask": lambda m, q, k, v: (BIAS[None] + q @ k.mT + PADDING).softmax(-1) @ v,
    "masked": lambda m, q, k, v: (q @ k.mT).masked_fill(AHEAD, -math.inf).softmax(-1) @ v,
    "bias, masked": lambda m, q, k, v: (
        (q @ k.mT + BIAS).masked_fill(AHEAD, -math.inf).softmax(-1) @ v
    ),
    "masked twice": lambda m, q, k, v: (
        (q @ k.mT).masked_fill(AHEAD, -math.inf).masked_fill(SECOND, -math.inf).softmax(-1) @ v
    ),
    "bmm": lambda m, q, k, v: torch.bmm(
        torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).view(B, H, N, N).softmax(-1).flatten(0, 1),
        v.flatten(0, 1),
    ).view(SHAPE),
    "einsum": lambda m, q, k, v: torch.einsum(
        "bhij,bhjd->bihd", torch.einsum("b h i d, b h j d -> b h i j", q, k).softmax(-1), v
    ),
    "no dropout": lambda m, q, k, v: F.dropout((q @ k.mT).softmax(-1), 0.0, True) @ v,
    "dropout at rest": lambda m, q, k, v: F.dropout((q @ k.mT).softmax(-1), 0.5, False) @ v,
    "softmax's dtype": lambda m, q, k, v: (
        (q @ k.mT).softmax(-1, dtype=torch.float32).to(q.dtype) @ v
    ),
    "type_as": lambda m, q, k, v: (q @ k.mT).softmax(-1).type_as(v) @ v,
    "windows": _windowed,
    "cross attention": lambda m, q, k, v: (q[:, :, :2] @ k.mT).softmax(-1) @ v[..., :3],
}


def test_spellings():
    found = words_of(functions(SPELLINGS), *qkv())
    assert found == {name: ["attention"] for name in SPELLINGS}


def _returned(index):
    def forward(m, q, k, v):
        scores = q @ k.mT
        weights = (scores * 0.5).softmax(-1)
        return weights @ v, (scores, weights)[index]

    return forward


OTHERS = {
    "scores are returned": _returned(0),
    "weights are returned": _returned(1),
    "softmax of columns": lambda m, q, k, v: (q @ k.mT).softmax(-2) @ v,
    "softmax of heads": lambda m, q, k, v: (q @ k.mT).softmax(1) @ v,
    "another dtype": lambda m, q, k, v: (q @ k.mT).softmax(-1, dtype=torch.float64) @ v.double(),
    "weights on the right": lambda m, q, k, v: v.mT @ (q @ k.mT).softmax(-1),
    "weights twice": lambda m, q, k, v: (lambda p: p @ p)((q @ k.mT).softmax(-1)),
    "weights changed": lambda m, q, k, v: ((q @ k.mT).softmax(-1) * 2) @ v,
    "one channel for all": lambda m, q, k, v: (
        torch.einsum("bhid,bhjd->bhij", q, k[..., :1]).softmax(-1) @ v
    ),
    "bias scaled too": lambda m, q, k, v: ((q @ k.mT + BIAS) * 2).softmax(-1) @ v,
    "bias scaled by alpha": lambda m, q, k, v: torch.add(q @ k.mT, BIAS, alpha=2).softmax(-1) @ v,
    "columns scaled": lambda m, q, k, v: (q @ k.mT * PADDING).softmax(-1) @ v,
    "divided by scores": lambda m, q, k, v: (PADDING[..., :1] / (q @ k.mT)).softmax(-1) @ v,
    "bias of more keys": lambda m, q, k, v: (q @ k[:, :, :1].mT + BIAS).softmax(-1) @ v,
    "mask of finite numbers": lambda m, q, k, v: (
        (q @ k.mT).masked_fill(AHEAD, -2.0).softmax(-1) @ v
    ),
    "bias of a larger batch": lambda m, q, k, v: (q[:1] @ k[:1].mT + PADDING).softmax(-1) @ v,
    "keys for all heads": lambda m, q, k, v: (q @ k[:, :1].mT).softmax(-1) @ v,
    "rows regrouped": lambda m, q, k, v: (
        (q @ k.mT).view(B, H * N, N).softmax(-1).view(B, H, N, N).flatten(1, 2) @ v[:, 0]
    ),
}


def test_what_is_no_attention():
    assert words_of(functions(OTHERS), *qkv()) == {name: [] for name in OTHERS}


def test_active_dropout_stays():
    model = Function(lambda m, q, k, v: F.dropout((q @ k.mT).softmax(-1), 0.5, True) @ v)
    program = capture(model.eval(), tuple(qkv()), {}, model)
    assert fuse_attention(program.graph) == 0


IDLE = {
    "zeros": (lambda q: q.new_zeros(N, N), True),
    "all is seen": (lambda q: torch.ones(N, N, dtype=torch.bool).tril(N), True),
    "ones": (lambda q: q.new_ones(N, N), False),
    "nothing ahead": (lambda q: torch.ones(N, N, dtype=torch.bool).tril(), False),
    "of the input": (lambda q: q[..., :1] * 0, False),
}


def test_idle_masks():
    """Of what no weight or input reaches, those that hide nothing are left out."""
    models = functions(
        {n: lambda m, q, k, v, f=f: SDPA(q, k, v, f(q)) for n, (f, _) in IDLE.items()}
    )
    program = capture(Several(models).eval(), tuple(qkv()), {}, Several(models))
    fuse_attention(program.graph)
    nodes = [node for node in program.graph.nodes if node.target is SDPA]
    assert [n.args[3] is None for n in nodes] == [idle for _, idle in IDLE.values()]


MASKS = [
    (N, N),
    (1, N),
    (N, 1),
    (H, N, N),
    (H, 1, N),
    (1, H, N, N),
    (B, 1, 1, N),
    SHAPE[:2] + (N, N),
]


class Packed(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.qkv = nn.Linear(6, 3 * H * D)
        self.register_buffer("mask", mask)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, H, D)).movedim(-3, 0).transpose(-2, -3)
        return F.scaled_dot_product_attention(q, k, v, self.mask, scale=0.3)


def test_packed_with_masks():
    masks = [torch.randn(shape) for shape in MASKS]
    models = {str(mask.shape): Packed(mask) for mask in masks}
    models |= {f"hidden {mask.shape}": Packed(mask < 1) for mask in masks}
    assert words_of(models, torch.randn(B, N, 6)) == {name: ["packed"] for name in models}


def test_packed_with_more_batch_dimensions():
    models = {
        "none": Packed(None),
        "one for all": Packed(torch.randn(1, 1, H, N, N)),
        "more": Packed(torch.randn(2, 1, H, N, N)),
    }
    found = words_of(models, torch.randn(2, B, N, 6))
    assert found == {"none": ["packed"], "one for all": ["packed"], "more": ["attention"]}


# Windows.


class Swin(nn.Module):
    """Attention in windows, spelt so that all that may differ from Swin's is an argument."""

    def __init__(self, window=(2, 3), shift=(1, 1), dim=6, heads=2, **changes):
        super().__init__()
        self.window, self.shift, self.heads = window, shift, heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        N = math.prod(window)
        self.bias = nn.Parameter(torch.randn(heads, N, N))
        self.more = nn.Parameter(torch.zeros(()))
        self.changes = changes
        if any(shift):
            self.register_buffer("mask", self._mask(*IMAGE[1:3]))

    def forward(self, x):
        (h, w), (B, H, W, C) = self.window, x.shape
        shift, back = self.shift, self.changes.get("back", self.shift)
        x = torch.cat((x[:, shift[0] :], x[:, : shift[0]]), 1) if "cat" in self.changes else x
        x = x.roll([-s for s in shift], (1, 2)) if "cat" not in self.changes else x
        x = x.unflatten(1, (-1, h)).unflatten(3, (-1, w)).transpose(2, 3).reshape(-1, h * w, C)
        if "inside" in self.changes:
            q, k, v = self.qkv(x).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        else:
            q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q * (q.shape[-1] ** -0.5) @ k.mT
        if "bare" not in self.changes:
            scores = scores + self.bias
        if "flat" in self.changes:
            scores = scores + self.mask.repeat(B, 1, 1).unsqueeze(1)
        elif any(shift) and "bare" not in self.changes:
            mask = self.mask
            if "windows" in self.changes:  # a bias of each window's own, 0 until somebody learns it
                mask = mask + self.more * torch.arange(len(mask)).view(-1, 1, 1)
            scores = (scores.unflatten(0, (B, -1)) + mask.unsqueeze(1)).flatten(0, 1)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        y = self.proj(y) if "late" not in self.changes else y
        attended = y
        y = y.view(B, H // h, W // w, h, w, C).transpose(2, 3).reshape(B, H, W, C)
        y = y.roll(back, (1, 2))
        y = y + attended.mean() if "twice" in self.changes else y
        return self.proj(y) if "late" in self.changes else y

    def _mask(self, H, W):
        (h, w), regions = self.window, torch.zeros(H, W)
        for n, (size, s) in enumerate(
            zip((H, W), self.changes.get("seam", self.shift), strict=True)
        ):
            after = (torch.arange(size) >= size - s).float() * (n + 1)
            regions = regions + (after[:, None] if n == 0 else after)
        regions = regions.view(H // h, h, W // w, w).transpose(1, 2).reshape(-1, h * w)
        apart = regions[:, None] != regions[:, :, None]
        return torch.zeros(apart.shape).masked_fill(apart, self.changes.get("far", -100.0))


IMAGE = (2, 4, 6, 6)
WINDOWS = {
    "shifted": {},
    "by rows": {"shift": (1, 0)},
    "not shifted": {"shift": (0, 0)},
    "no bias": {"shift": (0, 0), "bare": True},
    "one window": {"window": (4, 6), "shift": (0, 0)},
    "projected as an image": {"late": True},
    "other windows": {"window": (2, 2), "shift": (0, 1)},
    "rolled by whole windows": {"shift": (2, 0), "seam": (0, 0)},
}


FLAT = {"a mask of all images' windows": {"flat": True}}  # so many are known for one image only
NOT_WINDOWS = {
    "not rolled back": {"back": (0, 0)},
    "rolled back elsewhere": {"back": (1, 2)},
    "another seam": {"seam": (1, 2)},
    "a weaker mask": {"far": -5.0},
    "a bias of each window's": {"windows": True},
    "rolled by other means": {"cat": True, "shift": (1, 0)},
    "used twice": {"twice": True},
    "q, k and v inside of heads": {"inside": True},
    "no mask": {"bare": True},
    "the only window rolled": {"window": (4, 2), "shift": (3, 1)},
}


@pytest.mark.parametrize("batch", [1, 2])
def test_windows(batch):
    models = {n: Swin(**changes) for n, changes in (WINDOWS | FLAT | NOT_WINDOWS).items()}
    found = words_of(models, torch.randn(batch, *IMAGE[1:]))
    expected = set(WINDOWS if batch > 1 else WINDOWS | FLAT)
    assert {name for name, words in found.items() if words == ["windows"]} == expected
    assert {len(words) for words in found.values()} == {1}


def test_torchvisions_windows():
    swin = pytest.importorskip("torchvision.models.swin_transformer")

    def model(shift, height=8, name="ShiftedWindowAttention"):
        model = getattr(swin, name)(6, [4, 4], [shift, shift], 2)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        return Function(lambda m, x: m.swin(x[:, :height]), swin=model)

    models = {
        "whole": model(0),
        "shifted": model(2),
        "padded": model(2, 7),
        "rolled in one direction": model(2, 4),
    }
    x = torch.randn(2, 8, 8, 6)
    assert words_of(models, x) == {name: ["windows"] for name in models}
    model = model(2, name="ShiftedWindowAttentionV2")
    assert words_of({"v2": model}, x) == {"v2": ["attention"]}  # its q and k are not the layer's


def test_timms_windows():
    swin = pytest.importorskip("timm.models.swin_transformer")
    models = {
        str(shift): swin.SwinTransformerBlock(6, (8, 8), 2, window_size=4, shift_size=shift)
        for shift in (0, 2)
    }
    for model in models.values():
        nn.init.normal_(model.attn.relative_position_bias_table)
    assert words_of(models, torch.randn(2, 8, 8, 6)) == {name: ["windows"] for name in models}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_hugging_faces(attention):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "image_size": 32}
    config = transformers.ViTConfig(
        num_hidden_layers=2, num_attention_heads=2, **sizes, attn_implementation=attention
    )
    model = transformers.ViTForImageClassification(config).eval()
    x = torch.randn(2, 3, 32, 32)
    fast = torchext.accelerate(model, {"pixel_values": x})
    places = [row["what"] for row in fast.torchext_report.rows]
    assert places.count("scaled_dot_product_attention") == 2
    assert "softmax" not in places
    with torch.no_grad():
        ours, theirs = fast(pixel_values=x), model(pixel_values=x)
    assert type(ours) is type(theirs)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)


def test_follows_the_bias():
    model, x = Swin().eval(), torch.randn(IMAGE)
    with torch.no_grad():
        fast = torchext.accelerate(model, x)
        assert "window_attention" in [row["what"] for row in fast.torchext_report.rows]
        model.bias.normal_()
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
