"""Progress bars for everything that takes over five seconds; silent unless asked for.

``RIBKIT_PROGRESS`` names the file that they are drawn in: `ribkit.reproduce` sets it to its own
terminal, so that bars never end up in a notebook. Tests and committed outputs stay quiet.
"""

import os
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

loops: list[tuple[float, int]] = []  # seconds and items of each loop, without its first item


def paced(iterable: Iterable) -> Iterator:
    """The same iterable; how long its items took is noted for `measures.measured`."""
    count, first = 0, 0.0
    for item in iterable:
        yield item
        count += 1
        first = first or time.perf_counter()
    if count:
        loops.append((time.perf_counter() - first, count - 1))


def bar(iterable: Iterable, label: str, total: int | None = None) -> Iterable:
    """The same iterable, behind a progress bar with this label where bars are wanted."""
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    where, iterable = os.environ.get("RIBKIT_PROGRESS"), paced(iterable)
    if not where:
        yield from iterable
        return
    with open(where, "a") as file:
        slow = 0.2 if file.isatty() else 30.0
        yield from tqdm(iterable, label, total, file=file, mininterval=slow, leave=False, delay=2)
