"""The device that computes, and with how many threads."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ribkit.runtime.errors import InputError

_most = sys.maxsize  # threads, within `threads`


def device() -> torch.device:
    """The device that computes: ``RIBKIT_DEVICE``, else CUDA where there is one, else CPU.

    ``cuda`` stands for all GPUs of the machine, ``cuda:1`` for one. Raises InputError for others.
    """
    name = os.environ.get("RIBKIT_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name, re.ASCII):
        raise InputError(f"RIBKIT_DEVICE={name} is unknown; set it to cuda, cuda:1 or cpu.")
    return torch.device(name)


def send(tensor: Tensor, to: torch.device) -> Tensor:
    """The tensor on a device; a copy to a GPU is not waited for."""
    if to.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(to, non_blocking=True)


def single_threaded(task: Callable[[Any], Any], item: Any) -> Any:
    """``task(item)`` with one thread."""
    with threads(1):
        return task(item)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within this, torch computes with so many threads, or fewer where it is within fewer.

    On a CPU their number decides the last bits.
    """
    global _most
    before, most = torch.get_num_threads(), _most
    _most = min(count, most)
    torch.set_num_threads(_most)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _most = most
