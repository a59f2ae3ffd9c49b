"""Localisation maps of image sets, the seeds: CAM's and RIB's, and their scores.

Each image is a task of its own (`runtime.per_image`) with its own random numbers, so its map does
not depend on order, workers or resumption. Everywhere here maps are ``(K, h, w)`` of the K classes
that an image shows, in order.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ribkit.data import views
from ribkit.data.images import LabelledImage
from ribkit.evaluation import thresholds
from ribkit.method import cam
from ribkit.method.adaptation import cam_maps, trajectory
from ribkit.method.aggregation import Adapted, Step, aggregate
from ribkit.method.others import OtherImageSampler, image_rng_seed
from ribkit.method.rivals import Rival, altered
from ribkit.method.settings import Settings
from ribkit.networks.backbone import Network
from ribkit.networks.trained import TrainedModel, loaded
from ribkit.runtime.device import device
from ribkit.runtime.per_image import PerImageResult, per_image
from ribkit.runtime.store import StoredTensors, Values

SCALARS = ("steps", "reason", "logit_first", "logit_last", "area_first", "area_last")
Bank = Mapping[str, Tensor]  # what others are drawn from: features (M, c, h, w), labels (M, C)


@lru_cache(maxsize=1)
def on_device(bank: Bank) -> dict[str, Tensor]:
    """A stored feature bank on the device that computes, read once in each process."""
    return {name: tensor.to(device()) for name, tensor in bank.items()}


@dataclass(frozen=True)
class Sizes:
    """The sizes at which images are seen, and their maps stored."""

    scales: tuple[float, ...]  # relative to the image at scale 1
    long_side: int | None = None  # of the image at scale 1, in pixels; None: as it is
    map_stride: int = 1  # maps are stored at ceil(size at scale 1 / stride)


@dataclass(frozen=True)
class Adaptation:
    """How RIB adapts a network to an image."""

    settings: Settings
    bank: Bank
    rng_seed: int = 0  # draws from the bank are seeded by it and by the image's name

    def others(self, image: LabelledImage) -> OtherImageSampler:
        # a stored bank is read once in each process
        bank = on_device(self.bank) if isinstance(self.bank, StoredTensors) else self.bank
        count = self.settings.n_others
        return OtherImageSampler(bank, label_of(image), count, image.name, self.rng_seed)


# ---- the other images of an adaptation ----------------------------------------------------------
def _bank(results: PerImageResult) -> Values:
    features = torch.from_numpy(np.stack(list(results.arrays("features").values())))
    if features.dtype == torch.int16:
        features = features.view(torch.bfloat16)
    labels = torch.from_numpy(results.images.labels).float()
    return {"features": {"features": features, "labels": labels}}


@per_image("bank", "frozen features of the other images", gather=_bank)
def feature_bank(
    image: LabelledImage, model: TrainedModel, long_sides: tuple[int, int], side: int, rng_seed: int
) -> Values:
    """The `Bank` that adaptations draw their others from: a view of each image, as in training.

    A step draws B of the M images of a bank, which were drawn from all, both without repeats: that
    is a draw of B from all, each in a random view, as the official code decodes and crops them
    anew at each step. What a bank changes: steps, and images, share views.
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
    network: Network, image: LabelledImage, sizes: Sizes
) -> tuple[tuple[int, int], dict[float, Tensor]]:
    """What of an image's maps does not change while the network is adapted.

    The size (h, w) at scale 1, and scale -> features ``(2, c, h', w')`` of the image and its flip.
    """
    pixels = views.to_tensor(image.pixels(), sizes.long_side).to(device())
    pairs = views.scaled_pairs(pixels, sizes.scales)
    return tuple(pixels.shape[-2:]), {scale: network.features(p) for scale, p in pairs.items()}


