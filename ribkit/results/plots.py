"""The kinds of figure: points with intervals, curves, galleries; and what special figures share.

All are told the columns to draw. An interval of the column ``gain`` stands in ``gain_low`` and
``gain_high``.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from ribkit.results.style import KINDS, PALETTE, Pictures, ink, looks

LINES = ("-", "--", "-.", ":")
MARKERS = "os^DvP"
REGION_STYLES = {
    "discriminative": {"color": PALETTE[0], "marker": "o"},
    "non-discriminative": {"color": PALETTE[1], "marker": "s"},
    "irrelevant": {"color": PALETTE[7], "marker": "^"},
}
# columns of differences in points, and of shares in % with where their axis begins
DIFFERENCES = ("gain", "over_cam", "over_seed", "added", "beyond", "change", "fall")
SHARES = {"covered": 0, "cover body": 0, "precision": 0, "recall": 0, "auc": 50}
LEAST = 0.5  # points to both sides of zero that an axis shows at least: noise shall look like noise


def right_legend(axis: Axes) -> None:
    """The axis's legend, to its right."""
    axis.legend(title=None, loc="center left", bbox_to_anchor=(1, 0.5))


def colour_legend(drawn: Figure, colours: Mapping[str, Sequence[float]]) -> None:
    """A legend below the figure: name -> colour, 0 to 1."""
    patches = [Patch(fc=colour, ec="0.5", label=name) for name, colour in colours.items()]
    drawn.legend(handles=patches, loc="outside lower center", ncols=len(patches))


def zero_line(axis: Axes, along: str) -> None:
    """A line at zero of the axis ``along``, x or y, of differences in points; see `LEAST`."""
    ends = [(-LEAST, -LEAST), (LEAST, LEAST)]
    axis.update_datalim(ends, updatex=along == "x", updatey=along == "y")
    axis.autoscale_view()
    (axis.axvline if along == "x" else axis.axhline)(0, color="black", lw=1)


# ---- points with intervals ----------------------------------------------------------------------
def points(axis: Axes, table: pd.DataFrame, x: str, y: str, **style) -> None:
    """Points, a row of the table each, with those intervals along x and y that the table has."""
    errors = {}
    for key, value in (("xerr", x), ("yerr", y)):
        if f"{value}_low" in table:
            ends = table[[f"{value}_low", f"{value}_high"]].sub(table[value], axis=0)
            errors[key] = ends.abs().to_numpy().T
    style = {"ls": "none", "capsize": 2, "markersize": 5, "lw": 1} | style
    axis.errorbar(table[x], table[y], **errors, **style)


def point_rows(
    axis: Axes, table: pd.DataFrame, value: str, rows: str, hue: str = "", labels=None, **style
) -> None:
    """`points`, a row for each value of the column ``rows``, the first on top.

    Each value of the column ``hue`` has a colour and a marker, and its name in labels, if any.
    Shares and their intervals end at 0 and 100.
    """
    names = list(table[rows].unique())
    groups = dict(list(table.groupby(hue, sort=False))) if hue else {"": table}
    apart, colours = min(0.26, 0.8 / len(groups)), looks(groups)[0]
    for k, (kind, part) in enumerate(groups.items()):
        part = part.assign(at=part[rows].map(names.index) + apart * (k - (len(groups) - 1) / 2))
        if value in SHARES:
            ends = [f"{value}{end}" for end in ("_low", "_high") if f"{value}{end}" in part]
            part[ends] = part[ends].clip(0, 100)
        look = {"color": colours[kind], "marker": MARKERS[k]} | style
        points(axis, part, value, "at", label=(labels or {}).get(kind, kind), **look)
    if value in DIFFERENCES:
        zero_line(axis, "x")
    if value in SHARES:
        least = min(SHARES[value], axis.dataLim.x0)
        beyond = 0.03 * (100 - least)
        axis.set(xlim=(least - beyond, 100 + beyond))
    axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))


