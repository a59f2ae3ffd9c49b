"""Small tables of the ablations (notebook 06), for its figures, claims and answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd

from ribkit.data.images import ImageSet
from ribkit.evaluation import intervals, miou
from ribkit.evaluation.miou import Swept
from ribkit.method import pooling
from ribkit.refinement.random_walk import WALKS
from ribkit.results import figures, tables
from ribkit.results.claims import Measured
from ribkit.results.tables import shrunk
from ribkit.results.tables_toy import interval
from ribkit.study import ablations, information, pipeline
from ribkit.study.ablations import PARTS, Run
from ribkit.study.study import CAM, METHODS, RIB, RIBS, Study, some

PAPER_RIB = RIBS[1]


# ---- runs ---------------------------------------------------------------------------------------
@cache
def ablated(study: Study) -> ImageSet:
    """The images that ablations are measured on: some of the scored ones."""
    return some(study.scored, study.profile.ablations.images, study.profile.rng_seed)


@cache
def runs(study: Study) -> tuple[Run, ...]:
    """All that is tried, CAM first."""
    tried = study.profile.ablations
    unit, rows = study.margin_unit(PAPER_RIB), study.margin_rows(tried.scales)
    rib, paper = (study.tune(method)[1] for method in (RIB, PAPER_RIB))
    if rib.margin < ablations.NO_MARGIN:
        rib = replace(rib, margin=rib.margin * rows / study.margin_rows(study.scales))
    return tuple(ablations.grid(rib, paper, unit, rows, len(study.scored.classes), tried))


@dataclass(frozen=True)
class Found:
    """What a run gave, at thresholds chosen on the other folds of the same images.

    counts: ``(N, 3, n)``; cover, hgr: ``(N, 3)``, see `ablations.measure`; swept: counts at all
    thresholds.
    """

    counts: np.ndarray
    cover: np.ndarray
    hgr: np.ndarray
    swept: Swept
    steps: float


@cache
def found(study: Study, run: Run) -> Found:
    """The result of one run; equal settings are one result, whatever they are called."""
    p, images = study.profile, ablated(study)
    seen = {"images": images, "scales": run.scales, "long_side": p.long_side}
    adapted = {} if run.settings is None else {"settings": run.settings, "pool": study.pool()}
    model = study.model
    if run.once:
        once = study.store.run(
            "adapted-once",
            ablations.adapt_once,
            model=model,
            **seen,
            **adapted,
            rng_seed=p.rng_seed,
        )
        model, adapted = replace(model, weights=once), {}
    result = study.store.run(
        "ablation", ablations.measure, model=model, **seen, **adapted, rng_seed=p.rng_seed
    )
    swept = Swept(len(images), len(images.classes) + 1, **result.arrays("rows"))
    chosen, measured = miou.cross_fitted(swept), result.arrays("measured")
    cover = measured["cover"][np.arange(len(images)), chosen]
    steps = float(result.table("images")["steps"].mean())
    return Found(swept.at(chosen), cover, measured["hgr"], swept, steps)


def scores(study: Study) -> pd.DataFrame:
    """Every run, a row each.

    miou with its interval over images; gain over CAM on the same scales, its interval corrected for
    all runs of the same question; shares of heads, bodies and all else that the maps cover (%); HGR
    of the last layer there (%).
    """
    tables = [_asked(study, question) for question in ("RQ1", "RQ2", "RQ3")]
    return pd.concat([table[table["question"] != "all"] for table in tables], ignore_index=True)


@cache
def _asked(study: Study, question: str) -> pd.DataFrame:
    """CAM and RIB, then the runs of one question: they are one family of intervals."""
    every = runs(study)
    own = [run for run in every if run.question in ("all", question)]
    family = [(found(study, run).counts, found(study, every[0]).counts) for run in own]
    gains = intervals.simultaneous(intervals.gain, family)
    rows = [_row(study, run) | _named("gain", g) for run, g in zip(own, gains, strict=True)]
    return pd.DataFrame(rows)


def _row(study: Study, run: Run) -> dict:
    one = found(study, run)
    row = {"question": run.question, "factor": run.factor, "value": run.value, "x": run.x}
    row |= _named("miou", intervals.bootstrap(miou.miou, one.counts))
    for name, values in (("cover", one.cover), ("HGR", one.hgr)):
        row |= {
            f"{name} {part}": float(100 * np.nanmean(values[:, k]))
            for k, part in enumerate(PARTS)
            if not np.isnan(values[:, k]).all()
        }
    return row | {"steps": one.steps, "images": len(one.counts)}


def _named(name: str, values: intervals.Interval) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def baselines(study: Study, question: str) -> pd.DataFrame:
    """CAM and RIB on the ablated images: what the question's curves are held against."""
    return _asked(study, question).iloc[:2]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """`scores` or `ledger` for a reader, as text."""
    rows = []
    for row in table.to_dict("records"):
        line = {k: row[k] for k in ("factor", "difference", "value", "against") if k in row}
        if "miou" in row:
            line["seed mIoU (%)"] = _text(row, "miou")
        if "gain" in row:
            line["gain (points)"] = _text(row, "gain", "+")
        for name in ("cover head", "cover body", "HGR head", "HGR body"):
            if name in row and not pd.isna(row[name]):
                line[f"{name} (%)"] = f"{row[name]:.0f}"
        rows.append(line)
    return pd.DataFrame(rows).fillna("")


