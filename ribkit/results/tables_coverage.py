"""Small tables of what maps cover, part by part, and of where RIB's gain comes from.

The parts are those of `ribkit.study.coverage`; coverage is at each method's held-out threshold.
Near and far is from the peak of another training's CAM, if there is another: see `Study.coverage`.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

from ribkit.evaluation.intervals import (
    Interval,
    countable,
    mean,
    replicated,
    with_interval,
    worded,
)
from ribkit.study.coverage import beyond, by_image
from ribkit.study.study import CAM, RIB, Method, Study

LEVELS = ("head", "body", "near", "far", "outside")  # that `coverage` shows
ALL = {"found": "more of the object", "false": "more off it"}
REGIONS = {
    "on the object": {
        "head": "head", "body": "body", "near": "near CAM's peak", "far": "far from CAM's peak",
        "inside": "inside", "edge": "at its boundary",
    },
    "off the object": {
        "around": "at its boundary", "away": "away from it", "green": "green background",
        "other": "other background",
    },
    "of all pixels": ALL,
}  # fmt: skip
"""Where -> part -> how `changes` calls it."""
SIZES = ("small", "medium", "large")  # thirds of the objects
FEWEST = 10  # images of a class with green background, of which their mean says anything
CALLED = {
    "head": "heads", "body": "bodies", "near": "the halves of objects near a CAM's peak",
    "far": "their halves far from it",
}  # fmt: skip
BEYOND = {"body": "bodies", "far": "objects' halves far from CAM's peak"}
"""Part that stands for the non-discriminative one -> how claims call it."""
NEARER = {"body": "head", "far": "near"}  # what `beyond` names -> the rest of the object
CHANGE = ["change", "change_low", "change_high"]


@cache
def coverage(study: Study, methods: tuple[Method, ...] = ()) -> pd.DataFrame:
    """What maps cover of some parts, and their AUC; over all replicas, of all methods, or some.

    Both in %: covered is a mean share, auc how well maps tell the part from what is off the object.
    """
    rows = []
    for method in methods or study.methods:
        trainings = study.replicas_of(method)
        each = [100 * by_image(one.coverage(method)) for one in trainings]
        for part in LEVELS:
            if part not in each[0]:
                continue
            row = {"method": method.title, "part": part, "trainings": len(trainings)}
            row |= with_interval("covered", _mean([one[part] for one in each]))
            if f"auc {part}" in each[0]:
                row |= with_interval("auc", _mean([one[f"auc {part}"] for one in each]))
            rows.append(row)
    return pd.DataFrame(rows)


def aligned(replicas: Sequence[pd.Series]) -> list[tuple[np.ndarray]]:
    """What `replicated` takes of the images that have a value in every training."""
    both = pd.concat(replicas, axis=1).dropna()
    return [(countable(both.iloc[:, k].to_numpy()),) for k in range(len(replicas))]


def _mean(replicas: Sequence[pd.Series]) -> Interval:
    """Mean over these images, and over trainings."""
    return replicated(mean, aligned(replicas))


def halved(study: Study) -> str:
    """A note where each training's own CAM halves objects, as there is no other; else empty."""
    alone = len(study.replicas) == 1 and beyond(study.coverage(CAM)) == "far"
    return "halved by this training's own CAM, which favours every other map" if alone else ""


# ---- where the gain comes from ------------------------------------------------------------------
@cache
def changes(study: Study) -> pd.DataFrame:
    """Change against CAM of the share covered, in points: by part, size and class.

    Of RIB and of each training's best rival, if any; means over images, all replicas.
    """
    rows, places = [], _places(study)
    of_both = {"RIB": lambda one: RIB}
    if study.rivals:
        of_both["best rival"] = lambda one: one.best_rival
    for title, of in of_both.items():
        tables = [_change(one, of(one)) for one in study.replicas]
        for where, region, part, chosen in places:
            values = [_over_classes(table[chosen], part) for table in tables]
            row = {"where": where, "region": region, "method": title, "images": len(values[0])}
            rows.append(row | with_interval("change", _mean(values)))
    return pd.DataFrame(rows)


