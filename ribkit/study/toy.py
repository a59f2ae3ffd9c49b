"""The toy experiment of Figure 1: where does the gradient of a network lose a region? HGR.

What the paper leaves open is measured side by side. A layer is read *before* or *after* its own
activation; "after" throughout comes closest to the paper's curve. The last one has an output per
digit, and is read as the *sum* of both (Figure 1's words) or at the image's own *target* (what a
CAM of that class explains). Maps are scaled by the maximum of each *image* or of the whole *set*.
"""

import copy
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribkit.data.digits import REGIONS, Digits, DigitSet, digits_only, shapes_only
from ribkit.networks.configs import TrainingConfig
from ribkit.networks.training import Objective, fit
from ribkit.runtime.device import device
from ribkit.runtime.progress import bar
from ribkit.runtime.store import stage

NETWORK = ["activation", "condition", "seed"]
READING = ["layer", "reading", "output", "scale", "threshold", "region"]
Maps = dict[tuple[int, str, str], np.ndarray]  # layer 1..6, reading, output -> (N, H, W)
LAYERS = 6
EXAMPLE_MAPS = {f"G{k}": (k, "after", "sum") for k in range(1, LAYERS + 1)} | {
    "G6, sum of logits": (LAYERS, "before", "sum"),
    "G6, own class": (LAYERS, "after", "target"),
}
"""Name in the picture -> (layer, reading, output)."""
PAPER_HGR = {
    "discriminative": (1.0, 1.0, 1.0, 0.93, 0.62, 0.39),
    "non-discriminative": (1.0, 1.0, 1.0, 1.0, 0.88, 0.12),
    "irrelevant": (1.0, 0.05, 0.09, 0.03, 0.03, 0.05),
}
"""HGR of G1..G6, read off the curves of the paper's Figure 1 (arXiv:2110.06530)."""


def _sigmoid(z: Tensor) -> Tensor:
    """sigmoid(z), differentiated as s(z) s(-z): torch.sigmoid takes y (1 - y), 0 where y rounds
    to 1, and a map would lose by rounding what the network does not lose."""
    return F.logsigmoid(z).exp()


ACTIVATIONS = {
    "sigmoid": (_sigmoid, F.binary_cross_entropy_with_logits),
    "softmax": (lambda z: _sigmoid(z - z.flip(1)), F.cross_entropy),
    "tanh": (
        lambda z: 2 * _sigmoid(2 * z) - 1,
        lambda z, t: F.binary_cross_entropy_with_logits(2 * z, t),
    ),
    "softsign": (F.softsign, lambda z, t: F.binary_cross_entropy((F.softsign(z) + 1) / 2, t)),
    "none": (lambda z: z, lambda z, t: F.mse_loss(z, 2 * t - 1)),
}
"""Last activation -> (function of the logits, loss of the logits and 0/1 targets).

softmax is one of two, so a sigmoid of the difference. tanh, softsign: binary cross-entropy of
(a + 1) / 2, for tanh in the stable form, as (tanh z + 1) / 2 = sigmoid(2z). none: squared error to
targets -1 and 1, so that nothing saturates in training either.
"""


