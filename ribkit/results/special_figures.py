"""The figures that need code of their own, each drawn from its table."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ribkit.data.digits import SHARE
from ribkit.results import plots
from ribkit.results.claims import VERDICTS
from ribkit.results.plots import LINES, MARKERS, REGION_STYLES, points, right_legend, zero_line
from ribkit.results.reported import is_confirmed
from ribkit.results.style import KINDS, PALETTE, Pictures, ink
from ribkit.results.tables_toy import PAPER_DROPS

GAIN = "gain over CAM (points),\nsimultaneous 95 % band"
NAVY, PALE = (0, 0.2, 0.36), (0.7, 0.86, 0.96)
YELLOW, OCHRE, RED = (1, 0.96, 0.6), (0.78, 0.47, 0), (0.6, 0.12, 0)
# holds: the darker the larger; no two are equally dark
COLOURS = (NAVY, PALETTE[0], PALETTE[9], PALE, YELLOW, OCHRE, RED, (1, 1, 1))
VERDICT_COLOURS = dict(zip(VERDICTS, COLOURS, strict=True))
REGION_NAMES = {
    "irrelevant": "irrelevant (rest)",
    "discriminative": "discriminative (digit)",
    "non-discriminative": "non-discriminative (shape)",
}
NOTHING = {"mfc": "white", "alpha": 0.6}  # of a shape that says nothing of the digit


# ---- the toy experiment: the paper's Figure 1 ----------------------------------------------------
def toy_examples(drawn: Figure, pictures: Pictures) -> None:
    """Figure 1a: a 2 and an 8 without and with their shape, and their regions."""
    colours = {name: REGION_STYLES[region]["color"] for region, name in REGION_NAMES.items()}
    shown = {}
    for name in dict.fromkeys(name for name, _ in pictures):
        regions = np.rint(2 * pictures[name, "region"]).astype(int)
        shown["image", name] = pictures[name, "image"]
        shown["regions", name] = np.array(list(colours.values()))[regions]
    plots.gallery(drawn, shown, bar="")
    plots.colour_legend(drawn, colours)
    drawn.set_size_inches(6.3, 3.8)


def toy_hgr(drawn: Figure, table: pd.DataFrame) -> None:
    """Figure 1c: HGR by layer and region, measured (95 % intervals over seeds) and in the paper."""
    table = table.rename(columns={"low": "mean_low", "high": "mean_high"})
    table = table.assign(layer="G" + table["layer"].astype(str))
    label = "HGR (share of pixels with a high gradient),\n95 % interval over seeds, cut at 0 and 1"
    plots.layer_points(drawn, table, "mean", "region", label, REGION_NAMES, joined="G")
    drawn.axes[0].set(xlabel="gradient map of layer")


def toy_last_drop(drawn: Figure, table: pd.DataFrame) -> None:
    """HGR lost from G5 to G6, by network and by how G6 is read; a row without a mean is a gap."""
    suffix = table["condition"].map(lambda name: "" if name == "trained" else f", {name}")
    table = table.rename(columns={"mean": "drop", "low": "drop_low", "high": "drop_high"})
    table = table.assign(network=table["activation"] + suffix)
    table = table[table["region"] != "irrelevant"]
    axes = drawn.subplots(1, 4, sharex=True, sharey=True)
    readings = [(output, when) for output in ("sum", "target") for when in ("after", "before")]
    for axis, (output, when) in zip(axes, readings, strict=True):
        part = table[(table["output"] == output) & (table["reading"] == when)]
        plots.point_rows(axis, part, "drop", "network", "region", REGION_NAMES)
        axis.axvline(0, color="black", lw=1)
        for name in part.loc[part["drop"].isna(), "network"].unique():
            at = list(part["network"].unique()).index(name)
            look = {"fontsize": 7, "va": "center", "bbox": {"fc": "white", "ec": "none", "pad": 1}}
            axis.text(0.02, at, "constant sum, no gradient", **look)
        what = "sum of outputs" if output == "sum" else "own class"
        axis.set_title(f"{what},\n{when} the last activation")
    drawn.supxlabel("HGR of G5 - HGR of G6, with 95 % interval over seeds", fontsize=9)
    handles = axes[0].get_legend_handles_labels()[0]
    drawn.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)


def toy_doses(drawn: Figure, table: pd.DataFrame) -> None:
    """What a network knows of the shape, and what it and the digit lose, by the share with one."""
    table = table.rename(columns={"mean": "y", "low": "y_low", "high": "y_high"})
    table[["y_low", "y_high"]] = table[["y_low", "y_high"]].clip(-1, 1)
    left, right = drawn.subplots(1, 2)
    doses = sorted(table["dose"].unique())
    shape, digit = (REGION_STYLES[f"{kind}discriminative"] for kind in ("non-", ""))
    looks = {  # quantity, condition -> where, how far beside its dose, as what
        ("shape_only", "trained"): (left, -0.1, "shape of its digit", shape),
        ("shape_only", "random shapes"): (left, 0.1, "shape that says nothing", shape | NOTHING),
        ("drop shape", "trained"): (right, -0.2, "shape of its digit", shape),
        ("drop shape", "random shapes"): (right, 0, "shape that says nothing", shape | NOTHING),
        ("drop digit", "trained"): (right, 0.2, "digit", digit),
    }
    for (quantity, condition), (axis, beside, label, look) in looks.items():
        part = table[(table["quantity"] == quantity) & (table["condition"] == condition)]
        at = part["dose"].map(doses.index) + beside
        plots.points(axis, part.assign(x=at), "x", "y", label=label, **look)
    left.axhline(0.5, color="black", lw=1, label="chance")
    paper = np.array([-0.4, 0.4]) + doses.index(SHARE)
    for kind, region in (("shape", "non-discriminative"), ("digit", "discriminative")):
        look = {"color": REGION_STYLES[region]["color"], "ls": "--", "lw": 1}
        right.plot(paper, [PAPER_DROPS[region]] * 2, label=f"{kind}, the paper at 10 %", **look)
    right.axhline(0, color="black", lw=1)
    left.set(ylabel="right from the shape alone (share)", ylim=(0, 1.02))
    right.set(ylabel="HGR of G5 - HGR of G6")
    for axis in (left, right):
        axis.set(xticks=range(len(doses)), xticklabels=[f"{100 * dose:g} %" for dose in doses])
    left.legend()
    right_legend(right)
    drawn.supxlabel("training images with a shape; 95 % intervals over seeds, cut at 1", fontsize=9)


def toy_masking(drawn: Figure, table: pd.DataFrame) -> None:
    """Accuracy that blanking pixels of high, random and low gradient costs, by layer and share."""
    table = table.rename(columns={"mean": "fall", "low": "fall_low", "high": "fall_high"})
    table = table.assign(share=table["share"].map("{:.0%}".format).str.replace("%", " %"))
    axes = drawn.subplots(1, table["layer"].nunique(), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (layer, part) in zip(axes, table.groupby("layer", sort=False), strict=True):
        plots.point_rows(axis, part, "fall", "share", "blanked")
        axis.set_title(f"gradient of {layer}")
    axes[0].set_ylabel("pixels blanked")
    right_legend(axes[-1])
    drawn.supxlabel("points of accuracy lost, with 95 % interval over seeds", fontsize=9)


# ---- tuning and controls ------------------------------------------------------------------------
GAINS = (-30, -10, -3, -1, 0, 1, 3, 10)  # ticks, in points


def tuning(drawn: Figure, table: pd.DataFrame, size: Sequence[float]) -> None:
    """Gain over CAM on the tuning images against the rate, by method; a line for each training.

    Ringed: the rate that each training chose. Beyond a point up or down the axis is logarithmic.
    size: of a panel, in inches.
    """
    rates = table[table["stage"] == "lr"]
    ends = min(-1, rates["gain"].min()), max(1, rates["gain"].max())
    ticks = [tick for tick in GAINS if ends[0] <= tick <= ends[1]]
    methods = dict(list(rates.groupby("method", sort=False)))
    columns = min(2, len(methods))
    rows = -(-len(methods) // columns)
    drawn.set_size_inches(size[0] * columns, size[1] * rows)
    axes = drawn.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis, (method, part) in zip(axes.ravel(), methods.items(), strict=False):
        for k, (training, line) in enumerate(part.groupby("training")):
            look = {"color": PALETTE[k % len(PALETTE)], "ls": LINES[k % len(LINES)], "lw": 1}
            axis.plot(line["lr"], line["gain"], marker=".", label=training, **look)
            chosen = line[line["chosen"]]
            axis.plot(chosen["lr"], chosen["gain"], "o", color=look["color"], mfc="none", ms=9)
        zero_line(axis, "y")
        axis.set(title=method)
        axis.set_yscale("symlog", linthresh=1, linscale=0.7)  # broken rates lose tens of points
        axis.set_yticks(ticks, labels=[f"{tick:+}" if tick else "0" for tick in ticks])
        axis.minorticks_off()
        _rate_ticks(axis, sorted(rates["lr"].unique()), rotation=45)
    drawn.supxlabel("learning rate of the adaptation (ringed: chosen)", fontsize=9)
    drawn.supylabel("gain over CAM, tuning images\n(points; beyond 1 logarithmic)", fontsize=9)
    every = (axis.get_legend_handles_labels()[0] for axis in axes.ravel())
    handles = max(every, key=len)  # some methods have fewer trainings
    drawn.legend(handles=handles, loc="outside right center", title="training\nseed")


def _rate_ticks(axis: Axes, rates: Sequence[float], **look) -> None:
    """A logarithmic axis of rates, with ticks at those that were tried."""
    axis.set(xscale="log")
    names = [np.format_float_scientific(rate, 1, trim="-", exp_digits=1) for rate in rates]
    axis.set_xticks(rates, labels=names, **look)
    axis.minorticks_off()


def doses(drawn: Figure, table: pd.DataFrame) -> None:
    """RIB's gain by how much bodies tell of their class; and what CAM and RIB cover of bodies."""
    left, right = drawn.subplots(1, 2, sharex=True)
    points(left, table, "usual texture", "gain", color=PALETTE[0], marker="o", ls="-")
    zero_line(left, "y")
    left.set(ylabel="RIB's gain over CAM\n(points of seed mIoU), 95 % interval")
    for k, name in enumerate(("CAM", "RIB")):
        look = {"color": PALETTE[k], "marker": MARKERS[k], "ls": LINES[k], "label": name}
        right.plot(table["usual texture"], table[f"{name} covers"], **look)
    right.set(ylabel="bodies covered (%)", ylim=(0, 100))
    right.legend()
    label = "bodies with their class's usual texture (share; the rest have any)"
    drawn.supxlabel("photographs have no doses" if table.empty else label, fontsize=9)


