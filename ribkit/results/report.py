"""What the report is made of: what was measured of each claim, and the figures that decide it."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from ribkit.evaluation import intervals, power
from ribkit.evaluation.intervals import gain, worded
from ribkit.results import (
    claims,
    reported,
    tables,
    tables_ablations,
    tables_controls,
    tables_coverage,
    tables_rq4,
    tables_toy,
)
from ribkit.results.claims import Measured
from ribkit.results.tables_coverage import BEYOND
from ribkit.results.tables_toy import text
from ribkit.study import ablation_runs, pipeline
from ribkit.study.ablation_runs import run_named
from ribkit.study.coverage import beyond
from ribkit.study.study import CAM, RIB, RIBS, Study

CLAIM_FIGURES: dict[str, Callable[[Study], pd.DataFrame]] = {
    "toy_hgr": lambda study: tables_toy.curve(study.toy().table("hgr")),
    "layers": tables_ablations.layers,
    "toy_last_drop": lambda study: tables_toy.region_drops(study.toy().table("hgr")),
    "toy_doses": lambda study: tables_toy.dose_points(tables_toy.doses(study.toy_doses())),
    "toy_masking": lambda study: tables_toy.masking(study.toy_masking()),
    "activations": tables_ablations.activations,
    "coverage": tables_coverage.coverage,
    "replicas": tables.replicas,
    "seed_scores": tables.seed_scores,
    "controls": tables_controls.compared,
    "doses": tables_controls.dose_response,
    "adaptations": tables_ablations.adaptations,
    "refinement": tables_rq4.refinement_scores,
    "network": tables_rq4.network_scores,
}
"""Figure that decides a claim -> its table, in the claims' order."""


ON_COCO = {"rib-seed-oracle": "rib-seed-coco", "rib-network": "rib-network-coco"}
"""Claim of VOC -> the same of COCO."""


# ---- what was measured of each claim ------------------------------------------------------------
def measured(study: Study, notebook: str = "") -> dict[str, Measured]:
    """What this run measured of the claims, or of those that the notebook ``"03"`` decides.

    What they need is computed where it is missing.
    """
    parts = [part(study) for number, part in MEASURED if number.startswith(notebook)]
    found = {name: value for part in parts for name, value in part.items()}
    if study.profile.data == "coco":  # what else was reported is of VOC
        of_coco = {of_voc: found.pop(of_voc) for of_voc in ON_COCO if of_voc in found}
        pictured = [claim for claim in claims.CLAIMS if not claim.notebook.startswith("01")]
        of_paper = {claim.name for claim in pictured if claim.reported}  # digits are the same
        found = {name: value for name, value in found.items() if name not in of_paper}
        found |= {ON_COCO[of_voc]: value for of_voc, value in of_coco.items()}
    return found


def answer(study: Study, notebook: str) -> pd.DataFrame:
    """The claims that a notebook decides, with what was measured and the verdict."""
    table = claims.table(measured(study, notebook), notebook)
    return claims.readable(table).drop(columns="decided by")


def _found(
    study: Study,
    statistic: intervals.Statistic,
    replicas: list[tuple[np.ndarray, ...]],
    unit: str,
    how: str,
    still: str = "",
    note: str = "",
    kind: str = "images",
) -> Measured:
    """A statistic of what each replica counted, as a gain is of a pair of counts.

    still: the note where tuning left RIB still in a training. The spread of one that does not move
    tells nothing of what could have been found.
    """
    detectable = np.nan if still else power.detectable(statistic, replicas)
    trainings = f"{len(replicas)} trainings" if len(replicas) > 1 else "one training"
    return Measured(
        *intervals.replicated(statistic, replicas),
        detectable,
        unit=unit,
        counts=f"{len(replicas[0][0])} {kind}, {trainings}",
        setting=f"{study.profile.name}, {how}",
        on=_on(study),
        note="; ".join(filter(None, (still, note))),
        p_value=intervals.p_value(statistic, replicas),
    )


def _on(study: Study) -> str:
    """What a study is of."""
    return "scenes" if study.profile.data == "scenes" else "photographs"


