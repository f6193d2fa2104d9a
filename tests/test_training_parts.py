"""The parts of torchext.training, each against its formula or against torch itself."""

import itertools
import math
import os
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from torchext import models
from torchext.training import (
    Data,
    Options,
    augment,
    batches,
    checkpoint,
    curves,
    fit,
    towers,
    transfer,
)
from torchext.training import data as data_of
from torchext.training.loop import Training
from torchext.training.optimiser import OPTIMISERS, clip, make_optimiser, penalty, shrinkable
from torchext.training.schedule import SCHEDULES, Schedule, factor

FIGURES = "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"


def curve(history):
    return [[figures[name] for name in FIGURES] for figures in history]


def toy_data(count=96, size=8, classes=3):
    """Images whose brightest third tells their class, with noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, size, size, generator=generator)
    labels = torch.arange(count) % classes
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, label * size // classes : (label + 1) * size // classes] += 0.7
    images = (images - images.mean()) / images.std()
    cut = count * 2 // 3
    train, val = (TensorDataset(images[s], labels[s]) for s in (slice(cut), slice(cut, None)))
    return Data(train, val, [str(i) for i in range(classes)], 1)


class Toy(models._model.Model):
    """Two stages and a classifier; with dropout, so that a generator's state matters."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.num_features = 8 * 4 * 4
        self.fc = nn.Linear(self.num_features, num_classes)
        self.feature_info = [{"module": "stem"}, {"module": "body"}]

    def stages(self, x):
        x = self.stem(x)
        yield x
        yield self.body(x)

    def forward_head(self, x, pre_logits=False):
        x = self.dropout(x.flatten(1))
        return x if pre_logits else self.fc(x)


def toy(seed=0):
    torch.manual_seed(seed)
    return Toy()


# Penalties, clipping, optimisers


@pytest.mark.parametrize("l1, l2", [(0.3, 0.0), (0.0, 0.5), (0.3, 0.5)])
def test_penalty_and_its_gradient(l1, l2):
    weights = [torch.randn(3, 4, dtype=torch.double, requires_grad=True) for _ in range(2)]
    value = penalty(weights, l1, l2)
    expected = sum(l1 * w.abs().sum() + l2 / 2 * (w**2).sum() for w in weights)
    torch.testing.assert_close(value, expected)
    value.backward()
    for w in weights:
        torch.testing.assert_close(w.grad, l1 * w.detach().sign() + l2 * w.detach())


def test_no_penalty_is_none():
    assert penalty([torch.ones(2, 2)], 0.0, 0.0) == 0


