"""Photographs without masks: those that scikit-image and scikit-learn ship, or any folder's.

A classifier says what they show: its top classes become the labels (``Photographs.labelled``).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ribkit.data.images import SUFFIXES, ImageSet, check_files, decode, hash_files, verify
from ribkit.runtime.errors import InputError, few

LONG_SIDE = 320  # pixels, at most: at 640 an ImageNet classifier is unsure
SHIPPED = {  # file in its package -> class in torchvision's ImageNet, and whose it is
    "skimage/data/chelsea.png": "tiger cat",  # Stefan van der Walt, CC0
    "skimage/data/coffee.png": "espresso",  # Rachel Michetti, CC0
    "skimage/data/rocket.jpg": "missile",  # SpaceX, public domain
    "skimage/data/motorcycle_left.png": "moped",  # Middlebury Stereo 2014
    "skimage/data/camera.png": "tripod",  # Lav Varshney, CC0
    "sklearn/datasets/images/china.jpg": "palace",  # danielbuechele, CC BY 2.0
    "sklearn/datasets/images/flower.jpg": "daisy",  # vultilion, CC BY 2.0
}
VOC = {"chelsea.png": "cat", "motorcycle_left.png": "motorbike"}  # what they show, as VOC has it


@dataclass(frozen=True, eq=False)
class Photographs:
    """A Source (`ribkit.data.images`) of image files, which have no masks."""

    paths: dict[str, Path]  # name -> file
    long_side: int  # pixels, to which larger ones are shrunk; 0: none is

    @property
    def ids(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(self.paths)

    def image(self, id: str) -> np.ndarray:
        return decode(self.paths[id], self.long_side)

    def mask(self, id: str) -> np.ndarray:
        raise InputError(f"{self.paths[id]} has no mask; score a folder in VOC layout instead.")

    def fingerprint(self, ids: Sequence[str]) -> str:
        """SHA-256 (hex) of the files, and of the size at which they are seen."""
        return hash_files([self.paths[id] for id in ids], *ids, str(self.long_side))

    def labelled(self, classes: Sequence[str], shown: Sequence[Sequence[int]]) -> ImageSet:
        """The photographs as an ImageSet; number i shows the classes at ``shown[i]``."""
        labels = np.zeros((len(self.paths), len(classes)), bool)
        for row, positions in zip(labels, shown, strict=True):
            row[list(positions)] = True
        return ImageSet(self.ids, tuple(classes), labels, self)


def shipped() -> Photographs:
    """The photographs of ``SHIPPED``. InputError: a package or its file is not installed."""
    paths = {}
    for file in SHIPPED:
        spec = find_spec(file.split("/")[0])
        path = Path(spec.origin).parents[1] / file if spec else None
        if path is None or not path.is_file():
            raise InputError(
                f"{file} is not installed; run make reproduce once, or pip install scikit-image "
                f"scikit-learn."
            )
        paths[path.name] = path
    return Photographs(paths, LONG_SIDE)


def shipped_labelled() -> ImageSet:
    """`shipped` with labels among ImageNet's 1000 classes, in torchvision's names and order."""
    from torchvision.models import ResNet50_Weights  # takes seconds to import

    classes = ResNet50_Weights.DEFAULT.meta["categories"]
    return shipped().labelled(classes, [[classes.index(c)] for c in SHIPPED.values()])


def shipped_showing(classes: Sequence[str]) -> ImageSet:
    """Those of `shipped` that show one of these classes of VOC, with their labels; perhaps none."""
    every = shipped()
    paths = {name: path for name, path in every.paths.items() if VOC.get(name) in classes}
    kept = replace(every, paths=paths)
    return kept.labelled(classes, [[classes.index(VOC[name])] for name in paths])


def folder(path: str | Path, long_side: int = LONG_SIDE) -> Photographs:
    """All photographs, files named as in ``SUFFIXES``, that lie in a folder, sorted by name.

    Each is read once, to its end; a warning names the other files. InputError: missing or empty
    folder, all unreadable files. ``long_side``: to which larger ones are shrunk; 0: none is.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; give one that holds photographs.")
    files = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    paths = [p for p in files if p.suffix.lower() in SUFFIXES]
    others = [p.name for p in files if p.suffix.lower() not in SUFFIXES and p.is_file()]
    suffixes = ", ".join(SUFFIXES)
    if others:
        warnings.warn(
            f"{path}: passed over, as they are none of {suffixes}: {few(others)}.", stacklevel=3
        )
    if not paths:
        raise InputError(f"{path} holds no photograph; put {suffixes} files in it.")
    check_files(partial(verify, long_side=long_side), paths, "reading photographs")
    return Photographs({p.name: p for p in paths}, long_side)
