"""What IRN and PSA share: confident labels, pairs of pixels by kind, and the training on them.

Both learn, from the parts of a label map that are sure, whether two near pixels belong together,
with heads on a backbone that stays as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribkit import augmentation, random_walk
from ribkit.augmentation import IGNORE, Labelled
from ribkit.backbone import Levels
from ribkit.parallel import device
from ribkit.progress import bar

KINDS = ("background", "foreground", "negative")


@dataclass(frozen=True)
class Training:
    """How the heads are trained. Defaults: IRN's, for VOC.

    stride: of the grid on which pairs are formed. radius: pairs are closer than this, in its
    positions. factor: how much faster IRN's displacement branch learns.
    """

    stride: int = 4
    radius: int = 10
    epochs: int = 3
    batch: int = 32
    rate: float = 0.1
    factor: float = 10.0
    momentum: float = 1e-4  # in effect, in the official code (difference 7)
    weight_decay: float = 1e-4
    poly_power: float = 0.9
    scales: tuple[float, float] = (0.5, 1.5)
    crop: int = 512
    seed: int = 0


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
    """Means of values over masks, each over everything that was added; 0 where nothing was."""

    def __init__(self, names: Sequence[str], like: Tensor):
        self.sums = {name: like.new_zeros(()) for name in names}
        self.counts = {name: like.new_zeros(()) for name in names}

    def add(self, name: str, values: Tensor, mask: Tensor) -> None:
        """Add the values where the mask is true; values may have further, leading axes."""
        mask = mask.expand_as(values)
        self.sums[name] = self.sums[name] + (values * mask).sum()
        self.counts[name] = self.counts[name] + mask.sum()

    def __getitem__(self, name: str) -> Tensor:
        return self.sums[name] / self.counts[name].clamp(min=1)


def reduced(labels: Tensor, stride: int) -> Tensor:
    """Labels ``(N, H, W)`` at the middle of each cell of the grid: ``(N, H / stride, ...)``."""
    size = [-(-side // stride) for side in labels.shape[-2:]]
    return F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()


def fit(
    levels: Levels,
    heads: nn.Module,
    groups: list[dict],
    loss: Callable[[list[Tensor], Tensor], Tensor],
    data: Labelled,
    training: Training,
    words: str,
) -> pd.DataFrame:
    """Train heads in place with SGD and the poly schedule; the history, a row for each epoch.

    groups: parameters, each with the ``factor`` by which it learns faster. loss: levels, labels
    ``(N, h, w)`` on the grid -> scalar.
    """
    optimiser = torch.optim.SGD(
        groups, lr=training.rate, momentum=training.momentum, weight_decay=training.weight_decay
    )
    steps = max(1, len(data) // training.batch)
    history: list[Tensor] = []
    for step in bar(range(training.epochs * steps), words):
        for group in optimiser.param_groups:
            left = (1 - step / (training.epochs * steps)) ** training.poly_power
            group["lr"] = training.rate * group["factor"] * left
        generator = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
        rows = augmentation.order(len(data), training.batch, step, training.seed)
        pixels, labels = augmentation.batch(
            data, rows, training.scales, training.crop, levels.mean, generator
        )
        with torch.no_grad():
            found = levels(pixels.to(device()))
        value = loss(found, reduced(labels, training.stride).to(device()))
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        history.append(value.detach())
    losses = torch.stack(history).view(training.epochs, steps).mean(dim=1).tolist()
    return pd.DataFrame({"epoch": range(1, training.epochs + 1), "loss": losses})
