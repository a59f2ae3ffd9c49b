"""The official code's way of working, written anew, for our own to be held against.

Not its code: the same results by the same order of work (docs/variants.md). The whole network
at every step, for every view; the others decoded and cropped inside the loop; a loop over rows and
classes; a wait for the device at each of them; the last update made though nobody sees its map;
float32; torch's plain layers.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribkit.method import cam
from ribkit.method.settings import Settings
from ribkit.networks.backbone import Network
from ribkit.networks.convolutions import ConvNorm, ReLU6, SameConv2d


class PaddedConv2d(SameConv2d):
    """Padded apart, and then torch's convolution."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        height, width = self.pads(x)
        return F.conv2d(
            F.pad(x, [*width, *height]), weight, bias, self.stride, 0, self.dilation, self.groups
        )


def plain(network: Network) -> Network:
    """A copy of torch's plain layers in its usual memory order: batch norms apart."""
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    for name, module in list(network.named_modules()):
        if isinstance(module, ConvNorm):
            if isinstance(module.conv, SameConv2d):
                module.conv.__class__ = PaddedConv2d
            network.set_submodule(name, nn.Sequential(module.conv, module.norm))
        elif isinstance(module, ReLU6):
            network.set_submodule(name, nn.ReLU6())
    return network


def adapt(
    network: Network,
    views: dict[float, Tensor],
    labels: Tensor,
    others: Callable[[int], tuple[Tensor, Tensor]],
    settings: Settings,
) -> dict[float, Tensor]:
    """One adaptation (official variant, GNDRP, no stop): scale -> summed maps ``(C, h, w)``.

    views: scale -> *pixels* ``(2, 3, h, w)`` of the image and its horizontal flip. others: step ->
    pixels ``(B, 3, s, s)`` and labels ``(B, C)``. The network is changed.
    """
    present = [c for c in range(len(labels)) if labels[c].item()]
    optimiser = torch.optim.SGD(
        [
            {"params": network.adapted.parameters(), "factor": 1.0},
            {"params": network.classifier.parameters(), "factor": settings.head_lr_mult},
        ],
        lr=settings.lr,
        momentum=settings.variant.momentum,
        weight_decay=settings.weight_decay,
    )
    total: dict[float, Tensor] = {}
    for step in range(settings.steps):
        loss = 0
        for scale, pixels in views.items():
            maps = network(pixels)
            total[scale] = total.get(scale, 0) + cam.flip_sum(maps.detach()[:, present])
            if scale >= 1:
                loss = loss - _pooled(maps, labels.expand(2, -1), settings.tau)
        pixels, other_labels = others(step)
        loss = loss - _pooled(network(pixels), other_labels, settings.tau)
        if not torch.isfinite(loss).item():
            break
        for group in optimiser.param_groups:
            left = (1 - step / settings.steps) ** settings.poly_power
            group["lr"] = settings.lr * group["factor"] * left
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return total


def _pooled(maps: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Sum of the target logits, row by row and class by class."""
    total = 0
    for row, own in zip(maps, labels, strict=True):
        for c in range(len(own)):
            if own[c].item():
                one = row[c]
                kept = one.detach() / one.detach().max() < tau
                total = total + (one * kept).sum() / one.numel()
    return total
