"""Class activation maps, merged over scales and horizontal flips (Section 2).

Maps are kept *raw* (summed, not normalised) until the end, and only for the classes of the image,
so that plain CAM is RIB stopped before its first update.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5  # added to a map's maximum, so that a map of zeros can be divided by it


def flip_sum(maps: Tensor) -> Tensor:
    r"""Raw CAM at one scale: the ReLU maps of an image and of its horizontal flip, summed.

    .. math:: M_c(x) = \mathrm{ReLU}(w_c \cdot f(x)), \qquad M_c(x) + \mathrm{flip}(M_c(x'))

    with :math:`x'` the flipped image (Section 2, arXiv:2110.06530).

    Args:
        maps: Signed class maps ``(2, C, h, w)`` of the image and of its horizontal flip.

    Returns:
        ``(C, h, w)``, in the image's own orientation.

    Example:
        >>> flip_sum(torch.tensor([[[[1.0, -2.0]]], [[[3.0, 4.0]]]])).tolist()
        [[[5.0, 3.0]]]
    """
    maps = maps.relu()
    return maps[0] + maps[1].flip(-1)


def normalise(maps: Tensor) -> Tensor:
    r"""Divide each map by its own maximum (Section 2, arXiv:2110.06530).

    .. math:: M_c(u) / (\max_v M_c(v) + 10^{-5})

    Args:
        maps: Raw maps ``(..., H, W)``, not negative; the result is in [0, 1).

    Example:
        >>> normalise(torch.tensor([[[1.0, 4.0]], [[0.0, 0.0]]])).round(decimals=2).tolist()
        [[[0.25, 1.0]], [[0.0, 0.0]]]
    """
    return maps / (maps.amax(dim=(-2, -1), keepdim=True) + EPSILON)


def multi_scale(maps: Mapping[float, Tensor], size: tuple[int, int], stride: int = 1) -> Tensor:
    r"""Merge raw maps of several scales into one normalised map for each class.

    .. math:: M_c = \textstyle\sum_s \mathrm{resize}(M_c^{(s)}), \qquad M_c / \max_u M_c(u)

    Summed over the scales first, divided by the maximum last, as in the official code of the paper
    (arXiv:2110.06530). Bilinear interpolation, corners not aligned.

    Args:
        maps: Scale -> raw maps ``(C, h, w)``, see `flip_sum`.
        size: Height and width of the image in pixels.
        stride: 1 gives maps of the image's size, cropped from its next multiple of 16; 4 gives the
            ``ceil(size / 4)`` that the official code stores.

    Returns:
        ``(C, H, W)`` in [0, 1), with ``(H, W)`` the size divided by the stride.

    Example:
        >>> maps = {1.0: torch.tensor([[[4.0, 0.0]]]), 0.5: torch.tensor([[[4.0]]])}
        >>> multi_scale(maps, (4, 8), stride=4).round(decimals=2).tolist()
        [[[1.0, 0.5]]]
    """
    height, width = (math.ceil(side / stride) for side in size)
    grid = (height, width)
    if stride == 1:
        grid = tuple(math.ceil(side / 16) * 16 for side in size)
    resized = [
        F.interpolate(m[None], grid, mode="bilinear", align_corners=False) for m in maps.values()
    ]
    return normalise(torch.cat(resized).sum(dim=0)[:, :height, :width])