def _text(row: dict, key: str, sign: str = "") -> str:
    if pd.isna(row[key]):
        return ""
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return f"{row[key]:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


# ---- the figures' tables ------------------------------------------------------------------------
def activations(study: Study) -> pd.DataFrame:
    """RQ1: gain over CAM by last activation, at the same rate and at the matched one."""
    table = scores(study)
    return table[table["question"] == "RQ1"]


def poolings(study: Study) -> pd.DataFrame:
    """RQ2: mIoU and gain by pooling and tau, with CAM's and RIB's."""
    table = scores(study)
    return pd.concat([baselines(study, "RQ2"), table[table["question"] == "RQ2"]])


def sensitivity(study: Study) -> pd.DataFrame:
    """RQ3: mIoU and gain against K, rate, margin and B, with CAM's and RIB's; ``chosen``: RIB's."""
    table = scores(study)
    own = table[(table["question"] == "RQ3") & (table["factor"] != "adaptation")]
    base, settings = baselines(study, "RQ3"), runs(study)[1].settings
    at = {"steps K": settings.steps, "learning rate": settings.lr, "others B": settings.n_others}
    unit = study.margin_unit(PAPER_RIB) * study.margin_rows(study.profile.ablations.scales)
    bounded = settings.margin < ablations.NO_MARGIN
    at["margin"] = round(settings.margin / unit, 2) if bounded else 0
    rib = base.iloc[1].to_dict() | {"question": "RQ3", "chosen": True}
    here = [rib | {"factor": factor, "x": x, "value": str(x)} for factor, x in at.items()]
    merged = pd.concat([own.assign(chosen=False), pd.DataFrame(here)])
    merged = merged.drop_duplicates(["factor", "x"], keep="last")
    merged = merged.sort_values(["factor", "x"], kind="stable")
    return pd.concat([base.assign(chosen=False), merged])


def adaptations(study: Study) -> pd.DataFrame:
    """RQ3: none, one for the set, each image; last map or sum."""
    table = scores(study)
    return table[table["factor"] == "adaptation"]


def gradient_pixels(study: Study, count: int = 3) -> pd.DataFrame:
    """RQ2: which positions of a map get gradient from each pooling, at the first step."""
    import torch

    images, pictures = ablated(study), {}
    network = study.model.network()
    for i in range(min(count, len(images))):
        pixels = torch.from_numpy(images.image(i)).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            signed = network(pixels.to(next(network.parameters()).device))[0].cpu()
        for key in np.flatnonzero(images.labels[i]):
            one = signed[key]
            title = f"{images.ids[i]}, {images.classes[key]}"
            pictures[title, "image"] = shrunk(images.image(i), 128)
            pictures[title, "object"] = shrunk((images.mask(i) == key + 1).astype(float), 64)
            pictures[title, "CAM"] = (one.relu() / one.relu().max().clamp(min=1e-5)).numpy()
            pictures[title, "GAP"] = np.ones(one.shape)
            pictures[title, "maximum"] = (one == one.max()).float().numpy()
            for variant in ("paper", "official"):
                for tau in (0.2, 0.4, 0.8):
                    kept = pooling.region(one[None, None], tau, variant)[0, 0]
                    pictures[title, f"{variant}\ntau {tau}"] = kept.float().numpy()
    return figures.pictures_table(pictures)


