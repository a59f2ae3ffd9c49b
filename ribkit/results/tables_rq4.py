"""Small tables of RQ4, for its figures and its answers, read off stored results."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ribkit.data import views
from ribkit.evaluation import intervals
from ribkit.evaluation import miou as evaluation
from ribkit.evaluation.intervals import Interval
from ribkit.refinement import irn, random_walk, stages
from ribkit.refinement.random_walk import WALKS
from ribkit.results import figures
from ribkit.results.claims import Measured
from ribkit.results.style import HIT, KINDS
from ribkit.results.tables import shrunk, words_for_seeds
from ribkit.runtime.device import device
from ribkit.study import pipeline
from ribkit.study.pipeline import Refinement
from ribkit.study.study import Study

ERRORS = ("missed", "spilled", "confused", "unlabelled")


# ---- seeds to pseudo ground truth ---------------------------------------------------------------
def refinement_scores(study: Study) -> pd.DataFrame:
    """mIoU of each method's labels after each stage: for `figures.refinement`.

    gain: over the method's own seed; over CAM: of RIB over CAM after the same stage; both paired
    over images. Where labels hold 255, once as errors and once as background (difference 11).
    """
    rows = []
    pipeline.train_affinity_models((study,))
    cam, rib = pipeline.refinements(study)
    for stage in pipeline.available_stages(study):
        both = {r.title: (r, r.stage(stage)) for r in (cam, rib)}
        for title, (own, refined) in both.items():
            seed = own.stage("seed")
            for reading in ("error", "background"):
                found = _read(refined, reading)
                if reading == "background" and (found == refined.counts).all():
                    continue
                name = stage if reading == "error" else f"{stage}, 255 as background"
                row = {"method": title, "stage": name, "threshold": refined.threshold}
                row |= _named("", intervals.bootstrap(evaluation.miou, found))
                if stage != "seed":
                    gain = intervals.bootstrap(intervals.gain, found, seed.counts)
                    row |= _named("gain", gain)
                if title == rib.title:
                    other = _read(both[cam.title][1], reading)
                    row |= _named("over", intervals.bootstrap(intervals.gain, found, other))
                rows.append(row | {"images": len(found)})
    return pd.DataFrame(rows)


def _read(refined: pipeline.Refined, reading: str) -> np.ndarray:
    return refined.counts if reading == "error" else refined.background


def _named(prefix: str, values: Interval) -> dict[str, float]:
    names = ("miou", "low", "high") if not prefix else (prefix, f"{prefix}_low", f"{prefix}_high")
    return dict(zip(names, values, strict=True))


def readable(scores: pd.DataFrame) -> pd.DataFrame:
    """`refinement_scores` or `network_scores` for a reader, as text."""
    rows = []
    for row in scores.to_dict("records"):
        line = {k: row[k] for k in ("method", "stage", "trained on", "CRF", "images") if k in row}
        line["mIoU (%)"] = _text(row, "miou", "low", "high")
        for title, key in (
            ("gain over the seed", "gain"),
            ("RIB over CAM", "over"),
            ("gain over CAM's", "gain_cam"),
        ):
            if key in row:
                line[title] = _text(row, key, f"{key}_low", f"{key}_high", "+")
        if "seed_sd" in row:
            one = pd.isna(row["seed_sd"])
            line["sd over seeds"] = "one seed" if one else f"{row['seed_sd']:.1f}"
        rows.append(line)
    return pd.DataFrame(rows)


def _text(row: dict, value: str, low: str, high: str, sign: str = "") -> str:
    if pd.isna(row[value]):
        return ""
    return f"{row[value]:{sign}.1f} ({row[low]:{sign}.1f} to {row[high]:{sign}.1f})"


def errors(study: Study) -> pd.DataFrame:
    """What is wrong with each stage's labels, in % of all pixels: for `figures.refinement_errors`.

    missed: an object's pixel taken for background; spilled: background taken for an object;
    confused: one class for another; unlabelled: 255.
    """
    rows = []
    for own in pipeline.refinements(study):
        for stage in pipeline.available_stages(study):
            shares = error_shares(own.stage(stage).confusion)
            rows.append({"method": own.title, "stage": stage} | shares)
    return pd.DataFrame(rows)


def error_shares(confusion: np.ndarray) -> dict[str, float]:
    """A confusion ``(n, n)`` or ``(n, n + 1)`` -> shares of all its pixels by error, in %."""
    count, total = len(confusion), confusion.sum()
    objects = confusion[1:, 1:count]
    parts = (
        confusion[1:, 0].sum(),
        confusion[0, 1:count].sum(),
        objects.sum() - np.trace(objects),
        confusion[:, count:].sum(),
    )
    return dict(zip(ERRORS, (100 * float(p / total) for p in parts), strict=True))


def training_label_quality(study: Study) -> pd.DataFrame:
    """What IRN and PSA learn from: what share of pixels is sure, and of these right (%)."""
    rows = []
    for own in pipeline.refinements(study):
        for kind in ("IRN", "PSA"):
            images, labels = own.training_labels(kind.lower())[0]
            confusion = own.score(images, labels)["confusion"]
            count = len(confusion)
            said = confusion[:, :count].sum(axis=0)
            objects = np.trace(confusion[1:, 1:count])
            rows.append(
                {
                    "method": own.title,
                    "network": kind,
                    "sure": 100 * said.sum() / confusion.sum(),
                    "right where background": 100 * confusion[0, 0] / max(1, said[0]),
                    "right where object": 100 * objects / max(1, said[1:].sum()),
                }
            )
    return pd.DataFrame(rows)


def refined(study: Study, count: int = 2) -> pd.DataFrame:
    """Some scored images with each stage's labels, right and wrong: for `figures.refined`."""
    images, pictures = study.scored, {}
    for own in pipeline.refinements(study):
        labels = {s: own.stage(s).labels.arrays("labels") for s in pipeline.available_stages(study)}
        for i in range(min(count, len(images))):
            title = f"{own.title}, {images.ids[i]}"
            pictures[title, "image"] = shrunk(images.image(i), 128)
            for stage, maps in labels.items():
                pictures[title, stage] = judged(maps[images.ids[i]], images.mask(i))
    return figures.pictures_table(pictures)


