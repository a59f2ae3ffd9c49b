"""Adaptation: frozen features once per view, against the whole network at every step (one thread).

Both ways in one run, on EfficientNet-Lite0, one 256 x 192 image, four others; prints the ratio.
"""

import time

import torch
from torch import nn

from ribkit import adaptation, classifier
from ribkit.backbone import Network


class Frozen(nn.Module):
    """The frozen part, without gradients, as a part of the upper one."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    @torch.no_grad()
    def forward(self, x):
        return self.part(x)


def seconds(network: Network, settings: adaptation.Settings) -> tuple[float, torch.Tensor]:
    """Wall seconds of one adaptation, features included, and its summed map at scale 1."""
    generator = torch.Generator().manual_seed(0)
    pixels = 255 * torch.rand(2, 3, 192, 256, generator=generator)
    others = 255 * torch.rand(4, 3, 160, 160, generator=generator)
    label = torch.eye(5)[0]
    started = time.perf_counter()
    views, features = {1.0: network.features(pixels)}, network.features(others)
    drawn = features, torch.eye(5)[1:]
    result = adaptation.adapt(network, views, label, lambda step: drawn, settings)
    return time.perf_counter() - started, result.maps[1.0]


def main() -> None:
    """Measure both ways three times, alternating; print the best of each and their ratio."""
    torch.set_num_threads(1)
    once = classifier.build("efficientnet_lite0", 5)
    whole = nn.Sequential(Frozen(once.frozen), once.adapted)
    every = Network(nn.Identity(), whole, once.classifier, once.mean, once.std)
    settings = adaptation.Settings(pooling="gap", steps=3, rate=1e-6, others=4, margin=1e9)
    times = {"every step": [], "once per view": []}
    for _ in range(3):
        for name, network in (("every step", every), ("once per view", once)):
            took, maps = seconds(network, settings)
            times[name].append(took)
            if name == "every step":
                reference = maps
            else:
                torch.testing.assert_close(maps, reference, rtol=1e-4, atol=1e-4)
    for name, taken in times.items():
        print(f"frozen features {name}: {min(taken):.2f} s")
    print(f"ratio: {min(times['every step']) / min(times['once per view']):.2f}")


if __name__ == "__main__":
    main()
