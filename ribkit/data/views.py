"""From a photograph to what a network sees: scales, horizontal flips, crops, normalisation."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ribkit.runtime.device import send

IGNORE = 255  # in a mask or a label map: a pixel that counts for nothing


# ---- images -------------------------------------------------------------------------------------
def to_tensor(image: np.ndarray, long_side: int | None = None) -> Tensor:
    """``(H, W, 3)`` uint8 -> ``(3, h, w)`` float in [0, 255], resized to the ``long_side``."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
    return resize(tensor, resized_size(image.shape[:2], long_side))


def resized_size(size: tuple[int, int], long_side: int | None = None) -> tuple[int, int]:
    """Size (h, w) once the longer side of (H, W) has ``long_side`` pixels (None: as it is)."""
    height, width = size
    if long_side is None:
        return height, width
    factor = long_side / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """``(3, H, W)`` -> ``(3, *size)``, bicubic with antialiasing, clamped to [0, 255]."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 255)


def resized_image(image: np.ndarray, long_side: int | None) -> np.ndarray:
    """`to_tensor` as an array again: ``(h, w, 3)`` uint8."""
    return to_tensor(image, long_side).round().to(torch.uint8).permute(1, 2, 0).numpy()


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(..., 3, H, W)`` in [0, 255] -> (pixels - mean) / std, channel by channel."""
    each = (torch.tensor(v, dtype=pixels.dtype).view(3, 1, 1) for v in (mean, std))
    mean, std = (send(v, pixels.device) for v in each)
    return (pixels - mean) / std


def scaled_pairs(image: Tensor, scales: Sequence[float]) -> dict[float, Tensor]:
    """Scale -> ``(2, 3, h, w)``: the resized image and its horizontal flip."""
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


# ---- label maps and localisation maps -----------------------------------------------------------
def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Label map ``(h, w)`` uint8 -> ``size``, by nearest-neighbour interpolation."""
    if labels.shape == size:
        return labels
    resized = F.interpolate(labels[None, None].float(), size, mode="nearest-exact")
    return resized[0, 0].to(labels.dtype)


def resize_map_tensor(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``(K, h, w)`` -> ``(K, *size)`` float32 on their device, bilinear; K may be 0."""
    maps = maps.float()
    if not len(maps):
        return maps.new_zeros(0, *size)
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def resize_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`resize_map_tensor` of an array, as an array."""
    return resize_map_tensor(torch.from_numpy(maps.astype(np.float32)), size).numpy()


# ---- training views -----------------------------------------------------------------------------
def random_crop(
    image: Tensor,
    long_side: tuple[int, int],
    side: int,
    fill: Sequence[float],
    generator: torch.Generator,
) -> Tensor:
    """Training view ``(3, side, side)`` of an image: random size, horizontal flip, random crop.

    Args:
        image: ``(3, H, W)`` float.
        long_side: Least and greatest long side after resizing (bilinear), in pixels.
        side: Of the square crop, in pixels.
        fill: The colour around an image that is smaller than the crop: the mean, which becomes 0.
        generator: Decides everything random.
    """
    low, high = long_side
    target = int(torch.randint(low, high + 1, (), generator=generator))
    size = resized_size(image.shape[-2:], target)
    if size != image.shape[-2:]:
        image = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    return _flip_and_crop([(image, fill)], side, generator)[0]


def random_scaled_crop(
    pixels: Tensor,
    labels: Tensor,
    scales: tuple[float, float],
    side: int,
    fill: Sequence[float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """`random_crop` at a scale between the two, of an image and its label map ``(H, W)`` alike.

    Labels are 255 around an image that is smaller than the crop.
    """
    low, high = scales
    scale = low + (high - low) * float(torch.rand((), generator=generator))
    size = tuple(max(1, round(s * scale)) for s in labels.shape)
    layers = [(resize(pixels, size), fill), (resize_labels(labels, size)[None], [IGNORE])]
    pixels, labels = _flip_and_crop(layers, side, generator)
    return pixels, labels[0]


def _flip_and_crop(
    layers: Sequence[tuple[Tensor, Sequence[float]]], side: int, generator: torch.Generator
) -> list[Tensor]:
    """Layers ``(K, h, w)``, each with its fill -> ``(K, side, side)``, flipped and cut alike."""
    if torch.rand((), generator=generator) < 0.5:
        layers = [(layer.flip(-1), fill) for layer, fill in layers]
    cut, place = [slice(None)], [slice(None)]  # the part of the layer, and where it goes
    for length in layers[0][0].shape[-2:]:
        start = int(torch.randint(0, abs(length - side) + 1, (), generator=generator))
        window = slice(start, start + min(length, side))
        cut.append(window if length > side else slice(None))
        place.append(slice(None) if length > side else window)
    crops = []
    for layer, fill in layers:
        crop = layer.new_tensor(fill).view(-1, 1, 1).repeat(1, side, side)
        crop[*place] = layer[*cut]
        crops.append(crop)
    return crops
