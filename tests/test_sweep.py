"""accelerate() over other people's models, on request (`--long -k sweep -s` lists the speeds)."""

import importlib.util

import pytest
import torch

import torchext

pytestmark = pytest.mark.long

TIMM = (
    *("resnet26", "resnetv2_50", "seresnet33ts", "resnest14d", "regnety_004", "res2net50_26w_4s"),
    *("efficientnet_b0", "mobilenetv1_100", "mobilenetv3_small_100", "mnasnet_100", "ghostnet_100"),
    *("densenet121", "dpn68", "inception_v3", "xception41", "vgg11_bn", "hrnet_w18_small"),
    *("convnext_atto", "poolformer_s12", "mixer_s32_224", "levit_128s"),
    *("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"),
    *("cait_xxs24_224", "swin_tiny_patch4_window7_224", "crossvit_tiny_240"),
)
# torchvision's of over 600 million parameters: with copies, and panels, over 8 GB.
HUGE = ("regnet_y_128gf", "vit_h_14")


def sweep(name, model, *args, **kwargs):
    """Right, and the model as it was."""
    before = {k: (x, x.clone(), x._version) for k, x in model.state_dict(keep_vars=True).items()}
    fast = torchext.accelerate(model.eval(), args or kwargs)
    with torch.no_grad():
        ours, theirs = fast(*args, **kwargs), model(*args, **kwargs)
    assert type(ours) is type(theirs)
    for mine, its in zip(_tensors(ours), _tensors(theirs), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-3 * its.abs().max().item())
    assert type(fast) is type(model)
    for found in (model, fast):
        after = found.state_dict(keep_vars=True)
        assert list(after) == list(before)
        for key, (tensor, value, version) in before.items():
            assert after[key] is tensor
            assert tensor._version == version
            assert torch.equal(tensor, value)
    report = fast.torchext_report
    speed = report.own_seconds / report.seconds if report.seconds else 1.0
    print(f"\n{name:40} {speed:5.2f}x  {'; '.join(report.notes)}", end="")


def _tensors(outputs):
    return [x for x in torch.utils._pytree.tree_leaves(outputs) if isinstance(x, torch.Tensor)]


def pytest_generate_tests(metafunc):
    if "torchvision_name" not in metafunc.fixturenames:
        return
    names = []
    if metafunc.config.getoption("--long") and importlib.util.find_spec("torchvision"):
        models = importlib.import_module("torchvision.models")
        names = models.list_models(module=models, exclude=HUGE)
    metafunc.parametrize("torchvision_name", names)


def test_torchvision(torchvision_name):
    torchvision, name = pytest.importorskip("torchvision"), torchvision_name
    kwargs = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    size = 299 if name == "inception_v3" else 224
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, **kwargs)
    sweep(f"torchvision {name}", model, torch.randn(1, 3, size, size))


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name)
    sweep(f"timm {name}", model, torch.randn(1, *model.default_cfg["input_size"]))


@pytest.mark.parametrize("family", ["ViT", "ResNet"])
def test_hugging_face(family):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")()
    model = getattr(transformers, f"{family}ForImageClassification")(config)
    sweep(f"transformers {family}", model, pixel_values=torch.randn(1, 3, 224, 224))
