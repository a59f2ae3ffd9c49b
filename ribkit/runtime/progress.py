"""How far a loop is, and what a stage takes: seconds, memory, and the pace of its longest loop.

Both are shown where ``RIBKIT_PROGRESS`` names a file: a terminal gets bars, any other a line for
each notebook and for each stage of a second or more. `shown` makes it this process's standard
error, so that bars never end up in a notebook. Tests and committed outputs stay quiet.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Event, Thread
from typing import Any, TextIO
from unittest.mock import patch

import torch
from tqdm import tqdm

from ribkit.runtime.device import device

drawn: list[str] = []  # bars of this process, the outermost first
loops: list[tuple[float, int]] = []  # seconds and items of each loop, without its first item


@contextmanager
def shown() -> Iterator[None]:
    """Within this, progress is shown at standard error, that of notebooks too, if it is asked for.

    Asked for unless ``RIBKIT_PROGRESS`` is set to nothing. A pipe or a socket cannot be opened
    by name from other processes: lines go to a file, which a thread copies.
    """
    stream, ended = sys.stderr, Event()
    with NamedTemporaryFile("r", prefix="ribkit-") as lines:
        where = ""
        if os.environ.get("RIBKIT_PROGRESS", "1") and stream is not None:
            try:
                where = os.ttyname(stream.fileno())
            except (OSError, ValueError):  # no terminal; no file
                where = lines.name
        copying = Thread(target=_copy, args=(lines, stream, ended), daemon=True)
        copying.start()
        try:
            with patch.dict(os.environ, RIBKIT_PROGRESS=where):
                yield
        finally:
            ended.set()
            copying.join()


def _copy(lines: TextIO, stream: TextIO | None, ended: Event) -> None:
    with suppress(OSError, ValueError, AttributeError):  # closed meanwhile, or not there
        while not ended.wait(0.5):
            stream.write(lines.read())
            stream.flush()
        stream.write(lines.read())


class _Place:
    """Where progress is shown; what cannot be written any more is lost, and ends nothing."""

    def __init__(self):
        self.file = None
        with suppress(OSError):
            self.file = open(os.environ.get("RIBKIT_PROGRESS") or os.devnull, "a")  # noqa: SIM115

    def __getattr__(self, name: str) -> Any:  # what tqdm asks a file for: its encoding, its size
        return getattr(self.file, name)

    @property
    def terminal(self) -> bool:
        return self.file is not None and self.file.isatty()

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self.file.write(text)
            self.file.flush()

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        with suppress(OSError, AttributeError):
            self.file.close()


def line(text: str) -> None:
    """Show a line, unless bars are shown."""
    with closing(_Place()) as place:
        if not place.terminal:
            place.write(f"{text}\n")


def bar(iterable: Iterable, label: str, total: int | None = None, delay: float = 2.0) -> Iterator:
    """The same iterable, in a terminal behind a bar; its pace is noted for `measured`.

    The bar comes after ``delay`` seconds, under those of this process that are drawn and those
    above them, which are other processes': ``RIBKIT_BARS`` counts them.
    """
    count, first = 0, 0.0
    with closing(_Place()) as place:
        above = int(os.environ.get("RIBKIT_BARS") or 0) + len(drawn)
        drawn.extend([label] if place.terminal else [])
        look = {"file": place, "disable": not place.terminal, "position": above, "delay": delay}
        look |= {"mininterval": 0.2, "dynamic_ncols": True, "leave": False}
        try:
            for item in tqdm(iterable, label, total, **look):
                yield item
                count += 1
                first = first or time.perf_counter()
        finally:
            if place.terminal:
                drawn.pop()
    if count:
        loops.append((time.perf_counter() - first, count - 1))


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """A dictionary that holds, once this is left, what went on within.

    seconds: of all of it. memory: the most, in MiB, of the GPU, or what this process took more; NaN
    where the kernel does not tell.
    each: seconds of each item of the loop that took longest, after its first; None without one.
    """
    measures: dict[str, Any] = {}
    loops.clear()
    before, started = _memory(reset=True), time.perf_counter()
    yield measures
    measures["seconds"] = time.perf_counter() - started
    measures["memory"] = max(_memory() - before, 0.0)  # what is not known stays nan
    seconds, count = max(loops, default=(0.0, 0))
    measures["each"] = seconds / count if count > 0 else None


def _memory(reset: bool = False) -> float:
    """The most so far in MiB, or what is taken now, from where it is counted anew."""
    if device().type == "cuda":
        if reset:
            torch.cuda.init()  # which nothing may have done yet in this process
            torch.cuda.reset_peak_memory_stats(device())
        return 0.0 if reset else torch.cuda.max_memory_allocated(device()) / 2**20
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmRSS:" if reset else "VmHWM:")[1].split()[0]) / 2**10
    except (OSError, IndexError):  # a kernel that does not tell it, or does not allow it
        return float("nan")