def _toy(study: Study) -> dict[str, Measured]:
    """What the last layer loses, whether it matters, and whether a high gradient is used."""
    hgr = study.toy().table("hgr")
    summed = "sigmoid, outputs summed"
    drops = tables_toy.last_drop(hgr).set_index(tables_toy.KEYS)
    (drop, nothing), own = (
        [drops.loc["sigmoid", network, output, "after"] for network in ("trained", "random shapes")]
        for output in ("sum", "target")
    )
    note = f"a shape that says nothing: {text(nothing, '+.2f')}; at the image's own class: "
    note += " and ".join(text(each, "+.2f") for each in own)
    returned = tables_toy.removal(hgr).set_index(["activation", "condition", "output", "region"])
    returned = returned.loc[("sigmoid", "trained", "sum", "non-discriminative")]
    beyond = tables_toy.removal_beyond_control(hgr)
    found = {
        "last-layer-bottleneck": _over_seeds(study, drop, summed, note=note),
        "activation-removed": _over_seeds(study, returned, summed),
        "removed-beyond-nothing": _over_seeds(study, beyond, summed),
    }
    return found | _known(study) | {"high-gradient-used": _masked(study)}


def _known(study: Study) -> dict[str, Measured]:
    """What the last layer loses of a shape that the network knows, at the largest such dose."""
    doses = tables_toy.doses(study.toy_doses())
    if not (known := tables_toy.known_doses(doses)):
        return {}
    most = max(known)
    others = [dose for dose in doses["dose"].unique() if dose >= min(known) and dose != most]
    found = tables_toy.beyond_nothing(doses, most)
    note = f"{100 * most:g} % of the images with their shape"
    for dose in others:
        note += f", at {100 * dose:g} % {text(tables_toy.beyond_nothing(doses, dose), '+.2f')}"
    return {"known-shape-drop": _over_seeds(study, found, "sigmoid, outputs summed", note=note)}


def _masked(study: Study) -> Measured:
    """How much more blanking the high costs than blanking random pixels, or the low.

    Both must cost less: the claim stands or falls with the one that is less sure. By the last
    layer, at the smallest share, which was fixed before; the note has the others.
    """
    gaps = tables_toy.masking_gaps(study.toy_masking()).query("layer == 'G6'")
    gaps = gaps.assign(spared=gaps["high"] >= 0).sort_values(["share", "spared", "low"])
    gap = gaps.iloc[0]
    how = f"sigmoid, blanked by G6: {_blanked(gap)}"
    more = (f"{_blanked(row)} {text(row, '+.1f')}" for _, row in gaps.iloc[1:].iterrows())
    note = f"blanked: {'; '.join((_blanked(gap), *more))}"
    return _over_seeds(study, gap, how, "points of accuracy", note)


def _blanked(gap: pd.Series) -> str:
    return f"{100 * gap['share']:g} %, against {gap['others']}"


def _over_seeds(
    study: Study, values: pd.Series, how: str, unit: str = "HGR", note: str = ""
) -> Measured:
    """A mean, low and high of n toy networks, see `tables_toy.interval`."""
    freedom = values["n"] - 1
    error = (values["high"] - values["mean"]) / stats.t.ppf(0.975, freedom)
    parts = (np.array([error**2]), np.array([freedom]))
    return Measured(
        *values[["mean", "low", "high"]],
        power.detectable_by_t(*parts),
        unit=unit,
        counts=f"{values['n']:.0f} seeds",
        setting=f"{study.digits().name}, {how}",
        on=study.digits().name,
        note=note,
        p_value=intervals.p_by_t(values["mean"], *parts),
    )


def _seeds(study: Study) -> dict[str, Measured]:
    """RIB's gains: in seed mIoU, and in what its maps cover of what CAM has no need of, and tell
    of it over all thresholds.
    """
    values, part, still = {}, beyond(study.coverage(CAM)), tables_controls.still(*study.replicas)
    halved = tables_coverage.halved(study)
    for name, before, choice in (
        ("gndrp-seed", RIBS[2], "held-out"),
        ("rib-seed", CAM, "held-out"),
        ("rib-seed-oracle", CAM, "oracle"),
    ):
        pairs = tables_controls.rib_against(study, before, choice)
        how = f"{RIB.title} against {before.title}, {choice} threshold"
        values[name] = _found(study, gain, pairs, "mIoU", how, still)
    covered = (part, f"points of {BEYOND[part]} covered", "held-out thresholds")
    told = (f"auc {part}", "points of AUC", "no threshold")
    for name, other, (column, unit, threshold) in (
        ("gndrp-coverage", RIBS[2], covered),
        ("rib-coverage", CAM, covered),
        ("gndrp-auc", RIBS[2], told),
        ("rib-auc", CAM, told),
        ("rib-auc-over-rivals", None, told),
    ):
        if not (other or study.rivals):
            continue
        gains = tables_controls.coverage_gains(study, column, other)
        how = f"{RIB.title} against {other.title if other else 'the best rival'}, {threshold}"
        values[name] = _found(study, intervals.mean, gains, unit, how, still, halved)
    return values


