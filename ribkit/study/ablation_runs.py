"""The ablations: one thing changed at a time, everything else as RIB's own settings have it.

These are the ones chosen for the ablations' own scales, but at a rate at which RIB moves: see
`Study.shown`. Each run is a stored result (`ablations.measure`). Its threshold is chosen on the
other folds of the same images (`thresholds.cross_fitted`), so no run needs images of its own to
tune on. Last, what is changed of the scenes themselves: `doses`.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ribkit.data.images import ImageSet
from ribkit.evaluation.thresholds import Swept, cross_fitted
from ribkit.method.losses import ACTIVATIONS
from ribkit.method.settings import NO_MARGIN, OFFICIAL, PAPER, Settings
from ribkit.study import ablations
from ribkit.study.inputs import some
from ribkit.study.maps import Sizes
from ribkit.study.profiles import Grid, Profile
from ribkit.study.study import RIB, RIBS, Study

PAPER_RIB = RIBS[1]
COMPARED = {
    "activation-seed": (("none", "activation"), ("sigmoid (BCE)", "activation")),
    "activation-seed-matched": (
        ("none", "activation"), ("sigmoid (BCE)", "activation, rate matched"),
    ),
    "per-image": (("each image, summed maps", "adaptation"), ("once for the set", "adaptation")),
    "summed-maps": (
        ("each image, summed maps", "adaptation"), ("each image, last map", "adaptation"),
    ),
}  # fmt: skip
"""Claim -> two runs of the ablations, each by its value and factor: after, before."""
UNSATURATED = "inside, ReLU for ReLU6"
SATURATION = (("RIB", "baseline"), ("CAM", "baseline"), ("RIB", UNSATURATED), ("CAM", UNSATURATED))
"""RIB and CAM with the activations inside that saturate, and without, where a network has them."""


@dataclass(frozen=True)
class Run:
    """One line of an ablation: what is changed, and to what, in words and as a number if it is one.

    settings: None for CAM; once: one adaptation for the whole set; saturates: with the ReLU6 that
    the adapted part was trained with, or with ReLU.
    """

    question: str
    factor: str
    value: str
    settings: Settings | None
    scales: tuple[float, ...]
    x: float = float("nan")
    once: bool = False
    saturates: bool = True


# ---- what is tried ------------------------------------------------------------------------------
def grid(rib: Settings, unit: float, rows: float, tried: Grid, relu6: bool) -> list[Run]:
    """All runs of RQ1 to RQ3; CAM is the first, RIB the second.

    rib: the settings chosen for RIB official, GNDRP. unit: CAM's mean target logit (GAP), which
    ``official`` sums over so many rows and target classes. relu6: see `has_relu6`.
    """
    runs: list[Run] = []

    def add(question: str, factor: str, value, settings, x=float("nan"), **other) -> None:
        runs.append(Run(question, factor, str(value), settings, tried.scales, x, **other))

    add("all", "baseline", "CAM", None)
    add("all", "baseline", "RIB", rib)
    for name in ACTIVATIONS:
        add("RQ1", "activation", name, replace(rib, activation=name))
    for name in list(ACTIVATIONS)[1:]:
        match_first_update = replace(rib, activation=name, match_first_update=True)
        add("RQ1", "activation, rate matched", name, match_first_update)
    for value, settings in (("CAM", None), ("RIB", rib)) if relu6 else ():
        add("RQ1", UNSATURATED, value, settings, saturates=False)
    add("RQ2", "pooling", "GAP", replace(rib, pooling="gap"))
    add("RQ2", "pooling", "maximum", replace(rib, pooling="gmp"))
    for kind in ("paper", "official"):
        variant = replace(rib.variant, gndrp=kind)
        for tau in tried.taus:
            add("RQ2", f"GNDRP {kind}", tau, replace(rib, variant=variant, tau=tau), tau)
    add("RQ3", "steps K", 0, None, 0)
    for steps in tried.steps:
        add("RQ3", "steps K", steps, replace(rib, steps=steps), steps)
    for factor in tried.lrs:
        lr = rib.lr * factor
        add("RQ3", "learning rate", f"{lr:.1e}", replace(rib, lr=lr), lr)
    for factor in tried.margins:
        margin = factor * unit * rows if factor else NO_MARGIN
        add("RQ3", "margin", factor or "none", replace(rib, margin=margin), factor)
    for others in tried.n_others:
        add("RQ3", "others B", others, replace(rib, n_others=others), others)
    add("RQ3", "adaptation", "none (CAM)", None)
    add("RQ3", "adaptation", "once for the set", rib, once=True)
    add("RQ3", "adaptation", "each image, last map", replace(rib, last_map=True))
    add("RQ3", "adaptation", "each image, summed maps", rib)
    return runs


def ledger(
    paper: Settings, unit: float, rows: float, size: int, scales: tuple[float, ...]
) -> list[Run]:
    """Each difference alone, from the paper's side to the official one's; `paper` is the first.

    paper: the settings chosen for RIB paper, GNDRP; size: how many classes. Both margins are three
    times CAM's mean logit, each on its own scale. Where the official code does as the paper (3, 5,
    8), the value is what else could have been done.
    """
    paper = replace(paper, margin=3 * unit)
    summed = replace(paper, margin=3 * unit * rows)
    quicker = replace(paper, lr=paper.lr / (1 - PAPER.momentum))
    half, first = tuple(sorted({0.5, *scales})), max(1, size // 4)

    def run(factor: str, value: str, settings=paper, seen=scales, **switches) -> Run:
        changed = replace(settings, variant=replace(settings.variant, **switches))
        return Run("ledger", factor, value, changed, seen)

    return [
        run("paper", "paper"),
        run("1 margin", "official", summed, clamp_at_margin=False),
        run("2 GNDRP", "official", gndrp="official"),
        run("4 maps summed", "official", sum_last_map=False),
        run("6 stop by area", "official", stop_by_area=True),
        run("7 momentum", "official", momentum=OFFICIAL.momentum),
        run("3 classes", f"first {first} of {size} (the bug)", gndrp_classes=first),
        run("5 scale 0.5", "a map, no loss", seen=half),
        run("5 scale 0.5", "in the loss", seen=half, loss_on_half_scale=True),
        run("7 momentum", "official, rate x 10", quicker, momentum=OFFICIAL.momentum),
        run("8 the others", "drawn once", resample_others_each_step=False),
        run("all of 1-8", "official", replace(summed, variant=OFFICIAL)),
    ]


# ---- what was measured --------------------------------------------------------------------------
@cache
def ablated_images(study: Study) -> ImageSet:
    """The images that ablations are measured on: some of the scored ones."""
    return some(study.scored, study.profile.ablations.images, study.profile.rng_seed)


@cache
def at_own_scales(study: Study) -> Study:
    """The study tuned for the maps that are ablated: at the ablations' scales alone, as the best
    rate at one scale is not that at several, over which ``official`` sums an image's logits; and
    neither smoothed nor clipped.
    """
    scales = study.profile.ablations.scales
    plain = {"scale_sets": (scales,), "smoothings": (0.0,), "percentiles": (100.0,)}
    own = all(getattr(study.profile, name) == value for name, value in plain.items())
    return study if own else study.like(**plain)


def has_relu6(profile: Profile) -> bool:
    """Whether its network has activations inside that saturate on both sides."""
    return profile.backbone == "efficientnet_lite0"


@cache
def runs(study: Study) -> tuple[Run, ...]:
    """All that is tried of RIB's settings, CAM first."""
    tried, tuned = study.profile.ablations, at_own_scales(study)
    unit, rows = tuned.margin_unit(PAPER_RIB), tuned.margin_rows(tried.scales)
    return tuple(grid(tuned.shown(RIB), unit, rows, tried, has_relu6(study.profile)))