def test_penalties_spare_biases_and_norms():
    model = toy()
    shrunk = {id(p) for p in shrinkable(model)}
    names = {name for name, p in model.named_parameters() if id(p) in shrunk}
    assert names == {"stem.0.weight", "body.0.weight", "fc.weight"}
    groups = make_optimiser(model, Options(opt="sgd", weight_decay=0.1)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_l2_of_the_loss_is_sgds_weight_decay():
    histories = [
        fit(toy(), toy_data(), Options(epochs=2, batch_size=32, opt="sgd", lr=0.05, **decay))
        for decay in ({"l2": 0.1}, {"weight_decay": 0.1}, {})
    ]
    by_loss, by_decay, without = (torch.tensor(curve(h)) for h in histories)
    torch.testing.assert_close(by_loss, by_decay)
    assert not torch.allclose(by_decay, without)


def test_l1_makes_weights_small():
    sizes = []
    for l1 in (0.0, 0.05):
        model = toy()
        fit(model, toy_data(), Options(epochs=5, batch_size=32, opt="sgd", lr=0.1, l1=l1))
        sizes.append(model.fc.weight.abs().mean().item())
    assert sizes[1] < 0.7 * sizes[0], sizes


def test_clipping():
    p = nn.Parameter(torch.zeros(3))
    for mode, expected in (("norm", [0.6, 0.0, -0.8]), ("value", [1.0, 0.0, -1.0])):
        p.grad = torch.tensor([3.0, 0.0, -4.0])
        clip([p], Options(clip_grad=1.0, clip_mode=mode))
        torch.testing.assert_close(p.grad, torch.tensor(expected))
    p.grad = torch.tensor([3.0, 0.0, -4.0])
    clip([p], Options())
    assert p.grad.tolist() == [3, 0, -4]


def by_hand(name, w, grads, lr=0.1, momentum=0.9, eps=1e-8):
    """What so many steps make of one number."""
    m = v = 0.0
    for t, g in enumerate(grads, 1):
        if name == "sgd":
            w -= lr * g
        elif name == "momentum":
            m = momentum * m + g
            w -= lr * m
        elif name == "nesterov":
            m = momentum * m + g
            w -= lr * (g + momentum * m)
        elif name == "adagrad":
            v += g * g
            w -= lr * g / (math.sqrt(v) + 1e-10)
        elif name == "rmsprop":
            v = 0.99 * v + 0.01 * g * g
            m = momentum * m + g / (math.sqrt(v) + eps)
            w -= lr * m
        else:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            w -= lr * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + eps)
    return w


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimiser_by_hand(name):
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 0.5)
    optimiser = make_optimiser(model, Options(opt=name, lr=0.1))
    grads = [0.3, -0.2, 0.7]
    for g in grads:
        model.weight.grad = torch.full_like(model.weight, g)
        optimiser.step()
    assert model.weight.item() == pytest.approx(by_hand(name, 0.5, grads), rel=1e-9)


# Schedules


STEPS, EPOCHS = 5, 8  # steps an epoch


def rates(**options):
    options = Options(epochs=EPOCHS, lr=0.4, **options)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.4)
    schedule, rates = Schedule(optimiser, options, STEPS), []
    for _ in range(EPOCHS * STEPS):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.after_step()
    return rates


def torchs(scheduler, by_epoch=False):
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.4)
    scheduler, rates = scheduler(optimiser), []
    for step in range(EPOCHS * STEPS):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if not by_epoch or step % STEPS == STEPS - 1:
            scheduler.step()
    return rates


def test_schedules_are_torchs():
    lr_scheduler, total = torch.optim.lr_scheduler, EPOCHS * STEPS
    cosine = torchs(lambda o: lr_scheduler.CosineAnnealingLR(o, total, eta_min=0.04))
    assert rates(sched="cosine", min_lr=0.04) == pytest.approx(cosine)
    linear = torchs(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total))
    assert rates(sched="linear", min_lr=0.04) == pytest.approx(linear)
    step = torchs(lambda o: lr_scheduler.StepLR(o, 3, 0.1), by_epoch=True)
    assert rates(sched="step", decay_epochs=3, decay_rate=0.1) == pytest.approx(step)
    assert rates(sched="constant") == [0.4] * total


def test_inverse_square_root():
    found = rates(sched="inverse-sqrt", warmup_epochs=2)
    assert found[10:] == pytest.approx([0.4 * math.sqrt(10 / k) for k in range(10, 40)])
    assert rates(sched="inverse-sqrt")[1:] == pytest.approx(
        [0.4 / math.sqrt(k) for k in range(1, 40)]
    )


@pytest.mark.parametrize("sched", SCHEDULES)
def test_warm_up_rises_evenly_from_above_0_to_the_full_rate(sched):
    found = rates(sched=sched, warmup_epochs=2, decay_epochs=100)
    assert found[:11] == pytest.approx([0.4 * (k + 1) / 11 for k in range(11)])
    assert max(found) == found[10]


def test_step_stops_at_min_lr():
    options = Options(epochs=EPOCHS, lr=0.4, sched="step", decay_epochs=1, min_lr=0.01)
    assert factor(39, STEPS, options) == pytest.approx(0.01 / 0.4)


