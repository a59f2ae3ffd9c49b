"""The one style of all figures, their register, and pictures as small tables.

Colours are seaborn's "colorblind" palette; maps are drawn in viridis.
"""

from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

STYLE = {"font.size": 9, "axes.titlesize": 9, "figure.dpi": 100, "savefig.dpi": 160}
PALETTE = sns.color_palette("colorblind")
FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {}


def figure(draw: Callable[[pd.DataFrame], Figure]) -> Callable[[pd.DataFrame], Figure]:
    """Register a picture under its function's name, drawn in the study's style."""

    def styled(table: pd.DataFrame) -> Figure:
        with sns.axes_style("whitegrid"), mpl.rc_context(STYLE):
            return draw(table)

    styled.__doc__ = draw.__doc__
    FIGURES[draw.__name__] = styled
    return styled


def pictures_table(pictures: dict[tuple[str, str], np.ndarray]) -> pd.DataFrame:
    """``(name, panel) -> picture`` as a table: a line of pixels in hexadecimal on each row.

    A picture is ``(H, W)`` in [0, 1] (two digits a pixel) or ``(H, W, 3)`` uint8 (six digits).
    """
    rows = []
    for (name, panel), picture in pictures.items():
        if picture.ndim == 2:
            picture = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
        lines = [np.ascontiguousarray(line).tobytes().hex() for line in picture]
        rows += [
            {"name": name, "panel": panel, "width": picture.shape[1], "pixels": f"x{line}"}
            for line in lines
        ]
    return pd.DataFrame(rows)


def pictures(table: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """The inverse of `pictures_table`, to 1/255."""
    found = {}
    for (name, panel), lines in table.groupby(["name", "panel"], sort=False):
        data = np.stack([np.frombuffer(bytes.fromhex(p[1:]), np.uint8) for p in lines["pixels"]])
        width = int(lines["width"].iloc[0])
        colour = data.shape[1] == 3 * width
        found[str(name), str(panel)] = data.reshape(-1, width, 3) if colour else data / 255
    return found
