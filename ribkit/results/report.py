"""What the report is made of: all claims, the figures that decide them, our numbers beside others'.

    python -m ribkit.results.report build/mini/07_report.ipynb build/report.html

writes an executed notebook as one HTML file that opens without a network.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ribkit.evaluation import intervals
from ribkit.results import claims, tables, tables_ablations, tables_rq4, tables_toy
from ribkit.results.claims import CLAIMS, Measured
from ribkit.runtime.errors import InputError
from ribkit.study import ablation_runs, pipeline
from ribkit.study.ablation_runs import Run, ablated_images, run_named, runs
from ribkit.study.study import CAM, RIB, RIBS, Method, Study

CLAIM_FIGURES: dict[str, Callable[[Study], pd.DataFrame]] = {
    "toy_hgr": lambda study: tables_toy.curve(study.toy().table("hgr")),
    "toy_last_drop": lambda study: tables_toy.region_drops(study.toy().table("hgr")),
    "layers": tables_ablations.layers,
    "activations": tables_ablations.activations,
    "coverage": tables.coverage,
    "replicas": tables.replicas,
    "adaptations": tables_ablations.adaptations,
    "refinement": tables_rq4.refinement_scores,
    "network": tables_rq4.network_scores,
}
"""Figure that decides a claim -> its table."""


def claim_figures() -> list[str]:
    """The figures that decide the claims, in the claims' order."""
    return list(dict.fromkeys(claim.figure for claim in CLAIMS))


# ---- what was measured of each claim ------------------------------------------------------------
def measured(study: Study, notebook: str = "") -> dict[str, Measured]:
    """What this run measured of the claims.

    Args:
        study: The run. What its claims need is computed where it is missing.
        notebook: Number of a notebook, as in ``"03"``, for the claims that it decides.

    Returns:
        Claim name -> measured difference, for those that this run can measure.
    """
    parts = [part(study) for number, part in MEASURED if number.startswith(notebook)]
    return {name: value for part in parts for name, value in part.items()}


def answer(study: Study, notebook: str) -> pd.DataFrame:
    """The claims that a notebook decides, with what was measured and the verdict."""
    return claims.table(measured(study, notebook), notebook).drop(columns="decided by")


def _toy(study: Study) -> dict[str, Measured]:
    """The drop from G5 to G6, and what removing the activation gives back."""
    hgr = study.toy().table("hgr")
    setting = f"{study.digits().name}, sigmoid, {hgr['seed'].nunique()} seeds"
    drop = tables_toy.last_drop(hgr).set_index(tables_toy.KEYS)
    drop = drop.loc[("sigmoid", "trained", "sum", "after")]
    removal, beyond = tables_toy.removal_beyond_control(hgr), "beyond what a meaningless shape gets"
    return {
        name: Measured(row["mean"], row["low"], row["high"], "HGR", f"{setting}, {how}")
        for name, row, how in (
            ("last-layer-bottleneck", drop, "outputs summed"),
            ("activation-removed", removal, f"{beyond} back"),
        )
    }


def _seeds(study: Study) -> dict[str, Measured]:
    """Gains in seed mIoU and, where heads are known, in bodies covered; over all replicas."""
    images = f"{study.profile.name}, {len(study.scored)} images, {_training_seeds(study)}"
    values = {}
    for name, after, before, choice in (
        ("gndrp-seed", RIB, RIBS[2], "held-out"),
        ("rib-seed", RIB, CAM, "held-out"),
        ("rib-seed-oracle", RIB, CAM, "oracle"),
    ):
        each = [(r.seed(after).at(choice), r.seed(before).at(choice)) for r in study.replicas]
        gain = intervals.replicated(intervals.gain, each)
        setting = f"{images}, {after.title} against {before.title}, {choice} threshold"
        values[name] = Measured(*gain, "mIoU", setting)
    if hasattr(study.scored.source, "heads"):
        for name, after, before in (("gndrp-coverage", RIB, RIBS[2]), ("rib-coverage", RIB, CAM)):
            gain = _coverage_gain(study, after, before)
            setting = f"{images}, {after.title} against {before.title}, held-out thresholds"
            values[name] = Measured(*gain, "points of bodies covered", setting)
    return values


def _training_seeds(study: Study) -> str:
    count = study.profile.replicas
    return f"{count} training seeds" if count > 1 else "one training seed"


def _coverage_gain(study: Study, after: Method, before: Method) -> intervals.Interval:
    """Difference in the mean share of bodies covered, in points, over images and replicas."""
    each = []
    for replica in study.replicas:
        table = tables.coverage(replica, (before, after))
        table = table.pivot(index="image", columns="method", values="body")
        each.append(100 * (table[after.title] - table[before.title]).dropna().to_numpy())
    if len(each) == 1:
        return intervals.bootstrap_mean(each[0])
    over_images = np.mean(each, axis=0)
    error = over_images.std(ddof=1) / np.sqrt(len(over_images))
    return intervals.combined(np.mean(each, axis=1), error, len(over_images))


def _refinement(study: Study) -> dict[str, Measured]:
    """Gains of RIB's labels after a stage, over its seed and over CAM's."""
    images = f"{study.profile.name}, {len(study.scored)} images"
    scores = tables_rq4.refinement_scores(study).set_index(["method", "stage"])
    values = {}
    for name, stage in (("crf-seed", "+ CRF"), ("psa-seed", "+ PSA"), ("irn-seed", "+ IRN")):
        gain = scores.loc[("RIB", stage), ["over_seed", "over_seed_low", "over_seed_high"]]
        setting = f"{images}, RIB {stage} against RIB, thresholds held out"
        values[name] = Measured(*map(float, gain), "mIoU", setting)
    pipeline.train(study.replicas, "irn")
    pairs = []
    for replica in study.replicas:
        cam, rib = pipeline.refinements(replica)
        pairs.append((rib.stage(pipeline.PSEUDO).counts, cam.stage(pipeline.PSEUDO).counts))
    setting = f"{images}, {_training_seeds(study)}, RIB + IRN against CAM + IRN"
    gain = intervals.replicated(intervals.gain, pairs)
    return values | {"rib-pseudo": Measured(*gain, "mIoU", f"{setting}, thresholds held out")}


