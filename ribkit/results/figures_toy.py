"""Figure 1, the toy experiment: digits and regions, gradient maps, HGR; and the last drops."""

import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ribkit.results.style import PALETTE, figure, pictures

REGION_COLOURS = {
    "discriminative": PALETTE[0],
    "non-discriminative": PALETTE[1],
    "irrelevant": PALETTE[7],
}
REGION_MARKERS = {"discriminative": "o", "non-discriminative": "s", "irrelevant": "^"}
REGION_WORDS = {
    "discriminative": "discriminative (digit)",
    "non-discriminative": "non-discriminative (shape)",
    "irrelevant": "irrelevant (rest)",
}


@figure
def toy_examples(table: pd.DataFrame) -> Figure:
    """Figure 1a: a 2 and an 8 without and with their shape, and their regions."""
    found = pictures(table)
    names = list(dict.fromkeys(name for name, _ in found))
    drawn = Figure((1.7 * len(names), 4.0), layout="constrained")
    axes = drawn.subplots(2, len(names))
    order = ("irrelevant", "discriminative", "non-discriminative")
    colours = ListedColormap([REGION_COLOURS[region] for region in order])
    for column, name in zip(axes.T, names, strict=True):
        column[0].imshow(found[name, "image"], cmap="gray", vmin=0, vmax=1)
        column[0].set_title(name)
        column[1].imshow(2 * found[name, "region"], cmap=colours, vmin=0, vmax=2)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    axes[0, 0].set_ylabel("image")
    axes[1, 0].set_ylabel("regions")
    handles = [Patch(color=REGION_COLOURS[r], label=REGION_WORDS[r]) for r in REGION_COLOURS]
    drawn.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return drawn


@figure
def toy_gradients(table: pd.DataFrame) -> Figure:
    """Figure 1b: gradient maps of each layer, scaled to [0, 1]."""
    found = pictures(table)
    names = list(dict.fromkeys(name for name, _ in found))
    panels = list(dict.fromkeys(panel for _, panel in found))
    drawn = Figure((1.25 * len(panels), 1.45 * len(names)), layout="constrained")
    axes = drawn.subplots(len(names), len(panels), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        axis.set_title(panel.replace(", ", ",\n"), fontsize=8)
    for line, name in zip(axes, names, strict=True):
        for axis, panel in zip(line, panels, strict=True):
            colours = "gray" if panel == "image" else "viridis"
            shown = axis.imshow(found[name, panel], cmap=colours, vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
    drawn.colorbar(shown, ax=axes, label="gradient / its maximum", shrink=0.9, pad=0.01)
    return drawn


@figure
def toy_hgr(s: pd.DataFrame) -> Figure:
    """Figure 1c. Columns layer, region, mean, low, high, paper (NaN where there is none)."""
    drawn = Figure((6.4, 3.8), layout="constrained")
    ax = drawn.subplots()
    for shift, (region, colour) in zip((-0.06, 0.0, 0.06), REGION_COLOURS.items(), strict=True):
        rows = s[s.region == region].sort_values("layer")
        error = [rows["mean"] - rows.low, rows.high - rows["mean"]]
        style = {"color": colour, "marker": REGION_MARKERS[region], "markersize": 5}
        ax.errorbar(
            rows.layer + shift, rows["mean"], error, capsize=3, label=REGION_WORDS[region], **style
        )
        ax.plot(
            rows.layer + shift, rows.paper, linestyle="--", alpha=0.6, fillstyle="none", **style
        )
    measured = Line2D([], [], color="black", label="measured, 95 % over seeds")
    paper = Line2D([], [], color="black", linestyle="--", alpha=0.6, label="the paper's figure")
    handles = [*ax.get_legend_handles_labels()[0], measured, paper]
    drawn.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
    layers = sorted(s.layer.unique())
    ax.set(xticks=layers, xticklabels=[f"G{k}" for k in layers], ylim=(-0.03, 1.12))
    ax.set(xlabel="gradient map of layer", ylabel="HGR (share of pixels with a high gradient)")
    sns.despine(drawn)
    return drawn


@figure
def toy_last_drop(s: pd.DataFrame) -> Figure:
    """HGR lost from G5 to G6. Columns activation, condition, output, reading, region, mean, low,
    high; a row without a mean leaves a gap."""
    readings = [("sum", "after"), ("sum", "before"), ("target", "after"), ("target", "before")]
    names = list((s.activation + s.condition.map(_suffix)).drop_duplicates())
    drawn = Figure((10.5, 3.6), layout="constrained")
    axes = drawn.subplots(1, len(readings), sharex=True, sharey=True)
    shown = ("discriminative", "non-discriminative")
    for ax, (output, reading) in zip(axes, readings, strict=True):
        part = s[(s.output == output) & (s.reading == reading)]
        for shift, region in zip((-0.13, 0.13), shown, strict=True):
            rows = part[part.region == region]
            y = [names.index(n) + shift for n in rows.activation + rows.condition.map(_suffix)]
            ax.errorbar(
                rows["mean"],
                y,
                xerr=[rows["mean"] - rows.low, rows.high - rows["mean"]],
                linestyle="none",
                color=REGION_COLOURS[region],
                marker=REGION_MARKERS[region],
                markersize=5,
                capsize=2,
                label=REGION_WORDS[region],
            )
        names_of_part = part.activation + part.condition.map(_suffix)
        for name in names_of_part[part["mean"].isna()].unique():
            ax.text(0.02, names.index(name), "constant sum, no gradient", fontsize=7, va="center")
        ax.axvline(0, color="0.8", linewidth=1, zorder=0)
        what = "sum of outputs" if output == "sum" else "own class"
        ax.set_title(f"{what},\n{reading} the last activation", fontsize=9)
    axes[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    drawn.supxlabel("HGR of G5 - HGR of G6, with 95 % interval over seeds", fontsize=9)
    handles = axes[0].get_legend_handles_labels()[0]
    drawn.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    sns.despine(drawn)
    return drawn


def _suffix(condition: str) -> str:
    return "" if condition == "trained" else f", {condition}"
