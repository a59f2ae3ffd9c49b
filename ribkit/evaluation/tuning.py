"""How settings are chosen, by one rule for every method, on images that are never scored.

One setting after another, each with those before it as chosen and those after it at their first
candidate. Candidates are ordered from the most careful one: the smallest rate, the fewest changes.
Of a setting's candidates, the most careful one is chosen that is within one standard error, paired
over the images, of the best (Breiman et al. 1984, "one standard error rule"): the winner of a noisy
race often stands next to a cliff. A geometric grid goes on while the best is at its edge.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ribkit.evaluation.intervals import gain, resample
from ribkit.evaluation.miou import miou

MORE = 3  # candidates beyond the ends of a grid that goes on, at most
Score = Callable[[Mapping[str, Any]], tuple[np.ndarray, float]]
"""A setting of each name -> counts ``(N, 3, n)`` of the tuning images; threshold, or nan."""


@dataclass(frozen=True)
class Axis:
    """Candidates of one setting, the most careful first."""

    name: str
    values: tuple
    goes_on: bool = False  # a geometric grid, which goes on while the best is at its edge
    limit: float = 0.0  # a value beyond which there is none: no edge of the grid


@dataclass(frozen=True)
class Tuned:
    """What was tried, a row each, and what was chosen.

    The table's columns: ``stage``, the setting that was varied; a column for each setting; miou,
    threshold; behind and error, how far the best of the stage is ahead, with its standard error;
    chosen, of this stage; and edge, where that is the best, and the lowest or the highest tried:
    beyond it there may be a better one.
    """

    table: pd.DataFrame
    chosen: dict[str, Any]

    @property
    def miou(self) -> float:
        """Of what was chosen, on the tuning images."""
        return float(self.table.query("chosen")["miou"].iloc[-1])

    def least(self, setting: str) -> bool:
        """Whether the lowest of several that were tried was chosen, best or not."""
        if self.table.empty:
            return False
        tried = self.table.loc[self.table["stage"] == setting, setting]
        return len(tried) > 1 and self.chosen[setting] == tried.min()

    @property
    def edges(self) -> str:
        """Which settings were chosen at an edge, as ``highest alpha``; empty: none."""
        return ", ".join(edge for edge in self.table["edge"] if edge)

    @property
    def trials(self) -> int:
        """How many different settings were tried."""
        return len(self.table.drop_duplicates([*self.chosen]))


def careful(counts: Sequence[np.ndarray]) -> tuple[int, np.ndarray, np.ndarray]:
    r"""The first candidate whose mIoU is within one standard error of the best.

    .. math:: \min \{ j : \mathrm{mIoU}_b - \mathrm{mIoU}_j \le s(\mathrm{mIoU}_b - \mathrm{mIoU}_j)
        \}, \qquad b = \mathrm{argmax}_i \, \mathrm{mIoU}_i

    with s the standard error over images, by a paired bootstrap.

    Args:
        counts: ``(N, 3, n)`` of each candidate on the same N images, the most careful one first.

    Returns:
        Its index, and for each candidate how far it is behind, and s; both in points.

    Example:
        >>> wrong, right = np.array([[[2], [4], [4]]] * 9), np.array([[[4], [4], [4]]] * 9)
        >>> careful([wrong, right, right])[0]  # of equals the first
        1
    """
    scores = [miou(each.sum(axis=0)) for each in counts]
    best = counts[int(np.nanargmax(scores))]
    resampled = [resample(gain, best, each) for each in counts]
    behind = np.array([point for point, _ in resampled])
    error = np.array([float(np.nanstd(values, ddof=1)) for _, values in resampled])
    return int(np.argmax(behind <= error)), behind, error


def search(axes: Sequence[Axis], score: Score) -> Tuned:
    """Choose a candidate on each axis in turn, by the rule above.

    Args:
        axes: The settings, in the order in which they are chosen.
        score: Scores one candidate of each on the tuning images.

    Example:
        >>> level = {1: 1, 2: 4, 3: 4}  # pixels hit of four
        >>> hits = lambda tried: np.array([[[level[tried["k"]]], [4], [4]]] * 9)
        >>> tuned = search([Axis("k", (1, 2, 3))], lambda tried: (hits(tried), 0.5))
        >>> tuned.chosen, tuned.trials
        ({'k': 2}, 3)
    """
    chosen = {axis.name: axis.values[0] for axis in axes}
    known: dict[tuple, tuple[np.ndarray, float]] = {}
    rows = []

    def scored(tried: Mapping[str, Any]) -> tuple[np.ndarray, float]:
        key = tuple(tried.values())
        if key not in known:
            known[key] = score(tried)
        return known[key]

    for axis in axes:
        values = list(axis.values)
        if len(values) == 1 and rows:
            continue
        while True:
            tried = [chosen | {axis.name: value} for value in values]
            results = [scored(each) for each in tried]
            index, behind, error = careful([counts for counts, _ in results])
            best, most = int(np.argmin(behind)), len(axis.values) + MORE
            more = _beyond(values, best) if axis.goes_on and len(values) < most else None
            if more is None:
                break
            values = sorted([*values, more])
        edge = _edge(axis, values, index) if index == best else ""  # else it is a careful one
        for k, (setting, (counts, threshold)) in enumerate(zip(tried, results, strict=True)):
            row = {"stage": axis.name} | setting
            row |= {"miou": miou(counts.sum(axis=0)), "threshold": threshold}
            row |= {"behind": behind[k], "error": error[k], "chosen": k == index}
            rows.append(row | {"edge": edge if k == index else ""})
        chosen = tried[index]
    return Tuned(pd.DataFrame(rows), chosen)


def _edge(axis: Axis, values: list, index: int) -> str:
    """Which end of the grid a candidate is; nothing if none, or if there is none beyond it."""
    value = values[index]
    if len(values) == 1 or value == axis.limit:
        return ""
    if isinstance(value, tuple):  # which has no size: beyond the last there may be a better one
        return f"last {axis.name}" if index == len(values) - 1 else ""
    which = {max(values): "highest", min(values): "lowest"}.get(value)
    return f"{which} {axis.name}" if which else ""


def _beyond(values: list, best: int) -> float | None:
    """The next value of a geometric grid beyond its end, where the best is there."""
    if len(values) < 2 or 0 < best < len(values) - 1:
        return None
    end, before = (values[-1], values[-2]) if best else (values[0], values[1])
    if min(end, before) <= 0:
        return None
    beyond = float(f"{end * end / before:.2g}")
    return None if min(values) <= beyond <= max(values) else beyond  # of steps below a digit
