"""Images together with label maps, as networks that predict pixels train on them."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ribkit.data import views
from ribkit.data.images import ImageSet
from ribkit.data.views import IGNORE
from ribkit.runtime.errors import InputError

CACHED = 2000  # images kept in memory


class Labelled:
    """Images of one or more sets with a label map each, as pairs of tensors."""

    def __init__(
        self,
        parts: Sequence[tuple[ImageSet, Mapping[str, np.ndarray] | None]],
        n_labels: int,
        long_side: int | None,
    ):
        """Put the sets one after the other; nothing is read yet, so no label map is checked.

        Args:
            parts: Image sets, each with its label maps: image name -> ``(h, w)`` uint8 (0
                background, k + 1 class k, 255 ignored); or None for the images' own masks.
            n_labels: Number of labels, background included.
            long_side: Pixels of the longer side to which images and label maps are resized (None:
                they keep their size).

        Raises:
            InputError: No image, or one without a label map.
        """
        self.n_labels, self.long_side = n_labels, long_side
        self.items: list[tuple[ImageSet, int, Mapping[str, np.ndarray] | None]] = []
        for images, maps in parts:
            for index, name in enumerate(images.ids):
                if maps is not None and name not in maps:
                    place = "" if isinstance(maps, dict) else f" among the {maps}"
                    raise InputError(f"image {name} has no label map{place}; make it.")
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
        """Read every pair once. InputError: the first label map that does not suit its image."""
        for position in range(len(self)):
            self._pair(position)

    def _read(self, position: int) -> tuple[Tensor, Tensor]:
        images, index, maps = self.items[position]
        name, image = images.ids[index], images.image(index)
        labels = images.mask(index) if maps is None else maps[name]
        require_label_map(name, labels, image.shape[:2], self.n_labels)
        pixels = views.to_tensor(image, self.long_side)
        labels = torch.from_numpy(np.ascontiguousarray(labels))
        return pixels.round().to(torch.uint8), views.resize_labels(labels, pixels.shape[-2:])


def require_label_map(name: str, labels: np.ndarray, size: tuple[int, int], n_labels: int) -> None:
    """InputError for a label map of another shape than its image (H, W), or with another value."""
    height, width = size
    highest = labels[labels != IGNORE].max(initial=0)
    # Each side of a resized map is rounded, by half a pixel at most (compare cross products), but
    # for the short side of a thin one, which would be 0.
    fits = labels.ndim == 2 and (
        2 * abs(labels.shape[1] * height - labels.shape[0] * width) <= height + width
        or labels.shape == views.resized_size(size, max(labels.shape))
    )
    if not fits or highest >= n_labels:
        raise InputError(
            f"the label map of {name} has the shape {labels.shape} and values up to {highest}, its "
            f"image the size {size}; make their shapes agree, and use 0 to {n_labels - 1}, or "
            f"{IGNORE}."
        )
