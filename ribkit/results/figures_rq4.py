"""Pictures of RQ4: stages from seeds to pseudo ground truth, and the segmentation network."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ribkit.results.style import KINDS, PALETTE, figure, gallery


@figure
def refinement(table: pd.DataFrame) -> Figure:
    """mIoU of CAM's and RIB's labels after each stage, with intervals."""
    drawn = Figure((6.2, 0.42 * table["stage"].nunique() + 0.9), layout="constrained")
    _points(drawn.subplots(), table, "stage", "method")
    return drawn


@figure
def network(table: pd.DataFrame) -> Figure:
    """mIoU of the networks on validation images by what they were trained on, with intervals."""
    drawn = Figure((6.2, 0.42 * table["trained on"].nunique() + 0.9), layout="constrained")
    _points(drawn.subplots(), table, "trained on", "CRF")
    return drawn


def _points(axis, table: pd.DataFrame, rows: str, hue: str) -> None:
    """A line of points with their 95 % intervals for each row, side by side by hue."""
    names, kinds = list(dict.fromkeys(table[rows])), list(dict.fromkeys(table[hue]))
    for k, kind in enumerate(kinds):
        own = table[table[hue] == kind]
        heights = np.array([names.index(n) for n in own[rows]]) + 0.28 * (k - (len(kinds) - 1) / 2)
        spread = [own["miou"] - own["low"], own["high"] - own["miou"]]
        axis.errorbar(
            own["miou"], heights, xerr=np.abs(spread), fmt="os"[k % 2], color=PALETTE[k],
            label=kind, capsize=2, markersize=4, linewidth=1,
        )  # fmt: skip
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel="mIoU (%), 95 % interval")
    axis.invert_yaxis()
    axis.legend(title=None, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


@figure
def refinement_errors(table: pd.DataFrame) -> Figure:
    """What is wrong with the labels after each stage, in % of all pixels, by method."""
    methods = list(dict.fromkeys(table["method"]))
    size = (3.6 * len(methods), 0.32 * table["stage"].nunique() + 1)
    drawn = Figure(size, layout="constrained")
    axes = drawn.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)[0]
    columns = [c for c in table.columns if c not in ("method", "stage")]
    for axis, method in zip(axes, methods, strict=True):
        own, start = table[table["method"] == method], 0.0
        for column, (_, colour) in zip(columns, KINDS[2:], strict=True):
            shade = np.array(colour) / 255
            axis.barh(own["stage"], own[column], left=start, color=shade, label=column, height=0.7)
            start = start + own[column].to_numpy()
        axis.set(title=method, xlabel="of all pixels (%)")
    axes[0].invert_yaxis()
    axes[-1].legend(title=None, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return drawn


def _judged(table: pd.DataFrame) -> Figure:
    drawn = gallery(table, bar=False)
    patches = [
        Patch(facecolor=np.array(colour) / 255, edgecolor="0.5", label=name)
        for name, colour in KINDS
    ]
    drawn.legend(handles=patches, loc="outside lower center", ncols=len(KINDS), fontsize=7)
    return drawn


@figure
def refined(table: pd.DataFrame) -> Figure:
    """Labels of some scored images after each stage: right, missed, spilled, confused."""
    return _judged(table)


@figure
def predictions(table: pd.DataFrame) -> Figure:
    """What the networks say of some validation images: right, missed, spilled, confused."""
    return _judged(table)


@figure
def worst(table: pd.DataFrame) -> Figure:
    """The same on the images on which the network trained on RIB's labels is at its worst."""
    return _judged(table)


@figure
def walks(table: pd.DataFrame) -> Figure:
    """IRN's boundaries and displacements (1/2: none), and maps before and during its walk."""
    return gallery(table)


@figure
def network_curves(table: pd.DataFrame) -> Figure:
    """Loss of the networks while they train, a line for each seed."""
    drawn = Figure((5.2, 3), layout="constrained")
    axis = drawn.subplots()
    sns.lineplot(
        table, x="iteration", y="loss", hue="trained on", style="trained on", units="seed",
        estimator=None, linewidth=1, palette=PALETTE[: table["trained on"].nunique()], ax=axis,
    )  # fmt: skip
    axis.set(xlabel="iteration", ylabel="balanced cross-entropy", ylim=(0, None))
    axis.legend(title="trained on", fontsize=7)
    return drawn
