"""Images with image-level labels and, for scoring only, masks: the one form all data sets take."""

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import ExifTags, Image
from PIL.Image import Transpose

from ribkit.runtime.errors import InputError, Problems
from ribkit.runtime.files import known_digest
from ribkit.runtime.progress import bar

TURNS = {  # EXIF orientation -> what turns the image upright; 5 to 8 swap its sides
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # of all that Pillow reads; EPS runs a program
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")  # of such files
LONGEST = 20_000  # pixels of a side
# What the reading of a file raises that is not of the form expected.
BROKEN = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, SyntaxError, RecursionError),
    *(struct.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)


class Source(Protocol):
    """Where pixels come from; picklable, so that worker processes can read for themselves."""

    def image(self, id: str) -> np.ndarray:
        """``(H, W, 3)`` uint8, RGB."""

    def mask(self, id: str) -> np.ndarray:
        """``(H, W)`` uint8: 0 background, k + 1 for ``classes[k]``, 255 ignored."""

    def fingerprint(self, ids: Sequence[str]) -> str:
        """SHA-256 (hex) of everything these images are made of."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """``N`` images of one data set in a fixed order."""

    ids: tuple[str, ...]  # N different names
    classes: tuple[str, ...]  # C names, without background
    labels: np.ndarray  # (N, C) bool: which image shows which class
    source: Source

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> "LabelledImage":
        return LabelledImage(self, index)

    def __iter__(self) -> Iterator["LabelledImage"]:
        return (self[index] for index in range(len(self)))

    def image(self, index: int) -> np.ndarray:
        return self.source.image(self.ids[index])

    def mask(self, index: int) -> np.ndarray:
        return self.source.mask(self.ids[index])

    def take(self, indices: Sequence[int] | np.ndarray) -> "ImageSet":
        """The images at ``indices``, in that order."""
        indices = np.asarray(indices, dtype=int)
        ids = tuple(self.ids[i] for i in indices)
        return ImageSet(ids, self.classes, self.labels[indices], self.source)

    def checksum(self) -> str:
        """SHA-256 (hex) of pixels and masks."""
        return self.source.fingerprint(self.ids)

    def fingerprint(self) -> list:
        """What the set is made of: pixels and masks, names, classes, labels."""
        return [self.checksum(), list(self.ids), list(self.classes), hash_arrays([self.labels])]

    @property
    def read_by(self) -> str:
        """The module whose code reads the pixels."""
        return type(self.source).__module__


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image of a set; pixels and mask are read when they are asked for."""

    images: ImageSet
    index: int

    @property
    def name(self) -> str:
        return self.images.ids[self.index]

    @property
    def label(self) -> np.ndarray:
        """``(C,)`` bool: which classes it shows."""
        return self.images.labels[self.index]

    @property
    def classes(self) -> np.ndarray:
        """``(K,)``: the indices of the classes that it shows."""
        return np.flatnonzero(self.label)

    def pixels(self) -> np.ndarray:
        return self.images.image(self.index)

    def mask(self) -> np.ndarray:
        return self.images.mask(self.index)

    def heads(self) -> np.ndarray | None:
        """``(H, W)`` uint8, k + 1 on what tells class k; None where the data set does not say."""
        source = self.images.source
        return source.heads(self.name) if hasattr(source, "heads") else None


# ---- files --------------------------------------------------------------------------------------
@contextmanager
def readable(path: Path, remedy: str) -> Iterator[None]:
    """Turn what goes wrong while a file is read and taken apart into an InputError.

    The sentence names the file, the reason and the remedy; InputErrors of the code within pass.
    """
    if not path.is_file():  # a pipe would be waited for without end
        fault = "is not a file" if path.exists() else "does not exist"
        if other := like_named(path):
            raise InputError(f"{path} {fault}, but {other.name} is there; save it as {path.name}.")
        raise InputError(f"{path} {fault}; add it or take its name off the list.")
    try:
        yield
    except InputError:
        raise
    except BROKEN as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} cannot be used ({reason}); {remedy}.") from None


