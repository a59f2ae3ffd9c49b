"""The maps of an adaptation's steps, summed until it has to stop (Section 3.2).

The paper stops after K steps; the official code stops earlier where the logits or the maps grow too
much. See `ribkit.method.settings.Variant`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from ribkit.method.settings import Settings
from ribkit.runtime.errors import InputError


@dataclass
class Step:
    """One step of an adaptation, before its update."""

    maps: dict[float, Tensor]  # scale -> raw `cam.flip_sum` ``(P, h, w)`` of the classes present
    logits: Tensor  # ``(rows, C)``, pooled, of the image's own rows that enter the loss


@dataclass
class Adapted:
    """Result of an adaptation: raw maps summed over its steps, and how it went."""

    maps: dict[float, Tensor]  # scale -> ``(P, h, w)``
    reason: str = "steps"  # why it ended: also "margin", "area" or "diverged"
    logits: list[float] = field(default_factory=list)  # mean target logit at each step
    areas: list[float] = field(default_factory=list)  # share of the pixels that its map covers

    @property
    def steps(self) -> int:
        """How many steps' maps were summed."""
        return len(self.logits)


def covered(maps: Tensor, level: float) -> Tensor:
    r"""Share of the pixels where some map exceeds a share of its own maximum.

    .. math:: |\{u : \exists c : M_c(u) > l \max_v M_c(v)\}| / |U|

    The official code's stop by area (of arXiv:2110.06530), difference 6 of docs/variants.md.

    Args:
        maps: Raw maps ``(P, h, w)``.
        level: l, in [0, 1].

    Example:
        >>> covered(torch.tensor([[[10.0, 4.0, 3.0, 0.0]]]), 0.3).item()
        0.5
    """
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    return (maps > level * peak).any(dim=0).float().mean()


def aggregate(steps: Iterator[Step], labels: Tensor, settings: Settings) -> Adapted:
    r"""Sum the maps of a `trajectory` up to its last step, or to one of the variant's stops.

    .. math:: M_c = \textstyle\sum_{k=0}^{K} M_c^{(k)}

    Section 3.2 of the paper (arXiv:2110.06530); the official code sums up to K - 1. Its stops: *by
    area*, from the second step on, at once: of that step only the map at scale 1 is added; *by
    margin*, once the absolute sum of the target logits, over all of the image's rows, exceeds the
    margin. Either variant ends before logits that are not finite.

    Args:
        steps: Steps of one image, see `ribkit.method.adaptation.trajectory`.
        labels: ``(C,)`` of the image, 1 where the class is present, else 0.
        settings: The number of steps, the stops, and which maps are summed.

    Raises:
        InputError: Where the logits of the first step are not finite.

    Example:
        >>> steps = (Step({1.0: torch.tensor([[[k, 4.0]]])}, torch.ones(2, 1)) for k in (0.0, 1.0))
        >>> aggregated = aggregate(steps, torch.ones(1), Settings(steps=2))
        >>> aggregated.maps[1.0].tolist(), aggregated.areas, aggregated.reason
        ([[[1.0, 8.0]]], [0.5, 0.5], 'steps')
    """
    variant = settings.variant
    present = labels.nonzero().flatten()
    count = settings.steps + 1 if variant.sum_last_map else max(settings.steps, 1)
    result = Adapted({})
    for index, step in enumerate(islice(steps, count)):
        targets, area = step.logits[:, present], covered(step.maps[1.0], settings.area_level)
        criteria = (step.logits.isfinite().all().to(area), targets.mean(), targets.sum(), area)
        finite, mean, total, area = torch.stack(criteria).tolist()  # one copy from the device
        if not finite:
            if index == 0:
                raise InputError("the trained classifier gives no finite logits; train it again.")
            result.reason = "diverged"
            break
        result.logits.append(mean)
        result.areas.append(area)
        full = variant.stop_by_area and index > 0 and area > settings.area_ratio
        for scale, maps in step.maps.items():
            if settings.last_map:
                result.maps[scale] = maps
            elif not full or scale == 1:
                result.maps[scale] = result.maps.get(scale, 0) + maps
        if full:
            result.reason = "area"
            break
        if not variant.clamp_at_margin and abs(total) > settings.margin:
            result.reason = "margin"
            break
    return result
