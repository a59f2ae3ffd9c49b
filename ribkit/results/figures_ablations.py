"""Pictures of the ablations: curves with bands, points with intervals, what gets gradient."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ribkit.results.figures_toy import REGION_COLOURS, REGION_MARKERS
from ribkit.results.style import PALETTE, figure, gallery

LINES = ("-", "--", "-.", ":")
MARKERS = "os^DvP"
PART_REGIONS = {
    "discriminative": "head (discriminative)",
    "non-discriminative": "body (non-discriminative)",
    "irrelevant": "outside",
}


def _points(axis, table: pd.DataFrame, y, key: str, **style) -> None:
    spread = np.abs([table[key] - table[f"{key}_low"], table[f"{key}_high"] - table[key]])
    axis.errorbar(
        table[key], y, xerr=spread, ls="none", capsize=2, markersize=5, linewidth=1, **style
    )


def _rows(axis, names) -> None:
    axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))


@figure
def activations(table: pd.DataFrame) -> Figure:
    """RQ1: gain over CAM by the activation put back, at one rate and at the matched one."""
    names = list(dict.fromkeys(table["value"]))
    drawn = Figure((7.4, 0.36 * len(names) + 1.2), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for k, (factor, own) in enumerate(table.groupby("factor", sort=False)):
        y = np.array([names.index(name) for name in own["value"]]) + 0.26 * (k - 0.5)
        label = "same rate" if factor == "activation" else "rate matched"
        _points(left, own, y, "gain", color=PALETTE[k], marker=MARKERS[k], label=label)
        if "cover body" in own:
            right.plot(own["cover body"], y, MARKERS[k], color=PALETTE[k], markersize=5)
    left.axvline(0, color="black", lw=1)
    left.set(xlabel="gain over CAM (points of mIoU)")
    right.set(xlabel="bodies covered (%)")
    _rows(left, names)
    handles, labels = left.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return drawn


GAIN = "gain over CAM (points),\nsimultaneous 95 % band"


def _curve(axis, own: pd.DataFrame, k: int, label: str | None = None) -> None:
    axis.plot(own["x"], own["gain"], ls=LINES[k], marker=MARKERS[k], color=PALETTE[k], label=label)
    axis.fill_between(own["x"], own["gain_low"], own["gain_high"], color=PALETTE[k], alpha=0.15)


@figure
def poolings(table: pd.DataFrame) -> Figure:
    """RQ2: gain over CAM against tau, with paired bands; GAP and the maximum beside it."""
    curves = [name for name in dict.fromkeys(table["factor"]) if name.startswith("GNDRP")]
    drawn = Figure((7.2, 3.0), layout="constrained")
    left, right = drawn.subplots(1, 2, width_ratios=(3, 2))
    for k, name in enumerate(curves):
        _curve(left, table[table["factor"] == name].sort_values("x"), k, name)
    left.axhline(0, color="black", lw=1)
    left.set(xlabel="tau", ylabel=GAIN, xlim=(0, 1))
    left.legend(fontsize=7)
    others = table[table["factor"] == "pooling"]
    _points(right, others, range(len(others)), "gain", color=PALETTE[2], marker="D")
    _rows(right, list(others["value"]))
    right.axvline(0, color="black", lw=1)
    right.set(xlabel="gain over CAM (points)")
    return drawn


@figure
def sensitivity(table: pd.DataFrame) -> Figure:
    """RQ3: gain over CAM against K, rate, margin and B, with paired bands; circled: as chosen."""
    factors = [name for name in dict.fromkeys(table["factor"]) if name != "baseline"]
    drawn = Figure((7.2, 4.6), layout="constrained")
    axes = drawn.subplots(2, -(-len(factors) // 2), sharey=True, squeeze=False).ravel()
    for axis, name in zip(axes, factors, strict=False):
        own = table[table["factor"] == name].sort_values("x")
        _curve(axis, own, 0)
        here = own[own["chosen"]]
        axis.plot(here["x"], here["gain"], "o", color=PALETTE[1], mfc="none", ms=11)
        axis.axhline(0, color="black", lw=1)
        words = {"margin": "margin, times CAM's mean logit (0: none)"}
        axis.set(xlabel=words.get(name, name))
        if name == "learning rate":
            axis.set(xscale="log")
    for axis in axes[:: max(1, len(factors) // 2)]:
        axis.set(ylabel=GAIN)
    return drawn


@figure
def adaptations(table: pd.DataFrame) -> Figure:
    """RQ3: no adaptation, one for the whole set, one for each image; last map or their sum."""
    drawn = Figure((5.6, 0.4 * len(table) + 0.7), layout="constrained")
    axis = drawn.subplots()
    _points(axis, table, range(len(table)), "gain", color=PALETTE[0], marker="o")
    _rows(axis, list(table["value"]))
    axis.axvline(0, color="black", lw=1)
    axis.set(xlabel="gain over CAM (points), simultaneous 95 % interval")
    return drawn


@figure
def gradient_pixels(table: pd.DataFrame) -> Figure:
    """RQ2: the positions of a map (yellow) that get gradient at the first step, by pooling."""
    return gallery(table, bar=False)


@figure
def layers(table: pd.DataFrame) -> Figure:
    """RQ1: HGR of the real classifier, layer by layer, with 95 % bands over images."""
    names = list(dict.fromkeys(table["layer"]))
    drawn = Figure((7.2, 3.2), layout="constrained")
    axis = drawn.subplots()
    for region, own in table.groupby("region", sort=False):
        x = [names.index(name) for name in own["layer"]]
        colour = REGION_COLOURS[region]
        spread = np.abs([own["hgr"] - own["hgr_low"], own["hgr_high"] - own["hgr"]])
        axis.errorbar(
            x, own["hgr"], yerr=spread, marker=REGION_MARKERS[region], color=colour, capsize=2,
            ls="none", label=PART_REGIONS[region],
        )  # fmt: skip
        levels = [k for k, name in enumerate(names) if name.startswith("level")]
        axis.plot(levels, own["hgr"].to_numpy()[: len(levels)], color=colour, lw=1)
    words = [name.replace("own ", "own\n") for name in names]
    axis.set(xticks=range(len(names)), xticklabels=words, ylim=(0, 1))
    axis.set(ylabel="high gradient ratio (HGR)")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return drawn


@figure
def bits(table: pd.DataFrame) -> Figure:
    """RQ1: bits about the region in each layer, and in the maps of the image's own classes."""
    names = list(dict.fromkeys(table["layer"]))
    drawn = Figure((7.2, 3.2), layout="constrained")
    axis = drawn.subplots()
    for region, own in table.groupby("part", sort=False):
        x = [names.index(name) for name in own["layer"]]
        spread = np.abs([own["bits"] - own["bits_low"], own["bits_high"] - own["bits"]])
        axis.errorbar(
            x, own["bits"], yerr=spread, marker=REGION_MARKERS[region], capsize=2, lw=1,
            color=REGION_COLOURS[region], label=f"{PART_REGIONS[region]}\nor background?",
            ls="-" if region == "discriminative" else "--",
        )  # fmt: skip
    axis.set(xticks=range(len(names)), xticklabels=names, ylim=(0, 1))
    axis.set(ylabel="mutual information (bits)")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return drawn


