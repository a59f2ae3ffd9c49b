"""Scores of localisation maps at every threshold, and how a threshold is chosen.

A seed predicts, at each pixel, the class of its highest map, or background where no map exceeds the
threshold. The threshold is the best one for the very images it is scored on (``oracle``, as most
papers report), the best one on other images (``held-out``), or one that needs no mask
(``mask-free``, by `otsu`). See `ribkit.evaluation.miou`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from ribkit.evaluation.miou import IGNORE, counts, miou

THRESHOLDS = np.arange(100) / 100
LABELS = 256  # that a mask can hold
ROW_FIELDS = ("label", "target", "hits", "predicted")  # of one image, see `Swept`


def sweep(
    maps: Tensor, class_indices: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Confusion matrices of one image at the thresholds 0.00 .. 0.99, in one pass over its pixels.

    .. math::
        p_s(u) = \begin{cases} \mathrm{argmax}_c M_c(u) & \max_c M_c(u) > s \\ 0 & \text{else}
        \end{cases}, \qquad s \in \{0, 0.01, \dots, 0.99\}

    The paper (arXiv:2110.06530) reports the best threshold's mIoU on the very images scored.

    Args:
        maps: ``(K, H, W)``, normalised, in [0, 1], on any device. The first of equal maps wins.
        class_indices: ``(K,)``, the 0-based class of each map; its label is one more.
        target: ``(H, W)`` uint8 labels, 0 background; 255 does not count.

    Returns:
        The image's labels ``(L,)``, sorted (background, its classes, those of its target), and the
        confusion matrices among them, ``(100, L, L)`` int64.

    Example:
        >>> maps, target = torch.tensor([[[0.2, 0.9]]]), np.array([[0, 3]], np.uint8)
        >>> labels, matrices = sweep(maps, np.array([2]), target)
        >>> labels.tolist(), matrices[10].tolist(), matrices[50].tolist()
        ([0, 3], [[0, 1], [0, 1]], [[1, 0], [0, 1]])
    """
    own_labels = np.asarray(class_indices, int) + 1
    pixels = _histogram(maps, target)
    truth = pixels.sum(axis=(1, 2))
    truth[IGNORE] = 0
    labels = np.union1d(np.append(0, own_labels), np.flatnonzero(truth))
    # a pixel above exactly so many thresholds is foreground at the first so many
    foreground = pixels[labels, : len(own_labels), :0:-1].cumsum(axis=-1)[..., ::-1]
    matrices = np.zeros((len(THRESHOLDS), len(labels), len(labels)), np.int64)
    matrices[:, :, np.searchsorted(labels, own_labels)] = foreground.transpose(2, 0, 1)
    matrices[:, :, 0] = truth[labels] - foreground.sum(axis=1).T
    return labels, matrices


def _histogram(maps: Tensor, target: np.ndarray) -> np.ndarray:
    """Pixels by target, highest map and number of thresholds it exceeds: ``(256, K, 101)``."""
    if not len(maps):
        maps = maps.new_zeros(1, *target.shape)  # nothing exceeds a threshold
    best, winner = maps.max(dim=0)  # the first of equals
    above = exceeded(best)
    truth = torch.tensor(target).to(maps.device, non_blocking=True).int()
    shape = (LABELS, len(maps), len(THRESHOLDS) + 1)
    flat = ((truth * shape[1] + winner.int()) * shape[2] + above).flatten()
    # not bincount, which waits for the greatest index
    pixels = torch.zeros(shape, dtype=torch.int32, device=maps.device)
    pixels.view(-1).index_add_(0, flat, torch.ones_like(flat))
    return pixels.cpu().numpy()  # the only time that it waits for the device


def exceeded(best: Tensor) -> Tensor:
    """How many of the thresholds, 0 to 100, each value of a highest map exceeds; int32."""
    # s > i / 100 for ceil(100 s) of the i >= 0. Exactly: float64 has room for 100 s (24 and 5
    # bits), and no float32 lies between i / 100 and its float64.
    return (100 * best.double()).ceil_().clamp_(0, len(THRESHOLDS)).int()


