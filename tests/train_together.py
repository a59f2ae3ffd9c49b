"""Four tiny trainings, stored in argv[1]: by itself or under torchrun, for test_distributed."""

import sys
from functools import partial
from pathlib import Path

from ribkit.data import scenes
from ribkit.networks import classifier, configs, deeplab
from ribkit.refinement import irn, psa
from ribkit.runtime import distributed
from ribkit.runtime.device import threads
from ribkit.runtime.store import Store

IMAGES = scenes.generate(3, 6, size=48)
PARTS = ((IMAGES, None),)  # the masks
HEADS = configs.AffinityConfig(stride=4, radius=3, epochs=2, batch=4, momentum=0.9, crop=48)
SHARED = {"backbone": "small", "n_labels": 9, "long_side": None}
STAGES = {
    "classifier": partial(
        classifier.train,
        backbone="small",
        images=IMAGES,
        monitor_images=IMAGES.take([0, 1]),
        training=configs.ClassifierConfig(
            epochs=3, batch=4, lr=0.01, momentum=0.9, long_sides=(40, 56), crop=48
        ),
    ),
    "irn": partial(irn.train, parts=PARTS, training=HEADS, **SHARED),
    "psa": partial(psa.train, parts=PARTS, training=HEADS, **SHARED),
    "network": partial(
        deeplab.train,
        parts=PARTS,
        training=configs.DeepLabConfig(
            aspp_rates=(1, 2), iterations=5, batch=4, lr=0.01, crop=48, checkpoint=2
        ),
        **SHARED,
    ),
}


def train(store: Store) -> None:
    """All of them, on the processes that have joined."""
    for call in STAGES.values():
        with distributed.collective(), threads(1):
            store.run(call.func, **call.keywords)


if __name__ == "__main__":
    with distributed.joined():
        train(Store(Path(sys.argv[1])))
