"""Convolutional models against torchvision's, and MobileNet v1 against timm's.

How far from the exact result a model may be: the exact one is torchvision's in float64.

In float64 ours is the same to EXACT, in every single gradient. That is the test of the model.

In float32 (the test of its kernels) both are wrong by rounding errors that layer after layer hands
on, so ours may be wrong by four times as much as torchvision's, or by what the error rule of single
ops allows the longest of its sums, eps * sqrt(512 * 3 * 3). But gradients are no continuous
function: where an activation is as good as zero, or two values in a pooling window as good as
equal, rounding decides which way a gradient goes. Counted in six models' evaluation of four images:
where a decision was another than in float64 (in 9 of 24 images for ours, in 5 for torchvision's),
the image's gradient was wrong by 3e-4 to 2e-2, where none was, by 8e-6 at most. So in evaluation
mode, where images are independent, the least wrong of eight small ones is judged by the rule, and
the others may be wrong by FLIPPED; in training mode, where batch norm mixes them, all gradients
may.
"""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from torchext import models

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")
feature_extraction = pytest.importorskip("torchvision.models.feature_extraction")

TIMM = dict.fromkeys(("mobilenet", "mobilenet_v1", "mobilenetv1_100"), "mobilenetv1_100")
DROPOUTS = {"googlenet": ("dropout", "dropout_aux"), "mobilenet_v2": ("dropout",)}
for _name in models.list_models(models.vgg) + models.list_models(models.mobilenet_v3) + ["alexnet"]:
    DROPOUTS[_name] = ("dropout",)
ALL = sorted({*models.list_models(models.resnet), *DROPOUTS, *TIMM})
LIGHT = [
    "googlenet",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenetv1_100",
    "resnet18",
]
BIG = [name for name in ALL if any(part in name for part in ("vgg1", "101", "152", "wide"))]
MIDDLING = [name for name in ALL if name not in BIG]

EPS = torch.finfo(torch.float32).eps
EXACT, FLIPPED = 1e-9, 0.1
# torch's gradient of hardsigmoid has a sixth rounded to float32, even in float64.
EXACTNESS = {"mobilenet_v3_large": 1e-6, "mobilenet_v3_small": 1e-6}


def each(quick):
    """All models, those that take long only with --long."""
    marks = {name: [] if name in quick else [pytest.mark.long] for name in ALL}
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=marks[name]) for name in ALL], ids=ALL
    )


def theirs(name, **kwargs):
    if name in TIMM:
        return timm.create_model(TIMM[name], **kwargs)
    if name == "googlenet":  # which warns where it is not said
        kwargs = {"init_weights": True, **kwargs}
    return torchvision.models.get_model(name, **kwargs)


def both(name, **kwargs):
    """(ours, theirs) from the same seed"""
    pair = []
    for build in (models.get_model, theirs):
        torch.manual_seed(0)
        pair.append(build(name, **kwargs))
    return pair


def without_dropout(name):
    return dict.fromkeys(DROPOUTS.get(name, ()), 0.0)


def small_headed(name):
    with torch.device("meta"):
        pair = both(name)
    for model in pair:
        inputs = next(m for m in model.classifier if isinstance(m, nn.Linear)).in_features
        model.classifier = nn.Linear(inputs, 10)
        model.to_empty(device="cpu")
    torch.manual_seed(0)
    for module in pair[1].modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    pair[0].load_state_dict(pair[1].state_dict())
    return pair


def images(count=4, size=64, channels=3):
    torch.manual_seed(1)
    return torch.randn(count, channels, size, size)


def in_dtype(model, x, dtype, training):
    """(a copy of the model, a copy of the images, outputs), after a backward pass."""
    model = copy.deepcopy(model).to(dtype).train(training)
    x = x.to(dtype, copy=True).requires_grad_()
    y = model(x)
    outputs = list(y) if isinstance(y, tuple) else [y]
    torch.manual_seed(2)
    torch.autograd.backward(outputs, [torch.randn(y.shape).to(dtype) for y in outputs])
    return model, x, outputs


