"""The segmentation network that learns from pseudo ground truth: DeepLab-v2 (Chen et al. 2017).

logits = sum over rates r of conv3x3, dilated by r, of f(x)
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribkit.data import views
from ribkit.data.images import ImageSet
from ribkit.data.labelled import IGNORE, Labelled
from ribkit.networks import classifier
from ribkit.networks.architectures import Weights
from ribkit.networks.backbone import Network, seeded
from ribkit.networks.configs import DeepLabConfig
from ribkit.networks.training import Objective, fit, sgd
from ribkit.runtime import distributed
from ribkit.runtime.device import device
from ribkit.runtime.store import stage

BINS = 50  # of iterations, in a training's history


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

    def train(self, mode: bool = True) -> "Segmenter":  # the head alone
        super().train(False)
        self.head.train(mode)
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels ``(N, 3, H, W)`` in [0, 255] -> logits ``(N, L, h, w)`` at the stride.

        They are bfloat16 while it trains on a GPU.
        """
        mixed = pixels.is_cuda and self.head.training
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=mixed):
            features = self.frozen(views.normalise(pixels, self.mean, self.std))
            return self.head(self.adapted(features))


def build(
    backbone: str,
    n_labels: int,
    training: DeepLabConfig,
    pretext: Mapping[str, Tensor] | None = None,
    weights: Weights | None = None,
) -> Segmenter:
    """Build the network before its training, on the CPU; ``n_labels`` with the background."""
    rng_seed, stride = training.rng_seed, training.output_stride
    network = classifier.build(backbone, 1, rng_seed, weights, stride, pretext)
    inputs = network.classifier.in_channels
    with seeded(rng_seed):
        if training.head == "deeplabv2":
            head = ASPP(inputs, n_labels, training.aspp_rates)
        else:
            from torchvision.models.segmentation.deeplabv3 import DeepLabHead

            head = DeepLabHead(inputs, n_labels, training.aspp_rates[:3])
    return Segmenter(network, head)


def balanced_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy in which background and foreground weigh the same.

    .. math:: L = \frac{1}{2} \overline{CE}^{bg} + \frac{1}{2} \overline{CE}^{fg}

    Args:
        logits: ``(N, L, h, w)``; they are resized bilinearly to the labels.
        labels: ``(N, H, W)`` of integers; 0 is background, 255 ignored.

    Returns:
        A scalar; a mean without pixels is 0. Where several processes train together, their average
        is the loss of all their pixels.

    Example:
        Two of three pixels are background; each kind has the mean log 2.

        >>> balanced_cross_entropy(torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 0, 1]]]))
        tensor(0.6931)
    """
    logits, labels = logits.float(), labels.long()  # a gradient's sums would round in bfloat16
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    means = [
        (loss * mask).sum() / distributed.all_reduce_sum(mask.sum()).clamp(min=1)
        for mask in (labels == 0, (labels > 0) & (labels != IGNORE))
    ]
    return sum(means) / 2 * distributed.world()


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
    """Train on ``parts``, image sets with label maps (see `Labelled`), from what `build` makes.

    Returns ``weights`` and ``history``: the mean loss of up to 50 equal bins of iterations.
    """
    data = Labelled(parts, n_labels, long_side)
    data.check()
    segmenter = build(backbone, n_labels, training, pretext, weights).to(device()).train()
    if device().type == "cuda" and distributed.world() > 1:  # statistics of the whole batch
        segmenter.head = nn.SyncBatchNorm.convert_sync_batchnorm(segmenter.head)
    trunk = [*segmenter.frozen.parameters(), *segmenter.adapted.parameters()]
    groups = [
        {"params": trunk, "lr_mult": 1.0},
        {"params": segmenter.head.parameters(), "lr_mult": training.head_lr_mult},
    ]
    losses, _ = fit(
        Objective(segmenter, balanced_cross_entropy),
        sgd(groups, training),
        data.viewed(training.scales, training.crop, segmenter.mean),
        len(data),
        training.iterations,
        training,
        scratch,
        "segmentation network",
        "network.lr",
    )
    bins = np.array_split(np.arange(len(losses)), min(BINS, len(losses)))
    rows = [{"iteration": int(b[-1]) + 1, "loss": float(losses[b].mean())} for b in bins]
    return {"weights": segmenter.state_dict(), "history": pd.DataFrame(rows)}


@torch.no_grad()
def probabilities(
    segmenter: Segmenter, image: np.ndarray, scales: tuple[float, ...], long_side: int | None
) -> Tensor:
    """An image's softmax ``(L, h, w)``, averaged over scales and horizontal flips.

    The image, ``(H, W, 3)`` uint8, is resized to ``long_side``, if given: that is scale 1.
    """
    pixels = views.to_tensor(image, long_side).to(device())
    total = 0
    for pair in views.scaled_pairs(pixels, scales).values():
        logits = segmenter(pair)
        logits = F.interpolate(logits, pixels.shape[-2:], mode="bilinear", align_corners=False)
        both = logits.softmax(dim=1)
        total = total + both[0] + both[1].flip(-1)
    return total / (2 * len(scales))
