"""ViT and Swin against torchvision's, DeiT against timm's: parameters, logits, gradients, names."""

import math

import pytest
import timm
import torch
import torchvision
from against_torch import check_like
from harness import allowed_error, error_of
from timm.models.deit import VisionTransformerDistilled as TimmDistilled
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn
from torchvision.models import feature_extraction, vision_transformer

from torchext import models
from torchext import nn as tn
from torchext.models import _vit_keys, deit, swin, vit
from torchext.models._transformer import StochasticDepth

# (theirs, ours, arguments, image): models small enough for every test
VIT = (
    torchvision.models.VisionTransformer,
    vit.VisionTransformer,
    {
        "image_size": 32,
        "patch_size": 8,
        "num_layers": 2,
        "num_heads": 4,
        "hidden_dim": 64,
        "mlp_dim": 128,
        "num_classes": 10,
    },
    (32, 32),
)
SWIN = (
    torchvision.models.SwinTransformer,
    swin.SwinTransformer,
    {
        "patch_size": [4, 4],
        "embed_dim": 32,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": [4, 4],
        "stochastic_depth_prob": 0.0,
        "num_classes": 10,
    },
    (36, 44),  # whose 9 x 11 patches fill neither windows nor pairs
)
DEIT = (
    TimmViT,
    deit.VisionTransformer,
    {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 48,
        "depth": 4,
        "num_heads": 3,
        "num_classes": 10,
    },
    (32, 32),
)
DISTILLED = (TimmDistilled, deit.VisionTransformerDistilled, *DEIT[2:])
SMALL = {"vit": VIT, "swin": SWIN, "deit": DEIT, "distilled": DISTILLED}


def conv_stem(library, norm, activation):
    config = library.ConvStemConfig
    return [config(24, 3, 2, norm, activation), config(32, 3, 4, norm, activation)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pair(family, **more):
    """(theirs, ours, images) with the same parameters, none of which are all zeros."""
    their_class, our_class, arguments, size = SMALL[family]
    theirs, ours = (one(**{**arguments, **more}) for one in (their_class, our_class))
    with torch.no_grad():
        for x in ours.parameters():
            x.add_(torch.randn_like(x) * 0.05)
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours, torch.randn(2, 3, *more.get("img_size", size))


def same_tensors(got, expected):
    assert list(got) == list(expected)
    for name, x in expected.items():
        assert torch.equal(got[name], x), name


VARIANTS = [
    ("vit", {}),
    ("vit", {"representation_size": 24}),
    ("swin", {}),
    ("swin", {"mlp_ratio": 2.0}),
    ("deit", {}),
    ("deit", {"global_pool": "avg"}),
    ("deit", {"global_pool": "max"}),
    ("deit", {"global_pool": "avgmax"}),
    ("deit", {"global_pool": "", "num_classes": 0}),
    ("deit", {"img_size": (32, 48), "qkv_bias": False, "mlp_ratio": 2.0}),
    ("distilled", {}),
]


@pytest.mark.parametrize(("family", "more"), VARIANTS)
def test_same_parameters_from_the_same_seed(family, more):
    their_class, our_class, arguments, _ = SMALL[family]
    torch.manual_seed(1)
    theirs = their_class(**{**arguments, **more})
    torch.manual_seed(1)
    ours = our_class(**{**arguments, **more})
    same_tensors(ours.state_dict(), theirs.state_dict())


def test_convolutional_stem():
    arguments = VIT[2]
    torch.manual_seed(1)
    stem = conv_stem(vision_transformer, nn.BatchNorm2d, nn.ReLU)
    theirs = VIT[0](**arguments, conv_stem_configs=stem)
    torch.manual_seed(1)
    stem = conv_stem(vit, tn.BatchNorm2d, tn.ReLU)
    ours = VIT[1](**arguments, conv_stem_configs=stem)
    same_tensors(ours.state_dict(), theirs.state_dict())
    for model in (ours, theirs):
        nn.init.constant_(model.heads.head.weight[:, ::2], 0.1)
    check_like(theirs.eval(), ours.eval(), torch.randn(2, 3, 32, 32), terms=128)


# A sum of 128 terms is the longest within a layer; the error rule's floor grows with its root, and
# beyond it ours may be off twice as far as theirs (gradients: three times), as one op's may: errors
# of layers add up alike in both.
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("family", "more"), VARIANTS)
def test_logits_and_gradients(family, more, layout, training):
    theirs, ours, x = pair(family, **more)
    x = x.contiguous(memory_format=layout)
    check_like(theirs.train(training), ours.train(training), x, terms=128)


