"""Four tiny trainings, stored in argv[1]: by itself or under torchrun, for test_distributed."""

import sys
from pathlib import Path

from ribkit.data import scenes
from ribkit.networks import classifier, deeplab
from ribkit.refinement import affinity, irn, psa
from ribkit.runtime import distributed
from ribkit.runtime.device import single_threaded
from ribkit.runtime.store import Store

IMAGES = scenes.generate(3, 6, size=48)
PARTS = ((IMAGES, None),)  # the masks
HEADS = affinity.AffinityConfig(stride=4, radius=3, epochs=2, batch=4, momentum=0.9, crop=48)
SHARED = {"backbone": "small", "n_labels": 9, "long_side": None, "parts": PARTS}
STAGES = {
    "classifier": {
        "stage": classifier.train,
        "backbone": "small",
        "images": IMAGES,
        "monitor_images": IMAGES.take([0, 1]),
        "training": classifier.ClassifierConfig(
            epochs=3, batch=4, lr=0.01, momentum=0.9, long_sides=(40, 56), crop=48
        ),
    },
    "irn": SHARED | {"stage": irn.train, "training": HEADS},
    "psa": SHARED | {"stage": psa.train, "training": HEADS},
    "network": SHARED
    | {
        "stage": deeplab.train,
        "training": deeplab.DeepLabConfig(
            aspp_rates=(1, 2), iterations=5, batch=4, lr=0.01, crop=48, checkpoint=2
        ),
    },
}


def train(store: Store) -> None:
    """All of them, on the processes that have joined."""
    for asked in STAGES.values():
        with distributed.collective():
            single_threaded(lambda asked: store.run(**asked), asked)


if __name__ == "__main__":
    with distributed.joined():
        train(Store(Path(sys.argv[1])))
