"""MS COCO 2014, as it is distributed, becomes a folder in VOC layout, once; `voc` reads that.

Instances are painted from the largest to the smallest, so that what is small stays visible; crowds
are their class, painted first. Labels come from the same annotations as the masks. Mask value k
stands for the k-th category by id. pycocotools reads and rasterises the annotations.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from ribkit.data import voc
from ribkit.data.images import hash_files, readable
from ribkit.runtime.errors import InputError, Problems
from ribkit.runtime.files import locked
from ribkit.runtime.parallel import map_images

REMEDY = (
    "give ids that are listed, and polygons of three points or more inside the image or run "
    "lengths that add up to its pixels"
)
NAME = re.compile(r"\w[\w.-]*\.jpg", re.ASCII)
NUMBER = re.compile("[P-o]{0,6}[0-O]")  # of compressed run lengths; P to o carry it on


def as_voc(root: str | Path, target: Path) -> Path:
    """Convert MS COCO's folder to one in VOC layout in ``target``, if that is not done yet.

    A folder in VOC layout is its own conversion. An interrupted conversion goes on. The photographs
    stay where they are: JPEGImages holds links, which follow ``root`` when it moves. InputError:
    all that is missing or cannot be painted.
    """
    root = Path(root).resolve()
    if (root / "ImageSets").is_dir():
        return root
    paths = {split: root / f"annotations/instances_{split}2014.json" for split in ("train", "val")}
    files = {split: path for split, path in paths.items() if path.is_file()}
    if not files or not all((root / f"{split}2014").is_dir() for split in files):
        raise InputError(
            f"{root} is not MS COCO 2014; unpack annotations/instances_train2014.json and "
            f"train2014 there, or the same of val2014, or both."
        )
    folder = target / f"coco-{hash_files([*files.values(), Path(__file__)], *files)[:20]}"
    folder.mkdir(parents=True, exist_ok=True)
    waiting = f"Process {{}} makes {folder} already; this one waits for it."
    with locked(target / f"{folder.name}.lock", waiting):
        for split in files:
            _link(folder / f"{split}2014", root / f"{split}2014")
        if not all((folder / voc.LIST.format(split)).is_file() for split in files):
            _convert(folder, files)
    return folder


def _link(link: Path, to: Path) -> None:
    if not link.is_symlink() or link.readlink() != to:
        link.unlink(missing_ok=True)
        link.symlink_to(to)


def _convert(folder: Path, files: dict[str, Path]) -> None:
    """Links and masks, then labels, then the lists, which say that all is there."""
    problems = Problems()
    sets = {
        split: problems.collect(_read, path, folder / f"{split}2014")
        for split, path in files.items()
    }
    problems.tell()
    labels, lists, categories, left = {}, {}, [], []
    for split, coco in sets.items():
        names = {category: coco.cats[category]["name"] for category in sorted(coco.cats)}
        categories.append(list(names.values()))
        lists[split] = []
        for image in coco.imgs.values():
            id, annotations = Path(image["file_name"]).stem, coco.imgToAnns[image["id"]]
            lists[split].append(id)
            labels[id] = sorted({names[annotation["category_id"]] for annotation in annotations})
            if not (folder / voc.MASK.format(id)).is_file():
                left.append((split, image, annotations, list(names)))
    if categories[0] != categories[-1] or len(labels) < sum(map(len, lists.values())):
        paths = " and ".join(map(str, files.values()))
        raise InputError(
            f"{paths} differ in their categories or share a file name; give two of one data set."
        )
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    map_images(partial(_write, folder), left, "masks of COCO", gpu=False)
    voc.write_labels(folder, categories[0], labels)
    for split, ids in lists.items():
        voc.write_list(folder, split, ids)


# ---- masks --------------------------------------------------------------------------------------
def _write(folder: Path, item: tuple[str, dict, list[dict], list[int]]) -> None:
    """An image's link, then its mask."""
    split, image, annotations, categories = item
    id, mask = Path(image["file_name"]).stem, paint(image, annotations, categories)
    _link(folder / voc.IMAGE.format(id), Path("..", f"{split}2014", image["file_name"]))
    voc.write_mask(folder, id, mask)


def paint(image: dict, annotations: list[dict], categories: list[int]) -> np.ndarray:
    """The mask of an image, ``(H, W)`` uint8: the smallest instance on top, crowds below all."""
    coco = COCO()
    coco.imgs[image["id"]] = image
    regions = [(annotation, coco.annToRLE(annotation)) for annotation in annotations]
    regions.sort(key=lambda pair: (not pair[0].get("iscrowd"), -int(rle.area(pair[1]))))
    mask = np.zeros((image["height"], image["width"]), np.uint8)
    for annotation, region in regions:
        mask[rle.decode(region).astype(bool)] = categories.index(annotation["category_id"]) + 1
    return mask


