"""Class activation maps: M_c = ReLU(w_c . f(x)), over scales and horizontal flips (Section 2).

For the image's own classes only. Maps are kept *raw* (summed, not normalised) until the end, so
that plain CAM is RIB stopped before its first update.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5


def flip_sum(maps: Tensor) -> Tensor:
    """Maps of an image and its horizontal flip ``(2, C, h, w)`` -> their ReLU sum ``(C, h, w)``."""
    maps = maps.relu()
    return maps[0] + maps[1].flip(-1)


def normalise(maps: Tensor) -> Tensor:
    """Each map of ``(C, H, W)`` divided by its maximum (plus 1e-5): values in [0, 1)."""
    return maps / (maps.amax(dim=(-2, -1), keepdim=True) + EPSILON)


def merge(maps: Mapping[float, Tensor], size: tuple[int, int], stride: int = 1) -> Tensor:
    """Raw maps at several scales, ``(C, h, w)`` each -> one normalised map ``(C, H, W)``.

    size: the image's height and width. stride: 4 gives the maps that the official code stores,
    ``ceil(size / 4)``; 1 gives maps at the image's size, by way of its next multiple of 16.
    Bilinear, corners not aligned; summed over the scales, then divided by the maximum.
    """
    if stride == 1:
        grid = tuple(math.ceil(side / 16) * 16 for side in size)
    else:
        grid = tuple(math.ceil(side / stride) for side in size)
    resized = [
        F.interpolate(m[None], grid, mode="bilinear", align_corners=False) for m in maps.values()
    ]
    merged = torch.cat(resized).sum(dim=0)
    if stride == 1:
        merged = merged[:, : size[0], : size[1]]
    return normalise(merged)
