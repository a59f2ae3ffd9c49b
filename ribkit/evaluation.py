"""Scores of seeds: mIoU from one integer confusion matrix, at every threshold.

The protocol (written down because the field seldom does): pixels whose ground truth is 255 do not
count; classes absent from ground truth and prediction alike are left out; the mean is over classes,
background included, in percent. A seed predicts, at each pixel, the class of its highest map, or
background where no map exceeds the threshold. The threshold is either the best one for the very
images it is scored on (``oracle``, as most papers report) or the best one on other images
(``held-out``). Intervals: `ribkit.intervals`.
"""

import numpy as np

THRESHOLDS = np.arange(100) / 100


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


def iou(confusion: np.ndarray) -> np.ndarray:
    """IoU in percent, ``(..., n, m)`` -> ``(..., n)``; NaN for absent classes.

    Columns beyond the n-th are predictions of no class: an error, whatever the target.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    predicted = confusion.sum(axis=-2)[..., : confusion.shape[-2]]
    union = confusion.sum(axis=-1) + predicted - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * hits / np.where(union > 0, union, np.nan)


def mean_iou(confusion: np.ndarray) -> float | np.ndarray:
    """mIoU in percent over classes that occur, ``(..., n, n)`` -> ``(...)``; NaN if none does."""
    values = iou(confusion)
    present = ~np.isnan(values)
    count = present.sum(axis=-1)
    total = np.where(present, values, 0).sum(axis=-1)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return float(mean) if mean.ndim == 0 else mean


def sweep(
    maps: np.ndarray, keys: np.ndarray, target: np.ndarray, n_classes: int, ignore: int = 255
) -> np.ndarray:
    """One image's confusions at the 100 thresholds 0.00 .. 0.99, in one pass over its pixels.

    maps: ``(K, H, W)`` normalised maps of the classes ``keys`` (0-based, ``(K,)``). target:
    ``(H, W)``, 0 background. n_classes counts the background. Returns ``(100, n, n)`` int32.
    """
    counted = target != ignore
    truth = target[counted].astype(np.int64)
    result = np.zeros((len(THRESHOLDS), n_classes, n_classes), dtype=np.int32)
    if len(keys) == 0:
        result[:, :, 0] = np.bincount(truth, minlength=n_classes)
        return result
    scores = maps[:, counted]
    winner = np.asarray(keys)[scores.argmax(axis=0)] + 1
    # above[t] thresholds are exceeded by this pixel: it is foreground at the first so many
    above = np.searchsorted(THRESHOLDS, scores.max(axis=0), side="left")
    bins = len(THRESHOLDS) + 1
    flat = (truth * n_classes + winner) * bins + above
    counts = np.bincount(flat, minlength=n_classes**2 * bins).reshape(n_classes, n_classes, bins)
    foreground = counts[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:]  # above >= t + 1
    result[:] = foreground.transpose(2, 0, 1)
    result[:, :, 0] = np.bincount(truth, minlength=n_classes) - foreground.sum(axis=1).T
    return result


def best_threshold(confusions: np.ndarray) -> int:
    """Index of the threshold with the highest mIoU; ``(T, n, n)``, summed over images."""
    return int(np.nanargmax(mean_iou(confusions)))


def cross_fitted(confusions: np.ndarray, folds: int = 5) -> np.ndarray:
    """For each image the threshold that is best on the other folds: indices ``(N,)``.

    confusions: ``(N, T, n, n)``. Held out without images of their own: image i is in fold
    i mod folds. One image alone has its own best threshold.
    """
    count = len(confusions)
    fold, total = np.arange(count) % min(folds, count), confusions.sum(axis=0)
    chosen = np.zeros(count, dtype=int)
    for k in np.unique(fold):
        rest = total - confusions[fold == k].sum(axis=0) if count > 1 else total
        chosen[fold == k] = best_threshold(rest)
    return chosen
