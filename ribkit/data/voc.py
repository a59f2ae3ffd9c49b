"""Folders in PASCAL VOC layout: JPEGImages, SegmentationClass, ImageSets/Segmentation and labels.

Labels come from ``image_labels.json`` (``{"classes": [...], "labels": {id: [names]}}``) if it is
there, else from the annotation XML in ``Annotations``, else from the masks. Mask value k stands for
the k-th class of the JSON file, or of PASCAL's 20 without one; 0 is background, 255 is ignored.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ribkit.data.images import (
    ImageSet,
    check_files,
    decode,
    hash_files,
    open_image,
    over_files,
    readable,
    verify,
)
from ribkit.data.views import IGNORE
from ribkit.runtime.errors import InputError, Problems
from ribkit.runtime.files import atomic_write

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
MOST = 254  # classes: mask values are bytes, 0 and 255 are taken
XML_BYTES = 1_000_000


@dataclass(frozen=True)
class VOCFolder:
    """The Source (`ribkit.data.images`) of a folder in VOC layout.

    Attributes:
        root: The folder.
        classes: Some of the folder's classes, in the order of the labels. Pixels of its other
            classes count as background.
    """

    root: Path
    classes: tuple[str, ...]

    def image(self, id: str) -> np.ndarray:
        """``(H, W, 3)`` uint8, RGB. InputError: missing or truncated."""
        return decode(image_path(self.root, id))

    def mask(self, id: str) -> np.ndarray:
        """``(H, W)`` uint8: 0 background, k + 1 for ``classes[k]``, 255 ignored.

        InputError: missing, unreadable, or with a value that is no class.
        """
        values = _read_mask(self.root, id, len(self._table) - 2)
        return self._table[np.minimum(values, len(self._table) - 1)]

    def fingerprint(self, ids: Sequence[str]) -> str:
        """SHA-256 (hex) of image, mask and label files and of the classes, wherever they lie."""
        paths = [p(self.root, i) for i in ids for p in (image_path, mask_path, _xml_path)]
        return hash_files([_json_path(self.root), *paths], *ids, *self.classes)

    @cached_property
    def _table(self) -> np.ndarray:
        """``(2 + names,)`` uint8: mask value -> label, the last entry for 255."""
        names = folder_classes(self.root)
        chosen = {name: k + 1 for k, name in enumerate(self.classes)}
        return np.array([0, *(chosen.get(name, 0) for name in names), IGNORE], np.uint8)


def folder_classes(root: str | Path) -> tuple[str, ...]:
    """The names that mask values 1, 2, ... stand for: of ``image_labels.json``, else PASCAL's.

    InputError: the JSON file is not as this module's first paragraph says.
    """
    path = _json_path(Path(root))
    return tuple(_read_json(path)["classes"]) if path.is_file() else CLASSES


def read(root: str | Path, split: str, classes: Sequence[str] = ()) -> ImageSet:
    """The images of ``ImageSets/Segmentation/<split>.txt``, in its order.

    An image that shows none of the classes is kept, with a row of False. Pixels are not read,
    unless labels come from masks.

    Args:
        root: The folder in VOC layout.
        split: The list's name.
        classes: Some of the folder's classes (all of them if empty).

    Raises:
        InputError: Missing folder or split, empty split, unknown class, missing or bad label.
    """
    root = Path(root)
    ids = split_ids(root, split)
    names = folder_classes(root)
    classes = _known(classes, names, root) or names
    shown = over_files(_label_reader(root, names), ids, f"labels of {split}")
    labels = np.array([[name in present for name in classes] for present in shown], bool)
    return ImageSet(ids, classes, labels, VOCFolder(root, classes))


def split_ids(root: str | Path, split: str) -> tuple[str, ...]:
    """The names in ``ImageSets/Segmentation/<split>.txt``, one a line.

    Raises:
        InputError: Missing folder or file, nothing in it, and see `read_list`.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give a folder in VOC layout.")
    path = list_path(root, split)
    if not path.is_file():
        splits = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise InputError(
            f"split {split!r} has no list {path}; add it or choose one that exists ({splits})."
        )
    ids = read_list(path)
    if not ids:
        raise InputError(f"split {split!r} is empty: list image names in {path}, one a line.")
    return ids


def read_list(path: Path) -> tuple[str, ...]:
    """The image names in a file, one a line.

    Raises:
        InputError: Unreadable, a name twice, or one that is no plain name and might lead elsewhere.
    """
    with readable(path, "save it as UTF-8 text"):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    ids = tuple(line.strip() for line in lines if line.strip())
    for id, count in Counter(ids).items():
        if not id.isprintable() or "/" in id or "\\" in id:
            raise InputError(f"{path} lists {id!r}; give plain image names such as 2007_000032.")
        if count > 1:
            raise InputError(f"{path} lists {id!r} twice; remove one of the lines.")
    return ids


def check(root: str | Path, splits: Sequence[str], classes: Sequence[str] = ()) -> None:
    """Read every file of some splits.

    Args:
        root: The folder in VOC layout.
        splits: Names of lists.
        classes: Names that must be classes of the folder.

    Raises:
        InputError: All that is wrong: missing folder, split, image, mask or label; empty split; an
            image or mask that does not decode to its end or differs in size from the other; a mask
            value or a name that is no class.
    """
    root = Path(root)
    problems = Problems()
    lists = [problems.collect(split_ids, root, split) or () for split in splits]
    ids = list(dict.fromkeys(id for listed in lists for id in listed))
    names = problems.collect(folder_classes, root) if root.is_dir() else None
    if names:
        problems.collect(_known, classes, names, root)
        check_image = partial(_check_image, root, len(names), _label_reader(root, names))
        problems.collect(check_files, check_image, ids, "checking images")
    problems.tell()