def evaluated(model, x, dtype):
    _, x, outputs = in_dtype(model, x, dtype, training=False)
    return {"logits": outputs, "images": list(x.grad)}


def trained(model, x, dtype):
    model, x, outputs = in_dtype(model, x, dtype, training=True)
    statistics = [b for b in model.buffers() if b.is_floating_point()]
    gradients = [x.grad] + [p.grad for p in model.parameters()]
    return {"logits": outputs, "gradients": gradients, "statistics": statistics}


def sizes(tensors):
    return [x.double().norm().item() for x in tensors]


def errors(got, reference):
    """|got - reference| / |reference| of each tensor; a gradient of what the next norm takes away
    again is zero but for rounding: next to the others it is measured."""
    of_each = sizes(reference)
    wrong = sizes(a.double() - b.double() for a, b in zip(got, reference, strict=True))
    least = 1e-4 * max(of_each, default=0)
    return [w / max(size, least) if w else 0.0 for w, size in zip(wrong, of_each, strict=True)]


def error(kind, got, reference):
    """One figure for all tensors of a kind."""
    if kind == "images":
        return min(errors(got, reference))
    wrong = sizes(a.double() - b.double() for a, b in zip(got, reference, strict=True))
    return math.hypot(*wrong) / math.hypot(*sizes(reference)) if got else 0.0


def check_float32(got, by_torch, exact):
    for kind, reference in exact.items():
        floor = FLIPPED if kind == "gradients" else EPS * math.sqrt(512 * 3 * 3)
        allowed = max(4 * error(kind, by_torch[kind], reference), floor)
        measured = error(kind, got[kind], reference)
        assert measured <= allowed, f"{kind}: error {measured:.2g}, allowed {allowed:.2g}"


def check_numbers(name, ours, theirs, size=64, small=32):
    x = images(4, size)
    exact = trained(theirs, x, torch.float64)
    got = trained(ours, x, torch.float64)
    for kind, reference in exact.items():
        assert max(errors(got[kind], reference), default=0) <= EXACTNESS.get(name, EXACT), kind
    check_float32(trained(ours, x, torch.float32), trained(theirs, x, torch.float32), exact)
    x = images(8, small)
    exact, by_torch = (evaluated(theirs, x, dtype) for dtype in (torch.float64, torch.float32))
    for layout in (torch.contiguous_format, torch.channels_last):
        got = evaluated(ours, x.to(memory_format=layout), torch.float32)
        check_float32(got, by_torch, exact)
        assert max(errors(got["images"], exact["images"])) <= FLIPPED


@each(quick=LIGHT)
def test_numbers(name):
    small = 64 if name == "alexnet" else 32
    check_numbers(name, *both(name, **without_dropout(name)), small=small)


@pytest.mark.parametrize(("name", "size"), [("alexnet", 64), ("vgg11_bn", 32)])
def test_numbers_of_the_convolutions(name, size):
    """Without the 60 and 120 million weights that follow."""
    check_numbers(name, *small_headed(name), size, size)


@each(quick=["vgg11", *MIDDLING])
def test_same_seed_same_weights(name):
    ours, theirs = (model.state_dict() for model in both(name))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@each(quick=ALL)
def test_keys_shapes_and_count(name):
    with torch.device("meta"):
        ours, theirs = both(name)
        shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (ours, theirs)]
        assert list(shapes[0].items()) == list(shapes[1].items())
        if name == "googlenet":  # whose published count is without these
            ours = models.get_model(name, aux_logits=False)
        for weights in models.get_model_weights(name):
            assert sum(p.numel() for p in ours.parameters()) == weights.meta["num_params"]


