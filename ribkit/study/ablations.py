"""Ablations: one thing changed at a time, everything else as RIB's own settings have it.

`grid` lists the runs of each research question; `measure` is the stage that makes one of them: the
maps of the ablated images, scored at every threshold, with what they cover and what the adapted
network's last layer still has a gradient for. A run's threshold is chosen on the other folds of the
same images (`miou.cross_fitted`), so no run needs images of its own to tune on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ribkit.data import views
from ribkit.data.images import ImageSet
from ribkit.evaluation import miou
from ribkit.method import adaptation, cam, losses
from ribkit.method.adaptation import OFFICIAL, PAPER, Settings
from ribkit.method.others import OtherImageSampler
from ribkit.networks.backbone import Network
from ribkit.runtime import per_image
from ribkit.runtime.device import device, single_threaded
from ribkit.runtime.store import Result
from ribkit.study import information
from ribkit.study import maps as seeds
from ribkit.study.maps import Model
from ribkit.study.profiles import Grid

PARTS = ("head", "body", "outside")  # in the order of the columns of ``cover`` and ``hgr``
MEASURES = ("cover", "hgr")
NO_MARGIN = 1e9


@dataclass(frozen=True)
class Run:
    """One line of an ablation.

    factor: what is changed; value: to what, in words; x: as a number, if it is one. settings: None
    for CAM.
    """

    question: str
    factor: str
    value: str
    settings: Settings | None
    scales: tuple[float, ...]
    x: float = float("nan")
    once: bool = False  # one adaptation for the whole set


# ---- the stage ----------------------------------------------------------------------------------
def measure(
    model: Model,
    images: ImageSet,
    scales: tuple[float, ...],
    long_side: int | None,
    scratch: Path,
    settings: Settings | None = None,
    pool: Result | None = None,
    rng_seed: int = 0,
) -> dict:
    """One run on all images; CAM without ``settings``.

    Returns ``rows``, of an `miou.Swept`. ``measured``: ``cover`` ``(N, 100, 3)``, the share
    of each of `PARTS` that its class's map exceeds at each threshold (mean over the image's
    classes; NaN where there is no such part); ``hgr`` ``(N, 3)``, of the summed own logits of the
    network that made the last map. And ``images``, a row each: steps, and why it ended.
    """
    job = seeds.AdaptationTask(model, images, tuple(scales), long_side, settings, pool, rng_seed)
    words = "CAM" if settings is None else "an ablation"
    made = per_image.map_to_disk(partial(_measure, job), images, scratch, words)
    measured = {name: np.stack(list(made.arrays(name).values())) for name in MEASURES}
    return {
        "rows": miou.gathered(made.every(miou.ROWS)),
        "measured": measured,
        "images": made.table("steps", "reason"),
    }


def _measure(job: seeds.AdaptationTask, index: int) -> dict:
    """One image: its arrays, and its row as scalars."""
    images, name = job.images, job.images.ids[index]
    network, others = _context(job.model, job.pool)
    labels = torch.from_numpy(images.labels[index]).float().to(device())
    row = {"steps": 0, "reason": "none"}
    pixels, features = seeds.frozen_features(
        network, images.image(index), job.scales, job.long_side
    )
    if job.settings is None:
        raw = adaptation.cam_maps(network, features, labels)
    else:
        network = network.adaptable()
        draw = OtherImageSampler(others, labels, job.settings.n_others, name, job.rng_seed)
        steps = adaptation.trajectory(network, features, labels, draw, job.settings)
        result = adaptation.aggregate(steps, labels, job.settings)
        raw = result.maps
        row |= {"steps": result.steps, "reason": result.reason}
    maps = cam.merge(raw, pixels.shape[-2:])
    return row | _arrays(network, images, index, maps)


def _arrays(network: Network, images: ImageSet, index: int, maps: Tensor) -> dict:
    mask, label = images.mask(index), images.labels[index]
    keys, found = np.flatnonzero(label), information.regions(images, index)
    fitted = views.resize_map_tensor(maps, mask.shape)
    ratios = information.logit_ratios(network, images.image(index), label, found)
    return miou.rows(*miou.sweep(fitted, keys, mask)) | {
        "cover": _cover(fitted.cpu().numpy(), keys, mask, found),
        "hgr": np.array(
            [ratios[k] for k in ("discriminative", "non-discriminative", "irrelevant")]
        ),
    }


def _cover(maps: np.ndarray, keys: np.ndarray, mask: np.ndarray, found: np.ndarray) -> np.ndarray:
    """``(100, 3)``: shares of heads, bodies and all else above each threshold."""
    shares = np.full((len(keys), 100, 3), np.nan)
    for k, (key, one) in enumerate(zip(keys, maps, strict=True)):
        own = mask == key + 1
        for part, where in enumerate(
            (own & (found == 1), own & (found == 2), ~own & (mask != 255))
        ):
            if where.any():
                above = np.searchsorted(np.sort(one[where]), miou.THRESHOLDS, side="right")
                shares[k, :, part] = 1 - above / where.sum()
    with np.errstate(invalid="ignore"):
        counted = (~np.isnan(shares)).sum(axis=0)
        return np.where(counted > 0, np.nansum(shares, axis=0) / np.maximum(counted, 1), np.nan)


@lru_cache(maxsize=1)
def _context(model: Model, pool: Result | None):
    others = pool and {k: v.to(device()) for k, v in pool.tensors("features").items()}
    return model.network(), others


def adapt_once(
    model: Model,
    images: ImageSet,
    scales: tuple[float, ...],
    long_side: int | None,
    settings: Settings,
    pool: Result,
    rng_seed: int = 0,
) -> dict:
    """One adaptation for the whole set, an update for each image: ``weights``, as trained ones."""
    job = seeds.AdaptationTask(model, images, tuple(scales), long_side, settings, pool, rng_seed)
    return {"weights": single_threaded(_adapt_once, job).state_dict()}


def _adapt_once(job: seeds.AdaptationTask) -> Network:
    network, others = _context(job.model, job.pool)
    images = job.images

    def turns() -> Iterator[tuple]:
        for i, name in enumerate(images.ids):
            labels = torch.from_numpy(images.labels[i]).float().to(device())
            _, features = seeds.frozen_features(network, images.image(i), job.scales, job.long_side)
            yield (
                features,
                labels,
                OtherImageSampler(others, labels, job.settings.n_others, name, job.rng_seed),
            )

    return adaptation.adapt_set(network, turns(), len(images), job.settings)


# ---- what is tried ------------------------------------------------------------------------------
def grid(
    rib: Settings, paper: Settings, unit: float, rows: float, size: int, tried: Grid
) -> list[Run]:
    """All runs of RQ1 to RQ3 and of the ledger.

    rib, paper: the settings chosen for RIB official and paper, GNDRP. unit: CAM's mean target logit
    (GAP). rows: over how many rows and target classes ``official`` sums it, for its margin. size:
    the number of classes.
    """
    runs = [Run("all", "baseline", "CAM", None, tried.scales)]
    runs += [Run("all", "baseline", "RIB", rib, tried.scales)]

    def add(question: str, factor: str, value, settings, x=float("nan"), **more) -> None:
        scales = more.pop("scales", tried.scales)
        runs.append(Run(question, factor, str(value), settings, scales, x, **more))

    for name in losses.ACTIVATIONS:
        add("RQ1", "activation", name, replace(rib, activation=name))
    for name in list(losses.ACTIVATIONS)[1:]:
        match_first_update = replace(rib, activation=name, match_first_update=True)
        add("RQ1", "activation, rate matched", name, match_first_update)
    for name in ("gap", "gmp"):
        add("RQ2", "pooling", {"gap": "GAP", "gmp": "maximum"}[name], replace(rib, pooling=name))
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
    return runs + list(_ledger(paper, unit, rows, size, tried.scales))


PAPER_VS_CODE = (
    ("1 margin", {"clamp_at_margin": False}),
    ("2 GNDRP", {"gndrp": "official"}),
    ("3 classes", {}),
    ("4 maps summed", {"sum_last_map": False}),
    ("5 scale 0.5", {}),
    ("6 stop by area", {"stop_by_area": True}),
    ("7 momentum", {"momentum": OFFICIAL.momentum}),
    ("8 the others", {}),
)


def _ledger(
    paper: Settings, unit: float, rows: float, size: int, scales: tuple[float, ...]
) -> Iterator[Run]:
    """Each difference alone, from the paper's side to the official one's.

    Both margins are three times CAM's mean logit, each on its own scale. Where the official code
    does as the paper (3, 5, 8), the value is what else could have been done.
    """
    margin, summed = 3 * unit, 3 * unit * rows
    paper = replace(paper, margin=margin)
    half = tuple(sorted({0.5, *scales}))

    def run(factor: str, value: str, seen=scales, settings=paper, **switches) -> Run:
        changed = replace(settings, variant=replace(settings.variant, **switches))
        return Run("ledger", factor, value, changed, seen)

    yield run("paper", "paper")
    for factor, switches in PAPER_VS_CODE:
        if switches:
            changed = replace(paper, margin=summed) if factor.startswith("1") else paper
            yield run(factor, "official", settings=changed, **switches)
    first = max(1, size // 4)
    yield run("3 classes", f"first {first} of {size} (the bug)", gndrp_classes=first)
    yield run("5 scale 0.5", "a map, no loss", seen=half)
    yield run("5 scale 0.5", "in the loss", seen=half, loss_on_half_scale=True)
    quicker = replace(paper, lr=paper.lr / (1 - PAPER.momentum))
    yield run("7 momentum", "official, rate x 10", settings=quicker, momentum=OFFICIAL.momentum)
    yield run("8 the others", "drawn once", resample_others_each_step=False)
    everything = {k: v for _, switches in PAPER_VS_CODE for k, v in switches.items()}
    yield run("all of 1-8", "official", settings=replace(paper, margin=summed), **everything)


def reference(run: Run, runs: Sequence[Run]) -> Run:
    """What a run is compared with: CAM; in the ledger the paper's variant on the same scales."""
    if run.question != "ledger":
        return runs[0]
    (paper,) = [r for r in runs if r.question == "ledger" and r.value == "paper"]
    if run.scales == paper.scales:
        return paper
    return next(r for r in runs if r.scales == run.scales)
