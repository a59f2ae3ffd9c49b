"""The random walk: sparse products against dense matrix powers, at the size of VOC maps.

Both on a GPU, or on one thread of a CPU. The dense way, written from the words of IRN's paper: fill
the matrix, normalise its columns, square it 8 times, multiply. A map of 94 x 125 (375 x 500 pixels
at stride 4) has 11,750 positions, so one squaring takes 3 teraflops: by default one of the eight is
timed and counted eight times (--whole does all).
"""

import argparse
import time
from functools import partial

import measuring
import torch

from ribkit.refinement import random_walk
from ribkit.runtime.device import device

SIZE, CLASSES, RADIUS, BETA, LOG2_STEPS = (94, 125), 2, 5, 10, 8


def measure(squarings: int = 1) -> list[dict]:
    """Both ways; at a size where both run whole, their difference too."""
    torch.set_num_threads(1)
    small = dense_walk(*maps((24, 32)), squarings=LOG2_STEPS)[0]
    own = random_walk.propagate(*maps((24, 32)), RADIUS, BETA, LOG2_STEPS)
    cam, edge = maps(SIZE)
    sparse = partial(random_walk.propagate, cam, edge, RADIUS, BETA, LOG2_STEPS)
    seconds, _ = measuring.alternate({"sparse": sparse})
    _, fill, square = dense_walk(cam, edge, squarings)
    seconds["dense"] = fill + LOG2_STEPS * square
    return [
        {
            "name": "random_walk",
            "ratio": seconds["dense"] / seconds["sparse"],
            "device": measuring.name(),
            "size": {"maps": (CLASSES, *SIZE), "radius": RADIUS, "steps": 2**LOG2_STEPS},
            "seconds": seconds,
            "squarings timed": squarings,
            "largest difference at 24 x 32": float((own - small).abs().max() / small.max()),
        }
    ]


def maps(size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Seeded maps and edges, on the device."""
    generator = torch.Generator().manual_seed(0)
    cam = torch.rand(CLASSES, *size, generator=generator)
    return cam.to(device()), (torch.rand(*size, generator=generator) ** 4).to(device())


def dense_walk(
    cam: torch.Tensor, edge: torch.Tensor, squarings: int
) -> tuple[torch.Tensor, float, float]:
    """Maps after the walk, seconds to make the matrix and seconds for each squaring."""
    started = time.perf_counter()
    affinity = random_walk.edge_affinity(edge, RADIUS).to_dense() ** BETA
    transition = affinity / affinity.sum(dim=0, keepdim=True)
    measuring.wait()
    filled = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(squarings):
        transition = transition @ transition
    measuring.wait()
    each = (time.perf_counter() - started) / squarings
    walked = (cam * (1 - edge)).flatten(1) @ transition
    return walked.view_as(cam), filled, each


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--whole", action="store_true", help="do all eight squarings")
    for found in measure(LOG2_STEPS if parser.parse_args().whole else 1):
        print(measuring.words(found))
