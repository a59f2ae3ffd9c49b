"""RIB: adapt the classifier to one image by maximising its target logits (Section 3.2, Algorithm).

From the trained weights, K steps of SGD on the image's views and on B other images that share no
class with it; the maps of all steps are summed, then normalised once. Where the formulas and the
released code part, a `Variant` says which way is taken: each switch can be ablated alone.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated

import pandas as pd
import pydantic
import torch
from torch import Tensor, nn

from ribkit.method import cam, pooling
from ribkit.method.losses import ACTIVATIONS, rib_loss
from ribkit.networks.backbone import Network
from ribkit.runtime.errors import InputError
from ribkit.runtime.settings import Count, CountOrZero, NotNegative, Share, one_of


@pydantic.dataclasses.dataclass(frozen=True)
class Variant:
    """Where paper and official code part, a switch for each difference (numbered as in the README).

    9 (whose threshold decides a seed) and 11 (what 255 counts) are scored both ways, always; 10 is
    the walk's: `random_walk.WALKS`.
    """

    clamp_at_margin: bool  # 1: each logit is clamped; else the run ends once their sum exceeds it
    gndrp: Annotated[str, one_of("paper", "official")]  # 2: see `pooling.gndrp`
    gndrp_classes: Count | None  # 3: only the first so many classes are masked (20 on COCO: a bug)
    sum_last_map: bool  # 4: maps of steps 0..K; else 0..K-1, so the last update is never seen
    loss_on_half_scale: bool  # 5: scales below 1 enter the loss; else they only give a map
    stop_by_area: bool  # 6: end once the map of a step covers too much
    momentum: NotNegative  # 7: of SGD; 1e-4 in effect in the official code
    resample_others_each_step: bool  # 8: other images drawn anew at each step


PAPER = Variant(True, "paper", None, True, False, False, 0.9, True)
OFFICIAL = Variant(False, "official", None, False, False, True, 1e-4, True)
VARIANTS = {"paper": PAPER, "official": OFFICIAL}


@pydantic.dataclasses.dataclass(frozen=True)
class Settings:
    """What an adaptation is made with. Defaults: the paper's, for VOC."""

    pooling: Annotated[str, one_of("gap", "gmp", "gndrp")] = "gndrp"
    tau: Share = 0.4
    steps: CountOrZero = 10  # K
    lr: NotNegative = 8e-6  # of SGD; the classifier's is head_lr_mult times as large
    head_lr_mult: NotNegative = 10.0
    n_others: CountOrZero = 20  # B
    margin: float = 600.0  # on each logit (paper) or on their absolute sum (official)
    area_level: Share = 0.3  # a pixel is covered above this share of its map's maximum
    area_ratio: Share = 0.7  # official: stop when more than this share of the pixels is covered
    weight_decay: NotNegative = 1e-4
    poly_power: NotNegative = 0.9
    variant: Variant = OFFICIAL
    # for ablations
    activation: Annotated[str, one_of(*ACTIVATIONS)] = "none"  # put back after the logits
    match_first_update: bool = (
        False  # the rate scaled so that the first update is as long as without it
    )
    last_map: bool = False  # the last step's map instead of the sum over the steps


@dataclass
class Step:
    """One step of an adaptation, before its update.

    maps: scale -> raw flip-summed ReLU maps ``(C, h, w)`` of the classes present, in their order.
    logits: ``(rows, C)``, pooled, of the image's own rows that enter the loss.
    """

    maps: dict[float, Tensor]
    logits: Tensor


@dataclass
class Adapted:
    """An adaptation's result: raw maps summed over its steps, and how it went.

    maps: scale -> ``(C, h, w)``. reason: ``"steps"``, ``"margin"``, ``"area"`` or ``"diverged"``.
    logits: mean target logit at each step. areas: share of pixels covered by each step's own map.
    """

    maps: dict[float, Tensor]
    reason: str = "steps"
    logits: list[float] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """How many steps' maps were summed."""
        return len(self.logits)


Others = Callable[[int], tuple[Tensor, Tensor]]


