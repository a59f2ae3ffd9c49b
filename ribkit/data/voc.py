"""Folders in PASCAL VOC layout: JPEGImages, SegmentationClass, ImageSets/Segmentation and labels.

Labels come from ``image_labels.json`` (``{"classes": [...], "labels": {id: [names]}}``) if it is
there, else from the annotation XML in ``Annotations``, else from the masks. Mask value k stands for
the k-th class of the JSON file, or of PASCAL's 20 without one; 0 is background, 255 is ignored.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ribkit.data.images import (
    SUFFIXES,
    ImageSet,
    check_files,
    decode,
    hash_files,
    like_named,
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
DECLARED = re.compile(rb"""<\?xml[^>]*encoding\s*=\s*["']([\w.-]+)""")  # an XML file's encoding
STRETCHED = {"L;2": 85, "L;4": 17}  # grey of few bits -> what Pillow multiplies its values by
# The layout: where an image, its mask, its annotation, a split's list and all labels lie.
IMAGE, MASK, ANNOTATION = "JPEGImages/{}.jpg", "SegmentationClass/{}.png", "Annotations/{}.xml"
LIST, LABELS = "ImageSets/Segmentation/{}.txt", "image_labels.json"


@dataclass(frozen=True)
class VOCFolder:
    """The Source (`ribkit.data.images`) of a folder in VOC layout."""

    root: Path
    classes: tuple[str, ...]  # some of the folder's; pixels of its others count as background

    def image(self, id: str) -> np.ndarray:
        return decode(self.root / IMAGE.format(id))

    def mask(self, id: str) -> np.ndarray:
        values, _ = _read_mask(self.root, id, len(self._table) - 2)
        return self._table[np.minimum(values, len(self._table) - 1)]

    def fingerprint(self, ids: Sequence[str]) -> str:
        """SHA-256 (hex) of image, mask and label files and of the classes, wherever they lie."""
        names = [each.format(id) for id in ids for each in (IMAGE, MASK, ANNOTATION)]
        return hash_files([self.root / name for name in (LABELS, *names)], *ids, *self.classes)

    @cached_property
    def _table(self) -> np.ndarray:
        """``(2 + names,)`` uint8: mask value -> label, the last entry for 255."""
        names, _ = _read_json(self.root)
        chosen = {name: k + 1 for k, name in enumerate(self.classes)}
        return np.array([0, *(chosen.get(name, 0) for name in names), IGNORE], np.uint8)


class _Found(NamedTuple):
    """What the check keeps of an image."""

    shown: set[str]  # its classes
    counts: dict[int, int]  # its mask's values -> their pixels; empty without a mask
    colours: dict[int, tuple[int, ...]]  # its mask's values -> their colours in a palette


# ---- reading ------------------------------------------------------------------------------------
def read(root: str | Path, split: str, classes: Sequence[str] = ()) -> ImageSet:
    """The images of ``ImageSets/Segmentation/<split>.txt``, in its order.

    Labels are some of the folder's classes, or all where none is given. An image that shows none of
    them is kept, with a row of False. Pixels are not read, unless labels come from masks.
    """
    root = Path(root)
    ids, (names, labels) = split_ids(root, split), _read_json(root)
    classes = _known(classes, names, root) or names
    shown = over_files(partial(_shown, root, names, labels), ids, f"labels of {split}")
    rows = np.array([[name in present for name in classes] for present in shown], bool)
    return ImageSet(ids, classes, rows, VOCFolder(root, classes))


