"""The training loop."""

import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ..nn import functional as F
from . import checkpoint, processes
from .batches import train_loader, val_loader
from .optimiser import clip, make_optimiser, penalty, shrinkable
from .schedule import Schedule
from .transfer import train_mode

AUXILIARY = 0.3  # the weight of auxiliary classifiers' losses, as for GoogLeNet
MAY_CHANGE = {"resume", "output", "workers", "device", "save_every", "epochs", "early_stop"}


def fit(model, data, options, *, net=None, report=None, bar=None):
    """Trains `model` in place and returns its history: a dict of figures for each epoch.

    net     what makes scores of the data's inputs, where that is not the model itself
    report  is called with each epoch's figures
    bar     is called with (epoch, step, steps, loss) after each step
    """
    return Training(model, data, options, net).run(report, bar)


@dataclass
class Position:
    """Where a training is: what a checkpoint says beside model, optimiser and schedule."""

    epoch: int = 0
    step: int = 0  # of the epoch, the next one to do
    lr: float = 0.0  # of the epoch's first step
    sums: tuple = (0.0, 0.0, 0.0)  # of the epoch so far: losses, right ones, examples
    history: list = field(default_factory=list)


class Training:
    def __init__(self, model, data, options, net=None):
        self.device = processes.device(options.device)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.net = model if net is None else net
        self.options, self.classes, self.images = options, data.classes, data.images
        on_gpu = self.device.type == "cuda"
        self.batches, self.train = train_loader(data.train, options, pin=on_gpu)
        self.val = val_loader(data.val, options, pin=on_gpu)
        self.optimiser = make_optimiser(model, options)
        self.schedule = Schedule(self.optimiser, options, len(self.batches))
        self.shrinkable = shrinkable(model)
        self.position = Position(lr=self._rate())
        torch.manual_seed(options.seed + processes.rank())  # dropout differs between processes
        if options.output:
            self._start_from(Path(options.output) / "last.pt")
        self.parallel = processes.parallel(self.net, self.device)

    def run(self, report=None, bar=None):
        history = self.position.history
        while not self._finished():
            start = time.perf_counter()
            figures = {
                "epoch": self.position.epoch + 1,
                **self._train(bar),
                **self._validate(),
                "lr": self.position.lr,
                "seconds": round(time.perf_counter() - start, 3),
            }
            self.schedule.after_epoch(figures[f"val_{self.options.monitor}"])
            history.append(figures)
            self.position = Position(self.position.epoch + 1, lr=self._rate(), history=history)
            if self.best() is figures:
                self._save("best.pt")
            self._save("last.pt")
            if report:
                report(figures)
        return history

    def _train(self, bar):
        """The rest of an epoch; its figures."""
        position, options, steps = self.position, self.options, len(self.batches)
        self.batches.epoch, self.batches.start = position.epoch, position.step
        sums = torch.tensor(position.sums, dtype=torch.float64, device=self.device)
        train_mode(self.parallel)
        for inputs, labels in self.train:
            inputs, labels = self._here(inputs), self._here(labels)
            scores, *auxiliary = _tuple(self.parallel(inputs))
            loss = F.cross_entropy(scores, labels)
            others = sum(F.cross_entropy(a, labels) for a in auxiliary if a is not None)
            shrink = penalty(self.shrinkable, options.l1, options.l2)
            self.optimiser.zero_grad()
            (loss + AUXILIARY * others + shrink).backward()
            clip(self.model.parameters(), options)
            self.optimiser.step()
            self.schedule.after_step()

            sums += _sums(loss, scores, labels)
            position.step += 1
            if bar:
                bar(position.epoch + 1, position.step, steps, loss.item())
            if options.save_every and position.step % options.save_every == 0:
                self._save("last.pt", sums)
        return _figures("train", processes.total(sums))

    @torch.no_grad()
    def _validate(self):
        processes.share_buffers(self.model)
        self.net.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for inputs, labels in self.val:
            inputs, labels = self._here(inputs), self._here(labels)
            scores, *_ = _tuple(self.net(inputs))
            sums += _sums(F.cross_entropy(scores, labels), scores, labels)
        return _figures("val", processes.total(sums))

    def _finished(self):
        position, patience = self.position, self.options.early_stop
        waited = position.epoch - self.best()["epoch"] if position.history else 0
        return position.epoch >= self.options.epochs or 0 < patience <= waited

    def best(self):
        """The figures of the first epoch that none surpasses."""
        better = {"accuracy": max, "loss": min}[self.options.monitor]
        return better(self.position.history, key=lambda f: f[f"val_{self.options.monitor}"])

    def _rate(self):
        return self.optimiser.param_groups[0]["lr"]

    def _here(self, tensor):
        images = {"memory_format": torch.channels_last} if tensor.ndim == 4 else {}
        return tensor.to(self.device, non_blocking=True, **images)

    def _save(self, name, sums=None):
        """Writes a checkpoint; all processes call this, the first one writes."""
        if not self.options.output:
            return
        position = self.position
        if sums is not None:
            position = replace(position, sums=tuple(processes.total(sums).tolist()))
        generators = processes.all_of(_generators(self.device))
        if processes.rank() == 0:
            state = {
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "position": vars(position),
                "generators": generators,
                "options": asdict(self.options),
                "classes": self.classes,
                "images": self.images,
                "config": getattr(self.model, "config", None),
            }
            checkpoint.save(state, Path(self.options.output) / name)

    def _start_from(self, file):
        """Goes on from the checkpoint, if asked to; else there must be none to overwrite."""
        if not file.exists():
            return
        if not self.options.resume:
            raise ValueError(f"output: {file} is there already: resume, or choose another folder")
        state = checkpoint.load(file)
        for name, value in asdict(self.options).items():
            if name not in MAY_CHANGE and value != state["options"][name]:
                theirs = state["options"][name]
                raise ValueError(f"resume: {name}: got {value!r}, expected {theirs!r} as in {file}")
        if (config := getattr(self.model, "config", None)) != state["config"]:
            raise ValueError(f"resume: the model: got {config}, expected {state['config']}")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.position = Position(**state["position"])
        rank = processes.rank()
        if rank:
            self.position.sums = (0.0, 0.0, 0.0)  # the first process has all of them
        if rank < len(state["generators"]):
            _set_generators(state["generators"][rank], self.device)


def _tuple(scores):
    """A model's scores, and those of its auxiliary classifiers if it has any in training."""
    return scores if isinstance(scores, tuple) else (scores,)


def _sums(loss, scores, labels):
    """A batch's loss, right answers and answers, to add up."""
    right = (scores.argmax(1) == labels).sum()
    return torch.stack(
        [loss.detach() * labels.numel(), right, torch.full_like(right, labels.numel())]
    )


def _figures(part, sums):
    loss, right, answers = sums.tolist()
    loss, accuracy = loss / answers, right / answers
    if not math.isfinite(loss):
        raise RuntimeError(f"the {part} loss is {loss}: a smaller lr, or clip_grad, may help")
    return {f"{part}_loss": loss, f"{part}_accuracy": accuracy}


def _generators(device):
    """The states of the generators that a forward draws from."""
    on_gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_gpu]


def _set_generators(states, device):
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
