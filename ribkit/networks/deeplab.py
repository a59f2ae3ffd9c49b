"""The segmentation network that learns from pseudo ground truth: DeepLab-v2 (Chen et al. 2017).

    logits = sum over rates r of conv3x3, dilated by r, of f(x)
    L = (mean CE over background pixels + mean CE over foreground pixels) / 2

with the poly schedule. Prediction: softmax averaged over scales and horizontal flips, then the CRF.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import pandas as pd
import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribkit.data import views
from ribkit.data.images import ImageSet
from ribkit.data.labelled import IGNORE, Labelled
from ribkit.networks import classifier
from ribkit.networks import training as fitting
from ribkit.networks.architectures import Weights
from ribkit.networks.backbone import Network, seeded
from ribkit.networks.training import TrainingConfig
from ribkit.runtime import distributed
from ribkit.runtime.device import device
from ribkit.runtime.settings import Count, MustBe, NotNegative, Positive, Range, Several, one_of
from ribkit.runtime.store import stage

HEADS = ("deeplabv2", "deeplabv3")
POINTS = 50  # of a loss curve


@pydantic.dataclasses.dataclass(frozen=True)
class DeepLabConfig(TrainingConfig):
    """How the segmentation network is built and trained. Defaults: the paper's, for VOC."""

    head: Annotated[str, one_of(*HEADS)] = "deeplabv2"  # v3: torchvision's, with three of the rates
    aspp_rates: Several[Count] = (6, 12, 18, 24)
    output_stride: Count = 8  # of a ResNet's features
    iterations: Count = 30_000
    batch: Count = 10
    lr: NotNegative = 2.5e-4
    head_lr_mult: NotNegative = 10.0  # how much faster the head learns
    momentum: NotNegative = 0.9
    weight_decay: NotNegative = 5e-4
    crop: Count = 321
    scales: Range[Positive] = (0.5, 2.0)  # of a training view, drawn from this range

    @pydantic.model_validator(mode="after")
    def _check_batch(self) -> Self:
        if self.head == "deeplabv3" and self.batch < 2:
            raise MustBe("2 or more, for deeplabv3's batch norm", "batch")
        return self


class ASPP(nn.Module):
    """DeepLab-v2's head, a sum of dilated convolutions: ``(N, D, h, w)`` -> ``(N, L, h, w)``."""

    def __init__(self, inputs: int, n_labels: int, rates: tuple[int, ...]):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(inputs, n_labels, 3, padding=r, dilation=r) for r in rates
        )
        for conv in self.branches:
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return sum(conv(x) for conv in self.branches)


class Segmenter(nn.Module):
    """A backbone and a head, all trainable; the backbone's batch norm keeps its statistics."""

    def __init__(self, network: Network, head: nn.Module):
        super().__init__()
        self.frozen, self.adapted, self.head = network.frozen, network.adapted, head
        self.mean, self.std = network.mean, network.std
        self.requires_grad_(True)

    def train(self, mode: bool = True) -> "Segmenter":
        """The head alone can be in training mode."""
        super().train(False)
        self.head.train(mode)
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels ``(N, 3, H, W)`` in [0, 255] -> logits ``(N, L, h, w)`` at the stride."""
        return self.head(self.adapted(self.frozen(views.normalise(pixels, self.mean, self.std))))


@dataclass(frozen=True)
class Model:
    """A trained network on disk: a stored `train`, and what it was built with."""

    weights: Mapping[str, Tensor]
    backbone: str
    n_labels: int
    training: DeepLabConfig
    pretext: Mapping[str, Tensor] | None = None
    file: Weights | None = None

    def load(self) -> Segmenter:
        """The network with its weights, on the device that computes, to predict with."""
        found = build(self.backbone, self.n_labels, self.training, self.pretext, self.file)
        found.load_state_dict(self.weights)
        return found.to(device()).train(False)


def build(
    backbone: str,
    n_labels: int,
    training: DeepLabConfig,
    pretext: Mapping[str, Tensor] | None = None,
    weights: Weights | None = None,
) -> Segmenter:
    """The network before its training. backbone, pretext, weights: see `classifier.start`."""
    rng_seed, stride = training.rng_seed, training.output_stride
    network = classifier.start(backbone, 1, pretext, weights, rng_seed, stride)
    inputs = network.classifier.in_channels
    with seeded(rng_seed):
        if training.head == "deeplabv2":
            head = ASPP(inputs, n_labels, training.aspp_rates)
        else:
            from torchvision.models.segmentation.deeplabv3 import DeepLabHead

            head = DeepLabHead(inputs, n_labels, training.aspp_rates[:3])
    return Segmenter(network, head)


def balanced_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, averaged over background and over foreground pixels apart, then halved.

    logits: ``(N, L, h, w)``, resized bilinearly to labels ``(N, H, W)``, 255 ignored. Of the two
    means, one without pixels is 0. Returns a scalar; where several processes train together, one
    whose average over them is the loss of all their pixels.
    """
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    loss = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
    halves = [
        (loss * chosen).sum() / distributed.all_reduce_sum(chosen.sum()).clamp(min=1)
        for chosen in (labels == 0, (labels > 0) & (labels != IGNORE))
    ]
    return sum(halves) / 2 * distributed.world()