def check(
    root: str | Path,
    splits: Sequence[str],
    classes: Sequence[str] = (),
    masked: Collection[str] | None = None,
) -> None:
    """Read every file of some splits; of masks those of the images ``masked``, or all (None).

    InputError: all that is wrong with the lists, images, masks and labels, and with the classes,
    which must be some of the folder's; masks that fit neither each other nor the labels.
    """
    root, problems = Path(root), Problems()
    lists = [problems.collect(split_ids, root, split) or () for split in splits]
    content = problems.collect(_read_json, root) if root.is_dir() else None
    if content:
        names, chosen = content[0], problems.collect(_known, classes, content[0], root)
        ids = list(dict.fromkeys(id for listed in lists for id in listed))
        masks_of, found = set(ids if masked is None else masked), {}
        check_one = partial(_check_image, root, *content, masks_of, found)
        problems.collect(check_files, check_one, ids, "checking images")
        masks = {root / MASK.format(id): found[id] for id in ids if id in found}
        values = {name: names.index(name) + 1 for name in chosen or names}
        problems += [*_faults_of_palettes(masks, len(names)), *_faults_of_labels(masks, values)]
    problems.tell()


def _check_image(
    root: Path,
    names: tuple[str, ...],
    labels: dict | None,
    masked: Collection[str],
    found: dict[str, _Found],
    id: str,
) -> None:
    """InputError: what is wrong with one image, its mask and its label; the rest goes to found."""
    problems, mask, colours = Problems(), np.zeros((0, 0), np.uint8), {}
    size = problems.collect(verify, root / IMAGE.format(id))
    if id in masked:
        mask, colours = problems.collect(_read_mask, root, id, len(names)) or (mask, colours)
    if size is not None and mask.size and size != mask.shape:
        (h, w), (mask_h, mask_w) = size, mask.shape
        problems.append(
            f"{root / MASK.format(id)} is {mask_w} x {mask_h} pixels and its image {w} x {h}; "
            f"make them one size."
        )
    shown = problems.collect(_shown, root, names, labels, id)
    if shown is not None:
        found[id] = _Found(shown, _counts(mask), colours)
    problems.tell()


def _faults_of_palettes(masks: Mapping[Path, _Found], count: int) -> Iterator[str]:
    """Masks in which a colour has another value than in PASCAL's palette or in a mask before.

    Optimisers and quantisations put colours in an order of their own. Ramps of grey are in order.
    """
    pascal = palette().tolist()
    known = {tuple(pascal[v]): (v, "PASCAL's palette") for v in (*range(count + 1), IGNORE)}
    for path, found in masks.items():
        for value, colour in found.colours.items():
            other, where = known.setdefault(colour, (value, path))
            if value != other and colour not in ((0, 0, 0), (value,) * 3):
                yield (
                    f"{path} shows {value} in the colour {colour}, which is {other} in {where}; "
                    f"save the class numbers themselves, as grey or in one palette."
                )
                break


def _faults_of_labels(masks: Mapping[Path, _Found], values: Mapping[str, int]) -> Iterator[str]:
    """Masks that show 255 in place of classes; classes whose labels and masks mostly differ.

    values: class -> its value in masks.
    """
    masks = {path: found for path, found in masks.items() if found.counts}
    pixels = sum((Counter(found.counts) for found in masks.values()), Counter())
    if 2 * pixels[IGNORE] > pixels.total() or pixels.keys() == {0, IGNORE}:
        yield (
            f"{next(iter(masks)).parent}: {pixels[IGNORE] / pixels.total():.0%} of all pixels are "
            f"255, which is ignored; give objects the number of their class, from 1 on."
        )
    for name, value in values.items():
        labelled = {path: None for path, found in masks.items() if name in found.shown}
        drawn = {path: None for path, found in masks.items() if value in found.counts}
        for these, others, fault in (
            (labelled, drawn, "lacks {} ({!r}), a label of its image, and has {}"),
            (drawn, labelled, "has {} ({!r}), which is no label of its image, among {}"),
        ):
            lone = [path for path in these if path not in others]
            if 2 * len(lone) > len(these):
                has = ", ".join(map(str, masks[lone[0]].counts))
                yield (
                    f"{lone[0]} {fault.format(value, name, has)}, as {len(lone)} of {len(these)} "
                    f"such masks; make masks and labels agree: 0 is background, 1 the first class."
                )


