"""From seeds to pseudo ground truth, each step a stage over an image set.

Maps become label maps at a threshold; the CRF, PSA's and IRN's walk refine them; saliency cuts them
out. Label maps are ``(h, w)`` uint8 at the size of the image at scale 1, whose longer side is
``long_side`` (None: as it is): 0 background, k + 1 class k, 255 ignored. Maps ``(K, h, w)``, of the
image's K classes, may be stored coarser than that.
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
PSA_RADIUS, PSA_BETA = 5, 8.0


# ---- label maps ---------------------------------------------------------------------------------
def label_map(
    maps: np.ndarray, classes: np.ndarray, threshold: float, pixels: np.ndarray | None = None
) -> np.ndarray:
    """Each pixel's highest map, background where none exceeds the threshold: labels ``(h, w)``.

    With pixels ``(h, w, 3)``: after the CRF.
    """
    constant = np.full((1, *maps.shape[1:]), threshold, np.float32)
    local = np.concatenate([constant, maps.astype(np.float32)]).argmax(axis=0)
    if pixels is not None:
        local = crf.refine_labels(pixels, local, len(classes) + 1)
    return _dataset_labels(local, classes)


def _dataset_labels(local: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Labels among an image's own, 0 .. K, -> labels among all classes, uint8."""
    return np.concatenate([[0], np.asarray(classes, int) + 1]).astype(np.uint8)[local]


def _at_scale_1(
    image: LabelledImage, maps: np.ndarray, long_side: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels ``(h, w, 3)`` uint8, and the maps at their size."""
    pixels = views.resized_image(image.pixels(), long_side)
    return pixels, views.resize_maps(maps, pixels.shape[:2])


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
    pixels, maps = _at_scale_1(image, maps, long_side)
    return {"labels": label_map(maps, image.classes, threshold, pixels)}


@per_image("sure-labels", "labels for IRN and PSA", arrays=("labels",), gpu=False)
def sure_labels(
    image: LabelledImage, maps: np.ndarray, threshold: float, long_side: int | None
) -> Values:
    """``labels`` that IRN and PSA learn from: of which CRFs above and below a threshold are sure.

    PSA's own are from two background scores (alpha 4 and 32), which fit maps whose threshold is 0.2
    and no others: a foreground above 0.28, where many scenes' maps have their threshold at 0.7.
    """
    pixels, maps = _at_scale_1(image, maps, long_side)
    levels = (threshold + FOREGROUND_MARGIN, max(0.0, threshold - BACKGROUND_MARGIN))
    both = (label_map(maps, image.classes, level, pixels) for level in levels)
    return {"labels": affinity.confident(*both)}


# ---- walks --------------------------------------------------------------------------------------
def on_grid(maps: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Maps ``(K, h, w)`` averaged on a grid, on the device that computes."""
    tensor = torch.from_numpy(maps.astype(np.float32)).to(device())
    return F.interpolate(tensor[:, None], tuple(size), mode="area")[:, 0]


@per_image("irn-walk", "IRN's walk", arrays=("maps",))
def irn_walk(
    image: LabelledImage, maps: np.ndarray, model: TrainedModel, walk: Walk, long_side: int | None
) -> Values:
    """``maps`` float16 after IRN's walk, as coarse as before."""
    pixels = views.to_tensor(image.pixels(), long_side).to(device())
    edge, _ = irn.predict(loaded(model), pixels)
    walked = walk.spread(on_grid(maps, edge.shape), edge).cpu()
    walked = walk.divided(views.resize_map_tensor(walked, maps.shape[-2:]))
    return {"maps": walked.numpy().astype(np.float16)}


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
    return {"labels": _dataset_labels(resized.argmax(axis=0), image.classes)}


# ---- saliency and scores ------------------------------------------------------------------------
@per_image("saliency-labels", "saliency", arrays=("labels",), gpu=False)
def salient_labels(image: LabelledImage, labels: np.ndarray, salient: np.ndarray) -> Values:
    """``labels`` cut out (`saliency.combine`) by maps ``(H, W)`` uint8, resized to the labels."""
    resized = views.resize_maps(salient[None].astype(np.float32) / 255, labels.shape)[0]
    return {"labels": saliency.combine(labels, resized)}


def _scores(results: PerImageResult) -> Values:
    count = len(results.images.classes) + 1
    each, confusion = results.each(), np.zeros(count * (count + 1), np.int64)
    for scores in each:
        confusion[scores["at"]] += scores["pixels"]
    both = {reading: np.stack([s[reading] for s in each]) for reading in ("error", "background")}
    return {"scores": both | {"confusion": confusion.reshape(count, count + 1)}}


@per_image("score-labels", "scores of the labels", gather=_scores, gpu=False)
def score(image: LabelledImage, labels: np.ndarray) -> Values:
    """How label maps, resized to the masks, fit them, 255 in a label map read both ways.

    The stage returns ``scores``: `miou.counts` ``(N, 3, n)`` int32 where an ignored pixel is an
    ``error`` and where it is ``background`` (difference 11), and ``confusion`` ``(n, n + 1)`` int64
    of all images, whose last column counts ignored pixels.
    """
    mask, count = image.mask(), len(image.images.classes) + 1
    predicted = views.resize_labels(torch.tensor(labels), mask.shape).numpy()
    predicted = np.where(predicted == 255, count, predicted)
    confusion = miou.confusion(predicted, mask, count + 1)[:count]
    background = confusion[:, :count].copy()
    background[:, 0] += confusion[:, count]
    at = np.flatnonzero(confusion)
    return {
        "error": miou.counts(confusion).astype(np.int32),
        "background": miou.counts(background).astype(np.int32),
        "at": at,
        "pixels": confusion.ravel()[at],
    }
