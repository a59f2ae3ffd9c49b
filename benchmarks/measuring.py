"""Timing two ways in one run, and peak memory, on whatever device computes."""

import importlib
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ribkit.runtime.device import device


def entries(name: str) -> list[dict]:
    """What the benchmark of this name measures."""
    return importlib.import_module(f"bench_{name}").measure()


def apart(function: Callable, *arguments: Any) -> Any:
    """``function(*arguments)`` in a process of its own, which has allocated nothing before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def alternate(ways: dict[str, Callable[[], Any]], rounds: int = 3) -> tuple[dict, dict]:
    """Each way's best wall seconds and its last result, the ways taking turns."""
    seconds, results = {name: float("inf") for name in ways}, {}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            results[name] = way()
            wait()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds, results


def wait() -> None:
    """Until the device has done all that it was given."""
    if device().type == "cuda":
        torch.cuda.synchronize(device())


def name(gpu: bool = True) -> str:
    """The device in words, as `build/bench.json` has it: the CPU of what uses no ``gpu``."""
    if gpu and device().type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device())}"
    model = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"cpu, {model[0].split(':')[1].strip()}" if model else "cpu"


def words(entry: dict) -> str:
    """An entry of `build/bench.json` in a few lines."""
    ratio = f"{entry['ratio']:.2f} times as good, " if "ratio" in entry else ""
    lines = [f"{entry['name']}: {ratio}{entry['device']}"]
    return "\n  ".join(lines + [f"{k}: {v}" for k, v in entry.items() if k not in FIRST])


FIRST = ("name", "ratio", "device")  # what an entry's first line tells
