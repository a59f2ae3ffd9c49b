"""Small tables of the controls: rivals without a bottleneck, few masks, scenes of other kinds."""

from collections import Counter
from functools import cache, partial

import numpy as np
import pandas as pd

from ribkit.evaluation import intervals
from ribkit.evaluation.intervals import Interval, replicated, with_interval, worded
from ribkit.results import tables, tables_coverage
from ribkit.results.tables_coverage import BEYOND
from ribkit.study import ablation_runs, pipeline
from ribkit.study.coverage import beyond, by_image
from ribkit.study.study import CAM, RIB, RIBS, Method, Study


@cache
def compared(study: Study) -> pd.DataFrame:
    """Seed mIoU, held out, and gain over CAM of what adapts nothing, of the RIBs, of few masks.

    Gains are paired over images and trainings; kind: what a row stands for.
    """
    held_out = tables.seed_scores(study).query("`threshold chosen` == 'held-out'")
    rows = held_out[held_out["method"] != CAM.title]
    rows = rows.rename(columns=lambda name: name.replace("over_cam", "gain"))
    titles = {method.title for method in study.rivals}
    rows = rows.assign(kind=["rival" if method in titles else "RIB" for method in rows["method"]])
    few, plain = pipeline.few_masks_counts(study), _counts(study, CAM)
    row = {"method": f"network from {len(study.tuning)}", "kind": "few masks"}
    row |= tables.scored(few, gain=plain)
    columns = ["kind", "method", "images", "trainings"]
    columns += [f"{name}{end}" for name in ("miou", "gain") for end in ("", "_low", "_high")]
    return pd.concat([rows, pd.DataFrame([row])], ignore_index=True)[columns]


def _counts(study: Study, method: Method) -> list[np.ndarray]:
    """Counts of a method's seeds, held out, of each training."""
    return [one.seed(method).at("held-out") for one in study.replicas]