def test_plateau():
    """After more epochs than patience without a better one; the warm-up comes first."""
    options = Options(
        lr=0.4, sched="plateau", warmup_epochs=1, patience_epochs=1, decay_rate=0.5, min_lr=0.15
    )
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.4)
    schedule, found = Schedule(optimiser, options, STEPS), []
    for accuracy in (0.5, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7):
        for _ in range(STEPS):
            optimiser.step()
            schedule.after_step()
        schedule.after_epoch(accuracy)
        found.append(optimiser.param_groups[0]["lr"])
    assert found == pytest.approx([0.4] * 3 + [0.2] * 3 + [0.15] * 3)


# Augmentation


ALL = {"hflip": 0.5, "crop": 0.5, "rotate": 20, "shear": 10, "color_jitter": 0.4, "pca_color": 0.5}


def augmented(options, image, seed):
    frame = data_of.ImageClassification(crop_size=16, resize_size=16, mean=(0,), std=(1,))
    covariance = torch.diag(torch.tensor([0.09, 0.04, 0.01]))[: len(image), : len(image)]
    steps = nn.Sequential(*augment.transforms(Options(**options), frame, covariance))
    torch.manual_seed(seed)
    return steps(image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*ALL, "all"])
def test_augmentation_keeps_shape_and_range_and_obeys_the_seed(name, channels):
    pytest.importorskip("torchvision")
    options = ALL if name == "all" else {name: ALL[name]}
    image = torch.rand(channels, 16, 16, generator=torch.Generator().manual_seed(1))
    results = [augmented(options, image, seed) for seed in range(8)]
    for seed, result in enumerate(results):
        assert result.shape == image.shape and result.dtype == torch.float32
        assert result.min() >= 0 and result.max() <= 1
        assert torch.equal(result, augmented(options, image, seed))
    assert any(not torch.equal(result, results[0]) for result in results)
    assert any(not torch.allclose(result, image, atol=0.01) for result in results)


def test_no_augmentation_is_the_image():
    image = torch.rand(3, 16, 16)
    assert torch.equal(augmented({}, image, 0), image)


def test_mirror():
    pytest.importorskip("torchvision")
    image = torch.rand(3, 16, 16)
    assert torch.equal(augmented({"hflip": 1.0}, image, 0), image.flip(-1))


def test_a_crop_is_at_least_so_large():
    """Of an image of its coordinates: each result spans at least the root of half of it."""
    pytest.importorskip("torchvision")
    x = torch.linspace(0, 1, 64).expand(64, 64)
    for seed in range(20):
        cropped = augmented({"crop": 0.5}, torch.stack([x, x.T, x]), seed)
        across, down = (c.max() - c.min() for c in cropped[:2])
        assert 0.4 < across * down <= 1


def test_pca_colour_shifts_every_pixel_alike_along_the_components():
    generator = torch.Generator().manual_seed(0)
    mix = torch.tensor([[0.3, 0.1, 0.0], [0.1, 0.2, 0.1], [0.0, 0.1, 0.2]])
    pixels = mix @ torch.randn(3, 64, 64, generator=generator).flatten(1)
    _, covariance = data_of.statistics([pixels.view(3, 64, 64)])
    shift = augment.PCAColour(covariance, 0.1)
    grey = torch.full((3, 4, 4), 0.5)
    torch.manual_seed(0)
    shifts = torch.stack([shift(grey) - grey for _ in range(4000)])
    assert torch.equal(shifts, shifts[..., :1, :1].expand_as(shifts))
    # numbers from N(0, sigma) times eigenvalues along eigenvectors: covariance sigma^2 C^2
    expected = 0.01 * covariance @ covariance
    found = shifts[..., 0, 0].T.cov()
    assert (found - expected).abs().max() < 0.1 * expected.max()


# Data


