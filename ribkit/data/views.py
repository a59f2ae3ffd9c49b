"""From a photograph to what a network sees: scales, horizontal flips, crops, normalisation."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """``(3, H, W)`` -> ``(3, *size)``, bicubic with antialiasing, clamped to [0, 255]."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    mode = {"mode": "bicubic", "antialias": True, "align_corners": False}
    return F.interpolate(image[None], size=size, **mode)[0].clamp(0, 255)


def to_tensor(image: np.ndarray, long_side: int | None = None) -> Tensor:
    """``(H, W, 3)`` uint8 -> ``(3, h, w)`` float in [0, 255]; ``long_side`` long, if given."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
    if long_side is None:
        return tensor
    return resize(tensor, resized_size(image.shape[:2], long_side))


def resized_size(size: tuple[int, int], long_side: int | None = None) -> tuple[int, int]:
    """The size (h, w) at which an image of a size (H, W) is seen, ``long_side`` long, if given."""
    height, width = size
    if long_side is None:
        return height, width
    factor = long_side / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(..., 3, H, W)`` in [0, 255] -> (pixels - mean) / std, channel by channel."""
    mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (mean, std))
    return (pixels - mean) / std


def scaled_pairs(image: Tensor, scales: Sequence[float]) -> dict[float, Tensor]:
    """Multi-scale, flipped views: scale -> ``(2, 3, h, w)``, image and horizontal flip."""
    views = {}
    for scale in scales:
        size = tuple(max(1, round(side * scale)) for side in image.shape[-2:])
        view = resize(image, size)
        views[scale] = torch.stack([view, view.flip(-1)])
    return views


def square(image: Tensor, side: int) -> Tensor:
    """``(3, H, W)`` -> ``(3, side, side)``: the short side resized to ``side``, the centre kept."""
    height, width = image.shape[-2:]
    factor = side / min(height, width)
    image = resize(image, (max(side, round(height * factor)), max(side, round(width * factor))))
    top, left = ((s - side) // 2 for s in image.shape[-2:])
    return image[:, top : top + side, left : left + side]


def random_crop(
    image: Tensor,
    long_side: tuple[int, int],
    side: int,
    fill: Sequence[float],
    generator: torch.Generator,
) -> Tensor:
    """Training view: random long side, horizontal flip half of the time, random crop.

    ``(3, H, W)`` -> ``(3, side, side)``. long_side: least and greatest, in pixels. fill: the colour
    around an image that is smaller than the crop, the mean colour that becomes 0.
    """
    low, high = long_side
    target = int(torch.randint(low, high + 1, (), generator=generator))
    height, width = image.shape[-2:]
    factor = target / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    if size != (height, width):
        image = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    if torch.rand((), generator=generator) < 0.5:
        image = image.flip(-1)
    height, width = size
    canvas = image.new_tensor(fill).view(3, 1, 1).repeat(1, side, side)
    top, left = (int(torch.randint(0, abs(s - side) + 1, (), generator=generator)) for s in size)
    rows, columns = min(height, side), min(width, side)
    source_top, target_top = (top, 0) if height > side else (0, top)
    source_left, target_left = (left, 0) if width > side else (0, left)
    canvas[:, target_top : target_top + rows, target_left : target_left + columns] = image[
        :, source_top : source_top + rows, source_left : source_left + columns
    ]
    return canvas


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """``(h, w)`` uint8 -> ``(*size)``, each pixel the nearest one's."""
    if tuple(labels.shape) == tuple(size):
        return labels
    return F.interpolate(labels[None, None].float(), tuple(size), mode="nearest-exact")[0, 0].to(
        labels.dtype
    )


def resize_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps ``(K, h, w)`` -> ``(K, *size)`` float32, bilinear."""
    return resize_map_tensor(torch.from_numpy(maps.astype(np.float32)), size).numpy()


def resize_map_tensor(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """`resize_maps` of a tensor, on its device."""
    maps = maps.float()
    if tuple(maps.shape[-2:]) == tuple(size) or not len(maps):
        return maps if len(maps) else maps.new_zeros(0, *size)
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def random_scaled_crop(
    pixels: Tensor,
    labels: Tensor,
    scales: tuple[float, float],
    side: int,
    fill: Sequence[float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Training view: random scale, horizontal flip half of the time, random crop, padding.

    ``(3, H, W)``, ``(H, W)`` -> ``(3, side, side)``, ``(side, side)``. scales: least and greatest.
    fill: the colour around an image that is smaller than the crop; its labels are 255 there.
    """
    low, high = scales
    scale = low + (high - low) * float(torch.rand((), generator=generator))
    size = tuple(max(1, round(s * scale)) for s in labels.shape)
    pixels, labels = resize(pixels, size), resize_labels(labels, size)
    if torch.rand((), generator=generator) < 0.5:
        pixels, labels = pixels.flip(-1), labels.flip(-1)
    canvas = pixels.new_tensor(fill).view(3, 1, 1).repeat(1, side, side)
    around = labels.new_full((side, side), 255)
    source, target = [], []
    for length in size:
        start = int(torch.randint(0, abs(length - side) + 1, (), generator=generator))
        extent = min(length, side)
        first, second = (start, 0) if length > side else (0, start)
        source.append(slice(first, first + extent))
        target.append(slice(second, second + extent))
    canvas[:, target[0], target[1]] = pixels[:, source[0], source[1]]
    around[target[0], target[1]] = labels[source[0], source[1]]
    return canvas, around
