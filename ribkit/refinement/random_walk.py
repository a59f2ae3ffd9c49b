"""The semantic random walk of IRN and PSA: maps spread along affinities between near pixels.

Affinities are sparse: only pixels within a radius have one. The power of the transition matrix is
never formed (it is dense): maps are multiplied step by step, which costs pixels times neighbours.
IRN: Ahn, Cho and Kwak 2019, arXiv:1904.05044. PSA: Ahn and Kwak 2018, arXiv:1803.10464.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

AffinityAt = Callable[[int, int], Tensor]
"""Offset (dy, dx) -> affinities ``(..., H - dy, W - |dx|)`` in [0, 1] of its pairs, see `ends`."""


@cache
def offsets(radius: int) -> tuple[tuple[int, int], ...]:
    """Half of the offsets (dy, dx) closer than a radius; the rest are the same pairs, turned."""
    return tuple(
        (dy, dx)
        for dy in range(radius)
        for dx in range(-radius + 1, radius)
        if (dy > 0 or dx > 0) and dy * dy + dx * dx < radius * radius
    )


def path(dy: int, dx: int) -> list[tuple[int, int]]:
    """Pixels (y, x) from (0, 0) to (dy, dx): less than 1 from the line, within its bounding box."""
    rows = range(min(0, dy), max(0, dy) + 1)
    columns = range(min(0, dx), max(0, dx) + 1)
    squared = dy * dy + dx * dx
    return [(y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < squared]


def ends(values: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """Values ``(..., H, W)`` at both ends of all pairs with an offset: ``(..., H - dy, W - |dx|)``.

    Views; empty for offsets larger than the map.
    """
    return _shifted(values, 0, 0, dy, dx), _shifted(values, dy, dx, dy, dx)


def _shifted(values: Tensor, y: int, x: int, dy: int, dx: int) -> Tensor:
    """The view ``(..., H - dy, W - |dx|)`` that starts (y, x) from the first pixels of `ends`."""
    height, width = (max(0, s - abs(d)) for s, d in zip(values.shape[-2:], (dy, dx), strict=True))
    left = max(0, -dx)
    return values[..., y : y + height, left + x : left + x + width]


def path_affinity(edge: Tensor, dy: int, dx: int) -> Tensor:
    """IRN's `AffinityAt`, of edges ``(..., H, W)`` in [0, 1]: 1 - the highest on the `path`."""
    return 1 - torch.stack([_shifted(edge, y, x, dy, dx) for y, x in path(dy, dx)]).amax(dim=0)


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
    return sparse(partial(path_affinity, edge), radius, edge)


def sparse(affinity_at: AffinityAt, radius: int, like: Tensor) -> Tensor:
    """All affinities within a radius, and 1 of a pixel with itself: symmetric CSR ``(HW, HW)``.

    like: any ``(H, W)`` of the same type and device.
    """
    indices = torch.arange(like.numel(), device=like.device).view(like.shape)
    rows, columns = [indices.flatten()], [indices.flatten()]
    values = [torch.ones_like(like).flatten()]
    for dy, dx in offsets(radius):
        here, there = (n.flatten() for n in ends(indices, dy, dx))
        rows += [here, there]
        columns += [there, here]
        values += [affinity_at(dy, dx).flatten()] * 2
    rows, columns, values = (torch.cat(parts) for parts in (rows, columns, values))
    order = (rows * indices.numel() + columns).argsort()
    # not bincount, which waits for the greatest index
    counts = rows.new_zeros(indices.numel()).index_add_(0, rows, torch.ones_like(rows))
    starts = F.pad(counts.cumsum(0), (1, 0))
    return _csr(starts, columns[order], values[order])


def _csr(starts: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """A square sparse matrix by rows, without torch's warning that such are new."""
    size = (len(starts) - 1,) * 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False)


def walk(x: Tensor, affinity: Tensor, beta: float, log2_steps: int) -> Tensor:
    r"""Maps after a random walk along affinities.

    .. math:: x \, T^{2^n}, \qquad T = D^{-1} A^{\circ \beta}, \quad D_{jj} = \sum_i a_{ij}^\beta

    PSA (arXiv:1803.10464, Section 3.3) and IRN (arXiv:1904.05044). The value at a pixel becomes the
    mean over its neighbours, weighted by affinity: constants stay, no maximum rises.

    Args:
        x: Maps ``(C, H, W)``; the result has their shape, device and type.
        affinity: A, symmetric ``(HW, HW)``, sparse CSR, not negative, no empty column.
        beta: The affinities are raised to this power.
        log2_steps: n; the walk has ``2 ** n`` steps.

    Example:
        >>> affinity = torch.ones(2, 2).to_sparse_csr()
        >>> walk(torch.tensor([[[4.0, 0.0]]]), affinity, beta=1, log2_steps=0).tolist()
        [[[2.0, 2.0]]]
    """
    affinity = affinity.to(x)
    weights = affinity.values() ** beta
    starts = affinity.crow_indices()
    rows = torch.repeat_interleave(starts.diff(), output_size=len(weights))  # and need not wait
    sums = weights.new_zeros(len(starts) - 1).index_add_(0, rows, weights)
    # A is symmetric, so (x T)^T = D^-1 A x^T: the sums of columns divide rows.
    transition = _csr(starts, affinity.col_indices(), weights / sums[rows])
    walked = x.flatten(1).T.contiguous()
    for _ in range(2**log2_steps):
        walked = transition @ walked
    return walked.T.reshape(x.shape)


def propagate(
    cam: Tensor, edge: Tensor, radius: int = 5, beta: float = 10, log2_steps: int = 8
) -> Tensor:
    r"""IRN's walk: maps spread up to the edges (arXiv:1904.05044).

    .. math:: M \odot (1 - \mathrm{edge}) \; T^{2^n}

    with T of `walk`, from the affinities of `edge_affinity`. Nothing starts on an edge.

    Args:
        cam: Maps ``(C, H, W)``; so is the result.
        edge: ``(H, W)`` in [0, 1].
        radius: In pixels; pairs are closer than this.
        beta: The affinities are raised to this power.
        log2_steps: n; the walk has ``2 ** n`` steps.

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


@dataclass(frozen=True)
class Walk:
    """How IRN's walk is made: difference 10 of paper and official code, and what they share.

    The last three are the authors' for a grid of about 94 x 125 positions.
    """

    power: float  # the maps are raised to it before the walk
    one_maximum: bool  # the result is divided by that of all classes, else each by its own
    radius: int = 5  # in pixels; pairs are closer than this
    beta: float = 10.0  # the affinities are raised to it
    log2_steps: int = 8

    def spread(self, cam: Tensor, edge: Tensor) -> Tensor:
        """`propagate` of the raised maps ``(C, H, W)``, not yet divided."""
        return propagate(cam**self.power, edge, self.radius, self.beta, self.log2_steps)

    def divided(self, maps: Tensor) -> Tensor:
        """Walked maps ``(C, H, W)`` over their maximum; C may be 0."""
        peaks = maps.amax(dim=(1, 2), keepdim=True)
        if self.one_maximum and len(maps):
            peaks = peaks.max()
        return maps / (peaks + 1e-5)


WALKS = {"paper": Walk(1.0, False), "official": Walk(1.3, True)}
