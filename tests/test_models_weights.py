"""Trained weights: which ones a builder takes, how it reads them, what it refuses. No network:
random ones lie where torch.hub would have put the files, for torchvision's builders as for ours.
"""

import pickle
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

from torchext import models
from torchext.models._weights import _fetch, adapt_input_conv

torchvision = pytest.importorskip("torchvision")
NAME = "mobilenet_v3_large"


@pytest.fixture
def hub(tmp_path):
    """Where torch.hub keeps files."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


def publish(hub, name, **kwargs):
    for seed, weights in enumerate(models.get_model_weights(name)):
        torch.manual_seed(seed)
        model = torchvision.models.get_model(name, **kwargs)
        torch.save(model.state_dict(), hub / Path(weights.url).name)


def same(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_by_name_or_member(hub):
    publish(hub, NAME)
    enum = torchvision.models.get_model_weights(NAME)
    states = []
    for name in ("IMAGENET1K_V1", "IMAGENET1K_V2", "DEFAULT"):
        expected = torchvision.models.get_model(NAME, weights=name)
        for weights in (name, enum[name], models.MobileNet_V3_Large_Weights[name]):
            assert same(models.mobilenet_v3_large(weights=weights), expected)
        full = f"MobileNet_V3_Large_Weights.{name}"
        assert same(models.mobilenet_v3_large(weights=models.get_weight(full)), expected)
        states.append(expected)
    assert not same(states[0], states[1])
    assert same(states[1], states[2])


def test_torchvisions_old_interface(hub):
    publish(hub, NAME)
    for args, kwargs in (
        ((), {"pretrained": True}),
        ((True,), {}),
        ((True, False), {}),
        ((), {"weights": True}),
    ):
        with pytest.warns(UserWarning):
            expected = getattr(torchvision.models, NAME)(*args, **kwargs)
        with pytest.warns(UserWarning, match="deprecated"):
            assert same(models.mobilenet_v3_large(*args, **kwargs), expected)
    with pytest.warns(UserWarning, match="deprecated"):
        torch.manual_seed(5)
        untrained = models.mobilenet_v3_large(pretrained=False)
    torch.manual_seed(5)
    assert same(untrained, models.mobilenet_v3_large())
    with pytest.raises(TypeError, match="got 3 positional arguments, expected at most 2"):
        models.mobilenet_v3_large(None, True, 10)


def warned(build, whether, **kwargs):
    """A model, and whether it said that the auxiliary classifiers' weights are not trained."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = build(**kwargs)
    assert any("train them" in str(w.message) for w in caught) == whether
    return model


def test_googlenet(hub):
    """Its file has auxiliary classifiers, and images on another scale."""
    publish(hub, "googlenet", init_weights=False)
    x = torch.randn(1, 3, 64, 64)
    for kwargs in ({}, {"transform_input": False}, {"aux_logits": True}):
        ours, theirs = (
            warned(build, bool(kwargs.get("aux_logits")), weights="DEFAULT", **kwargs).eval()
            for build in (models.googlenet, torchvision.models.googlenet)
        )
        assert same(ours, theirs)
        assert ours.aux_logits == theirs.aux_logits
        assert ours.transform_input == theirs.transform_input
        torch.testing.assert_close(ours(x), theirs(x))
    new = warned(
        models.googlenet,
        True,
        weights="DEFAULT",
        aux_logits=True,
        num_classes=7,
        replace_head=True,
    )
    assert [y.shape for y in new(x.expand(2, -1, -1, -1))] == [(2, 7)] * 3


def test_other_classes(hub):
    publish(hub, NAME)
    with pytest.raises(ValueError, match=r"num_classes: got 7, expected the 1000 of .*_V2"):
        models.mobilenet_v3_large(weights="DEFAULT", num_classes=7)
    whole = models.mobilenet_v3_large(weights="DEFAULT", num_classes=1000)
    new = models.mobilenet_v3_large(weights="DEFAULT", num_classes=7, replace_head=True)
    assert new.get_classifier().out_features == new.num_classes == 7
    assert same(whole.features, new.features)
    assert same(whole.classifier[:-1], new.classifier[:-1])
    maps = models.mobilenet_v3_large(weights="DEFAULT", features_only=True)
    assert same(whole.features, maps.features)


def test_mobilenet_v1(hub):
    timm = pytest.importorskip("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    theirs = timm.create_model("mobilenetv1_100")
    file = hub / "mobilenetv1_100.ra4_e3600_r224_in1k.safetensors"
    safetensors.save_file(theirs.state_dict(), file)
    for build in (models.mobilenet, models.mobilenet_v1, models.mobilenetv1_100):
        assert same(build(weights="DEFAULT"), theirs)
        assert same(build(weights=models.MobileNetV1_100_Weights.RA4_E3600_R224_IN1K), theirs)


DEIT = "deit_tiny_patch16_224"
SMALL = {
    DEIT: {"img_size": 32, "depth": 1, "embed_dim": 24},
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "depth": 1, "embed_dim": 24},
    "mobilenetv1_100": {},
}


@pytest.fixture(params=SMALL)
def timms(hub, request):
    """(ours, theirs): builders of a timm model for which weights are there"""
    timm = pytest.importorskip("timm")
    name, size = request.param, SMALL[request.param]
    (weights,) = models.get_model_weights(name)
    file = hub / Path(weights.url).name
    if file.name == "model.safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        file = hub / "mobilenetv1_100.ra4_e3600_r224_in1k.safetensors"
        safetensors.save_file(timm.create_model(name, **size).state_dict(), file)
    else:
        torch.save({"model": timm.create_model(name, **size).state_dict()}, file)

    def theirs(**kwargs):
        overlay = {"file": str(file), "custom_load": False}
        return timm.create_model(name, pretrained_cfg_overlay=overlay, **size, **kwargs)

    return partial(models.get_model_builder(name), **size), theirs


