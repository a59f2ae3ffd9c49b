"""What a trained segmentation network predicts, image by image, and how it fits."""

from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from ribkit.data import views
from ribkit.data.images import ImageSet
from ribkit.evaluation import miou
from ribkit.networks.deeplab import Model, Segmenter, probabilities
from ribkit.refinement import crf
from ribkit.runtime import per_image
from ribkit.runtime.store import Result


@lru_cache(maxsize=1)
def _loaded(model: Model) -> Segmenter:
    return model.load()


def predict(
    model: Model,
    images: ImageSet,
    scales: tuple[float, ...],
    long_side: int | None,
    scratch: Path,
) -> dict:
    """Label maps of the images at the size seen: ``labels``, and ``refined`` by the CRF.

    Image name -> ``(h, w)`` uint8 each. scratch: see `per_image`.
    """
    task = partial(_predict, model, images, scales, long_side)
    made = per_image.map_to_disk(task, images, scratch, "prediction and CRF")
    return {value: made.arrays(value) for value in ("labels", "refined")}


def _predict(model, images: ImageSet, scales, long_side, index: int) -> dict:
    image = images.image(index)
    scores = probabilities(_loaded(model), image, scales, long_side).cpu().numpy()
    seen = views.to_tensor(image, long_side).round().to(torch.uint8).permute(1, 2, 0).numpy()
    refined = crf.refine_scores(seen, scores, crf.NETWORK)
    found = {"labels": scores, "refined": refined}
    return {value: one.argmax(axis=0).astype(np.uint8) for value, one in found.items()}


def score(images: ImageSet, predictions: Result, value: str) -> dict:
    """How predictions fit the masks: ``counts``, ``(N, 3, n)`` int32, see `miou.counts`.

    value: ``"labels"`` or ``"refined"``. Predictions are resized to the masks, nearest.
    """
    found = per_image.measure_each(images, predictions, value, _score, "scores of the network")
    return {"counts": {"counts": np.stack(found)}}


def _score(images: ImageSet, index: int, labels: np.ndarray) -> np.ndarray:
    mask = images.mask(index)
    own = views.resize_labels(torch.tensor(labels), mask.shape).numpy()
    confusion = miou.confusion(own, mask, len(images.classes) + 1)
    return miou.counts(confusion).astype(np.int32)


# ---- a network that knows objects, of whatever class -------------------------------------------
def objects(images: ImageSet) -> dict:
    """``labels`` that say where any object is: 1 there, 0 elsewhere, 255 stays."""
    found = {}
    for index, name in enumerate(images.ids):
        mask = images.mask(index)
        found[name] = np.where((mask > 0) & (mask != 255), 1, mask).astype(np.uint8)
    return {"labels": found}


def foreground(model: Model, images: ImageSet, long_side: int | None, scratch: Path) -> dict:
    """How likely each pixel is an object's: ``maps``, image name -> ``(h, w)`` uint8, 255 sure.

    scratch: see `per_image`.
    """
    task = partial(_foreground, model, images, long_side)
    return {"maps": per_image.map_to_disk(task, images, scratch, "saliency").arrays("maps")}


def _foreground(model, images: ImageSet, long_side, index: int) -> dict:
    found = probabilities(_loaded(model), images.image(index), (1.0,), long_side)
    return {"maps": (255 * found[1]).round().to(torch.uint8).cpu().numpy()}
