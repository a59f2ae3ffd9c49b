"""What happens to seeds on their way to pseudo ground truth, each a stage over an image set.

Maps become label maps at a threshold; CRF, PSA's and IRN's walk refine them; saliency cuts them
out. Label maps are ``(h, w)`` uint8 at the size at which an image is seen: 0 background, k + 1
class k, 255 no label. Maps may be stored coarser than that (`maps.compute`): they are resized
before they become labels, and walked maps are stored as coarse as the seeds. Each stage works image
by image (`per_image`), and a worker reads an image's maps by its name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribkit.data import views
from ribkit.data.images import ImageSet
from ribkit.data.views import resize_labels, resize_maps
from ribkit.evaluation import miou
from ribkit.networks.architectures import Weights
from ribkit.networks.backbone import FeaturePyramid
from ribkit.refinement import affinity, crf, irn, psa, random_walk, saliency
from ribkit.refinement.random_walk import Walk
from ribkit.runtime import per_image
from ribkit.runtime.device import device
from ribkit.runtime.errors import InputError
from ribkit.runtime.store import Result

# The official code's IRN takes pixels above .35 as foreground and below .17 as background where
# its own threshold is .27. Maps of other networks have other thresholds: the distances are kept.
FOREGROUND_MARGIN, BACKGROUND_MARGIN = 0.08, 0.10
PSA_ALPHAS = (4.0, 32.0)  # background scores of PSA's two label maps: much of it, little of it


PSA_RADIUS, PSA_BETA = 5, 8.0


@dataclass(frozen=True)
class AffinityModel:
    """A trained IRN or PSA on disk. kind: ``"irn"`` or ``"psa"``; the rest as in their `train`."""

    kind: str
    weights: Result
    backbone: str
    stride: int
    rng_seed: int
    pretext: Result | None = None
    file: Weights | None = None

    def load(self) -> tuple[FeaturePyramid, nn.Module]:
        """Backbone and heads, on the device that computes."""
        build = {"irn": irn.build, "psa": psa.build}[self.kind]
        levels, heads = build(self.backbone, self.pretext, self.file, self.rng_seed)
        heads.load_state_dict(self.weights.tensors("weights"))
        return levels, heads.eval()


# ---- label maps ---------------------------------------------------------------------------------
def label_map(maps: np.ndarray, keys: np.ndarray, threshold: float) -> np.ndarray:
    """Normalised maps ``(K, h, w)`` of the classes ``keys`` -> labels ``(h, w)``.

    The class of the highest map, background where none exceeds the threshold.
    """
    return to_dataset_labels(np.argmax(_with_background(maps, threshold), axis=0), keys)


def _with_background(maps: np.ndarray, threshold: float) -> np.ndarray:
    """The maps behind a constant background: ``(1 + K, h, w)``."""
    constant = np.full((1, *maps.shape[1:]), threshold, np.float32)
    return np.concatenate([constant, maps.astype(np.float32)])


def to_dataset_labels(local: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Labels among an image's own, 0 .. K, -> labels among all classes, uint8."""
    return np.concatenate([[0], np.asarray(keys, int) + 1]).astype(np.uint8)[local]


def resized_image(images: ImageSet, index: int, long_side: int | None) -> np.ndarray:
    """The image at the size at which it is seen, ``(h, w, 3)`` uint8."""
    pixels = views.to_tensor(images.image(index), long_side)
    return pixels.round().to(torch.uint8).permute(1, 2, 0).numpy()


def _made(
    task: Callable[[int, np.ndarray], dict],
    images: ImageSet,
    result: Result,
    value: str,
    scratch: Path,
    words: str,
    gpu: bool = False,
) -> per_image.PerImageResult:
    """What ``task(index, array)`` makes of each image and its array of a stored result."""
    _require(images, result, value)
    task = partial(_read, task, images, result, value)
    return per_image.map_to_disk(task, images, scratch, words, gpu)


def _read(task: Callable, images: ImageSet, result: Result, value: str, index: int) -> dict:
    return task(index, result.arrays(value)[images.ids[index]])


def _require(images: ImageSet, result: Result, value: str) -> None:
    """Raise InputError for a stored result that lacks an image."""
    arrays = result.arrays(value)
    missing = [name for name in images.ids if name not in arrays]
    if missing:
        raise InputError(f"{result.path} has no {value} of image {missing[0]}; compute them first.")


def threshold_labels(
    images: ImageSet, seeds: Result, threshold: float, long_side: int | None, scratch: Path
) -> dict:
    """``labels`` of the maps at a threshold."""
    task = partial(_plain, images, long_side, threshold)
    return {"labels": _made(task, images, seeds, "maps", scratch, "labels").arrays("labels")}