def _of_fewer(table: pd.DataFrame) -> pd.Series | str:
    """How many trainings each row is of, where that is fewer than others are of."""
    if "trainings" not in table:
        return ""
    trainings = table["trainings"].astype(int)
    return trainings.map(" (trainings: {})".format).where(trainings < trainings.max(), "")


def grouped_points(
    drawn: Figure,
    table: pd.DataFrame,
    rows: Sequence[str],
    values: Mapping[str, str],
    size: Sequence[float],
    hue: str = "",
    labels: Mapping[str, str] | None = None,
    widths: Sequence[float] | None = None,
) -> None:
    """`point_rows`, side by side for each value: column -> label of its axis.

    The columns rows name the rows together, and say which are of fewer trainings; size: width,
    height of a row and of all else (inches).
    """
    table = table.assign(row=table[rows].agg(": ".join, axis=1) + _of_fewer(table))
    drawn.set_size_inches(size[0], size[1] * table["row"].nunique() + size[2])
    axes = drawn.subplots(1, len(values), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axis, (value, label) in zip(axes, values.items(), strict=True):
        point_rows(axis, table, value, "row", hue, labels)
        axis.set(xlabel=label)
    if len(values) > 1:
        handles = axes[0].get_legend_handles_labels()[0]
        drawn.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    elif hue:
        right_legend(axes[0])


def layer_points(
    drawn: Figure,
    table: pd.DataFrame,
    value: str,
    region: str,
    label: str,
    labels: Mapping[str, str],
    joined: str,
) -> None:
    """`points` for each layer and region; layers named ``joined`` ... are joined."""
    axis, names = drawn.subplots(), list(table["layer"].unique())
    for k, name in enumerate(name for name in REGION_STYLES if name in set(table[region])):
        part = table[table[region] == name]
        part = part.assign(at=part["layer"].map(names.index) + 0.06 * (k - 1))
        points(axis, part, "at", value, label=labels[name], **REGION_STYLES[name])
        line = part[part["layer"].str.startswith(joined)]
        axis.plot(line["at"], line[value], lw=1, color=REGION_STYLES[name]["color"])
        if "paper" in table:
            axis.plot(part["at"], part["paper"], "--", alpha=0.6, mfc="none", **REGION_STYLES[name])
    if "paper" in table:
        axis.plot([], [], "--", color="black", alpha=0.6, label="the paper's figure")
    ticks = [name.replace("own ", "own\n") for name in names]
    axis.set(xticks=range(len(names)), xticklabels=ticks, ylim=(-0.03, 1.03), ylabel=label)
    right_legend(axis)


def heatmaps(
    drawn: Figure, table: pd.DataFrame, rows: Sequence[str], columns: str, values: Mapping[str, str]
) -> None:
    """Numbers from 0 to 100 on a grid, side by side for each value: column -> title.

    The columns rows name the rows together, and say which are of fewer trainings.
    """
    table = table.assign(row=table[rows].agg(", ".join, axis=1) + _of_fewer(table))
    names, across = table["row"].unique(), table[columns].unique()
    drawn.set_size_inches(1.6 + 0.32 * len(across) * len(values), 1.1 + 0.22 * len(names))
    axes = drawn.subplots(1, len(values), sharey=True, squeeze=False)[0]
    for axis, (value, title) in zip(axes, values.items(), strict=True):
        grid = table.pivot(index="row", columns=columns, values=value).loc[names, across]
        look = {"vmin": 0, "vmax": 100, "cmap": "viridis", "cbar": False}
        sns.heatmap(grid, annot=True, fmt=".0f", annot_kws={"size": 8}, ax=axis, **look)
        colours = axis.collections[0].get_facecolors()[grid.notna().to_numpy().ravel()]
        for text, colour in zip(axis.texts, colours, strict=True):
            text.set_color(ink(colour))
        axis.set(title=title, xlabel="", ylabel="")
        axis.tick_params(axis="x", rotation=90)


# ---- curves -------------------------------------------------------------------------------------
def band(axis: Axes, table: pd.DataFrame, value: str, k: int = 0, label: str | None = None) -> None:
    """A curve over the column ``x`` with its band, in the k-th colour."""
    table = table.sort_values("x")
    style = {"ls": LINES[k], "marker": MARKERS[k], "color": PALETTE[k], "label": label}
    axis.plot(table["x"], table[value], **style)
    low, high = table[f"{value}_low"], table[f"{value}_high"]
    axis.fill_between(table["x"], low, high, color=PALETTE[k], alpha=0.15)


def lines(
    drawn: Figure,
    table: pd.DataFrame,
    hue: str,
    axis: Mapping,
    size: Sequence[float] = (5.2, 3),
    panels: str = "",
    title: str = "",
    slanted: bool = False,
    sharey: bool = False,
    **style,
) -> None:
    """Lines for each value of the column ``hue``, side by side for each of the column ``panels``.

    axis is for matplotlib's ``Axes.set``, style for seaborn's ``lineplot``; size is a panel's;
    slanted: names along x, which need room; sharey: panels have one scale.
    """
    parts = dict(list(table.groupby(panels, sort=False))) if panels else {"": table}
    drawn.set_size_inches(size[0] * len(parts), size[1])
    axes = drawn.subplots(1, len(parts), squeeze=False, sharey=sharey)[0]
    colours, dashes = looks(table[hue].unique())
    for panel, (name, part) in zip(axes, parts.items(), strict=True):
        look = {"hue": hue, "palette": colours, "style": hue, "dashes": dashes}
        sns.lineplot(part, **look, estimator=None, ax=panel, **style)
        panel.legend(title=title)
        panel.set(title=name, **axis)
        if part[style["x"]].dtype.kind == "i":  # no half epochs
            panel.xaxis.get_major_locator().set_params(integer=True)
        if slanted:
            panel.set_xticks(panel.get_xticks(), panel.get_xticklabels(), rotation=25, ha="right")


# ---- pictures -----------------------------------------------------------------------------------
def gallery(
    drawn: Figure,
    pictures: Pictures,
    outline: str = "",
    bar: str = "normalised map",
    judged: bool = False,
) -> None:
    """Names as rows, panels as columns; maps in viridis over the whole range 0 to 1.

    Shifts are white where there is none, at 1/2. outline: a panel that is drawn as a white outline,
    black beside it, over the others. bar: label of the colour bar,
    if any. judged: add a legend of what label maps get right and wrong.
    """
    names = list(dict.fromkeys(name for name, _ in pictures))
    panels = list(dict.fromkeys(panel for _, panel in pictures if panel != outline))
    shapes = [pictures[name, panels[0]].shape for name in names]
    heights = [shape[0] / shape[1] for shape in shapes]
    width = min(1.35, 9.5 / len(panels))
    drawn.set_size_inches(width * len(panels) + 0.9, width * sum(heights) + 0.35)
    axes = drawn.subplots(len(names), len(panels), squeeze=False, height_ratios=heights)
    for row, name, row_height in zip(axes, names, width * np.array(heights), strict=True):
        for axis, panel in zip(row, panels, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            if (name, panel) not in pictures:
                axis.set_axis_off()
                continue
            picture = pictures[name, panel]
            colours = "gray" if "image" in (name, panel) else "viridis"
            colours = "RdBu_r" if panel.startswith("shift") else colours
            shown = axis.imshow(picture, cmap=colours, vmin=0, vmax=1, aspect="auto")
            if picture.ndim == 2 and (name, outline) in pictures:
                line = axis.contour(pictures[name, outline], [0.5], colors="white", linewidths=0.8)
                line.set_path_effects([withStroke(linewidth=2.2, foreground="black")])
        # users name files and classes: at any length, and with $ that is no mathematics
        lines = [fill(part, max(6, int(11 * row_height))) for part in name.split(", ")]
        row[0].set_ylabel("\n".join(lines), parse_math=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        axis.set_title(panel.replace(", ", ",\n"))
    if bar:
        drawn.colorbar(
            shown, ax=axes, label=bar, shrink=0.8, pad=0.01, aspect=max(25, 5 * len(names))
        )
    if judged:
        colour_legend(drawn, {name: np.array(colour) / 255 for name, colour in KINDS})
