"""Small tables and pictures of the ablations (notebook 06), see `ribkit.study.ablation_runs`."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pandas as pd

from ribkit.data.digits import REGIONS
from ribkit.evaluation import intervals
from ribkit.evaluation.intervals import simultaneous, with_interval
from ribkit.evaluation.miou import miou
from ribkit.evaluation.thresholds import THRESHOLDS, best_threshold
from ribkit.method.settings import NO_MARGIN
from ribkit.refinement.random_walk import WALKS
from ribkit.results.style import Pictures
from ribkit.results.tables import each_class, object_of, replicas, shrunk
from ribkit.results.tables_toy import means
from ribkit.study import ablation_runs, information, pipeline
from ribkit.study.ablation_runs import PAPER_RIB, ablated_images, ledger_runs, runs
from ribkit.study.ablations import PARTS
from ribkit.study.inputs import first
from ribkit.study.panels import GRADIENT_PANELS, gradient_region
from ribkit.study.study import CAM, RIB, Study


@cache
def family(study: Study, question: str) -> pd.DataFrame:
    """CAM and RIB, then the runs of one question: they are one family of intervals.

    miou has its interval over images; gain over CAM, on the same scales and with the same
    activation inside, has one corrected for all runs of the question. Shares of heads, bodies and
    all else that the maps cover, and HGR of the last layer there, are in %.
    """
    shown = [run for run in runs(study) if run.question in ("all", question)]
    results = [ablation_runs.run_result(study, run) for run in shown]
    both = list(zip(shown, results, strict=True))
    cams = {run.saturates: one.counts for run, one in both if run.settings is None}
    gains = simultaneous(intervals.gain, [(one.counts, cams[run.saturates]) for run, one in both])
    rows = []
    for (run, result), gain in zip(both, gains, strict=True):
        row = {name: getattr(run, name) for name in ("question", "factor", "value", "x")}
        row |= with_interval("miou", intervals.bootstrap(miou, result.counts))
        for name, shares in (("cover", result.cover), ("HGR", result.hgr)):
            for part, values in zip(PARTS, shares.T, strict=True):
                if not np.isnan(values).all():
                    row[f"{name} {part}"] = float(100 * np.nanmean(values))
        row |= {"steps": result.steps, "images": len(result.counts)}
        rows.append(row | with_interval("gain", gain))
    return pd.DataFrame(rows)


# ---- the figures' tables ------------------------------------------------------------------------
def activations(study: Study) -> pd.DataFrame:
    """RQ1: gain over CAM by last activation, at the same rate and at the matched one."""
    return family(study, "RQ1").iloc[2:]


def sensitivity(study: Study) -> pd.DataFrame:
    """RQ3: mIoU and gain against K, rate, margin and B, after CAM's and RIB's.

    Its column ``chosen`` marks RIB's settings.
    """
    table = family(study, "RQ3").assign(chosen=False)
    base, tried = table.iloc[:2], table.iloc[2:].query("factor != 'adaptation'")
    settings = runs(study)[1].settings
    at = {"steps K": settings.steps, "learning rate": settings.lr, "others B": settings.n_others}
    tuned = ablation_runs.at_own_scales(study)
    unit = tuned.margin_unit(PAPER_RIB) * tuned.margin_rows(tuned.scales)
    at["margin"] = round(settings.margin / unit, 2) if settings.margin < NO_MARGIN else 0
    rib = base.iloc[1].to_dict() | {"question": "RQ3", "chosen": True}
    chosen = [rib | {"factor": factor, "x": x, "value": str(x)} for factor, x in at.items()]
    merged = pd.concat([tried, pd.DataFrame(chosen)]).drop_duplicates(["factor", "x"], keep="last")
    return pd.concat([base, merged.sort_values(["factor", "x"], kind="stable")])


def adaptations(study: Study) -> pd.DataFrame:
    """RQ3: none, one for the set, each image; last map or sum."""
    return family(study, "RQ3").query("factor == 'adaptation'")


def gradient_pixels(study: Study) -> Pictures:
    """RQ2: which positions of a map get gradient from each pooling, at the first step."""
    images, pictures = first(ablated_images(study), 3), {}
    seen = {"images": images, "long_side": study.profile.long_side}
    panels = study.store.run(gradient_region, model=study.model, **seen).arrays("panels")
    for title, image, k in each_class(images):
        pictures[title, "image"] = shrunk(image.pixels(), 128)
        pictures[title, "object"] = object_of(image, k)
        for panel, picture in zip(GRADIENT_PANELS, panels[image.name][k], strict=True):
            pictures[title, panel] = picture
    return pictures


def layer_ratios(study: Study) -> pd.DataFrame:
    """HGR of the ablated images, see `information.layers`."""
    seen = {"images": ablated_images(study), "long_side": study.profile.long_side}
    return study.store.run(information.layers, model=study.model, **seen).table("hgr")


def layers(study: Study) -> pd.DataFrame:
    """RQ1: HGR of the trained classifier, layer by layer: mean and interval over images."""
    rows = []
    for layer, table in layer_ratios(study).groupby("layer", sort=False):
        for region in REGIONS:
            values = table[region].dropna().to_numpy()
            if len(values):
                mean = intervals.bootstrap_mean(values)
                rows.append({"layer": layer, "region": region} | with_interval("hgr", mean))
    return pd.DataFrame(rows)


def bits(study: Study) -> pd.DataFrame:
    """RQ1: bits about the region, layer by layer, then in CAM's and RIB's maps."""
    maps = {f"{m.short}'s map": study.seed(m).maps.arrays("maps") for m in (CAM, RIB)}
    shown = {"images": study.scored, "probe_train_images": study.tuning, "maps": maps}
    shown |= {"long_side": study.profile.long_side}
    table = study.store.run(information.estimate, model=study.model, **shown).table("bits")
    names = {"mean": "bits", "low": "bits_low", "high": "bits_high"}
    return means(table, ["layer", "part"], "bits").drop(columns="n").rename(columns=names)


# ---- the eleven differences between paper and official code -------------------------------------
@cache
def ledger(study: Study) -> pd.DataFrame:
    """What each difference between paper and official code is worth, in points of mIoU.

    A row each: from the paper's side to the official one's, intervals corrected for all rows. 1 to
    9 on the ablated images; 10 and 11 on all scored images, after IRN.
    """
    every, compared = ledger_runs(study), {}
    for run in every:
        other = next(r for r in every if r.scales == run.scales)
        if run is not other:
            pair = tuple(ablation_runs.run_result(study, r).counts for r in (run, other))
            compared[run.factor, run.value, other.value] = pair
    paper = ablation_runs.run_result(study, every[0])
    oracle = paper.swept.at(best_threshold(paper.swept.total()))
    compared["9 threshold", "oracle", "of other folds"] = (oracle, paper.counts)
    walk = ("10 maps into the walk", "power 1.3, one maximum", "as they are")
    compared[walk] = _walked_both_ways(study)
    if study.profile.saliency:
        cut = pipeline.refinement(study, "RIB").stage("+ IRN + saliency")
        compared["11 255 in a label", "background", "an error"] = (cut.background, cut.counts)
    table = pd.DataFrame(list(compared), columns=["difference", "value", "against"])
    gains = simultaneous(intervals.gain, list(compared.values()))
    table = table.join(pd.DataFrame([with_interval("gain", gain) for gain in gains]))
    table["images"] = [len(after) for after, _ in compared.values()]
    number = table["difference"].str.extract(r"^(\d+)", expand=False).fillna("99").astype(int)
    return table.loc[number.sort_values(kind="stable").index]


def _walked_both_ways(study: Study) -> tuple[np.ndarray, ...]:
    """Counts of RIB after IRN's walk, as the official code and as the paper has it."""
    rib, counts = pipeline.refinement(study, "RIB"), []
    for name in ("official", "paper"):
        walk = replace(WALKS[name], **rib.irn_tuned.chosen)
        scored, tuned = (
            study.swept(images, rib.irn_maps(images, seeds, walk))
            for images, seeds in (rib.scored, rib.tuning)
        )
        counts.append(scored.at(best_threshold(tuned.total())))
    return tuple(counts)


