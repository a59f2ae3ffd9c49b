"""PSA (Ahn and Kwak 2018, arXiv:1803.10464): features say which near pixels belong together.

Affinity: a_ij = exp(-mean over channels |f_i - f_j|), on the stride-8 grid, within radius 5. Loss:
`affinity.affinity_loss`. The walk carries the background too, whose score is
(1 - highest map)^alpha. The backbone stays as it is (the authors' ResNet-38 was trained along).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribkit.refinement import affinity, random_walk
from ribkit.refinement.affinity import AffinityNetwork
from ribkit.runtime.store import Values, stage


class Heads(affinity.Heads):
    """Levels -> features: 1x1 convolutions and ELU on the last three, then on all together.

    64, 128 and 256 channels, as in PSA's network; fewer where a level has fewer.
    """

    name = "psa"

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

    def loss(self, levels: list[Tensor], labels: Tensor, radius: int) -> Tensor:
        """`feature_loss` of the features; labels ``(N, h, w)`` with 255."""
        return feature_loss(self(levels, tuple(labels.shape[-2:])), labels, radius)


def pair_affinity(features: Tensor, dy: int, dx: int) -> Tensor:
    r"""Affinities of the pairs at an offset, :math:`a_{ij} = \exp(-\overline{|f_i - f_j|})`.

    Args:
        features: ``(..., D, h, w)``.
        dy: Rows from the first to the second pixel.
        dx: Columns from the first to the second pixel.

    Returns:
        ``(..., h - dy, w - |dx|)`` in (0, 1].
    """
    here, there = random_walk.ends(features, dy, dx)
    return (-(here - there).abs().mean(dim=-3)).exp()


def feature_loss(features: Tensor, labels: Tensor, radius: int) -> Tensor:
    """Loss of the affinities that features make.

    Args:
        features: ``(N, D, h, w)``.
        labels: ``(N, h, w)``, 255 where not sure.
        radius: Pairs are closer than this, in positions.

    Returns:
        `affinity.affinity_loss`, a scalar.
    """
    return affinity.affinity_loss(lambda dy, dx: pair_affinity(features, dy, dx), labels, radius)


def background(maps: Tensor, alpha: float) -> Tensor:
    """Put a background score, (1 - highest map)^alpha, before normalised maps.

    Args:
        maps: ``(K, h, w)`` in [0, 1]; K may be 0.
        alpha: The higher, the less background.

    Returns:
        ``(1 + K, h, w)``.
    """
    highest = maps.amax(dim=0, keepdim=True) if len(maps) else maps.new_zeros(1, *maps.shape[1:])
    return torch.cat([(1 - highest).clamp(min=0) ** alpha, maps])


def build(**options) -> AffinityNetwork:
    """Build PSA before its training: `affinity.build` with its heads."""
    return affinity.build(Heads, **options)


@stage("psa")
def train(scratch: Path, **parameters) -> Values:
    """Train PSA: `affinity.train` with its heads."""
    return affinity.train(Heads, scratch=scratch, **parameters)


@torch.no_grad()
def predict(network: AffinityNetwork, pixels: Tensor, radius: int) -> Tensor:
    """Predict the affinities of an image's pixels, for the walk.

    Args:
        network: A backbone with `Heads`.
        pixels: ``(3, H, W)`` in [0, 255].
        radius: Pairs are closer than this, in positions of the network's grid.

    Returns:
        Sparse ``(hw, hw)``, see `random_walk.sparse`.
    """
    size = affinity.grid(pixels.shape[-2:], network.stride)
    features = network.heads(network.pyramid(pixels[None]), size)[0]
    offsets = random_walk.offsets(radius).tolist()
    affinities = {(dy, dx): pair_affinity(features, dy, dx) for dy, dx in offsets}
    return random_walk.sparse(affinities, features[0])
