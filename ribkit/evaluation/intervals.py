"""Intervals: 95 %, bootstrap over images, paired where two methods are compared.

Three kinds. Over images, for one training (`bootstrap`). Over images *and* training seeds
(`replicated`): what would come out with other images and other seeds. And *simultaneous* ones, for
a grid of comparisons of which the reader will pick the most striking: all of them together contain
the truth 95 times in 100.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import stats

from ribkit.evaluation.miou import miou

Interval = tuple[float, float, float]
"""Point estimate, low, high."""
Statistic = Callable[..., np.ndarray]
"""Summed counts ``(..., 3, n)``, one or more -> ``(...)``; see `ribkit.evaluation.miou`."""
BLOCK = 2**23  # how many numbers are drawn at once: 64 MB


def gain(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Difference in mIoU: summed counts of two methods -> points."""
    return miou(after) - miou(before)


def resample(
    statistic: Statistic, *counts: np.ndarray, rng_seed: int = 0, draws: int = 2000
) -> tuple[float, np.ndarray]:
    """Point estimate, and the statistic ``(draws,)`` over images drawn with replacement.

    counts: one or more ``(N, 3, n)`` arrays over the same N images; each draw uses the same
    images in all (paired), and so do all calls with this N and seed.
    """
    flat = [c.reshape(len(c), -1).astype(float) for c in counts]
    blocks = [[drawn @ c for c in flat] for drawn in _drawn(len(counts[0]), rng_seed, draws)]
    sums = [
        np.concatenate(parts).reshape(draws, *c.shape[1:])
        for parts, c in zip(zip(*blocks, strict=True), counts, strict=True)
    ]
    return float(statistic(*(c.sum(axis=0) for c in counts))), statistic(*sums)


def _drawn(count: int, rng_seed: int, draws: int) -> Iterator[np.ndarray]:
    """How often each of ``count`` images is in each draw, ``(b, count)``: all draws, in blocks.

    The numbers do not depend on the size of the blocks.
    """
    random, most = np.random.default_rng(rng_seed), max(1, BLOCK // count)
    for start in range(0, draws, most):
        size = min(most, draws - start)
        yield random.multinomial(count, np.full(count, 1 / count), size=size).astype(float)


def bootstrap(
    statistic: Statistic, *counts: np.ndarray, rng_seed: int = 0, draws: int = 2000
) -> Interval:
    """Point estimate and 95 % percentile interval over images. See `resample`."""
    point, values = resample(statistic, *counts, rng_seed=rng_seed, draws=draws)
    return _holding(point, *np.nanpercentile(values, [2.5, 97.5]))


def _holding(point: float, low: float, high: float) -> Interval:
    """A percentile interval, stretched to its point estimate where that lies outside.

    It does where many classes occur in one image each: every draw misses some of them, and their
    IoU with them. A wider interval holds the truth no less often. Rounding can do it too.
    """
    return point, float(min(low, point)), float(max(high, point))


def bootstrap_mean(values: np.ndarray, rng_seed: int = 0, draws: int = 2000) -> Interval:
    """Mean of one value per image, ``(N,)``, and its 95 % percentile interval over images."""
    count = len(values)
    means = np.concatenate([drawn @ values / count for drawn in _drawn(count, rng_seed, draws)])
    return _holding(float(np.mean(values)), *np.percentile(means, [2.5, 97.5]))


def replicated(
    statistic: Statistic, replicas: Sequence[tuple[np.ndarray, ...]], rng_seed: int = 0
) -> Interval:
    """Mean over training seeds, and its 95 % interval over images and seeds.

    replicas: for each training seed what `resample` takes, all over the same images. The variance
    is that of the mean over images (bootstrap, the seeds given) plus that over seeds, divided by
    their number; Student's t with Welch's and Satterthwaite's degrees of freedom. One seed: the
    interval over images alone.
    """
    if len(replicas) == 1:
        return bootstrap(statistic, *replicas[0], rng_seed=rng_seed)
    found = [resample(statistic, *one, rng_seed=rng_seed) for one in replicas]
    points = np.array([point for point, _ in found])
    values = np.mean([values for _, values in found], axis=0)
    return combined(points, float(np.nanstd(values, ddof=1)), len(replicas[0][0]))


def combined(points: np.ndarray, image_error: float, images: int) -> Interval:
    """`replicated` for numbers of any kind.

    points: ``(S,)``, one for each training seed. image_error: the standard error of their mean
    over images. images: how many; one tells nothing of others, and only the seeds' error counts.
    """
    parts = np.array([image_error**2, points.var(ddof=1) / len(points)])
    freedoms = np.array([images - 1, len(points) - 1])
    parts, freedoms = parts[freedoms > 0], freedoms[freedoms > 0]
    if parts.sum() == 0:
        return (float(points.mean()),) * 3
    freedom = parts.sum() ** 2 / (parts**2 / freedoms).sum()
    half = stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum())
    return float(points.mean()), float(points.mean() - half), float(points.mean() + half)


def simultaneous(
    statistic: Statistic,
    family: Sequence[tuple[np.ndarray, ...]],
    rng_seed: int = 0,
    draws: int = 2000,
) -> list[Interval]:
    """Intervals of a family of comparisons on the same images, corrected for their number.

    The largest of the standardised deviations has one 95 % quantile over the draws, and each
    interval is so many of its own standard errors wide (max-t; Romano and Wolf 2005): comparisons
    that go together cost less than Bonferroni's correction, and a family of one costs nothing.
    """
    found = [resample(statistic, *one, rng_seed=rng_seed, draws=draws) for one in family]
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
