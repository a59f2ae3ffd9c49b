"""From seeds to pseudo ground truth, each step a stage over an image set.

Maps become label maps at a threshold; the CRF, PSA's and IRN's walk refine them; saliency cuts them
out. Label maps are ``(h, w)`` uint8 at the size of the image at scale 1: 0 background, k + 1 class
k, 255 ignored. Maps may be stored coarser than that (``map_stride``): they are resized before they
become labels, and walked maps are stored as coarse as the seeds.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ribkit.data import views
from ribkit.data.images import LabelledImage
from ribkit.evaluation import miou
from ribkit.networks.trained import TrainedModel, loaded
from ribkit.refinement import affinity, crf, irn, psa, random_walk, saliency
from ribkit.refinement.random_walk import Walk
from ribkit.runtime.device import device
from ribkit.runtime.per_image import PerImageResult, per_image
from ribkit.runtime.store import Values

# The official code's IRN takes pixels above .35 as foreground and below .17 as background where
# its own threshold is .27. Maps of other networks have other thresholds: the distances are kept.
FOREGROUND_MARGIN, BACKGROUND_MARGIN = 0.08, 0.10
PSA_ALPHAS = (4.0, 32.0)  # background scores of PSA's two label maps: much of it, little of it
PSA_RADIUS, PSA_BETA = 5, 8.0


# ---- label maps ---------------------------------------------------------------------------------
def label_map(maps: np.ndarray, classes: np.ndarray, threshold: float) -> np.ndarray:
    """The class of the highest map at each pixel, background where none exceeds the threshold.

    Args:
        maps: Normalised, ``(K, h, w)``.
        classes: Their indices, ``(K,)``.
        threshold: In [0, 1].

    Returns:
        Labels ``(h, w)`` uint8.
    """
    return to_dataset_labels(np.argmax(_with_background(maps, threshold), axis=0), classes)


def _with_background(maps: np.ndarray, threshold: float) -> np.ndarray:
    """The maps behind a constant background: ``(1 + K, h, w)``."""
    constant = np.full((1, *maps.shape[1:]), threshold, np.float32)
    return np.concatenate([constant, maps.astype(np.float32)])


def to_dataset_labels(local: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Labels among an image's own, 0 .. K, -> labels among all classes, uint8."""
    return np.concatenate([[0], np.asarray(classes, int) + 1]).astype(np.uint8)[local]


@per_image("labels", "labels", arrays=("labels",), gpu=False)
def threshold_labels(
    image: LabelledImage, maps: np.ndarray, threshold: float, long_side: int | None
) -> Values:
    """``labels`` of the maps at a threshold."""
    size = views.resized_size(image.pixels().shape[:2], long_side)
    return {"labels": label_map(views.resize_maps(maps, size), image.classes, threshold)}


@per_image("crf", "CRF", arrays=("labels",), gpu=False)
def crf_labels(
    image: LabelledImage, maps: np.ndarray, threshold: float, long_side: int | None
) -> Values:
    """``labels`` of the maps at a threshold, after the CRF."""
    pixels = views.resized_image(image.pixels(), long_side)
    maps = views.resize_maps(maps, pixels.shape[:2])
    return {"labels": _crf(pixels, maps, image.classes, threshold)}


def _crf(pixels: np.ndarray, maps: np.ndarray, classes: np.ndarray, threshold: float) -> np.ndarray:
    """The label map of maps ``(K, h, w)`` at a threshold, after the CRF."""
    local = _with_background(maps, threshold).argmax(axis=0)
    return to_dataset_labels(crf.refine_labels(pixels, local, len(classes) + 1), classes)


@per_image("irn-labels", "IRN's labels", arrays=("labels",), gpu=False)
def irn_labels(
    image: LabelledImage, maps: np.ndarray, threshold: float, long_side: int | None
) -> Values:
    """IRN's training ``labels``: what the CRF gives at a high and at a low threshold.

    They lie `FOREGROUND_MARGIN` above and `BACKGROUND_MARGIN` below the seeds' own.
    """
    pixels = views.resized_image(image.pixels(), long_side)
    maps = views.resize_maps(maps, pixels.shape[:2])
    high, low = threshold + FOREGROUND_MARGIN, max(0.0, threshold - BACKGROUND_MARGIN)
    both = (_crf(pixels, maps, image.classes, level) for level in (high, low))
    return {"labels": affinity.confident(*both)}


@per_image("psa-labels", "PSA's labels", arrays=("labels",), gpu=False)
def psa_labels(image: LabelledImage, maps: np.ndarray, long_side: int | None) -> Values:
    """PSA's training ``labels``: the CRF on scores with much and with little background."""
    pixels = views.resized_image(image.pixels(), long_side)
    maps, both = torch.from_numpy(views.resize_maps(maps, pixels.shape[:2])), []
    for alpha in PSA_ALPHAS:
        refined = crf.refine_scores(pixels, psa.background(maps, alpha).numpy(), crf.PSA)
        both.append(to_dataset_labels(refined.argmax(axis=0), image.classes))
    return {"labels": affinity.confident(*both)}


