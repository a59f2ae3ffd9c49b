"""Seeds for a whole image set: CAM or RIB maps of every image, and their counts and coverage.

A seed is computed image by image through `parallel.map_images`, each with its own random seed, so
it does not depend on order, workers or resumption.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ribkit.data import views
from ribkit.data.images import ImageSet
from ribkit.evaluation import thresholds
from ribkit.method import adaptation, cam
from ribkit.method.others import OtherImageSampler, image_rng_seed
from ribkit.method.settings import Settings
from ribkit.networks import classifier
from ribkit.networks.architectures import Weights
from ribkit.networks.backbone import PRECISIONS, Network
from ribkit.runtime import per_image
from ribkit.runtime.device import device
from ribkit.runtime.parallel import map_images
from ribkit.runtime.store import Result


@dataclass(frozen=True)
class Model:
    """A trained classifier on disk, and how it is run.

    weights: a stored `classifier.train`. backbone: its name. precision: of
    `backbone.PRECISIONS`. file: the ImageNet weights that it was trained from.
    """

    weights: Result
    backbone: str
    n_classes: int
    precision: str = "float32"
    file: Weights | None = None

    def network(self) -> Network:
        """The network with its weights, on the device that computes."""
        network = classifier.build(self.backbone, self.n_classes, weights=self.file)
        network.load_state_dict(self.weights.tensors("weights"))
        network.precision = PRECISIONS[self.precision]
        if device().type == "cuda":  # where it is the faster order of the pixels
            network.to(memory_format=torch.channels_last)
        return network.to(device())


def feature_bank(
    model: Model, images: ImageSet, long_sides: tuple[int, int], side: int, rng_seed: int
) -> dict:
    """Frozen features of the images that adaptations draw their others from.

    Each image in one view as the classifier was trained on (`views.random_crop`), seeded by its
    name. A step draws B of the images of a pool of M, which were drawn from all, both without
    repeats: that is a draw of B from all, each in a random view, which is what the official code
    decodes and crops anew at each step. What the pool changes: steps, and images, share views.
    Returns ``features``: ``features`` ``(M, c, h, w)`` and ``labels`` ``(M, C)``, tensors.
    """
    words, view = "frozen features of the other images", (long_sides, side, rng_seed)
    features = map_images(partial(_view, model, images, *view), range(len(images)), words)
    labels = torch.from_numpy(images.labels).float()
    return {"features": {"features": torch.stack(features), "labels": labels}}


def _view(
    model: Model, images: ImageSet, long_sides, side: int, rng_seed: int, index: int
) -> Tensor:
    network, _ = _context(model, None)
    generator = torch.Generator().manual_seed(image_rng_seed(rng_seed, images.ids[index]))
    pixels = views.to_tensor(images.image(index))
    pixels = views.random_crop(pixels, long_sides, side, network.mean, generator)
    return network.features(pixels[None].to(device()))[0].cpu()


@dataclass(frozen=True)
class AdaptationTask:
    """What one image needs: the trained model, how it is seen, and how it is adapted (or not)."""

    model: Model
    images: ImageSet
    scales: tuple[float, ...]
    long_side: int | None
    settings: Settings | None = None
    pool: Result | None = None
    rng_seed: int = 0
    map_stride: int = 1


SCALARS = ("steps", "reason", "logit_first", "logit_last", "area_first", "area_last")


def compute(
    model: Model,
    images: ImageSet,
    scales: tuple[float, ...],
    long_side: int | None,
    scratch: Path,
    settings: Settings | None = None,
    pool: Result | None = None,
    rng_seed: int = 0,
    map_stride: int = 1,
) -> dict:
    """Seeds of all images: CAM without ``settings``, else RIB with the others drawn from ``pool``.

    long_side: each image is seen this long at scale 1 (None: as it is). scratch: see `per_image`.
    Returns ``maps`` (image name -> normalised maps of its classes in their order, ``(K, h, w)``
    float16, (h, w) the size seen at scale 1 over ``map_stride``, rounded up) and ``images``, a row
    each: steps, why it ended, its mean target logit and covered area at the start and at the end.
    An image without any class has a map of shape ``(0, h, w)``.
    """
    job = AdaptationTask(
        model, images, tuple(scales), long_side, settings, pool, rng_seed, map_stride
    )
    words = "CAM" if settings is None else f"RIB, {settings.pooling}, lr {settings.lr:g}"
    made = per_image.map_to_disk(partial(_seed, job), images, scratch, words)
    return {"maps": made.arrays("maps"), "images": made.table(*SCALARS)}


def _seed(job: AdaptationTask, index: int) -> dict:
    """One image: its maps, and its row as scalars."""
    name = job.images.ids[index]
    network, bank = _context(job.model, job.pool)
    labels = torch.from_numpy(job.images.labels[index]).float().to(device())
    pixels, features = frozen_features(network, job.images.image(index), job.scales, job.long_side)
    row = {"steps": 0, "reason": "none"}
    size, stride = pixels.shape[-2:], job.map_stride
    if not labels.any():
        maps = torch.zeros(0, *(math.ceil(side / stride) for side in size))
    elif job.settings is None:
        maps = cam.multi_scale(adaptation.cam_maps(network, features, labels), size, stride)
    else:
        draw = OtherImageSampler(bank, labels, job.settings.n_others, name, job.rng_seed)
        result = adaptation.adapt(network, features, labels, draw, job.settings)
        maps = cam.multi_scale(result.maps, size, stride)
        row |= {"steps": result.steps, "reason": result.reason}
        row |= {"logit_first": result.logits[0], "logit_last": result.logits[-1]}
        row |= {"area_first": result.areas[0], "area_last": result.areas[-1]}
    return row | {"maps": maps.cpu().numpy().astype(np.float16)}


def frozen_features(
    network: Network, image: np.ndarray, scales: Sequence[float], long_side: int | None
) -> tuple[Tensor, dict[float, Tensor]]:
    """An image ``(H, W, 3)`` -> its pixels at scale 1, and scale -> frozen features."""
    pixels = views.to_tensor(image, long_side).to(device())
    pairs = views.scaled_pairs(pixels, scales)
    return pixels, {scale: network.features(pair) for scale, pair in pairs.items()}


@lru_cache(maxsize=1)
def _context(model: Model, pool: Result | None) -> tuple[Network, dict[str, Tensor] | None]:
    """Network and pool, read once in each process."""
    bank = pool and {k: v.to(device()) for k, v in pool.tensors("features").items()}
    return model.network(), bank


def score(images: ImageSet, seeds: Result) -> dict:
    """Counts of every image at the 100 thresholds: ``rows`` of an `thresholds.Swept`.

    The maps are resized to the mask, bilinearly.
    """
    found = per_image.measure_each(images, seeds, "maps", _sweep, "scores of the seeds", gpu=True)
    return {"rows": thresholds.concat_rows(found)}


def _sweep(images: ImageSet, index: int, maps: np.ndarray) -> dict[str, np.ndarray]:
    mask, keys = images.mask(index), np.flatnonzero(images.labels[index])
    fitted = views.resize_map_tensor(torch.tensor(maps).to(device()), mask.shape)
    return thresholds.image_rows(*thresholds.sweep(fitted, keys, mask))


def cover(images: ImageSet, seeds: Result, threshold: float) -> dict:
    """What the maps cover: ``coverage``, a row for each image and class.

    head, body (`mini`) or object: the share of its pixels where the class's map exceeds
    ``threshold``; outside: the share of the pixels off the object where it does.
    """
    found = per_image.measure_each(images, seeds, "maps", partial(_cover, threshold), "coverage")
    return {"coverage": pd.DataFrame([row for rows in found for row in rows])}


def _cover(threshold: float, images: ImageSet, index: int, maps: np.ndarray) -> list[dict]:
    name, mask = images.ids[index], images.mask(index)
    heads = images.source.heads(name) if hasattr(images.source, "heads") else None
    covered, rows = views.resize_maps(maps, mask.shape) > threshold, []
    for key, one in zip(np.flatnonzero(images.labels[index]), covered, strict=True):
        whole = mask == key + 1
        parts = {"object": whole}
        if heads is not None:
            parts = {"head": heads == key + 1, "body": whole & (heads != key + 1)}
        parts["outside"] = ~whole & (mask != 255)
        shares = {part: float(one[where].mean()) for part, where in parts.items() if where.any()}
        rows.append({"image": name, "class": images.classes[key]} | shares)
    return rows


def growth(
    model: Model,
    images: ImageSet,
    scales: tuple[float, ...],
    long_side: int | None,
    settings: Settings,
    pool: Result,
    rng_seed: int = 0,
) -> dict:
    """Maps through the process, for a few images: after each step until it stops, and their sum.

    Returns ``step`` (image name -> ``(steps, K, h, w)`` float16, each normalised), ``sum`` (image
    name -> ``(K, h, w)`` float16: the seed) and ``process``, a row for each image and step: mean
    target logit, covered area.
    """
    job = AdaptationTask(model, images, tuple(scales), long_side, settings, pool, rng_seed)
    grown = map_images(partial(_grow, job), range(len(images)), "maps through the process")
    return {
        "step": {name: maps for name, (maps, _, _) in zip(images.ids, grown, strict=True)},
        "sum": {name: total for name, (_, total, _) in zip(images.ids, grown, strict=True)},
        "process": pd.DataFrame([row for _, _, rows in grown for row in rows]),
    }


def _grow(job: AdaptationTask, index: int) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """One image: maps of each step, their sum, a row for each step."""
    network, bank = _context(job.model, job.pool)
    name, settings = job.images.ids[index], job.settings
    labels = torch.from_numpy(job.images.labels[index]).float().to(device())
    pixels, features = frozen_features(network, job.images.image(index), job.scales, job.long_side)
    draw = OtherImageSampler(bank, labels, settings.n_others, name, job.rng_seed)
    steps = adaptation.trajectory(network.adaptable(), features, labels, draw, settings)
    seen: list[adaptation.Step] = []
    watched = (seen.append(step) or step for step in steps)
    result = adaptation.aggregate(watched, labels, settings)
    size = tuple(pixels.shape[-2:])
    merged = [cam.multi_scale(step.maps, size) for step in seen[: result.steps]]
    maps = np.stack([step.cpu().numpy() for step in merged])
    total = cam.multi_scale(result.maps, size).cpu().numpy()
    rows = [
        {"image": name, "step": k, "logit": logit, "area": area}
        for k, (logit, area) in enumerate(zip(result.logits, result.areas, strict=True))
    ]
    return maps.astype(np.float16), total.astype(np.float16), rows
