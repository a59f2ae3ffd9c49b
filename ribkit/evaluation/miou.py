"""Scores of seeds: mIoU from integer pixel counts, at every threshold.

The protocol (written down because the field seldom does): pixels whose ground truth is 255 do not
count; classes absent from ground truth and prediction alike are left out; the mean is over classes,
background included, in percent. A seed predicts, at each pixel, the class of its highest map, or
background where no map exceeds the threshold. The threshold is either the best one for the very
images it is scored on (``oracle``, as most papers report) or the best one on other images
(``held-out``). Intervals: `ribkit.evaluation.intervals`.

*Counts* ``(..., 3, n)`` are a class's hits, target pixels and predicted pixels: all that its IoU
needs of a confusion matrix, and what is kept of each image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

THRESHOLDS = np.arange(100) / 100
LABELS = 256  # that a mask can hold
ROWS = ("label", "target", "hits", "predicted")  # of one image, see `Swept`


# ---- one prediction -----------------------------------------------------------------------------
def confusion(
    prediction: np.ndarray, target: np.ndarray, n_classes: int, ignore: int = 255
) -> np.ndarray:
    """Confusion matrix ``(n_classes, n_classes)`` int64: rows are targets, columns predictions.

    prediction, target: integer arrays of one shape. Pixels with target ``ignore`` do not count.
    Raises ValueError for shapes that differ or labels outside ``0 .. n_classes - 1``.
    """
    prediction, target = np.asarray(prediction), np.asarray(target)
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape")
    counted = target != ignore
    prediction, target = prediction[counted].astype(np.int64), target[counted].astype(np.int64)
    for name, values in (("prediction", prediction), ("target", target)):
        if values.size and not (0 <= values.min() and values.max() < n_classes):
            raise ValueError(
                f"{name} has labels {values.min()} to {values.max()}, outside 0 to {n_classes - 1}"
            )
    pairs = np.bincount(target * n_classes + prediction, minlength=n_classes**2)
    return pairs.reshape(n_classes, n_classes)


def counts(confusion: np.ndarray) -> np.ndarray:
    """Confusions ``(..., n, m)`` -> counts ``(..., 3, n)``: hits, target, predicted.

    Columns beyond the n-th are predictions of no class: an error, whatever the target.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    predicted = confusion.sum(axis=-2)[..., : confusion.shape[-2]]
    return np.stack([hits, confusion.sum(axis=-1), predicted], axis=-2)


def iou(counts: np.ndarray) -> np.ndarray:
    """IoU in percent, counts ``(..., 3, n)`` -> ``(..., n)``; NaN for absent classes."""
    hits, target, predicted = np.moveaxis(counts, -2, 0)
    union = target + predicted - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * hits / np.where(union > 0, union, np.nan)


def miou(counts: np.ndarray) -> float | np.ndarray:
    """mIoU in percent over classes that occur, ``(..., 3, n)`` -> ``(...)``; NaN if none does."""
    values = iou(counts)
    present = ~np.isnan(values)
    count = present.sum(axis=-1)
    total = np.where(present, values, 0).sum(axis=-1)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return float(mean) if mean.ndim == 0 else mean


def mean_iou(confusion: np.ndarray) -> float | np.ndarray:
    """`miou` of confusions, ``(..., n, n)`` -> ``(...)``."""
    return miou(counts(confusion))


# ---- all thresholds -----------------------------------------------------------------------------
def sweep(
    maps: Tensor, keys: np.ndarray, target: np.ndarray, ignore: int = 255
) -> tuple[np.ndarray, np.ndarray]:
    """One image's confusions at the 100 thresholds 0.00 .. 0.99, in one pass over its pixels.

    maps: ``(K, H, W)`` float32, normalised, of the classes ``keys`` (0-based, ``(K,)``), on any
    device. target: ``(H, W)``, 0 background. Returns the image's own labels ``(L,)``, sorted
    (background, its classes, those of its target), and the confusions among them, ``(100, L, L)``
    int64.
    """
    own = np.asarray(keys, int) + 1
    pixels = _histogram(maps, target)
    truth = pixels.sum(axis=(1, 2))
    truth[ignore] = 0
    labels = np.union1d(np.append(0, own), np.flatnonzero(truth))
    # a pixel above exactly so many thresholds is foreground at the first so many
    foreground = pixels[labels, : len(own), :0:-1].cumsum(axis=-1)[..., ::-1]
    found = np.zeros((len(THRESHOLDS), len(labels), len(labels)), np.int64)
    found[:, :, np.searchsorted(labels, own)] = foreground.transpose(2, 0, 1)
    found[:, :, 0] = truth[labels] - foreground.sum(axis=1).T
    return labels, found


