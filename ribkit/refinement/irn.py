"""IRN (Ahn, Cho and Kwak 2019, arXiv:1904.05044): boundaries and displacements.

Both are learnt from confident pixels. Displacements point to an instance's middle. They shape the
training only: what is walked on is the boundary map, since semantic labels need no instances.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ribkit.data.labelled import Labelled
from ribkit.networks.configs import AffinityConfig
from ribkit.refinement import affinity
from ribkit.refinement.affinity import AffinityNetwork, Means
from ribkit.refinement.random_walk import ends, offsets, path_affinity
from ribkit.runtime.device import device, send
from ribkit.runtime.parallel import prefetch
from ribkit.runtime.store import Values, stage

AHEAD = 16  # images that are read before their turn


class Heads(affinity.Heads):
    """The two branches: each reads every feature level, resized to one grid.

    As in IRN's network: 1x1 convolutions with group norm, 32 channels a level for boundaries; up to
    256 a level, then 256 together, for displacements.
    """

    name = "irn"

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
        return self.edge_out(affinity.join(self.edge, levels, size))[:, 0]

    def displacement(self, levels: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Levels -> displacements (rows, columns) in positions of the grid: ``(N, 2, h, w)``."""
        joined = affinity.join(self.shift, levels, size)
        return self.shift_out(self.shift_mix(joined)) - self.mean.view(2, 1, 1)

    def loss(self, levels: list[Tensor], labels: Tensor, radius: int) -> Tensor:
        size = tuple(labels.shape[-2:])
        affinity_at = partial(path_affinity, self.boundary(levels, size).sigmoid())
        shift = self.displacement(levels, size)
        boundary_loss = affinity.affinity_loss(affinity_at, labels, radius)
        return boundary_loss + displacement_loss(shift, labels, radius)

    def parameter_groups(self, training: AffinityConfig) -> list[dict]:
        """The displacement branch learns faster."""
        slow = nn.ModuleList([self.edge, self.edge_out])
        fast = nn.ModuleList([self.shift, self.shift_mix, self.shift_out])
        return [
            {"params": list(slow.parameters()), "lr_mult": 1.0},
            {"params": list(fast.parameters()), "lr_mult": training.displacement_lr_mult},
        ]

    @torch.no_grad()
    def calibrate(self, network: AffinityNetwork, data: Labelled) -> None:
        """Centre displacements: over the training images they sum to about nothing (IRN's code)."""
        means = []
        for pixels, _ in prefetch(data.__getitem__, range(len(data)), AHEAD):
            size = affinity.grid(pixels.shape[-2:], network.stride)
            shift = self.displacement(network.pyramid(pixels[None].to(device())), size)
            means.append(shift.mean(dim=(0, 2, 3)))
        self.mean.copy_(torch.stack(means).mean(dim=0))


def _reduce(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    groups = groups if outputs % groups == 0 else 1
    return nn.Sequential(conv, nn.GroupNorm(groups, outputs), nn.ReLU())


def displacement_loss(shift: Tensor, labels: Tensor, radius: int) -> Tensor:
    r"""Loss of displacements ``(N, 2, h, w)``: an object's point at one place, background's agree.

    .. math:: L = \frac{1}{2} \overline{|D_i - D_j - (j - i)|}^{fg}
                  + \frac{1}{2} \overline{|D_i - D_j|}^{bg}
    """
    means = Means(labels.device)
    apart = send(torch.tensor(offsets(radius), dtype=shift.dtype), shift.device)[..., None, None]
    for true, (offset, kinds) in zip(apart, affinity.pairs(labels, radius), strict=True):
        here, there = ends(shift, *offset)
        difference = here - there
        means.add("foreground", (difference - true).abs(), kinds["foreground"][:, None])
        means.add("background", difference.abs(), kinds["background"][:, None])
    return (means["foreground"] + means["background"]) / 2


def build(**options) -> AffinityNetwork:
    """IRN before its training, see `affinity.build`."""
    return affinity.build(Heads, **options)


@stage("irn")
def train(scratch: Path, **parameters) -> Values:
    """Train IRN, see `affinity.train`."""
    return affinity.train(Heads, scratch=scratch, **parameters)


@torch.no_grad()
def predict(network: AffinityNetwork, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Boundaries ``(h, w)`` in [0, 1] and displacements ``(2, h, w)`` of pixels ``(3, H, W)``.

    Boundaries are of the logits' mean over the image and its horizontal flip.
    """
    size = affinity.grid(pixels.shape[-2:], network.stride)
    levels = network.pyramid(torch.stack([pixels, pixels.flip(-1)]))
    logits = network.heads.boundary(levels, size)
    edge = ((logits[0] + logits[1].flip(-1)) / 2).sigmoid()
    return edge, network.heads.displacement([level[:1] for level in levels], size)[0]