@pytest.mark.parametrize(
    ("family", "more"),
    [("swin", {"stochastic_depth_prob": 0.5}), ("deit", {"drop_path_rate": 0.5})],
)
def test_stochastic_depth_drops_the_same_rows(family, more):
    theirs, ours, x = pair(family, **more)
    x = x.repeat(8, 1, 1, 1)
    for module in ours.train().modules():
        if isinstance(module, tn.Dropout):
            module.eval()  # it draws a seed even where it drops nothing
    draws = []
    for model in (theirs.train(), ours):
        torch.manual_seed(2)
        draws.append(model(x))
    torch.testing.assert_close(*draws)
    assert (draws[0] - theirs.eval()(x)).abs().max() > 0.1  # rows were dropped


def test_stochastic_depth_of_all_and_of_none():
    x = torch.randn(4, 3)
    assert StochasticDepth(0.5).eval()(x) is x
    assert StochasticDepth(0.0)(x) is x
    assert torch.equal(StochasticDepth(1.0)(x), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"StochasticDepth: p: got 1\.5"):
        StochasticDepth(1.5)


BUILDERS = [
    *models.list_models(module=vit),
    *models.list_models(module=swin),
    *models.list_models(module=deit),
]


@pytest.mark.parametrize("name", BUILDERS)
def test_names_shapes_and_counts(name):
    with torch.device("meta"):
        ours = models.get_model(name)
        build = getattr(torchvision.models, name, None) or timm.create_model
        theirs = build() if build is not timm.create_model else build(name)
        shapes = [
            [(key, x.shape) for key, x in model.state_dict().items()] for model in (ours, theirs)
        ]
        assert shapes[0] == shapes[1]
        for weights in models.get_model_builder(name).weights or ():
            size = weights.meta["min_size"][0]
            sized = models.get_model(name, image_size=size) if name.startswith("vit") else ours
            assert sum(x.numel() for x in sized.parameters()) == weights.meta["num_params"]


def test_weights_imply_the_image_size(monkeypatch):
    monkeypatch.setattr("torchext.models._registry.load", lambda *_: None)
    with torch.device("meta"):
        assert models.vit_b_16(weights="IMAGENET1K_SWAG_E2E_V1").image_size == 384
        assert models.vit_b_16(weights="IMAGENET1K_V1").image_size == 224


QUICK = ["deit_tiny_patch16_224", "swin_t", "vit_b_32"]
SLOW = sorted({*BUILDERS} - {*QUICK, "vit_h_14"})  # which takes 10 GB


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(n, marks=pytest.mark.long) for n in SLOW)])
def test_whole_models(name):
    """The longest sum within a layer has 4096 terms."""
    ours = models.get_model(name).eval()
    build = getattr(torchvision.models, name, None)
    theirs = (build() if build else timm.create_model(name)).eval()
    if isinstance(ours, vit.VisionTransformer):
        nn.init.normal_(ours.heads.head.weight, std=0.02)  # which are zeros at first
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        got, by_torch = ours(x), theirs(x)
        reference = theirs.double()(x.double())
    allowed = allowed_error(got.dtype, 4096, error_of(by_torch, reference))
    assert error_of(got, reference) <= allowed


# Names of other libraries


def in_order(state, like):
    return {name: state[name] for name in like}


def test_vit_loads_timms_names():
    timms, _, x = pair("deit", mlp_ratio=2.0)
    ours = vit.VisionTransformer(32, 8, 4, 3, 48, 96, num_classes=10)
    ours.load_state_dict(timms.state_dict())
    torch.testing.assert_close(ours.eval()(x), timms.eval()(x))
    state = _vit_keys.vit_to_timm(ours.state_dict())
    same_tensors(in_order(state, timms.state_dict()), timms.state_dict())


def test_deit_loads_torchvisions_names():
    theirs, ours, x = pair("vit")
    model = deit.VisionTransformer(32, 8, 3, 10, "token", 64, 2, 4, mlp_ratio=2.0)
    model.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(model.eval()(x), theirs.eval()(x))
    state = _vit_keys.vit_to_torchvision(model.state_dict())
    same_tensors(in_order(state, ours.state_dict()), theirs.state_dict())


