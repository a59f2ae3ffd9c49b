"""The runs of the ablations, each a stored result: what is tried, and what it gave."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ribkit.data.images import ImageSet
from ribkit.evaluation.thresholds import Swept, cross_fitted
from ribkit.method.settings import NO_MARGIN
from ribkit.study import ablations
from ribkit.study.ablations import Run
from ribkit.study.inputs import some
from ribkit.study.study import RIB, RIBS, Study

PAPER_RIB = RIBS[1]


@cache
def ablated_images(study: Study) -> ImageSet:
    """The images that ablations are measured on: some of the scored ones."""
    return some(study.scored, study.profile.ablations.images, study.profile.rng_seed)


@cache
def runs(study: Study) -> tuple[Run, ...]:
    """All that is tried, CAM first."""
    tried = study.profile.ablations
    unit, rows = study.margin_unit(PAPER_RIB), study.margin_rows(tried.scales)
    rib, paper = (study.tune(method)[1] for method in (RIB, PAPER_RIB))
    if rib.margin < NO_MARGIN:
        rib = replace(rib, margin=rib.margin * rows / study.margin_rows(study.scales))
    return tuple(ablations.grid(rib, paper, unit, rows, len(study.scored.classes), tried))


def run_named(study: Study, value: str, factor: str = "") -> Run:
    """The first run with this value, and of this factor if one is given."""
    return next(r for r in runs(study) if r.value == value and factor in ("", r.factor))


@dataclass(frozen=True)
class RunResult:
    """A run's scores, at thresholds chosen on the other folds of the same images.

    Attributes:
        counts: ``(N, 3, n)``, see `ribkit.evaluation.miou`.
        cover: ``(N, 3)``, shares of `ablations.PARTS` that the maps cover.
        hgr: ``(N, 3)``, high gradient ratios of the last layer there.
        swept: Counts at all thresholds.
        steps: Of an adaptation, on average.
    """

    counts: np.ndarray
    cover: np.ndarray
    hgr: np.ndarray
    swept: Swept
    steps: float


@cache
def run_result(study: Study, run: Run) -> RunResult:
    """The result of one run; equal settings are one result, whatever they are called."""
    p, images, model = study.profile, ablated_images(study), study.model
    shown = {"images": images, "scales": run.scales, "long_side": p.long_side}
    shown |= {"rng_seed": p.rng_seed}
    adapted = {} if run.settings is None else {"settings": run.settings, "bank": study.bank()}
    if run.once:
        once = study.store.run(ablations.adapt_once, model=model, **shown, **adapted)
        model, adapted = replace(model, weights=once.tensors("weights")), {}
    result = study.store.run(ablations.measure, model=model, **shown, **adapted)
    swept = Swept(len(images), len(images.classes) + 1, **result.arrays("rows"))
    chosen, measured = cross_fitted(swept), result.arrays("measured")
    cover = measured["cover"][np.arange(len(images)), chosen]
    steps = float(result.table("images")["steps"].mean())
    return RunResult(swept.at(chosen), cover, measured["hgr"], swept, steps)
