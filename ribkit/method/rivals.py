"""What widens a map without any adaptation: controls for RIB, and what a CAM may be given too.

If one of them is as good as RIB, it is not the bottleneck that helps.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from ribkit.method.cam import EPSILON


@dataclass(frozen=True)
class Rival:
    """Changes of normalised maps, made in this order; as it is, none."""

    norm: float = 0.0  # lambda of the feature norm that is added to every class's map
    smoothing: float = 0.0  # deviation of a Gaussian, as a share of the longer side
    percentile: float = 100.0  # of a map's values, that becomes 1; 100: their maximum


def with_norm(maps: np.ndarray, norm: np.ndarray, weight: float) -> np.ndarray:
    r"""Add the class-agnostic norm of the features to every class's map.

    .. math:: M_c + \lambda \, \|f(x)\|_2, \quad \text{divided by its maximum}

    It shows wherever the network responds, whatever the class: what is left of RIB's gain beyond
    it is RIB's own. A control of ours for the adaptation of Section 3.2 (arXiv:2110.06530).

    Args:
        maps: ``(K, h, w)``, each in [0, 1].
        norm: ``(h, w)``, the norm of the features over its maximum.
        weight: Lambda; 0 leaves the maps as they are.

    Example:
        >>> with_norm(np.array([[[1.0, 0.0]]]), np.array([[0.5, 1.0]]), 1.0).round(2).tolist()
        [[[1.0, 0.67]]]
    """
    return _divided(maps + weight * norm, 100.0) if weight else maps


def smoothed(maps: np.ndarray, deviation: float) -> np.ndarray:
    r"""Blur each map by a Gaussian, and divide it by its maximum.

    .. math:: G_\sigma * M_c, \quad \text{divided by its maximum}

    Args:
        maps: ``(K, h, w)``, each in [0, 1].
        deviation: Sigma as a share of the longer side; 0 leaves the maps as they are.

    Example:
        >>> maps = np.array([[[0.0, 0.0, 1.0, 0.0]]])
        >>> smoothed(maps, 0.2).round(2).tolist()
        [[[0.04, 0.46, 1.0, 0.46]]]
    """
    if not deviation or not len(maps):
        return maps
    sigma = deviation * max(maps.shape[1:])
    return _divided(gaussian_filter(maps, (0, sigma, sigma), mode="nearest"), 100.0)


def clipped(maps: np.ndarray, percentile: float) -> np.ndarray:
    r"""Divide each map by a percentile of its values, and clip it to 1.

    .. math:: \min(1, M_c / q_p(M_c))

    One high pixel then decides less of the map: Kim et al. 2021 and Bae et al. 2020
    (arXiv:2007.09823) find that this normalisation alone moves scores as methods do.

    Args:
        maps: ``(K, h, w)``, each in [0, 1].
        percentile: p; 100 leaves the maps as they are.

    Example:
        >>> clipped(np.array([[[0.0, 0.2, 0.4, 1.0]]]), 200 / 3).round(2).tolist()
        [[[0.0, 0.5, 1.0, 1.0]]]
    """
    return _divided(maps, percentile) if percentile < 100 else maps


def altered(maps: np.ndarray, norm: np.ndarray, rival: Rival) -> np.ndarray:
    """Maps ``(K, h, w)`` with the changes of a rival; see there."""
    maps = with_norm(maps, norm, rival.norm)
    return clipped(smoothed(maps, rival.smoothing), rival.percentile)


def _divided(maps: np.ndarray, percentile: float) -> np.ndarray:
    """Maps over a percentile of their own values, and clipped to 1."""
    if not len(maps):
        return maps
    top = np.percentile(maps, percentile, axis=(1, 2), keepdims=True)
    return np.minimum(maps / (top + EPSILON), 1)
