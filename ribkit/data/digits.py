"""The toy data of Figure 1: digits 2 and 8, some with a small disc or square beside them.

MNIST where it is at hand, else scikit-learn's bundled 8x8 digits enlarged to the same frame.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter
from sklearn.datasets import load_digits

from ribkit.runtime.errors import InputError, first_line

CLASSES = (2, 8)
"""The digit behind label 0 (it comes with a disc) and behind label 1 (with a square)."""
REGIONS = ("irrelevant", "discriminative", "non-discriminative")
"""Names of the values 0, 1, 2 in ``DigitSet.regions``: the rest, digit pixels, shape pixels."""
FRAME = 28
INK = 64
"""From this grey value on (of 255) a pixel belongs to the digit; a fainter rim is irrelevant."""


@dataclass(frozen=True, eq=False)
class DigitSet:
    """``N`` pictures.

    Attributes:
        images: ``(N, 28, 28)`` uint8.
        labels: ``(N,)`` uint8, index in CLASSES.
        regions: ``(N, 28, 28)`` uint8, index in REGIONS.
    """

    images: np.ndarray
    labels: np.ndarray
    regions: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of pixels, labels and regions."""
        return _hash_arrays(self.images, self.labels, self.regions)


@dataclass(frozen=True, eq=False)
class Digits:
    """All that the toy experiment needs.

    Attributes:
        name: Of the digits' source.
        train: Shapes on a tenth of the images, disc with 2, square with 8.
        control: The same images and places, but the shape has nothing to do with the digit.
        test: Other images, each with its shape, so that every image has a non-discriminative
            region to measure.
    """

    name: str
    train: DigitSet
    control: DigitSet
    test: DigitSet

    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything in it."""
        parts = (self.train, self.control, self.test)
        return hashlib.sha256("".join(p.fingerprint() for p in parts).encode()).hexdigest()


def load(
    root: str = "",
    n_train: int = 240,
    n_test: int = 100,
    rng_seed: int = 0,
    share: float = 0.1,
    size: int = 7,
    download: bool = False,
) -> Digits:
    """Digits 2 and 8 with their shapes, as in Figure 1 of arXiv:2110.06530.

    Args:
        root: Folder that holds ``MNIST/raw``, or "" for the bundled digits.
        n_train: Number of training images.
        n_test: Number of test images.
        rng_seed: Decides which images are taken, which get a shape, and where.
        share: Of the training images of each digit that get a shape, in [0, 1].
        size: Side of the square and diameter of the disc in pixels.
        download: Let torchvision fetch MNIST into ``root``.

    Raises:
        InputError: MNIST is missing or broken, has fewer images than asked for, or a digit leaves
            no room for its shape.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share = {share} is not between 0 and 1.")
    if root:
        pools = [_mnist(Path(root), train, download) for train in (True, False)]
        name = "MNIST"
    else:
        pools = [_bundled()] * 2
        name = "bundled digits"
    rng = np.random.default_rng(rng_seed)
    orders = [rng.permutation(len(pools[0][1]))]
    orders.append(rng.permutation(len(pools[1][1])) if root else orders[0][max(n_train, 0) :])
    for what, n, order in (("train", n_train, orders[0]), ("test", n_test, orders[1])):
        if not 1 < n <= len(order):
            raise InputError(
                f"n_{what} = {n}, but there are {len(order)} images of 2 and 8 to {what} on in "
                f"{root or 'the bundled digits'}: choose a number from 2 to {len(order)}."
            )
    train, test = (
        (images[order[:n]], labels[order[:n]])
        for (images, labels), order, n in zip(pools, orders, (n_train, n_test), strict=True)
    )
    shaped = _shaped(train[1], share, rng)
    place_seeds = rng.integers(2**32, size=2)
    wrong = rng.permutation(np.repeat([0, 1], [shaped.sum() // 2, (shaped.sum() + 1) // 2]))
    random_shapes = train[1].copy()
    random_shapes[shaped] = wrong
    return Digits(
        name,
        _draw(*train, train[1], shaped, size, place_seeds[0]),
        _draw(*train, random_shapes, shaped, size, place_seeds[0]),
        _draw(*test, test[1], np.ones(n_test, bool), size, place_seeds[1]),
    )


def shape_mask(kind: int, size: int) -> np.ndarray:
    """``(size, size)`` bool: the disc that goes with label 0, or the square of label 1."""
    if kind == 1:
        return np.ones((size, size), bool)
    offset = np.arange(size) - (size - 1) / 2
    return offset[:, None] ** 2 + offset**2 <= (size / 2) ** 2


def shapes_only(digits: DigitSet) -> np.ndarray:
    """``(N, 28, 28)`` uint8: the images with everything but the shape wiped out."""
    return np.where(digits.regions == 2, digits.images, 0).astype(np.uint8)


def digits_only(digits: DigitSet) -> np.ndarray:
    """``(N, 28, 28)`` uint8: the images with the shape wiped out."""
    return np.where(digits.regions == 2, 0, digits.images).astype(np.uint8)


def _shaped(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """``(N,)`` bool: ``share`` of each digit's images, rounded."""
    chosen = np.zeros(len(labels), bool)
    for label in (0, 1):
        members = np.flatnonzero(labels == label)
        chosen[rng.permutation(members)[: round(share * len(members))]] = True
    return chosen


def _draw(images, labels, kinds, shaped, size: int, rng_seed: int) -> DigitSet:
    """The images with shape ``kinds[i]`` drawn where ``shaped[i]``, off the digit."""
    rng = np.random.default_rng(rng_seed)
    images = images.copy()
    regions = (images >= INK).astype(np.uint8)
    for i in np.flatnonzero(shaped):
        rows, columns = _place(images[i], size, rng)
        shape = shape_mask(int(kinds[i]), size)
        images[i, rows, columns][shape] = 255
        regions[i, rows, columns][shape] = 2
    return DigitSet(images, labels, regions)


def _place(image: np.ndarray, size: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """A random window of ``size`` pixels in which the digit has none; with a gap if possible."""
    last = FRAME - size + 1
    for gap, floor in ((1, 1), (0, 1), (0, INK)):
        blocked = maximum_filter((image >= floor).astype(np.uint8), 2 * gap + 1)
        windows = np.lib.stride_tricks.sliding_window_view(blocked, (size, size))
        free = np.flatnonzero(windows.max(axis=(2, 3)) == 0)
        if len(free):
            row, column = divmod(int(rng.choice(free)), last)
            return slice(row, row + size), slice(column, column + size)
    raise InputError(f"size = {size}: a digit leaves no room for a shape of {size} pixels.")


def _two_and_eight(images: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Only the images of the two classes, and their labels 0 and 1."""
    keep = np.isin(digits, CLASSES)
    return images[keep], (digits[keep] == CLASSES[1]).astype(np.uint8)


def _bundled() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits, 8x8 with 17 greys, enlarged to 20x20 in MNIST's frame of 28x28."""
    bunch = load_digits()
    small, labels = _two_and_eight(bunch.images, bunch.target)
    grey = np.round(small * (255 / 16)).astype(np.uint8)
    large = [
        np.asarray(Image.fromarray(g).resize((20, 20), Image.Resampling.BILINEAR)) for g in grey
    ]
    return np.pad(np.stack(large), ((0, 0), (4, 4), (4, 4))), labels


def _mnist(root: Path, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's 2s and 8s out of the IDX files in ``root/MNIST/raw``."""
    try:
        from torchvision.datasets import MNIST  # takes seconds to import

        data = MNIST(str(root), train=train, download=download)
        images, digits = data.data.numpy(), data.targets.numpy()
    except Exception as error:  # torchvision meets a broken file with nearly any type of error
        what = "download MNIST to" if download else "read MNIST in"
        raise InputError(
            f"Cannot {what} {root / 'MNIST' / 'raw'}: put the four IDX files there, ask for a "
            f"download, or leave the folder out for the bundled digits ({first_line(error)})."
        ) from error
    if images.shape != (len(digits), FRAME, FRAME):
        raise InputError(
            f"{root / 'MNIST' / 'raw'} holds {images.shape} images but {len(digits)} labels: "
            "fetch the four IDX files again."
        )
    return _two_and_eight(images, digits)


def _hash_arrays(*arrays: np.ndarray) -> str:
    """SHA-256 (hex) of the type, shape and bytes of the arrays, in this order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