def judged(labels: np.ndarray, mask: np.ndarray, long_side: int = 128) -> np.ndarray:
    """Labels, resized to their mask, as colours ``(h, w, 3)`` uint8: see `style.KINDS`."""
    mine = views.resize_labels(torch.from_numpy(labels), mask.shape).numpy()
    kinds = np.zeros(mask.shape, int)
    kinds[(mask > 0) & (mine == mask)] = HIT
    kinds[(mask > 0) & (mine == 0)] = 2
    kinds[(mask == 0) & (mine > 0)] = 3
    kinds[(mask > 0) & (mine > 0) & (mine != mask)] = 4
    kinds[(mask == 255) | (mine == 255)] = 5
    colours = np.array([colour for _, colour in KINDS], np.uint8)
    step = max(1, -(-max(mask.shape) // long_side))
    return colours[kinds[::step, ::step]]


def walks(study: Study, count: int = 2) -> pd.DataFrame:
    """IRN's boundaries and displacements, and RIB's maps through its walk: for `figures.walks`."""
    own, pictures = pipeline.refinements(study)[1], {}
    images, arrays = own.maps[0]
    network = own.irn.load()
    walk = WALKS[study.profile.walk]
    for i in range(min(count, len(images))):
        name = images.ids[i]
        pixels = views.to_tensor(images.image(i), study.profile.long_side).to(device())
        edge, shift = irn.predict(network, pixels)
        shift = shift / (2 * shift.abs().max() + 1e-6) + 0.5
        coarse = stages.on_grid(arrays[name], edge.shape) ** walk.power
        for k, label in enumerate(np.flatnonzero(images.labels[i])):
            title = f"{name}, {images.classes[label]}"
            pictures[title, "image"] = shrunk(images.image(i), 128)
            panels = {
                "boundary": edge,
                "shift down": shift[0],
                "shift right": shift[1],
                "map": coarse[k],
            }
            for log2_steps in (2, 5, 8):
                walked = random_walk.propagate(coarse, edge, walk.radius, walk.beta, log2_steps)
                peak = walked.max() if walk.one_maximum else walked[k].max()
                panels[f"{2**log2_steps} steps"] = walked[k] / (peak + 1e-5)
            for panel, picture in panels.items():
                pictures[title, panel] = shrunk(picture.cpu().numpy(), 64)
    return figures.pictures_table(pictures)


def psa_tried(study: Study) -> pd.DataFrame:
    """mIoU on the tuning images by method, PSA's alpha and number of steps."""
    rows = [
        {"method": own.title, "alpha": alpha, "steps": 2**steps, "tuning mIoU": miou}
        for own in pipeline.refinements(study)
        for (alpha, steps), miou in own.psa_tried().items()
    ]
    return pd.DataFrame(rows)


# ---- the network --------------------------------------------------------------------------------
def network_scores(study: Study) -> pd.DataFrame:
    """mIoU of the networks on the validation images: for `figures.network`.

    Averaged over replicas; intervals over images and replicas. seed_sd: standard deviation over
    replicas. gain_cam: over the network trained on CAM's labels, paired over images and replicas.
    """
    rows = []
    for crf in (False, True):
        plain = pipeline.network_counts(study, "CAM", crf)
        for source in pipeline.sources(study):
            found = pipeline.network_counts(study, source, crf)
            each = [evaluation.miou(c.sum(axis=0)) for c in found]
            row = {"trained on": source, "CRF": "with CRF" if crf else "without CRF"}
            values = intervals.replicated(evaluation.miou, [(one,) for one in found])
            row |= _named("", values)
            if source != "CAM":
                row |= _named("gain_cam", network_gain(found, plain))
            row["seed_sd"] = float(np.std(each, ddof=1)) if len(each) > 1 else np.nan
            rows.append(row | {"seeds": len(each), "images": len(found[0])})
    return pd.DataFrame(rows)


def network_gain(after: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> Interval:
    """Difference of two sources' mean mIoU with its interval over images and seeds."""
    return intervals.replicated(intervals.gain, list(zip(after, before, strict=True)))


def curves(study: Study) -> pd.DataFrame:
    """Training losses of the networks: for `figures.network_curves`."""
    tables = []
    pipeline.train_networks(study.replicas)
    for source in pipeline.sources(study):
        for replica in study.replicas:
            history = pipeline.network(replica, source).weights.result.table("history")
            seed = {"seed": replica.training_seed}
            tables.append(history.assign(**{"trained on": source}, **seed))
    return pd.concat(tables)


def predictions(study: Study, indices: Sequence[int] = (0, 1, 2)) -> pd.DataFrame:
    """Validation images and what each network says, first seed: for `figures.predictions`."""
    images, pictures = study.validation, {}
    found = {
        s: pipeline.network_labels(study, s).arrays("refined") for s in pipeline.sources(study)
    }
    for i in indices:
        if i >= len(images):
            continue
        name = images.ids[i]
        title = f"{name}, {' '.join(np.array(images.classes)[images.labels[i]])}"
        pictures[title, "image"] = shrunk(images.image(i), 128)
        for source, labels in found.items():
            pictures[title, source] = judged(labels[name], images.mask(i))
    return figures.pictures_table(pictures)


def worst(study: Study, count: int = 3) -> pd.DataFrame:
    """The validation images on which RIB's network is at its worst: for `figures.worst`."""
    scores = evaluation.miou(pipeline.network_counts(study, "RIB", True)[0])
    return predictions(study, np.argsort(scores, kind="stable")[:count].tolist())


# ---- for the claims, and in words ----------------------------------------------------------------
def measured(study: Study) -> dict[str, Measured]:
    """What this run measured of RQ4's claims, by name."""
    _, rib = pipeline.refinements(study)
    images = f"{study.profile.name}, {len(study.scored)} images"
    seeds = words_for_seeds(study)
    pairs = {
        "crf-seed": (rib, "+ CRF", rib, "seed"),
        "psa-seed": (rib, "+ PSA", rib, "seed"),
        "irn-seed": (rib, "+ IRN", rib, "seed"),
    }
    found = {}
    for name, (after, stage, before, other) in pairs.items():
        values = intervals.bootstrap(
            intervals.gain, after.stage(stage).counts, before.stage(other).counts
        )
        setting = f"{images}, {_title(after, stage)} against {_title(before, other)}"
        found[name] = Measured(*values, "mIoU", f"{setting}, thresholds held out")
    pipeline.train_affinity_models(study.replicas, ("irn",))
    both = [pipeline.refinements(replica) for replica in study.replicas]
    pseudo = [tuple(own.stage(pipeline.PSEUDO).counts for own in pair[::-1]) for pair in both]
    setting = f"{images}, {seeds}, RIB + IRN against CAM + IRN, thresholds held out"
    values = intervals.replicated(intervals.gain, pseudo)
    found["rib-pseudo"] = Measured(*values, "mIoU", setting)
    counts = {s: pipeline.network_counts(study, s, True) for s in pipeline.sources(study)}
    val = f"{study.profile.name}, {len(study.validation)} val images"
    val = f"{val}, {seeds}, with CRF"
    found["rib-network"] = Measured(*network_gain(counts["RIB"], counts["CAM"]), "mIoU", val)
    if "RIB + saliency" in counts:
        values = network_gain(counts["RIB + saliency"], counts["RIB"])
        found["saliency-network"] = Measured(*values, "mIoU", val)
    return found


def _title(own: Refinement, stage: str) -> str:
    return own.title if stage == "seed" else f"{own.title} {stage}"


def answer_refinement(study: Study) -> str:
    """What notebook 04 found: each stage that helps, and what those that harm do wrong."""
    scores, wrong = refinement_scores(study), errors(study).set_index(["method", "stage"])
    lines = []
    for row in scores[scores["gain"].notna()].to_dict("records"):
        verdict = "better" if row["gain_low"] > 0 else "worse" if row["gain_high"] < 0 else "level"
        words = f"{row['method']} {row['stage']}: {row['gain']:+.1f} over its seed "
        words += f"({row['gain_low']:+.1f} to {row['gain_high']:+.1f}), {verdict}"
        key = (row["method"], row["stage"])
        if row["gain"] < 0 and key in wrong.index:
            change = wrong.loc[key] - wrong.loc[(row["method"], "seed")]
            words += f"; most of the harm: {change.idxmax()} ({change.max():+.1f} % of the pixels)"
        lines.append(f"{words}.")
    return "\n".join(lines)


def answer_network(study: Study) -> str:
    """What notebook 05 found, a sentence for each source."""
    scores = network_scores(study)
    lines = []
    for row in scores[scores["CRF"] == "with CRF"].to_dict("records"):
        words = f"Trained on {row['trained on']}: {row['miou']:.1f} mIoU "
        words += f"({row['low']:.1f} to {row['high']:.1f})"
        if not pd.isna(row.get("gain_cam", np.nan)):
            words += f", {row['gain_cam']:+.1f} over CAM's "
            words += f"({row['gain_cam_low']:+.1f} to {row['gain_cam_high']:+.1f})"
        lines.append(f"{words}.")
    return "\n".join(lines)