@figure
def ledger(table: pd.DataFrame) -> Figure:
    """What each difference of the official code is worth, with intervals corrected for all rows."""
    names = [f"{d}: {v}" for d, v in zip(table["difference"], table["value"], strict=True)]
    drawn = Figure((7.2, 0.3 * len(table) + 0.8), layout="constrained")
    axis = drawn.subplots()
    _points(axis, table, range(len(table)), "gain", color=PALETTE[0], marker="o")
    _rows(axis, names)
    axis.axvline(0, color="black", lw=1)
    axis.set(xlabel="paper's way to the named one (points of mIoU), simultaneous 95 % interval")
    return drawn


@figure
def interaction(table: pd.DataFrame) -> Figure:
    """RQ4: what a stage adds to CAM's and to RIB's seed; and to RIB's beyond CAM's."""
    drawn = Figure((7.2, 0.36 * len(table) + 0.9), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    for k, name in enumerate(("on CAM", "on RIB")):
        left.plot(table[name], range(len(table)), MARKERS[k], color=PALETTE[k], label=name)
    left.legend(fontsize=7)
    left.set(xlabel="gain over the seed (points)")
    _rows(left, list(table["stage"]))
    _points(right, table, range(len(table)), "beyond", color=PALETTE[2], marker="D")
    right.axvline(0, color="black", lw=1)
    right.set(xlabel="on RIB beyond CAM (points),\nsimultaneous 95 % interval")
    return drawn


@figure
def best_of(table: pd.DataFrame) -> Figure:
    """Protocol: how much too good the best of n settings looks on the images it was picked on."""
    drawn = Figure((4.6, 2.7), layout="constrained")
    axis = drawn.subplots()
    axis.errorbar(
        table["tried"], table["bias"], yerr=2 * table["error"], fmt="o-", color=PALETTE[0],
        capsize=2, markersize=4,
    )  # fmt: skip
    axis.axhline(0, color="black", lw=1)
    axis.set(xscale="log", xlabel="settings tried (n)", ylabel="too good by (points of mIoU)")
    axis.set_xticks(table["tried"], labels=[str(n) for n in table["tried"]])
    axis.minorticks_off()
    return drawn


@figure
def replicas(table: pd.DataFrame) -> Figure:
    """Seed mIoU of CAM and RIB by training seed; a line joins the trainings of one seed."""
    names = list(dict.fromkeys(table["method"]))
    drawn = Figure((6.4, 2.8), layout="constrained")
    axis = drawn.subplots()
    for k, (seed, own) in enumerate(table.groupby("seed")):
        x = [names.index(name) for name in own["method"]]
        axis.plot(
            x, own["miou"], ls=LINES[k % 4], marker=MARKERS[k % 6], color=PALETTE[k % 10],
            label=f"training seed {seed}",
        )  # fmt: skip
    axis.set(xticks=range(len(names)), xticklabels=names, ylabel="seed mIoU (%), held out")
    axis.margins(x=0.15)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(drawn)
    return drawn
