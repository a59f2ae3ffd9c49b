"""MS COCO 2014, as it is distributed, becomes a folder in VOC layout, once; `voc` reads that.

Instances are painted from the largest to the smallest, so that what is small stays visible; crowds
are their class, painted first. Labels come from the same annotations as the masks. Mask value k
stands for the k-th category by id.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from ribkit.data import voc
from ribkit.data.images import hash_files
from ribkit.runtime.errors import InputError, Problems
from ribkit.runtime.files import locked
from ribkit.runtime.keys import PACKAGE, syntax
from ribkit.runtime.parallel import map_images

SPLITS = ("train", "val")
NAME = re.compile(r"\w[\w.-]*\.jpg", re.ASCII)
COUNTS = re.compile("([P-o]{0,6}[0-O])+")  # compressed run lengths; P to o carry a number on


@dataclass(frozen=True)
class Instance:
    """An annotated object or crowd. value: of its class in the mask."""

    value: int
    crowd: bool
    segmentation: list | dict


@dataclass(frozen=True)
class Annotated:
    """What one image's mask is painted from."""

    id: str
    height: int
    width: int
    instances: list[Instance] = field(default_factory=list)


def as_voc(root: str | Path, target: Path) -> Path:
    """The folder in VOC layout that COCO's folder ``root`` is converted to, under ``target``.

    root: ``annotations/instances_train2014.json`` and ``train2014``, or the same of ``val2014``, or
    both. A folder in VOC layout is its own conversion. An interrupted conversion goes on. The
    photographs stay where they are: JPEGImages holds links, which follow ``root`` when it moves.
    InputError: what is missing, no COCO, or cannot be painted.
    """
    root = Path(root).resolve()
    if (root / "ImageSets").is_dir():
        return root
    files = _annotation_files(root)
    made_of = hash_files(list(files.values()), *files, syntax(PACKAGE, __name__))
    folder = target / f"coco-{made_of[:20]}"
    folder.mkdir(parents=True, exist_ok=True)
    waiting = f"Process {{}} makes {folder} already; this one waits for it."
    with locked(target / f"{folder.name}.lock", waiting):
        for split in files:
            _link(folder / f"{split}2014", root / f"{split}2014")
        if not all(voc.list_path(folder, split).is_file() for split in files):
            _convert(folder, files)
    return folder


def _annotation_files(root: Path) -> dict[str, Path]:
    """Split -> its annotations, of the splits that are there."""
    paths = {split: root / "annotations" / f"instances_{split}2014.json" for split in SPLITS}
    found = {split: path for split, path in paths.items() if path.is_file()}
    if not found:
        raise InputError(
            f"{root} has neither of annotations/instances_train2014.json and "
            f"annotations/instances_val2014.json; give the folder of MS COCO 2014."
        )
    for split in found:
        if not (root / f"{split}2014").is_dir():
            raise InputError(
                f"{root / f'{split}2014'} is not a folder; unpack {split}2014.zip there."
            )
    return found


def _link(link: Path, to: Path) -> None:
    if not link.is_symlink() or link.readlink() != to:
        link.unlink(missing_ok=True)
        link.symlink_to(to)


def _convert(folder: Path, files: dict[str, Path]) -> None:
    """Links and masks, then labels, then the lists, which say that all is there."""
    problems = Problems()
    read = {
        split: problems.collect(_read, path, folder / f"{split}2014")
        for split, path in files.items()
    }
    problems.tell()
    (names, *others), images = zip(*read.values(), strict=True)
    if any(other != names for other in others):
        paths = " and ".join(map(str, files.values()))
        raise InputError(f"{paths} differ in their categories; give two of one data set.")
    every = [image for part in images for image in part]
    _refuse_twice(folder, [image.id for image in every])
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    done = set(os.listdir(folder / "SegmentationClass"))
    for split, part in zip(files, images, strict=True):
        left = [image for image in part if f"{image.id}.png" not in done]
        map_images(partial(_write, folder, split), left, f"masks of {split}", gpu=False)
    labels = {i.id: sorted({names[one.value - 1] for one in i.instances}) for i in every}
    voc.write_labels(folder, names, labels)
    for split, part in zip(files, images, strict=True):
        voc.write_list(folder, split, [image.id for image in part])


def _refuse_twice(where: Path, names: Sequence) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise InputError(f"{where}: {name!r} is there twice; give each its own.")
        seen.add(name)


# ---- annotations --------------------------------------------------------------------------------
def _read(path: Path, photographs: Path) -> tuple[tuple[str, ...], list[Annotated]]:
    """Class names and images of an annotation file, all of it checked but the pixels."""
    try:
        content = json.loads(path.read_bytes())
        categories = {c["id"]: c["name"] for c in content["categories"]}
        names = _names(path, categories, len(content["categories"]))
        images = _images(path, photographs, content["images"])
        values = {key: k + 1 for k, key in enumerate(sorted(categories))}
        problems = Problems()
        for entry in content["annotations"]:
            problems.collect(_add, path, images, values, entry)
        problems.tell()
    except InputError:
        raise
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path} is not in COCO's format ({reason}); get the file again."
        ) from None
    return names, list(images.values())