# ---- walks --------------------------------------------------------------------------------------
@per_image("irn-walk", "IRN's walk", arrays=("maps", "edges"))
def irn_walk(
    image: LabelledImage,
    maps: np.ndarray,
    model: TrainedModel,
    walk: Walk,
    long_side: int | None,
) -> Values:
    """Seeds after IRN's walk.

    Args:
        image: One image.
        maps: Its seeds, ``(K, h, w)``.
        model: The trained IRN.
        walk: How it is made.
        long_side: Of the image at scale 1, in pixels; None: as it is.

    Returns:
        ``maps``: ``(K, h, w)`` float16 in [0, 1], of the seeds' size; ``edges``: the boundary map
        ``(h', w')`` float16 on its grid.
    """
    pixels = views.to_tensor(image.pixels(), long_side).to(device())
    edge, _ = irn.predict(loaded(model), pixels)
    coarse = on_grid(maps, edge.shape) ** walk.power
    walked = random_walk.propagate(coarse, edge, walk.radius, walk.beta, walk.log2_steps)
    walked = views.resize_maps(walked.cpu().numpy(), maps.shape[-2:])
    peak = walked.max(initial=0) if walk.one_maximum else walked.max(axis=(1, 2), keepdims=True)
    walked = walked / (peak + 1e-5)
    return {"maps": walked.astype(np.float16), "edges": edge.cpu().numpy().astype(np.float16)}


def on_grid(maps: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Maps ``(K, h, w)`` averaged on a grid, on the device that computes."""
    tensor = torch.from_numpy(maps.astype(np.float32)).to(device())
    if not len(tensor):
        return tensor.new_zeros(0, *size)
    return F.interpolate(tensor[None], tuple(size), mode="area")[0]


@per_image("psa-walk", "PSA's walk", arrays=("labels",))
def psa_walk(
    image: LabelledImage,
    maps: np.ndarray,
    model: TrainedModel,
    alpha: float,
    log2_steps: int,
    long_side: int | None,
) -> Values:
    """``labels`` after PSA's walk of the maps and of a background score with this alpha."""
    network = loaded(model)
    pixels = views.to_tensor(image.pixels(), long_side).to(device())
    affinities = psa.predict(network, pixels, PSA_RADIUS)
    size = affinity.grid(pixels.shape[-2:], network.stride)
    scores = psa.background(on_grid(maps, size), alpha)
    walked = random_walk.walk(scores, affinities, PSA_BETA, log2_steps)
    resized = views.resize_maps(walked.cpu().numpy(), pixels.shape[-2:])
    return {"labels": to_dataset_labels(resized.argmax(axis=0), image.classes)}


# ---- saliency -----------------------------------------------------------------------------------
@per_image("saliency-labels", "saliency", arrays=("labels",), gpu=False)
def salient_labels(
    image: LabelledImage, labels: np.ndarray, salient: np.ndarray, threshold: float = 0.5
) -> Values:
    """``labels`` cut out by saliency (`saliency.combine`), 255 where the two disagree.

    salient: ``(H, W)`` uint8, resized to the labels.
    """
    resized = views.resize_maps(salient[None].astype(np.float32) / 255, labels.shape)[0]
    return {"labels": saliency.combine(labels, resized, threshold)}


# ---- scores -------------------------------------------------------------------------------------
def _scores(results: PerImageResult) -> Values:
    count = len(results.images.classes) + 1
    each, confusion = results.each(), np.zeros(count * (count + 1), np.int64)
    for scores in each:
        confusion[scores["at"]] += scores["pixels"]
    both = {reading: np.stack([s[reading] for s in each]) for reading in ("error", "background")}
    return {"scores": both | {"confusion": confusion.reshape(count, count + 1)}}


@per_image("score-labels", "scores of the labels", gather=_scores, gpu=False)
def score(image: LabelledImage, labels: np.ndarray) -> Values:
    """How label maps fit the masks, 255 in a label map read both ways.

    Args:
        image: One image.
        labels: Its label map, resized to the mask, nearest.

    Returns:
        ``scores``: counts ``(N, 3, n)`` int32, see `miou.counts`: ``error``, where an ignored pixel
        is predicted nowhere, and ``background``, where it is background (difference 11). And
        ``confusion`` ``(n, n + 1)`` int64, summed over images, whose last column counts ignored
        pixels. n counts the background.
    """
    mask, count = image.mask(), len(image.images.classes) + 1
    own = views.resize_labels(torch.tensor(labels), mask.shape).numpy()
    void = np.where(own == 255, count, own)
    confusion = miou.confusion(void, mask, count + 1)[:count]
    background = confusion[:, :count].copy()
    background[:, 0] += confusion[:, count]
    at = np.flatnonzero(confusion)
    return {
        "error": miou.counts(confusion).astype(np.int32),
        "background": miou.counts(background).astype(np.int32),
        "at": at,
        "pixels": confusion.ravel()[at],
    }
