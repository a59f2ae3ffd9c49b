"""PSA (Ahn and Kwak 2018): a network whose features say which near pixels belong together.

Affinity: a_ij = exp(-mean over channels |f_i - f_j|), on the stride-8 grid, within radius 5. Loss:

    bg / 4 + fg / 4 + neg / 2,  bg, fg: mean of -log a over pairs of background, of one class,
                                neg: mean of -log(1 - a) over pairs of different classes

The walk carries the background too, whose score is (1 - highest map)^alpha. The backbone stays as
it is (the authors' ResNet-38 was trained along; here IRN's way serves both).
"""

from collections.abc import Mapping
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
from ribkit.refinement.irn import grid
from ribkit.runtime.device import device
from ribkit.runtime.store import stage

EPSILON = 1e-5


class Head(nn.Module):
    """Levels -> features: 1x1 convolutions and ELU on the last three, then on all together.

    64, 128 and 256 channels, as in PSA's network; fewer where a level has fewer.
    """

    def __init__(self, channels: list[int]):
        super().__init__()
        widths = [min(w, c) for w, c in zip((64, 128, 256), channels[-3:], strict=False)]
        self.reduce = nn.ModuleList(
            nn.Conv2d(c, w, 1, bias=False) for c, w in zip(channels[-3:], widths, strict=True)
        )
        self.mix = nn.Conv2d(sum(widths), sum(widths), 1, bias=False)
        for conv in self.reduce:
            nn.init.kaiming_normal_(conv.weight)
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    def forward(self, levels: list[Tensor], size: tuple[int, int]) -> Tensor:
        """``(N, D, h, w)`` with (h, w) = size."""
        last = levels[-len(self.reduce) :]
        resized = [
            F.interpolate(F.elu(conv(x)), size, mode="bilinear", align_corners=False)
            for conv, x in zip(self.reduce, last, strict=True)
        ]
        return F.elu(self.mix(torch.cat(resized, dim=1)))


def pair_affinity(features: Tensor, dy: int, dx: int) -> Tensor:
    """Features ``(..., D, h, w)`` -> affinities of the pairs at (dy, dx), in (0, 1]."""
    here, there = random_walk.ends(features, dy, dx)
    return (-(here - there).abs().mean(dim=-3)).exp()


def loss(features: Tensor, labels: Tensor, radius: int) -> Tensor:
    """Features ``(N, D, h, w)``, labels ``(N, h, w)`` with 255 -> scalar."""
    means = Means(affinity.KINDS, features)
    for (dy, dx), kinds in affinity.pairs(labels, radius):
        a = pair_affinity(features, dy, dx)
        same = -(a + EPSILON).log()
        means.add("background", same, kinds["background"])
        means.add("foreground", same, kinds["foreground"])
        means.add("negative", -(1 - a + EPSILON).log(), kinds["negative"])
    return (means["background"] + means["foreground"]) / 4 + means["negative"] / 2


def build(
    backbone: str, pretext: Mapping[str, Tensor] | None, weights: Weights | None, rng_seed: int
) -> tuple[FeaturePyramid, Head]:
    """The backbone before any training on image labels, and a fresh head."""
    levels = FeaturePyramid(
        classifier.start(backbone, 1, pretext, weights, rng_seed)
    ).requires_grad_(False)
    with seeded(rng_seed):
        return levels.to(device()), Head(levels.channels).to(device())


@stage("psa")
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
    """Train the head on confident labels; arguments and result as `irn.train`."""
    data = Labelled(parts, n_labels, long_side)
    levels, head = build(backbone, pretext, weights, training.rng_seed)
    groups = [{"params": list(head.parameters()), "lr_mult": 1.0}]

    def of(head: Head, found: list[Tensor], labels: Tensor) -> Tensor:
        return loss(head(found, tuple(labels.shape[-2:])), labels, training.radius)

    objective = affinity.Objective(levels, head, of, training.stride)
    history = affinity.fit(objective, groups, data, training, scratch, "psa")
    return {"weights": head.state_dict(), "history": history}


def background(maps: Tensor, alpha: float) -> Tensor:
    """Normalised maps ``(K, h, w)`` -> the same behind a background score: ``(1 + K, h, w)``."""
    highest = maps.amax(dim=0, keepdim=True) if len(maps) else maps.new_zeros(1, *maps.shape[1:])
    return torch.cat([(1 - highest).clamp(min=0) ** alpha, maps])


@torch.no_grad()
def predict(levels: FeaturePyramid, head: Head, pixels: Tensor, stride: int, radius: int) -> Tensor:
    """Pixels ``(3, H, W)`` in [0, 255] -> affinities, sparse ``(hw, hw)``, for the walk."""
    size = grid(pixels.shape[-2:], stride)
    features = head(levels(pixels[None]), size)[0]
    offsets = random_walk.offsets(radius).tolist()
    found = {(dy, dx): pair_affinity(features, dy, dx) for dy, dx in offsets}
    return random_walk.sparse(found, features[0])
