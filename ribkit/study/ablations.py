"""What an ablation measures: maps of a network, their scores, what they cover, its gradient.

`ribkit.study.ablation_runs` lists the ablations; each is a call of `measure`.
"""

from dataclasses import replace

import numpy as np
import torch

from ribkit.data import views
from ribkit.data.images import ImageSet, LabelledImage
from ribkit.evaluation import thresholds
from ribkit.method import cam
from ribkit.method.adaptation import adapt_set
from ribkit.networks.trained import TrainedModel, loaded
from ribkit.runtime.device import threads
from ribkit.runtime.per_image import PerImageResult, per_image
from ribkit.runtime.store import Values, stage
from ribkit.study import information
from ribkit.study.maps import Adaptation, Sizes, adapt_image, frozen_features, label_of, rows_of

REGION_OF = {"head": "discriminative", "body": "non-discriminative", "outside": "irrelevant"}
PARTS = tuple(REGION_OF)  # in the order of the columns of ``cover`` and ``hgr``


def _measured(results: PerImageResult) -> Values:
    measured = {name: np.stack(list(results.arrays(name).values())) for name in ("cover", "hgr")}
    table = results.table(("steps", "reason"))
    return rows_of(results) | {"measured": measured, "images": table}


@per_image("ablation", "an ablation", gather=_measured)
def measure(
    image: LabelledImage, model: TrainedModel, sizes: Sizes, adaptation: Adaptation | None = None
) -> Values:
    """One run, of RIB or, without an adaptation, of CAM.

    ``rows``: of a `thresholds.Swept`. ``measured``: ``cover`` ``(N, 100, 3)``, the share of each of
    `PARTS` that its class's map exceeds at each threshold (mean over the image's classes; NaN where
    there is no such part); ``hgr`` ``(N, 3)``, of the summed own logits of the network that made
    the last map. ``images``, a row each: steps, and why it ended. Maps that are not finite find
    nothing, and a network that diverged has no gradient (NaN).
    """
    size, network, adapted = adapt_image(loaded(model), image, sizes, adaptation)
    mask, regions = image.mask(), information.regions(image)
    maps = views.resize_map_tensor(cam.multi_scale(adapted.maps, size), mask.shape)
    if not maps.isfinite().all():
        maps, adapted.reason = torch.zeros_like(maps), "diverged"
    ratios = dict.fromkeys(REGION_OF.values(), np.nan)
    if adapted.reason != "diverged":
        ratios = information.logit_ratios(network, image, regions, sizes.long_side)
    return thresholds.image_rows(*thresholds.sweep(maps, image.classes, mask)) | {
        "steps": adapted.steps,
        "reason": adapted.reason,
        "cover": _cover(maps.cpu().numpy(), image.classes, mask, regions),
        "hgr": np.array([ratios[REGION_OF[part]] for part in PARTS]),
    }


def _cover(
    maps: np.ndarray, classes: np.ndarray, mask: np.ndarray, regions: np.ndarray
) -> np.ndarray:
    """``(100, 3)``: shares of heads, bodies and all else above each threshold."""
    shares = np.full((len(classes), 100, 3), np.nan)
    for k, (index, class_map) in enumerate(zip(classes, maps, strict=True)):
        whole = mask == index + 1
        parts = (whole & (regions == 1), whole & (regions == 2), ~whole & (mask != 255))
        for part, where in enumerate(parts):
            if where.any():
                values = np.sort(class_map[where])
                below = np.searchsorted(values, thresholds.THRESHOLDS, side="right")
                shares[k, :, part] = 1 - below / len(values)
    return np.ma.masked_invalid(shares).mean(axis=0).filled(np.nan)  # as nanmean, without warnings


@stage("adapted-once")
def adapt_once(
    model: TrainedModel, images: ImageSet, sizes: Sizes, adaptation: Adaptation
) -> Values:
    """One adaptation for the whole set, an update for each image: ``weights``, as trained ones.

    Its N steps are as long in all as the K of one image: each at K / N of the rate.
    """
    network, settings = loaded(model), adaptation.settings
    settings = replace(settings, lr=settings.lr * settings.steps / len(images))

    def turn(image: LabelledImage) -> tuple:
        _, features = frozen_features(network, image, sizes)
        return features, label_of(image), adaptation.others(image)

    with threads(1):
        adapted = adapt_set(network, map(turn, images), len(images), settings)
    return {"weights": adapted.state_dict()}
