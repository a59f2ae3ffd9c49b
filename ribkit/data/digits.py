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

CLASSES = (2, 8)  # behind label 0, which comes with a disc, and behind label 1, with a square
REGIONS = ("irrelevant", "discriminative", "non-discriminative")  # the rest, digit, shape
FRAME = 28
INK = 64  # from this grey value on a pixel belongs to the digit; a fainter rim is irrelevant
SHARE = 0.1  # of the training images of each digit that get a shape, in the paper
SIZE = 7  # side of the square and diameter of the disc, in pixels


@dataclass(frozen=True, eq=False)
class DigitSet:
    """``N`` pictures."""

    images: np.ndarray  # (N, 28, 28) uint8
    labels: np.ndarray  # (N,) uint8, index in CLASSES
    regions: np.ndarray  # (N, 28, 28) uint8, index in REGIONS

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Digits:
    """All that the toy experiment needs.

    In ``train`` a share of the images have a shape, disc with 2, square with 8; in ``control`` the
    same ones at the same places, but of each digit's shapes half are discs and half squares, which
    says nothing of the digit; in ``test`` each has its own.
    """

    name: str  # of the digits' source
    train: DigitSet
    control: DigitSet
    test: DigitSet

    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything in it."""
        total = hashlib.sha256()
        for part in (self.train, self.control, self.test):
            digest = hashlib.sha256()
            for array in (part.images, part.labels, part.regions):
                digest.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
            total.update(digest.hexdigest().encode())
        return total.hexdigest()


def load(
    root: str = "", n_train: int = 240, n_test: int = 100, rng_seed: int = 0, share: float = SHARE
) -> Digits:
    """Digits 2 and 8 with their shapes, as in Figure 1 of arXiv:2110.06530.

    The folder ``root`` holds ``MNIST/raw``; "" takes the bundled digits. The seed decides which
    images are taken, which get a shape, and where. ``share`` is the dose: of the training images of
    each digit that get one; ``test`` is the same at any. InputError: MNIST is missing or broken,
    there are fewer images than asked for, or a digit leaves no room for its shape.
    """
    if root:
        name, pools = "MNIST", [_mnist(Path(root), train) for train in (True, False)]
    else:
        name, pools = "bundled digits", [_bundled()] * 2
    rng = np.random.default_rng(rng_seed)
    orders = [rng.permutation(len(pools[0][1]))]
    orders.append(rng.permutation(len(pools[1][1])) if root else orders[0][max(n_train, 0) :])
    for what, n, order in (("train", n_train, orders[0]), ("test", n_test, orders[1])):
        if not 1 < n <= len(order):
            raise InputError(
                f"n_{what} = {n}, but there are {len(order)} images of 2 and 8 to {what} on in "
                f"{root or 'the bundled digits'}: choose a number from 2 to {len(order)}."
            )
    (train, labels), (test, test_labels) = (
        (images[order[:n]], labels[order[:n]])
        for (images, labels), order, n in zip(pools, orders, (n_train, n_test), strict=True)
    )
    shaped, random_shapes = np.zeros(n_train, bool), labels.copy()
    for label in (0, 1):
        members = rng.permutation(np.flatnonzero(labels == label))
        members = members[: round(share * len(members))]
        shaped[members] = True
        random_shapes[members] = np.arange(len(members)) % 2
    place_seeds = rng.integers(2**32, size=2)
    return Digits(
        name,
        _draw(train, labels, labels, shaped, place_seeds[0]),
        _draw(train, labels, random_shapes, shaped, place_seeds[0]),
        _draw(test, test_labels, test_labels, np.ones(n_test, bool), place_seeds[1]),
    )


def shapes_only(digits: DigitSet) -> np.ndarray:
    """``(N, 28, 28)`` uint8: the images with everything but the shape wiped out."""
    return np.where(digits.regions == 2, digits.images, 0).astype(np.uint8)


def digits_only(digits: DigitSet) -> np.ndarray:
    """``(N, 28, 28)`` uint8: the images with the shape wiped out."""
    return np.where(digits.regions == 2, 0, digits.images).astype(np.uint8)


def _draw(images, labels, kinds, shaped, rng_seed: int) -> DigitSet:
    """The images with shape ``kinds[i]`` drawn where ``shaped[i]``, off the digit."""
    rng = np.random.default_rng(rng_seed)
    images = images.copy()
    regions = (images >= INK).astype(np.uint8)
    for i in np.flatnonzero(shaped):
        rows, columns = _place(images[i], rng)
        shape = _shape(kinds[i])
        images[i, rows, columns][shape] = 255
        regions[i, rows, columns][shape] = 2
    return DigitSet(images, labels, regions)


def _shape(label: int) -> np.ndarray:
    """``(SIZE, SIZE)`` bool: the disc that goes with label 0, or the square of label 1."""
    if label == 1:
        return np.ones((SIZE, SIZE), bool)
    offset = np.arange(SIZE) - (SIZE - 1) / 2
    return offset[:, None] ** 2 + offset**2 <= (SIZE / 2) ** 2


def _place(image: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice]:
    """A random window in which the digit has no pixel; with a gap if possible."""
    for gap, floor in ((1, 1), (0, 1), (0, INK)):
        blocked = maximum_filter((image >= floor).astype(np.uint8), 2 * gap + 1)
        windows = np.lib.stride_tricks.sliding_window_view(blocked, (SIZE, SIZE))
        free = np.flatnonzero(windows.max(axis=(2, 3)) == 0)
        if len(free):
            row, column = divmod(int(rng.choice(free)), FRAME - SIZE + 1)
            return slice(row, row + SIZE), slice(column, column + SIZE)
    raise InputError(f"a digit leaves no room for a shape of {SIZE} pixels; give others.")


def _two_and_eight(images: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Only the images of the two classes, and their labels 0 and 1."""
    keep = np.isin(digits, CLASSES)
    return images[keep], (digits[keep] == CLASSES[1]).astype(np.uint8)


def _bundled() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits, 8x8 with 17 greys, enlarged to 20x20 in MNIST's frame of 28x28."""
    bunch = load_digits()
    small, labels = _two_and_eight(bunch.images, bunch.target)
    grey = np.round(small * (255 / 16)).astype(np.uint8)
    large = [Image.fromarray(image).resize((20, 20), Image.Resampling.BILINEAR) for image in grey]
    return np.pad(np.stack(large), ((0, 0), (4, 4), (4, 4))), labels


def _mnist(root: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's 2s and 8s out of the IDX files in ``root/MNIST/raw``."""
    try:
        from torchvision.datasets import MNIST  # takes seconds to import

        data = MNIST(str(root), train=train)
        images, digits = data.data.numpy(), data.targets.numpy()
        if images.shape != (len(digits), FRAME, FRAME):
            raise ValueError(f"{images.shape} images and {len(digits)} labels")
    except Exception as error:  # torchvision meets a broken file with nearly any type of error
        raise InputError(
            f"Cannot read MNIST in {root / 'MNIST' / 'raw'} ({first_line(error)}): put the four "
            f"IDX files there, or leave the folder out for the bundled digits."
        ) from error
    return _two_and_eight(images, digits)
