"""`torchext train` and `torchext charlm` as people call them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from torchext.__main__ import main
from torchext.training import checkpoint

pytest.importorskip("sklearn")
FIGURES = "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"
LENET = "train", "lenet5", "--data", "digits"


def curve(facts):
    return [[figures[name] for name in FIGURES] for figures in facts["history"]]


def started(*arguments, processes=1):
    """The command in processes of their own, each with one thread."""
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}")
    command = [sys.executable, *(launcher if processes > 1 else ()), "-m", "torchext", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


@pytest.fixture
def here(capsys):
    """The command in this process: what it prints as JSON."""

    def run_here(*arguments):
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run_here


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["train"], "MODEL"),
        (["train", "lenet5"], "expected digits or a folder"),
        (["train", "lenet4", "--data", "digits"], "lenet4"),
        ([*LENET, "--lr", "-1"], "lr: got -1.0, expected at least 0"),
        ([*LENET, "--opt", "newton"], "newton"),
        ([*LENET, "--nonsense"], "unrecognized"),
        ([*LENET, "--resume"], "output: got none"),
        ([*LENET, "--device", "tpu9"], "device: got 'tpu9'"),
        ([*LENET, "--batch-size", "2000"], "batch_size: got 2000, expected at most 1442"),
        ([*LENET, "--freeze-until", "conv9"], "freeze_until: got 'conv9'"),
        ([*LENET, "--train-last", "3"], "train_last: got 3, expected at most 2"),
        ([*LENET, "--weights", "IMAGENET"], "lenet5"),
        (["train", "lenet5", "--data", "no/such/folder"], "expected digits or a folder"),
        (["charlm"], "expected one of FILE, --text and --load"),
        (["charlm", "--text", "a"], "expected two characters or more"),
        (["charlm", "no-such-file"], "no-such-file"),
    ],
)
def test_misuse_is_one_line_and_status_2(arguments, words, capsys):
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert words in errors and errors.count("\n") == 1 and not output


def test_misuse_of_the_command_itself(tmp_path):
    process = started("train", "lenet5", "--data", str(tmp_path))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and not output
    assert errors.count("\n") == 1 and "expected two or more of images" in errors


def test_a_few_seconds_on_digits(tmp_path):
    process = started(
        *LENET, "--epochs", "3", "--lr", "0.003", "--curves", str(tmp_path / "curves.png")
    )
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    lines = output.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [
        ["epoch", "1"],
        ["epoch", "2"],
        ["epoch", "3"],
    ]
    assert "\x1b" not in output + errors  # no bar where no terminal is
    best = float(lines[3].split()[3].rstrip("%"))
    assert best >= 90
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_lenet_reaches_97_percent_within_two_minutes():
    start = time.perf_counter()
    process = started(*LENET, "--epochs", "15", "--lr", "0.003", "--json")
    facts = json.loads(process.communicate(timeout=300)[0])
    assert facts["best"]["val_accuracy"] >= 0.97
    assert time.perf_counter() - start < 120


def test_killed_and_resumed_the_curve_is_the_same(here, tmp_path):
    """By SIGKILL, wherever it is then; with all that has a state: order, augmentation, workers."""
    told = [*LENET, "--epochs", "3", "--rotate", "5", "--workers", "1", "--opt", "momentum"]
    told += ["--lr", "0.05", "--warmup-epochs", "0.5", "--clip-grad", "1"]
    whole = here(*told)
    told += ["--output", str(tmp_path), "--save-every", "5"]
    process = started(*told)
    while not (tmp_path / "last.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(checkpoint.load(tmp_path / "last.pt")["position"]["history"]) < 3
    for _ in range(2):  # the second time nothing is left to do
        assert curve(here(*told, "--resume")) == curve(whole)


def test_two_processes_train_as_one_does(here, tmp_path):
    """The same batches; the sums of gradients are rounded otherwise."""
    told = *LENET, "--epochs", "2", "--opt", "momentum", "--lr", "0.05", "--rotate", "5"
    process = started(*told, "--output", str(tmp_path), "--json", processes=2)
    one = here(*told)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    two = json.loads(output)
    assert (one["processes"], two["processes"]) == (1, 2)
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        for name in ("train_loss", "val_loss", "lr"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name
        for name in ("train_accuracy", "val_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], abs=0.003), name
    assert len(checkpoint.load(tmp_path / "last.pt")["generators"]) == 2


def test_fine_tuning(here, tmp_path):
    """A body trained on digits, and only its classifier, its last stage or all of it again."""
    first = here(*LENET, "--epochs", "1", "--lr", "0.003", "--output", str(tmp_path))
    told = *LENET, "--epochs", "1", "--lr", "0.001", "--weights", str(tmp_path / "best.pt")
    parameters = first["parameters"]
    assert first["trained_parameters"] == parameters
    for flags, trained in (
        (("--freeze",), 84 * 10 + 10),
        (("--freeze-until", "fc2"), 120 * 84 + 84 + 84 * 10 + 10),
        (("--train-last", "1"), parameters - 6 * 25 - 6),
        ((), parameters),
    ):
        tuned = here(*told, *flags)
        assert tuned["trained_parameters"] == trained
        assert tuned["best"]["val_accuracy"] >= first["best"]["val_accuracy"] - 0.01
    trained, body = (checkpoint.load(tmp_path / name)["model"] for name in ("best.pt", "last.pt"))
    assert all(torch.equal(trained[key], body[key]) for key in body)


def test_a_folder_with_augmentation_and_workers(here, tmp_path):
    image_of = pytest.importorskip("PIL.Image")
    pytest.importorskip("torchvision")
    for name, colour in {"green": (40, 160, 60), "red": (180, 40, 40)}.items():
        (tmp_path / name).mkdir()
        for i in range(20):
            shade = tuple(c + i for c in colour)
            image_of.new("RGB", (40, 30), shade).save(tmp_path / name / f"{i}.png")
    told = ["--hflip", "0.5", "--crop", "0.5", "--rotate", "10", "--shear", "5"]
    told += ["--color-jitter", "0.1", "--pca-color", "0.1", "--workers", "2"]
    facts = here(
        *("train", "lenet5", "--data", str(tmp_path), *told),
        *("--epochs", "4", "--batch-size", "8", "--lr", "0.003", "--l1", "1e-5", "--l2", "1e-4"),
    )
    assert facts["classes"] == ["green", "red"]
    assert facts["best"]["val_accuracy"] == 1


def test_hello(here, tmp_path, capsys):
    start = time.perf_counter()
    facts = here("charlm", "--text", "hello", "--output", str(tmp_path))
    assert time.perf_counter() - start < 60
    assert facts["sample"] == "hello" and facts["classes"] == ["e", "h", "l", "o"]
    told = "charlm", "--load", str(tmp_path / "best.pt"), "--prompt", "he", "--sample", "3"
    assert main(told) == 0
    assert capsys.readouterr().out == "hello\n"


def test_a_text_file_is_learned_resumed_and_written(here, tmp_path, capsys):
    """A text of two alternating words: each letter tells the next."""
    (tmp_path / "text").write_text("abc xyz " * 100)
    told = ["charlm", str(tmp_path / "text"), "--hidden-size", "32", "--length", "16"]
    told += ["--cell", "gru", "--temperature", "0", "--prompt", "x", "--sample", "15"]
    facts = here(*told, "--epochs", "3", "--output", str(tmp_path / "out"))
    assert facts["best"]["val_accuracy"] > 0.9 and facts["sample"] == "xyz abc xyz abc "
    more = here(*told, "--epochs", "4", "--output", str(tmp_path / "out"), "--resume")
    assert curve(more)[:3] == curve(facts) and len(curve(more)) == 4
    assert main(["charlm", "--load", str(tmp_path / "out" / "best.pt"), "--prompt", "?"]) == 2
    assert "got '?'" in capsys.readouterr().err
    told[3] = "48"
    assert main([*told, "--output", str(tmp_path / "out"), "--resume"]) == 2
    assert "resume: the model: got" in capsys.readouterr().err


def test_accelerate(here):
    """The same curve, by rounding: LeNet's layers are torchext's already."""
    plain, accelerated = (here(*LENET, "--epochs", "1", *flag) for flag in ((), ("--accelerate",)))
    for ours, theirs in zip(accelerated["history"], plain["history"], strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
