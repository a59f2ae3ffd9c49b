"""Small tables of the study, for its figures and its answers, read off stored results."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image

from ribkit.data.images import ImageSet
from ribkit.evaluation import intervals
from ribkit.evaluation import miou as evaluation
from ribkit.evaluation.thresholds import THRESHOLDS
from ribkit.results import figures, tables_toy
from ribkit.results.claims import Measured
from ribkit.runtime.store import Result
from ribkit.study.ablations import NO_MARGIN
from ribkit.study.study import CAM, METHODS, RIB, RIBS, Method, Study


def samples(study: Study, count: int = 4) -> pd.DataFrame:
    """Some scored images, their masks, and on `mini` their heads: for `figures.samples`."""
    images, pictures = study.scored, {}
    for i in range(min(count, len(images))):
        names = ", ".join(np.array(images.classes)[images.labels[i]])
        title = f"{images.ids[i]}, {names}"
        mask = images.mask(i)
        pictures[title, "image"] = shrunk(images.image(i), 160)
        pictures[title, "objects"] = shrunk(((mask > 0) & (mask < 255)).astype(float), 160)
        if hasattr(images.source, "heads"):
            pictures[title, "heads"] = (images.source.heads(images.ids[i]) > 0).astype(float)
    return figures.pictures_table(pictures)


def training(study: Study) -> pd.DataFrame:
    """Losses by stage, images and epoch: for `figures.training`."""
    stages = {"classifier": study.classifier}
    if study.profile.backbone == "small":
        stages = {"pretext task": study.pretext} | stages
    rows = []
    for stage, result in stages.items():
        for row in result.table("history").to_dict("records"):
            for images, column in (("training", "loss"), ("tuning", "monitor_loss")):
                if column in row:
                    line = {"stage": stage, "images": images, "epoch": row["epoch"]}
                    rows.append(line | {"loss": row[column]})
    return pd.DataFrame(rows)


def thresholds(study: Study, methods: Sequence[Method] = METHODS) -> pd.DataFrame:
    """Seed mIoU of the scored images at each threshold: for `figures.thresholds`."""
    tables = []
    for method in methods:
        miou = evaluation.miou(study.seed(method).swept.total())
        columns = {"threshold": THRESHOLDS, "miou": miou}
        tables.append(pd.DataFrame({"method": method.title} | columns))
    return pd.concat(tables)


def seed_scores(study: Study, methods: Sequence[Method] = METHODS) -> pd.DataFrame:
    """Seed mIoU by method and choice of threshold; the gain over CAM is paired over images."""
    plain, rows = study.seed(CAM), []
    for method in methods:
        seed = study.seed(method)
        for choice in ("oracle", "held-out"):
            at = seed.at(choice)
            row = {"method": method.title, "threshold chosen": choice}
            row["threshold"] = (seed.oracle if choice == "oracle" else seed.held_out) / 100
            values = intervals.bootstrap(evaluation.miou, at)
            row |= dict(zip(("miou", "low", "high"), values, strict=True))
            if method != CAM:
                values = intervals.bootstrap(intervals.gain, at, plain.at(choice))
                row |= dict(zip(("gain", "gain_low", "gain_high"), values, strict=True))
            rows.append(row | {"images": len(at)})
    return pd.DataFrame(rows)


def replicas(study: Study) -> pd.DataFrame:
    """Seed mIoU (held out) of CAM, RIB with GAP and RIB, by training seed: `figures.replicas`."""
    rows = []
    for replica in study.replicas:
        for method in (CAM, RIBS[2], RIB):
            miou = evaluation.miou(replica.seed(method).at("held-out").sum(axis=0))
            rows.append({"method": method.title, "seed": replica.training_seed, "miou": miou})
    return pd.DataFrame(rows)


def readable(scores: pd.DataFrame) -> pd.DataFrame:
    """`seed_scores` for a reader: numbers with their intervals, rounded, as text."""

    def text(row, value: str, low: str, high: str, sign: str = "") -> str:
        if pd.isna(row[value]):
            return ""
        return f"{row[value]:{sign}.1f} ({row[low]:{sign}.1f} to {row[high]:{sign}.1f})"

    rows = [
        {
            "method": row["method"],
            "threshold": f"{row['threshold']:.2f}, {row['threshold chosen']}",
            "seed mIoU (%)": text(row, "miou", "low", "high"),
            "gain over CAM": text(row, "gain", "gain_low", "gain_high", "+"),
            "images": row["images"],
        }
        for row in scores.to_dict("records")
    ]
    return pd.DataFrame(rows)


def classes(study: Study, methods: Sequence[Method] = (CAM,)) -> pd.DataFrame:
    """IoU (%) of each class and method at the held-out threshold."""
    names = ("background", *study.scored.classes)
    columns = {m.title: evaluation.iou(study.seed(m).at("held-out").sum(axis=0)) for m in methods}
    return pd.DataFrame({"class": names} | columns)


def tuning(study: Study, methods: Sequence[Method] = RIBS) -> pd.DataFrame:
    """All that was tried on the tuning images, CAM's scales included: for `figures.tuning`."""
    return pd.concat([study.tried_scales(), *(study.tune(method)[0] for method in methods)])