@each(quick=["vgg11_bn", *MIDDLING])
def test_node_names(name):
    with torch.device("meta"):
        ours, theirs = both(name)
    names = partial(feature_extraction.get_graph_node_names, suppress_diff_warning=True)
    if name not in TIMM:
        assert names(ours) == names(theirs)
        return
    # timm's norms contain the activation, and it has layers that do nothing.
    extra = {"act", "aa", "se", "conv_head", "flatten", "pool", "avg"}
    for of_mode, timms in zip(names(ours), timm.models.get_graph_node_names(theirs), strict=True):
        rest = [
            [
                n
                for n in nodes
                if n.rpartition(".")[2].removesuffix("_1") not in extra and n != "bn2"
            ]
            for nodes in (of_mode, timms)
        ]
        assert rest[0] == rest[1]


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("googlenet", {"aux_logits": False}),
        ("googlenet", {"transform_input": True}),
        ("mobilenet_v2", {"inverted_residual_setting": [(1, 8, 1, 1), (3, 20, 2, 2)]}),
        ("mobilenet_v2", {"norm_layer": partial(nn.GroupNorm, 1)}),
        ("mobilenet_v2", {"width_mult": 0.35, "round_nearest": 4}),
        ("mobilenet_v2", {"width_mult": 1.4, "num_classes": 7}),
        ("mobilenet_v3_large", {"dilated": True}),
        ("mobilenet_v3_small", {"dilated": True, "reduced_tail": True}),
        ("mobilenet_v3_small", {"norm_layer": nn.BatchNorm2d, "num_classes": 7}),
        ("mobilenet_v3_small", {"width_mult": 0.75, "reduced_tail": True}),
        ("resnet18", {"norm_layer": partial(nn.GroupNorm, 8), "num_classes": 7}),
        ("resnet18", {"zero_init_residual": True}),
        ("resnet50", {"replace_stride_with_dilation": [False, True, True]}),
        pytest.param("vgg11", {"init_weights": False}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_arguments(name, kwargs):
    ours, theirs = both(name, **kwargs)
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    ours, theirs = ours.double().eval(), theirs.double().eval()
    with torch.no_grad():
        x = images(1, 33).double()
        assert max(errors([ours(x)], [theirs(x)])) <= EXACT


def test_width_of_mobilenet_v1():
    ours = models.mobilenet(width_mult=1.25)
    torch.manual_seed(0)
    theirs = timm.create_model("mobilenetv1_125").eval()
    ours.load_state_dict(theirs.state_dict())
    x = images(1)
    assert max(errors([ours.eval()(x)], [theirs(x)])) <= EPS * math.sqrt(1024)


def test_outputs_of_googlenet():
    model = models.googlenet(num_classes=7)
    outputs = model(images(2))
    assert type(outputs).__name__ == "GoogLeNetOutputs"
    assert outputs._fields == torchvision.models.GoogLeNetOutputs._fields
    assert [y.shape for y in outputs] == [(2, 7)] * 3
    assert models.googlenet(num_classes=7, aux_logits=False)(images(2)).shape == (2, 7)
    assert model.eval()(images(2)).shape == (2, 7)
    model.train().reset_classifier(5)
    assert [y.shape for y in model(images(2))] == [(2, 5)] * 3


@each(quick=ALL)
def test_features(name):
    """On no device: what shapes there are."""
    size = 224
    with torch.device("meta"):
        model = models.get_model(name, features_only=True, in_chans=1).eval()
        maps = model(torch.empty(2, 1, size, size))
        info = model.feature_info
        assert [x.shape[1] for x in maps] == info.channels()
        for x, reduction in zip(maps, info.reduction(), strict=True):
            assert all(abs(n - size / reduction) <= 1 for n in x.shape[2:])  # AlexNet pads little
        assert len(set(info.reduction())) == len(maps)
        some = models.get_model(name, features_only=True, out_indices=(1, -1)).eval()
        maps = some(torch.empty(2, 3, size, size))
        assert [x.shape[1] for x in maps] == some.feature_info.channels()
        assert some.feature_info.module_name() == [info.module_name()[i] for i in (1, -1)]


@pytest.mark.parametrize(
    ("name", "timms"),
    [
        ("mobilenet_v1", "mobilenetv1_100"),
        ("mobilenet_v2", "mobilenetv2_100"),
        ("mobilenet_v3_large", "mobilenetv3_large_100"),
        ("mobilenet_v3_small", "mobilenetv3_small_100"),
        ("resnet50", "resnet50"),
        ("vgg11", "vgg11"),
    ],
)
def test_features_are_timms(name, timms):
    with torch.device("meta"):
        ours = models.get_model(name, features_only=True).feature_info
        theirs = timm.create_model(timms, features_only=True).feature_info
    assert ours.channels() == theirs.channels()
    assert ours.reduction() == theirs.reduction()


@pytest.mark.parametrize(
    ("name", "indices"), [("resnet50", (0,)), ("resnet50", (-2, 1)), ("vgg11", (1, 2))]
)
def test_features_leave_out_what_timms_do(name, indices):
    """All parameters behind the last wanted map."""
    with torch.device("meta"):
        ours = models.get_model(name, features_only=True, out_indices=indices)
        theirs = timm.create_model(name, features_only=True, out_indices=indices)
    shapes = [sorted(p.shape for p in model.parameters()) for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    with pytest.raises(IndexError, match="out_indices: got"):
        ours.forward_intermediates(torch.empty(1, 3, 64, 64, device="meta"), [4])


@pytest.mark.parametrize("name", [*LIGHT, "alexnet"])
def test_features_are_the_whole_models(name):
    """And no parameter is there for nothing."""
    torch.manual_seed(0)
    whole = models.get_model(name).eval()
    x = images(1)
    for indices in ((1,), (0, 2)):
        _, expected = whole.forward_intermediates(x, indices)
        torch.manual_seed(0)
        some = models.get_model(name, features_only=True, out_indices=indices).eval()
        got = some(x)
        assert all(map(torch.equal, got, expected))
        sum(y.sum() for y in got).backward()
        assert all(p.grad is not None for p in some.parameters())


POOLS = ("avg", "max", "avgmax", "catavgmax", "")


@pytest.mark.parametrize("pool", POOLS)
@torch.no_grad()
def test_global_pool_is_timms(pool):
    classes, other = {"num_classes": 7 if pool else 0}, "max" if pool == "avg" else "avg"
    ours, theirs = (
        model.double() for model in both("mobilenetv1_100", global_pool=pool, **classes)
    )
    for again in (False, True):
        if again:
            for model in (ours, theirs):
                model.reset_classifier(10, other)
                assert model.global_pool.pool_type == other
                assert len({module.training for module in model.modules()}) == 1
                model.reset_classifier(classes["num_classes"], pool)
                assert model.num_classes == classes["num_classes"]
            ours.load_state_dict(theirs.state_dict())
        assert ours.global_pool.pool_type == theirs.global_pool.pool_type == pool
        assert ours.head_hidden_size == theirs.head_hidden_size
        x = images(2).double()
        for training in (True, False):
            torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x))
        for pre_logits in (True, False):
            got, expected = (
                model.forward_head(theirs.forward_features(x), pre_logits=pre_logits)
                for model in (ours, theirs)
            )
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "lenet5", "googlenet", "mobilenetv1_100"])
def test_no_classes(name):
    """timm's way to ask for what the last layer would get."""
    with torch.device("meta"):
        model = models.get_model(name, num_classes=0).eval()
        x = torch.empty(2, *getattr(model, "input_size", (3, 64, 64)))
        assert model(x).shape == (2, model.head_hidden_size)
        assert isinstance(model.get_classifier(), nn.Identity)
        assert model.num_classes == 0