def _networks(study: Study) -> dict[str, Measured]:
    """Gains of the networks trained on RIB's labels, and on those cut out by saliency."""
    setting = f"{study.profile.name}, {len(study.validation)} val images"
    setting = f"{setting}, {_training_seeds(study)}, with CRF"
    values = {}
    for name, after, before in (
        ("rib-network", "RIB", "CAM"),
        ("saliency-network", "RIB + saliency", "RIB"),
    ):
        if after in pipeline.sources(study):
            counts = (pipeline.network_counts(study, source, True) for source in (after, before))
            gain = intervals.replicated(intervals.gain, list(zip(*counts, strict=True)))
            values[name] = Measured(*gain, "mIoU", setting)
    return values


def _ablations(study: Study) -> dict[str, Measured]:
    """Gains over the sigmoid, over one adaptation for the whole set, and over the last map."""
    count = len(ablated_images(study))
    images = f"{study.profile.name}, {count} images, one training seed"

    def over(after: Run, others: Sequence[Run], how: str) -> list[Measured]:
        counts = [ablation_runs.run_result(study, run).counts for run in (after, *others)]
        family = [(counts[0], other) for other in counts[1:]]
        gains = intervals.simultaneous(intervals.gain, family)
        return [Measured(*gain, "mIoU", f"{images}, {how}") for gain in gains]

    none = run_named(study, "none", "activation")
    sigmoids = [run for run in runs(study) if run.value.startswith("sigmoid")]
    same, matched = over(none, sigmoids, "sigmoid (BCE) put back, same rate and rate matched")
    summed, once, last = (
        run_named(study, value)
        for value in ("each image, summed maps", "once for the set", "each image, last map")
    )
    per_image, summed_maps = over(summed, (once, last), "RIB official, GNDRP")
    return {"activation-seed": same, "activation-seed-matched": matched} | {
        "per-image": per_image, "summed-maps": summed_maps,
    }  # fmt: skip


def _layers(study: Study) -> dict[str, Measured]:
    """The drop of HGR into the last layer, bodies' beyond heads', paired over images."""
    table = tables_ablations.layer_ratios(study)
    if table["discriminative"].isna().all():
        return {}
    before = [name for name in table["layer"].unique() if name.startswith("level")][-1]
    by_layer = table.set_index(["image", "layer"])
    drop = by_layer.xs(before, level="layer") - by_layer.xs("sigmoid", level="layer")
    values = (drop["non-discriminative"] - drop["discriminative"]).dropna().to_numpy()
    setting = f"{study.profile.name}, {len(values)} images, classifier's last level to its sigmoids"
    return {"real-bottleneck": Measured(*intervals.bootstrap_mean(values), "HGR", setting)}


MEASURED = (
    ("01", _toy), ("03", _seeds), ("04", _refinement), ("05", _networks), ("06", _ablations),
    ("06", _layers),
)  # fmt: skip
"""Notebook that decides claims, and what measures these."""


# ---- the report ---------------------------------------------------------------------------------
def headline(study: Study) -> pd.DataFrame:
    """This run's numbers in the columns of `claims.reported`; its setting in every row's name."""
    name = f"{study.profile.name}, {len(study.scored)} images, {len(study.scored.classes)} classes"
    stages = tables_rq4.refinement_scores(study).set_index(["method", "stage"])["miou"]
    networks = tables_rq4.network_scores(study).set_index(["CRF", "trained on"])["miou"]
    networks = networks.loc["with CRF"].map("{:.1f}".format)
    columns = claims.reported().columns
    rows = []
    for method in ("CAM", "RIB"):
        shown = [f"{stages[method, stage]:.1f}" for stage in ("seed", "+ CRF", "+ IRN")]
        values = [f"{method} + IRN ({name})", *shown, networks[method]]
        rows.append(dict(zip(columns, values, strict=True)))
    for source, title in (("RIB + saliency",) * 2, ("ground truth", "true masks, the ceiling")):
        if source in networks:
            rows.append({columns[0]: f"{title} ({name})", columns[-1]: networks[source]})
    return pd.DataFrame(rows).fillna("")


def html(notebook: Path, target: Path) -> None:
    """Write an executed notebook as one HTML file, which fetches nothing when it is opened.

    Args:
        notebook: The executed notebook.
        target: The HTML file.

    Raises:
        InputError: There is no such notebook.
    """
    import nbformat
    from nbconvert import HTMLExporter

    if not notebook.is_file():
        raise InputError(f"{notebook} is missing; make it first: make reproduce.")
    exporter = HTMLExporter(
        embed_images=True, exclude_input_prompt=True, exclude_output_prompt=True,
        mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="",
    )  # fmt: skip
    page, _ = exporter.from_notebook_node(nbformat.read(notebook, as_version=4))
    page = re.sub(r"<script[^>]*\bsrc=[^>]*>\s*</script>", "", page)
    page = re.sub(r"<script type=\"module\">.*?</script>", "", page, flags=re.DOTALL)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page)


if __name__ == "__main__":
    try:
        html(Path(sys.argv[1]), Path(sys.argv[2]))
    except InputError as error:
        sys.exit(str(error))
