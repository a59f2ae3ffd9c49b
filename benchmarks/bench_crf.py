"""The CRF at the size of VOC photographs: one core against all, all labels against those in sight.

Sixteen images of 375 x 500 pixels (scikit-image's cat, shifted) with three labels each. Then a
network's scores of 21 and 81 labels, of which three have weight: all of them, and without those
that stay below 0.05 (`crf_min_score`), on one core.
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
ALL, MIN_SCORE = (21, 81), 0.05  # PASCAL VOC's and COCO's, with the background


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


def of_scores(image: np.ndarray, n_labels: int) -> dict:
    """The entry of a network's scores."""
    random = np.random.default_rng(0)
    weights = np.kron(random.random((LABELS, 5, 5)), np.ones((75, 100)))
    scores = np.full((n_labels, *SIZE), 1e-4)
    scores[:LABELS] = weights / weights.sum(axis=0)
    ways = {
        words: partial(crf.refine_scores, image, scores, crf.NETWORK, min_score=least)
        for words, least in (("all labels", 0.0), ("those in sight", MIN_SCORE))
    }
    seconds, results = measuring.alternate(ways, 2)
    both = [found.argmax(axis=0) for found in results.values()]
    return {
        "name": f"crf, {n_labels} labels",
        "ratio": seconds["all labels"] / seconds["those in sight"],
        "device": measuring.name(gpu=False),
        "size": {"image": SIZE, "labels": n_labels, "in sight": LABELS},
        "seconds": seconds,
        "pixels that differ": float((both[0] != both[1]).mean()),
    }


def measure() -> list[dict]:
    """Both ways, three times, alternating."""
    image = (255 * resize(data.chelsea(), SIZE)).astype(np.uint8)
    cores = parallel.cores()
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
            "device": measuring.name(gpu=False),
            "size": {"image": SIZE, "labels": LABELS, "images": COUNT, "cores": cores},
            "seconds": seconds,
            "share of linear": alone / together / cores,
        },
        *(of_scores(image, n_labels) for n_labels in ALL),
    ]


if __name__ == "__main__":
    for found in measure():
        print(measuring.words(found))
