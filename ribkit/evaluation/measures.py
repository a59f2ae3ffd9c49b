"""Scores beside a data set's mIoU that critics of the field ask for, from stored counts.

Where a score takes ``drawn`` ``(..., N)``, that is how often each of the N images counts: once, or
as often as a bootstrap drew it. So every score has an interval over images.
"""

import numpy as np

from ribkit.evaluation.thresholds import Swept


def precision(counts: np.ndarray) -> np.ndarray:
    r"""Share of a class's predicted pixels that are right, in percent.

    .. math:: P_c = 100 \, C_{cc} / \textstyle\sum_i C_{ic}

    What labels need for a network to learn from them, more than mIoU, says LPCAM
    (arXiv:2303.10334).

    Args:
        counts: ``(..., 3, n)``, see `ribkit.evaluation.miou`.

    Returns:
        ``(..., n)`` in [0, 100]; NaN for classes that are not predicted.

    Example:
        >>> precision(np.array([[1, 1, 0], [1, 2, 3], [2, 1, 0]])).tolist()
        [50.0, 100.0, nan]
    """
    hits, _, predicted = np.moveaxis(counts, -2, 0)
    return 100 * hits / np.where(predicted > 0, predicted, np.nan)


def recall(counts: np.ndarray) -> np.ndarray:
    r"""Share of a class's target pixels that are found, in percent.

    .. math:: R_c = 100 \, C_{cc} / \textstyle\sum_j C_{cj}

    Reported beside `precision` by LPCAM (arXiv:2303.10334).

    Args:
        counts: ``(..., 3, n)``, see `ribkit.evaluation.miou`.

    Returns:
        ``(..., n)`` in [0, 100]; NaN for classes that the target has not.

    Example:
        >>> recall(np.array([[1, 1, 0], [1, 2, 0], [2, 1, 3]])).tolist()
        [100.0, 50.0, nan]
    """
    hits, target, _ = np.moveaxis(counts, -2, 0)
    return 100 * hits / np.where(target > 0, target, np.nan)


def over_images(values: np.ndarray, drawn: np.ndarray | None = None) -> np.ndarray:
    r"""Mean over images of one value of each, such as its own mIoU: an image counts by no size.

    .. math:: \textstyle\sum_i d_i v_i / \sum_i d_i

    Wang et al. (arXiv:2310.19252): the mIoU of a data set is ruled by its large objects.

    Args:
        values: v, ``(N,)``; images whose value is NaN are left out.
        drawn: d, ``(..., N)``: how often each image counts; None: once.

    Returns:
        ``(...)``.

    Example:
        >>> float(over_images(np.array([10.0, np.nan, 30.0])))
        20.0
    """
    values, drawn = _sorted(values, drawn)
    return drawn @ values / drawn.sum(axis=-1)


def worst_tenth(values: np.ndarray, drawn: np.ndarray | None = None) -> np.ndarray:
    r"""Mean of the lowest tenth of one value of each image.

    .. math:: \textstyle\sum_i m_i v_i / \sum_i m_i, \qquad
        m_i = \min(d_i, \max(0, \tfrac{1}{10} \sum_j d_j - \sum_{j < i} d_j)), \quad
        v_1 \le v_2 \le \dots

    The worst-case mIoU of Wang et al. (arXiv:2310.19252); where a tenth of the images is no whole
    number, the last of them counts in part.

    Args:
        values: v, ``(N,)``; images whose value is NaN are left out.
        drawn: d, ``(..., N)``: how often each image counts; None: once.

    Returns:
        ``(...)``.

    Example:
        >>> float(worst_tenth(np.arange(15.0)))  # (0 + 1/2) / 1.5
        0.3333333333333333
    """
    values, drawn = _sorted(values, drawn)
    tenth = drawn.sum(axis=-1, keepdims=True) / 10
    taken = np.diff(np.minimum(drawn.cumsum(axis=-1), tenth), prepend=0)
    return taken @ values / tenth[..., 0]


def _sorted(values: np.ndarray, drawn: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Values that are numbers, the lowest first, and how often each counts."""
    order = np.argsort(values)[: np.count_nonzero(~np.isnan(values))]  # NaN are sorted last
    drawn = np.ones(len(values)) if drawn is None else drawn
    return values[order], drawn[..., order]


def auc(inside: np.ndarray, outside: np.ndarray) -> float:
    r"""Area under the ROC curve: how well a map tells pixels from others, at all thresholds.

    .. math:: \mathrm{AUC} = P(M_u > M_v) + \tfrac{1}{2} P(M_u = M_v)

    over pixels u of the one kind and v of the other: the Mann-Whitney statistic (Hanley and McNeil
    1982, Radiology 143). Any increasing function of the map has the same.

    Args:
        inside: The map's values M at u, ``(n,)``.
        outside: At v, ``(m,)``.

    Returns:
        In [0, 1]; 0.5 is chance, NaN if there is no u or no v.

    Example:
        >>> auc(np.array([3.0, 1.0]), np.array([1.0, 0.0]))  # 3 pairs of 4, and half of one
        0.875
    """
    if not inside.size or not outside.size:
        return np.nan
    outside = np.sort(outside)
    below = np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")
    return float(below.mean() / (2 * len(outside)))


def pxap(swept: Swept, drawn: np.ndarray | None = None) -> np.ndarray:
    r"""Pixel average precision (PxAP), mean over classes, in percent: a score without a threshold.

    .. math:: \mathrm{PxAP}_c = 100 \sum_{n=0}^{100} (R_n - R_{n-1}) \, P_n, \qquad R_{-1} = 0

    Choe et al. (arXiv:2001.07437), class by class. Precision and recall are over the pixels of the
    images that show class c, at the thresholds 0.99, 0.98, .. 0.00, and at last, n = 100, where all
    these pixels are predicted to be c: recall is 1 there. A pixel whose highest map is another
    class's is predicted to be c at that last step alone; pixels whose target is 255 do not count.

    Args:
        swept: Counts at all thresholds; an image shows a class that is in its mask or its maps.
        drawn: ``(..., N)``, how often each image counts; None: once.

    Returns:
        ``(...)`` in [0, 100], of the classes that have target pixels; NaN where none has.

    Example:
        >>> one = {"image": [0, 0], "label": [0, 1], "target": [3, 1]}  # the highest of 4 pixels
        >>> at = {"hits": [[0] * 100, [1] * 100], "predicted": [[0] * 100, [1] * 100]}
        >>> float(pxap(Swept(1, 2, **{name: np.array(v) for name, v in (one | at).items()})))
        100.0
    """
    drawn = np.ones(swept.images) if drawn is None else drawn
    pixels = np.bincount(swept.image, swept.target, swept.images)
    total, classes = np.zeros(drawn.shape[:-1]), np.zeros(drawn.shape[:-1])
    for label in range(1, swept.n_classes):
        rows = np.flatnonzero(swept.label == label)
        image, target = swept.image[rows], swept.target[rows, None]
        at_last = np.column_stack([target, pixels[image]])
        steps = np.stack([swept.hits[rows, ::-1], swept.predicted[rows, ::-1]], axis=-1)
        steps = np.concatenate([steps, at_last[:, None]], axis=1)  # (rows, 101, 2)
        hits, predicted = np.moveaxis(np.tensordot(drawn[..., image], steps, 1), -1, 0)
        found = np.diff(hits, prepend=0) * hits / np.maximum(predicted, 1)
        occurs = hits[..., -1] > 0
        total += found.sum(axis=-1) / np.where(occurs, hits[..., -1], 1)
        classes += occurs
    return 100 * total / np.where(classes > 0, classes, np.nan)
