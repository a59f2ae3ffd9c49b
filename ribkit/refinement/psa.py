"""PSA (Ahn and Kwak 2018, arXiv:1803.10464): features say which near pixels belong together.

The walk carries the background too, with a score of its own. The backbone stays as it is (the
authors' ResNet-38 was trained along).
"""

from functools import partial
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
            nn.Sequential(nn.Conv2d(c, w, 1, bias=False), nn.ELU())
            for c, w in zip(channels[-3:], widths, strict=True)
        )
        self.mix = nn.Conv2d(sum(widths), sum(widths), 1, bias=False)
        for conv, _ in self.reduce:
            nn.init.kaiming_normal_(conv.weight)
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    def forward(self, levels: list[Tensor], size: tuple[int, int]) -> Tensor:
        """``(N, D, h, w)`` with (h, w) = size."""
        joined = affinity.join(self.reduce, levels[-len(self.reduce) :], size)
        return F.elu(self.mix(joined))

    def loss(self, levels: list[Tensor], labels: Tensor, radius: int) -> Tensor:
        affinity_at = partial(pair_affinity, self(levels, tuple(labels.shape[-2:])))
        return affinity.affinity_loss(affinity_at, labels, radius)


def pair_affinity(features: Tensor, dy: int, dx: int) -> Tensor:
    r"""PSA's `AffinityAt`, of features ``(..., D, h, w)``: :math:`e^{-\overline{|f_i - f_j|}}`."""
    here, there = random_walk.ends(features, dy, dx)
    return (-(here - there).abs().mean(dim=-3)).exp()


def background(maps: Tensor, alpha: float) -> Tensor:
    """Put a background score, (1 - highest map)^alpha, before maps ``(K, h, w)`` in [0, 1]."""
    highest = maps.amax(dim=0, keepdim=True) if len(maps) else maps.new_zeros(1, *maps.shape[1:])
    return torch.cat([(1 - highest).clamp(min=0) ** alpha, maps])


def build(**options) -> AffinityNetwork:
    """PSA before its training, see `affinity.build`."""
    return affinity.build(Heads, **options)


@stage("psa")
def train(scratch: Path, **parameters) -> Values:
    """Train PSA, see `affinity.train`."""
    return affinity.train(Heads, scratch=scratch, **parameters)


@torch.no_grad()
def predict(network: AffinityNetwork, pixels: Tensor, radius: int) -> Tensor:
    """Affinities of an image's pixels ``(3, H, W)`` on the network's grid: `random_walk.sparse`."""
    size = affinity.grid(pixels.shape[-2:], network.stride)
    features = network.heads(network.pyramid(pixels[None]), size)[0]
    return random_walk.sparse(partial(pair_affinity, features), radius, features[0])