def write_mask(root: Path, id: str, mask: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Write an image's mask, ``(H, W)`` uint8; a palette ``(256, 3)`` uint8 colours its values."""
    image = Image.fromarray(mask)
    if palette is not None:
        image.putpalette(palette.tobytes())
    with atomic_write(mask_path(root, id)) as path:
        image.save(path, format="PNG")


def write_labels(root: Path, classes: Sequence[str], labels: dict[str, list[str]]) -> None:
    """Write ``image_labels.json``. labels: image name -> the names of its classes."""
    with atomic_write(_json_path(root)) as path:
        path.write_text(json.dumps({"classes": list(classes), "labels": labels}))


def write_list(root: Path, split: str, ids: Sequence[str]) -> None:
    """Write a split's list of image names."""
    with atomic_write(list_path(root, split)) as path:
        path.write_text("".join(f"{id}\n" for id in ids))


def list_path(root: Path, split: str) -> Path:
    """Where a split's image names are listed."""
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


def image_path(root: Path, id: str) -> Path:
    """Where an image lies."""
    return root / "JPEGImages" / f"{id}.jpg"


def mask_path(root: Path, id: str) -> Path:
    """Where an image's mask lies."""
    return root / "SegmentationClass" / f"{id}.png"


def _xml_path(root: Path, id: str) -> Path:
    return root / "Annotations" / f"{id}.xml"


def _json_path(root: Path) -> Path:
    return root / "image_labels.json"


def _known(classes: Collection[str], names: Sequence[str], where: str | Path) -> tuple[str, ...]:
    """``classes`` as a tuple, each one of ``names`` and given once, or an InputError."""
    for name in classes:
        if name not in names:
            raise InputError(f"{where}: no class is called {name!r}; use some of {_shown(names)}.")
    if len(set(classes)) < len(classes):
        raise InputError(f"{where}: a class is given twice in {_shown(classes)}; give it once.")
    return tuple(classes)


def _shown(names: Sequence[str]) -> str:
    """Up to 20 of the names, for an error's sentence."""
    return ", ".join([*names[:20], "..."] if len(names) > 20 else names)


def _read_json(path: Path) -> dict:
    """The content of ``image_labels.json``, its form checked but not yet its label names."""
    form = '{"classes": [names], "labels": {image: [names]}}'
    with readable(path, f"write {form}"):
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        names, labels = content["classes"], content["labels"]
    lists = [names, *labels.values()] if isinstance(labels, dict) else [None]
    if not all(isinstance(v, list) and all(isinstance(n, str) for n in v) for v in lists):
        raise InputError(f"{path} has values of another kind; write {form}.")
    if not 0 < len(set(names)) == len(names) <= MOST:
        raise InputError(f"{path}: {len(names)} classes; give 1 to {MOST} different names.")
    return content


def _label_reader(root: Path, names: tuple[str, ...]) -> Callable[[str], set[str]]:
    """A function from an image's name to the classes it shows."""
    if _json_path(root).is_file():
        labels = _read_json(_json_path(root))["labels"]
        return partial(_labels_from_json, _json_path(root), labels, names)
    if (root / "Annotations").is_dir():
        return partial(_labels_from_xml, root, names)
    return partial(_labels_from_mask, root, names)


def _labels_from_json(path: Path, labels: dict, names: tuple[str, ...], id: str) -> set[str]:
    if id not in labels:
        raise InputError(f'{path} has no entry for {id!r}; add it to "labels".')
    return set(_known(set(labels[id]), names, f"{path}, image {id}"))


def _labels_from_xml(root: Path, names: tuple[str, ...], id: str) -> set[str]:
    """Names of the objects, the difficult ones too; parts of objects do not count."""
    path = _xml_path(root, id)
    with readable(path, "replace it", missing="add the annotation of this image"):
        if path.stat().st_size > XML_BYTES:
            raise ValueError(f"over {XML_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
        if "<!DOCTYPE" in text:  # entities are declared there; no annotation needs any
            raise ValueError("it declares a document type")
        objects = ElementTree.fromstring(text).findall("object")
    return set(_known({(o.findtext("name") or "").strip() for o in objects}, names, path))


def _labels_from_mask(root: Path, names: tuple[str, ...], id: str) -> set[str]:
    values = np.unique(_read_mask(root, id, len(names)))
    return {names[v - 1] for v in values if 0 < v < IGNORE}


def _read_mask(root: Path, id: str, count: int) -> np.ndarray:
    """``(H, W)`` uint8 of the file's own values: 0 to ``count``, or 255."""
    path = mask_path(root, id)
    with open_image(path) as image:
        if image.mode not in ("P", "L"):
            raise InputError(
                f"{path} is a mask of colour mode {image.mode}; save class numbers as a palette "
                f"or 8-bit grey PNG."
            )
        bad = [v for v, n in enumerate(image.histogram()) if n and count < v < IGNORE]
        if bad:
            raise InputError(
                f"{path} has the value {bad[0]}, which is no class; use 0 to {count}, or 255 for "
                f"pixels to ignore."
            )
        return np.array(image)


def _check_image(root: Path, count: int, label_of: Callable[[str], set[str]], id: str) -> None:
    """InputError: what is wrong with one image, its mask and its label."""
    problems = Problems()
    size = problems.collect(verify, image_path(root, id))
    mask = problems.collect(_read_mask, root, id, count)
    if size is not None and mask is not None and size != mask.shape:
        (h, w), (mask_h, mask_w) = size, mask.shape
        problems.append(
            f"{mask_path(root, id)} is {mask_w} x {mask_h} pixels and its image {w} x {h}; "
            f"make them one size."
        )
    problems.collect(label_of, id)
    problems.tell()
