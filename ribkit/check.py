"""What a run will take, before it starts: a sample of each stage is measured, then multiplied.

The sample runs the stages themselves, on two of the scored images, one for the start and one for
the clock; a training for one iteration and for three. Nothing of it is kept. Per-image stages are
divided by the workers; trainings run on one device here (under torchrun on more).
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ribkit.data import scenes
from ribkit.networks import classifier as classifiers
from ribkit.networks import deeplab
from ribkit.networks.training import steps
from ribkit.refinement import irn, psa, stages
from ribkit.refinement.random_walk import WALKS
from ribkit.refinement.stages import AffinityModel
from ribkit.runtime import parallel
from ribkit.runtime.device import device, single_threaded
from ribkit.runtime.store import Result, Store
from ribkit.study import ablations, pipeline, predictions
from ribkit.study import maps as seeds
from ribkit.study.study import METHODS, Study

THRESHOLD = 0.3  # of the sample's label maps
GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """One stage of a run.

    unit: ``"image"`` or ``"iteration"``, of which there are ``count``. seconds, bytes: of each, the
    latter on disk. memory: at most, in GiB, of the GPU or of one process. gpu: whether it uses one.
    """

    stage: str
    count: int
    unit: str
    seconds: float
    bytes: float
    memory: float
    gpu: bool = True

    @property
    def hours(self) -> float:
        """Of the whole stage, on all workers of this machine."""
        side_by_side = parallel.workers(self.gpu) if self.unit == "image" else 1
        return self.count * self.seconds / side_by_side / 3600


def peak_memory(way: Callable[[], Any]) -> float:
    """Most memory in MiB while ``way()`` ran: of the GPU, or what a process on Linux took more."""
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        way()
        return torch.cuda.max_memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far
    before = _status("VmRSS")
    way()
    return _status("VmHWM") - before


def _status(value: str) -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{value}:")[1].split()[0]) / 2**10


# ---- how much there is ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Counts:
    """How often each unit of a study is computed, at most: stops and stored results save some."""

    images: int
    tuning: int
    remaining_images: int
    validation: int
    pretext: int
    classifier: int
    pool: int
    cams: int
    ribs: int
    irn: int
    psa: int
    network: int
    networks: int


def counts(study: Study) -> Counts:
    """Of all notebooks."""
    p = study.profile
    n, tuning, remaining_images = (
        len(study.scored),
        len(study.tuning),
        sum(map(len, study.remaining_images)),
    )
    labelled = n + tuning + remaining_images
    tried = len(p.lrs) + len(p.margins) + len(p.n_others) - 2
    ribs = len(METHODS) - 1
    example = p.settings("gndrp", "official", p.lrs[0], 1.0, p.n_others[0])
    runs = ablations.grid(example, example, 1.0, 1.0, len(study.scored.classes), p.ablations)
    own = min(n, p.ablations.images or n)
    return Counts(
        images=n,
        tuning=tuning,
        remaining_images=remaining_images,
        validation=len(study.validation),
        pretext=p.pretext_epochs * (p.pretext_scenes // 32),
        classifier=p.replicas * p.epochs * steps(len(study.train), p.batch),
        pool=p.replicas * min(p.bank_images, len(study.train)),
        cams=len(p.scale_sets) * tuning
        + p.replicas * n
        + (p.replicas - 1) * tuning
        + remaining_images,
        ribs=ribs * (tried * tuning + p.replicas * n + (p.replicas - 1) * tuning)
        + remaining_images
        + own * sum(run.settings is not None for run in runs),
        irn=2 * p.replicas * p.irn.epochs * steps(labelled, p.irn.batch),
        psa=2 * p.psa.epochs * steps(labelled, p.psa.batch),
        network=p.network.iterations,
        networks=p.replicas * len(pipeline.sources(study)) + (p.saliency == "scenes"),
    )


# ---- the sample ----------------------------------------------------------------------------------
def table(study: Study) -> pd.DataFrame:
    """The stages of a run, a row each, with what they take on this machine."""
    rows = [
        {
            "stage": cost.stage,
            "how often": f"{cost.count:,} {cost.unit}s",
            "seconds each": cost.seconds,
            "hours": cost.hours,
            "disk (GiB)": cost.count * cost.bytes / GIB,
            "memory (GiB)": cost.memory,
        }
        for cost in costs(study)
    ]
    return pd.DataFrame(rows)


def words(found: pd.DataFrame) -> str:
    """The table as text, and its sum in a sentence."""
    shown = found.to_string(index=False, float_format=lambda v: f"{v:,.3g}")
    where = "GPU" if device().type == "cuda" else "process"
    return (
        f"{shown}\n\nAbout {found['hours'].sum():,.3g} hours with {parallel.workers()} "
        f"worker(s) on {device().type}, {found['disk (GiB)'].sum():,.3g} GiB of disk, and "
        f"{found['memory (GiB)'].max():.2g} GiB of memory in each {where}, as a sample tells. "
        "Tables, intervals and the toy experiment come on top."
    )


def costs(study: Study) -> list[Cost]:
    """Each stage of a run, measured on a sample."""
    with tempfile.TemporaryDirectory() as folder, _in_this_process():
        return single_threaded(_costs, Sample(study, Store(folder)))


@contextmanager
def _in_this_process():
    before = os.environ.get("RIBKIT_WORKERS")
    os.environ["RIBKIT_WORKERS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("RIBKIT_WORKERS")
        if before is not None:
            os.environ["RIBKIT_WORKERS"] = before


class Sample:
    """A study on two of its images, with a store of its own."""

    def __init__(self, study: Study, store: Store):
        self.study, self.profile, self.store = study, study.profile, store
        labelled = [i for i in range(len(study.scored)) if study.scored.labels[i].any()][:2]
        self.images = study.scored.take(labelled)
        self.found: list[Cost] = []

    def each(
        self, words: str, count: int, name: str, stage: Callable, gpu: bool = True, **more: Any
    ) -> Result:
        """Measure a per-image stage; its result on both images."""
        first, second = (self.images.take([k]) for k in range(len(self.images)))
        self.store.run(name, stage, images=first, **more)
        memory = peak_memory(lambda: self.store.run(name, stage, images=second, **more))
        result = self.store.run(name, stage, images=second, **more)
        self._add(words, count, "image", result.seconds, _bytes(result), memory, gpu)
        return self.store.run(name, stage, images=self.images, **more)

    def training(self, words: str, count: int, name: str, longer: str, training, **asked) -> Result:
        """Measure a training by what two more epochs or iterations (``longer``) take."""
        short = replace(training, **{longer: 1})
        result = self.store.run(name, training=short, **asked)
        more = replace(training, **{longer: 3})
        memory = peak_memory(lambda: self.store.run(name, training=more, **asked))
        seconds = max(0.0, self.store.run(name, training=more, **asked).seconds - result.seconds)
        self._add(words, count, "iteration", seconds / 2, 0, memory)
        return result

    def pretext(self, count: int = 0) -> Result:
        """`mini`'s pretext task on two batches; measured if it is asked for ``count`` batches."""
        asked = {"stage": classifiers.pretrain, "scenes": scenes.Pretext(0, 64), "rng_seed": 0}
        result = self.store.run("pretext", **asked, epochs=1)
        if count:
            longer = self.store.run("pretext", **asked, epochs=3)
            seconds = max(0.0, longer.seconds - result.seconds) / 4
            self._add("pretext task", count, "iteration", seconds, 0, 0)
        return result

    def _add(self, words: str, count: int, unit: str, seconds, size, memory, gpu=True) -> None:
        self.found.append(Cost(words, count, unit, seconds, size, memory / 2**10, gpu))