def _layer_ratios(study: Study) -> pd.DataFrame:
    """HGR of the ablated images, see `information.layers`."""
    return study.store.run(
        "layers", information.layers, model=study.model, images=ablated(study)
    ).table("hgr")


def layers(study: Study) -> pd.DataFrame:
    """RQ1: HGR of the trained classifier, layer by layer: mean and interval over images."""
    table = _layer_ratios(study)
    rows = []
    for layer, own in table.groupby("layer", sort=False):
        for region in own.columns[2:]:
            values = own[region].dropna().to_numpy()
            if len(values):
                named = _named("hgr", intervals.bootstrap_mean(values))
                rows.append({"layer": layer, "region": region} | named)
    return pd.DataFrame(rows)


def bits(study: Study) -> pd.DataFrame:
    """RQ1: bits about the region, layer by layer, then in CAM's and RIB's maps."""
    maps = {"CAM's map": study.seed(CAM).maps, "RIB's map": study.seed(RIB).maps}
    table = study.store.run(
        "bits",
        information.estimate,
        model=study.model,
        images=study.scored,
        teaching=study.tuning,
        maps=maps,
    ).table("bits")
    rows = []
    for (layer, part), own in table.groupby(["layer", "part"], sort=False):
        values = interval(own["bits"])
        rows.append(
            {"layer": layer, "part": part}
            | dict(zip(("bits", "bits_low", "bits_high"), values[:3], strict=True))
        )
    return pd.DataFrame(rows)


def ledger(study: Study) -> pd.DataFrame:
    """What each difference between paper and official code is worth, in points of mIoU.

    A row each: from the paper's side to the official one's, intervals corrected for all rows. 1 to
    8 on the ablated images; 9 there too; 10 and 11 on all scored images, after IRN.
    """
    every = runs(study)
    own = [run for run in every if run.question == "ledger" and run.value != "paper"]
    named, family = [], []
    for run in own:
        if run.value == "a map, no loss":
            continue
        other = ablations.reference(run, every)
        named.append((run.factor, run.value, other.value))
        family.append((found(study, run).counts, found(study, other).counts))
    paper = found(study, next(r for r in every if r.value == "paper"))
    oracle = paper.swept.at(miou.best_threshold(paper.swept.total()))
    named.append(("9 threshold", "oracle", "held out"))
    family.append((oracle, paper.counts))
    for names, pair in (_walked(study), _unlabelled(study)):
        if pair is not None:
            named.append(names)
            family.append(pair)
    gains = intervals.simultaneous(intervals.gain, family)
    rows = [
        {"difference": factor, "value": value, "against": other}
        | _named("gain", gain)
        | {"images": len(pair[0])}
        for (factor, value, other), gain, pair in zip(named, gains, family, strict=True)
    ]
    return pd.DataFrame(rows).sort_values("difference", key=_number, kind="stable")


def _number(column: pd.Series) -> pd.Series:
    return column.map(lambda words: int(words.split()[0]) if words[0].isdigit() else 99)


def _walked(study: Study) -> tuple[tuple, tuple]:
    """Difference 10: RIB after IRN's walk as it is officially, against as the paper has it."""
    own, pair = pipeline.refinements(study)[1], []
    for walk in ("official", "paper"):
        assert walk in WALKS
        maps = [own.irn_maps(images, seeds, walk) for images, seeds in own.maps]
        scored, tuned = (
            study.swept(images, walked) for (images, _), walked in zip(own.maps, maps, strict=True)
        )
        pair.append(scored.at(miou.best_threshold(tuned.total())))
    return ("10 maps into the walk", "power 1.3, one maximum", "as they are"), tuple(pair)