def _plain(images, long_side, threshold: float, index: int, maps: np.ndarray) -> dict:
    fitted = resize_maps(maps, views.resized_size(images.image(index).shape[:2], long_side))
    return {"labels": label_map(fitted, np.flatnonzero(images.labels[index]), threshold)}


def crf_on_maps(
    images: ImageSet, seeds: Result, threshold: float, long_side: int | None, scratch: Path
) -> dict:
    """``labels`` of the maps at a threshold, after the CRF."""
    task = partial(_crf, images, long_side, threshold)
    return {"labels": _made(task, images, seeds, "maps", scratch, "CRF").arrays("labels")}


def _crf(images, long_side, threshold: float, index: int, maps: np.ndarray) -> dict:
    pixels, keys = resized_image(images, index, long_side), np.flatnonzero(images.labels[index])
    return {"labels": _refined(pixels, resize_maps(maps, pixels.shape[:2]), keys, threshold)}


def _refined(pixels: np.ndarray, maps: np.ndarray, keys: np.ndarray, threshold: float):
    """The label map of maps ``(K, h, w)`` at a threshold, after the CRF."""
    local = _with_background(maps, threshold).argmax(axis=0)
    return to_dataset_labels(crf.refine_labels(pixels, local, len(keys) + 1), keys)


def irn_labels(
    images: ImageSet, seeds: Result, threshold: float, long_side: int | None, scratch: Path
) -> dict:
    """IRN's training ``labels``: what the CRF says at a high and at a low threshold.

    threshold: the seeds' own; the two lie `FOREGROUND_MARGIN` above and `BACKGROUND_MARGIN` below.
    """
    task = partial(_irn_labels, images, long_side, threshold)
    return {"labels": _made(task, images, seeds, "maps", scratch, "IRN's labels").arrays("labels")}


def _irn_labels(images, long_side, threshold: float, index: int, maps: np.ndarray) -> dict:
    pixels, keys = resized_image(images, index, long_side), np.flatnonzero(images.labels[index])
    fitted = resize_maps(maps, pixels.shape[:2])
    high, low = threshold + FOREGROUND_MARGIN, max(0.0, threshold - BACKGROUND_MARGIN)
    found = (_refined(pixels, fitted, keys, level) for level in (high, low))
    return {"labels": affinity.confident(*found)}


def psa_labels(images: ImageSet, seeds: Result, long_side: int | None, scratch: Path) -> dict:
    """PSA's training ``labels``: CRF on scores with much and with little background."""
    task = partial(_psa_labels, images, long_side)
    return {"labels": _made(task, images, seeds, "maps", scratch, "PSA's labels").arrays("labels")}


def _psa_labels(images, long_side, index: int, maps: np.ndarray) -> dict:
    keys, pixels = np.flatnonzero(images.labels[index]), resized_image(images, index, long_side)
    fitted, found = torch.from_numpy(resize_maps(maps, pixels.shape[:2])), []
    for alpha in PSA_ALPHAS:
        scores = psa.background(fitted, alpha).numpy()
        refined = crf.refine_scores(pixels, scores, crf.PSA)
        found.append(to_dataset_labels(refined.argmax(axis=0), keys))
    return {"labels": affinity.confident(*found)}


# ---- walks --------------------------------------------------------------------------------------
@lru_cache(maxsize=1)
def _loaded(model: AffinityModel) -> tuple[FeaturePyramid, nn.Module]:
    return model.load()


def irn_walk(
    model: AffinityModel,
    images: ImageSet,
    seeds: Result,
    walk: Walk,
    long_side: int | None,
    scratch: Path,
) -> dict:
    """Seeds after IRN's walk: ``maps``, name -> ``(K, h, w)`` float16 in [0, 1], (h, w) the seeds'
    own size, and ``edges``, name -> the boundary map ``(h', w')`` float16 on its grid.
    """
    task = partial(_irn_walk, model, images, walk, long_side)
    made = _made(task, images, seeds, "maps", scratch, "IRN's walk", gpu=True)
    return {value: made.arrays(value) for value in ("maps", "edges")}


