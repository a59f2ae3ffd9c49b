"""Ablations: one thing changed at a time, everything else as RIB's own settings have it.

`grid` lists the runs of each research question; `measure` is the stage that makes one of them: the
maps of the ablated images, scored at every threshold, with what they cover and what the adapted
network's last layer still has a gradient for. A run's threshold is chosen on the other folds of the
same images (`thresholds.cross_fitted`), so no run needs images of its own to tune on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ribkit.data import views
from ribkit.data.images import ImageSet, LabelledImage
from ribkit.evaluation import thresholds
from ribkit.method import adaptation, cam, losses
from ribkit.method.others import OtherImageSampler
from ribkit.method.settings import NO_MARGIN, OFFICIAL, PAPER, Settings
from ribkit.networks.backbone import Network
from ribkit.networks.trained import TrainedModel, loaded
from ribkit.runtime.device import single_threaded
from ribkit.runtime.per_image import PerImageResult, per_image
from ribkit.runtime.store import Values, stage
from ribkit.study import information
from ribkit.study.maps import (
    Bank,
    adapt_image,
    frozen_features,
    label_of,
    on_device,
)
from ribkit.study.profiles import Grid

REGION_OF = {"head": "discriminative", "body": "non-discriminative", "outside": "irrelevant"}
PARTS = tuple(REGION_OF)  # in the order of the columns of ``cover`` and ``hgr``
MEASURES = ("cover", "hgr")


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
def _measured(results: PerImageResult) -> Values:
    return {
        "rows": thresholds.concat_rows(results.each(*thresholds.ROW_FIELDS)),
        "measured": {name: np.stack(list(results.arrays(name).values())) for name in MEASURES},
        "images": results.table(("steps", "reason")),
    }


@per_image("ablation", "an ablation", gather=_measured)
def measure(
    image: LabelledImage,
    model: TrainedModel,
    scales: tuple[float, ...],
    long_side: int | None,
    settings: Settings | None = None,
    bank: Bank | None = None,
    rng_seed: int = 0,
) -> Values:
    """One run on all images.

    Args:
        image: One image.
        model: The trained classifier.
        scales: Of its views.
        long_side: Of the image at scale 1, in pixels; None: as it is.
        settings: Of the adaptation; None: CAM.
        bank: What the others are drawn from.
        rng_seed: The study's.

    Returns:
        ``rows``, of a `thresholds.Swept`. ``measured``: ``cover`` ``(N, 100, 3)``, the share of
        each of `PARTS` that its class's map exceeds at each threshold (mean over the image's
        classes; NaN where there is no such part); ``hgr`` ``(N, 3)``, of the summed own logits of
        the network that made the last map. And ``images``, a row each: steps, and why it ended.
    """
    network, row = loaded(model), {"steps": 0, "reason": "none"}
    if settings is None:
        size, features = frozen_features(network, image, scales, long_side)
        raw = adaptation.cam_maps(network, features, label_of(image))
    else:
        size, network, adapted = adapt_image(
            network, image, on_device(bank), scales, long_side, settings, rng_seed
        )
        raw, row = adapted.maps, {"steps": adapted.steps, "reason": adapted.reason}
    mask, regions = image.mask(), information.regions(image)
    maps = views.resize_map_tensor(cam.multi_scale(raw, size), mask.shape)
    ratios = information.logit_ratios(network, image, regions)
    return (
        row
        | thresholds.image_rows(*thresholds.sweep(maps, image.classes, mask))
        | {
            "cover": _cover(maps.cpu().numpy(), image.classes, mask, regions),
            "hgr": np.array([ratios[REGION_OF[part]] for part in PARTS]),
        }
    )


def _cover(
    maps: np.ndarray, classes: np.ndarray, mask: np.ndarray, regions: np.ndarray
) -> np.ndarray:
    """``(100, 3)``: shares of heads, bodies and all else above each threshold."""
    shares = np.full((len(classes), 100, 3), np.nan)
    for k, (index, class_map) in enumerate(zip(classes, maps, strict=True)):
        whole = mask == index + 1
        parts = (whole & (regions == 1), whole & (regions == 2), ~whole & (mask != 255))
        for part, where in enumerate(parts):
            if where.any():
                values = np.sort(class_map[where])
                above = np.searchsorted(values, thresholds.THRESHOLDS, side="right")
                shares[k, :, part] = 1 - above / where.sum()
    with np.errstate(invalid="ignore"):
        counted = (~np.isnan(shares)).sum(axis=0)
        return np.where(counted > 0, np.nansum(shares, axis=0) / np.maximum(counted, 1), np.nan)


@stage("adapted-once")
def adapt_once(
    model: TrainedModel,
    images: ImageSet,
    scales: tuple[float, ...],
    long_side: int | None,
    settings: Settings,
    bank: Bank,
    rng_seed: int = 0,
) -> Values:
    """One adaptation for the whole set, an update for each image: ``weights``, as trained ones."""
    task = partial(_adapt_once, images, scales, long_side, settings, bank, rng_seed)
    return {"weights": single_threaded(task, model).state_dict()}


def _adapt_once(
    images, scales, long_side, settings, bank, rng_seed, model: TrainedModel
) -> Network:
    network = loaded(model)

    def turns() -> Iterator[tuple]:
        for image in images:
            label = label_of(image)
            _, features = frozen_features(network, image, scales, long_side)
            n = settings.n_others
            others = OtherImageSampler(on_device(bank), label, n, image.name, rng_seed)
            yield features, label, others

    return adaptation.adapt_set(network, turns(), len(images), settings)


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
            changed = replace(paper, margin=summed) if factor == "1 margin" else paper
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