@pytest.mark.parametrize("name", [*LIGHT, "alexnet", "resnet50"])
@torch.no_grad()
def test_methods(name):
    model = models.get_model(name, in_chans=1, num_classes=7).eval()
    x = images(1, channels=1)
    seen = {}
    for info in model.feature_info:
        keep = partial(seen.__setitem__, info["module"])
        model.get_submodule(info["module"]).register_forward_hook(
            lambda module, args, y, keep=keep: keep(y)
        )
    y = model(x)
    assert y.shape == (1, 7)
    assert len(seen) == len(model.feature_info)
    features, maps = model.forward_intermediates(x)
    modules = [info["module"] for info in model.feature_info]
    assert all(torch.equal(a, seen[module]) for a, module in zip(maps, modules, strict=True))
    assert torch.equal(features, model.forward_features(x))
    assert torch.equal(y, model.forward_head(features))
    pre_logits = model.forward_head(features, pre_logits=True)
    assert pre_logits.shape == (1, model.num_features)
    assert torch.equal(y, model.get_classifier()(pre_logits))

    model.reset_classifier(0)
    assert torch.equal(model(x), pre_logits)
    model.reset_classifier(5)
    assert (model.num_classes, model(x).shape) == (5, (1, 5))
    assert not model.get_classifier().training


