"""What a trained segmentation network predicts, image by image, and how it fits."""

import numpy as np
import torch

from ribkit.data import views
from ribkit.data.images import ImageSet, LabelledImage
from ribkit.evaluation import miou
from ribkit.networks.deeplab import probabilities
from ribkit.networks.trained import TrainedModel, loaded
from ribkit.refinement import crf
from ribkit.runtime.per_image import PerImageResult, per_image
from ribkit.runtime.store import Values, stage


@per_image("predictions", "prediction and CRF", arrays=("labels", "refined"))
def predict(
    image: LabelledImage, model: TrainedModel, scales: tuple[float, ...], long_side: int | None
) -> Values:
    """Label maps of the images: ``labels``, and ``refined`` by the CRF, ``(h, w)`` uint8 each.

    Args:
        image: One image.
        model: The trained network.
        scales: At which it sees the image.
        long_side: Of the image at scale 1, in pixels, and of the label map; None: as it is.

    Returns:
        Both label maps by image name.
    """
    scores = probabilities(loaded(model), image.pixels(), scales, long_side).cpu().numpy()
    refined = crf.refine_scores(views.resized_image(image.pixels(), long_side), scores, crf.NETWORK)
    both = {"labels": scores, "refined": refined}
    return {value: s.argmax(axis=0).astype(np.uint8) for value, s in both.items()}


def _counts(results: PerImageResult) -> Values:
    return {"counts": {"counts": np.stack(list(results.arrays("counts").values()))}}


@per_image("score-network", "scores of the network", gather=_counts, gpu=False)
def score(image: LabelledImage, labels: np.ndarray) -> Values:
    """How predictions fit the masks: ``counts``, ``(N, 3, n)`` int32, see `miou.counts`.

    Predictions are resized to the masks, nearest.
    """
    mask = image.mask()
    own = views.resize_labels(torch.tensor(labels), mask.shape).numpy()
    confusion = miou.confusion(own, mask, len(image.images.classes) + 1)
    return {"counts": miou.counts(confusion).astype(np.int32)}


# ---- a network that knows objects, of whatever class -------------------------------------------
@stage("objects")
def objects(images: ImageSet) -> Values:
    """``labels`` that say where any object is: 1 there, 0 elsewhere, 255 stays."""
    masks = {image.name: image.mask() for image in images}
    return {
        "labels": {
            name: np.where((mask > 0) & (mask != 255), 1, mask).astype(np.uint8)
            for name, mask in masks.items()
        }
    }


@per_image("saliency", "saliency", arrays=("maps",))
def foreground(image: LabelledImage, model: TrainedModel, long_side: int | None) -> Values:
    """How likely each pixel is an object's: ``maps``, image name -> ``(h, w)`` uint8, 255 sure."""
    likely = probabilities(loaded(model), image.pixels(), (1.0,), long_side)[1]
    return {"maps": (255 * likely).round().to(torch.uint8).cpu().numpy()}