@dataclass(frozen=True, eq=False)
class Swept:
    """Counts of N images at all thresholds: R rows, of the labels in an image's mask or maps."""

    images: int  # N
    n_classes: int  # n, background included
    image: np.ndarray  # ``(R,)``, the row's image
    label: np.ndarray  # ``(R,)``, the row's label
    target: np.ndarray  # ``(R,)``, pixels of the ground truth
    hits: np.ndarray  # ``(R, 100)``, pixels predicted rightly at each threshold
    predicted: np.ndarray  # ``(R, 100)``, pixels predicted at each threshold

    def at(self, index: int | np.ndarray) -> np.ndarray:
        """Counts ``(N, 3, n)`` int32 at one threshold, or at one for each image ``(N,)``."""
        rows = np.arange(len(self.image))
        columns = np.broadcast_to(index, self.images)[self.image]
        result = np.zeros((self.images, 3, self.n_classes), np.int32)
        values = (self.hits[rows, columns], self.target, self.predicted[rows, columns])
        result[self.image, :, self.label] = np.stack(values, axis=-1)
        return result

    def total(self, which: np.ndarray | None = None) -> np.ndarray:
        """Counts ``(100, 3, n)`` int64 summed over all images, or those of a mask ``(N,)``."""
        counted = True if which is None else which[self.image]
        result = np.zeros((len(THRESHOLDS), 3, self.n_classes), np.int64)
        for label in range(self.n_classes):
            rows = (self.label == label) & counted
            for k, values in enumerate((self.hits, self.target[:, None], self.predicted)):
                result[:, k, label] = values[rows].sum(axis=0)
        return result


def image_rows(labels: np.ndarray, matrices: np.ndarray) -> dict[str, np.ndarray]:
    """Reduce one image's `sweep` to its rows of a `Swept`, by `ROW_FIELDS`."""
    hits, target, predicted = counts(matrices).astype(np.int32).transpose(1, 2, 0)
    return dict(zip(ROW_FIELDS, (labels, target[:, 0], hits, predicted), strict=True))


def concat_rows(images: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenate the `image_rows` of all images, in order, to the arrays of a `Swept`."""
    sizes = [len(rows["label"]) for rows in images]
    joined = {name: np.concatenate([rows[name] for rows in images]) for name in ROW_FIELDS}
    return {"image": np.repeat(np.arange(len(images)), sizes)} | joined


def best_threshold(counts: np.ndarray) -> int:
    """Index of the highest mIoU of counts ``(100, 3, n)``, the first of equals."""
    return int(np.nanargmax(miou(counts)))


def otsu(levels: np.ndarray) -> int:
    r"""Index of a threshold that is chosen without any mask: Otsu's, from the maps' own values.

    .. math:: \mathrm{argmax}_k \; P_k (1 - P_k) (\mu_{\le k} - \mu_{> k})^2

    Otsu 1979, as in scikit-image, with P the share of pixels up to level k and the means of both
    sides: they lie furthest apart. RIB (arXiv:2110.06530) chooses on masks.

    Args:
        levels: ``(101,)``, how many pixels exceed so many thresholds: `exceeded`.

    Returns:
        An integer in 0 .. 99; 0 where all pixels are equal, which no threshold tells apart.

    Example:
        >>> levels = np.zeros(101, int)
        >>> levels[[10, 20, 80, 90]] = 5
        >>> otsu(levels)
        20
    """
    at = np.flatnonzero(levels)
    if len(at) < 2:
        return 0
    inside = np.arange(at[0], at[-1] + 1)
    return int(threshold_otsu(hist=(levels[inside], inside)))


def own_best(swept: Swept) -> np.ndarray:
    r"""For each image the index ``(N,)`` of the threshold that is best for it alone.

    .. math:: s_i = \mathrm{argmax}_s \, \mathrm{mIoU}_i(s)

    AMN (arXiv:2203.16045) asks whether one threshold for all images is the bottleneck. No choice
    of thresholds has a higher mean over images of their own mIoU. The mIoU of the whole set is not
    bound by that: what is best for each image may be worse for a class's pixels taken together.

    Args:
        swept: Counts at all thresholds.

    Returns:
        Integers in 0 .. 99, the first of equals; 0 for an image of which no pixel counts.

    Example:
        >>> one = {"image": [0, 0], "label": [0, 1], "target": [1, 1]}  # 2 pixels, 1 background
        >>> right = [0] * 30 + [1] * 70  # from 0.3 on the background is found
        >>> at = {"hits": [right, [1] * 100], "predicted": [right, [2] * 30 + [1] * 70]}
        >>> own_best(Swept(1, 2, **{name: np.array(v) for name, v in (one | at).items()})).tolist()
        [30]
    """
    scores = np.stack([miou(swept.at(index)) for index in range(len(THRESHOLDS))])
    return np.nan_to_num(scores, nan=-1).argmax(axis=0)


def cross_fitted(swept: Swept, folds: int = 5) -> np.ndarray:
    """For each image the index ``(N,)`` of the threshold that is best on the other folds.

    Image i is in fold i mod folds. One image alone has its own best threshold.
    """
    fold = np.arange(swept.images) % min(folds, swept.images)
    if swept.images == 1:
        return np.array([best_threshold(swept.total())])
    best = [best_threshold(swept.total(fold != k)) for k in range(fold.max() + 1)]
    return np.array(best)[fold]
