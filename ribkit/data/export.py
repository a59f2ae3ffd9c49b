"""Results as other programs read them: palette PNGs in VOC layout, and the VOC server's comp6 tar.

Mask values are PASCAL's own numbers where all classes are PASCAL's, else k + 1 for class k.
"""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ribkit.data import voc
from ribkit.data.images import ImageSet
from ribkit.data.views import resize_labels
from ribkit.runtime.errors import InputError
from ribkit.runtime.files import atomic_write

COMP6 = "results/VOC2012/Segmentation/comp6_test_cls"


def palette() -> np.ndarray:
    """PASCAL's colour map, ``(256, 3)`` uint8: the bits of a label spread over the channels."""
    labels, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            on = (labels >> (3 * bit + channel)) & 1
            colours[:, channel] |= (on << (7 - bit)).astype(np.uint8)
    return colours


def encode(labels: np.ndarray) -> bytes:
    """A label map ``(H, W)`` uint8 as a palette PNG."""
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(palette().tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def numbers(classes: Sequence[str]) -> np.ndarray:
    """Label -> mask value, ``(256,)`` uint8; 0 and 255 stay."""
    table = np.arange(256, dtype=np.uint8)
    if set(classes) <= set(voc.CLASSES):
        table[1 : len(classes) + 1] = [voc.CLASSES.index(name) + 1 for name in classes]
    return table


def full_size(images: ImageSet, labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Label maps, made at the size at which images are seen, at the images' own; nearest."""
    return {
        name: resize_labels(torch.from_numpy(labels[name]), images.image(i).shape[:2]).numpy()
        for i, name in enumerate(images.ids)
    }


def pseudo_ground_truth(
    root: str | Path, images: ImageSet, labels: Mapping[str, np.ndarray], split: str
) -> None:
    """Write label maps in VOC layout below ``root``, so that any segmentation code trains on them.

    labels: image name -> ``(H, W)`` uint8 with 255 for pixels to ignore. Writes SegmentationClass,
    ImageSets/Segmentation/<split>.txt and image_labels.json (see `ribkit.data.voc`), and JPEGImages
    where the photographs do not lie in a VOC folder already. Raises InputError, before anything is
    written, for a label map that is missing, of another size or with a value that is no class.
    """
    root = Path(root)
    for index, name in enumerate(images.ids):
        _safe(name)
        _require(images, index, labels.get(name))
    for folder in ("SegmentationClass", "ImageSets/Segmentation", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    table, pascal = numbers(images.classes), set(images.classes) <= set(voc.CLASSES)
    for index, name in enumerate(images.ids):
        _write(root / "SegmentationClass" / f"{name}.png", encode(table[labels[name]]))
        if not isinstance(images.source, voc.VOCFolder):
            file = io.BytesIO()
            Image.fromarray(images.image(index)).save(file, "JPEG", quality=95)
            _write(root / "JPEGImages" / f"{name}.jpg", file.getvalue())
    shown = {
        name: [images.classes[k] for k in np.flatnonzero(images.labels[i])]
        for i, name in enumerate(images.ids)
    }
    content = {"classes": list(voc.CLASSES if pascal else images.classes), "labels": shown}
    _write(root / "image_labels.json", json.dumps(content, indent=1).encode())
    names = "".join(f"{name}\n" for name in images.ids)
    _write(root / "ImageSets" / "Segmentation" / f"{_safe(split)}.txt", names.encode())


def comp6(path: str | Path, labels: Mapping[str, np.ndarray], classes: Sequence[str]) -> None:
    """Write predictions as the tar that the VOC evaluation server takes; same input, same bytes.

    labels: image name -> ``(H, W)`` uint8. Raises InputError for classes that are not PASCAL's and
    for values that are no class: the server takes no 255.
    """
    unknown = [name for name in classes if name not in voc.CLASSES]
    if unknown:
        raise InputError(f"class {unknown[0]!r} is none of PASCAL's; comp6 needs its classes.")
    path, table = Path(path), numbers(classes)
    for name, own in labels.items():
        _safe(name)
        if own.max(initial=0) > len(classes):
            raise InputError(
                f"the prediction of {name} has the value {own.max()}; comp6 takes 0 to "
                f"{len(classes)} only."
            )
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in sorted(labels):
            content = encode(table[labels[name]])
            entry = tarfile.TarInfo(f"{COMP6}/{name}.png")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    _write(path, file.getvalue())


def _safe(name: str) -> str:
    """The name, which must be no path."""
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise InputError(f"{name!r} cannot be a file's name; rename the image.")
    return name


def _require(images: ImageSet, index: int, labels: np.ndarray | None) -> None:
    name, size = images.ids[index], images.image(index).shape[:2]
    if labels is None:
        raise InputError(f"image {name} has no label map; make one first.")
    if labels.shape != size:
        (h, w), (map_h, map_w) = size, labels.shape
        raise InputError(
            f"the label map of {name} is {map_w} x {map_h} pixels and its image {w} x {h}; make "
            "them one size."
        )
    known = labels[labels != 255]
    if known.max(initial=0) > len(images.classes):
        raise InputError(
            f"the label map of {name} has the value {known.max()}, which is no class; use 0 to "
            f"{len(images.classes)}, or 255."
        )


def _write(path: Path, content: bytes) -> None:
    """A file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_bytes(content)
