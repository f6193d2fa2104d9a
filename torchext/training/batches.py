"""Which images each step sees, and their augmentation: functions of seed, epoch and index.

Neither depends on how many processes train or load, nor on where a training was interrupted.
"""

import itertools
import random

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, Subset
from torch.utils.data.distributed import DistributedSampler

from . import processes


class Seeded(Dataset):
    """A dataset by (epoch, index), which draws from torch's generator as these two say."""

    def __init__(self, dataset, seed):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key):
        epoch, index = key
        seed = random.Random(f"{self.seed} {epoch} {index}").getrandbits(63)
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a millisecond
        try:
            return self.dataset[index]
        finally:
            torch.set_rng_state(state)


class Batches(Sampler):
    """This process' share of each batch, from the batch `start` of `epoch` on.

    The images that fill no batch sit an epoch out: a batch norm can't train on a batch of one.
    """

    def __init__(self, dataset, options):
        share, rest = divmod(options.batch_size, processes.count())
        if rest:
            raise ValueError(
                f"batch_size: got {options.batch_size}, expected a multiple of the"
                f" {processes.count()} processes"
            )
        self.images = DistributedSampler(
            dataset, processes.count(), processes.rank(), seed=options.seed, drop_last=True
        )
        self.batches = BatchSampler(self.images, share, drop_last=True)
        if not len(self):
            raise ValueError(
                f"batch_size: got {options.batch_size}, expected at most {len(dataset)}, the images"
            )
        self.epoch = self.start = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.images.set_epoch(self.epoch)
        for batch in itertools.islice(self.batches, self.start, None):
            yield [(self.epoch, i) for i in batch]


def train_loader(dataset, options, pin):
    batches = Batches(dataset, options)
    return batches, _loader(Seeded(dataset, options.seed), options, pin, batch_sampler=batches)


def val_loader(dataset, options, pin):
    mine = Subset(dataset, range(processes.rank(), len(dataset), processes.count()))
    return _loader(mine, options, pin, batch_size=options.batch_size)


def _loader(dataset, options, pin, **batches):
    return DataLoader(
        dataset,
        **batches,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=pin,
        generator=torch.Generator(),  # or it would draw from the one that dropout draws from
    )
