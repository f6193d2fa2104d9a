"""Training on several processes, as torchrun starts them; on one, all of this does nothing."""

import contextlib
import os

import torch
import torch.distributed as dist


def several():
    return dist.is_available() and dist.is_initialized()


def count():
    return dist.get_world_size() if several() else 1


def rank():
    return dist.get_rank() if several() else 0


def device(name):
    """The options' device; of several GPUs, this process' own."""
    if name:
        try:
            return torch.device(name)
        except RuntimeError:
            raise ValueError(f"device: got {name!r}, expected such as cpu or cuda:1") from None
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


@contextlib.contextmanager
def started(name):
    """The process group, where torchrun started us."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    where = device(name)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def total(numbers):
    """The sum over all processes of a tensor."""
    if several():
        numbers = numbers.clone()
        dist.all_reduce(numbers)
    return numbers


def all_of(thing):
    """A list of every process' own."""
    if not several():
        return [thing]
    things = [None] * count()
    dist.all_gather_object(things, thing)
    return things


def parallel(net, where):
    """`net` whose gradients are the mean over all processes'."""
    if not several():
        return net
    devices = [where] if where.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(net, device_ids=devices)


def share_buffers(model):
    """The first process' running statistics, for all to validate alike."""
    if several():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
