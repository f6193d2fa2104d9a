"""The commands on models: what they say is true, and what is wrong gets one line and a status."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from stack import run_python
from test_import import HEAVY
from torch import nn

import torchext
from torchext import _demo, _export, _filters, _images, _model, _verify, models
from torchext.__main__ import COMMANDS, main
from torchext._layers import trace
from torchext._verify import Referee, unlike
from torchext.ops import OPS


@pytest.fixture
def run(capsys):
    """(status, stdout, stderr) of a command in this process"""

    def call(*argv):
        status = main([str(argument) for argument in argv])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def facts(run):
    """What a command's --json says, which must have gone well."""

    def call(*argv, status=0):
        found, out, err = run(*argv, "--json")
        assert found == status, err
        return json.loads(out)

    return call


# Misuse.

MISUSE = {
    "no such command": "nonsense",
    "list: a pattern of nothing": "list zz*",
    "summary: no model": "summary",
    "summary: a model's wrong name": "summary resnet19",
    "summary: no batch": "summary lenet5 --batch 0",
    "summary: a size in words": "summary lenet5 --image-size large",
    "summary: too small an image": "summary vgg16 --image-size 8",
    "summary: another size than it has places for": "summary vit_b_16 --image-size 100",
    "summary: a size for what gets no image": "summary mlp --image-size 28",
    "summary: an unknown flag": "summary lenet5 --deep",
    "verify: a negative seed": "verify lenet5 --seed -1",
    "verify: weights nobody publishes": "verify lenet5 --weights DEFAULT",
    "profile: no runs": "profile lenet5 --runs 0",
    "profile: a picture of another kind": "profile lenet5 --png picture.gif",
    "predict: no image": "predict lenet5 --random",
    "predict: a missing image": "predict lenet5 --random --image missing.png",
    "predict: no weights": "predict resnet18 --image a.png",
    "predict: weights of a wrong name": "predict resnet18 --image a.png --weights BEST",
    "predict: weights that are none": "predict resnet18 --image a.png --weights text.pth",
    "predict: another model's weights": "predict resnet50 --image a.png --weights resnet18.pth",
    "predict: an empty folder": "predict lenet5 --random --image empty",
    "predict: labels of other classes": "predict lenet5 --random --image a.png --labels text.pth",
    "predict: two means for three channels": "predict resnet18 --random --image a.png --mean 1,2",
    "predict: means that are no numbers": "predict resnet18 --random --image a.png --mean a,b,c",
    "predict: blue before grey": "predict lenet5 --random --image a.png --bgr",
    "predict: too small a mean image": "predict resnet18 --random --image a.png --mean-image m.npy",
    "predict: no mean image": "predict resnet18 --random --image a.png --mean-image text.pth",
    "predict: what gets no image": "predict mlp --random --image a.png",
    "filters: nowhere to go": "filters lenet5",
    "filters: no such folder": "filters lenet5 --out missing/filters.png",
    "filters: no filters": "filters mlp --out filters.png",
    "export: no format": "export lenet5",
    "export: another suffix": "export lenet5 --onnx lenet.pt2",
    "demo: an argument": "demo everything",
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where MISUSE's files lie."""
    folder = tmp_path_factory.mktemp("misuse")
    (folder / "empty").mkdir()
    (folder / "text.pth").write_text("no tensors\n")
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    np.save(folder / "m.npy", np.zeros((3, 100, 100)))
    torch.save(models.resnet18().state_dict(), folder / "resnet18.pth")
    return folder


@pytest.mark.parametrize("line", MISUSE.values(), ids=MISUSE)
def test_misuse_is_one_line(line, run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    command, *_ = argv = line.split()
    status, out, err = run(*argv)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    name = "torchext" if command not in COMMANDS else f"torchext {command}"
    assert re.match(rf"{name}: \S.*\n$", err)
    assert set(folder.iterdir()) == before


def test_the_process_has_the_status(folder):
    command = (sys.executable, "-m", "torchext", "summary", "resnet19")
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        "torchext summary: MODEL: got 'resnet19', expected a name that torchext list prints, such"
        " as resnet18, resnet152, resnet101"
    )


def test_help_waits_for_nothing():
    out, _ = run_python(
        "-c",
        "import contextlib, io, sys, torchext\n"
        "before = set(sys.modules)\n"
        "from torchext.__main__ import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        "print(*sorted(set(sys.modules) - before))",
    )
    *text, new = out.splitlines()
    assert all(any(line.split()[:1] == [name] for line in text) for name in COMMANDS)
    new = set(new.split())
    assert {name for name in new if name.startswith("torchext")} == {
        "torchext.__main__",
        "torchext._command",
    }
    assert not HEAVY & new


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    assert f"usage: torchext {command}" in capsys.readouterr().out


# list


def test_list(run, facts):
    rows = facts("list")
    assert {row["model"] for row in rows} == set(models.list_models())
    assert facts("list", "resnet50") == [
        {
            "model": "resnet50",
            "weights": name,
            "default": name == "IMAGENET1K_V2",
            "parameters": 25557032,
            "GMAC": 4.089,
            "acc@1": first,
            "acc@5": fifth,
        }
        for name, first, fifth in (
            ("IMAGENET1K_V1", 76.13, 92.862),
            ("IMAGENET1K_V2", 80.858, 95.434),
        )
    ]
    status, out, _ = run("list", "lenet*")
    assert (status, out.splitlines()[1].split()) == (0, ["lenet5", "61,706"])


# summary


def layers_of(summary):
    return {layer["name"]: layer for layer in summary["layers"]}


def test_summary_counts_as_the_textbook(facts):
    """AlexNet's first layer as in the lectures on it: 96 maps of 55 x 55 floats are 1134 KB."""
    conv1 = layers_of(facts("summary", "alexnet_original"))["conv1.0"]
    assert conv1["output"] == [1, 96, 55, 55]
    assert conv1["kernel"] == "11x11/4"
    assert conv1["parameters"] == 34944
    assert conv1["output_kb"] == pytest.approx(1134.375)
    assert conv1["gmac"] == 55 * 55 * 96 * 11 * 11 * 3 / 1e9  # 105.4 million
    assert conv1["gflop"] == 2 * conv1["gmac"]
    alexnet = facts("summary", "alexnet")["total"]
    assert alexnet["parameters"] == 61100840
    assert round(alexnet["gmac"], 1) == 0.7
    assert round(alexnet["convolution_output_mb"], 1) == 1.9


def test_the_textbooks_vgg16_lacks_a_convolution(facts):
    """Its 13.6 billion multiply-adds and 48.6 MB of convolutions' outputs are those of two
    convolutions in the third stage, which in VGG-16 has three."""
    vgg = facts("summary", "vgg16")
    third = layers_of(vgg)["features.14"]
    assert third["output"] == [1, 256, 56, 56]
    total = vgg["total"]
    assert total["parameters"] == 138357544
    assert round(total["gmac"], 2) == 15.47
    assert round(total["convolution_output_mb"], 1) == 51.7
    assert round(total["gmac"] - third["gmac"], 1) == 13.6
    assert round(total["convolution_output_mb"] - third["output_kb"] / 1024, 1) == 48.6


@pytest.mark.parametrize("name", models.list_models())
def test_summary_is_what_the_weights_publishers_say(name, facts):
    summary = facts("summary", name)
    total, layers = summary["total"], summary["layers"]
    assert sum(layer["parameters"] for layer in layers) == total["parameters"]
    assert sum(layer["gmac"] for layer in layers) == pytest.approx(total["gmac"], rel=1e-12)
    parameters = _model.skeleton(name).named_parameters()
    training_only = sum(p.numel() for part, p in parameters if part.startswith("aux"))  # GoogLeNet
    for weights in models.get_model_builder(name).weights or ():
        if weights.transforms().crop_size != summary["input"][-1]:
            continue  # of a larger model, for larger images
        assert total["parameters"] - training_only == weights.meta["num_params"]
        if weights.meta["_ops"]:
            assert total["gmac"] == pytest.approx(weights.meta["_ops"], abs=6e-4)


def test_receptive_fields_of_known_models(facts):
    vgg = layers_of(facts("summary", "vgg16"))
    assert vgg["features.28"]["receptive_field"] == [196, 196]
    assert vgg["features.30"]["receptive_field"] == [212, 212]
    assert vgg["classifier.0"]["receptive_field"] is None
    resnet = layers_of(facts("summary", "resnet18"))
    assert resnet["layer2.0.downsample.0"]["receptive_field"] == [43, 43]
    assert resnet["layer4.1.relu"]["receptive_field"] == [435, 435]


class Branches(nn.Module):
    """A stem, then three branches of unlike kernels, added and put beside each other."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.ReLU(), nn.AvgPool2d(2, 1))
        self.tall = nn.Conv2d(2, 2, (5, 1), padding=(2, 0))
        self.dilated = nn.Conv2d(2, 2, 3, padding=3, dilation=3)
        self.short = nn.Conv2d(2, 2, 1)
        self.end = torchext.nn.ConvBNAct(4, 1, (1, 3), stride=2, activation=None)

    def forward(self, x):
        x = self.stem(x)
        return self.end(torch.cat([self.tall(x) + self.short(x), self.dilated(x)], 1))


def test_receptive_field_is_where_the_gradient_goes():
    model = Branches().eval()
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    x = torch.ones(1, 1, 101, 101, requires_grad=True)
    y = model(x)
    y[0, 0, y.shape[2] // 2, y.shape[3] // 2].backward()
    reached = x.grad[0, 0] != 0
    with torch.device("meta"):
        skeleton = Branches().eval()
    *_, end, _ = trace(skeleton, x.shape).tree()
    assert end.name == "end"
    rows, columns = (reached.any(axis).nonzero() for axis in (1, 0))
    extent = [int(where.max() - where.min()) + 1 for where in (rows, columns)]
    assert list(end.receptive_field) == extent
    assert extent[0] != extent[1]


def test_summary_of_whole_blocks(run, facts):
    whole = facts("summary", "resnet18", "--depth", 1)
    assert [layer["name"] for layer in whole["layers"]] == [
        *("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
        *("avgpool", "fc"),
    ]
    every = facts("summary", "resnet18")
    assert whole["total"] == every["total"]
    third = [layer for layer in every["layers"] if layer["name"].startswith("layer3.")]
    assert whole["layers"][6]["gmac"] == pytest.approx(sum(layer["gmac"] for layer in third))
    status, out, _ = run("summary", "resnet18", "--batch", 2, "--image-size", 64)
    assert status == 0
    assert re.search(r"\nlayer1\.0\.conv1 +Conv2d +2x64x16x16 +3x3 +36,864 ", out)
    assert "\ntotal: 11,689,512 parameters, 0.2971 GMAC, 0.5942 GFLOP" in out


# verify


def test_verify(run, facts):
    status, out, _ = run("verify", "resnet18", "--image-size", 32)
    assert status == 0
    assert out.splitlines()[-1] == "all right"
    found = facts("verify", "vit_tiny_patch16_224", "--seed", 1)
    assert found["wrong"] == 0
    names = [layer["name"] for layer in found["layers"]]
    assert {"patch_embed.proj", "blocks.0.attn", "blocks.11.mlp.fc2"} <= set(names)
    assert names[-1] == "(the whole)"
    for layer in found["layers"]:
        assert layer["right"] == (layer["error"] <= layer["allowed"])
        assert layer["allowed"] >= 2 * layer["torch_error"]
    assert sum(layer["error"] > 0 for layer in found["layers"]) > 60


def wrong_layers(facts, *argv):
    found = facts("verify", *argv, status=1)
    wrong = {layer["name"] for layer in found["layers"] if not layer["right"]}
    assert found["wrong"] == len(wrong)
    return wrong


def test_verify_finds_a_wrong_kernel(monkeypatch, run, facts):
    op = OPS["linear_inference"]
    kernel = op._direct
    monkeypatch.setattr(op, "_direct", lambda *args: kernel(*args) * 1.0001)
    assert wrong_layers(facts, "lenet5") == {"fc1.0", "fc2.0", "fc3", "(the whole)"}
    status, out, _ = run("verify", "lenet5")
    assert (status, out.splitlines()[-1]) == (1, "4 WRONG")


def test_verify_finds_a_wrong_module(monkeypatch, facts):
    """One that forgets its weights: had they stayed ones and zeros, nobody would notice."""

    def forward(self, x):
        return torchext.nn.functional.batch_norm(x, self.running_mean, self.running_var)

    monkeypatch.setattr(torchext.nn.BatchNorm2d, "forward", forward)
    wrong = wrong_layers(facts, "resnet18", "--image-size", 32)
    assert {"bn1", "layer4.1.bn2"} <= wrong
    assert all("bn" in name or name.endswith("downsample.1") for name in wrong - {"(the whole)"})


def test_the_judge_is_pytorch():
    """The plain twins run none of our code: their layers are torch.nn's, their ops ATen's."""
    referee = Referee(unlike(models.vit_tiny_patch16_224().eval()))
    own = [m for m in referee.model.modules() if type(m).__module__.startswith("torchext.nn")]
    assert len(own) > 100
    for twin in (referee.single, referee.double):
        assert not any(type(m).__module__.startswith("torchext.nn") for m in twin.modules())
    assert torchext.explain(referee.model, torch.zeros(1, 3, 224, 224))
    with _verify.disabled():
        assert not torchext.explain(referee.single, torch.zeros(1, 3, 224, 224))


# profile


def test_profile(facts, tmp_path):
    file = tmp_path / "profile.png"
    found = facts("profile", "lenet5", "--batch", 64, "--runs", 3, "--png", file, "--threads", 1)
    layers = found["layers"]
    assert [layer["name"] for layer in layers] == [
        *("conv1.0", "conv1.1", "conv1.2", "conv2.0", "conv2.1", "conv2.2", "flatten"),
        *("fc1.0", "fc1.1", "fc2.0", "fc2.1", "fc3"),
    ]
    assert all(layer["ms"] > 0 for layer in layers)
    conv = layers[3]
    assert conv["gflop_per_s"] == pytest.approx(2 * 64 * 240000 / conv["ms"] / 1e6)
    assert layers[6]["gflop_per_s"] is None
    assert conv["roofline"] > 0 and found["ms"] > 0 and found["between_ms"] >= 0
    with Image.open(file) as picture:
        assert len(picture.convert("L").getcolors()) > 10


# predict


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """One image in many forms, and what is none."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (15, 20, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC)
    image.save(folder / "rgb.png")
    image.save(folder / "photo.JPG")
    image.convert("L").save(folder / "grey.png")
    image.convert("P").save(folder / "palette.png")
    image.putalpha(128)
    image.save(folder / "rgba.png")
    (folder / "notes.txt").write_text("no image, and not called one")
    return folder


def reader_of(name, model=None, **options):
    usual = dict.fromkeys(("weights", "image_size", "mean", "std", "mean_image"), None)
    options = SimpleNamespace(**usual | {"bgr": False} | options)
    return _images.Reader(model or _model.skeleton(name), name, options)


@pytest.mark.parametrize("name", ["resnet50", "vit_b_16", "vgg16", "mobilenet_v3_large"])
def test_reader_is_torchvisions_preset(name, images):
    torchvision = pytest.importorskip("torchvision")
    for weights in torchvision.models.get_model_weights(name):
        theirs = weights.transforms()
        config = {"image_size": theirs.crop_size[0]} if name.startswith("vit") else {}
        read = reader_of(name, _model.skeleton(name, **config), weights=weights.name)
        for file in ("rgb.png", "grey.png", "photo.JPG"):
            expected = theirs(Image.open(images / file).convert("RGB"))
            assert torch.equal(read(images / file)[0], expected)


def test_reader_of_other_networks(images, tmp_path):
    """Blue first and a mean image, as Caffe had it; greys for a network of one channel."""
    pixels = np.asarray(
        Image.open(images / "rgb.png").resize((341, 256), Image.Resampling.BILINEAR)
    )
    pixels = torch.from_numpy(pixels[14:241, 57:284].copy()).double().permute(2, 0, 1)
    mean = torch.rand(3, 256, 256, dtype=torch.float64) * 255
    np.save(tmp_path / "mean.npy", mean.float().numpy())
    scale = {"std": (1 / 255,) * 3, "bgr": True, "mean_image": tmp_path / "mean.npy"}
    x = reader_of("alexnet_original", **scale)(images / "rgb.png")[0]
    middle = slice(14, 241)
    wanted = pixels.flip(0) - mean[:, middle, middle]
    assert (x - wanted).abs().max() < 1e-3
    means = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 1.0, 2.0), "bgr": True}
    x = reader_of("alexnet_original", **means)(images / "rgb.png")[0]
    mean, std = (
        torch.tensor(means[key], dtype=torch.float64)[:, None, None] for key in ("mean", "std")
    )
    assert (x - ((pixels / 255 - mean) / std).flip(0)).abs().max() < 1e-5
    grey = reader_of("lenet5")(images / "grey.png")
    assert grey.shape == (1, 1, 32, 32)
    assert 0 <= grey.min() < grey.max() <= 1


