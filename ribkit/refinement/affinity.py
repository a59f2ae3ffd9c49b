"""What IRN and PSA share: confident labels, pairs of pixels, their loss, the training of heads.

Both learn, from the parts of label maps that are sure, whether two near pixels belong together. The
heads that learn it read the feature levels of a backbone that stays as it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribkit.data.images import ImageSet
from ribkit.data.labelled import IGNORE, Labelled
from ribkit.networks import classifier
from ribkit.networks.architectures import Weights
from ribkit.networks.backbone import seeded
from ribkit.networks.configs import AffinityConfig
from ribkit.networks.pyramid import FeaturePyramid
from ribkit.networks.training import epoch_history, fit, steps_per_epoch
from ribkit.refinement import random_walk
from ribkit.runtime import distributed
from ribkit.runtime.device import device

KINDS = ("background", "foreground", "negative")  # of pairs
EPSILON = 1e-5  # keeps logarithms finite


def confident(foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Merge two label maps into one that keeps only what is sure.

    Args:
        foreground: ``(H, W)``, with few foreground pixels, all sure; its background becomes 255.
        background: ``(H, W)``, with many foreground pixels; what is background in both becomes 0.

    Returns:
        Labels ``(H, W)`` uint8, 255 where not sure.
    """
    labels = foreground.astype(np.uint8)
    labels[foreground == 0] = IGNORE
    labels[(foreground == 0) & (background == 0)] = 0
    return labels


def pairs(labels: Tensor, radius: int) -> Iterator[tuple[tuple[int, int], dict[str, Tensor]]]:
    """Yield the kinds of all pairs of pixels at each offset within a radius.

    Args:
        labels: ``(..., H, W)``, 255 where not sure; such pixels are in no pair.
        radius: Pairs are closer than this.

    Yields:
        An offset (dy, dx), and masks ``(..., H - dy, W - |dx|)`` of its pairs: ``background``, both
        are background; ``foreground``, both are of one class; ``negative``, they differ.
    """
    for dy, dx in random_walk.offsets(radius).tolist():
        here, there = random_walk.ends(labels, dy, dx)
        sure = (here != IGNORE) & (there != IGNORE)
        same = sure & (here == there)
        kinds = (same & (here == 0), same & (here > 0), sure & (here != there))
        yield (dy, dx), dict(zip(KINDS, kinds, strict=True))


class Means:
    """Means of values over masks, each over everything that was added; 0 where nothing was.

    Where several processes train together, the counts are of all, and the means are times their
    number: the processes' average is the mean over everything.
    """

    def __init__(self, names: Sequence[str], device: torch.device):
        self.sums = {name: torch.zeros((), device=device) for name in names}
        self.counts = {name: torch.zeros((), device=device) for name in names}

    def add(self, name: str, values: Tensor, mask: Tensor) -> None:
        """Add the values where the mask is true; values may have further, leading axes."""
        mask = mask.expand_as(values)
        self.sums[name] = self.sums[name] + (values * mask).sum()
        self.counts[name] = self.counts[name] + mask.sum()

    def __getitem__(self, name: str) -> Tensor:
        count = distributed.all_reduce_sum(self.counts[name]).clamp(min=1)
        return self.sums[name] / count * distributed.world()


def affinity_loss(affinity_at: Callable[[int, int], Tensor], labels: Tensor, radius: int) -> Tensor:
    r"""Cross-entropy of affinities, balanced over the kinds of pairs.

    .. math:: L = -\frac{1}{4} \overline{\log a_{ij}}^{bg} - \frac{1}{4} \overline{\log a_{ij}}^{fg}
                  - \frac{1}{2} \overline{\log(1 - a_{ij})}^{neg}

    Args:
        affinity_at: Offset (dy, dx) -> affinities ``(N, h - dy, w - |dx|)`` in [0, 1].
        labels: ``(N, h, w)``, 255 where not sure.
        radius: Pairs are closer than this, in positions.

    Returns:
        The loss, a scalar.
    """
    means = Means(KINDS, labels.device)
    for (dy, dx), kinds in pairs(labels, radius):
        a = affinity_at(dy, dx)
        same = -(a + EPSILON).log()
        means.add("background", same, kinds["background"])
        means.add("foreground", same, kinds["foreground"])
        means.add("negative", -(1 - a + EPSILON).log(), kinds["negative"])
    return (means["background"] + means["foreground"]) / 4 + means["negative"] / 2


def grid(size: Sequence[int], stride: int) -> tuple[int, int]:
    """The size of the grid of this stride on an image of a size (H, W)."""
    return tuple(-(-side // stride) for side in size)


def downsample_labels(labels: Tensor, stride: int) -> Tensor:
    """Labels ``(N, H, W)`` at the middle of each cell of the `grid`: ``(N, h, w)``."""
    size = grid(labels.shape[-2:], stride)
    return F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()


class Heads(nn.Module):
    """What is trained on the levels of a `FeaturePyramid`: IRN's heads or PSA's.

    A subclass is made with the levels' channels. name: of the profile's group of settings.
    """

    name: str

    def loss(self, levels: list[Tensor], labels: Tensor, radius: int) -> Tensor:
        """The loss of a batch's levels and its labels ``(N, h, w)`` on the grid."""
        raise NotImplementedError

    def parameter_groups(self, training: AffinityConfig) -> list[dict]:
        """Parameters and their ``lr_mult``, for the optimiser."""
        return [{"params": list(self.parameters()), "lr_mult": 1.0}]

    def calibrate(self, network: "AffinityNetwork", data: Labelled) -> None:
        """Set what depends on the training images, after the training."""


class AffinityNetwork(nn.Module):
    """A backbone that stays as it is, and heads on its levels; the state is that of the heads.

    stride: of the grid on which pairs are formed. radius: of the pairs that are learnt from.
    """

    def __init__(self, pyramid: FeaturePyramid, heads: Heads, stride: int, radius: int):
        super().__init__()
        self.pyramid, self.heads = pyramid.requires_grad_(False), heads
        self.stride, self.radius = stride, radius

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        """The heads' tensors under their names there."""
        return self.heads.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], *args, **kwargs):
        """Set the heads' tensors."""
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
    rng_seed = training.rng_seed
    pyramid = FeaturePyramid(classifier.pretrained(backbone, 1, pretext, weights, rng_seed))
    with seeded(rng_seed):
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
    """Train IRN's or PSA's heads on confident labels.

    Args:
        heads: The class of the heads, `irn.Heads` or `psa.Heads`.
        backbone: One of `classifier.BACKBONES`.
        parts: Image sets with their label maps, see `Labelled`.
        n_labels: How many labels there are, background included.
        long_side: Images are resized to this longer side (None: as they are).
        training: The settings.
        scratch: The folder from which an interrupted training goes on.
        pretext: The pretext task's weights, for a ``small`` backbone.
        weights: The file of a backbone's ImageNet weights.

    Returns:
        ``weights`` (of the heads) and ``history``, a row for each epoch.
    """
    data = Labelled(parts, n_labels, long_side)
    network = build(heads, backbone, training, pretext, weights).to(device())
    steps = steps_per_epoch(len(data), training.batch)
    losses, _ = fit(
        network,
        network.heads.parameter_groups(training),
        data.viewed(training.scales, training.crop, network.pyramid.mean),
        len(data),
        training.epochs * steps,
        training,
        scratch,
        heads.name.upper(),
        f"{heads.name}.lr",
    )
    network.heads.calibrate(network, data)
    return {"weights": network.state_dict(), "history": epoch_history(losses, training.epochs)}
