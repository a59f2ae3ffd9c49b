"""Dense CRF (Krähenbühl and Koltun 2011, arXiv:1210.5644): labels or scores snap to colour edges.

Mean-field inference by pydensecrf; its cost grows with pixels times labels, so an image gets only
the labels that it can have.
"""

from dataclasses import dataclass

import numpy as np
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels, unary_from_softmax

from ribkit.runtime.errors import InputError


@dataclass(frozen=True)
class Kernels:
    r"""The two pairwise terms, with d the distance of two pixels; defaults: the paper's, on labels.

    .. math:: k_{ij} = a \, e^{-d^2 / 2 s_a^2} + b \, e^{-d^2 / 2 s_b^2 - |I_i - I_j|^2 / 2 c^2}
    """

    iterations: int = 10  # of the mean field
    gaussian_sxy: float = 3  # s_a, in pixels
    gaussian_weight: float = 3  # a
    bilateral_sxy: float = 50  # s_b, in pixels
    bilateral_srgb: float = 5  # c, in grey values
    bilateral_weight: float = 10  # b


LABELS = Kernels()
GT_PROB = 0.7  # of a label map's own labels, before the CRF
NETWORK = Kernels(  # after the segmentation network; deeplab-pytorch's default
    gaussian_sxy=1, bilateral_sxy=67, bilateral_srgb=3, bilateral_weight=4
)


