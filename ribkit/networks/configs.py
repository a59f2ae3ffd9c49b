"""How each kind of network is trained: the paper's settings, and what they may be."""

from typing import Annotated, Self

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from ribkit.runtime.settings import (
    Count,
    CountOrZero,
    MustBe,
    NotNegative,
    Positive,
    Range,
    Several,
    one_of,
)

BACKBONES = ("small", "efficientnet_lite0", "resnet50", "resnet101")
HEADS = ("deeplabv2", "deeplabv3")


@dataclass(frozen=True)
class TrainingConfig:
    """How SGD trains a network. Defaults: the official code's for the classifier, on VOC."""

    batch: Count = 16  # of all processes together
    lr: NotNegative = 0.1
    momentum: NotNegative = 1e-4  # in effect, in the official code (difference 7)
    weight_decay: NotNegative = 1e-4
    poly_power: NotNegative = 0.9
    crop: Count = 512  # the side of a training view, in pixels
    checkpoint: Count = 1000  # after how many iterations the training can go on from its last state
    rng_seed: CountOrZero = 0


@dataclass(frozen=True)
class ClassifierConfig(TrainingConfig):
    """How the classifier is trained. Defaults: the paper's, for VOC."""

    epochs: Count = 5
    head_lr_mult: NotNegative = 10.0  # how much faster the last layer learns
    long_sides: Range[Count] = (320, 640)  # of an image before it is cropped, drawn from this range


@dataclass(frozen=True)
class AffinityConfig(TrainingConfig):
    """How the heads are trained. Defaults: IRN's, for VOC."""

    stride: Count = 4  # of the grid on which pairs are formed
    radius: Count = 10  # pairs are closer than this, in positions of the grid
    epochs: Count = 3
    batch: Count = 32
    displacement_lr_mult: NotNegative = 10.0  # how much faster IRN's displacement branch learns
    scales: Range[Positive] = (0.5, 1.5)  # of a training view, drawn from this range


@dataclass(frozen=True)
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

    @model_validator(mode="after")
    def _check_batch(self) -> Self:
        if self.head == "deeplabv3" and self.batch < 2:
            raise MustBe("2 or more, for deeplabv3's batch norm", "batch")
        return self