def process(study: Study, methods: Sequence[Method] = RIBS) -> pd.DataFrame:
    """How the adaptations of the scored images went: steps, why they ended, logits, areas."""
    rows = []
    for method in methods:
        images = study.seed(method).maps.table("images")
        row = {"method": method.title, "steps": images["steps"].mean()}
        for reason in ("steps", "margin", "area", "diverged"):
            row[f"ended by {reason} (%)"] = 100 * (images["reason"] == reason).mean()
        for column in ("logit_first", "logit_last", "area_first", "area_last"):
            row[column] = images[column].mean()
        rows.append(row)
    return pd.DataFrame(rows)


def coverage(study: Study, methods: Sequence[Method] = METHODS) -> pd.DataFrame:
    """Coverage of objects (of heads and bodies) and off them, by image: for `figures.coverage`."""
    tables = []
    for method in methods:
        shares = study.coverage(method).drop(columns="class")
        means = shares.groupby("image", sort=False).mean()
        means.insert(0, "method", method.title)
        tables.append(means.reset_index())
    return pd.concat(tables)


def growth(study: Study, method: Method = RIB) -> pd.DataFrame:
    """Maps of some scored images through the process: for `figures.growth`."""
    images, grown = study.growth(method)
    return _process_pictures(images, grown, outlines=True)


def photographs(study: Study) -> pd.DataFrame:
    """Maps of shipped photographs through the process: for `figures.photographs`."""
    return _process_pictures(*study.photographs())


def _process_pictures(images: ImageSet, grown: Result, outlines: bool = False) -> pd.DataFrame:
    """Photograph, maps at some steps, and their sum; a row per class.

    An adaptation that ended before a step shows its last.
    """
    steps, sums, pictures = grown.arrays("step"), grown.arrays("sum"), {}
    for i, name in enumerate(images.ids):
        last = len(steps[name]) - 1
        shown = {"CAM": 0, "step 2": min(2, last), "step 5": min(5, last), "last step": last}
        for k, label in enumerate(np.flatnonzero(images.labels[i])):
            title = f"{name.split('.')[0]}, {images.classes[label]}"
            pictures[title, "image"] = shrunk(images.image(i), 160)
            for panel, step in shown.items():
                pictures[title, panel] = shrunk(steps[name][step, k], 64)
            pictures[title, "RIB (sum)"] = shrunk(sums[name][k], 64)
            if outlines:
                mask = (images.mask(i) == label + 1).astype(float)
                pictures[title, "object"] = shrunk(mask, 64)
    return figures.pictures_table(pictures)


def shrunk(picture: np.ndarray, long_side: int) -> np.ndarray:
    """``(H, W, 3)`` uint8 or ``(H, W)`` float, made at most so long; smaller ones stay."""
    factor = long_side / max(picture.shape[:2])
    if factor >= 1:
        return picture.astype(float) if picture.ndim == 2 else picture
    height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
    pixels = picture if picture.ndim == 3 else picture.astype(np.float32)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


