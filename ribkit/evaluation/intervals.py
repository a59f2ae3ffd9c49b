"""Intervals: 95 %, bootstrap over images, paired where two methods are compared.

Three kinds. Over images, for one training (`bootstrap`). Over images *and* trainings
(`replicated`): what would come out with other images and other trainings. And *simultaneous* ones,
for a grid of comparisons of which the reader will pick the most striking: all of them together
contain the truth 95 times in 100.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from scipy import stats

from ribkit.evaluation.miou import miou

Interval = tuple[float, float, float]
"""Point estimate, low, high."""
Statistic = Callable[..., np.ndarray]
"""Summed counts ``(..., 3, n)``, one or more -> ``(...)``; see `ribkit.evaluation.miou`."""
RNG_SEED = 0  # all intervals over as many images draw the same ones
DRAWS = 2000
BLOCK = 2**23  # how many numbers are drawn at once: 64 MB


def gain(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Difference in mIoU of summed counts ``(..., 3, n)`` of two methods, in points."""
    return miou(after) - miou(before)


def more_gain(
    after: np.ndarray, before: np.ndarray, other_after: np.ndarray, other_before: np.ndarray
) -> np.ndarray:
    """How much more one gain is than another: each of summed counts ``(..., 3, n)``, in points."""
    return gain(after, before) - gain(other_after, other_before)


def number(value: float, form: str = "+.2f") -> str:
    """A number as text; what rounds to 0 has no minus.

    Example:
        >>> number(-0.004), number(-0.006)
        ('+0.00', '-0.01')
    """
    text = format(value, form)
    return format(0.0, form) if float(text) == 0 else text


def numbers(values: Sequence[float], form: str = "+.2f") -> list[str]:
    """A point estimate and the ends of its interval, each as text.

    With one or two more digits, where these keep an end of the interval from seeming to be 0.

    Example:
        >>> numbers((-0.035, -0.067, -0.003)), numbers((7.6, -0.035, 15.2), "+.1f")
        (['-0.035', '-0.067', '-0.003'], ['+7.60', '-0.04', '+15.20'])
        >>> numbers((-0.035, -0.067, -1e-9))
        ['-0.04', '-0.07', '+0.00']
    """
    _, low, high = values
    finer = (f"{form[:-2]}{int(form[-2]) + more}f" for more in range(3))
    apart = (f for f in finer if float(format(low, f)) and float(format(high, f)))
    form = next(apart, form)
    return [number(value, form) for value in values]


def worded(values: Sequence[float], form: str = "+.2f", unit: str = "") -> str:
    """A point estimate, its unit and its interval, if there is one, as text; see `numbers`.

    Example:
        >>> nothing = float("nan")
        >>> worded((1.0, -0.5, 2.5), ".1f"), worded((1.0, nothing, nothing), unit="points")
        ('1.0 (-0.5 to 2.5)', '+1.00 points')
    """
    point, low, high = numbers(values, form)
    said = f"{point} {unit}".rstrip()
    return said if np.isnan([*values]).any() else f"{said} ({low} to {high})"


