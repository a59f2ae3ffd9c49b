"""The random walk: sparse products against dense matrix powers, at the size of VOC maps (1 thread).

The dense way, written from the words of IRN's paper: fill the matrix, normalise its columns, square
it 8 times, multiply. A map of 94 x 125 (375 x 500 pixels at stride 4) has 11,750 positions, so one
squaring takes 3 teraflops: by default one of the eight is timed and counted eight times (--whole
does all). Prints the ratio.
"""

import argparse
import time

import torch

from ribkit import random_walk

SIZE, CLASSES, RADIUS, BETA, LOG2_STEPS = (94, 125), 2, 5, 10, 8


def main() -> None:
    """Measure both; print seconds, the ratio, and at a size where both run whole, the error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--whole", action="store_true", help="do all eight squarings")
    whole = parser.parse_args().whole
    torch.set_num_threads(1)
    small = dense_walk(*maps((24, 32)), squarings=LOG2_STEPS)[0]
    own = random_walk.propagate(*maps((24, 32)), RADIUS, BETA, LOG2_STEPS)
    print(f"24 x 32: largest difference {float((own - small).abs().max() / small.max()):.1e}")
    cam, edge = maps(SIZE)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        random_walk.propagate(cam, edge, RADIUS, BETA, LOG2_STEPS)
        times.append(time.perf_counter() - started)
    sparse = min(times)
    _, fill, square = dense_walk(cam, edge, LOG2_STEPS if whole else 1)
    dense = fill + LOG2_STEPS * square
    print(f"sparse: {sparse:.2f} s")
    print(f"dense: {dense:.0f} s ({fill:.1f} s to fill, {square:.1f} s for each squaring)")
    print(f"ratio: {dense / sparse:.0f}")


def maps(size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Seeded maps and edges."""
    generator = torch.Generator().manual_seed(0)
    cam = torch.rand(CLASSES, *size, generator=generator)
    return cam, torch.rand(*size, generator=generator) ** 4


def dense_walk(
    cam: torch.Tensor, edge: torch.Tensor, squarings: int
) -> tuple[torch.Tensor, float, float]:
    """Maps after the walk, seconds to make the matrix and seconds for each squaring."""
    started = time.perf_counter()
    affinity = random_walk.edge_affinity(edge, RADIUS).to_dense() ** BETA
    transition = affinity / affinity.sum(dim=0, keepdim=True)
    filled = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(squarings):
        transition = transition @ transition
    each = (time.perf_counter() - started) / squarings
    walked = (cam * (1 - edge)).flatten(1) @ transition
    return walked.view_as(cam), filled, each


if __name__ == "__main__":
    main()
