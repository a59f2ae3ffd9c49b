"""What IRN and PSA share: confident labels, pairs of pixels, their loss, the training of heads.

Both learn, from the parts of label maps that are sure, whether two near pixels belong together. The
heads that learn it read the feature levels of a backbone that stays as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribkit.data.images import ImageSet
from ribkit.data.labelled import IGNORE, Labelled
from ribkit.networks import classifier
from ribkit.networks.architectures import Weights
from ribkit.networks.backbone import FeaturePyramid, seeded
from ribkit.networks.configs import AffinityConfig
from ribkit.networks.training import epoch_history, fit, sgd, steps_per_epoch
from ribkit.refinement.random_walk import AffinityAt, ends, offsets
from ribkit.runtime import distributed
from ribkit.runtime.device import device

KINDS = ("background", "foreground", "negative")  # of pairs
EPSILON = 1e-5  # keeps logarithms finite


# ---- what is learnt from ------------------------------------------------------------------------
def confident(foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Merge two label maps ``(H, W)`` into a uint8 one with 255 where not sure.

    Sure are the foreground of the one that has little, and what is background in both.
    """
    rest = np.where(background == 0, 0, IGNORE)
    return np.where(foreground == 0, rest, foreground).astype(np.uint8)


def grid(size: Sequence[int], stride: int) -> tuple[int, int]:
    """The size of the grid of this stride on an image of a size (H, W)."""
    return tuple(-(-side // stride) for side in size)


def downsample_labels(labels: Tensor, stride: int) -> Tensor:
    """Labels ``(N, H, W)`` at the middle of each cell of the `grid`: ``(N, h, w)``."""
    size = grid(labels.shape[-2:], stride)
    return F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()


def pairs(labels: Tensor, radius: int) -> Iterator[tuple[tuple[int, int], dict[str, Tensor]]]:
    """Each offset within a radius and masks of its pairs of labels ``(..., H, W)``, by `KINDS`.

    Both are background, both of one class, or they differ. A pixel of 255 is in no pair.
    """
    for dy, dx in offsets(radius):
        here, there = ends(labels, dy, dx)
        sure = (here != IGNORE) & (there != IGNORE)
        same = sure & (here == there)
        kinds = (same & (here == 0), same & (here > 0), sure & ~same)
        yield (dy, dx), dict(zip(KINDS, kinds, strict=True))


class Means:
    """Means over the masks of `KINDS`, each over everything that was added; 0 where nothing was.

    Where several processes train together, the counts are of all, and the means are times their
    number: the processes' average is the mean over everything.
    """

    def __init__(self, device: torch.device):
        self.sums = dict.fromkeys(KINDS, torch.zeros((), device=device))
        self.counts = dict(self.sums)

    def add(self, kind: str, values: Tensor, mask: Tensor) -> None:
        """Add the values where the mask is true; values may have further, leading axes."""
        mask = mask.expand_as(values)
        self.sums[kind] = self.sums[kind] + (values * mask).sum()
        self.counts[kind] = self.counts[kind] + mask.sum()

    def __getitem__(self, kind: str) -> Tensor:
        count = distributed.all_reduce_sum(self.counts[kind]).clamp(min=1)
        return self.sums[kind] / count * distributed.world()


def affinity_loss(affinity_at: AffinityAt, labels: Tensor, radius: int) -> Tensor:
    r"""Cross-entropy of affinities with labels ``(N, h, w)``, balanced over the kinds of pairs.

    .. math:: L = -\frac{1}{4} \overline{\log a_{ij}}^{bg} - \frac{1}{4} \overline{\log a_{ij}}^{fg}
                  - \frac{1}{2} \overline{\log(1 - a_{ij})}^{neg}
    """
    means = Means(labels.device)
    for offset, kinds in pairs(labels, radius):
        a = affinity_at(*offset)
        same = -(a + EPSILON).log()
        means.add("background", same, kinds["background"])
        means.add("foreground", same, kinds["foreground"])
        means.add("negative", -(1 - a + EPSILON).log(), kinds["negative"])
    return (means["background"] + means["foreground"]) / 4 + means["negative"] / 2


# ---- heads and their training -------------------------------------------------------------------
class Heads(nn.Module):
    """What is trained on a `FeaturePyramid`, made with the channels of its levels.

    A subclass has ``loss(levels, labels, radius)``, with labels ``(N, h, w)`` on the grid.
    """

    name: str  # of the profile's group of settings

    def parameter_groups(self, training: AffinityConfig) -> list[dict]:
        """Parameters and their ``lr_mult``, for the optimiser."""
        return [{"params": list(self.parameters()), "lr_mult": 1.0}]

    def calibrate(self, network: "AffinityNetwork", data: Labelled) -> None:
        """Set what depends on the training images, after the training."""


def join(branches: nn.ModuleList, levels: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Levels ``(N, c, h, w)``, each through its branch, all resized to one size, in one tensor."""
    resized = [
        F.interpolate(branch(x), size, mode="bilinear", align_corners=False)
        for branch, x in zip(branches, levels, strict=True)
    ]
    return torch.cat(resized, dim=1)


class AffinityNetwork(nn.Module):
    """A backbone that stays as it is, and heads on its levels; the state is that of the heads.

    stride: of the grid on which pairs are formed. radius: of the pairs that are learnt from.
    """

    def __init__(self, pyramid: FeaturePyramid, heads: Heads, stride: int, radius: int):
        super().__init__()
        self.pyramid, self.heads = pyramid.requires_grad_(False), heads
        self.stride, self.radius = stride, radius

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        return self.heads.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], *args, **kwargs):
        return self.heads.load_state_dict(state_dict, *args, **kwargs)

    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Pixels ``(N, 3, H, W)`` and labels ``(N, H, W)`` -> the heads' loss."""
        with torch.no_grad():
            levels = self.pyramid(pixels)
        return self.heads.loss(levels, downsample_labels(labels, self.stride), self.radius)


def build(
    heads: type[Heads],
    backbone: str,
    training: AffinityConfig,
    pretext: Mapping[str, Tensor] | None = None,
    weights: Weights | None = None,
) -> AffinityNetwork:
    """The network before its training: a pretrained backbone and fresh heads; see `train`."""
    network = classifier.build(backbone, 1, training.rng_seed, weights, pretext=pretext)
    pyramid = FeaturePyramid(network)
    with seeded(training.rng_seed):
        return AffinityNetwork(pyramid, heads(pyramid.channels), training.stride, training.radius)


def train(
    heads: type[Heads],
    backbone: str,
    parts: tuple[tuple[ImageSet, Mapping[str, np.ndarray] | None], ...],
    n_labels: int,
    long_side: int | None,
    training: AffinityConfig,
    scratch: Path,
    pretext: Mapping[str, Tensor] | None = None,
    weights: Weights | None = None,
) -> dict:
    """Train heads on confident labels (parts, n_labels, long_side: see `Labelled`).

    pretext: a ``small`` backbone's weights. weights: the file of another one's. Returns ``weights``
    of the heads and ``history``, a row for each epoch.
    """
    data = Labelled(parts, n_labels, long_side)
    network = build(heads, backbone, training, pretext, weights).to(device())
    losses, _ = fit(
        network,
        sgd(network.heads.parameter_groups(training), training),
        data.viewed(training.scales, training.crop, network.pyramid.mean),
        len(data),
        training.epochs * steps_per_epoch(len(data), training.batch),
        training,
        scratch,
        heads.name.upper(),
        f"{heads.name}.lr",
    )
    network.heads.calibrate(network, data)
    return {"weights": network.state_dict(), "history": epoch_history(losses, training.epochs)}
