"""Stages behind two galleries: IRN's walk step by step, and the positions that get gradient."""

from dataclasses import replace

import numpy as np
import torch

from ribkit.data import views
from ribkit.data.images import LabelledImage
from ribkit.method import pooling
from ribkit.networks.trained import TrainedModel, loaded
from ribkit.refinement import irn, stages
from ribkit.refinement.random_walk import Walk
from ribkit.runtime.device import device
from ribkit.runtime.per_image import per_image
from ribkit.runtime.store import Values
from ribkit.study.information import pixels_of

WALK_LOG2_STEPS = (2, 5, 8)
REGIONS = tuple((variant, tau) for variant in ("paper", "official") for tau in (0.2, 0.4, 0.8))
GRADIENT_PANELS = ("CAM", "GAP", "maximum", *(f"{v}\ntau {tau}" for v, tau in REGIONS))


@per_image("irn-panels", "panels of IRN's walk", arrays=("edges", "shifts", "maps"))
def irn_panels(
    image: LabelledImage, maps: np.ndarray, model: TrainedModel, walk: Walk, long_side: int | None
) -> Values:
    """Boundaries, displacements and maps before and during IRN's walk, whatever its steps.

    On IRN's grid. ``edges``: ``(h', w')``, a boundary is 1. ``shifts``: ``(2, h', w')``, down and
    right, 0.5 is none. ``maps``: ``(K, 4, h', w')``, before the walk and after 2 to the
    `WALK_LOG2_STEPS` steps.
    """
    pixels = views.to_tensor(image.pixels(), long_side).to(device())
    edge, shift = irn.predict(loaded(model), pixels)
    coarse = stages.on_grid(maps, edge.shape)
    steps = [coarse**walk.power]
    for log2_steps in WALK_LOG2_STEPS:
        walked = replace(walk, log2_steps=log2_steps).spread(coarse, edge)
        steps.append(walk.divided(walked))
    shift = shift / (2 * shift.abs().max() + 1e-6) + 0.5
    panels = {"edges": edge, "shifts": shift, "maps": torch.stack(steps, dim=1)}
    return {name: panel.cpu().numpy() for name, panel in panels.items()}


@per_image("gradient-region", "positions that get gradient", arrays=("panels",))
def gradient_region(image: LabelledImage, model: TrainedModel, long_side: int | None) -> Values:
    """Which positions of a map get gradient from each pooling, at the first step.

    ``panels``: ``(K, 9, h, w)`` float32 of the image's K classes, see `GRADIENT_PANELS`.
    """
    with torch.no_grad():
        maps = loaded(model)(pixels_of(image, long_side))[0].cpu()[torch.from_numpy(image.label)]
    positive = maps.relu()
    panels = [
        positive / positive.amax(dim=(1, 2), keepdim=True).clamp(min=1e-5),
        torch.ones_like(maps),
        maps == maps.amax(dim=(1, 2), keepdim=True),
    ]
    panels += [pooling.region(maps[None], tau, variant)[0] for variant, tau in REGIONS]
    return {"panels": torch.stack([panel.float() for panel in panels], dim=1).numpy()}
