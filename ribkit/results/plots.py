"""The kinds of figure: points with intervals, curves with bands, stacked bars, galleries.

All are told the columns to draw. An interval of the column ``gain`` stands in ``gain_low`` and
``gain_high``.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ribkit.results.style import PALETTE, Pictures

LINES = ("-", "--", "-.", ":")
MARKERS = "os^DvP"
REGION_STYLES = {
    "discriminative": {"color": PALETTE[0], "marker": "o"},
    "non-discriminative": {"color": PALETTE[1], "marker": "s"},
    "irrelevant": {"color": PALETTE[7], "marker": "^"},
}
PART_NAMES = {
    "discriminative": "head (discriminative)",
    "non-discriminative": "body (non-discriminative)",
    "irrelevant": "outside",
}


def unique(values) -> list:
    """The different values, in order of appearance."""
    return list(dict.fromkeys(values))


def right_legend(axis: Axes) -> None:
    """The axis's legend, to its right."""
    axis.legend(title=None, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Row names at the y-axis, the first on top."""
    axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))


def points(axis: Axes, table: pd.DataFrame, value: str, at, upright=False, **style) -> None:
    """Points with their intervals, where the table has any.

    Args:
        axis: Where to draw.
        table: Has the column value, and may have value_low and value_high.
        value: What is drawn along the x-axis.
        at: Positions along the other axis.
        upright: Draw the value along the y-axis instead.
        style: For matplotlib's ``errorbar``.
    """
    error = None
    if f"{value}_low" in table:
        ends = (table[value] - table[f"{value}_low"], table[f"{value}_high"] - table[value])
        error = np.abs(ends)
    style = {"ls": "none", "capsize": 2, "markersize": 5, "lw": 1} | style
    if upright:
        axis.errorbar(at, table[value], yerr=error, **style)
    else:
        axis.errorbar(table[value], at, xerr=error, **style)


def gains(axis: Axes, table: pd.DataFrame, value: str, names, label: str, **style) -> None:
    """`points`, a row of the table on each line, and a line at no gain."""
    points(axis, table, value, range(len(table)), **{"color": PALETTE[0], "marker": "o"} | style)
    name_rows(axis, list(names))
    axis.axvline(0, color="black", lw=1)
    axis.set(xlabel=label)


def gain_rows(table: pd.DataFrame, rows: Sequence[str], label: str, size: Sequence) -> Figure:
    """A figure of `gains`: one for each row, named by the columns ``rows``."""
    drawn = Figure((size[0], size[1] * len(table) + size[2]), layout="constrained")
    gains(drawn.subplots(), table, "gain", table[list(rows)].agg(": ".join, axis=1), label)
    return drawn


def grouped_points(
    table: pd.DataFrame,
    rows: str,
    hue: str,
    values: Mapping[str, str],
    size: Sequence[float],
    labels: Mapping[str, str] | None = None,
    widths: Sequence[float] | None = None,
) -> Figure:
    """A figure of `points`, side by side for each value.

    Args:
        table: Has the columns named below.
        rows: Column whose values are the rows.
        hue: Column whose values get a colour and a marker each.
        values: Column to draw -> label of its axis; a gain has a line at zero.
        size: Width of the figure, height of a row and height of all else, in inches.
        labels: Value of ``hue`` -> name in the legend, where they differ.
        widths: Of the axes, relative to each other.

    Returns:
        The figure.
    """
    names, hues = unique(table[rows]), unique(table[hue])
    drawn = Figure((size[0], size[1] * len(names) + size[2]), layout="constrained")
    axes = drawn.subplots(1, len(values), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axis, (value, label) in zip(axes, values.items(), strict=True):
        for k, kind in enumerate(hues if value in table else ()):
            part, shift = table[table[hue] == kind], 0.26 * (k - (len(hues) - 1) / 2)
            y = [names.index(name) + shift for name in part[rows]]
            look = {"color": PALETTE[k], "marker": MARKERS[k]}
            points(axis, part, value, y, label=(labels or {}).get(kind, kind), **look)
        if "gain" in label:
            axis.axvline(0, color="black", lw=1)
        axis.set(xlabel=label)
    name_rows(axes[0], names)
    if len(values) > 1:
        legend = axes[0].get_legend_handles_labels()
        drawn.legend(*legend, loc="outside upper center", ncols=len(hues), frameon=False)
    else:
        right_legend(axes[0])
    return drawn


def layer_points(
    table: pd.DataFrame, value: str, region: str, label: str, joined: str, suffix: str = ""
) -> Figure:
    """Points with intervals for each layer and region; layers named ``joined`` ... are joined."""
    names = unique(table["layer"])
    drawn = Figure((7.2, 3.2), layout="constrained")
    axis = drawn.subplots()
    for name, part in table.groupby(region, sort=False):
        at = [names.index(layer) for layer in part["layer"]]
        look = {"upright": True, "label": PART_NAMES[name] + suffix}
        points(axis, part, value, at, **look, **REGION_STYLES[name])
        line = part[part["layer"].str.startswith(joined)]
        axis.plot(range(len(line)), line[value], lw=1, color=REGION_STYLES[name]["color"])
    ticks = [name.replace("own ", "own\n") for name in names]
    axis.set(xticks=range(len(names)), xticklabels=ticks, ylim=(0, 1), ylabel=label)
    right_legend(axis)
    return drawn


def curve(axis: Axes, table: pd.DataFrame, value: str, k: int = 0, label: str | None = None):
    """A curve over the column ``x`` with its band, in the k-th colour."""
    table = table.sort_values("x")
    style = {"ls": LINES[k], "marker": MARKERS[k], "color": PALETTE[k], "label": label}
    axis.plot(table["x"], table[value], **style)
    low, high = table[f"{value}_low"], table[f"{value}_high"]
    axis.fill_between(table["x"], low, high, color=PALETTE[k], alpha=0.15)


def lines(
    axis: Axes, table: pd.DataFrame, x: str, y: str, hue: str, first=0, title=None, **style
) -> None:
    """Lines of column y over column x for each value of hue, from the first-th colour on."""
    colours = PALETTE[first:][: table[hue].nunique()]
    sns.lineplot(table, x=x, y=y, hue=hue, style=hue, palette=colours, ax=axis, **style)
    axis.legend(title=title, fontsize=7)


def line_figure(table: pd.DataFrame, x: str, y: str, hue: str, axis: dict, **style) -> Figure:
    """A figure of `lines`; axis: labels and limits, for matplotlib's ``Axes.set``."""
    drawn = Figure((5.2, 3), layout="constrained")
    lines(drawn.subplots(), table, x, y, hue, **style)
    drawn.axes[0].set(**axis)
    return drawn


def stacked(axis: Axes, table: pd.DataFrame, colours: Sequence) -> None:
    """Stacked bars: a bar for each index, a part of it for each column, in these colours."""
    start = np.zeros(len(table))
    for column, colour in zip(table.columns, colours, strict=True):
        values = table[column].to_numpy()
        axis.barh(table.index, values, 0.75, start, color=colour, label=column, edgecolor="w")
        start = start + values
    axis.set_ylim(len(table) - 0.5, -0.5)


def gallery(
    pictures: Pictures,
    outline: str = "",
    bar: str = "map / its maximum",
    kinds: Sequence[tuple[str, tuple]] = (),
) -> Figure:
    """Names as rows, panels as columns; maps in viridis over the whole range 0 to 1.

    Args:
        pictures: (name, panel) -> picture.
        outline: A panel that is drawn as a white outline over the others.
        bar: Label of the colour bar; empty: none.
        kinds: Names and colours for a legend.

    Returns:
        The figure.
    """
    names = unique(name for name, _ in pictures)
    panels = unique(panel for _, panel in pictures if panel != outline)
    shapes = [pictures[name, panels[0]].shape for name in names]
    heights = [shape[0] / shape[1] for shape in shapes]
    width = min(1.35, 9.5 / len(panels))
    size = (width * len(panels) + 0.9, width * sum(heights) + 0.35)
    drawn = Figure(size, layout="constrained")
    axes = drawn.subplots(len(names), len(panels), squeeze=False, height_ratios=heights)
    for row, name in zip(axes, names, strict=True):
        for axis, panel in zip(row, panels, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            picture = pictures.get((name, panel))
            if picture is None:
                axis.set_axis_off()
                continue
            colours = "gray" if panel == "image" else "viridis"
            shown = axis.imshow(picture, cmap=colours, vmin=0, vmax=1, aspect="auto")
            if picture.ndim == 2 and (name, outline) in pictures:
                axis.contour(pictures[name, outline], [0.5], colors="white", linewidths=0.8)
        row[0].set_ylabel(name.replace(", ", "\n"))
    for axis, panel in zip(axes[0], panels, strict=True):
        axis.set_title(panel.replace(", ", ",\n"))
    if bar:
        drawn.colorbar(shown, ax=axes, label=bar, shrink=0.8, pad=0.01, aspect=25)
    if kinds:
        patches = [Patch(fc=np.array(rgb) / 255, ec="0.5", label=name) for name, rgb in kinds]
        drawn.legend(handles=patches, loc="outside lower center", ncols=len(kinds), fontsize=7)
    return drawn