def _refinement(study: Study) -> dict[str, Measured]:
    """Gains of RIB's labels after a stage, over its seed, and over others' after the same."""
    still, values = tables_controls.still(*study.replicas), {}
    for name, stage, other in (
        ("crf-seed", "+ CRF", ("RIB", "seed")),
        ("psa-seed", "+ PSA", ("RIB", "seed")),
        ("irn-seed", "+ IRN", ("RIB", "seed")),
        ("rib-pseudo", pipeline.PSEUDO, ("CAM", pipeline.PSEUDO)),
        ("rib-pseudo-rival", pipeline.PSEUDO, ("best rival", pipeline.PSEUDO)),
    ):
        if other[0] not in pipeline.available_starts(study):
            continue
        both = (tables_rq4.stage_counts(study, *of) for of in (("RIB", stage), other))
        how = f"RIB {stage} against {' '.join(other)}, thresholds held out"
        reported = stage == pipeline.PSEUDO and other[0] != "best rival"
        note = "the reported number has a CRF after IRN" if reported else ""
        values[name] = _found(study, gain, list(zip(*both, strict=True)), "mIoU", how, still, note)
    return values


def _networks(study: Study) -> dict[str, Measured]:
    """Gains of the networks trained on RIB's labels, with and without saliency's help."""
    still, values = tables_controls.still(*study.replicas), {}
    for name, after, before in (
        ("rib-network", "RIB", "CAM"),
        ("saliency-network", "RIB + saliency", "RIB"),
        ("rib-network-saliency", "RIB + saliency", "CAM + saliency"),
    ):
        if after in pipeline.sources(study):
            counts = (pipeline.network_counts(study, source, True) for source in (after, before))
            pairs = list(zip(*counts, strict=True))
            values[name] = _found(study, gain, pairs, "mIoU", "with CRF", still, kind="val images")
    return values


def _ablations(study: Study) -> dict[str, Measured]:
    """Gains over the sigmoid, over one adaptation for the whole set, and over the last map.

    Also how much more RIB gains where activations inside saturate. Trainings in which tuning
    stilled RIB are left out: there is nothing to take away there, and what its parts do at a higher
    rate, which the pictures show, is not what they add.
    """
    own = ablation_runs.at_own_scales
    moving, values = [one for one in study.replicas if not own(one).stilled(RIB)], {}
    scales = ", ".join(map("{:g}".format, study.profile.ablations.scales))
    scale = f"scale {scales}"
    note = tables_controls.still(*map(own, study.replicas))
    left_out = note and f"left out: tuned for the ablations' maps, {note}"
    compared = dict(ablation_runs.COMPARED)
    if any(run.factor == ablation_runs.UNSATURATED for run in ablation_runs.runs(study)):
        compared["saturation-inside"] = ablation_runs.SATURATION
    if not moving:
        setting = f"{study.profile.name}, {scale}"
        unknown = Measured(*(np.nan,) * 4, "mIoU", "", setting, _on(study), note)
        return dict.fromkeys(compared, unknown)
    tuned, grid = {own(one).settings(RIB).lr for one in moving}, study.profile.lrs
    rates = " or ".join(map("{:g}".format, sorted(tuned)))
    scale += f", rate {rates} (grid: {min(grid):g} to {max(grid):g})"
    for name, named in compared.items():
        counts = [_counts_of(one, named) for one in moving]
        (after, _), (before, factor), *more = named
        how, statistic = f"RIB official, GNDRP, {factor}: {after} against {before}", gain
        if more:
            how, statistic = "RIB over CAM, with ReLU6 against ReLU inside", intervals.more_gain
        values[name] = _found(study, statistic, counts, "mIoU", f"{scale}, {how}", note=left_out)
    return values


