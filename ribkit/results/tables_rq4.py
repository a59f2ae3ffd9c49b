"""Small tables and pictures of RQ4: from seeds to pseudo ground truth, and the networks."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
import torch

from ribkit.data.images import ImageSet
from ribkit.data.views import resize_labels
from ribkit.evaluation.miou import miou
from ribkit.results.style import KINDS, Pictures
from ribkit.results.tables import each_class, scored, shrunk, title_of
from ribkit.runtime.store import Result
from ribkit.study import pipeline
from ribkit.study.inputs import first
from ribkit.study.panels import WALK_LOG2_STEPS, irn_panels
from ribkit.study.study import Study


# ---- seeds to pseudo ground truth ---------------------------------------------------------------
def stage_counts(study: Study, title: str, stage: str, value: str = "counts") -> list[np.ndarray]:
    """Counts ``(N, 3, n)`` of labels after a stage, one for each replica.

    title: one of `pipeline.STARTS`; value: ``counts``, or another field of `pipeline.Refined`.
    """
    pipeline.train(study.replicas, "irn", "psa", "saliency")
    methods = (pipeline.refinement(one, title) for one in study.replicas)
    return [getattr(method.stage(stage), value) for method in methods]


@cache
def refinement_scores(study: Study) -> pd.DataFrame:
    """mIoU of the labels of each of `pipeline.STARTS` after each stage, over all replicas.

    over_seed: gain over the method's own seed; over_cam: over CAM's labels after the same stage;
    both paired over images and replicas. Where labels hold 255, once as errors and once as
    background (difference 11).
    """
    rows = []
    for stage in pipeline.available_stages(study):
        for title in pipeline.available_starts(study):
            error = stage_counts(study, title, stage)
            for suffix, value in (("", "counts"), (", 255 as background", "background")):
                counts = stage_counts(study, title, stage, value)
                if suffix and all(map(np.array_equal, counts, error)):
                    continue
                row, others = {"method": title, "stage": stage + suffix}, {}
                if stage != "seed":
                    others["over_seed"] = stage_counts(study, title, "seed")
                if title != "CAM":
                    others["over_cam"] = stage_counts(study, "CAM", stage, value)
                rows.append(row | scored(counts, **others))
    return pd.DataFrame(rows)


def walk_choices(study: Study) -> pd.DataFrame:
    """What was chosen of IRN's and of PSA's walk, by method and training."""
    rows = []
    for one in study.replicas:
        for title, method in pipeline.refinements(one).items():
            for walk, tuned in (("IRN", method.irn_tuned), ("PSA", method.psa_tuned)):
                row = {"walk": walk, "method": title, "training": one.training_seed}
                row |= tuned.chosen | {"trials": tuned.trials, "at an edge": tuned.edges}
                rows.append(row)
    return pd.DataFrame(rows).sort_values("walk", kind="stable")


def affinity_curves(study: Study) -> pd.DataFrame:
    """Loss of each training of IRN and of PSA by epoch, on the labels that it learns from."""
    curves = [
        trained.weights.result.table("history").assign(
            network=name, method=title, training=one.training_seed
        )
        for one in study.replicas
        for title, method in pipeline.refinements(one).items()
        for name, trained in (("IRN", method.irn), ("PSA", method.psa))
    ]
    return pd.concat(curves).sort_values("network", kind="stable")


def errors(study: Study) -> pd.DataFrame:
    """What is wrong with each stage's labels, in % of all pixels: see `error_shares`."""
    rows = []
    for title in pipeline.available_starts(study):
        for stage in pipeline.available_stages(study):
            total = sum(stage_counts(study, title, stage, "confusion"))
            rows.append({"method": title, "stage": stage} | error_shares(total))
    return pd.DataFrame(rows)


def error_shares(confusion: np.ndarray) -> dict[str, float]:
    """Shares of pixels by error, in %.

    confusion: ``(n, n)`` or ``(n, n + 1)``, targets in rows, label 255 in the last column.
    """
    count, total = len(confusion), confusion.sum()
    objects = confusion[1:, 1:count]
    parts = {
        "false negative": confusion[1:, 0].sum(),
        "false positive": confusion[0, 1:count].sum(),
        "wrong class": objects.sum() - np.trace(objects),
        "ignored": confusion[:, count:].sum(),
    }
    return {name: 100 * float(part / total) for name, part in parts.items()}