def _irn_walk(model, images, walk: Walk, long_side, index: int, maps: np.ndarray) -> dict:
    levels, heads = _loaded(model)
    pixels = views.to_tensor(images.image(index), long_side).to(device())
    edge, _ = irn.predict(levels, heads, pixels, model.stride)
    coarse = _coarse(maps, edge.shape) ** walk.power
    walked = random_walk.propagate(coarse, edge, walk.radius, walk.beta, walk.log2_steps)
    walked = resize_maps(walked.cpu().numpy(), maps.shape[-2:])
    peak = walked.max(initial=0) if walk.one_maximum else walked.max(axis=(1, 2), keepdims=True)
    found = {"maps": walked / (peak + 1e-5), "edges": edge.cpu().numpy()}
    return {value: array.astype(np.float16) for value, array in found.items()}


def _coarse(maps: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Maps ``(K, h, w)`` averaged on a grid, on the device that computes."""
    tensor = torch.from_numpy(maps.astype(np.float32)).to(device())
    if not len(tensor):
        return tensor.new_zeros(0, *size)
    return F.interpolate(tensor[None], tuple(size), mode="area")[0]


def psa_walk(
    model: AffinityModel,
    images: ImageSet,
    seeds: Result,
    alpha: float,
    log2_steps: int,
    long_side: int | None,
    scratch: Path,
) -> dict:
    """``labels`` after PSA's walk of the maps and of a background score with this alpha."""
    task = partial(_psa_walk, model, images, alpha, log2_steps, long_side)
    made = _made(task, images, seeds, "maps", scratch, "PSA's walk", gpu=True)
    return {"labels": made.arrays("labels")}


def _psa_walk(model, images, alpha, log2_steps, long_side, index: int, maps: np.ndarray) -> dict:
    levels, head = _loaded(model)
    pixels = views.to_tensor(images.image(index), long_side).to(device())
    found = psa.predict(levels, head, pixels, model.stride, PSA_RADIUS)
    scores = psa.background(_coarse(maps, irn.grid(pixels.shape[-2:], model.stride)), alpha)
    walked = random_walk.walk(scores, found, PSA_BETA, log2_steps)
    resized = resize_maps(walked.cpu().numpy(), pixels.shape[-2:])
    return {
        "labels": to_dataset_labels(resized.argmax(axis=0), np.flatnonzero(images.labels[index]))
    }


# ---- saliency -----------------------------------------------------------------------------------
def with_saliency(
    images: ImageSet, labels: Result, maps: Result, scratch: Path, threshold: float = 0.5
) -> dict:
    """``labels`` cut out by saliency (`saliency.combine`), 255 where the two disagree.

    maps: a stored result with ``maps``, name -> ``(H, W)`` uint8; resized to the labels.
    """
    _require(images, maps, "maps")
    task = partial(_with_saliency, images, maps, threshold)
    return {"labels": _made(task, images, labels, "labels", scratch, "saliency").arrays("labels")}


def _with_saliency(images, maps: Result, threshold: float, index: int, labels: np.ndarray) -> dict:
    salient = maps.arrays("maps")[images.ids[index]]
    resized = resize_maps(salient[None].astype(np.float32) / 255, labels.shape)[0]
    return {"labels": saliency.combine(labels, resized, threshold)}


# ---- scores -------------------------------------------------------------------------------------
def score(images: ImageSet, labels: Result) -> dict:
    """How label maps fit the masks, 255 in a label map read both ways.

    ``scores``: counts ``(N, 3, n)`` int32, see `miou.counts`: ``error``, where a pixel
    without a label is predicted nowhere, and ``background``, where it is background (difference
    11). And ``confusion`` ``(n, n + 1)`` int64, summed over images, whose last column counts pixels
    without a label. n counts the background; label maps are resized to the masks, nearest.
    """
    found = per_image.measure_each(images, labels, "labels", _score, "scores of the labels")
    count = len(images.classes) + 1
    confusion = np.zeros(count * (count + 1), np.int64)
    for _, _, at, pixels in found:
        confusion[at] += pixels
    error, background = (np.stack([one[k] for one in found]) for k in range(2))
    scores = {"error": error, "background": background}
    return {"scores": scores | {"confusion": confusion.reshape(count, count + 1)}}


def _score(images: ImageSet, index: int, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """One image: its counts, read both ways, and where its confusion is not zero, and how much."""
    mask, count = images.mask(index), len(images.classes) + 1
    own = resize_labels(torch.tensor(labels), mask.shape).numpy()
    void = np.where(own == affinity.IGNORE, count, own)
    confusion = miou.confusion(void, mask, count + 1)[:count]
    background = confusion[:, :count].copy()
    background[:, 0] += confusion[:, count]
    both = (miou.counts(one).astype(np.int32) for one in (confusion, background))
    at = np.flatnonzero(confusion)
    return *both, at, confusion.ravel()[at]
