"""The processes that torchrun started, while they train one network together.

Only within `collective` do they count as several. Elsewhere, and without torchrun, a process is
0 of 1, and nothing here does anything: what is computed image by image has processes of its own.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ribkit.runtime.device import device
from ribkit.runtime.errors import InputError

TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what it sets
PATIENCE = timedelta(days=30)  # of those that wait for what rank 0 computes by itself
_waiting: dist.ProcessGroup | None = None  # of those that have joined
_together = False


@contextmanager
def joined() -> Iterator[None]:
    """Join the others that torchrun started, if any: NCCL on CUDA, gloo on a CPU.

    On CUDA each process computes on the GPU of its local rank. InputError: there is none, or
    something else than torchrun says that there are others.
    """
    global _waiting
    if _alone():
        yield
        return
    given = {name: os.environ.get(name, "") for name in TORCHRUN}
    size, rank, local = (int(text) if text.isdecimal() else -1 for text in [*given.values()][:3])
    if not (0 <= rank < size and 0 <= local < size and given["MASTER_ADDR"]):
        told = ", ".join(f"{name}={value}" for name, value in given.items())
        raise InputError(
            f"{told} are not what torchrun sets; start this with torchrun, or unset WORLD_SIZE."
        )
    cuda = device().type == "cuda"
    if cuda:
        if device().index is not None:
            raise InputError(
                f"RIBKIT_DEVICE={device()} is one GPU for {size} processes; "
                "unset it, and name the GPUs in CUDA_VISIBLE_DEVICES."
            )
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} has no GPU, there are {torch.cuda.device_count()}; "
                "lower --nproc-per-node."
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo")
    if not is_main_process():
        os.environ.pop("RIBKIT_PROGRESS", None)
    _waiting = dist.new_group(backend="gloo", timeout=PATIENCE)
    yield
    _waiting = None
    dist.destroy_process_group()  # not after an error: others may still wait for this process


def is_distributed() -> bool:
    """Whether this process has joined others."""
    return _waiting is not None


def is_main_process() -> bool:
    """Whether this process is rank 0, which computes, writes and prints for all."""
    return _alone() or os.environ.get("RANK", "0") == "0"


def _alone() -> bool:
    return os.environ.get("WORLD_SIZE") in (None, "", "1")


@contextmanager
def collective() -> Iterator[None]:
    """Within this, all processes that have joined do the same, each its share of every batch."""
    global _together
    _together = is_distributed()
    try:
        yield
    finally:
        _together = False


def rank() -> int:
    """Rank of this process among those that train together."""
    return dist.get_rank() if _together else 0


def world() -> int:
    """Count the processes that train together."""
    return dist.get_world_size() if _together else 1


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over the processes, without gradient; in one process it is the tensor itself."""
    if world() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def barrier() -> None:
    """Wait for all that train together."""
    if world() > 1:
        dist.barrier(_waiting)


def broadcast_bool(condition: Callable[[], bool]) -> bool:
    """Rank 0's value of a condition, in all that train together."""
    if world() == 1:
        return condition()
    value = torch.tensor([int(is_main_process() and condition())])
    dist.broadcast(value, 0, _waiting)
    return bool(value)


def main_process_first(function: Callable[[], Any]) -> None:
    """Call the function in rank 0 alone; the others wait, and may then read what it has stored."""
    if is_main_process():
        function()
    if is_distributed():
        dist.barrier(_waiting)
