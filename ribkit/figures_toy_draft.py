"""Figure 1, the toy experiment: digits and regions, gradient maps, HGR; and the last drops."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

COLOURS = sns.color_palette("colorblind")
REGION_COLOURS = {
    "discriminative": COLOURS[0],
    "non-discriminative": COLOURS[1],
    "irrelevant": COLOURS[7],
}
REGION_MARKERS = {"discriminative": "o", "non-discriminative": "s", "irrelevant": "^"}
REGION_WORDS = {
    "discriminative": "discriminative (digit)",
    "non-discriminative": "non-discriminative (shape)",
    "irrelevant": "irrelevant (rest)",
}


def toy_examples(s: pd.DataFrame) -> Figure:
    """Figure 1a. Columns picture, part ("image", "region"), row, column, value."""
    pictures = list(s.picture.unique())
    figure, axes = plt.subplots(
        2, len(pictures), figsize=(1.7 * len(pictures), 4.0), layout="constrained"
    )
    regions = ("irrelevant", "discriminative", "non-discriminative")
    colours = ListedColormap([REGION_COLOURS[r] for r in regions])
    for column, picture in zip(axes.T, pictures, strict=True):
        of_picture = s[s.picture == picture]
        column[0].imshow(_grid(of_picture[of_picture.part == "image"]), cmap="gray")
        column[0].set_title(picture, fontsize=9)
        region = _grid(of_picture[of_picture.part == "region"])
        column[1].imshow(region, cmap=colours, vmin=0, vmax=2)
    for ax in axes.ravel():
        ax.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("image")
    axes[1, 0].set_ylabel("regions")
    handles = [Patch(color=REGION_COLOURS[r], label=REGION_WORDS[r]) for r in REGION_COLOURS]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def toy_gradients(s: pd.DataFrame) -> Figure:
    """Figure 1b. Columns picture, panel, row, column, value in [0, 1]."""
    pictures, panels = list(s.picture.unique()), list(s.panel.unique())
    figure, axes = plt.subplots(
        len(pictures),
        len(panels),
        figsize=(1.25 * len(panels), 1.45 * len(pictures)),
        layout="constrained",
        squeeze=False,
    )
    for line, picture in zip(axes, pictures, strict=True):
        for ax, panel in zip(line, panels, strict=True):
            values = _grid(s[(s.picture == picture) & (s.panel == panel)])
            gradient = ax.imshow(
                values, cmap="gray" if panel == "image" else "viridis", vmin=0, vmax=1
            )
            ax.set(xticks=[], yticks=[])
            if picture == pictures[0]:
                ax.set_title(panel.replace(", ", ",\n"), fontsize=8)
    figure.colorbar(gradient, ax=axes, label="gradient / its maximum", shrink=0.9, pad=0.01)
    return figure


def toy_hgr(s: pd.DataFrame) -> Figure:
    """Figure 1c. Columns layer, region, mean, low, high, paper (NaN where there is none)."""
    figure, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
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
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
    layers = sorted(s.layer.unique())
    ax.set(xticks=layers, xticklabels=[f"G{k}" for k in layers], ylim=(-0.03, 1.12))
    ax.set(xlabel="gradient map of layer", ylabel="HGR (share of pixels with a high gradient)")
    sns.despine(figure)
    return figure


def toy_last_drop(s: pd.DataFrame) -> Figure:
    """HGR lost from G5 to G6. Columns activation, condition, output, reading, region, mean, low,
    high; a row without a mean leaves a gap."""
    readings = [("sum", "after"), ("sum", "before"), ("target", "after"), ("target", "before")]
    names = list((s.activation + s.condition.map(_suffix)).drop_duplicates())
    figure, axes = plt.subplots(
        1, len(readings), figsize=(10.5, 3.6), sharex=True, sharey=True, layout="constrained"
    )
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
        ax.axvline(0, color="0.8", linewidth=1, zorder=0)
        what = "sum of outputs" if output == "sum" else "own class"
        ax.set_title(f"{what},\n{reading} the last activation", fontsize=9)
    axes[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    figure.supxlabel("HGR of G5 - HGR of G6, with 95 % interval over seeds", fontsize=9)
    handles = axes[0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    sns.despine(figure)
    return figure


def _suffix(condition: str) -> str:
    return "" if condition == "trained" else f", {condition}"


def _grid(pixels: pd.DataFrame):
    """``(H, W)`` array out of columns row, column, value."""
    return pixels.pivot(index="row", columns="column", values="value").to_numpy()