def trajectory(
    network: Network, views: dict[float, Tensor], labels: Tensor, others: Others, settings: Settings
) -> Iterator[Step]:
    """The steps of one adaptation; a step's update is made only when the next one is asked for.

    network: trained, changed in place (pass `Network.adaptable`). views: scale -> *frozen features*
    ``(2, c, h, w)`` of the image and its horizontal flip. labels: ``(C,)`` of the image.
    others: step -> frozen features ``(B, c, h, w)`` and labels ``(B, C)`` of the other images.
    Yields steps 0..K, that is, K updates in all if all are asked for.
    """
    variant = settings.variant
    present = labels.nonzero().flatten()
    optimiser, stretch = _optimiser(network, settings), 1.0
    for step in range(settings.steps + 1):
        last = step == settings.steps
        maps, logits = _see(network, views, labels, settings, learns=not last)
        maps = {scale: cam.flip_sum(signed[:, present]) for scale, signed in maps.items()}
        yield Step(maps, logits.detach())
        if last:
            return
        rows, targets = _rows(
            network,
            logits,
            labels,
            others(step if variant.resample_others_each_step else 0),
            settings,
        )
        loss = _loss(rows, targets, settings)
        if settings.match_first_update and step == 0:
            stretch = _match(
                loss, _loss(rows, targets, replace(settings, activation="none")), optimiser
            )
        _update(optimiser, loss, stretch * (1 - step / settings.steps) ** settings.poly_power)


def _see(
    network: Network, views: dict[float, Tensor], labels: Tensor, settings: Settings, learns: bool
) -> tuple[dict[float, Tensor], Tensor]:
    """Signed maps of each view, without gradient, and the pooled rows that enter the loss."""
    maps, pooled = {}, []
    for scale, features in views.items():
        in_loss = scale >= 1 or settings.variant.loss_on_half_scale
        with torch.set_grad_enabled(in_loss and learns):
            signed = network.maps(features)
        maps[scale] = signed.detach()
        if in_loss:
            pooled.append(pool_maps(signed, labels.expand(2, -1), settings))
    return maps, torch.cat(pooled)


def _rows(
    network: Network,
    logits: Tensor,
    labels: Tensor,
    others: tuple[Tensor, Tensor],
    settings: Settings,
) -> tuple[Tensor, Tensor]:
    """Logits and labels of the image's own rows and of the others."""
    features, other_labels = others
    rows, targets = [logits], [labels.expand(len(logits), -1)]
    if len(features):
        rows.append(pool_maps(network.maps(features), other_labels, settings))
        targets.append(other_labels)
    return torch.cat(rows), torch.cat(targets)


def _loss(rows: Tensor, targets: Tensor, settings: Settings) -> Tensor:
    margin = settings.margin if settings.variant.clamp_at_margin else None
    return rib_loss(rows, targets, margin, settings.activation)