def test_vit_loads_names_of_torchvisions_published_weights():
    theirs, _, _ = pair("vit")
    state = {
        name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): tensor
        for name, tensor in theirs.state_dict().items()
    }
    assert state.keys() != theirs.state_dict().keys()
    fresh = vit.VisionTransformer(**VIT[2])
    fresh.load_state_dict(state)
    same_tensors(fresh.state_dict(), theirs.state_dict())


def test_swin_loads_timms_names():
    timms = TimmSwin(32, 4, 3, 10, "avg", 32, (2, 2), (2, 4), window_size=4).eval()
    ours = swin.SwinTransformer(**SWIN[2])
    ours.load_state_dict(timms.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(x), timms(x))
    state = _vit_keys.swin_to_timm(ours.state_dict())
    same_tensors(in_order(state, timms.state_dict()), timms.state_dict())


@pytest.mark.parametrize(
    ("ours", "timms", "convert"),
    [
        ("vit_b_16", "vit_base_patch16_224", _vit_keys.vit_to_torchvision),
        ("vit_l_32", "vit_large_patch32_224", _vit_keys.vit_to_torchvision),
        ("swin_s", "swin_small_patch4_window7_224", _vit_keys.swin_to_torchvision),
    ],
)
def test_names_of_whole_models_correspond(ours, timms, convert):
    with torch.device("meta"):
        ours, timms = models.get_model(ours), timm.create_model(timms, num_classes=1000)
    shapes = {name: x.shape for name, x in ours.named_parameters()}
    assert {name: x.shape for name, x in convert(timms.state_dict()).items()} == shapes


def test_other_names_within_a_larger_model():
    timms, _, _ = pair("deit", mlp_ratio=2.0)
    larger = nn.ModuleDict({"backbone": vit.VisionTransformer(32, 8, 4, 3, 48, 96, num_classes=10)})
    state = {f"backbone.{name}": x for name, x in timms.state_dict().items()}
    state["backbone.more"] = state.pop("backbone.cls_token")
    missing, unexpected = larger.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["backbone.class_token"], ["backbone.more"])
    assert torch.equal(larger.backbone.heads.head.weight, timms.head.weight)


# Image sizes


def test_positions_for_another_image_size():
    theirs, _, _ = pair("vit")
    state = theirs.state_dict()
    for reset in (False, True):
        expected = vision_transformer.interpolate_embeddings(
            48, 8, theirs.state_dict(), reset_heads=reset
        )
        same_tensors(vit.interpolate_embeddings(48, 8, state, reset_heads=reset), expected)
    larger = vit.VisionTransformer(**{**VIT[2], "image_size": 48})
    larger.load_state_dict(vit.interpolate_embeddings(48, 8, state))
    assert larger(torch.randn(1, 3, 48, 48)).shape == (1, 10)
    same_tensors(vit.interpolate_embeddings(32, 8, state), state)


@pytest.mark.parametrize("family", ["deit", "distilled"])
def test_deit_resamples_positions_when_it_loads(family):
    _, ours, _ = pair(family)
    larger = SMALL[family][1](**{**DEIT[2], "img_size": (48, 64)})
    larger.load_state_dict(ours.state_dict())
    prefix = ours.num_prefix_tokens
    expected = timm.layers.resample_abs_pos_embed(ours.pos_embed, (6, 8), num_prefix_tokens=prefix)
    assert torch.equal(larger.pos_embed, expected)


def test_other_image_sizes_are_refused():
    with pytest.raises(AssertionError, match="VisionTransformer: width: got 40, expected 32"):
        vit.VisionTransformer(**VIT[2])(torch.randn(1, 3, 32, 40))
    with pytest.raises(AssertionError, match="PatchEmbed: height: got 40, expected 32"):
        deit.VisionTransformer(**DEIT[2])(torch.randn(1, 3, 40, 32))
    with pytest.raises(ValueError, match="image_size: got 30, expected a multiple"):
        vit.VisionTransformer(**{**VIT[2], "image_size": 30})
    with pytest.raises(ValueError, match="got 12 places"):
        vit.resample_positions(torch.zeros(1, 13, 8), 1, (4, 4))


