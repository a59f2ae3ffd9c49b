"""The other images of an adaptation: B that share no class with its image, drawn anew each step."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from ribkit.runtime.device import send


def image_rng_seed(rng_seed: int, name: str) -> int:
    """A random seed for one image, whatever its place: 48 bits of a SHA-256 of its name."""
    text = f"{rng_seed} {name}".encode(errors="surrogateescape")  # files are named in any encoding
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")


class OtherImageSampler:
    r"""Draw the other images of one image: B that share no class with it, without repeats.

    .. math:: \{x_1, \dots, x_B\} \subset \{x' : t(x')^\top t(x) = 0\}

    The official code of the paper (arXiv:2110.06530) decodes B images in each step; here they come
    as frozen features out of a bank. Each step draws anew, seeded by the image's name and the step.

    Args:
        bank: ``features`` ``(M, c, h, w)``, frozen, and ``labels`` ``(M, C)``, of M images.
        labels: ``(C,)`` of the image that is adapted.
        count: B; fewer are drawn if no more exist.
        name: Name of the image that is adapted.
        rng_seed: Random seed of the run.

    Example:
        >>> bank = {"features": torch.arange(3.0).view(3, 1, 1, 1),
        ...         "labels": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])}
        >>> sampler = OtherImageSampler(bank, torch.tensor([1.0, 0.0]), 2, "cat", rng_seed=0)
        >>> features, labels = sampler(0)  # of step 0: one image only is without class 0
        >>> features.flatten().tolist(), labels.tolist()
        ([1.0], [[0.0, 1.0]])
    """

    def __init__(
        self, bank: Mapping[str, Tensor], labels: Tensor, count: int, name: str, rng_seed: int
    ):
        self.bank, self.count = bank, count
        disjoint = (bank["labels"] @ labels.to(bank["labels"])) == 0
        self.candidates = disjoint.nonzero().flatten().cpu()
        self.rng_seed = image_rng_seed(rng_seed, name)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Frozen features ``(B, c, h, w)`` and labels ``(B, C)`` of this step's other images."""
        generator = torch.Generator().manual_seed(self.rng_seed + step)
        order = torch.randperm(len(self.candidates), generator=generator)[: self.count]
        chosen = self.candidates[order]
        chosen = send(chosen, self.bank["labels"].device)
        return self.bank["features"][chosen], self.bank["labels"][chosen]
