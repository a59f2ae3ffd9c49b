"""The other images of an adaptation: B that share no class with its image, drawn anew each step."""

import hashlib

import torch
from torch import Tensor


def image_rng_seed(rng_seed: int, name: str) -> int:
    """An image's own seed."""
    return int.from_bytes(hashlib.sha256(f"{rng_seed} {name}".encode()).digest()[:6], "big")


class OtherImageSampler:
    """Draws the others of one image: B of the pool that share no class with it, without repeats.

    Anew at each step, from a generator seeded by the image's name. Fewer than B, if no more exist.
    """

    def __init__(
        self, pool: dict[str, Tensor], labels: Tensor, count: int, name: str, rng_seed: int
    ):
        self.pool, self.count = pool, count
        disjoint = (pool["labels"] @ labels.to(pool["labels"])) == 0
        self.candidates = disjoint.nonzero().flatten().cpu()
        self.rng_seed = image_rng_seed(rng_seed, name)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Frozen features ``(B, c, h, w)`` and labels ``(B, C)`` of this step's others."""
        generator = torch.Generator().manual_seed(self.rng_seed + step)
        order = torch.randperm(len(self.candidates), generator=generator)[: self.count]
        # the copy of the few numbers must not wait for what the device is doing
        chosen = _pinned(self.candidates[order], self.pool["labels"].device)
        return self.pool["features"][chosen], self.pool["labels"][chosen]


def _pinned(numbers: Tensor, where: torch.device) -> Tensor:
    """Numbers on a device, copied there without waiting for it."""
    if where.type == "cuda":
        return numbers.pin_memory().to(where, non_blocking=True)
    return numbers.to(where)