def split_ids(root: Path, split: str) -> tuple[str, ...]:
    """The names in a split's list.

    InputError: no folder, no list, nothing in it; `read_list`; names with more than the image's.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give a folder in VOC layout.")
    path = root / LIST.format(split)
    ids = read_list(path) if path.is_file() else ()
    if not ids:
        splits = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise InputError(
            f"split {split!r} is empty: list image names in {path}, one a line, or choose a list "
            f"that exists ({splits})."
        )
    plain = {id: name for id in ids if (name := _plain_name(root, id))}
    if plain:
        id, name = next(iter(plain.items()))
        raise InputError(
            f"{path} lists {id!r}, and {len(plain) - 1} more names in this form; give plain image "
            f"names such as {name}, without extension or further columns."
        )
    return ids


def _plain_name(root: Path, id: str) -> str:
    """The image meant by a listed name that has an extension or further columns; else empty."""
    if not (root / IMAGE.format(id)).exists():
        for name in (id, re.split(r"[\s,;]", id)[0]):
            path = Path(name)
            name = path.stem if path.suffix.lower() in SUFFIXES else name
            image = root / IMAGE.format(name)
            if name != id and (image.is_file() or like_named(image)):
                return name
    return ""


def read_list(path: Path) -> tuple[str, ...]:
    """The image names in a file, one a line; InputError: one is there twice or might be a path."""
    with readable(path, "save it as UTF-8 text"):
        lines = path.read_text(encoding="utf-8-sig").rstrip("\x1a\n").splitlines()  # DOS ends so
    ids = tuple(line.strip() for line in lines if line.strip())
    for id, count in Counter(ids).items():
        if count > 1 or not id.isprintable() or "/" in id or "\\" in id:
            raise InputError(
                f"{path} lists {id!r} ({count} x); give plain image names such as 2007_000032, "
                f"each once."
            )
    return ids


# ---- labels and masks ---------------------------------------------------------------------------
def _read_json(root: Path) -> tuple[tuple[str, ...], dict[str, list[str]] | None]:
    """Names of the mask values 1, 2, ..., and labels; PASCAL's and None without the JSON file."""
    path, form = root / LABELS, '{"classes": [names], "labels": {image: [names]}}'
    if not path.is_file():
        return CLASSES, None
    with readable(path, f"write {form}"):
        content = json.loads(path.read_bytes())
        names, labels = content["classes"], content["labels"]
        for listed in (names, *labels.values()):
            if not (isinstance(listed, list) and all(isinstance(name, str) for name in listed)):
                raise TypeError(f"{listed!r} is no list of names")
    if not 0 < len(set(names)) == len(names) <= MOST:
        raise InputError(f"{path}: {len(names)} classes; give 1 to {MOST} different names.")
    for name in names:
        if name.strip("_ ").lower() == "background":
            raise InputError(
                f"{path}: the class {name!r} is 0 in every mask; take it off the list, of which "
                f"the first is 1."
            )
    return tuple(names), labels


def _shown(root: Path, names: tuple[str, ...], labels: dict | None, id: str) -> set[str]:
    """The classes that an image shows."""
    if labels is not None:
        if id not in labels:
            raise InputError(f'{root / LABELS} has no entry for {id!r}; add it to "labels".')
        return set(_known(set(labels[id]), names, f"{root / LABELS}, image {id}"))
    annotation = root / ANNOTATION.format(id)
    if annotation.parent.is_dir():
        return set(_known(_annotated(annotation), names, annotation))
    values, _ = _read_mask(root, id, len(names))
    return {names[value - 1] for value in _counts(values) if 0 < value < IGNORE}


def _annotated(path: Path) -> set[str]:
    """Names of the objects in an annotation, the difficult ones too; their parts do not count."""
    with readable(path, "replace it"):
        if path.stat().st_size > XML_BYTES:
            raise ValueError(f"over {XML_BYTES:,} bytes")
        text = _decoded(path.read_bytes())
        if "<!DOCTYPE" in text:  # entities are declared there; no annotation needs any
            raise ValueError("it declares a document type")
        annotation = ElementTree.fromstring(text)
    objects = annotation.findall("object")
    tags = [element.tag.split("}")[-1].lower() for element in annotation.iter()]
    if tags.count("object") > len(objects):
        raise InputError(
            f"{path} has objects that would not be found; write <object> directly in <annotation>, "
            f"in small letters and without a namespace."
        )
    return {(found.findtext("name") or "").strip() for found in objects}


