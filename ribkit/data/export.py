"""Pseudo ground truth as other programs read it: palette PNGs in a folder in VOC layout.

Mask values are PASCAL's own numbers where all classes are PASCAL's, else k + 1 for class k.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ribkit.data import voc
from ribkit.data.images import ImageSet
from ribkit.data.labelled import require_label_map
from ribkit.data.views import resize_labels
from ribkit.runtime.errors import InputError
from ribkit.runtime.files import atomic_write
from ribkit.runtime.progress import bar

Part = tuple[ImageSet, Mapping[str, np.ndarray]]


def pseudo_ground_truth(root: str | Path, parts: Sequence[Part], split: str) -> list[Path]:
    """Write the folder ``root`` in VOC layout, so that any segmentation code trains on it.

    Label maps ``(h, w)`` uint8 with 255 for pixels to ignore are resized to their images' size.
    JPEGImages stays empty where the photographs lie in a VOC folder already. One image is in memory
    at a time. Returns the label maps' files, in the images' order.

    Raises InputError, before anything is written: a label map is missing or does not suit its
    image, or two images have one name.
    """
    root, classes = Path(root), parts[0][0].classes
    items = [(image, maps) for images, maps in parts for image in images]
    sizes: dict[str, tuple[int, int]] = {}
    for image, maps in bar(items, "checking label maps"):
        name = image.name
        if name in sizes:
            raise InputError(f"two images are called {name}; rename one of them.")
        if name not in maps:
            raise InputError(f"image {name} has no label map; make one first.")
        sizes[name] = image.pixels().shape[:2]
        require_label_map(name, maps[name], sizes[name], len(classes) + 1)

    for folder in ("SegmentationClass", "ImageSets/Segmentation", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names, shown = _names(classes), {}
    value_of = np.arange(256, dtype=np.uint8)  # label -> mask value; 0 and 255 stay
    value_of[1 : len(classes) + 1] = values(classes)
    for image, maps in bar(items, "writing label maps"):
        name = image.name
        labels = resize_labels(torch.from_numpy(maps[name]), sizes[name]).numpy()
        voc.write_mask(root, name, value_of[labels])
        if not isinstance(image.images.source, voc.VOCFolder):
            with atomic_write(root / voc.IMAGE.format(name)) as path:
                Image.fromarray(image.pixels()).save(path, "JPEG", quality=95)
        shown[name] = [classes[k] for k in image.classes]
    voc.write_labels(root, names, shown)
    voc.write_list(root, split, list(sizes))
    return [root / voc.MASK.format(name) for name in sizes]


def values(classes: Sequence[str]) -> list[int]:
    """The value of each class in the masks that are written."""
    return [_names(classes).index(name) + 1 for name in classes]


def _names(classes: Sequence[str]) -> Sequence[str]:
    """The classes that the values 1, 2, ... stand for."""
    return voc.CLASSES if set(classes) <= set(voc.CLASSES) else classes