def _change(one: Study, method: Method) -> pd.DataFrame:
    """What a method covers beyond CAM, in points, a row for each image and class.

    Besides the parts: found and false, the same as pixels on and off the object, in % of all.
    """
    after, before = one.coverage(method), one.coverage(CAM)
    parts = before.columns.drop(["image", "class", "size"])
    table = before.assign(**(100 * (after[parts] - before[parts])))
    found, false = table["object"] * table["size"], table["outside"] * (1 - table["size"])
    return table.assign(found=found, false=false.where(table["size"] < 1, 0.0))


def _over_classes(table: pd.DataFrame, part: str) -> pd.Series:
    """An image's mean over its classes, where it has the part."""
    return table.dropna(subset=part).groupby("image", sort=False)[part].mean()


def _places(study: Study) -> list[tuple[str, str, str, np.ndarray]]:
    """Where, how it is called, the part, and which rows of a coverage table it is of."""
    table = _change(study, CAM)  # of nothing: which parts there are
    every, size = np.ones(len(table), bool), table["size"]
    if "body" in table:  # drawn scenes have no grass
        table = table.drop(columns=["green", "other"])
    found = [
        (where, region, part, every)
        for where, parts in REGIONS.items()
        for part, region in parts.items()
        if part in table and table[part].notna().any()
    ]
    ranks = size[size > 0].rank(method="first")
    if len(ranks) >= len(SIZES):
        third = pd.qcut(ranks, len(SIZES), labels=SIZES).reindex(table.index)
        for name in SIZES:
            found.append(("on objects", name, "object", (third == name).to_numpy()))
    if "green" in table:
        for name in study.scored.classes:
            chosen = (table["class"] == name).to_numpy()
            if table.loc[chosen, "green"].notna().sum() >= FEWEST:
                found.append(("green background", name, "green", chosen))
    return found


def where(study: Study) -> str:
    """Where RIB's gain comes from, in words that follow from the numbers."""
    rows = changes(study).set_index(["method", "where", "region"])[CHANGE]
    told = {at: worded(row, "+.1f") for at, row in rows.iterrows()}
    on, off, every = (
        {part: told.get(("RIB", where, name)) for part, name in parts.items()}
        for where, parts in REGIONS.items()
    )
    far, names = beyond(study.coverage(CAM)), REGIONS["on the object"]
    of_object = " and ".join(f"{on[part]} {names[part]}" for part in (far, NEARER[far]))
    text = [
        f"Beyond CAM, at the held-out thresholds, RIB covers, in points of each part, {of_object}, "
        f"{on['inside']} inside and {on['edge']} at its boundary; of all else {off['around']} at "
        f"the object's boundary and {off['away']} away from it. Of an image's pixels that is "
        f"{every['found']} % more of the object, and {every['false']} % more that is not."
    ]
    if ("RIB", "on objects", SIZES[0]) in told:
        *most, last = (f"{told['RIB', 'on objects', size]} of {size}" for size in SIZES)
        text.append(f"By size it covers, in points, {', '.join(most)} and {last} objects.")
    grass = [
        f"{told['RIB', 'green background', name]} where there is a {name}"
        for name in study.scored.classes
        if ("RIB", "green background", name) in told
    ]
    if grass:
        text.append(f"Of green background it covers {', '.join(grass)}.")
    if study.rivals:
        further = told["best rival", "on the object", names[far]]
        found, false = (told["best rival", "of all pixels", of] for of in ALL.values())
        text.append(
            f"The best rival covers {further} points more than CAM of {BEYOND[far]}, and of all "
            f"pixels {found} % more of the object and {false} % more off it."
        )
    if note := halved(study):
        text.append(f"Objects are {note}.")
    return " ".join(text)
