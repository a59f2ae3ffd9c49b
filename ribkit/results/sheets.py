"""Contact sheets of pseudo labels, to look at before anything is trained on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage
from skimage.color import label2rgb
from skimage.segmentation import mark_boundaries

from ribkit.results import plots
from ribkit.results.style import PALETTE, styled

CONTOUR = "above the threshold"
COLOURS = [*PALETTE[:6], *PALETTE[8:]]  # no grey, which photographs are, and one pink of two


@dataclass(frozen=True)
class Row:
    """A photograph and what was made of it, all of one size."""

    name: str
    pixels: np.ndarray  # (h, w, 3) uint8
    highest: np.ndarray  # (h, w) in [0, 1], of its classes' maps
    labels: np.ndarray  # (h, w) uint8: k + 1 is class k


def sheet(rows: Sequence[Row], classes: Sequence[str], threshold: float) -> Figure:
    """Photograph, highest map and labels side by side, a row each.

    White on the map: what exceeds the threshold; on the labels: their edges. A label bears its
    class's name, since colours recur after eight classes.
    """
    pictures = {}
    for row in rows:
        pictures[row.name, "photograph"] = row.pixels
        pictures[row.name, "map"] = row.highest
        pictures[row.name, CONTOUR] = (row.highest > threshold).astype(float)
        pictures[row.name, "labels"] = _coloured(row)
    with styled():
        drawn = Figure(layout="constrained")
        plots.gallery(drawn, pictures, outline=CONTOUR)
        for axis, row in zip(drawn.axes[2::3], rows, strict=False):  # the last is the colour bar's
            for label in np.unique(row.labels[row.labels > 0]):
                _name(axis, row.labels == label, classes[label - 1])
        drawn.get_layout_engine().execute(drawn)
        drawn.set_layout_engine("none")
    return drawn


def _coloured(row: Row) -> np.ndarray:
    """Labels in colour over the photograph in grey: ``(h, w, 3)`` uint8."""
    used = [COLOURS[(label - 1) % len(COLOURS)] for label in np.unique(row.labels[row.labels > 0])]
    look = {"alpha": 0.5, "bg_label": 0, "saturation": 0}
    coloured = label2rgb(row.labels, row.pixels, used or None, **look)
    edged = mark_boundaries(coloured, row.labels, color=(1, 1, 1), mode="inner")
    return np.round(255 * edged).astype(np.uint8)


def _name(axis: Axes, where: np.ndarray, name: str) -> None:
    """Write a class's name where its label is widest."""
    depth = ndimage.distance_transform_edt(np.pad(where, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
    look = {"fontsize": 5, "ha": "center", "va": "center", "clip_on": True, "bbox": box}
    axis.text(column, row, name, parse_math=False, **look)
