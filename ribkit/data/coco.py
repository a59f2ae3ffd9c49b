"""MS COCO 2014, as it is distributed, becomes a folder in VOC layout, once; `voc` reads that.

Instances are painted from the largest to the smallest, so that what is small stays visible; crowds
are their class, painted first. Labels come from the same annotations as the masks. Mask value k
stands for the k-th category by id. pycocotools reads and rasterises the annotations.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
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

SPLITS = ("train", "val")
NAME = re.compile(r"\w[\w.-]*\.jpg", re.ASCII)
COUNTS = re.compile("([P-o]{0,6}[0-O])+")  # compressed run lengths; P to o carry a number on


def as_voc(root: str | Path, target: Path) -> Path:
    """Convert COCO's folder to one in VOC layout, if that is not done yet.

    An interrupted conversion goes on. The photographs stay where they are: JPEGImages holds links,
    which follow ``root`` when it moves.

    Args:
        root: ``annotations/instances_train2014.json`` and ``train2014``, or the same of
            ``val2014``, or both. A folder in VOC layout is its own conversion.
        target: The folder for conversions.

    Returns:
        The folder in VOC layout, named after the annotations' content and this module's.

    Raises:
        InputError: What is missing, is no COCO, or cannot be painted.
    """
    root = Path(root).resolve()
    if (root / "ImageSets").is_dir():
        return root
    files = _annotation_files(root)
    folder = target / f"coco-{hash_files([*files.values(), Path(__file__)], *files)[:20]}"
    folder.mkdir(parents=True, exist_ok=True)
    waiting = f"Process {{}} makes {folder} already; this one waits for it."
    with locked(target / f"{folder.name}.lock", waiting):
        for split in files:
            _link(folder / f"{split}2014", root / f"{split}2014")
        if not all(voc.list_path(folder, split).is_file() for split in files):
            _convert(folder, files)
    return folder


def _annotation_files(root: Path) -> dict[str, Path]:
    """Split -> its annotation file, where there is one."""
    paths = {split: root / "annotations" / f"instances_{split}2014.json" for split in SPLITS}
    files = {split: path for split, path in paths.items() if path.is_file()}
    if not files:
        raise InputError(
            f"{root} has neither of annotations/instances_train2014.json and "
            f"annotations/instances_val2014.json; give the folder of MS COCO 2014."
        )
    for split in files:
        if not (root / f"{split}2014").is_dir():
            raise InputError(
                f"{root / f'{split}2014'} is not a folder; unpack {split}2014.zip there."
            )
    return files


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
    names, *others = (_names(coco) for coco in sets.values())
    if any(other != names for other in others):
        paths = " and ".join(map(str, files.values()))
        raise InputError(f"{paths} differ in their categories; give two of one data set.")
    _refuse_twice(folder, (_id(image) for coco in sets.values() for image in coco.imgs.values()))
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    done, labels = set(os.listdir(folder / "SegmentationClass")), {}
    for split, coco in sets.items():
        values = {category: k + 1 for k, category in enumerate(sorted(coco.cats))}
        left = []
        for image in coco.imgs.values():
            annotations = coco.imgToAnns[image["id"]]
            shown = {values[annotation["category_id"]] for annotation in annotations}
            labels[_id(image)] = sorted(names[value - 1] for value in shown)
            if f"{_id(image)}.png" not in done:
                left.append((image, annotations))
        map_images(partial(_write, folder, split, values), left, f"masks of {split}", gpu=False)
    voc.write_labels(folder, names, labels)
    for split, coco in sets.items():
        voc.write_list(folder, split, [_id(image) for image in coco.imgs.values()])


def _names(coco: COCO) -> tuple[str, ...]:
    """Category names in the order of their ids."""
    return tuple(coco.cats[category]["name"] for category in sorted(coco.cats))


def _id(image: dict) -> str:
    return image["file_name"].removesuffix(".jpg")


# ---- masks --------------------------------------------------------------------------------------
def _write(folder: Path, split: str, values: dict[int, int], item: tuple[dict, list]) -> None:
    """An image's link, then its mask."""
    image, annotations = item
    mask = paint(image, annotations, values)
    link = voc.image_path(folder, _id(image))
    _link(link, Path("..", f"{split}2014", image["file_name"]))
    voc.write_mask(folder, _id(image), mask)