# ---- shares -------------------------------------------------------------------------------------
def refinement_errors(drawn: Figure, table: pd.DataFrame) -> None:
    """What is wrong with the labels after each stage, in % of all pixels, by method."""
    methods = table.set_index("stage").groupby("method", sort=False)
    drawn.set_size_inches(3.6 * len(methods), 0.32 * table["stage"].nunique() + 1)
    axes = drawn.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (method, shares) in zip(axes, methods, strict=True):
        _stacked(axis, shares.drop(columns="method"), np.array([c for _, c in KINDS[2:]]) / 255)
        axis.set(title=method, xlabel="of all pixels (%)")
    right_legend(axes[-1])


def claims(drawn: Figure, table: pd.DataFrame) -> None:
    """How many claims of each question have which verdict, the best on the left."""
    counts = pd.crosstab(table["question"], table["verdict"])
    counts = counts[sorted(counts, key=VERDICTS.index)]
    axis = drawn.subplots()
    _stacked(axis, counts, [VERDICT_COLOURS[verdict] for verdict in counts])
    for verdict, bars in zip(counts, axis.containers, strict=True):
        said = [f"{count}" if count else "" for count in counts[verdict]]
        axis.bar_label(bars, said, label_type="center", color=ink(VERDICT_COLOURS[verdict]))
        if verdict == "not measured":
            for bar in bars:
                bar.set(hatch="////", hatchcolor="0.7")
    axis.set(xlabel="claims", xticks=range(int(counts.sum(axis=1).max()) + 1))
    right_legend(axis)