# Positions


def shuffled(x):
    """An image's patches of 8 x 8, in another order."""
    patches = nn.functional.unfold(x, 8, stride=8)
    return nn.functional.fold(patches.roll(1, -1), x.shape[2:], 8, stride=8)


@pytest.mark.parametrize("pos", ["learned", "sinusoidal", "relative"])
def test_the_order_of_patches_matters(pos):
    """By positions only, all of which get a gradient where all patches count in the end."""
    model = deit.VisionTransformer(**DEIT[2], pos=pos, global_pool="avg").eval()
    tables = [x for name, x in model.named_parameters() if "pos" in name]
    assert len(tables) == {"learned": 1, "sinusoidal": 0, "relative": 4}[pos]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    x = torch.randn(1, 3, 32, 32)
    y = model(x)
    y.square().sum().backward()
    assert all(table.grad.abs().max() > 1e-3 for table in tables)
    assert (y - model(shuffled(x))).abs().max() > 0.01
    for table in tables or [model.pos_embed]:
        table.data.zero_()
    torch.testing.assert_close(model(x), model(shuffled(x)))


def test_sinusoidal_positions():
    model = deit.VisionTransformer(**{**DEIT[2], "img_size": (16, 40)}, pos="sinusoidal")
    assert "pos_embed" not in model.state_dict()
    table = model.pos_embed
    assert table.shape == (1, 1 + 2 * 5, 48) and not table[:, 0].any()
    for row in range(2):
        for column in range(5):
            angles = [[place * 10000 ** (-i / 12) for i in range(12)] for place in (row, column)]
            expected = [f(a) for place in angles for f in (math.sin, math.cos) for a in place]
            got = table[0, 1 + row * 5 + column]
            torch.testing.assert_close(got, torch.tensor(expected), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="channels: got 42, expected a multiple of 4"):
        deit.sinusoidal_positions((2, 2), 42)


def test_relative_positions():
    """Attention with a table, against scores to which the table's numbers are added one by one."""
    ours = deit.Attention(24, 2, grid=(2, 3), others=1)
    x = torch.randn(2, 7, 24, requires_grad=True)
    places = [(i, j) for i in range(2) for j in range(3)]
    rows = [[(a[0] - b[0] + 1) * 5 + a[1] - b[1] + 2 for b in places] for a in places]
    bias = nn.functional.pad(
        ours.relative_position_bias_table[torch.tensor(rows)].movedim(2, 0), (1, 0, 1, 0)
    )
    q, k, v = ours.qkv(x).unflatten(2, (3, 2, 12)).permute(2, 0, 3, 1, 4)
    y = ((q @ k.mT / math.sqrt(12) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)
    expected, got = ours.proj(y), ours(x)
    torch.testing.assert_close(got, expected)
    leaves = [x, *ours.parameters()]
    gradients = [torch.autograd.grad(y.sin().sum(), leaves) for y in (got, expected)]
    for result in zip(*gradients, strict=True):
        torch.testing.assert_close(*result, atol=1e-5, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours(x).float(), expected, atol=0.02, rtol=0.05)


def test_dropout_of_attention():
    """With hardly any to drop it makes what it makes without."""
    ours = deit.Attention(24, 2, grid=(2, 3), others=1)
    x = torch.randn(2, 7, 24)
    expected = ours(x)
    ours.attn_drop.p = 1e-12
    torch.testing.assert_close(ours(x), expected)
    ours.attn_drop.p = 0.5
    assert (ours(x) - expected).abs().max() > 0.01
    assert torch.equal(ours.eval()(x), expected)


# What timm's users expect


@pytest.mark.parametrize("family", SMALL)
def test_maps_are_timms(family):
    theirs, ours, x = pair(family, **{"mlp_ratio": 2.0} if family != "vit" else {})
    if family == "swin":
        theirs = TimmSwin(32, 4, 3, 10, "avg", 32, (2, 2), (2, 4), window_size=4, mlp_ratio=2.0)
        theirs.load_state_dict(_vit_keys.swin_to_timm(ours.state_dict()))
        x = torch.randn(2, 3, 32, 32)
    if family == "vit":
        theirs = TimmViT(32, 8, 3, 10, "token", 64, 2, 4, mlp_ratio=2.0)
        theirs.load_state_dict(_vit_keys.vit_to_timm(ours.state_dict()))
    theirs, ours = theirs.eval(), ours.eval()
    for indices in (None, 1, [0, -1]):
        expected, maps = theirs.forward_intermediates(x, indices)
        got, ours_maps = ours.forward_intermediates(x, indices)
        for a, b in zip([got, *ours_maps], [expected, *maps], strict=True):
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.forward_features(x), theirs.forward_features(x))
    for info, map_ in zip(ours.feature_info, ours.forward_intermediates(x)[1], strict=True):
        assert map_.shape[1] == info["num_chs"]
        assert map_.shape[2] == x.shape[2] // info["reduction"]
        assert isinstance(ours.get_submodule(info["module"]), nn.Module)