def test_reader_for_a_smaller_model_than_the_weights(images):
    """vit_h_14's are of 518 pixels; the model itself takes 224."""
    assert reader_of("vit_h_14")(images / "rgb.png").shape == (1, 3, 224, 224)


def test_photographs_are_turned_upright(images, tmp_path):
    image = Image.open(images / "rgb.png")
    exif = image.getexif()
    exif[0x0112] = 6  # taken with the camera on its side
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    read = reader_of("resnet18")
    assert torch.equal(read(tmp_path / "turned.png"), read(images / "rgb.png"))


def test_predict_is_torchvision(images, facts, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    safetensors = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    unlike(theirs)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    safetensors.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    names = [f"thing {i}" for i in range(10)]
    (tmp_path / "labels.txt").write_text("\n".join(names))
    for file in ("theirs.pth", "theirs.safetensors"):
        weights = ("--weights", tmp_path / file, "--labels", tmp_path / "labels.txt")
        found = facts("predict", "resnet18", "--image", images, *weights, "--top", 20)
        assert found["broken"] == []
        assert len(found["images"]) == 5
        transforms = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
        for image in found["images"]:
            with torch.no_grad():
                x = transforms(Image.open(image["file"]).convert("RGB"))[None]
                probabilities = theirs(x)[0].softmax(0)
            order = probabilities.argsort(descending=True).tolist()
            assert [one["class"] for one in image["top"]] == order
            assert [one["name"] for one in image["top"]] == [names[i] for i in order]
            told = torch.tensor([one["probability"] for one in image["top"]])
            torch.testing.assert_close(told, probabilities[order], rtol=1e-4, atol=1e-6)


def test_predict_names_broken_files_and_goes_on(images, run, facts, tmp_path):
    whole = (images / "rgb.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole)
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.jpg").write_text("no image")
    (tmp_path / "d.jpeg").touch()
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "e.png")
    (tmp_path / "f.png").write_bytes(whole)
    command = ("predict", "lenet5", "--random", "--top", 3, "--image", tmp_path)
    status, out, err = run(*command)
    assert status == 1
    assert [line for line in out.splitlines() if line[0] != " "] == [
        str(tmp_path / name) for name in ("a.png", "f.png")
    ]
    assert len(out.splitlines()) == 2 * 4
    assert all(re.fullmatch(r" *\d+\.\d\d%  class \d", line) for line in out.splitlines()[1:4])
    broken = ["b.png", "c.jpg", "d.jpeg", "e.png"]
    for line, name in zip(err.splitlines(), broken, strict=True):
        assert line.startswith(f"torchext predict: {tmp_path / name}: ")
    found = facts(*command, status=1)
    assert [one["file"] for one in found["broken"]] == [str(tmp_path / name) for name in broken]
    assert len(found["images"]) == 2


def test_predict_takes_what_training_saved(images, facts, tmp_path):
    saved = models.resnet18(num_classes=2, in_chans=1).state_dict()
    checkpoint = {"model": saved, "options": {"model": "resnet18"}, "classes": ["cat", "dog"]}
    torch.save(checkpoint, tmp_path / "best.pt")
    weights = ("--weights", tmp_path / "best.pt", "--image-size", 64)
    (image,) = facts("predict", "resnet18", "--image", images / "rgb.png", *weights)["images"]
    assert {one["name"] for one in image["top"]} == {"cat", "dog"}


def test_weights_of_what_has_no_training_parts(facts, images, tmp_path):
    """GoogLeNet without the classifiers on its way, as trained ones are saved."""
    state = models.googlenet(aux_logits=False, num_classes=3).state_dict()
    torch.save(state, tmp_path / "inference.pth")
    found = facts(
        *("predict", "googlenet", "--image", images / "rgb.png"),
        *("--weights", tmp_path / "inference.pth"),
    )
    assert len(found["images"][0]["top"]) == 3


def test_predict_without_a_network(images, run, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    command = ("predict", "resnet18", "--weights", "DEFAULT", "--image", images / "rgb.png")
    status, out, err = run(*command)
    assert (status, out) == (1, "")
    assert re.fullmatch(r"torchext predict: weights: could not get .*\n", err)


# filters


def test_filters(facts, images, tmp_path):
    file = tmp_path / "filters.png"
    found = facts("filters", "lenet5", "--out", file, "--image", images / "rgb.png")
    assert (found["filters"], found["maps"]) == ([6, 1, 5, 5], [6, 28, 28])
    with Image.open(file) as picture:
        assert len(picture.convert("L").getcolors()) > 100
    assert facts("filters", "vit_b_16", "--out", file)["layer"] == "conv_proj"


def test_grid_and_maps():
    model = models.lenet5().eval()
    x = torch.randn(1, 1, 32, 32)
    maps = _filters.found_by(model, "conv1.0", x)
    with torch.no_grad():
        assert torch.equal(maps[:, 0], model.conv1[0](x)[0])
    grid = _filters.grid(torch.arange(5 * 3 * 2 * 2.0).view(5, 3, 2, 2))
    assert grid.shape == (2 * 3 - 1, 3 * 3 - 1, 3)  # 3 across, with lines between
    assert (grid[0, 0], grid[1, 1, 2]) == (pytest.approx([0, 4 / 11, 8 / 11]), 1)
    assert (grid[2] == 1).all() and (grid[3:, 6:] == 1).all()
    assert torch.equal(grid[:2, :2], grid[3:, 3:5])


# export


def test_export(facts, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    files = ("--onnx", tmp_path / "lenet.onnx", "--pt2", tmp_path / "lenet.pt2")
    for one in facts("export", "lenet5", *files):
        assert one["right"]
        assert one["error"] <= one["allowed"] < 1e-5
    model = _model.load("lenet5")
    x = torch.randn(5, 1, 32, 32)
    session = onnxruntime.InferenceSession(tmp_path / "lenet.onnx")
    (y,) = session.run(["scores"], {"image": x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(y), model(x), rtol=1e-4, atol=1e-5)
        torch.save((x, model(x)), tmp_path / "expected.pt")
    run_python(
        "-c",
        "import sys, torch, torchext\n"
        "x, y = torch.load(sys.argv[2])\n"
        "model = torch.export.load(sys.argv[1]).module()\n"
        "torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-5)\n",
        tmp_path / "lenet.pt2",
        tmp_path / "expected.pt",
    )


def test_export_of_residual_sums(facts, tmp_path):
    pytest.importorskip("onnxscript")
    files = ("--onnx", tmp_path / "resnet.onnx")
    (found,) = facts("export", "resnet18", "--image-size", 32, *files)
    assert found["right"] in (True, None)  # None: no onnxruntime


def test_export_that_is_wrong(run, facts, monkeypatch, tmp_path):
    def read(file):
        program = torch.export.load(file).module()
        return lambda x: program(x) * 1.001

    monkeypatch.setitem(_export.FORMATS, "pt2", (_export.write_pt2, read, ".pt2"))
    (found,) = facts("export", "lenet5", "--pt2", tmp_path / "lenet.pt2", status=1)
    assert found["right"] is False

    def write(model, x, file):
        raise ValueError("not this model\nfor many reasons") from KeyError("the true reason")

    monkeypatch.setitem(_export.FORMATS, "pt2", (write, read, ".pt2"))
    status, _, err = run("export", "lenet5", "--pt2", tmp_path / "lenet.pt2")
    assert status == 1
    assert err == (
        "torchext export: --pt2: PyTorch could not write it: KeyError: 'the true reason'\n"
    )


# demo


def test_demo(monkeypatch, run, facts):
    lstm, _ = _demo.CASES["LSTM, 2 layers"]
    cases = {"ResNet": (models.resnet18, (1, 3, 32, 32)), "LSTM": (lstm, (2, 4, 128))}
    monkeypatch.setattr(_demo, "CASES", cases)
    monkeypatch.setattr(_demo, "TIMED_S", 0.01)
    status, out, _ = run("demo")
    assert (status, out.splitlines()[-1]) == (0, "all right")
    op = OPS["linear_inference"]
    kernel = op._direct
    monkeypatch.setattr(op, "_direct", lambda *args: kernel(*args) * 1.001)
    found = facts("demo", status=1)
    assert [row["right"] for row in found["models"]] == [False, True]
    times = "ms", "accelerated_ms", "torch_ms"
    assert all(row[time] > 0 for row in found["models"] for time in times)
    status, out, _ = run("demo")
    assert (status, out.splitlines()[-1]) == (1, "1 WRONG")


@pytest.mark.long
def test_the_whole_demo(run):
    status, out, _ = run("demo")
    assert (status, out.splitlines()[-1]) == (0, "all right")
    assert len(out.splitlines()) == 2 + len(_demo.CASES)