def forest(drawn: Figure, table: pd.DataFrame) -> None:
    """Claims' differences with their intervals, by evidence; a diamond where the paper's lies,
    grey where that is not confirmed.

    A panel for each unit, and one for RQ4, whose differences are large. One claim is in no panel:
    what blanking pixels costs a toy network, in points of accuracy, which no other is in.
    """
    panels = table["unit"].str.split().str[-1].mask(table["question"] == "RQ4", "RQ4")
    parts = dict(list(table.groupby(panels)))
    sides = [[name for name in side if name in parts] for side in FOREST]
    rows = [[parts[name]["short"].nunique() for name in side] for side in sides]
    drawn.set_size_inches(10, max(0.15 * sum(n) + 0.4 * len(n) for n in rows) + 0.3)
    columns, shown = drawn.add_gridspec(1, 2, width_ratios=(4, 5)), {}
    for grid, side, heights in zip(columns, sides, rows, strict=True):
        cells = grid.subgridspec(len(side), 1, height_ratios=heights)
        for cell, name in zip(cells, side, strict=True):
            axis = drawn.add_subplot(cell)
            _forest_rows(axis, parts[name])
            if name == "HGR":
                axis.axvline(0, color="black", lw=1)
            else:
                zero_line(axis, "x")
            axis.set_title(FOREST[0].get(name) or FOREST[1][name], loc="left", fontsize=8)
            shown |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    kinds = [kind for kind in (*REPORTED, *EVIDENCE) if kind in shown]
    handles = [shown[kind] for kind in kinds]
    look = {"loc": "outside upper center", "ncols": len(kinds), "frameon": False}
    drawn.legend(handles, kinds, **look)


