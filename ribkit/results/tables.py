"""Small tables and pictures of seeds, for their figures and claims; and the one formatter.

An interval of the column ``gain`` stands in the columns ``gain_low`` and ``gain_high``. Tables are
computed once in each process: they are read, and never changed.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ribkit.data.images import SUFFIXES, ImageSet, LabelledImage
from ribkit.evaluation.intervals import gain, number, replicated, with_interval, worded
from ribkit.evaluation.miou import miou
from ribkit.refinement.stages import label_map
from ribkit.results.style import PALETTE, Pictures
from ribkit.runtime.store import Result
from ribkit.study.inputs import first
from ribkit.study.study import CAM, Method, Study

COLUMNS = pd.read_csv(Path(__file__).with_name("columns.csv"), keep_default_na=False)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table of scores as text: those of ``columns.csv`` that it has, rounded, with intervals."""
    rows = table.to_dict("records")
    return pd.DataFrame(
        {
            heading: [_text(row, column, form) for row in rows]
            for column, heading, form in COLUMNS.itertuples(index=False)
            if column in table
        }
    )


def _text(row: dict, column: str, form: str) -> str:
    if pd.isna(row[column]):
        return ""
    if f"{column}_low" in row:
        return worded([row[f"{column}{end}"] for end in ("", "_low", "_high")], form)
    return number(row[column], form) if form else str(row[column])


# ---- what was chosen ----------------------------------------------------------------------------
def tuning(study: Study) -> pd.DataFrame:
    """All that was tried on the tuning images, a row each: see `ribkit.evaluation.tuning.Tuned`.

    gain: over CAM as it was chosen, of the same training.
    """
    tables = {}
    for method in study.methods:
        for one in study.replicas_of(method):
            table = one.tuned(method).table
            gain = table["miou"] - one.tuned(CAM).miou
            tables[method.title, one.training_seed] = table.assign(gain=gain)
    return pd.concat(tables, names=["method", "training"]).reset_index(["method", "training"])


def choices(study: Study) -> pd.DataFrame:
    """What each training chose for each method, as text, and after how many trials."""
    rows = []
    for method in study.methods:
        tuned = [one.tuned(method) for one in study.replicas_of(method)]
        chosen = {
            name: "; ".join(_setting(one.chosen[name]) for one in tuned) for name in tuned[0].chosen
        }
        row = {"method": method.title, "trials": "; ".join(str(one.trials) for one in tuned)}
        text = ", ".join(f"{name} {values}" for name, values in chosen.items())
        edges = "; ".join(one.edges or "-" for one in tuned)
        row |= {"chosen, by training": text, "at an edge": edges}
        rows.append(row)
    return pd.DataFrame(rows)


def _setting(value: object) -> str:
    return " ".join(map(_setting, value)) if isinstance(value, tuple) else format(value, "g")


# ---- scores -------------------------------------------------------------------------------------
@cache
def seed_scores(study: Study, methods: tuple[Method, ...] = ()) -> pd.DataFrame:
    """Seed mIoU by method (all, if none are named) and choice of threshold, over all replicas.

    The gain over CAM is paired over images and trainings; the threshold is their mean. trials:
    how many settings a training tried, at most.
    """
    rows = []
    for method in methods or study.methods:
        trainings = study.replicas_of(method)
        seeds = [one.seed(method) for one in trainings]
        trials = max(one.tuned(method).trials for one in trainings)
        for choice in seeds[0].chosen:
            counts = [seed.at(choice) for seed in seeds]
            row = {"method": method.title, "trials": trials, "threshold chosen": choice}
            row |= {"threshold": np.mean([seed.threshold(choice) for seed in seeds])}
            others = {}
            if method != CAM:
                others["over_cam"] = [one.seed(CAM).at(choice) for one in trainings]
            rows.append(row | scored(counts, **others))
    return pd.DataFrame(rows)


def scored(counts: list[np.ndarray], **others: list[np.ndarray]) -> dict:
    """The columns of a row: mIoU over images and trainings, and the paired gain over each other.

    counts: of each training; others: column -> the same of what its gain is over.
    """
    row = with_interval("miou", replicated(miou, [(each,) for each in counts]))
    for column, plain in others.items():
        row |= with_interval(column, replicated(gain, list(zip(counts, plain, strict=True))))
    return row | {"images": len(counts[0]), "trainings": len(counts)}


@cache
def replicas(study: Study) -> pd.DataFrame:
    """Seed mIoU (held out) of each method, by training."""
    rows = [
        (method.title, one.training_seed, miou(one.seed(method).at("held-out").sum(axis=0)))
        for method in study.methods
        for one in study.replicas_of(method)
    ]
    return pd.DataFrame(rows, columns=["method", "training", "miou"])


# ---- pictures -----------------------------------------------------------------------------------
def samples(study: Study) -> Pictures:
    """Some scored images, their masks, and on `mini` their heads; a colour for each class."""
    pictures = {}
    for image in first(study.scored, 4):
        title, mask, heads = title_of(image), image.mask(), image.heads()
        pictures[title, "image"] = shrunk(image.pixels(), 160)
        pictures[title, "objects"] = shrunk(by_class(mask), 160)
        if heads is not None:
            pictures[title, "heads"] = by_class(heads)
    return pictures


def cams(study: Study) -> Pictures:
    """CAM of the first scored images, the seed at the held-out threshold, and the objects."""
    seed, pictures = study.seed(CAM), {}
    threshold = seed.threshold("held-out")
    for title, image, k in each_class(first(study.scored, 3)):
        maps = seed.maps.arrays("maps")[image.name]
        labels = label_map(maps, image.classes, threshold)
        pictures[title, "image"] = shrunk(image.pixels(), 160)
        pictures[title, "CAM"] = shrunk(maps[k], 64)
        pictures[title, "seed"] = shrunk((labels == image.classes[k] + 1).astype(float), 64)
        pictures[title, "object"] = object_of(image, k)
    return pictures


def title_of(image: LabelledImage, separator: str = ", ") -> str:
    """An image's name and those of the classes that it shows."""
    names = np.array(image.images.classes)[image.label]
    return f"{image.name}, {separator.join(names)}"


def growth(images: ImageSet, grown: Result, outlines: bool = False) -> Pictures:
    """What `Study.growth` returns as pictures, a name for each image and class.

    An adaptation that ended before a step shows its last. outlines: add the panel ``object``.
    """
    pictures, steps, sums = {}, grown.arrays("step"), grown.arrays("sum")
    for title, image, k in each_class(images):
        maps = steps[image.name][:, k]
        last = len(maps) - 1
        pictures[title, "image"] = shrunk(image.pixels(), 160)
        for panel, step in {"CAM": 0, "step 2": 2, "step 5": 5, "last step": last}.items():
            pictures[title, panel] = shrunk(maps[min(step, last)], 64)
        pictures[title, "RIB (sum)"] = shrunk(sums[image.name][k], 64)
        if outlines:
            pictures[title, "object"] = object_of(image, k)
    return pictures


def each_class(images: ImageSet) -> Iterator[tuple[str, LabelledImage, int]]:
    """A title, the image, and k for the k-th class that it shows; for all classes of all images."""
    for image in images:
        photograph = image.name.endswith(SUFFIXES)
        name = Path(image.name).stem if photograph else image.name
        for k, label in enumerate(image.classes):
            yield f"{name}, {images.classes[label]}", image, k


def object_of(image: LabelledImage, k: int) -> np.ndarray:
    """Where the object of the k-th class is, as a small picture."""
    return shrunk((image.mask() == image.classes[k] + 1).astype(float), 64)


def by_class(labels: np.ndarray) -> np.ndarray:
    """A label map ``(H, W)`` as colours ``(H, W, 3)`` uint8, ten in turn; else white."""
    colours = np.round(255 * np.array([(1, 1, 1), *PALETTE])).astype(np.uint8)
    return colours[np.where(labels % 255 > 0, (labels - 1) % len(PALETTE) + 1, 0)]


def shrunk(picture: np.ndarray, long_side: int) -> np.ndarray:
    """``(H, W, 3)`` uint8 or ``(H, W)`` float, at most so long; smaller ones keep their size."""
    factor = long_side / max(picture.shape[:2])
    if factor >= 1:
        return picture.astype(float) if picture.ndim == 2 else picture
    height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
    pixels = picture if picture.ndim == 3 else picture.astype(np.float32)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
