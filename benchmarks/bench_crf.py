"""The CRF on one core against all cores, at the size of VOC photographs.

Sixteen images of 375 x 500 pixels (scikit-image's cat, shifted) with three labels each.
"""

import os
from functools import partial

import measuring
import numpy as np
from skimage import data
from skimage.transform import resize

from ribkit.refinement import crf
from ribkit.runtime import parallel

COUNT, SIZE, LABELS = 16, (375, 500), 3


def refine(image: np.ndarray, index: int) -> np.ndarray:
    """One image's labels after the CRF."""
    random = np.random.default_rng(index)
    cells = random.integers(0, LABELS, (5, 5))
    labels = np.kron(cells, np.ones((75, 100), int))
    return crf.refine_labels(np.roll(image, index, axis=1), labels, LABELS)


def refined(image: np.ndarray, workers: int, count: int) -> list[np.ndarray]:
    """Labels of so many images after the CRF."""
    os.environ["RIBKIT_WORKERS"] = str(workers)
    return parallel.map_images(partial(refine, image), range(count), "CRF")


def measure() -> list[dict]:
    """Both ways, three times, alternating."""
    image = (255 * resize(data.chelsea(), SIZE)).astype(np.uint8)
    cores = len(os.sched_getaffinity(0))
    for count in (1, cores):
        refined(image, count, count)  # processes started and warm before the clock is
    ways = {f"{count} workers": partial(refined, image, count, COUNT) for count in (1, cores)}
    seconds, results = measuring.alternate(ways)
    for alone, together in zip(*results.values(), strict=True):
        assert (alone == together).all()
    alone, together = seconds.values()
    return [
        {
            "name": "crf",
            "ratio": alone / together,
            "device": measuring.name(),
            "size": {"image": SIZE, "labels": LABELS, "images": COUNT, "cores": cores},
            "seconds": seconds,
            "share of linear": alone / together / cores,
        }
    ]


if __name__ == "__main__":
    for found in measure():
        print(measuring.words(found))