def _update(optimiser: torch.optim.SGD, loss: Tensor, factor: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def _optimiser(network: Network, settings: Settings) -> torch.optim.SGD:
    groups = [
        {"params": network.adapted.parameters(), "base_lr": settings.lr},
        {"params": network.classifier.parameters(), "base_lr": settings.lr * settings.head_lr_mult},
    ]
    groups = [dict(g, params=[p for p in g["params"] if p.requires_grad]) for g in groups]
    return torch.optim.SGD(
        [g for g in groups if g["params"]],
        lr=settings.lr,
        momentum=settings.variant.momentum,
        weight_decay=settings.weight_decay,
    )


def _match(loss: Tensor, other: Tensor, optimiser: torch.optim.SGD) -> float:
    """How many times as long the other loss's first update is; 1 where this one's has no length."""
    lengths = []
    for value in (loss, other):
        total = 0.0
        for group in optimiser.param_groups:
            parts = torch.autograd.grad(value, group["params"], retain_graph=True)
            total += group["base_lr"] ** 2 * sum(float(part.square().sum()) for part in parts)
        lengths.append(total**0.5)
    return lengths[1] / lengths[0] if lengths[0] > 0 else 1.0


def adapt_set(
    network: Network,
    images: Iterable[tuple[dict[float, Tensor], Tensor, Others]],
    count: int,
    settings: Settings,
) -> Network:
    """One adaptation for a whole set: each image in turn moves the same weights by one step.

    images: ``count`` times views, labels and others, see `trajectory`. The rate falls over the
    images as it does over the steps of one image. Returns the network; the given one stays.
    """
    network = network.adaptable()
    optimiser = _optimiser(network, settings)
    for turn, (views, labels, others) in enumerate(images):
        _, logits = _see(network, views, labels, settings, learns=True)
        rows, targets = _rows(network, logits, labels, others(turn), settings)
        factor = (1 - turn / count) ** settings.poly_power
        _update(optimiser, _loss(rows, targets, settings), factor)
    return network


def pool_maps(maps: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    """Signed maps ``(N, C, h, w)``, labels ``(N, C)`` -> logits ``(N, C)``, as chosen."""
    if settings.pooling in ("gap", "gmp"):
        return getattr(pooling, settings.pooling)(maps)
    if settings.variant.gndrp_classes is not None:
        labels = labels.clone()
        labels[:, settings.variant.gndrp_classes :] = 0
    return pooling.gndrp(maps, labels, settings.tau, settings.variant.gndrp)


def covered(maps: Tensor, level: float) -> Tensor:
    """Share of the pixels where some map of ``(C, h, w)`` exceeds ``level`` of its own maximum."""
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    return (maps > level * peak).any(dim=0).float().mean()


def _watch(step: Step, present: Tensor, level: float) -> list[float]:
    """What the stops ask of a step, in the one transfer from the device that a step makes.

    Whether all its logits are numbers (1 or 0), mean and sum of its target logits, covered area.
    """
    targets = step.logits[:, present]
    area = covered(step.maps[1.0], level)
    found = step.logits.isfinite().all().to(area), targets.mean(), targets.sum(), area
    return torch.stack(found).tolist()


def aggregate(steps: Iterator[Step], labels: Tensor, settings: Settings) -> Adapted:
    """Sum the maps of a `trajectory` until one of the variant's stops, or its last step.

    labels: ``(C,)`` of the image. Stops (official): *by area*, from the second step on, at once: of
    that step only the map at scale 1 is added; *by margin*, once the absolute sum of the image's
    target logits exceeds the margin. Either variant ends before maps that are no numbers any more.
    """
    variant = settings.variant
    present = labels.nonzero().flatten()
    count = settings.steps + 1 if variant.sum_last_map else max(settings.steps, 1)
    result = Adapted({})
    for index in range(count):
        step = next(steps)
        finite, mean, total, area = _watch(step, present, settings.area_level)
        if not finite:
            if index == 0:
                raise InputError("the trained classifier gives no finite logits; train it again.")
            result.reason = "diverged"
            break
        result.logits.append(mean)
        result.areas.append(area)
        full = variant.stop_by_area and index > 0 and area > settings.area_ratio
        for scale, maps in step.maps.items():
            if not full or scale == 1:
                kept = 0 if settings.last_map else result.maps.get(scale, 0)
                result.maps[scale] = kept + maps
        if full:
            result.reason = "area"
            break
        if not variant.clamp_at_margin and abs(total) > settings.margin:
            result.reason = "margin"
            break
    return result


def adapt(
    network: Network, views: dict[float, Tensor], labels: Tensor, others: Others, settings: Settings
) -> Adapted:
    """RIB for one image, from the trained weights (left as they are). See `trajectory`."""
    steps = trajectory(network.adaptable(), views, labels, others, settings)
    return aggregate(steps, labels, settings)


def cam_maps(network: Network, views: dict[float, Tensor], labels: Tensor) -> dict[float, Tensor]:
    """CAM: the raw maps, scale -> ``(C, h, w)``, of the trained weights. See `trajectory`."""
    present = labels.nonzero().flatten()
    with torch.no_grad():
        return {s: cam.flip_sum(network.maps(f)[:, present]) for s, f in views.items()}


def demonstration() -> pd.DataFrame:
    """An adaptation small enough to follow by hand: three positions, two channels, one class.

    Features (head, body) are (1, 0.5) on the head, (0, 1) on the body and (0, 0) behind them, and
    the trained classifier reads the head only: w = (1, 0). The gradient of the logit is the
    mean feature (1/3, 1/2), so w turns towards the body, and the body enters the map.
    Returns a row for each step: the logit, and the map at the three positions over its maximum.
    """
    classifier = nn.Conv2d(2, 1, 1, bias=False)
    classifier.weight.data = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    network = Network(nn.Identity(), nn.Identity(), classifier)
    features = torch.tensor([[1.0, 0.0, 0.0], [0.5, 1.0, 0.0]]).view(2, 1, 3)
    views = {1.0: torch.stack([features, features.flip(-1)])}
    settings = Settings(pooling="gap", steps=4, lr=0.01, weight_decay=0.0, margin=100.0)
    nothing = torch.zeros(0, 2, 1, 3), torch.zeros(0, 1)
    steps = trajectory(network, views, torch.ones(1), lambda step: nothing, settings)
    rows = []
    for k, step in enumerate(steps):
        shares = cam.normalise(step.maps[1.0])[0, 0].tolist()
        row = {"step": k, "logit": float(step.logits.mean())}
        rows.append(row | dict(zip(("head", "body", "background"), shares, strict=True)))
    return pd.DataFrame(rows).round(3)
