"""The semantic random walk of IRN and PSA: maps spread along affinities between near pixels.

    T = D^-1 A^beta,  D = diag(column sums of A^beta),  result = x T^(2^log2_steps)

A is symmetric and sparse: only pixels within a radius have an affinity. The power of T is never
formed (it is dense): x is multiplied 2^log2_steps times, which costs pixels times neighbours each
time. IRN: Ahn, Cho and Kwak 2019, arXiv:1904.05044. PSA: Ahn and Kwak 2018, arXiv:1803.10464,
Section 3.3.
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

    Attributes:
        power: The maps are raised to this power before the walk.
        one_maximum: The result is divided by one maximum over all classes, else each class by its
            own.
        radius: In pixels; pairs are closer than this.
        beta: The affinities are raised to this power.
        log2_steps: The walk has ``2 ** log2_steps`` steps.
    """

    power: float
    one_maximum: bool
    radius: int = 5
    beta: float = 10.0
    log2_steps: int = 8


WALKS = {"paper": Walk(1.0, False), "official": Walk(1.3, True)}


@cache
def offsets(radius: int) -> np.ndarray:
    """Half of a pixel's neighbours; the other half are the same pairs from their other end.

    Args:
        radius: In pixels; neighbours are closer than this.

    Returns:
        ``(O, 2)``, the steps (dy, dx), with dy > 0, or dy = 0 and dx > 0.

    Example:
        >>> offsets(2).tolist()
        [[0, 1], [1, -1], [1, 0], [1, 1]]
    """
    steps = [
        (dy, dx)
        for dy in range(radius)
        for dx in range(-radius + 1, radius)
        if (dy > 0 or dx > 0) and dy * dy + dx * dx < radius * radius
    ]
    return np.array(steps).reshape(-1, 2)


