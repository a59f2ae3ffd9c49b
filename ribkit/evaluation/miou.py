"""mIoU from integer pixel counts.

The protocol (written down because the field seldom does): pixels whose ground truth is 255 do not
count; classes absent from ground truth and prediction alike are left out; the mean is over classes,
background included, in percent.

*Counts* ``(..., 3, n)`` are a class's hits, target pixels and predicted pixels: all that its IoU
needs of a confusion matrix, and what is kept of each image.
"""

import numpy as np

IGNORE = 255  # a pixel of the ground truth that does not count


def confusion(
    prediction: np.ndarray, target: np.ndarray, n_classes: int, ignore: int = IGNORE
) -> np.ndarray:
    r"""Confusion matrix ``(n, n)`` int64: rows are targets, columns are predictions.

    .. math:: C_{ij} = |\{u : t(u) = i, p(u) = j, t(u) \ne 255\}|

    PASCAL VOC's protocol, by which the paper (arXiv:2110.06530) is scored.

    Args:
        prediction: Integers ``(...)`` in ``0 .. n_classes - 1``.
        target: Integers of the same shape, in ``0 .. n_classes - 1``, or ``ignore``.
        n_classes: n, background included.
        ignore: The target's label that is not counted.

    Raises:
        ValueError: For shapes that differ, or labels out of range.

    Example:
        >>> confusion(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 255]), 2).tolist()
        [[1, 0], [1, 1]]
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
    """Reduce confusion matrices to what an IoU needs: hits, target pixels, predicted pixels.

    ``(..., n, m)`` -> ``(..., 3, n)``. Columns beyond the n-th are predictions of no class: an
    error, whatever the target.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    predicted = confusion.sum(axis=-2)[..., : confusion.shape[-2]]
    return np.stack([hits, confusion.sum(axis=-1), predicted], axis=-2)


def iou(counts: np.ndarray) -> np.ndarray:
    r"""Intersection over union of each class, in percent.

    .. math:: \mathrm{IoU}_c = 100 \, C_{cc} / (\sum_j C_{cj} + \sum_i C_{ic} - C_{cc})

    PASCAL VOC's protocol, by which the paper (arXiv:2110.06530) is scored.

    Args:
        counts: ``(..., 3, n)``, see `counts`.

    Returns:
        ``(..., n)`` in [0, 100]; NaN for classes absent from target and prediction.

    Example:
        >>> iou(np.array([[1, 1, 0], [1, 2, 0], [2, 1, 0]])).tolist()
        [50.0, 50.0, nan]
    """
    hits, target, predicted = np.moveaxis(counts, -2, 0)
    union = target + predicted - hits
    return 100 * hits / np.where(union > 0, union, np.nan)


def miou(counts: np.ndarray) -> float | np.ndarray:
    r"""Mean IoU over the classes that occur, in percent.

    .. math:: \mathrm{mIoU} = \tfrac{1}{|\{c : c \text{ occurs}\}|} \textstyle\sum_c \mathrm{IoU}_c

    PASCAL VOC's protocol, by which the paper (arXiv:2110.06530) is scored.

    Args:
        counts: ``(..., 3, n)``, see `counts`.

    Returns:
        ``(...)`` in [0, 100], a float for one set of counts; NaN where no class occurs.

    Example:
        >>> miou(np.array([[1, 2, 0], [1, 2, 0], [2, 2, 0]]))
        75.0
    """
    values = iou(counts)
    present = ~np.isnan(values)
    count = present.sum(axis=-1)
    total = np.where(present, values, 0).sum(axis=-1)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return float(mean) if mean.ndim == 0 else mean


def mean_iou(confusion: np.ndarray) -> float | np.ndarray:
    """`miou` straight from confusion matrices ``(..., n, n)``."""
    return miou(counts(confusion))