# ---- annotations --------------------------------------------------------------------------------
def _read(path: Path, photographs: Path) -> COCO:
    """An annotation file, all of it checked but the pixels."""
    coco = COCO()
    with readable(path, "get COCO's annotations again"), redirect_stdout(None):  # it prints
        coco.dataset = json.loads(path.read_bytes(), parse_float=_number)
        coco.createIndex()
        Problems(_faults_of_lists(path, coco, photographs)).tell()
        Problems(_faults_of_annotations(path, coco)).tell()
    return coco


def _number(text: str) -> int | float:
    """A number of JSON; tools write whole ones as 640.0 too."""
    number = float(text)
    return int(number) if number.is_integer() else number


def _faults_of_lists(path: Path, coco: COCO, photographs: Path) -> Iterator[str]:
    """What is wrong with the categories and images."""
    images, categories = coco.dataset["images"], coco.dataset["categories"]
    names = [each["name"] for each in categories]
    if not 0 < len(names) <= voc.MOST or not all(n and isinstance(n, str) for n in names):
        yield f"{path}: {len(names)} categories; give 1 to {voc.MOST}, each with a name."
    once = {"category name": names, "category id": [each["id"] for each in categories]}
    for what, values in (once | {"image id": [each["id"] for each in images]}).items():
        for value, times in Counter(values).items():
            if times > 1:
                yield f"{path}: {what} {value!r} is there twice; give each its own."
    there = set(os.listdir(photographs))
    for image in images:
        name, width, height = image["file_name"], image["width"], image["height"]
        known = isinstance(name, str) and NAME.fullmatch(name) and name in there
        sized = all(isinstance(side, int) and side > 0 for side in (width, height))
        if not (known and sized and width * height <= Image.MAX_IMAGE_PIXELS):
            yield (
                f"{path}: image {image['id']} is {name!r} of {width!r} x {height!r} pixels; add "
                f"this photograph to {photographs.resolve()}, or give its plain name, which ends "
                "in .jpg, and true size."
            )


def _faults_of_annotations(path: Path, coco: COCO) -> Iterator[str]:
    """Annotations that belong to nothing or cannot be painted."""
    for annotation in coco.dataset["annotations"]:
        image, category = annotation["image_id"], annotation["category_id"]
        known = image in coco.imgs and category in coco.cats
        segmentation, remedy = annotation.get("segmentation"), REMEDY
        if known and _can_be_painted(segmentation, coco.imgs[image]):
            continue
        if known and _can_be_painted([segmentation], coco.imgs[image]):
            remedy = "its polygon is a flat list; put it into a list of polygons: [[x, y, ...]]"
        yield (
            f"{path}: annotation {annotation['id']} of image {image!r} and category "
            f"{category!r} cannot be painted; {remedy}."
        )


def _can_be_painted(segmentation: list | dict, image: dict) -> bool:
    """Whether pycocotools can take it, which trusts what it is given.

    It reserves memory for each point of an outline, wherever the outline goes, and takes four
    numbers for a box.
    """
    height, width = image["height"], image["width"]
    try:
        if isinstance(segmentation, list):
            polygons = [np.array(polygon, float) for polygon in segmentation]
            most = 2 * max(height, width)
            flat = all(p.ndim == 1 and p.size >= 6 and p.size % 2 == 0 for p in polygons)
            return bool(polygons) and flat and all(np.abs(p).max() <= most for p in polygons)
        counts = segmentation["counts"]
        if list(segmentation["size"]) != [height, width]:
            return False
        runs = counts if isinstance(counts, list) else _runs(counts)
        return all(isinstance(n, int) and n >= 0 for n in runs) and sum(runs) == height * width
    except (KeyError, TypeError, ValueError):
        return False


def _runs(text: str) -> list[int]:
    """Compressed run lengths as numbers; what is no such text adds up to no image.

    Five bits a character, the lowest first, in two's complement; from the fourth number on the
    difference to the one before the last.
    """
    runs, numbers = [], NUMBER.findall(text)
    for number in numbers if "".join(numbers) == text else ():
        bits = [ord(character) - 48 & 31 for character in number]
        value = sum(five << 5 * place for place, five in enumerate(bits))
        value -= (bits[-1] >> 4) << 5 * len(bits)
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs
