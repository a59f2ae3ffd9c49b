"""Every figure of the study: a function from one small table to a matplotlib Figure, in one style.

``figures/<profile>/<name>.csv`` is all that ``<name>.png`` and ``<name>.pdf`` are drawn from; a
figure made of pictures has them in ``<name>.pixels.png`` and their places there in its table.

    python -m ribkit.results.figures

redraws all of them. Most are one of the kinds in `ribkit.results.plots`; `special_figures` has the
others.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image
from matplotlib.figure import Figure
from PIL import Image as Pillow

from ribkit.results import special_figures, style
from ribkit.results.plots import gain_rows, gallery, grouped_points, layer_points, line_figure
from ribkit.results.style import FIGURES, KINDS, Pictures, register
from ribkit.runtime.errors import InputError, resource_errors
from ribkit.runtime.files import atomic_write
from ribkit.study.study import Study

__all__ = ["FIGURES", "publish", "redraw", "save", "show", "special_figures"]

SUFFIXES = (".png", ".pdf")
PIXELS = ".pixels.png"
# photographs of VOC are nobody's to hand on
PHOTOGRAPHS = {"growth", "samples", "refined", "walks", "predictions", "worst", "gradient_pixels"}
UNPUBLISHED = {"voc-lite": PHOTOGRAPHS}
NO_DATE = {".png": {"Software": None}, ".pdf": {"CreationDate": None, "Producer": None}}


# ---- files --------------------------------------------------------------------------------------
def save(name: str, content: pd.DataFrame | Pictures, folder: Path) -> Figure:
    """Write what a figure is drawn from, read it back, draw from that, and write PNG and PDF.

    Args:
        name: The figure's, a key of `FIGURES`.
        content: Its table, or its pictures by name and panel.
        folder: Where all of its files go.

    Returns:
        The figure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    if not isinstance(content, pd.DataFrame):
        content, sheet = style.pack(content)
        with atomic_write(path.with_suffix(PIXELS)) as partial:
            Pillow.fromarray(sheet).save(partial, format="png", optimize=True)
    with atomic_write(path) as partial:
        content.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    return redraw(path)


def show(study: Study, name: str, content: pd.DataFrame | Pictures) -> Image:
    """`save` a figure under ``build/<profile>/figures``; the picture, for a notebook."""
    with resource_errors(name):
        drawn = save(name, content, study.folder / "figures")
    width = round(96 * drawn.get_figwidth())
    return Image(filename=study.folder / "figures" / f"{name}.png", width=width)


def redraw(path: Path) -> Figure:
    """Draw a figure from its table, ``<name>.csv``, into ``<name>.png`` and ``.pdf`` beside it.

    Args:
        path: The table.

    Returns:
        The figure.

    Raises:
        InputError: It is no figure's table, or the pictures beside it are missing or damaged.
    """
    if path.stem not in FIGURES:
        raise InputError(f"{path} belongs to no figure; the figures are {', '.join(FIGURES)}.")
    names = {"name": str, "panel": str}
    table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=names)
    drawn = FIGURES[path.stem](_pictures(path, table) if "panel" in table else table)
    for suffix in SUFFIXES:
        look = {"format": suffix[1:], "bbox_inches": "tight", "metadata": NO_DATE[suffix]}
        with atomic_write(path.with_suffix(suffix)) as partial:
            drawn.savefig(partial, **look)
    return drawn


def _pictures(path: Path, table: pd.DataFrame) -> Pictures:
    sheet = path.with_suffix(PIXELS)
    try:
        with Pillow.open(sheet) as image:
            return style.unpack(table, np.asarray(image.convert("RGB")))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's, and unpack's
        raise InputError(
            f"{sheet}, the pictures of {path.name}, cannot be used ({error}); restore both."
        ) from error