def _counts_of(one: Study, names: tuple[tuple[str, str], ...]) -> tuple[np.ndarray, ...]:
    """Counts of runs of the ablations, each by its value and factor."""
    named = [run_named(one, *name) for name in names]
    return tuple(ablation_runs.run_result(one, run).counts for run in named)


def _controls(study: Study) -> dict[str, Measured]:
    """RIB's gain over the best rival; and over CAM, where bodies tell more less where less."""
    setting, found = f"{RIB.title}, thresholds held out", {}
    if study.rivals:
        pairs = tables_controls.rib_against(study)
        still, how = tables_controls.still(*study.replicas), f"{setting}, tuned alike"
        found["rib-over-rivals"] = _found(study, gain, pairs, "mIoU", how, still)
    doses = ablation_runs.doses(study)
    if len(doses) > 1:
        (least, *_, most), (low, *_, high) = doses, doses.values()
        counts = tables_controls.dose_counts(high, low)
        how = f"{setting}, bodies' usual texture {most:g} against {least:g}"
        still = tables_controls.still(*low.replicas, *high.replicas)
        how = ("mIoU", how, still and f"of both kinds of scenes, {still}")
        found["dose-response"] = _found(study, intervals.more_gain, counts, *how)
    return found


def _layers(study: Study) -> dict[str, Measured]:
    """The drop of HGR into the last layer, bodies' beyond heads', paired over images.

    The note says what there was to lose, as a region without high gradient can lose none; and what
    the activation alone takes, from the logits on, of all outputs and of the image's own classes.
    """
    ratios = tables_ablations.layer_ratios(study)
    if ratios["discriminative"].isna().all():
        return {}
    every = map(tables_ablations.layer_ratios, study.replicas)
    layers = [table.set_index(["layer", "image"]) for table in every]
    last = ratios["layer"][ratios["layer"].str.startswith("level")].iloc[-1]

    def more(before: str, after: str) -> list[tuple[np.ndarray]]:
        drops = [layer.loc[before] - layer.loc[after] for layer in layers]
        return tables_coverage.aligned(
            [drop["non-discriminative"] - drop["discriminative"] for drop in drops]
        )

    counts = more(last, "sigmoid")
    how = "classifier's last level to its sigmoids"
    note = "it has {non-discriminative:.2f} to lose, the discriminative one {discriminative:.2f}"
    note = note.format_map(pd.concat([layer.loc[last] for layer in layers]).dropna().mean())
    alone = [
        worded(intervals.replicated(intervals.mean, more(f"{of}logits", f"{of}sigmoid")))
        for of in ("", "own ")
    ]
    note += f"; from the logits on {alone[0]}, at the image's own classes {alone[1]}"
    return {"real-bottleneck": _found(study, intervals.mean, counts, "HGR", how, note=note)}


MEASURED = (
    ("01", _toy), ("03", _seeds), ("04", _refinement), ("05", _networks), ("06", _ablations),
    ("06", _controls), ("06", _layers),
)  # fmt: skip
"""Notebook that decides claims, and what measures these."""


# ---- the report ---------------------------------------------------------------------------------
def headline(study: Study) -> pd.DataFrame:
    """This run's numbers in the columns of `reported.pivot`; its setting in every row's name."""
    setting = f"{study.profile.name}, {len(study.scored)} images, {len(study.validation)} val, "
    setting += f"{len(study.scored.classes)} classes"
    stages = tables_rq4.refinement_scores(study).set_index(["method", "stage"])["miou"]
    networks = tables_rq4.network_scores(study).set_index(["CRF", "trained on"])["miou"]
    networks = networks.loc["with CRF"].map("{:.1f}".format)
    names = {"seed": "seed, train", "+ CRF": "+ CRF, train", "+ IRN": "pseudo ground truth, train"}
    rows = []
    for method in ("CAM", "RIB"):
        shown = {title: f"{stages[method, stage]:.1f}" for stage, title in names.items()}
        row = {"method": f"{method} + IRN ({setting})", "network, val": networks[method]}
        rows.append(row | shown)
    titles = {"ground truth": "true masks, the ceiling"}
    for source in pipeline.sources(study)[2:]:
        title = f"{titles.get(source, source)} ({setting})"
        rows.append({"method": title, "network, val": networks[source]})
    columns = [name for name in reported.pivot("VOC") if name != "network, test"]
    return pd.DataFrame(rows, columns=columns).fillna("")