def refine_labels(
    image: np.ndarray,
    labels: np.ndarray,
    n_labels: int,
    *,
    gt_prob: float = GT_PROB,
    kernels: Kernels = LABELS,
) -> np.ndarray:
    r"""CRF on a label map: each pixel's own label is likely, the others share the rest.

    .. math::
        E(x) = -\textstyle\sum_i \log p_i(x_i) + \sum_{i<j} [x_i \ne x_j] \, k_{ij}, \qquad
        p_i(l_i) = \mathrm{gt\_prob}

    Dense CRF (arXiv:1210.5644) with the kernels k of `Kernels`.

    Args:
        image: ``(H, W, 3)``, grey values 0 to 255 of any type, or ``(H, W)``; alpha must be 255.
        labels: l, ``(H, W)`` whole numbers in ``0 .. n_labels - 1``; the result has their type.
        n_labels: The image's classes and background, whether or not each occurs in the map. With
            one label there is nothing to do.
        gt_prob: Probability of a pixel's own label, in (0, 1).
        kernels: Kernels of the pairwise terms.

    Raises:
        InputError: For arrays of another form, sizes that differ, or labels out of range.

    Example:
        >>> image = np.zeros((1, 6, 3), np.uint8)
        >>> image[:, 2:] = 255  # the colour changes one pixel before the label does
        >>> refine_labels(image, np.array([[0, 0, 0, 1, 1, 1]]), 2).tolist()
        [[0, 0, 1, 1, 1, 1]]
    """
    image, labels = _grey_values(image), np.asarray(labels)
    _require_size(image, labels, "labels", "(H, W)")
    if not _whole(labels):
        raise InputError(
            f"labels of type {labels.dtype} are not all whole numbers; give each pixel one label."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < n_labels:
        raise InputError(
            f"labels {labels.min()} to {labels.max()} are not all among the CRF's 0 to "
            f"{n_labels - 1}; give as many labels as the map can have."
        )
    if n_labels == 1:
        return labels.copy()
    whole = labels.astype(np.int64)
    unary = unary_from_labels(whole, n_labels, gt_prob=gt_prob, zero_unsure=False)
    return _infer(image, unary, kernels).argmax(axis=0).astype(labels.dtype)


def refine_scores(
    image: np.ndarray, scores: np.ndarray, kernels: Kernels, *, min_score: float = 0.0
) -> np.ndarray:
    r"""CRF on scores, such as a network's probabilities: probabilities ``(L, H, W)`` float32.

    .. math:: p_i(l) = s_i(l) / \textstyle\sum_m s_i(m)

    in the energy of `refine_labels`, as DeepLab (arXiv:1606.00915) uses the dense CRF.

    Args:
        image: As for `refine_labels`.
        scores: s, ``(L, H, W)``, not negative; where all are 0, each label is as likely.
        kernels: Kernels of the pairwise terms.
        min_score: Labels whose p is below it at every pixel are left out: they get 0, and cost
            nothing. 0: none is. In [0, 1).

    Raises:
        InputError: For arrays of another form, sizes that differ, or scores that are negative or
            not finite.

    Example:
        >>> image = np.array([[[0] * 3, [255] * 3, [255] * 3]], np.uint8)
        >>> scores = np.array([[[0.9, 0.6, 0.1]], [[0.1, 0.4, 0.9]]])
        >>> refine_scores(image, scores, NETWORK).argmax(axis=0).tolist()
        [[0, 1, 1]]
    """
    image, scores = _grey_values(image), np.asarray(scores, np.float32)
    _require_size(image, scores, "scores", "(labels, H, W)")
    total = scores.sum(axis=0, keepdims=True)
    if not (np.isfinite(total).all() and (scores >= 0).all()):
        raise InputError(
            f"scores from {scores.min()} to {scores.max()} are not finite and 0 or more; give "
            "probabilities, of logits their softmax."
        )
    probabilities = np.where(total > 0, scores / np.where(total > 0, total, 1), 1 / len(scores))
    found = np.zeros_like(scores)
    kept = probabilities.max(axis=(1, 2)) >= min(min_score, probabilities.max())
    if kept.sum() == 1:
        found[kept] = 1
    else:
        unary = unary_from_softmax(np.ascontiguousarray(probabilities[kept], np.float32))
        found[kept] = _infer(image, unary, kernels)
    return found


# ---- arrays as people have them -----------------------------------------------------------------
def _whole(array: np.ndarray) -> bool:
    """Whether these are finite numbers without a fraction, of any type."""
    if array.dtype.kind == "f":
        return bool((np.isfinite(array) & (array == np.rint(array))).all())
    return array.dtype.kind in "biu"


def _grey_values(image: np.ndarray) -> np.ndarray:
    """The image as pydensecrf takes it: ``(H, W, 3)`` uint8, contiguous, its own to write to.

    InputError: it has another shape, alpha that hides something, or values of unclear meaning.
    """
    image = np.asarray(image)
    if image.ndim == 2 or image.shape[2:] == (1,):
        image = np.dstack([image] * 3)
    if image.shape[2:] == (4,) and (image[..., 3] == 255).all():
        image = image[..., :3]
    if image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"an image of shape {image.shape} is not (H, W, 3), or (H, W, 4) with alpha 255; "
            "convert it to RGB."
        )
    fits = _whole(image) and ((image >= 0) & (image <= 255)).all()
    if not fits or (image.dtype.kind in "bf" and image.max(initial=0) == 1):  # white, or black?
        raise InputError(
            f"an image of type {image.dtype} is not plainly of grey values 0 to 255; give uint8: "
            "(255 * image).round().astype('uint8') of one from 0 to 1."
        )
    return np.require(image, np.uint8, ["C", "W"])


def _require_size(image: np.ndarray, map: np.ndarray, name: str, shape: str) -> None:
    if map.ndim != shape.count(",") + 1 or not len(map):
        raise InputError(f"{name} of shape {map.shape} are not {shape}; give them so.")
    if image.shape[:2] != map.shape[-2:]:
        (h, w), (map_h, map_w) = image.shape[:2], map.shape[-2:]
        raise InputError(
            f"a map of {map_w} x {map_h} pixels does not fit its image of {w} x {h}; resize it."
        )


def _infer(image: np.ndarray, unary: np.ndarray, kernels: Kernels) -> np.ndarray:
    """Unary energies ``(L, H W)`` -> probabilities ``(L, H, W)``."""
    height, width = image.shape[:2]
    crf = DenseCRF2D(width, height, len(unary))
    crf.setUnaryEnergy(np.ascontiguousarray(unary))
    crf.addPairwiseGaussian(sxy=kernels.gaussian_sxy, compat=kernels.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=kernels.bilateral_sxy,
        srgb=kernels.bilateral_srgb,
        rgbim=image,
        compat=kernels.bilateral_weight,
    )
    return np.array(crf.inference(kernels.iterations), np.float32).reshape(-1, height, width)