def _histogram(maps: Tensor, target: np.ndarray) -> np.ndarray:
    """Pixels by target, highest map and number of thresholds it exceeds: ``(256, K, 101)``.

    The copy to the host, at the end, is the only time that it waits for the device.
    """
    if not len(maps):
        maps = maps.new_zeros(1, *target.shape)  # nothing exceeds a threshold
    best, winner = maps.max(dim=0)  # the first of equals
    # s > i / 100 for ceil(100 s) of the i >= 0. Exactly: float64 has room for 100 s (24 and 5
    # bits), and no float32 lies between i / 100 and its float64.
    above = (100 * best.double()).ceil_().clamp_(0, len(THRESHOLDS)).int()
    truth = torch.tensor(target).to(maps.device, non_blocking=True).int()
    shape = (LABELS, len(maps), len(THRESHOLDS) + 1)
    flat = ((truth * shape[1] + winner.int()) * shape[2] + above).flatten()
    # not bincount, which waits for the greatest index
    pixels = torch.zeros(shape, dtype=torch.int32, device=maps.device)
    pixels.view(-1).index_add_(0, flat, torch.ones_like(flat))
    return pixels.cpu().numpy()


@dataclass(frozen=True, eq=False)
class Swept:
    """Counts of ``images`` images and ``n_classes`` labels at all thresholds.

    A row for each image and label that occurs in its mask or has a map: image, label, target
    ``(R,)``; hits, predicted ``(R, 100)``. What has no row is zero.
    """

    images: int
    n_classes: int
    image: np.ndarray
    label: np.ndarray
    target: np.ndarray
    hits: np.ndarray
    predicted: np.ndarray

    def at(self, index: int | np.ndarray) -> np.ndarray:
        """Counts ``(N, 3, n)`` at a threshold's index, or at each image's own, ``(N,)``."""
        rows, own = np.arange(len(self.image)), np.broadcast_to(index, self.images)[self.image]
        found = np.zeros((self.images, 3, self.n_classes), np.int32)
        values = (self.hits[rows, own], self.target, self.predicted[rows, own])
        found[self.image, :, self.label] = np.stack(values, axis=-1)
        return found

    def total(self, which: np.ndarray | None = None) -> np.ndarray:
        """Counts ``(100, 3, n)`` int64 summed over images: all, or where ``which`` ``(N,)``."""
        counted = True if which is None else which[self.image]
        found = np.zeros((len(THRESHOLDS), 3, self.n_classes), np.int64)
        for label in range(self.n_classes):
            rows = (self.label == label) & counted
            for k, values in enumerate((self.hits, self.target[:, None], self.predicted)):
                found[:, k, label] = values[rows].sum(axis=0)
        return found


def rows(labels: np.ndarray, confusions: np.ndarray) -> dict[str, np.ndarray]:
    """One image's part of `Swept`, from its `sweep`."""
    hits, target, predicted = counts(confusions).astype(np.int32).transpose(1, 2, 0)
    return dict(zip(ROWS, (labels, target[:, 0], hits, predicted), strict=True))


def gathered(found: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The images' `rows` as `Swept` has them, each with its image's position."""
    sizes = [len(one["label"]) for one in found]
    joined = {name: np.concatenate([one[name] for one in found]) for name in ROWS}
    return {"image": np.repeat(np.arange(len(found)), sizes)} | joined


def best_threshold(counts: np.ndarray) -> int:
    """Index of the threshold with the highest mIoU; ``(T, 3, n)``, summed over images."""
    return int(np.nanargmax(miou(counts)))


def cross_fitted(swept: Swept, folds: int = 5) -> np.ndarray:
    """For each image the threshold that is best on the other folds: indices ``(N,)``.

    Held out without images of their own: image i is in fold i mod folds. One image alone has its
    own best threshold.
    """
    fold = np.arange(swept.images) % min(folds, swept.images)
    if swept.images == 1:
        return np.array([best_threshold(swept.total())])
    best = [best_threshold(swept.total(fold != k)) for k in range(fold.max() + 1)]
    return np.array(best)[fold]