def paint(image: dict, annotations: list[dict], values: dict[int, int]) -> np.ndarray:
    """The mask of an image, with the smallest instance on top and crowds below all others.

    Args:
        image: An entry of COCO's ``images``.
        annotations: Those of the image.
        values: Category id -> mask value.

    Returns:
        ``(H, W)`` uint8, 0 where there is no instance.
    """
    coco = COCO()
    coco.imgs[image["id"]] = image
    regions = [(annotation, coco.annToRLE(annotation)) for annotation in annotations]
    regions.sort(key=lambda pair: (not pair[0].get("iscrowd"), -int(rle.area(pair[1]))))
    mask = np.zeros((image["height"], image["width"]), np.uint8)
    for annotation, region in regions:
        mask[rle.decode(region).astype(bool)] = values[annotation["category_id"]]
    return mask


# ---- annotations --------------------------------------------------------------------------------
def _read(path: Path, photographs: Path) -> COCO:
    """An annotation file, all of it checked but the pixels."""
    coco, problems = COCO(), Problems()
    with readable(path, "get COCO's annotations again"), redirect_stdout(None):  # it prints
        coco.dataset = json.loads(path.read_bytes())
        coco.createIndex()
        names, count = _names(coco), len(coco.dataset["categories"])
        named = {name for name in names if name and isinstance(name, str)}
        if not 0 < len(named) == count <= voc.MOST:
            raise InputError(
                f"{path}: {count} categories; give 1 to {voc.MOST}, each with a name of its own."
            )
        problems.collect(_refuse_twice, path, (image["id"] for image in coco.dataset["images"]))
        files = set(os.listdir(photographs))
        for image in coco.dataset["images"]:
            problems.collect(_check_image, path, image, photographs, files)
        problems.tell()
        for annotation in coco.dataset["annotations"]:
            problems.collect(_check_annotation, path, annotation, coco)
        problems.tell()
    return coco


def _refuse_twice(where: Path, names: Iterable) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{where}: {name!r} is there twice; give each its own.")


def _check_image(path: Path, image: dict, photographs: Path, files: set[str]) -> None:
    """InputError for an image that cannot be converted. files: the names among the photographs."""
    name, height, width = image["file_name"], image["height"], image["width"]
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise InputError(
            f"{path}: image {image['id']} has the file name {name!r}; give a plain name that ends "
            f"in .jpg."
        )
    sides = all(isinstance(side, int) and side > 0 for side in (height, width))
    if not (sides and height * width <= Image.MAX_IMAGE_PIXELS):
        raise InputError(f"{path}: {name} is {width} x {height} pixels; give its true size.")
    if name not in files:
        raise InputError(
            f"{photographs.resolve() / name} does not exist, but {path} lists it; add it."
        )


def _check_annotation(path: Path, annotation: dict, coco: COCO) -> None:
    """InputError for an annotation that belongs to nothing or cannot be painted."""
    where = f"{path}: annotation {annotation['id']}"
    for key, known in (("image_id", coco.imgs), ("category_id", coco.cats)):
        if annotation[key] not in known:
            raise InputError(
                f"{where} has the {key} {annotation[key]!r}, which is not listed; add it."
            )
    image = coco.imgs[annotation["image_id"]]
    height, width = image["height"], image["width"]
    if not _can_be_painted(annotation["segmentation"], height, width):
        raise InputError(
            f"{where} of {image['file_name']} cannot be painted; give polygons of three points or "
            f"more inside the image, or run lengths that add up to its {width} x {height} pixels."
        )


def _can_be_painted(segmentation: list | dict, height: int, width: int) -> bool:
    """Whether pycocotools can take it, which trusts what it is given.

    It reserves memory for each point of an outline, wherever the outline goes, and takes four
    numbers for a box.
    """
    try:
        if isinstance(segmentation, list):
            polygons = [np.array(polygon, float) for polygon in segmentation]
            flat = all(p.ndim == 1 and len(p) >= 6 and len(p) % 2 == 0 for p in polygons)
            most = 2 * max(height, width)
            return bool(polygons) and flat and all(np.abs(p).max() <= most for p in polygons)
        counts = segmentation["counts"]
        if list(segmentation["size"]) != [height, width]:
            return False
        if isinstance(counts, list):
            positive = all(isinstance(n, int) and n >= 0 for n in counts)
            return positive and sum(counts) == height * width
        decoded = rle.decode(segmentation) if COUNTS.fullmatch(counts) else np.zeros((0, 0))
        return decoded.size > 0 and rle.encode(decoded)["counts"].decode() == counts
    except (KeyError, TypeError, ValueError):
        return False