class Network(nn.Module):
    """Five 3x3 convolutions (no bias, stride 1, ReLU), then one fully connected layer.

    No bias: black input gives exactly 0 everywhere, and ReLU's gradient at 0 is 0, as the paper's
    curve for the irrelevant region asks from G2 on; its G1 is 1 there, here it is low. No stride
    and no pooling: they would print a checkerboard on the gradient. ``(N, 1, H, W)`` in [0, 1] ->
    logits ``(N, 2)``.
    """

    def __init__(self, rng_seed: int, channels: int = 8, side: int = 28) -> None:
        super().__init__()
        inputs = (1, *[channels] * 4)
        with torch.random.fork_rng(devices=[]):  # torch's own initial weights draw globally
            self.convolutions = nn.ModuleList(
                nn.Conv2d(i, channels, 3, padding=1, bias=False) for i in inputs
            )
            self.head = nn.Linear(channels * side * side, 2)
        generator = torch.Generator().manual_seed(rng_seed)
        for layer in (*self.convolutions, self.head):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(self.head.bias)

    def layers(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each convolution its output before and after ReLU; last ``(logits, logits)``."""
        outputs = []
        for convolution in self.convolutions:
            z = convolution(x)
            x = z.relu()
            outputs.append((z, x))
        z = self.head(x.flatten(1))
        return [*outputs, (z, z)]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)[-1][0]


def as_input(images: np.ndarray) -> Tensor:
    """``(N, H, W)`` uint8 -> ``(N, 1, H, W)`` float32 in [0, 1]."""
    return torch.from_numpy(images).float()[:, None] / 255


def train(
    digits: DigitSet, activation: str, rng_seed: int, steps: int, scratch: Path
) -> tuple[Network, float]:
    """A network trained by Adam with the activation's loss, and the last 20 steps' mean loss.

    SGD, which trains all other networks, fits the squared error of "none" far worse.
    """
    network, (_, loss_of) = Network(rng_seed).to(device()), ACTIVATIONS[activation]
    images, targets = as_input(digits.images), _one_hot(digits.labels)
    losses, _ = fit(
        Objective(network, loss_of),
        torch.optim.Adam(network.parameters(), 1e-3),
        lambda index, _: (images[index], targets[index]),
        len(images),
        steps,
        TrainingConfig(batch=16, poly_power=0, rng_seed=rng_seed),
        scratch,
        "toy network",
        "its lr",
    )
    return network.cpu(), float(losses[-20:].mean())


def gradient_maps(
    network: Network, images: np.ndarray, labels: np.ndarray, activation: str
) -> Maps:
    """Absolute gradients of the summed outputs, in double precision, not yet scaled.

    Layers 1..5: reading before, after ReLU; output "sum". Layer 6: before, after the last
    activation; "sum", "target".
    """
    x = as_input(images).double().requires_grad_()
    *hidden, (logits, _) = copy.deepcopy(network).double().layers(x)
    sums = {}
    for k, pair in enumerate(hidden, 1):
        for reading, y in zip(("before", "after"), pair, strict=True):
            sums[k, reading, "sum"] = y.sum()
    for reading, y in (("before", logits), ("after", ACTIVATIONS[activation][0](logits))):
        sums[LAYERS, reading, "sum"] = y.sum()
        sums[LAYERS, reading, "target"] = (y * _one_hot(labels)).sum()
    slopes = {key: torch.autograd.grad(y, x, retain_graph=True)[0] for key, y in sums.items()}
    return {key: slope.abs()[:, 0].numpy() for key, slope in slopes.items()}


@torch.no_grad()
def predicted(network: Network, images: np.ndarray) -> np.ndarray:
    """``(N,)`` uint8: the label of the larger logit."""
    return network(as_input(images)).argmax(1).numpy().astype(np.uint8)


def scaled(maps: np.ndarray, per: str = "image") -> np.ndarray:
    """``(N, H, W)`` >= 0 divided by the maximum of each "image", or of the whole "set".

    By the maximum, not from minimum to maximum, which would stretch a nearly constant map over
    [0, 1]: the paper's G1 is 1 in all regions. A map of zeros stays 0.
    """
    top = maps.max(axis={"image": (1, 2), "set": None}[per], keepdims=True)
    return np.divide(maps, top, out=np.zeros_like(maps), where=top > 0)


def hgr(maps: np.ndarray, regions: np.ndarray, threshold: float = 0.3) -> dict[str, float]:
    """High gradient ratio: per region the share of its pixels (all images) above ``threshold``.

    maps: ``(N, H, W)`` in [0, 1]; regions: same shape, index in REGIONS. NaN for an empty region.
    """
    high = maps > threshold
    return {
        name: float(high[regions == r].mean()) if (regions == r).any() else float("nan")
        for r, name in enumerate(REGIONS)
    }


@stage("toy")
def experiment(
    digits: Digits,
    activations: Sequence[str] = tuple(ACTIVATIONS),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    steps: int = 100,
    thresholds: Sequence[float] = (0.3, 0.2, 0.6),
    controls: Sequence[str] = ("untrained", "random shapes"),
    *,
    scratch: Path,
) -> dict:
    """The whole toy experiment: a network for each activation and seed, read on ``digits.test``.

    Beside them, for the first activation, the controls: "untrained", and "random shapes", trained
    where the shape says nothing of the digit. Returns

    - "hgr": columns NETWORK, READING, hgr, magnitude (mean absolute gradient in the region, not
      scaled). NaN where the gradient is 0 by construction and only rounding is left: the sum of a
      softmax.
    - "networks": columns NETWORK, loss, accuracy, digit_only, shape_only (accuracies with the other
      part wiped out), vanished (share of test images whose own output rounds to 1 in single
      precision, where the usual sigmoid' = y (1 - y) is exactly 0).
    - "example": images, labels, regions and, scaled, the maps (2, 8, H, W) of EXAMPLE_MAPS of one
      test image per digit, for the first activation and seed.
    """
    first, test = activations[0], digits.test
    jobs = [(a, "trained", s) for a, s in product(activations, seeds)]
    jobs += [(first, c, s) for c, s in product(controls, seeds)]
    rows, networks, example = [], [], {}
    for job in bar(jobs, "toy networks"):
        activation, condition, rng_seed = job
        images = digits.control if condition == "random shapes" else digits.train
        updates = 0 if condition == "untrained" else steps
        kept = scratch / "-".join(map(str, job))
        kept.mkdir(exist_ok=True)
        network, loss = train(images, activation, rng_seed, updates, kept)
        maps = gradient_maps(network, test.images, test.labels, activation)
        if activation == "softmax":  # its outputs sum to 1: of their gradient rounding is left
            maps[LAYERS, "after", "sum"] = np.full_like(test.images, np.nan, float)
        rows += [(*job, *row) for row in _rows(maps, test.regions, thresholds)]
        about = dict(zip(NETWORK, job, strict=True)) | {"loss": loss}
        networks.append(about | _accuracies(network, test, activation))
        example = example or _example(test, maps)
    table = pd.DataFrame(rows, columns=[*NETWORK, *READING, "hgr", "magnitude"])
    table["hgr"] = table["hgr"].where(table["magnitude"].notna())
    return {"hgr": table, "networks": pd.DataFrame(networks), "example": example}


def _one_hot(labels: np.ndarray) -> Tensor:
    return F.one_hot(torch.from_numpy(labels).long(), 2).float()


def _rows(maps: Maps, regions: np.ndarray, thresholds: Sequence[float]) -> list[tuple]:
    """Rows of the table "hgr" for one network, from the layer on."""
    return [
        (*key, scale, threshold, region, share, values[regions == REGIONS.index(region)].mean())
        for key, values in maps.items()
        for scale, threshold in product(("image", "set"), thresholds)
        for region, share in hgr(scaled(values, scale), regions, threshold).items()
    ]


def _accuracies(network: Network, test: DigitSet, activation: str) -> dict[str, float]:
    """What the network gets right with both parts, with one of them; and where it saturates."""
    right = {
        "accuracy": predicted(network, test.images) == test.labels,
        "digit_only": predicted(network, digits_only(test)) == test.labels,
        "shape_only": predicted(network, shapes_only(test)) == test.labels,
        "vanished": _own_output(network, test, activation) == 1,
    }
    return {name: float(true.mean()) for name, true in right.items()}


@torch.no_grad()
def _own_output(network: Network, test: DigitSet, activation: str) -> np.ndarray:
    """``(N,)``: the output at each image's own label, after the last activation."""
    outputs = ACTIVATIONS[activation][0](network(as_input(test.images))).numpy()
    return outputs[np.arange(len(test)), test.labels]


def _example(test: DigitSet, maps: Maps) -> dict[str, np.ndarray]:
    """One test image per digit with its maps, scaled by their maximum."""
    chosen = [int(np.flatnonzero(test.labels == label)[0]) for label in (0, 1)]
    shown = {name: getattr(test, name)[chosen] for name in ("images", "labels", "regions")}
    stack = np.stack([scaled(maps[key][chosen]) for key in EXAMPLE_MAPS.values()], axis=1)
    return shown | {"maps": stack.astype(np.float32)}
