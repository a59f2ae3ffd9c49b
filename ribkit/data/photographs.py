"""Photographs without masks: those that scikit-image and scikit-learn ship, or any folder's.

A classifier says what they show: its top classes become the labels (``Photographs.labelled``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ribkit.data.images import ImageSet, check_files, decode, hash_files, verify
from ribkit.runtime.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LONG_SIDE = 320  # an ImageNet classifier knows objects of about this size; at 640 it is unsure


@dataclass(frozen=True)
class Shipped:
    """A photograph inside a wheel: where, its class in torchvision's ImageNet, whose it is."""

    package: str
    file: str
    category: str
    credit: str


SHIPPED = {
    Path(s.file).name: s
    for s in (
        Shipped("skimage", "data/chelsea.png", "tiger cat", "Stefan van der Walt, CC0"),
        Shipped("skimage", "data/coffee.png", "espresso", "Rachel Michetti, CC0"),
        Shipped("skimage", "data/rocket.jpg", "missile", "SpaceX, public domain"),
        Shipped("skimage", "data/motorcycle_left.png", "moped", "Middlebury Stereo 2014"),
        Shipped("skimage", "data/camera.png", "tripod", "Lav Varshney, CC0"),
        Shipped("sklearn", "datasets/images/china.jpg", "palace", "danielbuechele, CC BY 2.0"),
        Shipped("sklearn", "datasets/images/flower.jpg", "daisy", "vultilion, CC BY 2.0"),
    )
}


@dataclass(frozen=True, eq=False)
class Photographs:
    """A Source (`ribkit.data.images`) of image files, which have no masks.

    Attributes:
        paths: File name -> file.
        long_side: Larger images are shrunk to this many pixels on their longer side (0: never).
    """

    paths: dict[str, Path]
    long_side: int = LONG_SIDE

    @property
    def ids(self) -> tuple[str, ...]:
        """The file names, in order."""
        return tuple(self.paths)

    def image(self, id: str) -> np.ndarray:
        """``(H, W, 3)`` uint8, RGB. InputError: missing or unreadable."""
        return decode(self.paths[id], self.long_side)

    def mask(self, id: str) -> np.ndarray:
        """InputError always."""
        raise InputError(f"{self.paths[id]} has no mask; score a folder in VOC layout instead.")

    def fingerprint(self, ids: Sequence[str]) -> str:
        """SHA-256 (hex) of the files and of the size they are shrunk to."""
        return hash_files([self.paths[id] for id in ids], *ids, str(self.long_side))

    def labelled(self, classes: Sequence[str], shown: Sequence[Sequence[int]]) -> ImageSet:
        """The photographs as an ImageSet; image i shows the classes at the positions ``shown[i]``.

        InputError: not one entry per photograph, or a position that is none.
        """
        if len(shown) != len(self.paths):
            raise InputError(
                f"{len(shown)} labels for {len(self.paths)} photographs; give one list each."
            )
        labels = np.zeros((len(self.paths), len(classes)), bool)
        for row, name, positions in zip(labels, self.ids, shown, strict=True):
            for k in positions:
                if not 0 <= k < len(classes):
                    raise InputError(f"{name}: class {k} is none of 0 to {len(classes) - 1}.")
                row[k] = True
        return ImageSet(self.ids, tuple(classes), labels, self)


def shipped(long_side: int = LONG_SIDE) -> Photographs:
    """The photographs of ``SHIPPED``, which says of each what it shows and whose it is.

    InputError: a package or its file is not installed.
    """
    paths = {}
    for name, photograph in SHIPPED.items():
        spec = find_spec(photograph.package)
        path = Path(spec.origin).parent / photograph.file if spec else None
        if path is None or not path.is_file():
            raise InputError(
                f"{photograph.file} of {photograph.package} is not installed; run make reproduce "
                f"once, or pip install scikit-image scikit-learn."
            )
        paths[name] = path
    return Photographs(paths, long_side)


def shipped_labelled(long_side: int = LONG_SIDE) -> ImageSet:
    """`shipped` with labels among ImageNet's 1000 classes, in torchvision's names and order."""
    from torchvision.models import ResNet50_Weights  # takes seconds to import

    classes = ResNet50_Weights.DEFAULT.meta["categories"]
    shown = [[classes.index(photograph.category)] for photograph in SHIPPED.values()]
    return shipped(long_side).labelled(classes, shown)


def folder(path: str | Path, long_side: int = LONG_SIDE) -> Photographs:
    """All photographs (jpg, jpeg, png, webp, bmp) that lie in a folder, sorted by name.

    Each is read once, to its end. InputError: missing or empty folder, all unreadable files.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; give one that holds photographs.")
    paths = sorted(
        p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
    )
    if not paths:
        raise InputError(f"{path} holds no photograph; put {', '.join(SUFFIXES)} files in it.")
    check_files(verify, paths, "reading photographs")
    return Photographs({p.name: p for p in paths}, long_side)