def test_features_only_is_timms():
    arguments = {name: x for name, x in DEIT[2].items() if name != "num_classes"}
    for indices in ({}, {"out_indices": (0, 2)}):
        more = {"features_only": True, **arguments, **indices}
        theirs = timm.create_model("deit_tiny_patch16_224", **more).eval()
        ours = models.deit_tiny_patch16_224(**more).eval()
        theirs.model.load_state_dict(in_order(ours.state_dict(), theirs.model.state_dict()))
        for method in ("channels", "reduction", "module_name"):
            assert getattr(ours.feature_info, method)() == getattr(theirs.feature_info, method)()
        x = torch.randn(2, 3, 32, 32)
        for a, b in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("indices", [None, (0,), (-2,)])
@pytest.mark.parametrize("family", SMALL)
def test_features_only_leaves_no_parameter_unused(family, indices):
    _, whole, x = pair(family)
    _, expected = whole.forward_intermediates(x)
    model = whole.eval().make_features_only(indices)
    assert not any(module.training for module in model.modules())
    maps = model(x)
    wanted = range(-len(maps), 0) if indices is None else indices
    assert all(torch.equal(got, expected[i]) for got, i in zip(maps, wanted, strict=True))
    sum(y.sum() for y in maps).backward()
    assert all(x.grad is not None for x in model.parameters())


@torch.no_grad()
def test_other_pooling_of_timms():
    """A new pooling leaves the last norm where it is."""
    theirs, ours, x = pair("deit")
    for pool in ("avg", "max", "avgmax", "token"):
        for model in (theirs, ours):
            model.eval().reset_classifier(5, pool)
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(x), theirs(x))
        assert ours.global_pool == theirs.global_pool == pool
    for model in (theirs, ours):
        model.reset_classifier(0, "")
    torch.testing.assert_close(ours(x), theirs(x))
    theirs, ours, x = pair("distilled")
    for model in (theirs, ours):
        model.eval().reset_classifier(0, "")
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("family", SMALL)
def test_classifiers(family):
    theirs, ours, x = pair(family)
    ours.eval()
    pre_logits = ours.forward_head(ours.forward_features(x), pre_logits=True)
    heads = ours.get_classifier()
    heads = heads if isinstance(heads, tuple) else (heads,)
    assert len(heads) == (2 if family == "distilled" else 1)
    if family != "distilled":
        torch.testing.assert_close(heads[0](pre_logits), ours(x))
    else:
        expected = theirs.eval().forward_head(theirs.forward_features(x), pre_logits=True)
        torch.testing.assert_close(pre_logits, expected)
    ours.reset_classifier(5)
    assert ours(x).shape == (2, 5) and ours.num_classes == 5
    ours.reset_classifier(0)
    assert torch.equal(ours(x), pre_logits)
    with pytest.raises(ValueError, match="reset_classifier: global_pool: got 'map', expected one"):
        ours.reset_classifier(5, "map")


def test_head_with_a_representation():
    _, ours, x = pair("vit", representation_size=24)
    pre_logits = ours.forward_head(ours.forward_features(x), pre_logits=True)
    assert pre_logits.shape == (2, ours.num_features) == (2, 24)
    torch.testing.assert_close(ours.heads.head(pre_logits), ours(x))


def test_distilled_training():
    theirs, ours, x = pair("distilled")
    for model in (theirs, ours):
        model.set_distilled_training(True)
    for a, b in zip(ours.train()(x), theirs.train()(x), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.eval()(x), sum(ours.train()(x)) / 2)
    with pytest.raises(ValueError, match="global_pool: got 'avg', expected one of"):
        deit.VisionTransformerDistilled(**DEIT[2], global_pool="avg")


