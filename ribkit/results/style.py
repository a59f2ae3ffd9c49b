"""The one style of all figures, and pictures packed into one sheet."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.style import context
from seaborn.utils import relative_luminance

Pictures = Mapping[tuple[str, str], np.ndarray]
"""(name, panel) -> ``(H, W)`` in [0, 1], or ``(H, W, 3)`` uint8."""

STYLE = {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "font.family": "DejaVu Sans"}
PALETTE = sns.color_palette("colorblind")
# What a label map gets right and wrong; a kind's number is its position here. Each is lighter or
# darker than the others by much, so that they differ in grey and to the colour-blind.
KINDS = (
    ("background", (255, 255, 255)),
    ("object, right", (0, 75, 130)),
    ("false negative", (222, 143, 5)),
    ("false positive", (240, 190, 225)),
    ("wrong class", (0, 0, 0)),
    ("ignored", (120, 120, 120)),
)
DASHED, DOTTED, MIXED = (4, 1.5), (1, 1), (3, 1.25, 1.5, 1.25)
METHODS = {  # a method's colour and dashes, the same in all figures; rivals are grey
    "CAM": (PALETTE[0], ""),
    "CAM, smoothed": ("0.6", DASHED),
    "CAM, percentile": ("0.6", DOTTED),
    "CAM + feature norm": ("0.6", MIXED),
    "best rival": ("0.6", ""),
    "RIB": (PALETTE[1], DASHED),
    "RIB official, GNDRP": (PALETTE[1], DASHED),
    "RIB official, GAP": ((0.6, 0.12, 0), DOTTED),
    "RIB paper, GNDRP": (PALETTE[2], MIXED),
    "RIB paper, GAP": (PALETTE[9], DASHED),
}


def styled() -> AbstractContextManager:
    """Within this, figures look as here and by matplotlib's defaults, whatever its user prefers."""
    return context([sns.axes_style("whitegrid"), STYLE], after_reset=True)


def looks(names: Iterable[Hashable]) -> tuple[dict, dict | bool]:
    """A colour for each name, and dashes: a method's own; of other things the palette's."""
    names = list(names)
    if not set(names) <= set(METHODS):
        return dict(zip(names, cycle(PALETTE), strict=False)), True
    return tuple({name: METHODS[name][part] for name in names} for part in (0, 1))


def ink(colour: Sequence[float]) -> str:
    """Black or white: what is read better on a colour."""
    return "black" if relative_luminance(colour) > 0.18 else "white"


def pack(pictures: Pictures) -> tuple[pd.DataFrame, np.ndarray]:
    """Place pictures on one sheet, those of a name side by side.

    Maps are kept to 1/255. The table has each picture's name, panel and place in pixels, and
    whether it has colours; the sheet is ``(H, W, 3)`` uint8.
    """
    rows = [(*key, *p.shape[1::-1], p.ndim == 3) for key, p in pictures.items()]
    table = pd.DataFrame(rows, columns=["name", "panel", "width", "height", "colour"])
    strip = (table["name"] != table["name"].shift()).cumsum()
    heights = table.groupby(strip)["height"].max()
    table.insert(2, "left", table.groupby(strip)["width"].cumsum() - table["width"])
    table.insert(3, "top", strip.map(heights.cumsum() - heights))
    sheet = np.zeros((heights.sum(), (table["left"] + table["width"]).max(), 3), np.uint8)
    for row, picture in zip(table.to_dict("records"), pictures.values(), strict=True):
        if picture.ndim == 2:
            picture = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)[..., None]
        _part(sheet, row)[:] = picture
    return table, sheet


def unpack(table: pd.DataFrame, sheet: np.ndarray) -> Pictures:
    """The inverse of `pack`, to 1/255. Raises ValueError if the table is of another sheet."""
    pictures = {}
    for row in table.to_dict("records"):
        part = _part(sheet, row)
        if part.shape[:2] != (row["height"], row["width"]):
            raise ValueError(f"picture {row['name']}, {row['panel']} lies beyond the sheet")
        pictures[row["name"], row["panel"]] = part if row["colour"] else part[..., 0] / 255
    return pictures


def _part(sheet: np.ndarray, row: dict) -> np.ndarray:
    top, left = row["top"], row["left"]
    return sheet[top : top + row["height"], left : left + row["width"]]
