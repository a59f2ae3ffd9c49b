"""Every picture of the study: a function from one small table to a matplotlib Figure, in one style.

``figures/<profile>/<name>.csv`` is all that ``<name>.png`` and ``<name>.pdf`` are drawn from:

    python -m ribkit.results.figures

redraws all of them. The style stands in `ribkit.results.style`; `figures_toy` has the toy
experiment's, `figures_rq4` RQ4's, `figures_ablations` the ablations'.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Image
from matplotlib.figure import Figure

from ribkit.results import figures_ablations, figures_rq4, figures_toy
from ribkit.results.style import FIGURES, PALETTE, figure, gallery, pictures_table
from ribkit.runtime.errors import InputError, resource_errors
from ribkit.runtime.files import atomic_write
from ribkit.study.study import Study

__all__ = [
    "FIGURES", "figures_ablations", "figures_rq4", "figures_toy", "pictures_table", "publish",
    "redraw", "save", "show",
]  # fmt: skip

SUFFIXES = (".png", ".pdf")
# photographs of VOC are nobody's to hand on
PHOTOGRAPHS = {"growth", "samples", "refined", "walks", "predictions", "worst", "gradient_pixels"}
UNPUBLISHED = {"voc-lite": PHOTOGRAPHS}
NO_DATE = {".png": {"Software": None}, ".pdf": {"CreationDate": None, "Producer": None}}


def save(name: str, table: pd.DataFrame, folder: Path) -> Figure:
    """Write a figure's table, read it back, draw from it, write PNG and PDF; returns the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    with atomic_write(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    return redraw(path)


def show(study: Study, name: str, table: pd.DataFrame) -> Image:
    """Store a figure's table and picture under ``build/<profile>/figures``; the picture."""
    with resource_errors(name):
        drawn = save(name, table, study.folder / "figures")
    width = round(96 * drawn.get_figwidth())
    return Image(filename=study.folder / "figures" / f"{name}.png", width=width)


def redraw(path: Path) -> Figure:
    """Draw a figure from its table, ``<name>.csv``, into ``<name>.png`` and ``.pdf`` beside it."""
    if path.stem not in FIGURES:
        raise InputError(f"{path} belongs to no figure; the figures are {', '.join(FIGURES)}.")
    drawn = FIGURES[path.stem](pd.read_csv(path, keep_default_na=False, na_values=[""]))
    for suffix in SUFFIXES:
        look = {"format": suffix[1:], "bbox_inches": "tight", "metadata": NO_DATE[suffix]}
        with atomic_write(path.with_suffix(suffix)) as partial:
            drawn.savefig(partial, **look)
    return drawn