def publish(source: Path, target: Path) -> None:
    """Copy a run's figures and their tables to where they are kept, but for photographs of VOC."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.csv")):
        if path.stem not in UNPUBLISHED.get(target.name, ()):
            for file in (path, *(path.with_suffix(suffix) for suffix in (PIXELS, *SUFFIXES))):
                if file.is_file():
                    with atomic_write(target / file.name) as partial:
                        shutil.copyfile(file, partial)


# ---- the figures of one of the kinds ------------------------------------------------------------
OVER_CAM = "gain over CAM (points), simultaneous 95 % interval"
LEDGER = "paper's way to the named one (points of mIoU), simultaneous 95 % interval"
SCORE = {"values": {"miou": "mIoU (%), 95 % interval"}, "size": (6.2, 0.42, 0.9)}

# Some images with their masks; on `mini` also the heads, which tell the classes apart
register("samples", gallery, bar="")
# Maps through the process (the paper's Figure 3) on scored images; outline: the object
register("growth", gallery, outline="object")
# Maps through the process on shipped photographs, with the ImageNet head
register("photographs", gallery)
# IRN's boundaries and displacements (1/2: none), and maps before and during its walk
register("walks", gallery)
# RQ2: the positions of a map (yellow) that get gradient at the first step, by pooling
register("gradient_pixels", gallery, bar="")
# Figure 1b: gradient maps of each layer, scaled to [0, 1]
register("toy_gradients", gallery, bar="gradient / its maximum")
# Labels of some scored images after each stage, right and wrong
register("refined", gallery, bar="", kinds=KINDS)
# Predictions of the networks on some validation images, right and wrong
register("predictions", gallery, bar="", kinds=KINDS)
# The same on the images on which the network trained on RIB's labels is at its worst
register("worst", gallery, bar="", kinds=KINDS)

# Seed mIoU by method, and the paired gain over CAM, with 95 % intervals
register(
    "seed_scores", grouped_points, rows="method", hue="threshold chosen", size=(7.6, 0.42, 1.1),
    values={"miou": "seed mIoU (%)", "over_cam": "gain over CAM, same images (points)"},
    labels={"oracle": "oracle threshold", "held-out": "held-out threshold"},
)  # fmt: skip
# mIoU of CAM's and RIB's labels after each stage
register("refinement", grouped_points, rows="stage", hue="method", **SCORE)
# mIoU of the networks on validation images by what they were trained on
register("network", grouped_points, rows="trained on", hue="CRF", **SCORE)
# RQ1: gain over CAM by the activation put back, at one rate and at the matched one
register(
    "activations", grouped_points, rows="value", hue="factor", size=(7.4, 0.36, 1.2),
    values={"gain": "gain over CAM (points of mIoU)", "cover body": "bodies covered (%)"},
    labels={"activation": "same rate", "activation, rate matched": "rate matched"}, widths=(3, 2),
)  # fmt: skip
# RQ3: no adaptation, one for the whole set, one for each image; last map or their sum
register("adaptations", gain_rows, rows=["value"], label=OVER_CAM, size=(5.6, 0.4, 0.7))
# What each difference of the official code is worth, with intervals corrected for all rows
register("ledger", gain_rows, rows=["difference", "value"], label=LEDGER, size=(7.2, 0.3, 0.8))
# RQ1: HGR of the real classifier, layer by layer, with 95 % intervals over images
register("layers", layer_points, value="hgr", region="region", joined="level",
         label="high gradient ratio (HGR)")  # fmt: skip
# RQ1: bits about the region in each layer, and in the maps of the image's own classes
register("bits", layer_points, value="bits", region="part", joined="",
         label="mutual information (bits)", suffix="\nor background?")  # fmt: skip

# Seed mIoU of the scored images against the threshold, by method
register(
    "thresholds", line_figure, x="threshold", y="miou", hue="method",
    axis={"xlabel": "threshold on the normalised map", "ylabel": "seed mIoU (%)", "xlim": (0, 1)},
)  # fmt: skip
# Loss of the networks while they train, a line for each seed
register(
    "network_curves", line_figure, x="iteration", y="loss", hue="trained on", title="trained on",
    units="seed", estimator=None, linewidth=1,
    axis={"xlabel": "iteration", "ylabel": "balanced cross-entropy", "ylim": (0, None)},
)  # fmt: skip


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
