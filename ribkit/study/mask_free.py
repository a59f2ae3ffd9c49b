"""A threshold that is chosen without any mask, from image labels and maps alone.

The rule is Otsu's, on the highest map of every pixel of all images together. It was picked on
scenes that nothing is scored on: 24 tuning scenes with CAM and all RIBs that were tried there, and
224 others with CAM, three trainings each, every set of scales. TODO
"""

import numpy as np
import torch

from ribkit.data.images import ImageSet, LabelledImage
from ribkit.evaluation import thresholds
from ribkit.runtime.per_image import PerImageResult, per_image
from ribkit.runtime.store import Store, StoredArrays, Values


def _total(results: PerImageResult) -> Values:
    return {"pixels": {"levels": np.sum([each["levels"] for each in results.each()], axis=0)}}


@per_image("levels", "levels of the maps", gather=_total, gpu=False)
def levels(image: LabelledImage, maps: np.ndarray) -> Values:
    """How many pixels' highest map exceeds how many thresholds: ``levels`` ``(101,)`` int64.

    The stage returns ``pixels``: their sum over all images. Pixels are those of the maps, as they
    are stored; an image without a label, which has no map, has none.
    """
    best = torch.tensor(maps).amax(dim=0) if len(maps) else torch.zeros(0)
    exceeded = thresholds.exceeded(best).flatten()
    return {"levels": torch.bincount(exceeded, minlength=len(thresholds.THRESHOLDS) + 1).numpy()}


def threshold(store: Store, images: ImageSet, maps: StoredArrays) -> int:
    """Index, 0 to 99, of the threshold of these maps that is chosen without any mask."""
    found = store.run(levels, images=images, maps=maps).arrays("pixels")
    return thresholds.otsu(found["levels"])
