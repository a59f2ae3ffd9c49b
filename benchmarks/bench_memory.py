"""Peak memory of an adaptation at the paper's size, ours against the official way of working,
each in a process of its own.

ResNet-50 (random weights), scales up to 2.0, all others of a step: VOC (375 x 500, B = 20) and COCO
(480 x 640, B = 15). On a GPU what its allocator held at most, network and features included; on a
CPU what the process took beyond these, which has the same tensors but other kernels.
"""

import dataclasses
from functools import partial

import measuring
import torch
from bench_adaptation import COCO, VOC, Size, bank, label, ours, plain_network, theirs

from ribkit.runtime.device import device
from ribkit.runtime.progress import measured

PRECISIONS = {"official, float32": None, "ours, float32": None, "ours, bfloat16": torch.bfloat16}


def held(size: Size, way: str) -> float:
    """Peak of two steps in MiB; the network and what others are drawn from are there before."""
    size = dataclasses.replace(size, steps=2)
    others = torch.zeros(size.n_others, 3, size.side, size.side, device=device())
    drawn, precision = (others, label(size, others=True)), PRECISIONS[way]
    if way.startswith("official"):
        plain_network(size.backbone, size.classes)
        run = partial(theirs, size, lambda step: drawn)
    else:
        run = partial(ours, size, precision, bank(size, precision, drawn))
    with measured() as measures:
        run()
    return measures["memory"]


def measure() -> list[dict]:
    """An entry for each data set."""
    entries = []
    for name, size in (("VOC", VOC), ("COCO", COCO)):
        peaks = {way: measuring.apart(held, size, way) for way in PRECISIONS}
        official, full, half = peaks.values()
        entries.append(
            {
                "name": f"memory, {name}",
                "ratio": official / half,
                "device": measuring.name(),
                "size": dataclasses.asdict(size),
                "ratio in float32": official / full,
                "peak memory (MiB)": peaks,
            }
        )
    return entries


if __name__ == "__main__":
    for found in measure():
        print(measuring.words(found))
