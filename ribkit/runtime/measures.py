"""What a stage takes: seconds, memory, and how quickly the items of its longest loop follow."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ribkit.runtime import progress
from ribkit.runtime.device import device


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """A dictionary that holds, once this is left, what went on within.

    seconds: of all of it. memory: the most, in MiB, of the GPU, or what this process took more.
    each: seconds of each item of the loop that took longest, after its first; None without one.
    """
    measures: dict[str, Any] = {}
    progress.loops.clear()
    before, started = _start_of_memory(), time.perf_counter()
    yield measures
    measures["seconds"] = time.perf_counter() - started
    measures["memory"] = _most_memory(before)
    seconds, count = max(progress.loops, default=(0.0, 0))
    measures["each"] = seconds / count if count > 0 else None


def _start_of_memory() -> float:
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return 0.0
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far
    except OSError:  # not Linux, or not allowed: the peak since the process began
        return 0.0
    return _status("VmRSS")


def _most_memory(before: float) -> float:
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return max(0.0, _status("VmHWM") - before)  # the kernel counts each in lumps


def _status(value: str) -> float:
    """A line of this process's status in MiB; NaN where the system has none."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return float("nan")
    return int(text.split(f"{value}:")[1].split()[0]) / 2**10
