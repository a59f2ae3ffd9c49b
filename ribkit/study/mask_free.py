"""A threshold that is chosen without any mask, from image labels and maps alone.

The rule is Otsu's, of all images' pixels together (`thresholds.otsu`). It was picked on scenes that
nothing is scored on, against the best threshold for the same scenes. Of CAM's maps (three
trainings, each set of scales, 24 tuning scenes and 224 others) it lost 1.3 points of mIoU, of the
four RIBs' at five rates 1.2. Yen's lost a little less there (1.1, 0.7), but 11 on maps that are
clipped at a percentile, where Otsu's lost 3. Isodata's lost as much as Otsu's; the mean value,
Li's, triangle, minimum and multi-Otsu's more. On the scored scenes of `mini-large` Otsu's loses
more: of CAM's maps 2.6 points, of RIBs' 3.4 to 3.8.
"""

import numpy as np
import torch

from ribkit.data.images import ImageSet, LabelledImage
from ribkit.evaluation import thresholds
from ribkit.runtime.per_image import PerImageResult, per_image
from ribkit.runtime.store import Store, StoredArrays, Values


def _stacked(results: PerImageResult) -> Values:
    return {"pixels": {"levels": np.stack([each["levels"] for each in results.each()])}}


@per_image("levels", "levels of the maps", gather=_stacked, gpu=False)
def levels(image: LabelledImage, maps: np.ndarray) -> Values:
    """How many pixels' highest map exceeds how many thresholds: ``levels`` ``(101,)`` int64.

    The stage returns ``pixels``: all images' ``levels`` ``(N, 101)``. Pixels are those of the maps,
    as they are stored; an image without a label, which has no map, has none.
    """
    best = torch.tensor(maps).amax(dim=0) if len(maps) else torch.zeros(0)
    exceeded = thresholds.exceeded(best).flatten()
    return {"levels": torch.bincount(exceeded, minlength=len(thresholds.THRESHOLDS) + 1).numpy()}


def threshold(store: Store, images: ImageSet, maps: StoredArrays) -> int:
    """Index, 0 to 99, of the threshold of these maps that is chosen without any mask."""
    found = store.run(levels, images=images, maps=maps).arrays("pixels")
    return thresholds.otsu(found["levels"].sum(axis=0))