# ---- measured differences, for the claims ------------------------------------------------------
def measured(study: Study) -> dict[str, Measured]:
    """What this run measured of each claim of `ribkit.results.claims`, by the claim's name."""
    images = f"{study.profile.name}, {len(study.scored)} images, {words_for_seeds(study)}"
    found = toy_measured(study)
    for name, after, before, choice in (
        ("gndrp-seed", RIB, RIBS[2], "held-out"),
        ("rib-seed", RIB, CAM, "held-out"),
        ("rib-seed-oracle", RIB, CAM, "oracle"),
    ):
        each = [(r.seed(after).at(choice), r.seed(before).at(choice)) for r in study.replicas]
        values = intervals.replicated(intervals.gain, each)
        setting = f"{images}, {after.title} against {before.title}, {choice} threshold"
        found[name] = Measured(*values, "mIoU", setting)
    if hasattr(study.scored.source, "heads"):
        for name, after, before in (
            ("gndrp-coverage", RIB, RIBS[2]),
            ("rib-coverage", RIB, CAM),
        ):
            values = _coverage_gain(study, after, before)
            setting = f"{images}, {after.title} against {before.title}, held-out thresholds"
            found[name] = Measured(*values, "points of bodies covered", setting)
    return found


def words_for_seeds(study: Study) -> str:
    """How many training seeds a claim rests on, in words."""
    count = study.profile.replicas
    return f"{count} training seeds" if count > 1 else "one training seed"


def toy_measured(study: Study) -> dict[str, Measured]:
    """RQ1's differences: the drop from G5 to G6, and what removing the activation gives back."""
    hgr = study.toy().table("hgr")
    digits = study.digits()
    setting = f"{digits.name}, sigmoid, {hgr['seed'].nunique()} seeds"
    drop = tables_toy.last_drop(hgr).set_index(tables_toy.KEYS)
    row = drop.loc[("sigmoid", "trained", "sum", "after")]
    found = {
        "last-layer-bottleneck": Measured(
            row["mean"], row["low"], row["high"], "HGR", f"{setting}, outputs summed"
        )
    }
    row = tables_toy.removal_beyond_control(hgr)
    setting = f"{setting}, beyond what a meaningless shape gets back"
    found["activation-removed"] = Measured(row["mean"], row["low"], row["high"], "HGR", setting)
    return found


def _coverage_gain(study: Study, after: Method, before: Method) -> tuple[float, float, float]:
    """Difference in the mean share of bodies covered, in points, over images and replicas."""
    each = []
    for replica in study.replicas:
        table = coverage(replica, (before, after))
        table = table.pivot(index="image", columns="method", values="body")
        each.append(100 * (table[after.title] - table[before.title]).dropna().to_numpy())
    if len(each) == 1:
        return intervals.bootstrap_mean(each[0])
    over_images = np.mean(each, axis=0)
    error = over_images.std(ddof=1) / np.sqrt(len(over_images))
    return intervals.combined(np.mean(each, axis=1), error, len(over_images))


def settings(study: Study) -> pd.DataFrame:
    """The settings each method was given, and the profile's name and seed."""
    rows = [{"method": CAM.title, "scales": study.scales}]
    for method in RIBS:
        chosen = study.tune(method)[1]
        row = {"method": method.title, "scales": study.scales, "lr": chosen.lr}
        margin = f"{chosen.margin:g}" if chosen.margin < NO_MARGIN else "none"
        rows.append(row | {"margin": margin, "n_others": chosen.n_others, "steps": chosen.steps})
    return pd.DataFrame(rows).fillna("")


# ---- answers, in words --------------------------------------------------------------------------
def answer_baseline(study: Study) -> str:
    """What notebook 02 found, in a sentence."""
    oracle, held_out = seed_scores(study, (CAM,)).to_dict("records")
    interval = f"{held_out['low']:.1f} to {held_out['high']:.1f}"
    return (
        f"CAM gives a seed of {held_out['miou']:.1f} mIoU ({interval}) on {held_out['images']} "
        "images with a threshold chosen on other images, "
        f"and {oracle['miou']:.1f} with the best threshold for these very images."
    )


def answer_rib(study: Study) -> str:
    """What notebook 03 found, in a sentence or two."""
    scores = seed_scores(study, (CAM, *RIBS))
    ribs = scores[(scores["threshold chosen"] == "held-out") & scores["gain"].notna()]
    best = ribs.loc[ribs["gain"].idxmax()]
    lines = [
        f"{row['method']}: {row['gain']:+.1f} over CAM ({row['gain_low']:+.1f} to "
        f"{row['gain_high']:+.1f})."
        for row in ribs.to_dict("records")
    ]
    found = "better than" if best["gain_low"] > 0 else "not shown to be better than"
    lines.append(f"At its best, {best['method']}, the seed is {found} CAM's.")
    return "\n".join(lines)
