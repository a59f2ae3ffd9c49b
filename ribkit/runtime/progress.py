"""Progress bars for everything that takes over five seconds; silent unless asked for.

``RIBKIT_PROGRESS`` names the file that they are drawn in: `ribkit.reproduce` sets it to its own
terminal, so that bars never end up in a notebook. Tests and committed outputs stay quiet.
"""

import os
from collections.abc import Iterable

from tqdm import tqdm

from ribkit.runtime.measures import paced


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
