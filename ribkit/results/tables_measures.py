"""Small tables of what critics of the field ask for beside mIoU, see `ribkit.evaluation.measures`.

The seed to beat, RIB's gain by measure, precision and recall by stage and by class, and how scores
of seeds, labels and networks go together. What is over all trainings says so in its column
``trainings``.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from ribkit.evaluation import measures
from ribkit.evaluation.intervals import (
    Interval,
    bootstrap,
    combined,
    errors_over_trainings,
    replicated,
    resample,
    with_interval,
    worded,
)
from ribkit.evaluation.miou import iou, miou
from ribkit.evaluation.thresholds import own_best
from ribkit.results.tables import seed_scores
from ribkit.results.tables_coverage import CALLED, NEARER, coverage, halved
from ribkit.results.tables_rq4 import stage_counts
from ribkit.study import pipeline
from ribkit.study.coverage import beyond
from ribkit.study.study import CAM, RIB, Seed, Study

Measure = Callable[[np.ndarray], np.ndarray]
"""How often each image is drawn ``(..., N)`` -> ``(...)``."""
FEWEST = 6  # points: one order in 360 is the same or the reverse
OWN = "each image's own"


# ---- the gain by measure ------------------------------------------------------------------------
@cache
def measured_gains(study: Study) -> pd.DataFrame:
    """RIB's gain over CAM by measure, paired over images; all are means over trainings."""
    both = [(_measures(one.seed(RIB)), _measures(one.seed(CAM))) for one in study.replicas]
    count, rows = len(study.scored), []
    for measure, chosen in both[0][0]:
        pairs = [(after[measure, chosen], before[measure, chosen]) for after, before in both]
        rib, cam = np.mean([[each(np.ones(count)) for each in pair] for pair in pairs], axis=0)
        row = {"measure": measure, "threshold chosen": chosen, "CAM": cam, "RIB": rib}
        row |= with_interval("gain", _interval([partial(_gain, *pair) for pair in pairs], count))
        rows.append(row | {"trainings": len(pairs), "images": count})
    return pd.DataFrame(rows)


def _gain(after: Measure, before: Measure, drawn: np.ndarray) -> np.ndarray:
    """One measure beyond another, of the same draw."""
    return after(drawn) - before(drawn)


def _measures(seed: Seed) -> dict[tuple[str, str], Measure]:
    """All measures of seeds, by name and by how the threshold was chosen."""
    counts = {choice: seed.at(choice) for choice in seed.chosen}
    counts[OWN] = seed.swept.at(own_best(seed.swept))
    found = {("mIoU", choice): partial(_pooled, each) for choice, each in counts.items()}
    for choice in ("held-out", OWN):
        mean = partial(measures.over_images, miou(counts[choice]))
        found["mean IoU over images", choice] = mean
    worst = partial(measures.worst_tenth, miou(counts["held-out"]))
    found["worst tenth of images", "held-out"] = worst
    return found | {("PxAP", "no threshold"): partial(measures.pxap, seed.swept)}


