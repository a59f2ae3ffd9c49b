"""What a run will take, before it starts: the study is run shrunk, and its manifests are read.

Shrunk: three images of each kind, trainings of a few iterations, the first candidates of what is
tuned; in a store of its own, in this process, and nothing of it is kept. What each image or
iteration took there is multiplied by how many there are. Per-image stages are divided by the
workers; trainings of several seeds run side by side on them (under torchrun one on all).
"""

import json
import os
import tempfile
from dataclasses import replace
from itertools import chain
from pathlib import Path
from unittest.mock import patch

import pandas as pd

from ribkit.evaluation import tuning
from ribkit.networks.training import steps_per_epoch
from ribkit.runtime import parallel
from ribkit.runtime.device import device, threads
from ribkit.runtime.store import MANIFEST, Store
from ribkit.study import ablation_runs, pipeline
from ribkit.study.profiles import Profile
from ribkit.study.study import CAM, Study

IMAGES, ITERATIONS = 3, 4  # of the shrunk run
TRAININGS = ("pretext", *pipeline.TRAINED)
ON_CORES = ("crf", "sure-labels")
GIB = 2**30


def counts(study: Study) -> dict[str, int]:
    """Stage -> its images, or a training's iterations, in all notebooks; at most: stops and stored
    results save some."""
    p = study.profile
    n, tuned = len(study.scored), len(study.tuning)
    remaining = sum(map(len, study.remaining_images))
    labelled, rounds = n + tuned + remaining, p.replicas * (1 + len(p.ablations.usual_textures))
    rates, alphas = (len(grid) + tuning.MORE * (len(grid) > 1) for grid in (p.lrs, p.psa_alphas))
    tried = rates + len(p.margins) + len(p.n_others) - 2
    example = p.settings("gndrp", "official", p.lrs[0], 1.0, p.n_others[0])
    runs = ablation_runs.grid(example, 1.0, 1.0, p.ablations, ablation_runs.has_relu6(p))
    runs += ablation_runs.ledger(example, 1.0, 1.0, len(study.scored.classes), (1.0,))
    claimed = {*ablation_runs.SATURATION, *chain(*ablation_runs.COMPARED.values())}
    adapting = [run for run in runs if run.settings is not None]
    again = {(r.settings, r.once, r.saturates) for r in adapting if (r.value, r.factor) in claimed}
    ablated = min(n, p.ablations.images or n) * (len(adapting) + (p.replicas - 1) * len(again))
    variants = p.variant_replicas or p.replicas
    adapted = p.replicas + 2 * variants + rounds  # GAP, the paper's two, and RIB on all scenes
    one_scale = (p.ablations.scales,)  # at which RIB is tuned once more, and once the paper's
    again_tuned = (p.replicas + 1) * tried * tuned * (p.scale_sets != one_scale)
    compared = p.replicas * len(pipeline.sources(study))
    networks = compared + p.replicas + (p.saliency == "scenes")  # of few masks, and of objects
    refined = p.replicas * len(pipeline.available_starts(study))
    walks = len(p.irn_log2_steps) + len(p.irn_betas) + len(p.irn_radii) - 2
    trained = p.classifier.epochs * steps_per_epoch(len(study.train), p.classifier.batch)
    pretexts = min(p.pretext_seeds, p.replicas) * p.pretext_epochs
    return {
        "pretext": pretexts * (p.pretext_scenes // 32) if p.learns_pretext else 0,
        "classifier": rounds * trained,
        "bank": rounds * min(p.bank_images, len(study.train)),
        "cam": rounds * (len(p.scale_sets) * tuned + n) + p.replicas * remaining,
        "rib": adapted * (tried * tuned + n) + p.replicas * remaining + again_tuned + ablated,
        "crf": 2 * refined * n,  # of the seeds, and after IRN
        "sure-labels": refined * labelled,
        "irn": refined * p.irn.epochs * steps_per_epoch(labelled, p.irn.batch),
        "psa": refined * p.psa.epochs * steps_per_epoch(labelled, p.psa.batch),
        "irn-walk": refined * (n + walks * tuned) + 2 * p.replicas * remaining,
        "psa-walk": refined * (n + (alphas + len(p.psa_log2_steps)) * tuned),
        "network": networks * p.network.iterations,
        "predictions": compared * len(study.validation),
    }


def shrunk(p: Profile) -> Profile:
    """The same settings for few images and short trainings."""
    bank = min(p.bank_images, 2 * p.n_others[0] + IMAGES)
    return replace(
        p,
        train_images=max(p.classifier.batch, bank),  # B of which share no class with an image
        score_images=IMAGES,
        tune_images=IMAGES,
        val_images=IMAGES,
        bank_images=bank,
        label_split="",
        replicas=1,
        pretext_scenes=32 * ITERATIONS if p.pretext_scenes else 0,
        pretext_epochs=min(1, p.pretext_epochs),
        classifier=replace(p.classifier, epochs=ITERATIONS),
        scale_sets=(max(p.scale_sets, key=sum),),
        lrs=p.lrs[:1],
        margins=p.margins[:1],
        n_others=p.n_others[:1],
        psa_alphas=p.psa_alphas[:1],
        psa_log2_steps=(max(p.psa_log2_steps),),
        irn_log2_steps=(max(p.irn_log2_steps),),
        irn_betas=p.irn_betas[:1],
        irn_radii=(max(p.irn_radii),),
        smoothings=p.smoothings[:1],
        percentiles=p.percentiles[:1],
        norms=(),
        irn=replace(p.irn, epochs=ITERATIONS),
        psa=replace(p.psa, epochs=ITERATIONS),
        network=replace(p.network, iterations=ITERATIONS),
    )


def sample(study: Study) -> dict[str, dict]:
    """Stage -> the manifest of its result in a shrunk run; ``bytes`` of how many ``images``."""
    here = patch.dict(os.environ, RIBKIT_WORKERS="1")
    with tempfile.TemporaryDirectory() as folder, here, threads(1):
        small = Study(shrunk(study.profile), str(study.given or ""))
        small.store = Store(folder)
        small.seed(CAM)
        for stage in pipeline.available_stages(small):
            pipeline.refinement(small, "RIB").stage(stage)
        pipeline.network_labels(small, "RIB")
        manifests = {}
        for path in sorted(Path(folder).glob(f"*/{MANIFEST}"), key=lambda p: p.stat().st_mtime):
            size = sum(file.stat().st_size for file in path.parent.iterdir())
            stage = path.parent.name.rsplit("-", 1)[0]
            images = small.profile.bank_images if stage == "bank" else IMAGES
            manifests[stage] = json.loads(path.read_text()) | {"bytes": size, "images": images}
        return manifests


def table(study: Study) -> pd.DataFrame:
    """What each stage of a run takes on this machine, a row each, see `cost`; nothing is kept."""
    manifests = sample(study)
    rows = [
        {"stage": stage} | cost(stage, count, manifests[stage], study.profile.replicas)
        for stage, count in counts(study).items()
        if count and stage in manifests
    ]
    return pd.DataFrame(rows)


def cost(stage: str, count: int, manifest: dict, replicas: int) -> dict:
    """What ``count`` images or iterations of a stage take on all workers, by a few's manifest.

    Disk and memory in GiB: memory of the GPU, or what one process takes more.
    """
    training = stage in TRAININGS
    each = manifest["each"] or manifest["seconds"]
    workers = parallel.workers(stage not in ON_CORES)
    if training:
        workers = min(workers, 1 if stage == "pretext" else replicas)
    return {
        "how often": f"{count:,} {'iterations' if training else 'images'}",
        "seconds each": each,
        "hours": count * each / workers / 3600,
        "disk (GiB)": 0 if training else count * manifest["bytes"] / manifest["images"] / GIB,
        "memory (GiB)": manifest["memory"] / 2**10,
    }


def summary(costs: pd.DataFrame) -> str:
    """The table as text, with its sum in a sentence."""
    shown = costs.to_string(index=False, float_format=lambda v: f"{v:,.3g}")
    where = "GPU" if device().type == "cuda" else "process"
    return (
        f"{shown}\n\nAbout {costs['hours'].sum():,.3g} hours with {parallel.workers()} "
        f"worker(s) on {device().type}, {costs['disk (GiB)'].sum():,.3g} GiB of disk, and "
        f"{costs['memory (GiB)'].max():.2g} GiB of memory in each {where}, as a sample tells. "
        "Tables, intervals and the toy experiment come on top."
    )
