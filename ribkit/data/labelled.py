"""Images together with label maps, as networks that predict pixels train on them."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ribkit.data import views
from ribkit.data.images import ImageSet
from ribkit.runtime.errors import InputError

IGNORE = 255
CACHED = 2000  # images kept in memory


class Labelled:
    """Images of one or more sets with a label map each, as pairs of tensors.

    parts: image sets, each with label maps, image name -> ``(h, w)`` uint8
    (0 background, k + 1 class k, 255 ignored), or None for the images' own masks. n_labels counts
    the background. long_side: images are seen this long (None: as they are); label maps are resized
    to that. Raises InputError, before anything is read, for a label map that is missing, out of
    range, or of another shape than its image; for the latter images must be decoded, so it is told
    when the pair is asked for, unless `check` asks for all.
    """

    def __init__(
        self,
        parts: Sequence[tuple[ImageSet, Mapping[str, np.ndarray] | None]],
        n_labels: int,
        long_side: int | None,
    ):
        self.n_labels, self.long_side = n_labels, long_side
        self.items: list[tuple[ImageSet, int, Mapping[str, np.ndarray] | None]] = []
        for images, maps in parts:
            for index, name in enumerate(images.ids):
                if maps is not None and name not in maps:
                    raise InputError(f"image {name} has no label map in {maps}; make it.")
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
        """Position and generator -> the pair's training view, `views.random_scaled_crop`."""
        return lambda position, generator: views.random_scaled_crop(
            *self[position], scales, side, fill, generator
        )

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
        found = views.resize_labels(
            torch.from_numpy(np.ascontiguousarray(labels)), pixels.shape[-2:]
        )
        return pixels.round().to(torch.uint8), found
