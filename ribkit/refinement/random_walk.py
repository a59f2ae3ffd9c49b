"""The semantic random walk of IRN and PSA: maps spread along affinities between near pixels.

    T = D^-1 A^beta,  D = diag(column sums of A^beta),  result = x T^(2^log2_steps)

A is symmetric and sparse: pixels see each other only within a radius. The power of T is never
formed (it is dense): x is multiplied 2^log2_steps times, which costs pixels times neighbours each
time. (IRN: Ahn, Cho and Kwak 2019, Section 4.3; PSA: Ahn and Kwak 2018, Section 3.3.)
"""

import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Walk:
    """How IRN's walk is made: difference 10 of paper and official code, and what they share.

    power: of the maps before the walk. one_maximum: the result is divided by one maximum over all
    classes, else each class by its own.
    """

    power: float
    one_maximum: bool
    radius: int = 5
    beta: float = 10.0
    log2_steps: int = 8


WALKS = {"paper": Walk(1.0, False), "official": Walk(1.3, True)}


@cache
def offsets(radius: int) -> np.ndarray:
    """Half of the neighbours closer than ``radius``: ``(O, 2)``, steps (dy, dx); dy > 0 or dx > 0.

    The other half are the same pairs seen from their other end.
    """
    steps = [
        (dy, dx)
        for dy in range(radius)
        for dx in range(-radius + 1, radius)
        if (dy > 0 or dx > 0) and dy * dy + dx * dx < radius * radius
    ]
    return np.array(steps).reshape(-1, 2)


def path(dy: int, dx: int) -> list[tuple[int, int]]:
    """The pixels between (0, 0) and (dy, dx), both included.

    Those of the bounding box of the two whose squared distance to the line is below 1.
    """
    rows = range(min(0, dy), max(0, dy) + 1)
    columns = range(min(0, dx), max(0, dx) + 1)
    squared = dy * dy + dx * dx
    return [(y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < squared]


def ends(values: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """Values ``(..., H, W)`` at all pixels that have a neighbour at (dy, dx), dy >= 0, and there.

    Two views ``(..., H - dy, W - |dx|)``; empty for offsets larger than the map.
    """
    return shifted(values, 0, 0, dy, dx), shifted(values, dy, dx, dy, dx)


def shifted(values: Tensor, y: int, x: int, dy: int, dx: int) -> Tensor:
    """The view ``(..., H - dy, W - |dx|)`` that starts (y, x) from the pixels of `ends`."""
    height, width = (max(0, s - abs(d)) for s, d in zip(values.shape[-2:], (dy, dx), strict=True))
    left = max(0, -dx)
    return values[..., y : y + height, left + x : left + x + width]


def path_maximum(edge: Tensor, dy: int, dx: int) -> Tensor:
    """The highest edge between each pair at (dy, dx): ``(..., H, W)`` -> as `ends`."""
    return torch.stack([shifted(edge, y, x, dy, dx) for y, x in path(dy, dx)]).amax(dim=0)


def edge_affinity(edge: Tensor, radius: int) -> Tensor:
    """IRN's affinity: 1 - the highest edge on the path. ``(H, W)`` in [0, 1] -> see `sparse`."""
    pairs = {(dy, dx): 1 - path_maximum(edge, dy, dx) for dy, dx in offsets(radius).tolist()}
    return sparse(pairs, edge)


def sparse(pairs: dict[tuple[int, int], Tensor], like: Tensor) -> Tensor:
    """Affinities by offset, ``(H - dy, W - |dx|)`` each -> symmetric ``(HW, HW)``, sparse CSR.

    A pixel's affinity with itself is 1. like: any ``(H, W)`` of the same type and device.
    """
    numbers = torch.arange(like.numel(), device=like.device).view(like.shape)
    rows, columns = [numbers.flatten()], [numbers.flatten()]
    values = [torch.ones_like(like).flatten()]
    for (dy, dx), affinity in pairs.items():
        here, there = (n.flatten() for n in ends(numbers, dy, dx))
        rows += [here, there]
        columns += [there, here]
        values += [affinity.flatten()] * 2
    rows, columns, values = (torch.cat(parts) for parts in (rows, columns, values))
    order = (rows * numbers.numel() + columns).argsort()
    counts = rows.bincount(minlength=numbers.numel())
    starts = F.pad(counts.cumsum(0), (1, 0))
    return _csr(starts, columns[order], values[order])


def walk(x: Tensor, affinity: Tensor, beta: float, log2_steps: int) -> Tensor:
    """Maps ``(C, H, W)`` after 2^log2_steps steps of the walk.

    affinity: symmetric ``(HW, HW)``, sparse CSR, not negative, no empty column; raised to ``beta``.
    The mass at a pixel is the mean over its neighbours, weighted by affinity: constants stay, no
    maximum rises. Device and type are those of ``x``.
    """
    affinity = affinity.to(x)
    weights = affinity.values() ** beta
    starts = affinity.crow_indices()
    rows = torch.repeat_interleave(starts.diff())
    sums = weights.new_zeros(len(starts) - 1).index_add_(0, rows, weights)
    # A is symmetric, so (x T)^T = D^-1 A x^T: the sums of columns divide rows.
    transition = _csr(starts, affinity.col_indices(), weights / sums[rows])
    walked = x.flatten(1).T.contiguous()
    for _ in range(2**log2_steps):
        walked = transition @ walked
    return walked.T.reshape(x.shape)


def _csr(starts: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """A square sparse matrix by rows, without torch's word that such are new."""
    size = (len(starts) - 1,) * 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False)


def propagate(
    cam: Tensor, edge: Tensor, radius: int = 5, beta: float = 10, log2_steps: int = 8
) -> Tensor:
    """IRN's walk: maps ``(C, H, W)`` spread up to the edges ``(H, W)`` in [0, 1].

    The maps are first multiplied by (1 - edge), so that nothing starts on an edge. Raises
    ValueError for sizes that differ. Returns ``(C, H, W)``.
    """
    cam = torch.as_tensor(cam)
    edge = torch.as_tensor(edge).to(cam)
    if edge.shape != cam.shape[-2:]:
        raise ValueError(f"maps {tuple(cam.shape)} and edge {tuple(edge.shape)} differ in size")
    return walk(cam * (1 - edge), edge_affinity(edge, radius), beta, log2_steps)