def _bytes(result: Result) -> int:
    return sum(path.stat().st_size for path in result.path.iterdir())


def _costs(sample: Sample) -> list[Cost]:
    """All stages, in the order of the study."""
    p, many = sample.profile, counts(sample.study)
    made, scales = _classifier(sample, many), max(p.scale_sets, key=sum)
    seen = {"scales": scales, "long_side": p.long_side, "map_stride": p.map_stride}
    pool = sample.each(
        "frozen features of the others", many.pool, "pool", seeds.feature_bank, model=made,
        long_sides=p.long_sides, side=p.bank_side, rng_seed=p.rng_seed,
    )  # fmt: skip
    maps = sample.each("CAM", many.cams, "seeds", seeds.compute, model=made, **seen)
    settings = p.settings("gndrp", "official", p.lrs[0], ablations.NO_MARGIN, p.n_others[0])
    sample.each(
        f"RIB, {p.steps} steps", many.ribs, "seeds", seeds.compute, model=made, **seen,
        settings=settings, pool=pool,
    )  # fmt: skip
    sample.each("scores of seeds", many.cams + many.ribs, "score", seeds.score, seeds=maps)
    labels = _refinement(sample, many, maps)
    _network(sample, many, labels)
    return sample.found


def _classifier(sample: Sample, many: Counts) -> seeds.Model:
    p, images = sample.profile, sample.images
    pretext = sample.pretext(many.pretext) if p.backbone == "small" else None
    batch = images.take([k % len(images) for k in range(p.batch)])
    weights = sample.training(
        "classifier", many.classifier, "classifier", "epochs", p.training,
        stage=classifiers.train, backbone=p.backbone, images=batch, watched=images.take([0]),
        pretext=pretext, weights=p.imagenet_weights(p.backbone),
    )  # fmt: skip
    about = (p.backbone, len(images.classes), p.precision, p.imagenet_weights(p.backbone))
    return seeds.Model(weights, *about)