def adapt_image(
    network: Network,
    image: LabelledImage,
    sizes: Sizes,
    adaptation: Adaptation | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> tuple[tuple[int, int], Network, Adapted]:
    """RIB for one image, or CAM without an adaptation, which takes no step.

    The size (h, w) at scale 1, the network that made the last map, and the summed maps. The trained
    weights stay as they are. ``on_step`` sees each step before its update.
    """
    size, features = frozen_features(network, image, sizes)
    label = label_of(image)
    if adaptation is None:
        return size, network, Adapted(cam_maps(network, features, label), "none")
    network, settings = network.adaptable(), adaptation.settings
    steps = trajectory(network, features, label, adaptation.others(image), settings)
    watched = (on_step(step) or step for step in steps)
    return size, network, aggregate(watched, label, settings)


# ---- seeds --------------------------------------------------------------------------------------
@per_image("cam", "CAM", arrays=("maps",))
def cam_seeds(image: LabelledImage, model: TrainedModel, sizes: Sizes) -> Values:
    """CAM of every image: ``maps``, float16 in [0, 1], at the size at scale 1 over the stride."""
    return {"maps": _seed(image, model, sizes)[0]}


@per_image("rib", "RIB", arrays=("maps",), scalars=SCALARS)
def rib_seeds(
    image: LabelledImage, model: TrainedModel, sizes: Sizes, adaptation: Adaptation
) -> Values:
    """RIB of every image: ``maps`` as `cam_seeds` gives them, and how each adaptation went.

    That is ``images``, a row each: steps, why it ended, its mean target logit and covered area at
    the first and at the last step.
    """
    maps, adapted = _seed(image, model, sizes, adaptation)
    row = {"maps": maps, "steps": adapted.steps, "reason": adapted.reason}
    if adapted.steps:
        row |= {"logit_first": adapted.logits[0], "logit_last": adapted.logits[-1]}
        row |= {"area_first": adapted.areas[0], "area_last": adapted.areas[-1]}
    return row


def _seed(
    image: LabelledImage, model: TrainedModel, sizes: Sizes, adaptation: Adaptation | None = None
) -> tuple[np.ndarray, Adapted]:
    """An image's maps as they are stored, none without a label; and how they were made."""
    if not image.label.any():
        size = views.resized_size(image.pixels().shape[:2], sizes.long_side)
        stored = (math.ceil(side / sizes.map_stride) for side in size)
        return np.zeros((0, *stored), np.float16), Adapted({}, "none")
    size, _, adapted = adapt_image(loaded(model), image, sizes, adaptation)
    return _stored(adapted.maps, size, sizes.map_stride), adapted


@per_image("norm", "norms of the features", arrays=("norm",))
def feature_norms(image: LabelledImage, model: TrainedModel, sizes: Sizes) -> Values:
    """``norm`` ``(1, h, w)`` of the last features, merged and stored as `cam_seeds` does maps."""
    network = loaded(model)
    size, features = frozen_features(network, image, sizes)
    with torch.no_grad():
        norms = {s: network.last_features(f).norm(dim=1, keepdim=True) for s, f in features.items()}
    raw = {scale: cam.flip_sum(norm) for scale, norm in norms.items()}
    return {"norm": _stored(raw, size, sizes.map_stride)}


@per_image("rival", "maps of a rival", arrays=("maps",), gpu=False)
def rival_seeds(image: LabelledImage, maps: np.ndarray, norm: np.ndarray, rival: Rival) -> Values:
    """CAM's ``maps``, changed as a rival of RIB's does it, which adapts nothing."""
    changed = altered(maps.astype(np.float32), norm[0].astype(np.float32), rival)
    return {"maps": changed.astype(np.float16)}


def _stored(raw: Mapping[float, Tensor], size: tuple[int, int], stride: int = 1) -> np.ndarray:
    return cam.multi_scale(raw, size, stride).cpu().numpy().astype(np.float16)


# ---- scores -------------------------------------------------------------------------------------
def rows_of(results: PerImageResult) -> Values:
    """``rows``, the arrays of a `thresholds.Swept`, of `thresholds.image_rows` of each image."""
    return {"rows": thresholds.concat_rows(results.each(*thresholds.ROW_FIELDS))}


@per_image("score", "scores of the seeds", gather=rows_of)
def score(image: LabelledImage, maps: np.ndarray) -> Values:
    """Counts of every image at the 100 thresholds: ``rows``, the arrays of a `thresholds.Swept`.

    The maps are resized to the mask, bilinearly.
    """
    mask = image.mask()
    fitted = views.resize_map_tensor(torch.tensor(maps).to(device()), mask.shape)
    return thresholds.image_rows(*thresholds.sweep(fitted, image.classes, mask))


# ---- maps through the process -------------------------------------------------------------------
@per_image("growth", "maps through the process", arrays=("step", "sum"))
def growth(
    image: LabelledImage, model: TrainedModel, sizes: Sizes, adaptation: Adaptation
) -> Values:
    """Maps through the process, for a few images: after each step until it stops, and their sum.

    ``step``: ``(steps, K, h, w)`` float16 of each image, each normalised; ``sum``: the seed.
    """
    steps: list[Step] = []
    size, _, adapted = adapt_image(loaded(model), image, sizes, adaptation, steps.append)
    return {
        "step": np.stack([_stored(step.maps, size) for step in steps[: adapted.steps]]),
        "sum": _stored(adapted.maps, size),
    }