def interaction(study: Study) -> pd.DataFrame:
    """RQ4: what each stage adds to RIB's seed beyond what it adds to CAM's, corrected intervals."""
    cam, rib = (pipeline.refinement(study, title) for title in ("CAM", "RIB"))
    _, *stages = pipeline.available_stages(study)
    rib_seed, cam_seed = rib.stage("seed").counts, cam.stage("seed").counts
    compared = [
        (rib.stage(stage).counts, rib_seed, cam.stage(stage).counts, cam_seed) for stage in stages
    ]
    totals = [[counts.sum(axis=0) for counts in each] for each in compared]
    gains = {
        "stage": stages,
        "on CAM": [intervals.gain(*each[2:]) for each in totals],
        "on RIB": [intervals.gain(*each[:2]) for each in totals],
    }
    found = simultaneous(intervals.more_gain, compared)
    differences = [with_interval("beyond", values) for values in found]
    return pd.DataFrame(gains).join(pd.DataFrame(differences))


# ---- protocol -----------------------------------------------------------------------------------
def protocol(study: Study) -> pd.DataFrame:
    """What the way of measuring is worth, in points of mIoU: a row for each quantity.

    Where tuning left RIB still, its maps are almost CAM's, and how alike they are says nothing of
    two methods: rows of that are left out.
    """
    seeds = {method: study.seed(method) for method in study.methods}
    optimism = [
        intervals.gain(*(seed.at(choice).sum(axis=0) for choice in ("oracle", "held-out")))
        for seed in seeds.values()
    ]
    by_seed = replicas(study).pivot(index="training", columns="method", values="miou")
    gains, moves = by_seed[RIB.title] - by_seed[CAM.title], not study.stilled(RIB)
    after, before = seeds[RIB].at("held-out"), seeds[CAM].at("held-out")
    count = len(after)
    alone = np.hypot(*(intervals.errors_of(miou, [(each,)])[1] for each in (after, before)))
    errors = {"unpaired": alone}  # of RIB's gain
    if moves:
        errors = {"paired": intervals.errors_of(intervals.gain, [(after, before)])[1]} | errors
    bias, tuned = best_of(study), f"{len(study.tuning)} tuning images"
    of_all = f", of the mean over {len(gains)} trainings" if len(gains) > 1 else ""
    needed = {name: intervals.images_needed(error, count) for name, error in errors.items()}
    rows = [
        ("oracle threshold over held-out one, mean of the methods", np.mean(optimism), "points"),
        ("the same, at most", np.max(optimism), "points"),
        *(
            (f"standard error of RIB's gain over {count} images, {how}", errors[how], "points")
            for how in errors
        ),
        (
            f"standard error by which {tuned} choose thresholds{of_all}",
            _threshold_error(study),
            "points",
        ),
        *((f"images that tell 1 point apart, {how}", needed[how], "") for how in errors),
        (f"best of {bias['tried'].max()} settings, too good by", bias["bias"].iloc[-1], "points"),
    ]
    if len(gains) > 1:
        sd = by_seed[RIB.title].std(ddof=1)
        rows.insert(2, ("standard deviation of RIB's mIoU over trainings", sd, "points"))
        if moves:
            rows.insert(3, ("the same of its gain over CAM", gains.std(ddof=1), "points"))
    return pd.DataFrame(rows, columns=["quantity", "value", "unit"])


