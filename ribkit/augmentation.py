"""Images together with label maps, as networks that predict pixels train on them."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ribkit import views
from ribkit.errors import InputError
from ribkit.images import ImageSet
from ribkit.store import Result

IGNORE = 255
CACHED = 2000  # images kept in memory


class Labelled:
    """Images of one or more sets with a label map each, as pairs of tensors.

    parts: image sets, each with a stored result whose ``labels`` are image name -> ``(h, w)`` uint8
    (0 background, k + 1 class k, 255 ignored), or None for the images' own masks. n_labels counts
    the background. long_side: images are seen this long (None: as they are); label maps are resized
    to that. Raises InputError, before anything is read, for a label map that is missing, out of
    range, or of another shape than its image; for the latter images must be decoded, so it is told
    when the pair is asked for, unless `check` asks for all.
    """

    def __init__(
        self,
        parts: Sequence[tuple[ImageSet, Result | None]],
        n_labels: int,
        long_side: int | None,
    ):
        self.n_labels, self.long_side = n_labels, long_side
        self.items: list[tuple[ImageSet, int, Mapping[str, np.ndarray] | None]] = []
        for images, labels in parts:
            maps = labels.arrays("labels") if labels else None
            for index, name in enumerate(images.ids):
                if maps is not None and name not in maps:
                    raise InputError(f"image {name} has no label map in {labels.path}; make it.")
                self.items.append((images, index, maps))
        if not self.items:
            raise InputError("there is no image to train on; give at least one.")
        self._pair = lru_cache(maxsize=CACHED)(self._read)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Pixels ``(3, h, w)`` float in [0, 255] and labels ``(h, w)`` uint8."""
        pixels, labels = self._pair(position)
        return pixels.float(), labels

    def viewed(
        self, scales: tuple[float, float], side: int, fill: Sequence[float]
    ) -> Callable[[int, torch.Generator], tuple[Tensor, Tensor]]:
        """Position and generator -> the pair's training `view`, for `training.fit`."""
        return lambda position, generator: view(*self[position], scales, side, fill, generator)

    def check(self) -> None:
        """Read every pair once. Raises InputError for the first that does not suit."""
        for position in range(len(self)):
            self._pair(position)

    def _read(self, position: int) -> tuple[Tensor, Tensor]:
        images, index, maps = self.items[position]
        name, image = images.ids[index], images.image(index)
        labels = images.mask(index) if maps is None else maps[name]
        if labels.ndim != 2:
            raise InputError(
                f"the label map of {name} has the shape {labels.shape}; give one value per pixel."
            )
        (height, width), (map_height, map_width) = image.shape[:2], labels.shape
        # Each side of a resized map is rounded, by half a pixel at most: compare cross products.
        if 2 * abs(map_width * height - map_height * width) > height + width:
            raise InputError(
                f"the label map of {name} is {map_width} x {map_height} pixels and its image "
                f"{width} x {height}; make their shapes agree."
            )
        known = labels[labels != 255]
        if known.size and known.max() >= self.n_labels:
            raise InputError(
                f"the label map of {name} has the value {known.max()}, which is no label; use 0 to "
                f"{self.n_labels - 1}, or 255."
            )
        pixels = views.to_tensor(image, self.long_side)
        found = resize_labels(torch.from_numpy(np.ascontiguousarray(labels)), pixels.shape[-2:])
        return pixels.round().to(torch.uint8), found


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """``(h, w)`` uint8 -> ``(*size)``, each pixel the nearest one's."""
    if tuple(labels.shape) == tuple(size):
        return labels
    return F.interpolate(labels[None, None].float(), tuple(size), mode="nearest-exact")[0, 0].to(
        labels.dtype
    )


def view(
    pixels: Tensor,
    labels: Tensor,
    scales: tuple[float, float],
    side: int,
    fill: Sequence[float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Training view: random scale, mirror image half of the time, random crop, padded where short.

    ``(3, H, W)``, ``(H, W)`` -> ``(3, side, side)``, ``(side, side)``. scales: least and greatest.
    fill: the colour around an image that is smaller than the crop; its labels are 255 there.
    """
    low, high = scales
    scale = low + (high - low) * float(torch.rand((), generator=generator))
    size = tuple(max(1, round(s * scale)) for s in labels.shape)
    pixels, labels = views.resize(pixels, size), resize_labels(labels, size)
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


def order(count: int, batch: int, iteration: int, seed: int) -> list[int]:
    """Which images iteration ``iteration`` sees: all of them, in an order drawn anew each epoch.

    A batch may span two epochs. A function of its arguments, so that a training can resume.
    """
    first = iteration * batch
    drawn = []
    for position in range(first, first + batch):
        epoch, place = divmod(position, count)
        drawn.append(_permutation(count, epoch, seed)[place])
    return drawn


@lru_cache(maxsize=4)
def _permutation(count: int, epoch: int, seed: int) -> list[int]:
    return np.random.default_rng([seed, epoch]).permutation(count).tolist()
