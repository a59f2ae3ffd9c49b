"""Small tables of the controls: rivals without a bottleneck, few masks, scenes of other kinds."""

from functools import cache

import numpy as np
import pandas as pd

from ribkit.evaluation import intervals
from ribkit.evaluation.intervals import Interval, replicated
from ribkit.evaluation.miou import miou
from ribkit.results import tables
from ribkit.results.tables import with_interval
from ribkit.study import controls, pipeline
from ribkit.study.study import CAM, RIB, Study


@cache
def compared(study: Study) -> pd.DataFrame:
    """Seed mIoU, held out, of CAM, of what adapts nothing, of the RIBs, and of few masks.

    gain: over CAM, paired over images and training seeds; kind: what a row stands for.
    """
    held_out = tables.seed_scores(study).query("`threshold chosen` == 'held-out'")
    kinds = {"": "CAM"} | {method.title: "rival" for method in study.rivals}
    rows = held_out.rename(columns=lambda name: name.replace("over_cam", "gain"))
    rows = rows.assign(
        kind=["CAM" if m == CAM.title else kinds.get(m, "RIB") for m in rows["method"]]
    )
    few = pipeline.few_masks_counts(study)
    plain = [one.seed(CAM).at("held-out") for one in study.replicas]
    title = f"network from {len(study.tuning)} masks"
    row = {"method": title, "kind": "few masks", "images": len(few[0]), "seeds": len(few)}
    row |= with_interval("miou", replicated(miou, [(counts,) for counts in few]))
    pairs = list(zip(few, plain, strict=True))
    row |= with_interval("gain", replicated(intervals.gain, pairs))
    columns = ["method", "kind", "images", "seeds"]
    columns += [f"{name}{end}" for name in ("miou", "gain") for end in ("", "_low", "_high")]
    return pd.concat([rows, pd.DataFrame([row])], ignore_index=True)[columns]


def best_rivals(study: Study) -> list[str]:
    """The best of CAM and its rivals on the tuning images, by training seed."""
    return [one.best_rival.title for one in study.replicas]


def over_rival(study: Study) -> list[tuple[np.ndarray, np.ndarray]]:
    """Counts, held out, of RIB and of each training seed's best rival: a pair for each."""
    return [
        tuple(one.seed(method).at("held-out") for method in (RIB, one.best_rival))
        for one in study.replicas
    ]


@cache
def dose_response(study: Study) -> pd.DataFrame:
    """RIB's gain over CAM (held out) by how much bodies tell of their class, a row for each dose.

    Beside it CAM's mIoU, and the share of bodies that CAM and RIB cover, in %.
    """
    rows = []
    for dose, other in controls.doses(study).items():
        plain = [(one.seed(CAM).at("held-out"),) for one in other.replicas]
        row = {"usual texture": dose, "images": len(plain[0][0]), "seeds": len(plain)}
        row |= with_interval("gain", replicated(intervals.gain, gains(other)))
        row |= with_interval("miou", replicated(miou, plain))
        covered = tables.coverage(other, (CAM, RIB)).groupby("method")["body"].mean()
        row |= {f"{m.title[:3]} covers": 100 * covered[m.title] for m in (CAM, RIB)}
        rows.append(row)
    return pd.DataFrame(rows)


def gains(study: Study) -> list[tuple[np.ndarray, np.ndarray]]:
    """Counts, held out, of RIB and of CAM: a pair for each training seed."""
    return [
        tuple(one.seed(method).at("held-out") for method in (RIB, CAM)) for one in study.replicas
    ]


def dose_gain(study: Study) -> Interval:
    """RIB's gain where bodies tell most of their class less that where they tell least.

    Two sets of scenes: their errors add up, and the intervals' halves with them.
    """
    table = dose_response(study)
    least, most = table.iloc[0], table.iloc[-1]
    point = most["gain"] - least["gain"]
    half = np.hypot(*(row["gain_high"] - row["gain"] for row in (least, most)))
    return float(point), float(point - half), float(point + half)