@pytest.mark.parametrize(
    "kwargs", [{}, {"num_classes": 7}, {"in_chans": 1}, {"in_chans": 5}], ids=str
)
def test_pretrained_is_timms(timms, kwargs):
    """What has the weights' shape is theirs, what has not starts as it does without them."""
    pair = []
    for build in timms:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # in timm's builders pretrained is nothing old
            torch.manual_seed(3)
            pair.append(build(pretrained=True, **kwargs))
    assert same(*pair)


def test_pretrained_without_classes(timms):
    ours, theirs = (build(pretrained=True, num_classes=0) for build in timms)
    assert same(ours, theirs)
    assert same(
        timms[0](pretrained=True, num_classes=0),
        timms[0](weights="DEFAULT", num_classes=0, replace_head=True),
    )
    with pytest.raises(ValueError, match="num_classes: got 0, expected the 1000 of"):
        timms[0](weights="DEFAULT", num_classes=0)


def test_timms_positional_argument(timms):
    ours, theirs = timms
    assert same(ours(True), theirs(pretrained=True))
    with pytest.raises(TypeError, match="got 2 positional arguments, expected at most 1"):
        ours(True, False)


@pytest.mark.parametrize("channels", range(1, 8))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_first_convolution_is_timms(channels, dtype):
    timm = pytest.importorskip("timm")
    weight = torch.randn(6, 3, 5, 4).to(dtype)
    expected = timm.models.adapt_input_conv(channels, weight.clone())
    got = adapt_input_conv(channels, weight)
    assert got.dtype == dtype and torch.equal(got, expected)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("googlenet", "conv1.conv"),
        ("mobilenet_v2", "features.0.0"),
        ("resnet18", "conv1"),
        ("swin_t", "features.0.0"),
        ("alexnet", "features.0"),
    ],
)
def test_other_channels(hub, name, first):
    """The sum over grey images' colours; the rest as it is."""
    publish(hub, name, **{"init_weights": False} if name == "googlenet" else {})
    more = {"transform_input": False} if name == "googlenet" else {}
    whole = models.get_model(name, weights="DEFAULT", **more).state_dict()
    grey = models.get_model(name, weights="DEFAULT", in_chans=1, **more)
    key = f"{first}.weight"
    torch.testing.assert_close(grey.state_dict()[key], whole[key].sum(1, keepdim=True))
    assert all(torch.equal(x, whole[k]) for k, x in grey.state_dict().items() if k != key)
    if name == "googlenet":
        with pytest.raises(ValueError, match="in_chans: got 1, transform_input expects 3"):
            models.googlenet(weights="DEFAULT", in_chans=1)


def test_pretrained_with_other_classes(hub):
    """timm's argument, in a model of torchvision's."""
    publish(hub, NAME)
    with pytest.warns(UserWarning, match="deprecated"):
        new = models.mobilenet_v3_large(pretrained=True, num_classes=7)
    whole = models.mobilenet_v3_large(weights="IMAGENET1K_V1")
    assert new.get_classifier().out_features == 7
    assert same(whole.features, new.features)


def test_saved_as_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model = models.mobilenet(num_classes=10).to(memory_format=torch.channels_last)
    safetensors.save_model(model, tmp_path / "model.safetensors")
    again = models.mobilenet(num_classes=10)
    safetensors.load_model(again, tmp_path / "model.safetensors")
    assert same(again, model)


def test_a_file_of_something_else(hub):
    """What only GoogLeNet's auxiliary classifiers may do: not be there."""
    publish(hub, "googlenet", init_weights=False)
    (file,) = hub.iterdir()
    state = torch.load(file, weights_only=True)
    for changed in (
        {k: v for k, v in state.items() if k != "fc.bias"},
        {**state, "auxiliary": state["fc.bias"]},
        {**state, "fc.bias": state["fc.bias"][:10]},
    ):
        torch.save(changed, file)
        with pytest.raises(RuntimeError, match="loading state_dict for GoogLeNet"):
            models.googlenet(weights="DEFAULT")


def test_code_in_a_file_does_not_run(hub):
    class Malice:
        def __reduce__(self):
            return Path.touch, (hub / "it ran",)

    torch.save({"fc.weight": Malice()}, hub / Path(models.ResNet18_Weights.DEFAULT.url).name)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        models.resnet18(weights="DEFAULT")
    assert not (hub / "it ran").exists()


def test_checksum(hub, tmp_path):
    """torch.hub compares a file with the checksum in its name when it comes in, and only then."""
    file = tmp_path / "model-0123abcd.pth"
    torch.save({"weight": torch.ones(1)}, file)
    with pytest.raises(RuntimeError, match="invalid hash value"):
        _fetch(file.as_uri(), progress=False, check_hash=True)
    assert not list(hub.iterdir())
    assert _fetch(file.as_uri(), progress=False, check_hash=False).keys() == {"weight"}


def test_file_that_can_not_be_had(hub, tmp_path):
    url = (tmp_path / "missing-0123abcd.pth").as_uri()
    with pytest.raises(RuntimeError, match=r"without a network, put the file at .*missing-0123"):
        _fetch(url, progress=False, check_hash=True)


def test_unknown_weights():
    with pytest.raises(ValueError, match="got 'V3', expected one of IMAGENET1K_V1, IMAGENET1K_V2"):
        models.resnet50(weights="V3")
    with pytest.raises(ValueError, match="expected such as"):
        models.get_weight("ResNet50.V1")
    with pytest.raises(ValueError, match="nobody publishes any"):
        models.plain18(weights="DEFAULT")
