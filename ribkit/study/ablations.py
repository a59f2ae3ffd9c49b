"""What an ablation measures: maps of a network, their scores, what they cover, its gradient.

`ribkit.study.ablation_runs` lists the ablations; each is a call of `measure`.
"""

import numpy as np

from ribkit.data import views
from ribkit.data.images import ImageSet, LabelledImage
from ribkit.evaluation import thresholds
from ribkit.method import adaptation, cam
from ribkit.method.others import OtherImageSampler
from ribkit.method.settings import Settings
from ribkit.networks.trained import TrainedModel, loaded
from ribkit.runtime.device import threads
from ribkit.runtime.per_image import PerImageResult, per_image
from ribkit.runtime.store import Values, stage
from ribkit.study import information
from ribkit.study.maps import Bank, adapt_image, frozen_features, label_of, on_device, rows_of

REGION_OF = {"head": "discriminative", "body": "non-discriminative", "outside": "irrelevant"}
PARTS = tuple(REGION_OF)  # in the order of the columns of ``cover`` and ``hgr``


def _measured(results: PerImageResult) -> Values:
    measured = {name: np.stack(list(results.arrays(name).values())) for name in ("cover", "hgr")}
    table = results.table(("steps", "reason"))
    return rows_of(results) | {"measured": measured, "images": table}


@per_image("ablation", "an ablation", gather=_measured)
def measure(
    image: LabelledImage,
    model: TrainedModel,
    scales: tuple[float, ...],
    long_side: int | None,
    settings: Settings | None = None,
    bank: Bank | None = None,
    rng_seed: int = 0,
) -> Values:
    """One run on all images, of CAM without settings: ``rows``, of a `thresholds.Swept`, and more.

    ``measured``: ``cover`` ``(N, 100, 3)``, the share of each of `PARTS` that its class's map
    exceeds at each threshold (mean over the image's classes; NaN where there is no such part);
    ``hgr`` ``(N, 3)``, of the summed own logits of the network that made the last map. ``images``,
    a row each: steps, and why it ended.
    """
    network, row = loaded(model), {"steps": 0, "reason": "none"}
    if settings is None:
        size, features = frozen_features(network, image, scales, long_side)
        raw = adaptation.cam_maps(network, features, label_of(image))
    else:
        size, network, adapted = adapt_image(
            network, image, on_device(bank), scales, long_side, settings, rng_seed
        )
        raw, row = adapted.maps, {"steps": adapted.steps, "reason": adapted.reason}
    mask, regions = image.mask(), information.regions(image)
    maps = views.resize_map_tensor(cam.multi_scale(raw, size), mask.shape)
    ratios = information.logit_ratios(network, image, regions)
    row |= thresholds.image_rows(*thresholds.sweep(maps, image.classes, mask))
    return row | {
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
    return np.ma.masked_invalid(shares).mean(axis=0).filled(np.nan)


@stage("adapted-once")
def adapt_once(
    model: TrainedModel,
    images: ImageSet,
    scales: tuple[float, ...],
    long_side: int | None,
    settings: Settings,
    bank: Bank,
    rng_seed: int = 0,
) -> Values:
    """One adaptation for the whole set, an update for each image: ``weights``, as trained ones."""
    network = loaded(model)

    def turn(image: LabelledImage) -> tuple:
        label = label_of(image)
        _, features = frozen_features(network, image, scales, long_side)
        n = settings.n_others
        return features, label, OtherImageSampler(on_device(bank), label, n, image.name, rng_seed)

    with threads(1):
        adapted = adaptation.adapt_set(network, map(turn, images), len(images), settings)
    return {"weights": adapted.state_dict()}