def digits_claims(drawn: Figure, table: pd.DataFrame) -> None:
    """What digits say of the claims that they decide, as in `forest`."""
    measured = table.dropna(subset="difference").assign(evidence="digits")
    parts = dict(list(measured.groupby("unit", sort=False)))
    axes = np.ravel(drawn.subplots(len(parts), height_ratios=[*map(len, parts.values())]))
    for axis, (unit, part) in zip(axes, parts.items(), strict=True):
        _forest_rows(axis, part)
        axis.axvline(0, color="black", lw=1)
        axis.set_xlabel(f"{FOREST[1].get(unit, unit)}, 95 % interval")
    right_legend(axes[0])


FOREST = (  # the two columns of panels: last word of the unit, or question -> title
    {
        "covered": "coverage: points of bodies or far halves",
        "AUC": "the same told from off the object: points of AUC",
        "mIoU": "seeds: points of mIoU",
    },
    {
        "RQ4": "labels and networks: points of mIoU",
        "HGR": "high gradient ratio (HGR)",
    },
)
REPORTED = {"reported": "black", "reported, not confirmed": "0.6"}
EVIDENCE = {"photographs": (0, -0.16), "drawn scenes": (1, 0.16), "digits": (2, 0)}  # look, place


def _forest_rows(axis: Axes, table: pd.DataFrame) -> None:
    """One panel of the forest: a row for each claim, the first on top."""
    table = table.rename(columns={"low": "difference_low", "high": "difference_high"})
    names = list(table["short"].unique())
    table = table.assign(at=table["short"].map(names.index))
    for kind, part in table.groupby("evidence", sort=False):
        k, beside = EVIDENCE[kind]
        look = {"color": PALETTE[k], "marker": MARKERS[k], "label": kind}
        points(axis, part.assign(at=part["at"] + beside), "difference", "at", **look)
    reported = table.dropna(subset="reported_low").drop_duplicates("short")
    sure = reported["reported"].map(is_confirmed).astype(bool)
    for part, (label, colour) in zip(
        (reported[sure], reported[~sure]), REPORTED.items(), strict=True
    ):
        if len(part):
            middle = (part["reported_low"] + part["reported_high"]) / 2
            look = {"color": colour, "mfc": "none", "label": label}
            axis.plot(middle, part["at"], "D", ms=5, **look)
    axis.tick_params(labelsize=8)
    axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))


