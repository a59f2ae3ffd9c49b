"""What a trained segmentation network predicts, image by image."""

import numpy as np
import torch

from ribkit.data import views
from ribkit.data.images import LabelledImage
from ribkit.networks.deeplab import probabilities
from ribkit.networks.trained import TrainedModel, loaded
from ribkit.refinement import crf
from ribkit.runtime.per_image import per_image
from ribkit.runtime.store import Values


@per_image("predictions", "prediction and CRF", arrays=("labels", "refined"))
def predict(
    image: LabelledImage,
    model: TrainedModel,
    scales: tuple[float, ...],
    long_side: int | None,
    crf_min_score: float = 0.0,
) -> Values:
    """Label maps ``(h, w)`` of an image at scale 1: ``labels``, and ``refined`` by the CRF."""
    scores = probabilities(loaded(model), image.pixels(), scales, long_side).cpu().numpy()
    pixels = views.resized_image(image.pixels(), long_side)
    refined = crf.refine_scores(pixels, scores, crf.NETWORK, min_score=crf_min_score)
    both = {"labels": scores, "refined": refined}
    return {value: s.argmax(axis=0).astype(np.uint8) for value, s in both.items()}


@per_image("predictions-present", "prediction", arrays=("labels",))
def predict_present(
    image: LabelledImage, model: TrainedModel, scales: tuple[float, ...], long_side: int | None
) -> Values:
    """``labels`` of an image at scale 1, of the classes that it is known to show."""
    scores = probabilities(loaded(model), image.pixels(), scales, long_side).cpu().numpy()
    labels = np.append(0, image.classes + 1)
    return {"labels": labels[scores[labels].argmax(axis=0)].astype(np.uint8)}


# ---- a network that knows objects, of whatever class -------------------------------------------
@per_image("objects", "objects", arrays=("labels",), gpu=False)
def objects(image: LabelledImage) -> Values:
    """``labels`` that say where any object is: 1 there, 0 elsewhere, 255 stays."""
    mask = image.mask()
    return {"labels": np.where(mask == 255, mask, mask > 0)}


@per_image("saliency", "saliency", arrays=("maps",))
def foreground(image: LabelledImage, model: TrainedModel, long_side: int | None) -> Values:
    """How likely each pixel is an object's: ``maps``, image name -> ``(h, w)`` uint8, 255 sure."""
    likely = probabilities(loaded(model), image.pixels(), (1.0,), long_side)[1]
    return {"maps": (255 * likely).round().to(torch.uint8).cpu().numpy()}