def _decoded(content: bytes) -> str:
    """The text of an XML file, by its byte order mark or its declaration, else UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    declared = DECLARED.match(content)  # a declaration of UTF-16 that is not itself in it is wrong
    wrong = not declared or declared[1].lower().startswith(b"utf-16")
    return content.decode("utf-8-sig" if wrong else declared[1].decode())


def _known(classes: Collection[str], names: Sequence[str], where: str | Path) -> tuple[str, ...]:
    """``classes`` as a tuple, each one of ``names`` and given once, or an InputError."""
    for name in classes:
        if name not in names:
            raise InputError(
                f"{where}: no class is called {name!r}; use some of {', '.join(names)}."
            )
    if len(set(classes)) < len(classes):
        raise InputError(f"{where}: a class is given twice in {', '.join(classes)}; give it once.")
    return tuple(classes)


def _read_mask(root: Path, id: str, count: int) -> tuple[np.ndarray, dict[int, tuple[int, ...]]]:
    """``(H, W)`` uint8 of the file's own values: 0 to ``count``, or 255; the colours of those."""
    path = root / MASK.format(id)
    for folder in () if path.exists() else sorted(root.glob(f"{path.parent.name}?*")):
        if (folder / path.name).is_file():
            raise InputError(
                f"{path} does not exist, but {folder.name}/{path.name} is there; copy the masks of "
                f"{folder.name} into {path.parent.name}."
            )
    with open_image(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise InputError(
                f"{path} is a mask of colour mode {image.mode}; save class numbers as a palette "
                f"or 8-bit grey PNG."
            )
        stretched = STRETCHED.get(image.tile[0].args, 1) if image.tile else 1
        values = np.array(image).astype(np.uint8) // np.uint8(stretched)
        counts, palette = _counts(values), image.getpalette() or []
    bad = [value for value in counts if count < value < IGNORE]
    if bad:
        raise InputError(
            f"{path} has the value {bad[0]}, which is no class; use 0 to {count}, or 255 for "
            f"pixels to ignore."
        )
    colours = zip(palette[::3], palette[1::3], palette[2::3], strict=True)
    return values, {value: colour for value, colour in enumerate(colours) if value in counts}


def _counts(values: np.ndarray) -> dict[int, int]:
    """The values of a mask -> how many pixels have them."""
    return {value: n for value, n in enumerate(Image.fromarray(values).histogram()) if n}


# ---- writing ------------------------------------------------------------------------------------
def write_mask(root: Path, id: str, mask: np.ndarray) -> None:
    """Write an image's mask, ``(H, W)`` uint8, in PASCAL's colours."""
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    with atomic_write(root / MASK.format(id)) as path:
        image.save(path, format="PNG")


def palette() -> np.ndarray:
    """PASCAL's colour map, ``(256, 3)`` uint8: the bits of a value spread over the channels."""
    values, channels = np.arange(256)[:, None], np.arange(3)
    bits = ((values >> (3 * bit + channels) & 1) << (7 - bit) for bit in range(8))
    return sum(bits).astype(np.uint8)


def write_labels(root: Path, classes: Sequence[str], labels: dict[str, list[str]]) -> None:
    """Write ``image_labels.json``. labels: image name -> the names of its classes."""
    with atomic_write(root / LABELS) as path:
        path.write_text(json.dumps({"classes": list(classes), "labels": labels}))


def write_list(root: Path, split: str, ids: Sequence[str]) -> None:
    """Write a split's list of image names."""
    with atomic_write(root / LIST.format(split)) as path:
        path.write_text("".join(f"{id}\n" for id in ids))
