"""The learning rate from step to step: what it is multiplied with, as formulas."""

import math

from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau


def _constant(time, options):
    return 1.0


def _step(time, options):
    return options.decay_rate ** (time.epoch // options.decay_epochs)


def _cosine(time, options):
    floor = options.min_lr / options.lr
    return floor + (1 - floor) * (1 + math.cos(math.pi * time.part)) / 2


def _linear(time, options):
    floor = options.min_lr / options.lr
    return floor + (1 - floor) * (1 - time.part)


def _inverse_sqrt(time, options):
    return math.sqrt(time.warmup / max(time.step, time.warmup))


SCHEDULES = {
    "constant": _constant,
    "step": _step,
    "cosine": _cosine,
    "linear": _linear,
    "inverse-sqrt": _inverse_sqrt,
    "plateau": _constant,  # and then as validation goes
}


class Time:
    """Where a step lies: epochs done, and the part done of what follows the warm-up."""

    def __init__(self, step, steps_per_epoch, options):
        total = options.epochs * steps_per_epoch
        warmup = round(options.warmup_epochs * steps_per_epoch)
        self.step, self.epoch = step, step // steps_per_epoch
        self.warmup = max(warmup, 1)
        self.part = min(max(step - warmup, 0) / max(total - warmup, 1), 1)
        self.rising = (step + 1) / (warmup + 1) if step < warmup else 1.0


def factor(step, steps_per_epoch, options):
    """What the learning rate of this step is, in units of the options' own."""
    time = Time(step, steps_per_epoch, options)
    least = options.min_lr / options.lr if time.rising == 1 else 0.0
    return max(time.rising * SCHEDULES[options.sched](time, options), least)


class Schedule:
    """torch's schedulers, called after each step and after each epoch."""

    def __init__(self, optimiser, options, steps_per_epoch):
        self.by_step = LambdaLR(optimiser, lambda step: factor(step, steps_per_epoch, options))
        self.warmup = round(options.warmup_epochs * steps_per_epoch)
        self.plateau = None
        if options.sched == "plateau":
            self.plateau = ReduceLROnPlateau(
                optimiser,
                mode="max" if options.monitor == "accuracy" else "min",
                factor=options.decay_rate,
                patience=options.patience_epochs,
                threshold=0.0,
                min_lr=options.min_lr,
            )

    def after_step(self):
        if self.plateau is None or self.by_step.last_epoch < self.warmup:
            self.by_step.step()

    def after_epoch(self, monitored):
        if self.plateau is not None:
            self.plateau.step(monitored)

    def state_dict(self):
        plateau = self.plateau and self.plateau.state_dict()
        return {"by_step": self.by_step.state_dict(), "plateau": plateau}

    def load_state_dict(self, state):
        self.by_step.load_state_dict(state["by_step"])
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])
