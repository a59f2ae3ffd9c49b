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
# What a label map gets right and wrong; a kind's number is its position here
KINDS = (
    ("background", (255, 255, 255)),
    ("object, right", (1, 115, 178)),
    ("object missed", (222, 143, 5)),
    ("spilled over background", (204, 120, 188)),
    ("wrong class", (0, 0, 0)),
    ("no label", (190, 190, 190)),
)
HIT = 1
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


def gallery(table: pd.DataFrame, outline: str | None = None, bar: bool = True) -> Figure:
    """Names as rows, panels as columns; maps in viridis over the whole range 0 to 1."""
    found = pictures(table)
    names = list(dict.fromkeys(name for name, _ in found))
    panels = list(dict.fromkeys(panel for _, panel in found if panel != outline))
    heights = [found[name, panels[0]].shape[0] / found[name, panels[0]].shape[1] for name in names]
    width = min(1.35, 9.5 / len(panels))
    size = (width * len(panels) + 0.9, width * sum(heights) + 0.35)
    drawn = Figure(size, layout="constrained")
    axes = drawn.subplots(len(names), len(panels), squeeze=False, height_ratios=heights)
    for axis, panel in zip(axes[0], panels, strict=True):
        axis.set_title(panel)
    for row, name in zip(axes, names, strict=True):
        for axis, panel in zip(row, panels, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            picture = found.get((name, panel))
            if picture is None:
                axis.set_axis_off()
                continue
            shown = axis.imshow(picture, cmap="viridis", vmin=0, vmax=1, aspect="auto")
            if outline and picture.ndim == 2 and (name, outline) in found:
                axis.contour(found[name, outline], [0.5], colors="white", linewidths=0.8)
        row[0].set_ylabel(name.replace(", ", "\n"))
    if bar:
        drawn.colorbar(shown, ax=axes, label="map / its maximum", shrink=0.8, pad=0.01, aspect=25)
    return drawn
