"""The CRF on one core against all cores, at the size of VOC photographs; prints the ratio.

Sixteen images of 375 x 500 pixels (scikit-image's cat, shifted) with three labels each. Processes
are started and warm before the clock is.
"""

import os
import time
from functools import partial

import numpy as np
from skimage import data
from skimage.transform import resize

from ribkit import crf, parallel

COUNT, SIZE, LABELS = 16, (375, 500), 3


def refine(image: np.ndarray, index: int) -> np.ndarray:
    """One image's labels after the CRF."""
    random = np.random.default_rng(index)
    cells = random.integers(0, LABELS, (5, 5))
    labels = np.kron(cells, np.ones((75, 100), int))
    return crf.refine_labels(np.roll(image, index, axis=1), labels, LABELS)


def seconds(image: np.ndarray, workers: int) -> tuple[float, list[np.ndarray]]:
    """Wall seconds for all images, and their labels."""
    os.environ["RIBKIT_WORKERS"] = str(workers)
    task = partial(refine, image)
    parallel.map_images(task, range(workers), "warming up")
    started = time.perf_counter()
    found = parallel.map_images(task, range(COUNT), "CRF")
    return time.perf_counter() - started, found


def main() -> None:
    """Measure both ways three times, alternating; print the best of each and their ratio."""
    image = (255 * resize(data.chelsea(), SIZE)).astype(np.uint8)
    cores = len(os.sched_getaffinity(0))
    times = {1: [], cores: []}
    for _ in range(3):
        for workers in times:
            took, found = seconds(image, workers)
            times[workers].append(took)
            if workers == 1:
                alone = found
            assert all((a == b).all() for a, b in zip(alone, found, strict=True))
    for workers, taken in times.items():
        print(f"{workers} workers: {min(taken) / COUNT:.2f} s an image")
    print(f"ratio: {min(times[1]) / min(times[cores]):.2f} with {cores} cores")


if __name__ == "__main__":
    main()
