"""What an adaptation is made with: its settings, and where the paper and the official code part."""

from typing import Annotated

from pydantic.dataclasses import dataclass

from ribkit.method.losses import ACTIVATIONS
from ribkit.runtime.settings import Count, CountOrZero, NotNegative, Share, one_of

NO_MARGIN = 1e9  # which no logit reaches


@dataclass(frozen=True)
class Variant:
    """A switch for each difference between the paper and the official code (numbers: the README's).

    Differences 9 (whose threshold decides a seed) and 11 (what 255 counts) are always scored both
    ways; 10 is the random walk's: `ribkit.refinement.random_walk.WALKS`.

    Attributes:
        clamp_at_margin: 1. Each logit is clamped at the margin; else the run ends once the absolute
            sum of the target logits exceeds it.
        gndrp: 2. ``"paper"`` or ``"official"``, see `ribkit.method.pooling.gndrp`.
        gndrp_classes: 3. Only the first so many classes are masked (20 on COCO: a bug); None: all.
        sum_last_map: 4. Sum the maps of steps 0..K; else 0..K-1, and the last update is not seen.
        loss_on_half_scale: 5. Scales below 1 enter the loss; else they only give a map.
        stop_by_area: 6. End once the map of a step covers too much of the image.
        momentum: 7. Of SGD; 1e-4 in effect in the official code.
        resample_others_each_step: 8. Draw the other images anew at each step.
    """

    clamp_at_margin: bool
    gndrp: Annotated[str, one_of("paper", "official")]
    gndrp_classes: Count | None
    sum_last_map: bool
    loss_on_half_scale: bool
    stop_by_area: bool
    momentum: NotNegative
    resample_others_each_step: bool


PAPER = Variant(
    clamp_at_margin=True,
    gndrp="paper",
    gndrp_classes=None,
    sum_last_map=True,
    loss_on_half_scale=False,
    stop_by_area=False,
    momentum=0.9,
    resample_others_each_step=True,
)
OFFICIAL = Variant(
    clamp_at_margin=False,
    gndrp="official",
    gndrp_classes=None,
    sum_last_map=False,
    loss_on_half_scale=False,
    stop_by_area=True,
    momentum=1e-4,
    resample_others_each_step=True,
)
VARIANTS = {"paper": PAPER, "official": OFFICIAL}


@dataclass(frozen=True)
class Settings:
    """Settings of an adaptation; the defaults are the paper's for VOC.

    Attributes:
        pooling: ``"gap"``, ``"gmp"`` or ``"gndrp"``.
        tau: Of GNDRP, a share of a map's maximum in [0, 1].
        steps: K, the updates of one image.
        lr: Learning rate of SGD for the adapted layers.
        head_lr_mult: The classifier's learning rate is so many times ``lr``.
        n_others: B, the other images in a step.
        margin: On each logit (paper) or on the absolute sum of the target logits (official).
        area_level: A pixel is covered above this share of its map's maximum.
        area_ratio: Official: stop when more than this share of the pixels is covered.
        weight_decay: Weight decay of SGD.
        poly_power: The learning rate falls as ``(1 - step / steps) ** poly_power``.
        variant: Which way is taken where the paper and the official code part.
        activation: Ablation: put back after the logits, one of `ribkit.method.losses.ACTIVATIONS`.
        match_first_update: Ablation: scale the learning rate so that the first update is as long as
            it is without ``activation``.
        last_map: Ablation: take the last step's map instead of the sum over the steps.
    """

    pooling: Annotated[str, one_of("gap", "gmp", "gndrp")] = "gndrp"
    tau: Share = 0.4
    steps: CountOrZero = 10
    lr: NotNegative = 8e-6
    head_lr_mult: NotNegative = 10.0
    n_others: CountOrZero = 20
    margin: float = 600.0
    area_level: Share = 0.3
    area_ratio: NotNegative = 0.7
    weight_decay: NotNegative = 1e-4
    poly_power: NotNegative = 0.9
    variant: Variant = OFFICIAL
    activation: Annotated[str, one_of(*ACTIVATIONS)] = "none"
    match_first_update: bool = False
    last_map: bool = False