def _pooled(counts: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The mIoU of the images drawn."""
    return miou(np.tensordot(drawn, counts, 1))


def _interval(statistics: Sequence[Measure], count: int) -> Interval:
    """As `replicated`, of a statistic for each training that is no function of summed counts.

    What is summed over the images drawn is which they are.
    """
    images = np.eye(count)
    if len(statistics) == 1:
        return bootstrap(statistics[0], images)
    resampled = [resample(statistic, images) for statistic in statistics]
    return combined(*errors_over_trainings(resampled, count))


# ---- CAM -----------------------------------------------------------------------------------------
def seed_to_beat(study: Study) -> str:
    """How good CAM's seeds are, and what they cover, in words that follow from the numbers."""
    scores = seed_scores(study, (CAM,)).set_index("threshold chosen")
    covered = coverage(study, (CAM,)).set_index("part")["covered"]
    far = beyond(covered)
    near = NEARER[far]
    held_out = worded(scores.loc["held-out", ["miou", "miou_low", "miou_high"]], ".1f")
    more = scores.loc["oracle", "miou"] - scores.loc["held-out", "miou"]
    told = (
        f"The seed to beat: CAM has {held_out} mIoU with thresholds held out; choosing them on the "
        f"scored images would be worth {more:+.1f}. It covers {covered[near]:.0f} % of "
        f"{CALLED[near]}, {covered[far]:.0f} % of {CALLED[far]}, and {covered['outside']:.0f} % of "
        "what is off the object."
    )
    note = halved(study)
    return f"{told} Objects are {note}." if note else told


# ---- precision and recall -----------------------------------------------------------------------
def _mean(score: Callable[[np.ndarray], np.ndarray], counts: np.ndarray) -> np.ndarray:
    """Mean over the classes that have the score, background included."""
    return np.nanmean(score(counts), axis=-1)


SCORES = {"precision": measures.precision, "recall": measures.recall, "iou": iou}


def _seeds(study: Study) -> Iterator[tuple[str, str, list[np.ndarray]]]:
    for method in study.methods:
        seeds = [one.seed(method) for one in study.replicas_of(method)]
        for choice in seeds[0].chosen:
            yield method.title, f"seed, {choice} threshold", [seed.at(choice) for seed in seeds]


def _stages(study: Study) -> Iterator[tuple[str, str, list[np.ndarray]]]:
    for stage in pipeline.available_stages(study):
        for title in pipeline.available_starts(study):
            yield title, stage, stage_counts(study, title, stage)


def _networks(study: Study) -> Iterator[tuple[str, str, list[np.ndarray]]]:
    for crf in (False, True):
        for source in pipeline.sources(study):
            stage = "network, with CRF" if crf else "network, without CRF"
            yield source, stage, pipeline.network_counts(study, source, crf)


PARTS = {"seeds": _seeds, "labels": _stages, "networks": _networks}
"""Name -> method, stage and counts ``(N, 3, n)``, one for each training."""


@cache
def precision_recall(study: Study, part: str) -> pd.DataFrame:
    """Precision and recall of one of `PARTS`, by method and stage: means over classes."""
    rows = []
    for method, stage, counts in PARTS[part](study):
        row, replicas = {"method": method, "stage": stage}, [(each,) for each in counts]
        for name in ("precision", "recall"):
            row |= with_interval(name, replicated(partial(_mean, SCORES[name]), replicas))
        row["miou"] = float(np.mean([miou(each.sum(axis=0)) for each in counts]))
        rows.append(row | {"trainings": len(counts), "images": len(counts[0])})
    return pd.DataFrame(rows)


@cache
def class_scores(study: Study, part: str) -> pd.DataFrame:
    """Precision, recall and IoU of one of `PARTS` by class, a row for each method, stage and class.

    Of seeds those at the held-out threshold, of networks those after the CRF; means over training
    seeds.
    """
    classes, rows = ("background", *study.scored.classes), []
    for method, stage, counts in PARTS[part](study):
        if not stage.endswith(("oracle threshold", "mask-free threshold", "without CRF")):
            values = [
                np.mean([score(each.sum(axis=0)) for each in counts], axis=0)
                for score in SCORES.values()
            ]
            for name, *own in zip(classes, *values, strict=True):
                row = {"method": method, "stage": stage, "class": name, "trainings": len(counts)}
                rows.append(row | dict(zip(SCORES, map(float, own), strict=True)))
    return pd.DataFrame(rows)


# ---- what goes together -------------------------------------------------------------------------
@cache
def rank_correlations(study: Study) -> pd.DataFrame:
    """Spearman's rank correlation of each two scores, over methods and trainings.

    Seeds have all methods; labels and networks those that networks learn from,
    without and with saliency. Of fewer than six points the order says nothing, and the table says
    so.
    """
    scores, rows = _all_scores(study), []
    for first, second in combinations(scores, 2):
        both = scores[[first, second]].dropna()
        row = {"score": first, "against": second, "points": len(both)}
        row["methods"] = both.index.get_level_values("method").nunique()
        row["rank correlation"] = f"fewer than {FEWEST} points"
        if len(both) >= FEWEST and (both.nunique() == 1).any():
            row["rank correlation"] = "all equal"
        elif len(both) >= FEWEST:
            row["rank correlation"] = f"{spearmanr(both[first], both[second]).statistic:+.2f}"
        rows.append(row)
    return pd.DataFrame(rows)


def _all_scores(study: Study) -> pd.DataFrame:
    """Scores by method and training; NaN where this run has none."""
    found: dict[str, dict] = {"seed mIoU": {}, "seed precision": {}}
    for method in study.methods:
        title = "RIB" if method == RIB else method.title
        for one in study.replicas_of(method):
            counts = one.seed(method).at("held-out").sum(axis=0)
            found["seed mIoU"][title, one.number] = miou(counts)
            found["seed precision"][title, one.number] = _mean(measures.precision, counts)
    for source in pipeline.sources(study)[:-1]:  # all but the ceiling
        networks = pipeline.network_counts(study, source, True)
        for one, counts in zip(study.replicas, networks, strict=True):
            at = (source, one.number)
            found.setdefault("label mIoU", {})[at] = _label_miou(one, source)
            found.setdefault("network mIoU", {})[at] = miou(counts.sum(axis=0))
    table = pd.DataFrame({name: pd.Series(values) for name, values in found.items()})
    return table.rename_axis(["method", "training"])


def _label_miou(one: Study, source: str) -> float:
    """The mIoU of the labels that a network learned from, of the scored images; 255 is an error."""
    images, labels = pipeline.labelled(one, source)[0]
    return miou(pipeline.label_counts(one, images, labels).sum(axis=0))