def _unlabelled(study: Study) -> tuple[tuple, tuple | None]:
    """Difference 11: 255 read as background against as an error, after saliency."""
    names = ("11 255 in a label", "background", "an error")
    if not study.profile.saliency:
        return names, None
    refined = pipeline.refinements(study)[1].stage("+ IRN + saliency")
    return names, (refined.background, refined.counts)


def interaction(study: Study) -> pd.DataFrame:
    """RQ4: what each stage adds to RIB's seed beyond what it adds to CAM's, corrected intervals."""
    cam, rib = pipeline.refinements(study)
    stages = [stage for stage in pipeline.stages(study) if stage != "seed"]
    seeds = rib.stage("seed").counts, cam.stage("seed").counts
    family = [(rib.stage(s).counts, cam.stage(s).counts, *seeds) for s in stages]

    def beyond(after_rib, after_cam, rib_seed, cam_seed):
        return intervals.gain(after_rib, rib_seed) - intervals.gain(after_cam, cam_seed)

    rows = []
    for stage, one, values in zip(
        stages, family, intervals.simultaneous(beyond, family), strict=True
    ):
        total = [c.sum(axis=0) for c in one]
        row = {"stage": stage, "on CAM": intervals.gain(total[1], total[3])}
        row |= {"on RIB": intervals.gain(total[0], total[2])} | _named("beyond", values)
        rows.append(row)
    return pd.DataFrame(rows)


# ---- protocol -----------------------------------------------------------------------------------
def protocol(study: Study) -> pd.DataFrame:
    """What the way of measuring is worth, in points of mIoU: a row for each quantity."""
    seeds = {method: study.seed(method) for method in METHODS}
    optimism = [
        miou.miou(s.at("oracle").sum(axis=0)) - miou.miou(s.at("held-out").sum(axis=0))
        for s in seeds.values()
    ]
    by_seed = tables.replicas(study).pivot(index="seed", columns="method", values="miou")
    gains = by_seed[RIB.title] - by_seed[CAM.title]
    after, before = seeds[RIB].at("held-out"), seeds[CAM].at("held-out")
    count = len(after)
    paired = _error(intervals.gain, after, before)
    alone = np.hypot(*(_error(miou.miou, c) for c in (after, before)))
    bias = best_of(study)
    rows = [
        ("oracle threshold over held-out one, mean of the methods", np.mean(optimism), "points"),
        ("the same, at most", np.max(optimism), "points"),
        (f"standard error of RIB's gain over {count} images, paired", paired, "points"),
        (f"standard error over {count} images, unpaired", alone, "points"),
        ("images that tell 1 point apart, paired", intervals.images_needed(paired, count), ""),
        ("images that tell 1 point apart, unpaired", intervals.images_needed(alone, count), ""),
        (f"best of {bias['tried'].max()} settings, too good by", bias["bias"].iloc[-1], "points"),
    ]
    if len(gains) > 1:
        sd = by_seed[RIB.title].std(ddof=1)
        rows.insert(2, ("standard deviation of RIB's mIoU over training seeds", sd, "points"))
        rows.insert(3, ("the same of its gain over CAM", gains.std(ddof=1), "points"))
    return pd.DataFrame(rows, columns=["quantity", "value", "unit"])


def _error(statistic: Callable, *counts: np.ndarray) -> float:
    return float(np.nanstd(intervals.resample(statistic, *counts)[1], ddof=1))