def like_named(path: Path) -> Path | None:
    """A file beside it with the same name but for the suffix, or its capitals, if there is one."""
    suffixes = (path.suffix, *SUFFIXES)
    others = [path.with_suffix(s) for suffix in suffixes for s in (suffix, suffix.upper())]
    return next(filter(Path.is_file, others), None)


@contextmanager
def open_image(path: Path, long_side: int = 0) -> Iterator[Image.Image]:
    """Open an image file with Pillow; InputError if it, or later its pixels, cannot be read.

    The header is enough to refuse another format or an image that is too large. With a
    ``long_side``, to which it will be shrunk, a JPEG is decoded at a part of its size.
    """
    formats = ", ".join(FORMATS)
    remedy = f"get it again, or save it as one of {formats}, {LONGEST:,} pixels a side at most"
    with readable(path, remedy), Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        if max(width, height) > LONGEST:
            raise Image.DecompressionBombError(f"{width} x {height} pixels")
        if long_side:
            image.draft("RGB", (long_side, long_side))
        if image.width * image.height > Image.MAX_IMAGE_PIXELS:
            most = f"more than {Image.MAX_IMAGE_PIXELS:,} in all"
            raise Image.DecompressionBombError(f"{width} x {height} pixels, {most}")
        yield image


def decode(path: Path, long_side: int = 0) -> np.ndarray:
    """Read an image file as RGB ``(H, W, 3)`` uint8, turned as its EXIF orientation says.

    Grey, palette and CMYK images become RGB; transparency is dropped. An image larger than
    ``long_side`` (0: any) is shrunk to it. InputError: see `open_image`; its values are not 8 or
    16 bits.
    """
    with open_image(path, long_side) as image:
        _require_range(path, image)
        image.load()  # which turns a TIFF and takes its orientation away
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        if image.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if orientation in TURNS:  # exif_transpose would write the whole block anew, or fail to
            image = image.transpose(TURNS[orientation])
        image = image.convert("RGB")
        if long_side:
            image.thumbnail((long_side, long_side), Image.Resampling.BICUBIC)
        return np.array(image)


def verify(path: Path, long_side: int = 0) -> tuple[int, int]:
    """Read every byte of an image file; the size (H, W) at which `decode` opens it.

    A JPEG is decoded at an eighth of its size, which reads it all but computes a 64th of it.
    InputError: what `decode` would refuse.
    """
    with open_image(path, long_side) as image:
        _require_range(path, image)
        width, height = image.size
        image.draft(None, (1, 1))
        image.load()
        if image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
            width, height = height, width
    return height, width


def _require_range(path: Path, image: Image.Image) -> None:
    """InputError for integers of 32 bits and floats, of which nobody knows what is white."""
    if image.mode in ("I", "F"):
        raise InputError(
            f"{path} has pixels of colour mode {image.mode}, whose white is unknown; save it with "
            f"8 or 16 bits a channel."
        )


def over_files(function: Callable, items: Sequence, description: str) -> list:
    """``[function(item) for item in items]`` in threads, for work that waits on files."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(bar(pool.map(function, items), description, len(items)))


def check_files(check: Callable, items: Sequence, description: str) -> None:
    """``check(item)`` for each item in threads; one InputError with all that they raise."""

    def told(item: object) -> Problems:
        problems = Problems()
        problems.collect(check, item)
        return problems

    Problems(chain(*over_files(told, items, description))).tell()


def hash_arrays(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 (hex) of the content of arrays in order."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def hash_files(paths: Sequence[Path], *texts: str) -> str:
    """SHA-256 (hex) of texts and of the content, not the place, of files; one may be missing."""

    def digest(path: Path) -> bytes:
        return bytes.fromhex(known_digest(path)) if path.is_file() else b"absent"

    digests = over_files(digest, paths, "fingerprint")
    return hashlib.sha256(b"".join([repr(texts).encode(), *digests])).hexdigest()
