"""The one style of all figures, and pictures packed into one sheet."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.style import context

Pictures = Mapping[tuple[str, str], np.ndarray]
"""(name, panel) -> ``(H, W)`` in [0, 1], or ``(H, W, 3)`` uint8."""

STYLE = {"font.size": 9, "axes.titlesize": 9, "font.family": "DejaVu Sans"}
PALETTE = sns.color_palette("colorblind")
# What a label map gets right and wrong; a kind's number is its position here
KINDS = (
    ("background", (255, 255, 255)),
    ("object, right", (1, 115, 178)),
    ("false negative", (222, 143, 5)),
    ("false positive", (204, 120, 188)),
    ("wrong class", (0, 0, 0)),
    ("ignored", (190, 190, 190)),
)


def styled() -> AbstractContextManager:
    """Within this, figures look as here and by matplotlib's defaults, whatever its user prefers."""
    return context([sns.axes_style("whitegrid"), STYLE], after_reset=True)


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