@cache
def ledger_runs(study: Study) -> tuple[Run, ...]:
    """All that is tried of the differences between paper and official code, the paper first."""
    tuned, scales = at_own_scales(study), study.profile.ablations.scales
    unit, rows = tuned.margin_unit(PAPER_RIB), tuned.margin_rows(scales)
    n_classes = len(study.scored.classes)
    return tuple(ledger(tuned.shown(PAPER_RIB), unit, rows, n_classes, scales))


def run_named(study: Study, value: str, factor: str) -> Run:
    """The run with this value, of this factor."""
    return next(run for run in runs(study) if (run.value, run.factor) == (value, factor))


@dataclass(frozen=True)
class RunResult:
    """A run's scores, and shares ``(N, 3)`` of `ablations.PARTS`."""

    counts: np.ndarray  # (N, 3, n), see `ribkit.evaluation.miou`
    cover: np.ndarray  # that the maps cover
    hgr: np.ndarray  # that have a high gradient of the last layer
    swept: Swept  # counts at all thresholds
    steps: float  # of an adaptation, on average


@cache
def run_result(study: Study, run: Run) -> RunResult:
    """The result of one run; equal settings are one result, whatever they are called."""
    p, images, model = study.profile, ablated_images(study), study.model
    seen = {"images": images, "sizes": Sizes(run.scales, p.long_side)}
    adaptation = study.adaptation(run.settings)
    if not run.saturates:
        model = replace(model, options=(*model.options, ("saturates", False)))
    if run.once:
        once = study.store.run(ablations.adapt_once, model=model, **seen, adaptation=adaptation)
        model, adaptation = replace(model, weights=once.tensors("weights")), None
    result = study.store.run(ablations.measure, model=model, **seen, adaptation=adaptation)
    swept = Swept(len(images), len(images.classes) + 1, **result.arrays("rows"))
    chosen, measured = cross_fitted(swept), result.arrays("measured")
    cover = measured["cover"][np.arange(len(images)), chosen]
    steps = float(result.table("images")["steps"].mean())
    return RunResult(swept.at(chosen), cover, measured["hgr"], swept, steps)


# ---- scenes of another kind ---------------------------------------------------------------------
@cache
def doses(study: Study) -> dict[float, Study]:
    """Usual texture -> the same study of scenes whose bodies tell so much of their class.

    Where they tell nothing (0), the information that RIB is said to set free does not exist; where
    they tell all (1), there is most of it. Everything but the pretext task is trained and tuned
    anew. Photographs have none.
    """
    if study.profile.data != "scenes":
        return {}
    own = study.profile.usual_texture
    others = set(study.profile.ablations.usual_textures) - {own}
    found = {own: study} | {dose: study.like(usual_texture=dose) for dose in others}
    return dict(sorted(found.items()))