def rib_against(
    study: Study, other: Method | None = None, choice: str = "held-out"
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Counts of RIB's and of another method's seeds, of each training.

    other: None for each training's best rival.
    """
    pairs = [(one.seed(RIB), one.seed(other or one.best_rival)) for one in study.replicas]
    return [(own.at(choice), others.at(choice)) for own, others in pairs]


@cache
def dose_response(study: Study) -> pd.DataFrame:
    """RIB's gain over CAM (held out) by how much bodies tell of their class, a row for each dose.

    Beside it the share of bodies that CAM and RIB cover, in %. No rows for photographs.
    """
    rows = []
    for dose, other in ablation_runs.doses(study).items():
        pairs = rib_against(other, CAM)
        row = {"usual texture": dose, "images": len(pairs[0][0]), "trainings": len(pairs)}
        row |= with_interval("gain", replicated(intervals.gain, pairs))
        for method in (CAM, RIB):
            shares = [by_image(one.coverage(method)) for one in other.replicas]
            row[f"{method.short} covers"] = 100 * np.mean([one["body"].mean() for one in shares])
        rows.append(row)
    columns = ["usual texture", "images", "trainings", "gain", "gain_low", "gain_high"]
    return pd.DataFrame(rows, columns=[*columns, "CAM covers", "RIB covers"])


def dose_counts(high: Study, low: Study) -> list[tuple[np.ndarray, ...]]:
    """Counts of RIB's and CAM's seeds at a high dose, then at a low one, of each training.

    Scenes of one number have the same background and most of the same objects at each dose.
    """
    both = (rib_against(study, CAM) for study in (high, low))
    return [(*more, *less) for more, less in zip(*both, strict=True)]


def still(*trainings: Study) -> str:
    """A note if tuning stilled RIB in some trainings (`Study.stilled`), else empty."""
    stilled = [one.stilled(RIB) for one in trainings]
    note = f"in {sum(stilled)} of {len(stilled)} trainings tuning left RIB at the lowest rate, "
    note += "without a gain on the tuning images"
    return note if any(stilled) else ""


def coverage_gains(
    study: Study, column: str, other: Method | None = None
) -> list[tuple[np.ndarray]]:
    """How much more RIB has than another method in a column of `Study.coverage`, of each image.

    In points; other: None for each training's best rival. What `replicated` takes.
    """
    gains = []
    for one in study.replicas:
        methods = (RIB, other or one.best_rival)
        after, before = (by_image(one.coverage(method))[column] for method in methods)
        gains.append(100 * (after - before))
    return tables_coverage.aligned(gains)


POOLING_WORDS = (  # where the interval lies above zero, spans it, lies below it
    "the pooling matters, whatever the cause.",
    "the two poolings cannot be told apart.",
    "GAP is better.",
)
COVER_WORDS = (
    "the rival does not reach as far.",
    "which of the two reaches further cannot be told.",
    "the rival reaches further.",
)
RIVAL_WORDS = (
    "it does better than what adapts nothing.",
    "it cannot be told from what adapts nothing, so it is no evidence for a bottleneck.",
    "what adapts nothing is better.",
)
FEW_WORDS = (
    "used so, the masks that tune are worth more.",
    "the two are not told apart.",
    "used so, the masks that tune are worth less.",
)
DOSE_WORDS = (
    "its gain follows what there is to be set free.",
    "its gain cannot be told to follow what there is to be set free.",
    "it does worse where there is more to be set free.",
)
NO_DOSE_GAIN = "it does better where there is more to be set free, but no gain is seen there."


def meaning(study: Study) -> str:
    """What the controls say of RIB's gain, in words that follow from the numbers."""
    own, gndrp = (replicated(intervals.gain, rib_against(study, o)) for o in (CAM, RIBS[2]))
    few = list(zip(pipeline.few_masks_counts(study), _counts(study, RIB), strict=True))
    over_rib = replicated(intervals.gain, few)
    note = still(*study.replicas)
    text = [f"Read with care: {note}."] if note else []
    text += [
        f"RIB's seeds differ from CAM's by {_points(own)}. RQ2. GNDRP in place of GAP gains "
        f"{_points(gndrp)}: {_told(gndrp, *POOLING_WORDS)}",
        *_of_rivals(study),
        f"A network that learned from the {len(study.tuning)} tuning masks alone gains "
        f"{_points(over_rib)} over RIB: {_told(over_rib, *FEW_WORDS)}",
        *_of_doses(study),
    ]
    return " ".join(text)


def _of_rivals(study: Study) -> list[str]:
    """How RIB compares with what adapts nothing, if anything was tried."""
    if not study.rivals:
        return []
    over_rival = replicated(intervals.gain, rib_against(study))
    far = beyond(study.coverage(CAM))
    wider = replicated(intervals.mean, coverage_gains(study, far))
    chosen = Counter(one.best_rival.title for one in study.replicas).most_common()
    rivals = ", ".join(f"{title} ({count} of {len(study.replicas)})" for title, count in chosen)
    return [
        f"Of {BEYOND[far]} RIB covers {_points(wider)} more than the best rival does: "
        f"{_told(wider, *COVER_WORDS)}",
        f"RQ3. The best rival on the tuning images, by training, is {rivals}; RIB gains "
        f"{_points(over_rival)} over it: {_told(over_rival, *RIVAL_WORDS)}",
    ]


def _of_doses(study: Study) -> list[str]:
    """How RIB's gain follows what bodies tell of their class, where there are scenes of each."""
    doses = ablation_runs.doses(study)
    if len(doses) < 2:
        return []
    low, *_, high = doses.values()
    counts = dose_counts(high, low)
    at_low, at_high = (
        replicated(intervals.gain, [each[two] for each in counts])
        for two in (slice(2, 4), slice(2))
    )
    more = replicated(intervals.more_gain, counts)
    words = DOSE_WORDS if at_high[1] > 0 else (NO_DOSE_GAIN, *DOSE_WORDS[1:])
    note = still(*low.replicas, *high.replicas)
    return [
        f"Where bodies tell least of their class RIB gains {_points(at_low)} over CAM, where "
        f"they tell most {_points(at_high)}: {_told(more, *words)}",
        *([f"Read with care: of both kinds of scenes, {note}."] if note else []),
    ]


_points = partial(worded, unit="points")


def _told(gain: Interval, above: str, spans: str, below: str) -> str:
    """The words for where an interval lies; its ends belong to it."""
    if np.isnan(gain).any():
        return "one image tells nothing."
    return above if gain[1] > 0 else below if gain[2] < 0 else spans
