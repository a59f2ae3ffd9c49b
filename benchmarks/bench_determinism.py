"""The same computation twice: how far two runs differ. On a GPU also: how far it is from the CPU.

Each part runs twice on whatever device there is, from the same seeds: a classifier's training, an
adaptation, a random walk, an evaluation, IRN's training and a segmentation network's. What is told
is the largest difference over the largest value: 0 says that all bits are the same. On a CPU also:
what another number of threads, and older instructions, change. Networks and scenes are `mini`'s;
each run has a process of its own.
"""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import measuring
import numpy as np
import torch
from torch import Tensor

from ribkit.data import scenes, views
from ribkit.evaluation import thresholds
from ribkit.method import adaptation
from ribkit.method.others import OtherImageSampler
from ribkit.method.settings import Settings
from ribkit.networks import classifier, configs, deeplab
from ribkit.networks.backbone import PRECISIONS
from ribkit.refinement import irn, random_walk
from ribkit.runtime.device import device
from ribkit.study import maps

COUNT, STEPS = 32, 20
N_LABELS = len(scenes.CLASSES) + 1
ADAPTATION = Settings(lr=1e-3, n_others=10, margin=1e9)  # GNDRP, 10 steps
EPOCHS = STEPS * 8 // COUNT
CLASSIFIER = configs.ClassifierConfig(
    epochs=EPOCHS, batch=8, lr=0.05, momentum=0.9, long_sides=(56, 72), crop=64
)
HEADS = configs.AffinityConfig(
    radius=5, epochs=EPOCHS, batch=8, lr=0.05, momentum=0.9, scales=(1.0, 1.0), crop=64
)
NETWORK = configs.DeepLabConfig(aspp_rates=(1, 2), iterations=STEPS, batch=8, lr=0.01, crop=64)

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}

Found, Arrays = dict[str, Tensor], dict[str, np.ndarray]


def training() -> Found:
    """Weights of a classifier after 20 steps."""
    images = scenes.generate(0, COUNT)
    return trained(classifier.train, "small", images, images.take([0]), CLASSIFIER)


def irn_training() -> Found:
    """Weights of IRN's heads after 20 steps on masks."""
    settings = {"n_labels": N_LABELS, "long_side": None, "training": HEADS}
    return trained(irn.train, backbone="small", parts=masks(), **settings)


def network_training() -> Found:
    """Weights of a segmentation network after 20 steps on masks; bfloat16 on a GPU."""
    return trained(deeplab.train, "small", N_LABELS, masks(), NETWORK, None)


def masks() -> tuple:
    """Scenes that a network learns from with their own masks."""
    return ((scenes.generate(0, COUNT), None),)


def trained(train: Callable[..., dict], *arguments, **settings) -> Found:
    """The weights that a training ends with."""
    with tempfile.TemporaryDirectory() as folder:
        return train(*arguments, scratch=Path(folder), **settings)["weights"]


def adapted(precision: str) -> Found:
    """Summed maps of a RIB with 10 steps, from untrained weights, for each of 2 images."""
    network, images = classifier.build("small", len(scenes.CLASSES)), scenes.generate(0, COUNT)
    network.precision = PRECISIONS[precision]
    if device().type == "cuda":
        network.to(memory_format=torch.channels_last)
    network, labels = network.to(device()), torch.from_numpy(images.labels).float().to(device())
    pixels = torch.stack([views.to_tensor(images.image(i)) for i in range(COUNT)])
    bank = {"features": network.features(pixels.to(device())), "labels": labels}
    found = {}
    for index in range(2):
        _, pairs = maps.frozen_features(network, images[index], maps.Sizes((1.0, 0.5)))
        draw = OtherImageSampler(bank, labels[index], ADAPTATION.n_others, images.ids[index], 0)
        made = adaptation.adapt(network, pairs, labels[index], draw, ADAPTATION)
        found |= {f"{index} {scale}": raw for scale, raw in made.maps.items()}
    return found


def walked() -> Found:
    """Maps after 2^8 steps of IRN's walk, at the size of a VOC image at stride 4."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(2, 94, 125, generator=generator).to(device())
    edge = torch.rand(94, 125, generator=generator).to(device()) ** 4
    return {"maps": random_walk.propagate(raw, edge)}


def evaluated() -> Found:
    """Counts of maps of 375 x 500 at the 100 thresholds."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(2, 375, 500, generator=generator).to(device())
    mask = torch.randint(0, 3, (375, 500), generator=generator).numpy()
    _, found = thresholds.sweep(raw, torch.arange(2).numpy(), mask)
    return {"counts": torch.from_numpy(found)}


PARTS: dict[str, Callable[[], Found]] = {
    "classifier's training, 20 steps": training,
    "adaptation, float32": partial(adapted, "float32"),
    "adaptation, bfloat16": partial(adapted, "bfloat16"),
    "random walk, 256 steps": walked,
    "evaluation, 100 thresholds": evaluated,
    "IRN's training, 20 steps": irn_training,
    "network's training, 20 steps": network_training,
}


def every() -> dict[str, Arrays]:
    """What each part computes."""
    return {
        name: {key: tensor.cpu().numpy() for key, tensor in part().items()}
        for name, part in PARTS.items()
    }


def computed(**settings: str) -> dict[str, Arrays]:
    """`every`, in a process of its own that finds these settings in its environment."""
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "2"} | settings):
        return measuring.apart(every)


def difference(one: Arrays, other: Arrays) -> float:
    """Largest difference over the largest value, of the array where that is most; 0: all bits."""
    return max(_difference(one[key], other[key]) for key in one)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    if one.tobytes() == other.tobytes():
        return 0.0
    one, other = one.astype(float), other.astype(float)
    return float(np.abs(one - other).max() / np.abs(one).max())


def measure() -> list[dict]:
    """One entry: by how much each part differs between two processes, and between two ways."""
    first = computed()
    others = {"two runs differ by": {}}
    if device().type == "cuda":
        others["GPU and CPU differ by"] = {"RIBKIT_DEVICE": "cpu"}
    else:
        others["2 threads and 1 differ by"] = {"OMP_NUM_THREADS": "1"}
        others["this CPU's instructions and AVX2 differ by"] = AVX2
    entry = {"name": "determinism", "device": measuring.name()}
    for words, settings in others.items():
        again = computed(**settings)
        entry[words] = {name: difference(first[name], again[name]) for name in PARTS}
    return [entry]


if __name__ == "__main__":
    for found in measure():
        print(measuring.words(found))