def _threshold_error(study: Study) -> float:
    """Standard error of RIB's gain, a mean over trainings, by which tuning images choose both
    thresholds; no interval counts it.
    """
    resampled = []
    for one in study.replicas:
        tuning, scores = [], []
        for method in (RIB, CAM):
            (maps,) = one.seeds(method, study.tuning)
            swept = one.swept(study.tuning, maps)
            tuning.append(np.stack([swept.at(k) for k in range(len(THRESHOLDS))], axis=1))
            scores.append(miou(one.seed(method).swept.total()))
        resampled.append(intervals.resample(partial(_gain_at_best, *scores), *tuning))
    return intervals.errors_over_trainings(resampled, len(study.tuning))[1]


def _gain_at_best(
    rib: np.ndarray, cam: np.ndarray, rib_tuning: np.ndarray, cam_tuning: np.ndarray
) -> np.ndarray:
    """Gain of scores ``(100,)``, each at what is best for tuning counts ``(..., 100, 3, n)``."""
    after = rib[np.nanargmax(miou(rib_tuning), axis=-1)]
    return after - cam[np.nanargmax(miou(cam_tuning), axis=-1)]


@cache
def best_of(study: Study, draws: int = 300) -> pd.DataFrame:
    """How much too good the best of n settings looks on the images that it was picked on.

    n of the ablation's runs are drawn, the best on one random half of the images is picked, and its
    mIoU there is held against that on the other half. tried, bias (points), and its standard error
    over the halves, which are all of the same images.
    """
    scales = study.profile.ablations.scales
    every = (*runs(study), *ledger_runs(study))
    adapted = [run for run in every if run.settings is not None and run.scales == scales]
    different = {(run.settings, run.once, run.saturates): run for run in adapted}
    every = np.stack([ablation_runs.run_result(study, run).counts for run in different.values()])
    random, rows, halves = np.random.default_rng(study.profile.rng_seed), [], []
    for _ in range(draws):
        half = np.array_split(random.permutation(every.shape[1]), 2)
        halves.append([miou(every[:, part].sum(axis=1)) for part in half])
    for tried in sorted({1, 2, 5, 10, 20, len(every)} & set(range(len(every) + 1))):
        over = []
        for here, there in halves:
            drawn = random.permutation(len(every))[:tried]
            best = drawn[np.argmax(here[drawn])]
            over.append((here[best] - here.mean()) - (there[best] - there.mean()))
        rows.append({"tried": tried, "bias": np.mean(over), "error": np.std(over) / np.sqrt(draws)})
    return pd.DataFrame(rows)
