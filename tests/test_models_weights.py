"""Trained weights: which ones a builder takes, how it reads them, what it refuses. No network:
random ones lie where torch.hub would have put the files, for torchvision's builders as for ours.
"""

import pickle
from pathlib import Path

import pytest
import torch

from torchext import models
from torchext.models._weights import _fetch

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


def test_googlenet(hub):
    """Its file has auxiliary classifiers, and images on another scale."""
    publish(hub, "googlenet", init_weights=False)
    x = torch.randn(1, 3, 64, 64)
    for kwargs in ({}, {"transform_input": False}, {"aux_logits": True}):
        ours = models.googlenet(weights="DEFAULT", **kwargs).eval()
        theirs = torchvision.models.googlenet(weights="DEFAULT", **kwargs).eval()
        assert same(ours, theirs)
        assert ours.aux_logits == theirs.aux_logits
        assert ours.transform_input == theirs.transform_input
        torch.testing.assert_close(ours(x), theirs(x))
    new = models.googlenet(weights="DEFAULT", aux_logits=True, num_classes=7, replace_head=True)
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
