"""Localisation maps of image sets, the seeds: CAM's and RIB's, their scores, what they cover.

Each image is a task of its own (`runtime.per_image`) with its own random numbers, so its map does
not depend on order, workers or resumption.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ribkit.data import views
from ribkit.data.images import LabelledImage
from ribkit.evaluation import thresholds
from ribkit.method import adaptation, aggregation, cam
from ribkit.method.aggregation import Adapted, Step
from ribkit.method.others import OtherImageSampler, image_rng_seed
from ribkit.method.settings import Settings
from ribkit.networks.backbone import Network
from ribkit.networks.trained import TrainedModel, loaded
from ribkit.runtime.device import device
from ribkit.runtime.per_image import PerImageResult, per_image
from ribkit.runtime.store import Values

SCALARS = ("steps", "reason", "logit_first", "logit_last", "area_first", "area_last")
Bank = Mapping[str, Tensor]


@lru_cache(maxsize=1)
def on_device(bank: Bank) -> dict[str, Tensor]:
    """A stored feature bank on the device that computes, read once in each process."""
    return {name: tensor.to(device()) for name, tensor in bank.items()}


# ---- the other images of an adaptation ----------------------------------------------------------
def _bank(results: PerImageResult) -> Values:
    features = [torch.from_numpy(array) for array in results.arrays("features").values()]
    features = [f.view(torch.bfloat16) if f.dtype == torch.int16 else f for f in features]
    labels = torch.from_numpy(results.images.labels).float()
    return {"features": {"features": torch.stack(features), "labels": labels}}


@per_image("bank", "frozen features of the other images", gather=_bank)
def feature_bank(
    image: LabelledImage, model: TrainedModel, long_sides: tuple[int, int], side: int, rng_seed: int
) -> Values:
    """Frozen features of the images that adaptations draw their others from.

    A step draws B of the M images of a bank, which were drawn from all, both without repeats: that
    is a draw of B from all, each in a random view, as the official code decodes and crops them
    anew at each step. What a bank changes: steps, and images, share views.

    Args:
        image: One of the M.
        model: The trained classifier.
        long_sides: Least and greatest size of the longer side, in pixels: the view is one as the
            classifier was trained on (`views.random_crop`), seeded by the image's name.
        side: Of the view, in pixels.
        rng_seed: The study's.

    Returns:
        The stage returns ``features``: ``features`` ``(M, c, h, w)``, ``labels`` ``(M, C)``.
    """
    network = loaded(model)
    generator = torch.Generator().manual_seed(image_rng_seed(rng_seed, image.name))
    pixels = views.to_tensor(image.pixels())
    pixels = views.random_crop(pixels, long_sides, side, network.mean, generator)
    features = network.features(pixels[None].to(device()))[0].cpu()
    if features.dtype == torch.bfloat16:  # which numpy has not
        features = features.view(torch.int16)
    return {"features": features.numpy()}


# ---- one image ----------------------------------------------------------------------------------
def label_of(image: LabelledImage) -> Tensor:
    """Which classes an image shows, ``(C,)`` float, on the device that computes."""
    return torch.from_numpy(image.label).float().to(device())


def frozen_features(
    network: Network, image: LabelledImage, scales: Sequence[float], long_side: int | None
) -> tuple[tuple[int, int], dict[float, Tensor]]:
    """What of an image's maps does not change while the network is adapted.

    Args:
        network: The classifier.
        image: The image.
        scales: Relative to the size at ``long_side``.
        long_side: Of the image at scale 1, in pixels; None: as it is.

    Returns:
        The size (h, w) at scale 1, and scale -> frozen features ``(2, c, h', w')`` of the image and
        its horizontal flip.
    """
    pixels = views.to_tensor(image.pixels(), long_side).to(device())
    pairs = views.scaled_pairs(pixels, scales)
    return tuple(pixels.shape[-2:]), {scale: network.features(p) for scale, p in pairs.items()}


def adapt_image(
    network: Network,
    image: LabelledImage,
    bank: Bank,
    scales: Sequence[float],
    long_side: int | None,
    settings: Settings,
    rng_seed: int,
    on_step: Callable[[Step], None] = lambda step: None,
) -> tuple[tuple[int, int], Network, Adapted]:
    """RIB for one image, from the trained weights, which stay as they are.

    Args:
        network: The trained classifier.
        image: The image.
        bank: Features and labels that the others are drawn from, on the device; see `feature_bank`.
        scales: Of the image's views, 1.0 among them.
        long_side: Of the image at scale 1, in pixels; None: as it is.
        settings: Of the adaptation.
        rng_seed: The study's; the image's draws are seeded by it and by the image's name.
        on_step: Called with each step before its update.

    Returns:
        The size (h, w) at scale 1, the adapted network, and the maps summed over the steps.
    """
    size, features = frozen_features(network, image, scales, long_side)
    label, network = label_of(image), network.adaptable()
    others = OtherImageSampler(bank, label, settings.n_others, image.name, rng_seed)
    steps = adaptation.trajectory(network, features, label, others, settings)
    watched = (on_step(step) or step for step in steps)
    return size, network, aggregation.aggregate(watched, label, settings)


# ---- seeds --------------------------------------------------------------------------------------
@per_image("cam", "CAM", arrays=("maps",))
def cam_seeds(
    image: LabelledImage,
    model: TrainedModel,
    scales: tuple[float, ...],
    long_side: int | None,
    map_stride: int = 1,
) -> Values:
    """CAM of every image.

    Args:
        image: One image; one without any class has a map of shape ``(0, h, w)``.
        model: The trained classifier.
        scales: Of its views.
        long_side: Of the image at scale 1, in pixels; None: as it is.
        map_stride: Maps are stored at the size at scale 1 over this, rounded up.

    Returns:
        ``maps``: image name -> ``(K, h, w)`` float16 in [0, 1] of its classes in their order.
    """
    network = loaded(model)
    size, features = frozen_features(network, image, scales, long_side)
    if not image.label.any():
        return _no_maps(size, map_stride)
    return _maps(adaptation.cam_maps(network, features, label_of(image)), size, map_stride)


@per_image("rib", "RIB", arrays=("maps",), scalars=SCALARS)
def rib_seeds(
    image: LabelledImage,
    model: TrainedModel,
    scales: tuple[float, ...],
    long_side: int | None,
    settings: Settings,
    bank: Bank,
    rng_seed: int,
    map_stride: int = 1,
) -> Values:
    """RIB of every image: ``maps`` as `cam_seeds` gives them, and how each adaptation went.

    Args:
        image: One image.
        model: The trained classifier.
        scales: Of its views.
        long_side: Of the image at scale 1, in pixels; None: as it is.
        settings: Of the adaptation.
        bank: What the others are drawn from.
        rng_seed: The study's.
        map_stride: See `cam_seeds`.

    Returns:
        ``maps``, and ``images``, a row each: steps, why it ended, its mean target logit and covered
        area at the start and at the end.
    """
    network = loaded(model)
    if not image.label.any():
        size = views.resized_size(image.pixels().shape[:2], long_side)
        return _no_maps(size, map_stride) | {"steps": 0, "reason": "none"}
    size, _, adapted = adapt_image(
        network, image, on_device(bank), scales, long_side, settings, rng_seed
    )
    return _maps(adapted.maps, size, map_stride) | {
        "steps": adapted.steps,
        "reason": adapted.reason,
        "logit_first": adapted.logits[0],
        "logit_last": adapted.logits[-1],
        "area_first": adapted.areas[0],
        "area_last": adapted.areas[-1],
    }


def _maps(raw: Mapping[float, Tensor], size: tuple[int, int], stride: int) -> Values:
    return {"maps": cam.multi_scale(raw, size, stride).cpu().numpy().astype(np.float16)}


def _no_maps(size: tuple[int, int], stride: int) -> Values:
    return {"maps": np.zeros((0, *(math.ceil(side / stride) for side in size)), np.float16)}


# ---- scores -------------------------------------------------------------------------------------
def _rows(results: PerImageResult) -> Values:
    return {"rows": thresholds.concat_rows(results.each(*thresholds.ROW_FIELDS))}


@per_image("score", "scores of the seeds", gather=_rows)
def score(image: LabelledImage, maps: np.ndarray) -> Values:
    """Counts of every image at the 100 thresholds: ``rows`` of a `thresholds.Swept`.

    Args:
        image: One image.
        maps: ``(K, h, w)`` of its classes; resized to the mask, bilinearly.

    Returns:
        ``rows``: the arrays of a `thresholds.Swept`.
    """
    mask = image.mask()
    fitted = views.resize_map_tensor(torch.tensor(maps).to(device()), mask.shape)
    return thresholds.image_rows(*thresholds.sweep(fitted, image.classes, mask))


def _coverage(results: PerImageResult) -> Values:
    rows = []
    for image, shares in zip(results.images, results.each(), strict=True):
        names = [image.images.classes[k] for k in image.classes]
        for k, name in enumerate(names):
            here = {part: float(share[k]) for part, share in shares.items()}
            rows.append({"image": image.name, "class": name} | here)
    return {"coverage": pd.DataFrame(rows)}


@per_image("coverage", "coverage", gather=_coverage, gpu=False)
def cover(image: LabelledImage, maps: np.ndarray, threshold: float) -> Values:
    """What the maps cover, class by class.

    Args:
        image: One image.
        maps: ``(K, h, w)`` of its classes.
        threshold: Above it a pixel is covered.

    Returns:
        ``coverage``, a row for each image and class. head, body (`mini`) or object: the share of
        its pixels that the class's map covers, NaN where there are none; outside: the share of the
        pixels off the object.
    """
    mask, heads = image.mask(), image.heads()
    covered = views.resize_maps(maps, mask.shape) > threshold
    shares: dict[str, list[float]] = {}
    for k, class_map in zip(image.classes, covered, strict=True):
        whole = mask == k + 1
        parts = {"object": whole}
        if heads is not None:
            parts = {"head": heads == k + 1, "body": whole & (heads != k + 1)}
        parts["outside"] = ~whole & (mask != 255)
        for part, where in parts.items():
            share = float(class_map[where].mean()) if where.any() else math.nan
            shares.setdefault(part, []).append(share)
    return {part: np.array(values) for part, values in shares.items()}


# ---- maps through the process -------------------------------------------------------------------
def _process(results: PerImageResult) -> Values:
    rows = [
        {"image": name, "step": k, "logit": float(logit), "area": float(area)}
        for name, process in results.arrays("process").items()
        for k, (logit, area) in enumerate(process)
    ]
    maps = {value: results.arrays(value) for value in ("step", "sum")}
    return maps | {"process": pd.DataFrame(rows)}


@per_image("growth", "maps through the process", gather=_process)
def growth(
    image: LabelledImage,
    model: TrainedModel,
    scales: tuple[float, ...],
    long_side: int | None,
    settings: Settings,
    bank: Bank,
    rng_seed: int,
) -> Values:
    """Maps through the process, for a few images: after each step until it stops, and their sum.

    Args:
        image: One image.
        model: The trained classifier.
        scales: Of its views.
        long_side: Of the image at scale 1, in pixels; None: as it is.
        settings: Of the adaptation.
        bank: What the others are drawn from.
        rng_seed: The study's.

    Returns:
        ``step``: image name -> ``(steps, K, h, w)`` float16, each normalised; ``sum``: image name
        -> ``(K, h, w)`` float16, the seed; ``process``, a row for each image and step: mean target
        logit, covered area.
    """
    steps: list[Step] = []
    size, _, adapted = adapt_image(
        loaded(model), image, on_device(bank), scales, long_side, settings, rng_seed, steps.append
    )
    maps = [cam.multi_scale(step.maps, size).cpu().numpy() for step in steps[: adapted.steps]]
    return {
        "step": np.stack(maps).astype(np.float16),
        "sum": cam.multi_scale(adapted.maps, size).cpu().numpy().astype(np.float16),
        "process": np.stack([adapted.logits, adapted.areas], axis=1),
    }