@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v2", "mobilenetv1_100", "resnet18"])
def test_grad_checkpointing(name):
    model = models.get_model(name, num_classes=7, **without_dropout(name))
    x, gradients = images(2), []
    for enable in (False, True):
        saved = []
        model.set_grad_checkpointing(enable)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, saved=saved: saved.append(x.numel()) or x, lambda x: x
        ):
            y = model(x)
        y = torch.cat(y) if isinstance(y, tuple) else y
        gradients.append((sum(saved), *torch.autograd.grad(y.square().sum(), model.parameters())))
    (without, *plain), (with_it, *again) = gradients
    assert with_it < 0.7 * without
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@each(quick=MIDDLING)
def test_groups_of_layers(name):
    """timm's decay of the learning rate: from the first convolution to the last layer."""
    with torch.device("meta"):
        model = models.get_model(name)
    layers = timm.models.group_parameters(model, model.group_matcher(), reverse=True)
    parameters = [n for n, _ in model.named_parameters() if not n.startswith("aux")]
    order = [layers[n] for n in parameters]
    assert set(layers) == {n for n, _ in model.named_parameters()}
    assert order == sorted(order)
    assert order[0] == 0
    assert max(order) >= len(model.feature_info)


def test_features_replaced_and_hooked():
    """As people do it to torchvision's, to spread `features` over devices."""
    model = models.mobilenet_v2().eval()
    calls = []
    model.features.register_forward_hook(lambda *_: calls.append(1))
    expected = model(images(1))
    assert calls == [1]
    model.features = nn.Sequential(model.features)
    assert torch.equal(model(images(1)), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.googlenet(blocks=[1, 2]), "GoogLeNet: blocks: got 2 of them, expected 3"),
        (lambda: models.googlenet(transform_input=True, in_chans=1), "in_chans: got 1"),
        (lambda: models.mobilenet_v2(inverted_residual_setting=[]), "setting: got"),
        (lambda: models.mobilenet_v2(inverted_residual_setting=[(1, 16, 1, 3)]), "stride: got 3"),
        (lambda: models.mobilenet_v3.MobileNetV3([], 8), "setting: got"),
        (
            lambda: models.mobilenet(global_pool="token"),
            "MobileNetV1: global_pool: got 'token', expected one of",
        ),
        (
            lambda: models.resnet18().reset_classifier(7, "max"),
            "reset_classifier: global_pool: got 'max', expected one of",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@each(quick=ALL)
def test_unknown_arguments(name):
    with pytest.raises(TypeError, match="no_such_argument"):
        models.get_model(name, no_such_argument=1)