def with_interval(name: str, values: Interval) -> dict[str, float]:
    """An estimate and its interval as columns of a row."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def mean(sums: np.ndarray) -> np.ndarray:
    """Mean over images of one value each, from the summed `countable` ``(..., 2)``."""
    return sums[..., 0] / sums[..., 1]


def countable(values: np.ndarray) -> np.ndarray:
    """One value per image ``(N,)``, and the image itself: the "counts" ``(N, 2)`` of `mean`."""
    return np.stack([values, np.ones(len(values))], axis=-1)


@lru_cache(maxsize=4)
def _drawn(count: int, draws: int, rng_seed: int) -> tuple[np.ndarray, ...]:
    """How often each image is in each draw: blocks ``(b, count)``, which change no number."""
    random, most = np.random.default_rng(rng_seed), max(1, BLOCK // count)
    share = np.full(count, 1 / count)
    sizes = [min(most, draws - start) for start in range(0, draws, most)]
    return tuple(random.multinomial(count, share, size).astype(np.uint16) for size in sizes)


def resample(statistic: Statistic, *counts: np.ndarray) -> tuple[float, np.ndarray]:
    """A statistic of all images of counts ``(N, ...)``, and of each draw with replacement.

    A draw takes the same images of all counts (paired).
    """
    flat = np.concatenate([c.reshape(len(c), -1) for c in counts], axis=1).astype(float)
    sums = np.concatenate(
        [drawn.astype(float) @ flat for drawn in _drawn(len(flat), DRAWS, RNG_SEED)]
    )
    sums = sums.reshape(DRAWS, len(counts), *counts[0].shape[1:])
    point = statistic(*(c.sum(axis=0) for c in counts))
    return float(point), statistic(*np.moveaxis(sums, 1, 0))


def bootstrap(statistic: Statistic, *counts: np.ndarray) -> Interval:
    r"""Point estimate and 95 % percentile interval over images (Efron and Tibshirani 1993).

    .. math:: [\, q_{0.025}(\theta^*), \; q_{0.975}(\theta^*) \,]

    with :math:`\theta^*` the statistic over N images drawn with replacement; stretched to the point
    estimate where that lies outside. One image tells nothing of others: the ends are NaN.

    Args:
        statistic: Function of summed counts, such as `miou` or `gain`.
        counts: One or more ``(N, 3, n)`` over the same N images, see `resample`.

    Example:
        >>> counts = np.array([[[3, 1], [4, 1], [3, 2]]] * 5)  # five equal images: no width
        >>> [round(value, 1) for value in bootstrap(miou, counts)]
        [62.5, 62.5, 62.5]
    """
    point, values = resample(statistic, *counts)
    if len(counts[0]) == 1:
        return point, float("nan"), float("nan")
    return _with_point(point, *np.nanpercentile(values, [2.5, 97.5]))


def bootstrap_mean(values: np.ndarray) -> Interval:
    """As `bootstrap`, of the mean of one value per image ``(N,)``."""
    return bootstrap(mean, countable(values))


def _with_point(point: float, low: float, high: float) -> Interval:
    """A percentile interval, stretched to its point estimate where that lies outside.

    It does where many classes occur in one image each: every draw misses some of them, and their
    IoU with them. A wider interval holds the truth no less often. Rounding can do it too.
    """
    return point, float(min(low, point)), float(max(high, point))


def replicated(statistic: Statistic, replicas: Sequence[tuple[np.ndarray, ...]]) -> Interval:
    """Mean over trainings, and its 95 % interval over images and trainings, see `combined`.

    replicas: for each training the counts that `resample` takes; one: over images alone.
    """
    if len(replicas) == 1:
        return bootstrap(statistic, *replicas[0])
    return combined(*errors_of(statistic, replicas))


def errors_of(
    statistic: Statistic, replicas: Sequence[tuple[np.ndarray, ...]]
) -> tuple[np.ndarray, float, int]:
    """What `combined` takes, see `errors_over_trainings`."""
    resampled = [resample(statistic, *counts) for counts in replicas]
    return errors_over_trainings(resampled, len(replicas[0][0]))


def errors_over_trainings(
    resampled: Sequence[tuple[float, np.ndarray]], images: int
) -> tuple[np.ndarray, float, int]:
    """Points of trainings, their mean's error over images, and N, from what `resample` gives."""
    points = np.array([point for point, _ in resampled])
    values = np.mean([values for _, values in resampled], axis=0)
    return points, float(np.nanstd(values, ddof=1)), images


def combined(points: np.ndarray, image_error: float, images: int) -> Interval:
    r"""Mean over trainings, and its 95 % interval from the errors over images and over trainings.

    .. math::
        \bar\theta \pm t_{0.975, \nu} \sqrt{s_{\rm img}^2 + s_{\rm train}^2 / S}, \qquad
        \nu = \frac{(s_{\rm img}^2 + s_{\rm train}^2 / S)^2}
        {s_{\rm img}^4 / (N - 1) + (s_{\rm train}^2 / S)^2 / (S - 1)}

    Student's t with Welch's and Satterthwaite's degrees of freedom.

    Args:
        points: ``(S,)``, one for each training; S at least 2.
        image_error: Standard error of their mean over images.
        images: N, how many; one tells nothing of others, and only the trainings' error counts.

    Example:
        >>> [round(value, 2) for value in combined(np.array([1.0, 2.0, 3.0]), 0.0, 50)]
        [2.0, -0.48, 4.48]
    """
    return by_t(float(points.mean()), *parts_of(points, image_error, images))


