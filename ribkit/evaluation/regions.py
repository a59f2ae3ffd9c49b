"""Regions of an image by which coverage is told apart: where on an object, and where off it.

Masks are ``(h, w)`` bool. No annotation of parts is needed, so any data set with masks has them.
"""

import numpy as np
from scipy.ndimage import distance_transform_edt

BAND = 0.02  # of the image's diagonal, at an object's boundary: as boundary IoU has it
GREEN = 0.05  # excess green from which a pixel counts as green


def halves(whole: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""The halves of an object that are near to, and far from, where a map peaks on it.

    .. math:: u^* = \arg\max_{u \in O} M_u, \quad
              N = \{u \in O : |u - u^*| \le \mathrm{median}_{v \in O} |v - u^*|\}, \quad
              F = O \setminus N

    What is far from the peak of the plain CAM stands for the non-discriminative part where no mask
    of parts tells it (Section 3.2 of the paper, arXiv:2110.06530, has no definition of its own).

    Args:
        whole: The object O, ``(h, w)`` bool.
        score: The map M, ``(h, w)``.

    Returns:
        N and F, each ``(h, w)`` bool; both empty if the object is.

    Example:
        >>> near, far = halves(np.array([[True, True, True, False]]), np.array([[1, 5, 9, 10]]))
        >>> near.tolist(), far.tolist()
        ([[False, True, True, False]], [[True, False, False, False]])
    """
    if not whole.any():
        return whole, whole
    rows, columns = np.nonzero(whole)
    peak = score[whole].argmax()
    distance = np.hypot(rows - rows[peak], columns - columns[peak])
    near = whole.copy()
    near[whole] = distance <= np.median(distance)
    return near, whole & ~near


def band(whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""The pixels of an object, and those off it, that lie at its boundary.

    .. math:: \{u \in O : d(u, \overline{O}) \le 0.02 D\}, \quad
              \{u \notin O : d(u, O) \le 0.02 D\}

    D is the image's diagonal; so Cheng et al. measure boundaries (Section 4.1, arXiv:2103.16562).
    The image's own border is no boundary.

    Args:
        whole: The object O, ``(h, w)`` bool.

    Returns:
        Both, each ``(h, w)`` bool; both empty if nothing, or all, is the object.

    Example:
        >>> on, off = band(np.array([[False, False, False, True, True, True]]))
        >>> on.tolist(), off.tolist()
        ([[False, False, False, True, False, False]], [[False, False, True, False, False, False]])
    """
    if whole.all() or not whole.any():
        return np.zeros_like(whole), np.zeros_like(whole)
    width = max(1.0, BAND * np.hypot(*whole.shape))
    on, off = (distance_transform_edt(side) <= width for side in (whole, ~whole))
    return whole & on, ~whole & off


def green(pixels: np.ndarray) -> np.ndarray:
    r"""Pixels that are green, as grass and leaves are.

    .. math:: (2 g - r - b) / (r + g + b) > 0.05

    The excess green index of Woebbecke et al. (1995, Transactions of the ASAE 38(1)).

    Args:
        pixels: ``(h, w, 3)`` uint8, RGB.

    Returns:
        ``(h, w)`` bool.

    Example:
        >>> green(np.array([[[60, 120, 50], [120, 120, 120], [0, 0, 0]]], np.uint8)).tolist()
        [[True, False, False]]
    """
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    return 2 * green - red - blue > GREEN * (red + green + blue)
