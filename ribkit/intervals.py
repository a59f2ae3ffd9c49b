"""Intervals: 95 %, bootstrap over images, paired where two methods are compared.

Three kinds. Over images, for one training (`bootstrap`). Over images *and* training seeds
(`replicated`): what would come out with other images and other seeds. And *simultaneous* ones, for
a grid of comparisons of which the reader will pick the most striking: all of them together contain
the truth 95 times in 100.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from ribkit.evaluation import mean_iou

Interval = tuple[float, float, float]
"""Point estimate, low, high."""
Statistic = Callable[..., np.ndarray]
"""Summed confusions ``(..., n, n)``, one or more -> ``(...)``."""


def gain(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Difference in mIoU: summed confusions of two methods -> points."""
    return mean_iou(after) - mean_iou(before)


def resample(
    statistic: Statistic, *confusions: np.ndarray, seed: int = 0, draws: int = 2000
) -> tuple[float, np.ndarray]:
    """Point estimate, and the statistic ``(draws,)`` over images drawn with replacement.

    confusions: one or more ``(N, n, n)`` arrays over the same N images; each draw uses the same
    images in all (paired), and so do all calls with this N and seed.
    """
    count = len(confusions[0])
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    sums = [np.tensordot(drawn.astype(float), c.astype(float), axes=1) for c in confusions]
    return float(statistic(*(c.sum(axis=0) for c in confusions))), statistic(*sums)


def bootstrap(
    statistic: Statistic, *confusions: np.ndarray, seed: int = 0, draws: int = 2000
) -> Interval:
    """Point estimate and 95 % percentile interval over images. See `resample`."""
    point, values = resample(statistic, *confusions, seed=seed, draws=draws)
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return point, float(low), float(high)


def bootstrap_mean(values: np.ndarray, seed: int = 0, draws: int = 2000) -> Interval:
    """Mean of one value per image, ``(N,)``, and its 95 % percentile interval over images."""
    count = len(values)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    low, high = np.percentile(drawn @ values / count, [2.5, 97.5])
    return float(np.mean(values)), float(low), float(high)


def replicated(
    statistic: Statistic, replicas: Sequence[tuple[np.ndarray, ...]], seed: int = 0
) -> Interval:
    """Mean over training seeds, and its 95 % interval over images and seeds.

    replicas: for each training seed what `resample` takes, all over the same images. The variance
    is that of the mean over images (bootstrap, the seeds given) plus that over seeds, divided by
    their number; Student's t with Welch's and Satterthwaite's degrees of freedom. One seed: the
    interval over images alone.
    """
    if len(replicas) == 1:
        return bootstrap(statistic, *replicas[0], seed=seed)
    found = [resample(statistic, *one, seed=seed) for one in replicas]
    points = np.array([point for point, _ in found])
    values = np.mean([values for _, values in found], axis=0)
    return combined(points, float(np.nanstd(values, ddof=1)), len(replicas[0][0]))


def combined(points: np.ndarray, image_error: float, images: int) -> Interval:
    """`replicated` for numbers of any kind.

    points: ``(S,)``, one for each training seed. image_error: the standard error of their mean
    over images. images: how many.
    """
    parts = np.array([image_error**2, points.var(ddof=1) / len(points)])
    freedoms = np.array([images - 1, len(points) - 1])
    if parts.sum() == 0:
        return (float(points.mean()),) * 3
    freedom = parts.sum() ** 2 / (parts**2 / freedoms).sum()
    half = stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum())
    return float(points.mean()), float(points.mean() - half), float(points.mean() + half)


def simultaneous(
    statistic: Statistic, family: Sequence[tuple[np.ndarray, ...]], seed: int = 0, draws: int = 2000
) -> list[Interval]:
    """Intervals of a family of comparisons on the same images, corrected for their number.

    The largest of the standardised deviations has one 95 % quantile over the draws, and each
    interval is so many of its own standard errors wide (max-t; Romano and Wolf 2005): comparisons
    that go together cost less than Bonferroni's correction, and a family of one costs nothing.
    """
    found = [resample(statistic, *one, seed=seed, draws=draws) for one in family]
    points = np.array([point for point, _ in found])
    values = np.stack([values for _, values in found])
    errors = np.nanstd(values, axis=1, ddof=1)
    scale = np.where(errors > 0, errors, np.inf)
    deviations = np.abs(values - points[:, None]) / scale[:, None]
    half = np.nanquantile(deviations.max(axis=0), 0.95) * errors
    return [(float(p), float(p - h), float(p + h)) for p, h in zip(points, half, strict=True)]


def images_needed(error: float, images: int, difference: float = 1.0) -> int:
    """How many images tell a difference from zero, 95 % sure, 4 times in 5 (power 0.8).

    error: the standard error that was found on ``images`` images; it falls with their square root.
    """
    wanted = difference / (stats.norm.ppf(0.975) + stats.norm.ppf(0.8))
    return int(np.ceil(images * (error / wanted) ** 2))
