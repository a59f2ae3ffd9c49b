"""Pooling maps to logits (Section 3.2): GAP, the global maximum, and GNDRP, which averages over
the non-discriminative region only.

GAP:    y_c = mean over u of M_c(u)
GNDRP:  y_c = mean over Q_c of M_c(u),   Q_c = {u : M_c(u) / max M_c <= tau}
"""

import torch
from torch import Tensor


def gap(cam: Tensor) -> Tensor:
    """Global average pooling: class maps ``(N, C, H, W)`` -> logits ``(N, C)``."""
    return cam.mean(dim=(2, 3))


def gmp(cam: Tensor) -> Tensor:
    """Global maximum pooling: class maps ``(N, C, H, W)`` -> logits ``(N, C)``."""
    return cam.amax(dim=(2, 3))


def gndrp(cam: Tensor, labels: Tensor, tau: float, variant: str = "paper") -> Tensor:
    """Global non-discriminative region pooling of the classes present; GAP for the absent ones.

    cam: ``(N, C, H, W)``, signed class maps. labels: ``(N, C)``, 1 where the class is present.
    tau: a position counts as non-discriminative up to this share of the map's maximum.
    variant: ``"paper"`` (the formula above on the ReLU map; a map without a positive value keeps
    every position; nothing kept pools to 0) or ``"official"`` (the released code: the signed map
    decides, strictly below tau, and the sum over the kept positions is divided by *all* of them, so
    a map negative everywhere keeps nothing and gets no gradient).

    Returns logits ``(N, C)``. Raises KeyError for another variant.
    """
    pool = {"paper": _pool_paper, "official": _pool_official}[variant]
    return torch.where(labels.bool(), pool(cam, tau), gap(cam))


def region(cam: Tensor, tau: float, variant: str = "paper") -> Tensor:
    """The region Q of `gndrp`, as a mask: ``(..., H, W)`` bool. It carries no gradient."""
    cam = cam.detach()
    if variant == "paper":
        cam = cam.relu()
        return cam <= tau * cam.amax(dim=(-2, -1), keepdim=True)
    return cam / cam.amax(dim=(-2, -1), keepdim=True) < tau


def _pool_paper(cam: Tensor, tau: float) -> Tensor:
    kept = region(cam, tau, "paper")
    return (cam * kept).sum(dim=(2, 3)) / kept.sum(dim=(2, 3)).clamp(min=1)


def _pool_official(cam: Tensor, tau: float) -> Tensor:
    return (cam * region(cam, tau, "official")).mean(dim=(2, 3))
