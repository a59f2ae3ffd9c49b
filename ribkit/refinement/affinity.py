"""What IRN and PSA share: confident labels, pairs of pixels by kind, and the training on them.

Both learn, from the parts of a label map that are sure, whether two near pixels belong together,
with heads on a backbone that stays as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ribkit.data.labelled import IGNORE, Labelled
from ribkit.networks import training as fitting
from ribkit.networks.backbone import FeaturePyramid
from ribkit.networks.training import TrainingConfig
from ribkit.refinement import random_walk
from ribkit.runtime import distributed
from ribkit.runtime.settings import Count, NotNegative, Positive, Range

KINDS = ("background", "foreground", "negative")
Loss = Callable[[nn.Module, list[Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class AffinityConfig(TrainingConfig):
    """How the heads are trained. Defaults: IRN's, for VOC."""

    stride: Count = 4  # of the grid on which pairs are formed
    radius: Count = 10  # pairs are closer than this, in positions of the grid
    epochs: Count = 3
    batch: Count = 32
    displacement_lr_mult: NotNegative = 10.0  # how much faster IRN's displacement branch learns
    scales: Range[Positive] = (0.5, 1.5)  # of a training view, drawn from this range


def confident(foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Two label maps -> labels of which one can be sure, ``(H, W)`` uint8; 255: not sure.

    foreground: few foreground pixels, all sure; its background becomes 255. background: many
    foreground pixels; what is background even here (and in the first) becomes 0.
    """
    labels = foreground.astype(np.uint8)
    labels[foreground == 0] = IGNORE
    labels[(foreground == 0) & (background == 0)] = 0
    return labels


def pairs(labels: Tensor, radius: int) -> Iterator[tuple[tuple[int, int], dict[str, Tensor]]]:
    """Each offset (dy, dx) with the kinds of its pairs, as masks ``(..., H - dy, W - |dx|)``.

    labels: ``(..., H, W)``, 255 where not sure; such pixels are in no pair. background: both are
    background; foreground: both are the same class; negative: they differ.
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

    def __init__(self, names: Sequence[str], like: Tensor):
        self.sums = {name: like.new_zeros(()) for name in names}
        self.counts = {name: like.new_zeros(()) for name in names}

    def add(self, name: str, values: Tensor, mask: Tensor) -> None:
        """Add the values where the mask is true; values may have further, leading axes."""
        mask = mask.expand_as(values)
        self.sums[name] = self.sums[name] + (values * mask).sum()
        self.counts[name] = self.counts[name] + mask.sum()

    def __getitem__(self, name: str) -> Tensor:
        count = distributed.all_reduce_sum(self.counts[name]).clamp(min=1)
        return self.sums[name] / count * distributed.world()


def downsample_labels(labels: Tensor, stride: int) -> Tensor:
    """Labels ``(N, H, W)`` at the middle of each cell of the grid: ``(N, H / stride, ...)``."""
    size = [-(-side // stride) for side in labels.shape[-2:]]
    return F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()


class Objective(nn.Module):
    """A fixed backbone's levels of pixels ``(N, 3, H, W)`` -> a loss of heads that read them.

    heads: the module that is trained. loss: of heads, levels and labels ``(N, h, w)`` on the grid.
    """

    def __init__(self, levels: FeaturePyramid, heads: nn.Module, loss: Loss, stride: int):
        super().__init__()
        self.levels, self.heads, self.loss, self.stride = levels, heads, loss, stride

    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            found = self.levels(pixels)
        return self.loss(self.heads, found, downsample_labels(labels, self.stride))


def fit(
    objective: Objective,
    groups: list[dict],
    data: Labelled,
    training: AffinityConfig,
    scratch: Path,
    name: str,
) -> pd.DataFrame:
    """Train the heads in place, as `training.fit`; the history, a row for each epoch.

    name: of the profile's group of settings.
    """
    steps = fitting.steps(len(data), training.batch)
    losses, _ = fitting.fit(
        objective,
        groups,
        data.viewed(training.scales, training.crop, objective.levels.mean),
        len(data),
        training.epochs * steps,
        training,
        scratch,
        name.upper(),
        f"{name}.lr",
    )
    epochs = losses.view(training.epochs, steps).mean(dim=1).tolist()
    return pd.DataFrame({"epoch": range(1, training.epochs + 1), "loss": epochs})