def best_of(study: Study, draws: int = 300) -> pd.DataFrame:
    """How much too good the best of n settings looks on the images that it was picked on.

    n of the ablation's runs are drawn, the best on one random half of the images is picked, and its
    mIoU there is held against that on the other half. tried, bias (points), its standard error.
    """
    every = np.stack([found(study, run).counts for run in _distinct(study)])
    random, rows = np.random.default_rng(study.profile.rng_seed), []
    halves = []
    for _ in range(draws):
        order = random.permutation(every.shape[1])
        half = np.array_split(order, 2)
        halves.append([miou.miou(every[:, part].sum(axis=1)) for part in half])
    for tried in sorted({1, 2, 5, 10, 20, len(every)} & set(range(len(every) + 1))):
        over = []
        for here, there in halves:
            drawn = random.permutation(len(every))[:tried]
            best = drawn[np.argmax(here[drawn])]
            over.append((here[best] - here.mean()) - (there[best] - there.mean()))
        rows.append({"tried": tried, "bias": np.mean(over), "error": np.std(over) / np.sqrt(draws)})
    return pd.DataFrame(rows)


def _distinct(study: Study) -> list[Run]:
    """Runs of one size that differ in what was done."""
    kept = {}
    for run in runs(study):
        if run.scales == study.profile.ablations.scales and run.settings is not None:
            kept[run.settings, run.once] = run
    return list(kept.values())


# ---- claims and answers -------------------------------------------------------------------------
def measured(study: Study) -> dict[str, Measured]:
    """What this run measured of the claims that the ablations decide, by name."""
    images = f"{study.profile.name}, {len(ablated(study))} images, one training seed"
    rib = next(r for r in runs(study) if r.value == "none" and r.factor == "activation")
    given = {}

    def against(names: Sequence[str], others: Sequence[Run], words: str, after: Run = rib) -> None:
        family = [(found(study, after).counts, found(study, run).counts) for run in others]
        for name, values in zip(names, intervals.simultaneous(intervals.gain, family), strict=True):
            given[name] = Measured(*values, "mIoU", f"{images}, {words}")

    saturating = [run for run in runs(study) if run.value.startswith("sigmoid")]
    against(
        ("activation-seed", "activation-seed-matched"),
        saturating,
        "sigmoid (BCE) put back, same rate and rate matched",
    )
    summed, once, last = (
        _named_run(study, value)
        for value in ("each image, summed maps", "once for the set", "each image, last map")
    )
    against(("per-image", "summed-maps"), (once, last), "RIB official, GNDRP", after=summed)
    return given | _layer_measured(study)


def _named_run(study: Study, value: str) -> Run:
    return next(run for run in runs(study) if run.value == value)


def _layer_measured(study: Study) -> dict[str, Measured]:
    """The drop of HGR into the last layer, bodies' beyond heads', paired over images."""
    table = _layer_ratios(study)
    if table["discriminative"].isna().all():
        return {}
    before = [name for name in table["layer"].unique() if name.startswith("level")][-1]
    by_layer = table.set_index(["image", "layer"])
    drop = by_layer.xs(before, level="layer") - by_layer.xs("sigmoid", level="layer")
    values = (drop["non-discriminative"] - drop["discriminative"]).dropna().to_numpy()
    setting = f"{study.profile.name}, {len(values)} images, classifier's last level to its sigmoids"
    return {"real-bottleneck": Measured(*intervals.bootstrap_mean(values), "HGR", setting)}


def answer(study: Study) -> str:
    """What notebook 06 found, a sentence for each question."""
    table = scores(study)
    lines = []
    for question, words in (
        ("RQ1", "last activation"),
        ("RQ2", "pooling"),
        ("RQ3", "setting"),
    ):
        own = table[table["question"] == question]
        best, worst = own.loc[own["gain"].idxmax()], own.loc[own["gain"].idxmin()]
        better = int((own["gain_low"] > 0).sum())
        lines.append(
            f"{question}: of {len(own)} runs {better} beat CAM for certain; best {words}: "
            f"{best['factor']} {best['value']} ({best['gain']:+.1f}), worst: {worst['factor']} "
            f"{worst['value']} ({worst['gain']:+.1f})."
        )
    rows = ledger(study)
    sure = rows[(rows["gain_low"] > 0) | (rows["gain_high"] < 0)]
    names = [f"{r['difference']}: {r['value']} ({r['gain']:+.1f})" for r in sure.to_dict("records")]
    lines.append(f"Ledger: {len(sure)} of {len(rows)} rows matter for certain. {'; '.join(names)}")
    return "\n".join(lines)