def refined(study: Study) -> Pictures:
    """Some scored images with each stage's labels, right and wrong."""
    images, pictures = first(study.scored, 2), {}
    for own, method in pipeline.refinements(study).items():
        titles = [f"{own}, {name}" for name in images.ids]
        labels = {s: method.stage(s).labels for s in pipeline.available_stages(study)}
        pictures |= _judged(images, titles, labels, "labels")
    return pictures


def _judged(images: ImageSet, titles: list, labels: dict[str, Result], value: str) -> Pictures:
    """Images, and beside each what stored label maps get right and wrong, a panel for each."""
    pictures = {}
    for title, image in zip(titles, images, strict=True):
        pictures[title, "image"], mask = shrunk(image.pixels(), 128), image.mask()
        for panel, result in labels.items():
            pictures[title, panel] = judged(result.arrays(value)[image.name], mask)
    return pictures


def judged(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What a label map ``(h, w)`` gets right and wrong, as colours ``(h', w', 3)`` of `KINDS`.

    255 in the labels or the mask is ignored; pixels are left out to keep to 128 on the long side.
    """
    predicted = resize_labels(torch.from_numpy(labels), mask.shape).numpy()
    ignored = (mask == 255) | (predicted == 255)
    background = (mask == 0) & (predicted == 0)
    cases = [ignored, background, mask == predicted, predicted == 0, mask == 0]
    kinds = np.select(cases, [5, 0, 1, 2, 3], 4)
    colours = np.array([colour for _, colour in KINDS], np.uint8)
    step = max(1, -(-max(mask.shape) // 128))
    return colours[kinds[::step, ::step]]


def walks(study: Study, count: int = 2) -> Pictures:
    """IRN's boundaries and displacements, and RIB's maps through its walk."""
    images, rib = first(study.scored, count), pipeline.refinement(study, "RIB")
    walk, side = rib.walk, study.profile.long_side
    shown = {"model": rib.irn, "images": images, "maps": rib.scored[1]}
    result = study.store.run(irn_panels, **shown, walk=walk, long_side=side)
    steps = ("map", *(f"{2**log2_steps} steps" for log2_steps in WALK_LOG2_STEPS))
    pictures = {}
    for title, image, k in each_class(images):
        edge, shift, maps = (result.arrays(v)[image.name] for v in ("edges", "shifts", "maps"))
        panels = {"boundary": edge, "shift down": shift[0], "shift right": shift[1]}
        panels |= dict(zip(steps, maps[k], strict=True))
        pictures[title, "image"] = shrunk(image.pixels(), 128)
        for panel, picture in panels.items():
            pictures[title, panel] = shrunk(picture, 64)
    return pictures


# ---- the network --------------------------------------------------------------------------------
@cache
def network_scores(study: Study) -> pd.DataFrame:
    """mIoU of the networks on the validation images, with intervals over images and replicas.

    over_cam: gain over the network trained on CAM's labels. sd: over replicas.
    """
    rows = []
    for crf in (False, True):
        plain = pipeline.network_counts(study, "CAM", crf)
        for source in pipeline.sources(study):
            counts = pipeline.network_counts(study, source, crf)
            scores = [miou(each.sum(axis=0)) for each in counts]
            row = {"trained on": source, "CRF": "with CRF" if crf else "without CRF"}
            row |= scored(counts, **({} if source == "CAM" else {"over_cam": plain}))
            row["sd"] = float(np.std(scores, ddof=1)) if len(scores) > 1 else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def predictions(study: Study, indices: Sequence[int] = (0, 1, 2)) -> Pictures:
    """Validation images and the predictions of each network, first seed, right and wrong."""
    images = study.validation.take([i for i in indices if i < len(study.validation)])
    labels = {s: pipeline.network_labels(study, s) for s in pipeline.sources(study)}
    return _judged(images, [title_of(image, " ") for image in images], labels, "refined")


def worst(study: Study, count: int = 3) -> Pictures:
    """`predictions` on which RIB's network is at its worst."""
    scores = miou(pipeline.network_counts(study, "RIB", True)[0])
    return predictions(study, np.argsort(scores, kind="stable")[:count].tolist())
