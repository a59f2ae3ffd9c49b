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


def pseudo_ground_truth(root: str | Path, parts: Sequence[Part], split: str) -> None:
    """Write label maps in VOC layout, so that any segmentation code trains on them.

    Writes SegmentationClass, ImageSets/Segmentation/<split>.txt and image_labels.json (see
    `ribkit.data.voc`), and JPEGImages where the photographs do not lie in a VOC folder already.
    One image is in memory at a time.

    Args:
        root: The folder to write to.
        parts: Image sets of the same classes, each with its label maps: image name -> ``(h, w)``
            uint8 with 255 for pixels to ignore. They are resized to their images' size by
            nearest-neighbour interpolation.
        split: Name of the list of all images of all parts.

    Raises:
        InputError: Before anything is written: a label map that is missing, of another shape than
            its image or with a value that is no class; an image's name that is a path or that two
            images have.
    """
    root, split, classes = Path(root), _plain(split), parts[0][0].classes
    items = [(image, maps) for images, maps in parts for image in images]
    sizes: dict[str, tuple[int, int]] = {}
    for image, maps in bar(items, "checking label maps"):
        name = _plain(image.name)
        if name in sizes:
            raise InputError(f"two images are called {name}; rename one of them.")
        if name not in maps:
            raise InputError(f"image {name} has no label map; make one first.")
        sizes[name] = image.pixels().shape[:2]
        require_label_map(name, maps[name], sizes[name], len(classes) + 1)

    for folder in ("SegmentationClass", "ImageSets/Segmentation", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    values, colours, shown = mask_values(classes), palette(), {}
    for image, maps in bar(items, "writing label maps"):
        name = image.name
        labels = resize_labels(torch.from_numpy(maps[name]), sizes[name]).numpy()
        voc.write_mask(root, name, values[labels], colours)
        if not isinstance(image.images.source, voc.VOCFolder):
            with atomic_write(voc.image_path(root, name)) as path:
                Image.fromarray(image.pixels()).save(path, "JPEG", quality=95)
        shown[name] = [classes[k] for k in image.classes]
    voc.write_labels(root, voc.CLASSES if set(classes) <= set(voc.CLASSES) else classes, shown)
    voc.write_list(root, split, list(sizes))


def palette() -> np.ndarray:
    """PASCAL's colour map, ``(256, 3)`` uint8: the bits of a label spread over the channels."""
    labels, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            on = (labels >> (3 * bit + channel)) & 1
            colours[:, channel] |= (on << (7 - bit)).astype(np.uint8)
    return colours


def mask_values(classes: Sequence[str]) -> np.ndarray:
    """Label -> mask value, ``(256,)`` uint8; 0 and 255 stay."""
    table = np.arange(256, dtype=np.uint8)
    if set(classes) <= set(voc.CLASSES):
        table[1 : len(classes) + 1] = [voc.CLASSES.index(name) + 1 for name in classes]
    return table


def _plain(name: str) -> str:
    """The name of an image or a split, which must be no path."""
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise InputError(f"{name!r} cannot be a file's name; choose another.")
    return name