def _stacked(axis: Axes, table: pd.DataFrame, colours: Sequence) -> None:
    """Stacked bars: a bar for each index, a part of it for each column."""
    look = {"color": colours, "edgecolor": "w", "width": 0.75, "legend": False}
    table.plot.barh(ax=axis, stacked=True, ylabel="", **look)
    axis.set(ylim=(len(table) - 0.5, -0.5))


# ---- ablations ----------------------------------------------------------------------------------
def poolings(drawn: Figure, table: pd.DataFrame) -> None:
    """RQ2: gain over CAM against tau, with paired bands; GAP and the maximum beside it."""
    left, right = drawn.subplots(1, 2, width_ratios=(3, 2))
    curves = table[table["factor"].str.startswith("GNDRP")]
    for k, (name, rows) in enumerate(curves.groupby("factor", sort=False)):
        plots.band(left, rows, "gain", k, name)
    zero_line(left, "y")
    left.set(xlabel="tau", ylabel=GAIN, xlim=(0, 1))
    left.legend()
    others = table[table["factor"] == "pooling"]
    plots.point_rows(right, others, "gain", "value", color=PALETTE[2], marker="D")
    right.set(xlabel="gain over CAM (points),\nsimultaneous 95 % interval")


def sensitivity(drawn: Figure, table: pd.DataFrame) -> None:
    """RQ3: gain over CAM against K, rate, margin and B, with paired bands; circled: where the
    others start from.
    """
    factors = table[table["factor"] != "baseline"].groupby("factor", sort=False)
    axes = drawn.subplots(2, -(-len(factors) // 2), sharey=True, squeeze=False)
    for axis, (name, rows) in zip(axes.ravel(), factors, strict=False):
        none = (rows["x"] == 0) & (name == "margin")  # which is a margin without end
        rows = rows.assign(x=rows["x"].where(~none, 1.25 * rows["x"].max()))
        alone = none | ((~none).sum() == 1)  # one point has no band
        plots.band(axis, rows[~alone], "gain")
        points(axis, rows[alone], "x", "gain", color=PALETTE[0], marker=MARKERS[0])
        chosen = rows[rows["chosen"]]
        axis.plot(chosen["x"], chosen["gain"], "o", color=PALETTE[1], mfc="none", ms=11)
        zero_line(axis, "y")
        axis.set(xlabel=name + ", times CAM's mean logit" * (name == "margin"))
        if none.any():
            axis.set_xticks(rows["x"], labels=rows["x"].map("{:g}".format).mask(none, "none"))
        if name == "learning rate":
            _rate_ticks(axis, rows["x"])
    for axis in axes[:, 0]:
        axis.set(ylabel=GAIN)


def interaction(drawn: Figure, table: pd.DataFrame) -> None:
    """RQ4: what a stage adds to CAM's and to RIB's seed; and to RIB's beyond CAM's."""
    drawn.set_size_inches(7.2, 0.36 * len(table) + 0.9)
    left, right = drawn.subplots(1, 2, sharey=True)
    added = table.melt("stage", ["on CAM", "on RIB"], "seed", "added")
    plots.point_rows(left, added, "added", "stage", "seed")
    left.legend()
    left.set(xlabel="gain over the seed (points)")
    plots.point_rows(right, table, "beyond", "stage", color=PALETTE[2], marker="D")
    right.set(xlabel="on RIB beyond CAM (points),\nsimultaneous 95 % interval")


def best_of(drawn: Figure, table: pd.DataFrame) -> None:
    """Protocol: how much too good the best of n settings looks on the images it was picked on."""
    axis, tried = drawn.subplots(), table["tried"]
    look = {"fmt": "o-", "color": PALETTE[0], "capsize": 2, "markersize": 4}
    axis.errorbar(tried, table["bias"], yerr=2 * table["error"], **look)
    zero_line(axis, "y")
    label = "too good by (points of mIoU),\n± 2 standard errors"
    axis.set(xscale="log", xlabel="settings tried (n)", ylabel=label)
    axis.set_xticks(tried, labels=map(str, tried))
    axis.minorticks_off()