@stage("network")
def train(
    backbone: str,
    n_labels: int,
    parts: tuple[tuple[ImageSet, Mapping[str, np.ndarray] | None], ...],
    training: DeepLabConfig,
    long_side: int | None,
    scratch: Path,
    pretext: Mapping[str, Tensor] | None = None,
    weights: Weights | None = None,
) -> dict:
    """Train on label maps of image sets, or on their masks.

    parts: see `labelled.Labelled`. scratch: see `training.fit`. Returns ``weights`` and
    ``history``: the mean loss of up to 50 equal stretches.
    """
    data = Labelled(parts, n_labels, long_side)
    data.check()
    segmenter = build(backbone, n_labels, training, pretext, weights).to(device()).train()
    trunk = [*segmenter.frozen.parameters(), *segmenter.adapted.parameters()]
    groups = [
        {"params": trunk, "lr_mult": 1.0},
        {"params": segmenter.head.parameters(), "lr_mult": training.head_lr_mult},
    ]
    losses, _ = fitting.fit(
        Objective(segmenter),
        groups,
        data.viewed(training.scales, training.crop, segmenter.mean),
        len(data),
        training.iterations,
        training,
        scratch,
        "segmentation network",
        "network.lr",
    )
    return {"weights": segmenter.state_dict(), "history": _history(losses)}


class Objective(nn.Module):
    """Pixels ``(N, 3, H, W)`` and labels ``(N, H, W)`` uint8 -> the balanced cross-entropy."""

    def __init__(self, segmenter: Segmenter):
        super().__init__()
        if device().type == "cuda" and distributed.world() > 1:  # statistics of the whole batch
            segmenter.head = nn.SyncBatchNorm.convert_sync_batchnorm(segmenter.head)
        self.segmenter = segmenter

    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device().type, torch.bfloat16, enabled=device().type == "cuda"):
            logits = self.segmenter(pixels)
        return balanced_cross_entropy(logits, labels.long())


def _history(losses: Tensor) -> pd.DataFrame:
    stretches = np.array_split(np.arange(len(losses)), min(POINTS, len(losses)))
    rows = [{"iteration": int(s[-1]) + 1, "loss": float(losses[s].mean())} for s in stretches]
    return pd.DataFrame(rows)


@torch.no_grad()
def probabilities(
    segmenter: Segmenter, image: np.ndarray, scales: tuple[float, ...], long_side: int | None
) -> Tensor:
    """An image ``(H, W, 3)`` uint8 -> ``(L, h, w)`` at the size at which it is seen.

    Softmax, averaged over scales and horizontal flips.
    """
    pixels = views.to_tensor(image, long_side).to(device())
    total = 0
    for pair in views.scaled_pairs(pixels, scales).values():
        logits = segmenter(pair)
        logits = F.interpolate(logits, pixels.shape[-2:], mode="bilinear", align_corners=False)
        both = logits.softmax(dim=1)
        total = total + both[0] + both[1].flip(-1)
    return total / (2 * len(scales))