def publish(source: Path, target: Path) -> None:
    """Copy a run's figures and tables to where they are kept, but for photographs of VOC."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.csv")):
        if path.stem not in UNPUBLISHED.get(target.name, ()):
            for file in (path, *(path.with_suffix(suffix) for suffix in SUFFIXES)):
                if file.is_file():
                    with atomic_write(target / file.name) as partial:
                        shutil.copyfile(file, partial)


@figure
def samples(table: pd.DataFrame) -> Figure:
    """Some images with their masks; on `mini` also the heads, which tell the classes apart."""
    return gallery(table, bar=False)


@figure
def growth(table: pd.DataFrame) -> Figure:
    """Maps through the process (the paper's Figure 3) on scored images; outline: the object."""
    return gallery(table, outline="object")


@figure
def photographs(table: pd.DataFrame) -> Figure:
    """Maps through the process on shipped photographs, with the ImageNet head."""
    return gallery(table)


# ---- curves ---------------------------------------------------------------------------------
@figure
def training(table: pd.DataFrame) -> Figure:
    """Loss of each training, on its own images and on held-out ones, by epoch."""
    stages = list(dict.fromkeys(table["stage"]))
    drawn = Figure((3.3 * len(stages), 2.6), layout="constrained")
    for axis, stage in zip(drawn.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        lines = table[table["stage"] == stage]
        sns.lineplot(
            lines, x="epoch", y="loss", hue="images", style="images", markers=True, ax=axis,
            palette=PALETTE[:2][: lines["images"].nunique()],
        )  # fmt: skip
        axis.set(title=stage, xlabel="epoch", ylabel="binary cross-entropy", ylim=(0, None))
        axis.legend(title=None)
    return drawn


@figure
def thresholds(table: pd.DataFrame) -> Figure:
    """Seed mIoU of the scored images against the threshold, by method."""
    drawn = Figure((5.2, 3), layout="constrained")
    axis = drawn.subplots()
    sns.lineplot(
        table, x="threshold", y="miou", hue="method", style="method", ax=axis,
        palette=PALETTE[: table["method"].nunique()],
    )  # fmt: skip
    axis.set(xlabel="threshold on the normalised map", ylabel="seed mIoU (%)", xlim=(0, 1))
    axis.legend(title=None, fontsize=7)
    return drawn


@figure
def tuning(table: pd.DataFrame) -> Figure:
    """mIoU on the tuning images against the learning rate, by method; the dashed line is CAM."""
    drawn = Figure((5.2, 3), layout="constrained")
    axis = drawn.subplots()
    ribs = table[(table["method"] != "CAM") & (table["stage"] == "lr")]
    sns.lineplot(
        ribs, x="lr", y="miou", hue="method", style="method", markers=True, dashes=False,
        palette=PALETTE[1 : 1 + ribs["method"].nunique()], ax=axis,
    )  # fmt: skip
    axis.axhline(
        table.loc[table["method"] == "CAM", "miou"].max(), color="black", ls="--", label="CAM"
    )
    axis.set(xscale="log", xlabel="learning rate of the adaptation", ylabel="tuning mIoU (%)")
    axis.legend(title=None, fontsize=7)
    return drawn


def _palette(table: pd.DataFrame, first: int = 0) -> list:
    """A colour for each method: CAM's is the first."""
    return PALETTE[first:][: table["method"].nunique()]


# ---- scores ---------------------------------------------------------------------------------
def _intervals(axis, y, table: pd.DataFrame, centre: str, low: str, high: str, **style) -> None:
    errors = np.stack([table[centre] - table[low], table[high] - table[centre]])
    axis.errorbar(table[centre], y, xerr=errors, ls="none", capsize=3, markersize=5, **style)


@figure
def seed_scores(table: pd.DataFrame) -> Figure:
    """Seed mIoU by method, and the paired gain over CAM, with 95 % intervals."""
    methods = list(dict.fromkeys(table["method"]))
    drawn = Figure((7.6, 0.42 * len(methods) + 1.1), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    for k, (choice, rows) in enumerate(table.groupby("threshold chosen", sort=False)):
        y = np.array([methods.index(m) for m in rows["method"]]) + 0.24 * (k - 0.5)
        style = {"color": PALETTE[k], "label": f"{choice} threshold", "marker": "os"[k]}
        _intervals(left, y, rows, "miou", "low", "high", **style)
        gains = rows["gain"].notna().to_numpy()
        _intervals(right, y[gains], rows[gains], "gain", "gain_low", "gain_high", **style)
    left.set(yticks=range(len(methods)), yticklabels=methods, xlabel="seed mIoU (%)")
    left.invert_yaxis()
    right.axvline(0, color="black", lw=1)
    right.set(xlabel="gain over CAM, same images (points)")
    handles, labels = left.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return drawn


@figure
def coverage(table: pd.DataFrame) -> Figure:
    """Share of heads, bodies and all else that a map covers, by method; 95 % intervals."""
    drawn = Figure((6.4, 2.9), layout="constrained")
    axis = drawn.subplots()
    long = table.melt(["method", "image"], var_name="part", value_name="share")
    long["share"] = 100 * pd.to_numeric(long["share"])
    names = {
        "object": "object",
        "head": "head\n(discriminative)",
        "body": "body\n(non-discriminative)",
        "outside": "off the object",
    }
    long["part"] = long["part"].map(names)
    sns.barplot(
        long, x="part", y="share", hue="method", errorbar=("ci", 95), seed=0,
        palette=PALETTE[: table["method"].nunique()], err_kws={"linewidth": 1}, ax=axis,
    )  # fmt: skip
    axis.set(xlabel="", ylabel="covered by the class's map (%)", ylim=(0, 100))
    axis.legend(title=None, fontsize=7)
    return drawn


@figure
def claims(table: pd.DataFrame) -> Figure:
    """How many claims of each question hold, do not hold, are undecided or not measured."""
    from ribkit.results.claims import VERDICTS

    counts = pd.crosstab(table["question"], table["verdict"]).reindex(
        columns=VERDICTS, fill_value=0
    )
    drawn = Figure((5.2, 1.9), layout="constrained")
    axis, start = drawn.subplots(), np.zeros(len(counts))
    colours = (PALETTE[2], PALETTE[3], PALETTE[8], (0.8, 0.8, 0.8))
    for verdict, colour in zip(VERDICTS, colours, strict=True):
        axis.barh(
            counts.index, counts[verdict], left=start, color=colour, label=verdict, edgecolor="w"
        )
        start += counts[verdict].to_numpy()
    axis.set(xlabel="claims", xticks=range(int(start.max()) + 1))
    axis.invert_yaxis()
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return drawn


def main() -> int:
    """Redraw all figures under ``figures/``."""
    folder = Path(__file__).parents[2] / "figures"
    paths = sorted(folder.glob("*/*.csv"))
    for path in paths:
        redraw(path)
        print(path.with_suffix("").relative_to(folder.parent))
    return 0 if paths else 1


if __name__ == "__main__":
    sys.exit(main())