def _refinement(sample: Sample, many: Counts, maps: Result) -> Result:
    p = sample.profile
    labelled = 2 * (many.images + many.tuning + many.remaining_images)
    on_maps = {"seeds": maps, "long_side": p.long_side}
    cores = on_maps | {"gpu": False}
    at = {"threshold": THRESHOLD}
    sample.each("CRF", 2 * many.images, "crf", stages.crf_on_maps, **cores, **at)
    labels = {
        "irn": sample.each(
            "IRN's labels", labelled, "irn-labels", stages.irn_labels, **cores, **at
        ),
        "psa": sample.each("PSA's labels", labelled, "psa-labels", stages.psa_labels, **cores),
    }
    walks = {
        "irn": (stages.irn_walk, {"walk": WALKS[p.walk]}, p.replicas * labelled),
        "psa": (
            stages.psa_walk,
            {"alpha": p.psa_alphas[0], "log2_steps": max(p.psa_log2_steps)},
            2 * (many.images + len(p.psa_alphas) * len(p.psa_log2_steps) * many.tuning),
        ),
    }
    pretext = sample.pretext() if p.backbone == "small" else None
    file = p.imagenet_weights(p.backbone)
    for kind, stage in (("irn", irn.train), ("psa", psa.train)):
        training, (walk, how, count) = getattr(p, kind), walks[kind]
        parts = tuple(
            (sample.images, labels[kind]) for _ in range(-(-training.batch // len(sample.images)))
        )
        weights = sample.training(
            kind.upper(), getattr(many, kind), kind, "epochs", training, stage=stage,
            backbone=p.backbone, parts=parts, n_labels=len(sample.images.classes) + 1,
            long_side=p.long_side, pretext=pretext, weights=file,
        )  # fmt: skip
        about = (p.backbone, training.stride, training.rng_seed, pretext, file)
        model = AffinityModel(kind, weights, *about)
        sample.each(
            f"{kind.upper()}'s walk", count, f"{kind}-walk", walk, model=model, **on_maps, **how
        )
    return labels["irn"]


def _network(sample: Sample, many: Counts, labels: Result) -> None:
    p, n_labels = sample.profile, len(sample.images.classes) + 1
    pretext = sample.pretext() if p.network_backbone == "small" else None
    file = p.imagenet_weights(p.network_backbone)
    weights = sample.training(
        "segmentation networks", many.networks * many.network, "network", "iterations", p.network,
        stage=deeplab.train, backbone=p.network_backbone, n_labels=n_labels,
        parts=((sample.images, labels),), long_side=p.long_side, pretext=pretext,
        weights=file,
    )  # fmt: skip
    once = replace(p.network, iterations=1)
    model = deeplab.Model(weights, p.network_backbone, n_labels, once, pretext, file)
    sample.each(
        "prediction and CRF", many.networks * many.validation, "predictions",
        predictions.predict, model=model, scales=p.test_scales, long_side=p.long_side,
    )  # fmt: skip