def _names(path: Path, categories: dict[int, str], count: int) -> tuple[str, ...]:
    """Names in the order of the categories' ids."""
    names = tuple(categories[key] for key in sorted(categories))
    if not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{path} has a category without a name; give each one.")
    if not 0 < len(set(names)) == count <= voc.MOST:
        raise InputError(f"{path}: {count} categories; give 1 to {voc.MOST} different ones.")
    return names


def _images(path: Path, photographs: Path, entries: list[dict]) -> dict[int, Annotated]:
    """Image id -> image, without its instances."""
    problems = Problems()
    problems.collect(_refuse_twice, path, [entry["id"] for entry in entries])
    there = set(os.listdir(photographs))
    images = {e["id"]: problems.collect(_image, path, photographs, there, e) for e in entries}
    problems.tell()
    return images


def _image(path: Path, photographs: Path, there: set[str], entry: dict) -> Annotated:
    """An image, without its instances. there: the files among the photographs."""
    name, height, width = entry["file_name"], entry["height"], entry["width"]
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise InputError(
            f"{path}: image {entry['id']} has the file name {name!r}; give a plain name that ends "
            f"in .jpg."
        )
    if not (_count(height) and _count(width) and height * width <= Image.MAX_IMAGE_PIXELS):
        raise InputError(f"{path}: {name} is {width} x {height} pixels; give its true size.")
    if name not in there:
        raise InputError(
            f"{photographs.resolve() / name} does not exist, but {path} lists it; add it."
        )
    return Annotated(name.removesuffix(".jpg"), height, width)


def _count(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _add(path: Path, images: dict[int, Annotated], values: dict[int, int], entry: dict) -> None:
    """Give an annotation to its image."""
    where = f"{path}: annotation {entry['id']}"
    for key, known in (("image_id", images), ("category_id", values)):
        if entry[key] not in known:
            raise InputError(f"{where} has the {key} {entry[key]!r}, which is not listed; add it.")
    image, segmentation = images[entry["image_id"]], entry["segmentation"]
    try:
        fault = _fault(segmentation, image.height, image.width)
    except (KeyError, TypeError, ValueError) as error:
        fault = f"a segmentation of another form ({type(error).__name__}: {error})"
    if fault:
        raise InputError(f"{where} of {image.id}.jpg has {fault}; correct or remove it.")
    value, crowd = values[entry["category_id"]], bool(entry.get("iscrowd"))
    image.instances.append(Instance(value, crowd, segmentation))


def _fault(segmentation: list | dict, height: int, width: int) -> str:
    """What is wrong with a segmentation, in words: pycocotools trusts what it is given.

    It reserves memory for each point of an outline, wherever the outline goes.
    """
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        if list(segmentation["size"]) != [height, width]:
            return f"a mask of size {segmentation['size']} where its image has {[height, width]}"
        if isinstance(counts, str):
            if not COUNTS.fullmatch(counts):
                return "a mask that is not run-length encoded"
            fits = rle.encode(rle.decode(segmentation))["counts"].decode() == counts
        else:
            fits = all(isinstance(n, int) and n >= 0 for n in counts)
            fits = fits and sum(counts) == height * width
        return "" if fits else "run lengths that do not add up to its pixels"
    if not segmentation:
        return "no polygon"
    for polygon in segmentation:
        points = np.array(polygon, float)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2:
            return f"a polygon of {points.size} numbers, which are not three points or more"
        if not np.abs(points).max() <= 2 * max(height, width):
            return "a polygon that leaves its image"
    return ""


# ---- masks --------------------------------------------------------------------------------------
def _write(folder: Path, split: str, image: Annotated) -> None:
    """An image's link, then its mask."""
    mask = paint(image)
    _link(voc.image_path(folder, image.id), Path("..", f"{split}2014", f"{image.id}.jpg"))
    voc.write_mask(folder, image.id, mask)


def paint(image: Annotated) -> np.ndarray:
    """The image's mask, ``(H, W)`` uint8: 0 background, else the class on top."""
    regions = [(one, _region(image, one)) for one in image.instances]
    regions.sort(key=lambda pair: (not pair[0].crowd, -int(rle.area(pair[1]))))
    mask = np.zeros((image.height, image.width), np.uint8)
    for one, region in regions:
        mask[rle.decode(region).astype(bool)] = one.value
    return mask


def _region(image: Annotated, one: Instance) -> dict:
    """An instance's compressed run lengths."""
    segmentation = one.segmentation
    if isinstance(segmentation, list):
        return rle.merge(rle.frPyObjects(segmentation, image.height, image.width))
    if isinstance(segmentation["counts"], list):
        return rle.frPyObjects(segmentation, image.height, image.width)
    return segmentation
