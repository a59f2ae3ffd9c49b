"""How far a loop is, and what a stage takes: seconds, memory, and the pace of its longest loop.

Progress bars are drawn where ``RIBKIT_PROGRESS`` names a file: `ribkit.reproduce` sets it to its
own terminal, so that bars never end up in a notebook. Tests and committed outputs stay quiet.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ribkit.runtime.device import device

loops: list[tuple[float, int]] = []  # seconds and items of each loop, without its first item


def bar(iterable: Iterable, label: str, total: int | None = None) -> Iterator:
    """The same iterable, behind a bar where these are wanted; its pace is noted for `measured`."""
    count, first, where = 0, 0.0, os.environ.get("RIBKIT_PROGRESS")
    with open(where or os.devnull, "a") as file:
        look = {"mininterval": 0.2 if file.isatty() else 30.0, "leave": False, "delay": 2}
        for item in tqdm(iterable, label, total, file=file, disable=not where, **look):
            yield item
            count += 1
            first = first or time.perf_counter()
    if count:
        loops.append((time.perf_counter() - first, count - 1))


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """A dictionary that holds, once this is left, what went on within.

    seconds: of all of it. memory: the most, in MiB, of the GPU, or what this process took more.
    each: seconds of each item of the loop that took longest, after its first; None without one.
    """
    measures: dict[str, Any] = {}
    loops.clear()
    before, started = _memory(reset=True), time.perf_counter()
    yield measures
    measures["seconds"] = time.perf_counter() - started
    measures["memory"] = max(0.0, _memory() - before)
    seconds, count = max(loops, default=(0.0, 0))
    measures["each"] = seconds / count if count > 0 else None


def _memory(reset: bool = False) -> float:
    """The most so far in MiB, or what is taken now, from where it is counted anew."""
    if device().type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return 0.0 if reset else torch.cuda.max_memory_allocated() / 2**20
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux, or not allowed
        return 0.0 if reset else float("nan")
    return int(status.split("VmRSS:" if reset else "VmHWM:")[1].split()[0]) / 2**10