def test_digits_split():
    pytest.importorskip("sklearn")
    train, val, classes = data_of.digits()
    assert (len(train), len(val), len(classes)) == (1442, 355, 10)
    counts = torch.bincount(torch.tensor([label for _, label in val]))
    assert counts.min() >= 34 and counts.max() <= 37
    seen = {tuple(image.flatten().tolist()) for image, _ in train}
    assert not any(tuple(image.flatten().tolist()) in seen for image, _ in val)
    image, _ = train[0]
    assert image.shape == (1, 8, 8) and image.max() == 15 / 16


def test_statistics():
    images = [torch.rand(3, 5, 7) for _ in range(4)]
    mean, covariance = data_of.statistics(images)
    pixels = torch.cat([image.flatten(1) for image in images], 1)
    torch.testing.assert_close(mean, pixels.mean(1))
    torch.testing.assert_close(covariance, pixels.cov(correction=0))


def write_images(folder, colours, count, mode="RGB", size=(12, 10)):
    """PNGs in a folder for each class, each of one colour."""
    image_of = pytest.importorskip("PIL.Image")
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image_of.new(mode, size, colour).save(folder / name / f"{i:02}.png")


COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


def test_folder_that_is_split(tmp_path):
    write_images(tmp_path, COLOURS, 10)
    (tmp_path / "red" / "notes.txt").write_text("no image")
    found = data_of.open_data(Options(data=str(tmp_path), img_size=8))
    assert found.classes == ["blue", "green", "red"] and found.channels == 3
    assert (len(found.train), len(found.val)) == (24, 6)
    image, label = found.train[0]
    assert image.shape == (3, 8, 8) and label == 0
    shown = torch.stack([image for image, _ in found.train]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(shown.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(shown.std(1), torch.ones(3), atol=1e-3, rtol=0)


def test_folders_train_and_val(tmp_path):
    grey = {"dark": 50, "light": 200}
    write_images(tmp_path / "train", grey, 3, "L")
    write_images(tmp_path / "val", grey, 2, "L")
    found = data_of.open_data(Options(data=str(tmp_path), img_size=6))
    assert (len(found.train), len(found.val), found.channels) == (6, 4, 1)
    assert found.val[3][1] == 1 and found.val[3][0].shape == (1, 6, 6)
    (tmp_path / "val" / "light").rename(tmp_path / "val" / "bright")
    with pytest.raises(ValueError, match="differ in their classes: bright, light"):
        data_of.open_data(Options(data=str(tmp_path)))


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match="expected digits or a folder"):
        data_of.open_data(Options(data=str(tmp_path / "missing")))
    with pytest.raises(ValueError, match="expected two or more of images"):
        data_of.open_data(Options(data=str(tmp_path)))
    write_images(tmp_path, COLOURS, 5)
    (tmp_path / "red" / "00.png").write_bytes(b"\x89PNG and no more")
    with pytest.raises(RuntimeError, match=r"00\.png is no image that can be read"):
        data_of.open_data(Options(data=str(tmp_path), img_size=8))


# Order


def order(options, epoch, start=0, count=20):
    loader = batches.Batches(range(count), options)
    loader.epoch, loader.start = epoch, start
    return list(loader)


def test_each_epoch_sees_every_image_once_in_an_order_of_its_own():
    options = Options(batch_size=4, seed=3)
    first, second = order(options, 0), order(options, 1)
    for epoch, found in enumerate((first, second)):
        assert sorted(i for batch in found for _, i in batch) == list(range(20))
        assert {e for batch in found for e, _ in batch} == {epoch}
    indices = [[[i for _, i in batch] for batch in found] for found in (first, second)]
    assert indices[0] != indices[1]
    assert order(options, 0) == first and order(Options(batch_size=4, seed=4), 0) != first
    assert order(options, 0, start=3) == first[3:]


def test_processes_share_each_batch(monkeypatch):
    whole = order(Options(batch_size=6), 0, count=21)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(batches.processes, "count", lambda: 3)
        monkeypatch.setattr(batches.processes, "rank", lambda rank=rank: rank)
        shares.append(order(Options(batch_size=6), 0, count=21))
    assert [sorted(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == [
        sorted(batch) for batch in whole
    ]
    with pytest.raises(ValueError, match="expected a multiple of the 3 processes"):
        batches.Batches(range(20), Options(batch_size=4))


def test_fewer_images_than_a_batch():
    with pytest.raises(ValueError, match="expected at most 3"):
        batches.Batches(range(3), Options(batch_size=4))


class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        return torch.rand(3), i


def test_augmentation_is_the_same_on_any_number_of_workers():
    found = []
    for workers in (0, 2):
        order, loader = batches.train_loader(Noisy(), Options(batch_size=4, workers=workers), False)
        state = torch.get_rng_state()
        found.append([list(loader)])
        order.epoch = 1
        found[-1].append(list(loader))
        assert torch.equal(torch.get_rng_state(), state)
    for alone, by_workers in zip(*found, strict=True):
        for (x, i), (y, j) in zip(alone, by_workers, strict=True):
            assert torch.equal(x, y) and torch.equal(i, j)
    first, second = ({i: x for b in epoch for x, i in zip(*b)} for epoch in found[0])  # noqa: B905
    assert not torch.equal(torch.stack(list(first.values())), torch.stack(list(second.values())))


# The loop


def test_the_curve_is_plain_torchs():
    """LeNet-5, beside a loop written out with torch.nn, torch.optim and nothing of ours."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x = F.interpolate(torch.tensor(digits.images).float()[:, None] / 16, (32, 32), mode="bilinear")
    x, y = (x[:768] - 0.3) / 0.4, torch.tensor(digits.target[:768])
    train, val = TensorDataset(x[:640], y[:640]), TensorDataset(x[640:], y[640:])
    torch.manual_seed(0)
    model = models.get_model("lenet5")
    plain = nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
    )
    with torch.no_grad():
        for p, q in zip(plain.parameters(), model.parameters(), strict=True):
            p.copy_(q)
    options = Options(epochs=3, batch_size=64, opt="momentum", lr=0.05, sched="constant", seed=7)
    history = fit(model, Data(train, val, list(range(10)), 1), options)

    optimiser = torch.optim.SGD(plain.parameters(), 0.05, momentum=0.9)
    for epoch, figures in enumerate(history):
        shuffled = torch.randperm(640, generator=torch.Generator().manual_seed(7 + epoch))
        losses, right = [], 0
        for batch in shuffled.split(64):
            scores = plain(x[batch])
            loss = F.cross_entropy(scores, y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            right += (scores.argmax(1) == y[batch]).sum().item()
        scores = plain(x[640:])
        assert figures["train_loss"] == pytest.approx(sum(losses) / 10, rel=1e-4)
        assert figures["train_accuracy"] == pytest.approx(right / 640, abs=2 / 640)
        assert figures["val_loss"] == pytest.approx(
            F.cross_entropy(scores, y[640:]).item(), rel=1e-4
        )
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]


def test_the_seed_decides():
    options = Options(epochs=2, batch_size=16, lr=0.01)
    first = curve(fit(toy(), toy_data(), options))
    assert curve(fit(toy(), toy_data(), options)) == first
    assert curve(fit(toy(), toy_data(), Options(epochs=2, batch_size=16, lr=0.01, seed=1))) != first


class KilledError(Exception):
    pass


def killed_after(steps):
    def bar(epoch, step, steps_an_epoch, loss):
        if (epoch - 1) * steps_an_epoch + step == steps:
            raise KilledError

    return bar


@pytest.mark.parametrize("steps", [4, 6, 8, 11])  # four an epoch; saved after three
@pytest.mark.parametrize("sched", ["cosine", "plateau"])
def test_resumed_within_an_epoch_the_curve_is_the_same(tmp_path, steps, sched):
    told = {"epochs": 4, "batch_size": 16, "lr": 0.01, "sched": sched, "warmup_epochs": 0.5}
    told |= {"patience_epochs": 0, "monitor": "loss"}
    model = toy()
    whole = fit(model, toy_data(), Options(**told))
    told |= {"output": str(tmp_path), "save_every": 3}
    with pytest.raises(KilledError):
        fit(toy(), toy_data(), Options(**told), bar=killed_after(steps))
    again = toy(seed=5)  # all of it comes from the checkpoint
    resumed = fit(again, toy_data(), Options(**told, resume=True))
    assert curve(resumed) == curve(whole)
    for p, q in zip(again.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(p, q)
    assert (tmp_path / "best.pt").exists()


def test_another_training_is_not_overwritten_and_not_resumed(tmp_path):
    told = {"epochs": 1, "batch_size": 16, "output": str(tmp_path)}
    fit(toy(), toy_data(), Options(**told, lr=0.01))
    with pytest.raises(ValueError, match="is there already"):
        fit(toy(), toy_data(), Options(**told, lr=0.01))
    with pytest.raises(ValueError, match=r"resume: lr: got 0\.02, expected 0\.01"):
        fit(toy(), toy_data(), Options(**told, lr=0.02, resume=True))
    longer = Options(**told | {"epochs": 3}, lr=0.01, resume=True)
    assert len(fit(toy(), toy_data(), longer)) == 3


def test_early_stopping(monkeypatch):
    accuracies = iter([0.5, 0.6, 0.55, 0.6, 0.9])
    monkeypatch.setattr(
        Training, "_validate", lambda self: {"val_accuracy": next(accuracies), "val_loss": 1.0}
    )
    history = fit(toy(), toy_data(), Options(epochs=5, batch_size=32, early_stop=2))
    assert [figures["val_accuracy"] for figures in history] == [0.5, 0.6, 0.55, 0.6]


def test_best_is_kept(tmp_path, monkeypatch):
    losses = iter([0.9, 0.4, 0.6])
    monkeypatch.setattr(
        Training, "_validate", lambda self: {"val_accuracy": 0.5, "val_loss": next(losses)}
    )
    options = Options(epochs=3, batch_size=32, monitor="loss", output=str(tmp_path))
    fit(toy(), toy_data(), options)
    best, last = (checkpoint.load(tmp_path / name) for name in ("best.pt", "last.pt"))
    assert (best["position"]["epoch"], last["position"]["epoch"]) == (2, 3)


def test_a_loss_that_explodes_is_an_error():
    with pytest.raises(RuntimeError, match="train loss is nan: a smaller lr"):
        fit(
            toy(),
            toy_data(),
            Options(epochs=3, batch_size=16, opt="sgd", lr=1e30, sched="constant"),
        )


def test_gradients_are_clipped():
    moved = []
    for clip_grad in (0.0, 1e-3):
        model = toy()
        before = model.fc.weight.detach().clone()
        fit(model, toy_data(), Options(epochs=1, batch_size=32, opt="sgd", clip_grad=clip_grad))
        moved.append((model.fc.weight - before).norm().item())
    assert moved[1] <= 2 * 1e-3 * 1e-3 < moved[0]  # steps, rate, norm


def test_auxiliary_classifiers_learn_too():
    class WithAuxiliary(Toy):
        def __init__(self):
            super().__init__()
            self.auxiliary = nn.Linear(self.num_features, 3)

        def forward_head(self, x):
            x = x.flatten(1)
            return (self.fc(x), self.auxiliary(x), None) if self.training else self.fc(x)

    model = WithAuxiliary()
    before = model.auxiliary.weight.detach().clone()
    fit(model, toy_data(), Options(epochs=1, batch_size=32))
    assert not torch.equal(model.auxiliary.weight, before)


# Checkpoints


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_checkpoints_run_no_code(tmp_path, capsys):
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "broken.pt").write_bytes(b"PK no zip")
    for name in ("evil.pt", "broken.pt"):
        with pytest.raises(ValueError, match=f"{name}: expected a checkpoint"):
            checkpoint.load(tmp_path / name)
    assert not capsys.readouterr().out


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "new" / "last.pt"
    checkpoint.save({"epoch": 1}, file)

    def half(state, stream):
        stream.write(b"half of it")
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(torch, "save", half)
        checkpoint.save({"epoch": 2}, file)
    assert checkpoint.load(file) == {"epoch": 1}
    checkpoint.save({"epoch": 3}, file)
    assert checkpoint.load(file) == {"epoch": 3}
    assert [f.name for f in file.parent.iterdir()] == ["last.pt"]


def test_curves_are_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    history = fit(toy(), toy_data(), Options(epochs=2, batch_size=32))
    curves.draw(history, tmp_path / "curves.png", "toy")
    image = pytest.importorskip("PIL.Image").open(tmp_path / "curves.png")
    assert image.size == (1350, 540) and len(image.getcolors(maxcolors=1 << 20)) > 20


# Transfer


@pytest.mark.parametrize(
    "told, frozen",
    [
        ({}, ()),
        ({"freeze_until": "body"}, ("stem",)),
        ({"freeze_until": "body.1"}, ("stem", "body.0")),
        ({"train_last": 1}, ("stem",)),
        ({"train_last": 2}, ()),
        ({"freeze_until": "fc"}, ("stem", "body")),
    ],
)
def test_frozen_layers_stay(told, frozen):
    model, options = toy(), Options(epochs=1, batch_size=32, lr=0.01, weight_decay=0.1, **told)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    transfer.freeze(model, options)
    fit(model, toy_data(), options)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith(frozen), key


def test_freeze_trains_the_classifier_on_features_computed_once():
    options = Options(epochs=4, batch_size=32, lr=0.05, freeze=True)
    model, data = toy(), toy_data()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    transfer.freeze(model, options)
    features = transfer.features(model, data, options)
    inputs, labels = next(iter(DataLoader(features.val, 32)))
    images, expected = next(iter(DataLoader(data.val, 32)))
    with torch.no_grad():
        torch.testing.assert_close(model.fc(inputs), model(images))
    assert torch.equal(labels, expected)
    history = fit(model, features, options, net=model.get_classifier())
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"fc.weight", "fc.bias"}
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    model.eval()
    right = (model(images).argmax(1) == labels).float().mean().item()
    assert right == pytest.approx(history[-1]["val_accuracy"])


def test_freeze_needs_a_classifier_at_the_end():
    class Middle(Toy):
        def forward_head(self, x, pre_logits=False):
            x = x.flatten(1)
            return x if pre_logits else self.fc(x).relu()

    options = Options(freeze=True)
    with pytest.raises(ValueError, match="expected one that ends with its classifier"):
        transfer.features(Middle(), toy_data(), options)


def test_weights_of_a_file(tmp_path):
    """Other classes get a new classifier; a missing layer is an error."""
    trained = models.get_model("lenet5", num_classes=7)
    torch.save(trained.state_dict(), tmp_path / "plain.pt")
    told = {"model": "lenet5", "weights": str(tmp_path / "plain.pt")}
    for classes in (7, 3):
        data = SimpleNamespace(classes=range(classes), channels=1)
        model = transfer.build(Options(**told), data)
        for key, value in trained.state_dict().items():
            same = not key.startswith("fc3") or classes == 7
            assert torch.equal(model.state_dict()[key], value) if same else len(model.fc3.bias) == 3
    torch.save({"fc3.weight": torch.zeros(7, 84)}, tmp_path / "plain.pt")
    with pytest.raises(ValueError, match="8 tensors missing or others, as conv1"):
        transfer.build(Options(**told), data)


def test_published_weights(monkeypatch, tmp_path):
    """Their images, their body, and a classifier for the data's classes."""
    state = models.get_model("resnet18").state_dict()
    enum = models.get_model_weights("resnet18")
    monkeypatch.setattr(enum, "get_state_dict", lambda *arguments, **how: dict(state))
    write_images(tmp_path, COLOURS, 5)
    options = Options(model="resnet18", data=str(tmp_path), weights="DEFAULT")
    found = data_of.open_data(options, *transfer.wanted_images(options))
    assert found.images["size"] == 224 and found.images["mean"] == [0.485, 0.456, 0.406]
    assert found.val[0][0].shape == (3, 224, 224)
    model = transfer.build(options, found)
    assert model.fc.weight.shape == (3, 512)
    assert torch.equal(model.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_weights_of_a_checkpoint_and_of_safetensors(tmp_path):
    fit(toy(), toy_data(), Options(epochs=1, batch_size=32, output=str(tmp_path)))
    state = checkpoint.load(tmp_path / "best.pt")["model"]
    pytest.importorskip("safetensors.torch").save_file(
        {key: value.contiguous() for key, value in state.items()}, tmp_path / "best.safetensors"
    )
    for name in ("best.pt", "best.safetensors"):
        found = checkpoint.load_weights(tmp_path / name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


# AlexNet's towers


def alexnet():
    """The two towers, with less in the dense layers."""
    torch.manual_seed(0)
    model = models.get_model("alexnet_original", num_classes=7, dropout=0.0)
    model.fc6[0], model.fc7[0], model.fc8 = nn.Linear(9216, 64), nn.Linear(64, 32), nn.Linear(32, 7)
    for p in model.parameters():  # so large that the norms matter
        if p.ndim > 1:
            nn.init.kaiming_normal_(p)
    return model


def two_steps(model):
    """(the scores of two steps, the losses)"""
    generator = torch.Generator().manual_seed(1)
    images = 3 * torch.randn(2, 3, 227, 227, generator=generator)
    optimiser, scores, losses = torch.optim.SGD(model.parameters(), 1e-3), [], []
    for _ in range(2):
        scores.append(model(images))
        loss = F.cross_entropy(scores[-1], torch.tensor([3, 6]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return torch.stack(scores).detach(), losses


def tower(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = towers.Tower(alexnet())
    scores, losses = two_steps(model)
    result = {"scores": scores, "losses": losses, "state": model.whole_state_dict()}
    torch.save({**result, "own": sum(p.numel() for p in model.parameters())}, folder / f"{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # an ordinary exit aborts now and then, in torch 2.15's gloo threads


def test_two_towers_on_two_processes(tmp_path):
    """Scores, losses and trained weights are those of the model in one process."""
    torch.multiprocessing.spawn(tower, (tmp_path,), nprocs=2)
    model = alexnet()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    scores, losses = two_steps(model)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found["scores"], scores, rtol=1e-3, atol=1e-4)
        assert found["losses"] == pytest.approx(losses, rel=1e-4)
        assert found["own"] < 0.51 * sum(p.numel() for p in model.parameters())
        assert found["state"].keys() == before.keys()
        for key, value in model.state_dict().items():
            step = (value - before[key]).abs().max()
            assert step > 0 and (found["state"][key] - value).abs().max() < 0.01 * step, key


def test_a_tower_needs_two_processes():
    with pytest.raises(RuntimeError, match="expected a process group of two processes"):
        towers.Tower(alexnet())


# Options


@pytest.mark.parametrize(
    "told, words",
    [
        ({"lr": -1.0}, "lr: got -1.0, expected at least 0"),
        ({"lr": 0.0}, "lr: got 0.0, expected more"),
        ({"lr": float("nan")}, "lr: got nan"),
        ({"hflip": 2.0}, "hflip: got 2.0, expected at most 1"),
        ({"opt": "adamax"}, "opt: got 'adamax', expected one of sgd, "),
        ({"epochs": 0}, "epochs: got 0, expected at least 1"),
        ({"resume": True}, "output: got none"),
        ({"freeze": True, "train_last": 1}, "got several, expected one"),
        ({"freeze": True, "hflip": 0.5}, "features are computed once"),
    ],
)
def test_bad_options(told, words):
    with pytest.raises(ValueError, match=words):
        Options(**told)