def parts_of(points: np.ndarray, image_error: float, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors over images and trainings ``(k,)``, and their degrees of freedom ``(k,)``."""
    training_error = points.var(ddof=1) / len(points) if len(points) > 1 else 0.0
    parts = np.array([image_error**2, training_error])
    freedoms = np.array([images, len(points)]) - 1
    return parts[freedoms > 0], freedoms[freedoms > 0]


def by_t(point: float, parts: np.ndarray, freedoms: np.ndarray) -> Interval:
    """A point and its `combined` interval, from squared errors and their degrees of freedom.

    Without any error, which one image and one training have not, the ends are NaN.
    """
    if not len(parts):
        return point, float("nan"), float("nan")
    half = 0.0 if parts.sum() == 0 else float(half_width(parts, freedoms))
    return point, point - half, point + half


def half_width(parts: np.ndarray, freedoms: np.ndarray) -> np.ndarray:
    """Half the width of `combined`, from squared errors ``(..., k)`` and degrees of freedom."""
    return stats.t.ppf(0.975, _freedom(parts, freedoms)) * np.sqrt(parts.sum(axis=-1))


def _freedom(parts: np.ndarray, freedoms: np.ndarray) -> np.ndarray:
    """Degrees of freedom of the summed parts, after Welch and Satterthwaite."""
    return parts.sum(axis=-1) ** 2 / (parts**2 / freedoms).sum(axis=-1)


def p_value(statistic: Statistic, replicas: Sequence[tuple[np.ndarray, ...]]) -> float:
    r"""Two-sided p of 0: the interval of `replicated`, inverted. About 0.05 where it ends at 0.

    Of several trainings see `p_by_t`; of one, over the B draws of its images that are a number,

    .. math:: \min\Big(1, \; 2 \, \frac{1 + \min(\#\{\theta^* \le 0\}, \#\{\theta^* \ge 0\})}{B + 1}
        \Big)

    (Davison and Hinkley 1997, section 4.2). One image tells nothing of others: NaN.

    Args:
        statistic: Function of summed counts, such as `gain`.
        replicas: As for `replicated`.

    Example:
        >>> values = np.array([-1.0, 0.0, 1.0])
        >>> p_value(mean, [(countable(values),)])
        1.0
    """
    if len(replicas) > 1:
        points, *rest = errors_of(statistic, replicas)
        return p_by_t(float(points.mean()), *parts_of(points, *rest))
    if len(replicas[0][0]) == 1:
        return float("nan")
    _, values = resample(statistic, *replicas[0])
    if not (values := values[~np.isnan(values)]).size:
        return float("nan")
    beyond = min((values <= 0).sum(), (values >= 0).sum())
    return float(min(1.0, 2 * (1 + beyond) / (1 + len(values))))


def p_by_t(point: float, parts: np.ndarray, freedoms: np.ndarray) -> float:
    r"""Two-sided p of 0 by Student's t, from squared errors and their degrees of freedom.

    .. math:: 2 \, P\big( t_\nu > |\theta| \, / \sqrt{\textstyle\sum_i s_i^2} \big)

    with :math:`\nu` as in `combined`; NaN without any error, and where all are 0 it is 0 or 1.

    Args:
        point: The estimate.
        parts: ``(k,)``, squared standard errors, such as over images and over trainings.
        freedoms: ``(k,)``, with how many degrees of freedom each was estimated.

    Example:
        >>> round(p_by_t(1.0, np.array([1 / 1.96**2]), np.array([10**6])), 3)
        0.05
    """
    if not len(parts) or (freedoms < 1).any():
        return float("nan")
    if parts.sum() == 0:
        return float(point == 0)
    return float(2 * stats.t.sf(abs(point) / np.sqrt(parts.sum()), _freedom(parts, freedoms)))


def simultaneous(statistic: Statistic, family: Sequence[tuple[np.ndarray, ...]]) -> list[Interval]:
    r"""Intervals of a family of comparisons on the same images, corrected for their number.

    .. math:: \theta_j \pm s_j \; q_{0.95}\big( \max_i |\theta^*_i - \theta_i| / s_i \big)

    The largest of the standardised deviations has one 95 % quantile over the draws, and each
    interval is so many of its own standard errors wide (max-t; Romano and Wolf 2005): comparisons
    that go together cost less than Bonferroni's correction, and a family of one costs nothing.

    Args:
        statistic: Function of summed counts, such as `miou` or `gain`.
        family: For each comparison the counts that `resample` takes. Those over the same images
            share the draws.

    One image tells nothing of others: the ends are NaN.

    Example:
        >>> same = np.array([[[3, 1], [4, 1], [3, 2]], [[1, 1], [2, 1], [1, 2]]])
        >>> simultaneous(gain, [(same, same)])
        [(0.0, 0.0, 0.0)]
    """
    resampled = [resample(statistic, *counts) for counts in family]
    points = np.array([point for point, _ in resampled])
    values = np.stack([values for _, values in resampled])
    if len(family[0][0]) == 1:
        return [(float(point), float("nan"), float("nan")) for point in points]
    errors = np.nanstd(values, axis=1, ddof=1)
    scale = np.where(errors > 0, errors, np.inf)
    deviations = np.abs(values - points[:, None]) / scale[:, None]
    half = np.nanquantile(deviations.max(axis=0), 0.95) * errors
    return [(float(p), float(p - h), float(p + h)) for p, h in zip(points, half, strict=True)]


def images_needed(error: float, images: int) -> int:
    r"""How many images tell a difference of 1 from zero, 95 % sure, 4 times in 5 (power 0.8).

    .. math:: N \, \big( \mathrm{error} \, (z_{0.975} + z_{0.8}) \big)^2

    Args:
        error: The standard error that was measured; it falls with the images' square root.
        images: N, the number of images behind the error.

    Example:
        >>> images_needed(1.0, 100)
        785
    """
    wanted_error = 1 / (stats.norm.ppf(0.975) + stats.norm.ppf(0.8))
    return int(np.ceil(images * (error / wanted_error) ** 2))