@pytest.mark.parametrize("family", SMALL)
def test_weight_decay_and_groups_are_timms(family):
    _, ours, _ = pair(family)
    timms, convert = {
        "vit": (TimmViT(32, 8, 3, 10, "token", 64, 2, 4), _vit_keys.vit_to_torchvision),
        "swin": (
            TimmSwin(32, 4, 3, 10, "avg", 32, (2, 2), (2, 4), window_size=4),
            _vit_keys.swin_to_torchvision,
        ),
        "deit": (TimmViT(**DEIT[2]), dict),
        "distilled": (TimmDistilled(**DEIT[2]), dict),
    }[family]
    names = convert({name: name for name, _ in timms.named_parameters()})
    undecayed = {
        name for name, timms_name in names.items() if timms_name in timms.no_weight_decay()
    }
    assert ours.no_weight_decay() == undecayed
    for coarse in (False, True):
        expected, got = (
            timm.models.group_parameters(model, model.group_matcher(coarse), reverse=True)
            for model in (timms, ours)
        )
        assert got == convert(expected)


@pytest.mark.parametrize("family", SMALL)
def test_grad_checkpointing(family):
    _, ours, x = pair(family)
    runs = []
    for module in ours.modules():
        if isinstance(module, tn.LayerNorm):
            module.register_forward_hook(lambda *_: runs.append(1))
    gradients = []
    for checkpointing in (False, True):
        runs.clear()
        ours.set_grad_checkpointing(checkpointing)
        ours.train()(x).square().sum().backward()
        gradients.append((len(runs), [p.grad.clone() for p in ours.parameters()]))
        ours.zero_grad()
    (once, expected), (more, got) = gradients
    blocks = 4 if family != "vit" else 2
    assert more == once + 2 * blocks  # a block has two norms, and runs again
    assert all(map(torch.equal, got, expected))


@pytest.mark.parametrize("family", SMALL)
def test_grey_images(family):
    _, ours, arguments, size = SMALL[family]
    assert ours(**arguments, in_chans=1)(torch.randn(1, 1, *size)).shape == (1, 10)


HOLDERS = [
    ("vit", ["encoder", "encoder.layers", "heads"]),
    ("swin", ["features", "features.1", "permute"]),
    ("deit", ["blocks", "patch_embed"]),
]


@pytest.mark.parametrize(("family", "names"), HOLDERS)
def test_modules_that_hold_others_are_called(family, names):
    """So that hooks on them run."""
    _, ours, x = pair(family)
    called = []
    for name in names:
        ours.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
    ours(x)
    assert sorted(called) == sorted(names)


# Names of nodes


def test_node_names_of_vit_are_torchvisions():
    theirs, ours, _ = pair("vit")
    assert node_names(ours) == node_names(theirs)


def test_node_names_of_swin_are_torchvisions_but_within_attention():
    """Which is one node here; torchvision's traces into its parameters."""
    theirs, ours, _ = pair("swin")
    for got, expected in zip(node_names(ours), node_names(theirs), strict=True):
        attentions = [name for name in got if name.endswith(".attn")]
        assert len(attentions) == 4
        assert [n for n in got if n not in attentions] == [n for n in expected if ".attn." not in n]


node_names = feature_extraction.get_graph_node_names


@pytest.mark.parametrize(
    ("family", "nodes"),
    [
        (
            "vit",
            ["encoder.layers.encoder_layer_0.add_1", "encoder.layers.encoder_layer_1", "heads"],
        ),
        ("swin", ["features.1", "features.3.0.attn", "flatten"]),
    ],
)
def test_features_extracted_by_torchvision(family, nodes):
    theirs, ours, x = pair(family)
    extract = feature_extraction.create_feature_extractor
    expected, got = (extract(model.eval(), nodes)(x) for model in (theirs, ours))
    for node in nodes:
        torch.testing.assert_close(got[node], expected[node])


@pytest.mark.long
@pytest.mark.parametrize("family", SMALL)
def test_compiled(family):
    _, ours, x = pair(family)
    compiled = torch.compile(ours.eval(), fullgraph=True)
    torch.testing.assert_close(compiled(x), ours(x))
