"""Peak memory of an adaptation at the paper's size, ours against the official way of working,
each in a process of its own.

ResNet-50 (random weights), scales up to 2.0, all others of a step: VOC (375 x 500, B = 20) and COCO
(480 x 640, B = 15). On a GPU what its allocator held at most, network and features included; on a
CPU the process's memory beyond what it held before, which has the same tensors but other kernels.
"""

import dataclasses
from functools import partial

import measuring
import torch
from bench_adaptation import COCO, VOC, Size, bank, label, ours, theirs

from ribkit.runtime.device import device
from ribkit.runtime.progress import measured


def held(size: Size, official: bool) -> float:
    """Peak of two steps in MiB: the official way's in float32, or ours in bfloat16."""
    size = dataclasses.replace(size, steps=2)
    others = torch.zeros(size.n_others, 3, size.side, size.side, device=device())
    drawn = others, label(size, others=True)
    if official:
        run = partial(theirs, size, lambda step: drawn)
    else:
        run = partial(ours, size, torch.bfloat16, bank(size, torch.bfloat16, drawn))
    with measured() as measures:
        run()
    return measures["memory"]


def measure() -> list[dict]:
    """An entry for each data set."""
    entries = []
    for name, size in (("VOC", VOC), ("COCO", COCO)):
        official, own = (measuring.apart(held, size, way) for way in (True, False))
        entries.append(
            {
                "name": f"memory, {name}",
                "ratio": official / own,
                "device": measuring.name(),
                "size": dataclasses.asdict(size),
                "peak memory (MiB)": {"official, float32": official, "ours, bfloat16": own},
            }
        )
    return entries


if __name__ == "__main__":
    for found in measure():
        print(measuring.words(found))
