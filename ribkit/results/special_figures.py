"""The figures that need code of their own, each a function of its table."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ribkit.results import plots
from ribkit.results.claims import VERDICTS
from ribkit.results.plots import LINES, MARKERS, REGION_STYLES, name_rows, right_legend, unique
from ribkit.results.style import KINDS, PALETTE, Pictures, figure

GAIN = "gain over CAM (points),\nsimultaneous 95 % band"
REGION_NAMES = {
    "discriminative": "discriminative (digit)",
    "non-discriminative": "non-discriminative (shape)",
    "irrelevant": "irrelevant (rest)",
}
ENDS = {"low": "mean_low", "high": "mean_high"}


# ---- the toy experiment: the paper's Figure 1 ----------------------------------------------------
@figure
def toy_examples(pictures: Pictures) -> Figure:
    """Figure 1a: a 2 and an 8 without and with their shape, and their regions."""
    names = unique(name for name, _ in pictures)
    drawn = Figure((1.7 * len(names), 4.0), layout="constrained")
    axes = drawn.subplots(2, len(names))
    order = ("irrelevant", "discriminative", "non-discriminative")
    colours = ListedColormap([REGION_STYLES[region]["color"] for region in order])
    for column, name in zip(axes.T, names, strict=True):
        column[0].imshow(pictures[name, "image"], cmap="gray", vmin=0, vmax=1)
        column[0].set_title(name)
        column[1].imshow(2 * pictures[name, "region"], cmap=colours, vmin=0, vmax=2)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    axes[0, 0].set_ylabel("image")
    axes[1, 0].set_ylabel("regions")
    handles = [Patch(color=REGION_STYLES[r]["color"], label=REGION_NAMES[r]) for r in REGION_NAMES]
    drawn.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return drawn


@figure
def toy_hgr(table: pd.DataFrame) -> Figure:
    """Figure 1c: HGR by layer and region, measured and in the paper."""
    drawn = Figure((6.4, 3.8), layout="constrained")
    axis = drawn.subplots()
    for shift, (region, look) in zip((-0.06, 0.0, 0.06), REGION_STYLES.items(), strict=True):
        rows = table[table["region"] == region].sort_values("layer").rename(columns=ENDS)
        at, named = rows["layer"] + shift, {"label": REGION_NAMES[region]} | look
        plots.points(axis, rows, "mean", at, upright=True, ls="-", lw=1.5, capsize=3, **named)
        axis.plot(at, rows["paper"], ls="--", alpha=0.6, fillstyle="none", ms=5, **look)
    measured = Line2D([], [], color="black", label="measured, 95 % over seeds")
    paper = Line2D([], [], color="black", linestyle="--", alpha=0.6, label="the paper's figure")
    handles = [*axis.get_legend_handles_labels()[0], measured, paper]
    drawn.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
    layers = sorted(table["layer"].unique())
    axis.set(xticks=layers, xticklabels=[f"G{k}" for k in layers], ylim=(-0.03, 1.12))
    axis.set(xlabel="gradient map of layer", ylabel="HGR (share of pixels with a high gradient)")
    sns.despine(drawn)
    return drawn


@figure
def toy_last_drop(table: pd.DataFrame) -> Figure:
    """HGR lost from G5 to G6, by network and by how G6 is read; a row without a mean is a gap."""
    suffix = table["condition"].map(lambda name: "" if name == "trained" else f", {name}")
    table = table.rename(columns=ENDS).assign(network=table["activation"] + suffix)
    names = unique(table["network"])
    drawn = Figure((10.5, 3.6), layout="constrained")
    axes = drawn.subplots(1, 4, sharex=True, sharey=True)
    readings = [(output, when) for output in ("sum", "target") for when in ("after", "before")]
    for axis, (output, when) in zip(axes, readings, strict=True):
        part = table[(table["output"] == output) & (table["reading"] == when)]
        for shift, region in ((-0.13, "discriminative"), (0.13, "non-discriminative")):
            rows = part[part["region"] == region]
            y = [names.index(name) + shift for name in rows["network"]]
            look = {"lw": 1.5, "label": REGION_NAMES[region]} | REGION_STYLES[region]
            plots.points(axis, rows, "mean", y, **look)
        for name in part.loc[part["mean"].isna(), "network"].unique():
            axis.text(0.02, names.index(name), "constant sum, no gradient", fontsize=7, va="center")
        axis.axvline(0, color="0.8", linewidth=1, zorder=0)
        what = "sum of outputs" if output == "sum" else "own class"
        axis.set_title(f"{what},\n{when} the last activation", fontsize=9)
    name_rows(axes[0], names)
    drawn.supxlabel("HGR of G5 - HGR of G6, with 95 % interval over seeds", fontsize=9)
    handles = axes[0].get_legend_handles_labels()[0]
    drawn.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    sns.despine(drawn)
    return drawn


# ---- training and tuning ------------------------------------------------------------------------
@figure
def training(table: pd.DataFrame) -> Figure:
    """Loss of each training, on its own images and on held-out ones, by epoch."""
    stages = unique(table["stage"])
    drawn = Figure((3.3 * len(stages), 2.6), layout="constrained")
    for axis, stage in zip(drawn.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        plots.lines(axis, table[table["stage"] == stage], "epoch", "loss", "images", markers=True)
        axis.set(title=stage, xlabel="epoch", ylabel="binary cross-entropy", ylim=(0, None))
    return drawn


@figure
def tuning(table: pd.DataFrame) -> Figure:
    """mIoU on the tuning images against the learning rate, by method; the dashed line is CAM."""
    drawn = Figure((5.2, 3), layout="constrained")
    axis = drawn.subplots()
    ribs = table[(table["method"] != "CAM") & (table["stage"] == "lr")]
    cam = table.loc[table["method"] == "CAM", "miou"].max()
    axis.axhline(cam, color="black", ls="--", label="CAM")
    plots.lines(axis, ribs, "lr", "miou", "method", first=1, markers=True, dashes=False)
    axis.set(xscale="log", xlabel="learning rate of the adaptation", ylabel="tuning mIoU (%)")
    return drawn


@figure
def replicas(table: pd.DataFrame) -> Figure:
    """Seed mIoU of CAM and RIB by training seed; a line joins the trainings of one seed."""
    names = unique(table["method"])
    drawn = Figure((6.4, 2.8), layout="constrained")
    axis = drawn.subplots()
    for k, (seed, rows) in enumerate(table.groupby("seed")):
        at = [names.index(name) for name in rows["method"]]
        look = {"ls": LINES[k % 4], "marker": MARKERS[k % 6], "color": PALETTE[k % 10]}
        axis.plot(at, rows["miou"], label=f"training seed {seed}", **look)
    axis.set(xticks=range(len(names)), xticklabels=names, ylabel="seed mIoU (%), held out")
    axis.margins(x=0.15)
    right_legend(axis)
    sns.despine(drawn)
    return drawn


# ---- shares -------------------------------------------------------------------------------------
@figure
def coverage(table: pd.DataFrame) -> Figure:
    """Share of heads, bodies and all else that a map covers, by method; 95 % intervals."""
    drawn = Figure((6.4, 2.9), layout="constrained")
    axis = drawn.subplots()
    long = table.melt(["method", "image"], var_name="part", value_name="share")
    long["share"] = 100 * pd.to_numeric(long["share"])
    names = {"object": "object", "head": "head\n(discriminative)"}
    names |= {"body": "body\n(non-discriminative)", "outside": "off the object"}
    long["part"] = long["part"].map(names)
    sns.barplot(
        long, x="part", y="share", hue="method", errorbar=("ci", 95), seed=0,
        palette=PALETTE[: table["method"].nunique()], err_kws={"linewidth": 1}, ax=axis,
    )  # fmt: skip
    axis.set(xlabel="", ylabel="covered by the class's map (%)", ylim=(0, 100))
    axis.legend(title=None, fontsize=7)
    return drawn


@figure
def refinement_errors(table: pd.DataFrame) -> Figure:
    """What is wrong with the labels after each stage, in % of all pixels, by method."""
    methods = unique(table["method"])
    size = (3.6 * len(methods), 0.32 * table["stage"].nunique() + 1)
    drawn = Figure(size, layout="constrained")
    axes = drawn.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)[0]
    for axis, method in zip(axes, methods, strict=True):
        shares = table[table["method"] == method].drop(columns="method").set_index("stage")
        plots.stacked(axis, shares, [np.array(colour) / 255 for _, colour in KINDS[2:]])
        axis.set(title=method, xlabel="of all pixels (%)")
    right_legend(axes[-1])
    return drawn


@figure
def claims(table: pd.DataFrame) -> Figure:
    """How many claims of each question hold, do not hold, are undecided or not measured."""
    counts = pd.crosstab(table["question"], table["verdict"])
    counts = counts.reindex(columns=VERDICTS, fill_value=0)
    drawn = Figure((5.2, 1.9), layout="constrained")
    axis = drawn.subplots()
    plots.stacked(axis, counts, (PALETTE[2], PALETTE[3], PALETTE[8], (0.8, 0.8, 0.8)))
    axis.set(xlabel="claims", xticks=range(int(counts.sum(axis=1).max()) + 1))
    right_legend(axis)
    return drawn


# ---- ablations ----------------------------------------------------------------------------------
@figure
def poolings(table: pd.DataFrame) -> Figure:
    """RQ2: gain over CAM against tau, with paired bands; GAP and the maximum beside it."""
    drawn = Figure((7.2, 3.0), layout="constrained")
    left, right = drawn.subplots(1, 2, width_ratios=(3, 2))
    curves = [name for name in unique(table["factor"]) if name.startswith("GNDRP")]
    for k, name in enumerate(curves):
        plots.curve(left, table[table["factor"] == name], "gain", k, name)
    left.axhline(0, color="black", lw=1)
    left.set(xlabel="tau", ylabel=GAIN, xlim=(0, 1))
    left.legend(fontsize=7)
    others, look = table[table["factor"] == "pooling"], {"color": PALETTE[2], "marker": "D"}
    plots.gains(right, others, "gain", others["value"], "gain over CAM (points)", **look)
    return drawn


@figure
def sensitivity(table: pd.DataFrame) -> Figure:
    """RQ3: gain over CAM against K, rate, margin and B, with paired bands; circled: as chosen."""
    factors = [name for name in unique(table["factor"]) if name != "baseline"]
    drawn = Figure((7.2, 4.6), layout="constrained")
    axes = drawn.subplots(2, -(-len(factors) // 2), sharey=True, squeeze=False)
    for axis, name in zip(axes.ravel(), factors, strict=False):
        rows = table[table["factor"] == name]
        plots.curve(axis, rows, "gain")
        chosen = rows[rows["chosen"]]
        axis.plot(chosen["x"], chosen["gain"], "o", color=PALETTE[1], mfc="none", ms=11)
        axis.axhline(0, color="black", lw=1)
        axis.set(xlabel=name + ", times CAM's mean logit (0: none)" * (name == "margin"))
        axis.set(xscale="log" if name == "learning rate" else "linear")
    for axis in axes[:, 0]:
        axis.set(ylabel=GAIN)
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
    label = "on RIB beyond CAM (points),\nsimultaneous 95 % interval"
    plots.gains(right, table, "beyond", table["stage"], label, color=PALETTE[2], marker="D")
    return drawn


@figure
def best_of(table: pd.DataFrame) -> Figure:
    """Protocol: how much too good the best of n settings looks on the images it was picked on."""
    drawn = Figure((4.6, 2.7), layout="constrained")
    axis, tried = drawn.subplots(), table["tried"]
    look = {"fmt": "o-", "color": PALETTE[0], "capsize": 2, "markersize": 4}
    axis.errorbar(tried, table["bias"], yerr=2 * table["error"], **look)
    axis.axhline(0, color="black", lw=1)
    axis.set(xscale="log", xlabel="settings tried (n)", ylabel="too good by (points of mIoU)")
    axis.set_xticks(tried, labels=map(str, tried))
    axis.minorticks_off()
    return drawn
