"""What an adaptation is made with: its settings, and where the paper and the official code part."""

from typing import Annotated

from pydantic.dataclasses import dataclass

from ribkit.method.losses import ACTIVATIONS
from ribkit.runtime.settings import Count, CountOrZero, NotNegative, Share, one_of

NO_MARGIN = 1e9  # which no logit reaches


@dataclass(frozen=True)
class Variant:
    """A switch for each difference of the paper, the default here, and the official code.

    Numbered as in docs/variants.md. Differences 9 (whose threshold decides a seed) and 11 (what 255
    counts) are always scored both ways; 10 is `ribkit.refinement.random_walk.WALKS`.
    """

    clamp_at_margin: bool = True  # 1. each logit; else the run ends once their sum exceeds it
    gndrp: Annotated[str, one_of("paper", "official")] = "paper"  # 2. see `pooling.gndrp`
    gndrp_classes: Count | None = None  # 3. only the first so many are masked (20 on COCO: a bug)
    sum_last_map: bool = True  # 4. of steps 0..K; else 0..K-1, and the last update is not seen
    loss_on_half_scale: bool = False  # 5. scales below 1 enter the loss; else they only give a map
    stop_by_area: bool = False  # 6. end once the map of a step covers too much of the image
    momentum: NotNegative = 0.9  # 7. of SGD; 1e-4 in effect in the official code
    resample_others_each_step: bool = True  # 8. else the other images are those of step 0


PAPER = Variant()
OFFICIAL = Variant(
    clamp_at_margin=False, gndrp="official", sum_last_map=False, stop_by_area=True, momentum=1e-4
)
VARIANTS = {"paper": PAPER, "official": OFFICIAL}


@dataclass(frozen=True)
class Settings:
    """Settings of an adaptation, the last three of ablations.

    Defaults: the paper's numbers for VOC, and the official code's way.
    """

    pooling: Annotated[str, one_of("gap", "gmp", "gndrp")] = "gndrp"  # from maps to logits
    tau: Share = 0.4  # of GNDRP, a share of a map's maximum
    steps: CountOrZero = 10  # K, the updates of one image
    lr: NotNegative = 8e-6  # of SGD, for the adapted layers
    head_lr_mult: NotNegative = 10.0  # the classifier's learning rate is so many times `lr`
    n_others: CountOrZero = 20  # B, the other images in a step
    margin: float = 600.0  # of each logit (paper), of the sum over targets and rows (official)
    area_level: Share = 0.3  # a pixel is covered above this share of its map's maximum
    area_ratio: NotNegative = 0.7  # official: stop when more than this share of pixels is covered
    weight_decay: NotNegative = 1e-4  # of SGD
    poly_power: NotNegative = 0.9  # the learning rate falls as (1 - step / steps) ** poly_power
    variant: Variant = OFFICIAL  # the way taken where the paper and the official code part
    activation: Annotated[str, one_of(*ACTIVATIONS)] = "none"  # put back after the logits
    match_first_update: bool = False  # scale `lr`: the first update is as long as without it
    last_map: bool = False  # the last step's map instead of the sum over the steps
