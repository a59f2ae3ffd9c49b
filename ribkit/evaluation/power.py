"""Power: how small a true gain an interval would have told from zero, 8 times in 10.

A true gain moves a study's point estimate and not its interval's width. So the smallest gain that
is found 8 times in 10 is the 0.8 quantile, over studies, of how far the interval reaches below the
point less how far the point lies above the truth. The errors are those that the study estimated.
"""

from collections.abc import Sequence

import numpy as np

from ribkit.evaluation.intervals import (
    RNG_SEED,
    Statistic,
    bootstrap,
    errors_of,
    half_width,
    parts_of,
    resample,
)

STUDIES = 10_000  # simulated ones
POWER = 0.8


def detectable(statistic: Statistic, replicas: Sequence[tuple[np.ndarray, ...]]) -> float:
    """How small a true gain `replicated` would have told from zero, 8 times in 10.

    replicas: as for `replicated`. See `detectable_by_t`, and for one seed `detectable_once`.
    """
    if len(replicas) == 1:
        point, low, _ = bootstrap(statistic, *replicas[0])
        return detectable_once(statistic, replicas[0], point - low)
    return detectable_by_t(*parts_of(*errors_of(statistic, replicas)))


def detectable_once(statistic: Statistic, counts: tuple[np.ndarray, ...], reach: float) -> float:
    r"""The same for one training, whose interval reaches so far below its point estimate.

    .. math:: \max\big(0, \; q_{0.8}( \mathrm{reach} - (\theta^* - \theta) ) \big)

    The point's noise is that of the bootstrap's draws :math:`\theta^*`.

    Args:
        statistic: Function of summed counts, such as `gain`.
        counts: What `resample` takes.
        reach: Point estimate less the interval's low end.

    Example:
        >>> same = np.ones((10, 2))  # ten equal images: no noise
        >>> detectable_once(lambda sums: sums[..., 0] / sums[..., 1], (same,), 0.5)
        0.5
    """
    point, values = resample(statistic, *counts)
    return float(np.maximum(0.0, reach + np.nanquantile(point - values, POWER)))  # NaN stays NaN


def detectable_by_t(parts: np.ndarray, freedoms: np.ndarray) -> float:
    r"""The same where the interval is Student's t, as in `combined`: over simulated studies.

    .. math::
        q_{0.8}\Big( t_{0.975, \nu} \sqrt{\textstyle\sum_i \tilde s_i^2} - \varepsilon \Big),
        \quad \tilde s_i^2 \sim s_i^2 \, \chi^2_{f_i} / f_i,
        \quad \varepsilon \sim N\big(0, \textstyle\sum_i s_i^2\big)

    A study estimates each error anew, so its interval is now narrow, now wide; its point is off by
    :math:`\varepsilon`.

    Args:
        parts: ``(k,)``, squared standard errors, such as over images and over trainings.
        freedoms: ``(k,)``, how many degrees of freedom each was estimated with; none: NaN.

    Example:
        >>> round(detectable_by_t(np.array([0.01**2]), np.array([10**6])), 3)  # 1.96 + 0.84 errors
        0.028
    """
    if not len(parts) or (freedoms < 1).any():
        return float("nan")
    if parts.sum() == 0:
        return 0.0
    random = np.random.default_rng(RNG_SEED)
    estimated = parts * random.chisquare(freedoms, (STUDIES, len(parts))) / freedoms
    noise = random.normal(0, np.sqrt(parts.sum()), STUDIES)
    return float(np.quantile(half_width(estimated, freedoms) - noise, POWER))
