"""IRN (Ahn, Cho and Kwak 2019): boundaries and displacements learnt from confident pixels.

Affinity of two pixels: a_ij = 1 - max of the boundary B on the path between them. Losses:

    boundary:      (bg + fg) / 4 + neg / 2,  bg, fg: mean of -log a over pairs of the same class,
                                             neg: mean of -log(1 - a) over pairs of different ones
    displacement:  mean |D_i - D_j - (j - i)| over foreground pairs / 2
                   + mean |D_i - D_j| over background pairs / 2

Displacements point to an instance's middle. They shape the training only: what is walked on is the
boundary map, semantic labels need no instances. The backbone stays as it is.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribkit.data.images import ImageSet
from ribkit.data.labelled import Labelled
from ribkit.networks import classifier
from ribkit.networks.architectures import Weights
from ribkit.networks.backbone import FeaturePyramid, seeded
from ribkit.refinement import affinity, random_walk
from ribkit.refinement.affinity import AffinityConfig, Means
from ribkit.runtime.device import device
from ribkit.runtime.store import stage

EPSILON = 1e-5


class Heads(nn.Module):
    """The two branches: each reads every feature level, resized to one grid.

    channels: of the levels. As in IRN's network: 1x1 convolutions with group norm, 32 channels a
    level for boundaries; up to 256 a level, then 256 together, for displacements.
    """

    def __init__(self, channels: list[int]):
        super().__init__()
        self.edge = nn.ModuleList(_reduce(c, 32, 4) for c in channels)
        self.edge_out = nn.Conv2d(32 * len(channels), 1, 1)
        widths = [min(256, c) for c in channels]
        self.shift = nn.ModuleList(
            _reduce(c, width, 8) for c, width in zip(channels, widths, strict=True)
        )
        self.shift_mix = _reduce(sum(widths), 256, 16)
        self.shift_out = nn.Conv2d(256, 2, 1, bias=False)
        self.register_buffer("mean", torch.zeros(2))  # of displacements, over the training images

    def boundary(self, levels: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Levels -> logits of the boundary map, ``(N, h, w)`` with (h, w) = size."""
        joined = _join(self.edge, levels, size)
        return self.edge_out(joined)[:, 0]

    def displacement(self, levels: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Levels -> displacements (rows, columns) in positions of the grid: ``(N, 2, h, w)``."""
        joined = _join(self.shift, levels, size)
        return self.shift_out(self.shift_mix(joined)) - self.mean.view(2, 1, 1)


def _reduce(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    groups = groups if outputs % groups == 0 else 1
    return nn.Sequential(conv, nn.GroupNorm(groups, outputs), nn.ReLU())


def _join(reduce: nn.ModuleList, levels: list[Tensor], size: tuple[int, int]) -> Tensor:
    resized = [
        F.interpolate(one(x), size, mode="bilinear", align_corners=False)
        for one, x in zip(reduce, levels, strict=True)
    ]
    return torch.cat(resized, dim=1)


def boundary_loss(edge: Tensor, labels: Tensor, radius: int) -> Tensor:
    """``edge``, ``labels`` ``(N, h, w)``: boundaries in [0, 1], labels with 255 -> scalar."""
    means = Means(affinity.KINDS, edge)
    for (dy, dx), kinds in affinity.pairs(labels, radius):
        a = 1 - random_walk.path_maximum(edge, dy, dx)
        same = -(a + EPSILON).log()
        means.add("background", same, kinds["background"])
        means.add("foreground", same, kinds["foreground"])
        means.add("negative", -(1 - a + EPSILON).log(), kinds["negative"])
    return (means["background"] + means["foreground"]) / 4 + means["negative"] / 2


def displacement_loss(shift: Tensor, labels: Tensor, radius: int) -> Tensor:
    """``shift`` ``(N, 2, h, w)`` (rows, columns), ``labels`` ``(N, h, w)`` -> scalar."""
    means = Means(affinity.KINDS, shift)
    for (dy, dx), kinds in affinity.pairs(labels, radius):
        here, there = random_walk.ends(shift, dy, dx)
        difference = here - there
        true = shift.new_tensor([dy, dx]).view(2, 1, 1)
        means.add("foreground", (difference - true).abs(), kinds["foreground"][:, None])
        means.add("background", difference.abs(), kinds["background"][:, None])
    return (means["foreground"] + means["background"]) / 2


def loss(heads: Heads, levels: list[Tensor], labels: Tensor, radius: int) -> Tensor:
    """Levels and labels ``(N, h, w)`` with 255 -> the boundary's and the displacement's loss."""
    size = tuple(labels.shape[-2:])
    edge = heads.boundary(levels, size).sigmoid()
    shift = heads.displacement(levels, size)
    return boundary_loss(edge, labels, radius) + displacement_loss(shift, labels, radius)


def build(
    backbone: str, pretext: Mapping[str, Tensor] | None, weights: Weights | None, rng_seed: int
) -> tuple[FeaturePyramid, Heads]:
    """The backbone before any training on image labels, and fresh heads."""
    levels = FeaturePyramid(
        classifier.start(backbone, 1, pretext, weights, rng_seed)
    ).requires_grad_(False)
    with seeded(rng_seed):
        return levels.to(device()), Heads(levels.channels).to(device())


@stage("irn")
def train(
    backbone: str,
    parts: tuple[tuple[ImageSet, Mapping[str, np.ndarray]], ...],
    n_labels: int,
    long_side: int | None,
    training: AffinityConfig,
    scratch: Path,
    pretext: Mapping[str, Tensor] | None = None,
    weights: Weights | None = None,
) -> dict:
    """Train the heads on confident labels.

    parts: image sets with their stored labels (`stages.irn_labels`). backbone, pretext,
    weights: see `classifier.start`. scratch: see `training.fit`. Returns ``weights``
    (of the heads) and ``history``.
    """
    data = Labelled(parts, n_labels, long_side)
    levels, heads = build(backbone, pretext, weights, training.rng_seed)

    slow = [*heads.edge.parameters(), *heads.edge_out.parameters()]
    quick = [p for m in (heads.shift, heads.shift_mix, heads.shift_out) for p in m.parameters()]
    groups = [
        {"params": slow, "lr_mult": 1.0},
        {"params": quick, "lr_mult": training.displacement_lr_mult},
    ]
    objective = affinity.Objective(
        levels, heads, partial(loss, radius=training.radius), training.stride
    )
    history = affinity.fit(objective, groups, data, training, scratch, "irn")
    heads.mean.copy_(_mean_displacement(levels, heads, data, training.stride))
    return {"weights": heads.state_dict(), "history": history}


@torch.no_grad()
def _mean_displacement(levels: FeaturePyramid, heads: Heads, data: Labelled, stride: int) -> Tensor:
    """Over the training images, so that displacements sum to about nothing (IRN's code)."""
    means = []
    for position in range(len(data)):
        pixels, _ = data[position]
        size = grid(pixels.shape[-2:], stride)
        found = heads.displacement(levels(pixels[None].to(device())), size)
        means.append(found.mean(dim=(0, 2, 3)))
    return torch.stack(means).mean(dim=0)


def grid(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """The grid on an image of this size."""
    return tuple(-(-side // stride) for side in size)


@torch.no_grad()
def predict(
    levels: FeaturePyramid, heads: Heads, pixels: Tensor, stride: int
) -> tuple[Tensor, Tensor]:
    """Pixels ``(3, H, W)`` in [0, 255] -> boundaries ``(h, w)`` and displacements ``(2, h, w)``.

    Boundaries in [0, 1], from the logits' mean over the image and its horizontal flip.
    """
    size = grid(pixels.shape[-2:], stride)
    found = levels(torch.stack([pixels, pixels.flip(-1)]))
    logits = heads.boundary(found, size)
    edge = ((logits[0] + logits[1].flip(-1)) / 2).sigmoid()
    return edge, heads.displacement([level[:1] for level in found], size)[0]