def path(dy: int, dx: int) -> list[tuple[int, int]]:
    """Pixels on the path from (0, 0) to (dy, dx), both included.

    Those of the bounding box of the two whose distance to the line is below 1 pixel.

    Args:
        dy: Rows from one end to the other.
        dx: Columns.

    Returns:
        The pixels (y, x).

    Example:
        >>> path(0, 2)
        [(0, 0), (0, 1), (0, 2)]
    """
    rows = range(min(0, dy), max(0, dy) + 1)
    columns = range(min(0, dx), max(0, dx) + 1)
    squared = dy * dy + dx * dx
    return [(y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < squared]


def ends(values: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """Values at both ends of all pairs of pixels with one offset.

    Args:
        values: ``(..., H, W)``.
        dy: Rows from the first pixel of a pair to the second, not negative.
        dx: Columns.

    Returns:
        Two views ``(..., H - dy, W - |dx|)``; empty for offsets larger than the map.

    Example:
        >>> first, second = ends(torch.tensor([[1, 2, 3]]), 0, 1)
        >>> first.tolist(), second.tolist()
        ([[1, 2]], [[2, 3]])
    """
    return _shifted(values, 0, 0, dy, dx), _shifted(values, dy, dx, dy, dx)


def _shifted(values: Tensor, y: int, x: int, dy: int, dx: int) -> Tensor:
    """The view ``(..., H - dy, W - |dx|)`` that starts (y, x) from the first pixels of `ends`."""
    height, width = (max(0, s - abs(d)) for s, d in zip(values.shape[-2:], (dy, dx), strict=True))
    left = max(0, -dx)
    return values[..., y : y + height, left + x : left + x + width]


def path_maximum(edge: Tensor, dy: int, dx: int) -> Tensor:
    """Highest edge on the path between the ends of all pairs with one offset.

    Args:
        edge: ``(..., H, W)``.
        dy: Rows from the first pixel of a pair to the second, not negative.
        dx: Columns.

    Returns:
        ``(..., H - dy, W - |dx|)``.
    """
    return torch.stack([_shifted(edge, y, x, dy, dx) for y, x in path(dy, dx)]).amax(dim=0)


def edge_affinity(edge: Tensor, radius: int) -> Tensor:
    r"""IRN's affinity of near pixels: low where an edge lies between them.

    .. math:: a_{ij} = 1 - \max_{k \in \mathrm{path}(i, j)} \mathrm{edge}_k

    IRN (arXiv:1904.05044).

    Args:
        edge: ``(H, W)`` in [0, 1].
        radius: In pixels; pairs are closer than this.

    Returns:
        Symmetric ``(HW, HW)``, sparse CSR, see `sparse`.

    Example:
        >>> edge_affinity(torch.tensor([[0.0, 0.5, 0.0]]), radius=2).to_dense().tolist()
        [[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]]
    """
    pairs = {(dy, dx): 1 - path_maximum(edge, dy, dx) for dy, dx in offsets(radius).tolist()}
    return sparse(pairs, edge)


def sparse(pairs: dict[tuple[int, int], Tensor], like: Tensor) -> Tensor:
    """Gather affinities of pairs to one matrix; a pixel's affinity with itself is 1.

    Args:
        pairs: Offset (dy, dx) -> affinities ``(H - dy, W - |dx|)``, as `ends` orders them.
        like: Any ``(H, W)`` of the same type and device.

    Returns:
        Symmetric ``(HW, HW)``, sparse CSR.
    """
    indices = torch.arange(like.numel(), device=like.device).view(like.shape)
    rows, columns = [indices.flatten()], [indices.flatten()]
    values = [torch.ones_like(like).flatten()]
    for (dy, dx), affinity in pairs.items():
        here, there = (n.flatten() for n in ends(indices, dy, dx))
        rows += [here, there]
        columns += [there, here]
        values += [affinity.flatten()] * 2
    rows, columns, values = (torch.cat(parts) for parts in (rows, columns, values))
    order = (rows * indices.numel() + columns).argsort()
    counts = rows.bincount(minlength=indices.numel())
    starts = F.pad(counts.cumsum(0), (1, 0))
    return _csr(starts, columns[order], values[order])


def walk(x: Tensor, affinity: Tensor, beta: float, log2_steps: int) -> Tensor:
    r"""Maps after a random walk along affinities.

    .. math:: x \, T^{2^n}, \qquad T = D^{-1} A^{\circ \beta}, \quad D_{jj} = \sum_i a_{ij}^\beta

    PSA (arXiv:1803.10464, Section 3.3) and IRN (arXiv:1904.05044). The value at a pixel becomes the
    mean over its neighbours, weighted by affinity: constants stay, no maximum rises.

    Args:
        x: Maps ``(C, H, W)``; the result has their device and type.
        affinity: A, symmetric ``(HW, HW)``, sparse CSR, not negative, no empty column.
        beta: The affinities are raised to this power.
        log2_steps: n; the walk has ``2 ** n`` steps.

    Returns:
        ``(C, H, W)``.

    Example:
        >>> affinity = torch.tensor([[1.0, 1.0], [1.0, 1.0]]).to_sparse_csr()
        >>> walk(torch.tensor([[[4.0, 0.0]]]), affinity, beta=1, log2_steps=0).tolist()
        [[[2.0, 2.0]]]
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
    """A square sparse matrix by rows, without torch's warning that such are new."""
    size = (len(starts) - 1,) * 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False)


def propagate(
    cam: Tensor, edge: Tensor, radius: int = 5, beta: float = 10, log2_steps: int = 8
) -> Tensor:
    r"""IRN's walk: maps spread up to the edges (arXiv:1904.05044).

    .. math:: M \odot (1 - \mathrm{edge}) \; T^{2^n}

    with T of `walk`, from the affinities of `edge_affinity`. Nothing starts on an edge.

    Args:
        cam: Maps ``(C, H, W)``.
        edge: ``(H, W)`` in [0, 1].
        radius: In pixels; pairs are closer than this.
        beta: The affinities are raised to this power.
        log2_steps: n; the walk has ``2 ** n`` steps.

    Returns:
        ``(C, H, W)``.

    Raises:
        ValueError: For sizes that differ.

    Example:
        >>> cam, edge = torch.tensor([[[4.0, 0.0, 9.0, 0.0]]]), torch.tensor([[0.0, 0.0, 1.0, 0.0]])
        >>> propagate(cam, edge, radius=2, log2_steps=4).tolist()  # an edge at the third pixel
        [[[2.0, 2.0, 0.0, 0.0]]]
    """
    cam = torch.as_tensor(cam)
    edge = torch.as_tensor(edge).to(cam)
    if edge.shape != cam.shape[-2:]:
        raise ValueError(f"maps {tuple(cam.shape)} and edge {tuple(edge.shape)} differ in size")
    return walk(cam * (1 - edge), edge_affinity(edge, radius), beta, log2_steps)
