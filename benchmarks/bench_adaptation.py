"""Adaptation: ours against the official way of working (`official.py`), both in one run.

On a GPU ResNet-50 (random weights serve for timing) with the paper's settings at VOC size; on a CPU
the packaged EfficientNet-Lite0 at `voc-lite`'s, an image on each core. Apart: in float32 without
loading, where the maps must agree; with loading; and in bfloat16. The limit is the ratio of what
each has to multiply. Then the share of the device's matrix-product rate that ours reaches with each
network (on a CPU, one core), and how its time grows. Memory: `bench_memory.py`.
"""

import dataclasses
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import measuring
import official
import torch
from PIL import Image
from skimage import data
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from ribkit.data import images, views
from ribkit.method import adaptation
from ribkit.method.others import OtherImageSampler
from ribkit.method.settings import Settings
from ribkit.networks import classifier
from ribkit.networks.backbone import Network, from_classifier, seeded
from ribkit.runtime.device import device, single_threaded
from ribkit.runtime.parallel import map_images, workers

SETTINGS = Settings(margin=1e9, area_ratio=2.0)  # the paper's for VOC, without its stops


@dataclass(frozen=True)
class Size:
    """What one adaptation is made of. long_sides, side: of the others' views, in pixels."""

    backbone: str
    image: tuple[int, int]
    scales: tuple[float, ...]
    long_sides: tuple[int, int]
    side: int
    classes: int = 20
    steps: int = 10
    n_others: int = 20

    @property
    def settings(self) -> Settings:
        how = {"steps": self.steps, "n_others": self.n_others}
        if self.backbone.startswith("resnet"):  # at the paper's rate a random one diverges
            how["lr"] = 1e-12
        return dataclasses.replace(SETTINGS, **how)


VOC = Size("resnet50", (375, 500), (1.0, 0.5, 1.5, 2.0), (320, 640), 512)
LITE = Size("efficientnet_lite0", (192, 256), (1.0,), (192, 320), 160)
COCO = dataclasses.replace(VOC, image=(480, 640), classes=80, n_others=15)
MINI = Size("small", (64, 64), (0.5, 1.0, 1.5), (56, 72), 64, classes=8, n_others=4)


@lru_cache(maxsize=4)
def network(backbone: str, classes: int, precision: torch.dtype | None) -> Network:
    """The classifier; a ResNet's weights are random, the same each time, its statistics fitting."""
    if backbone.startswith("resnet"):
        with seeded(0):
            random = models.get_model(backbone, weights=None)
            for module in random.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1.0
            random.train()(torch.randn(8, 3, 128, 128))  # else its maps grow beyond all numbers
        made = from_classifier(random).with_classes(classes, 0)
    else:
        made = classifier.build(backbone, classes)
    made.precision = precision
    return made.to(device(), memory_format=torch.channels_last)


@lru_cache(maxsize=1)
def plain_network(backbone: str, classes: int) -> Network:
    """The same of torch's plain layers."""
    return official.plain(network(backbone, classes, None))


def label(size: Size, others: bool = False) -> Tensor:
    """Two classes in the image, one in each of the others."""
    found = torch.eye(size.classes)
    rows = torch.arange(size.n_others) % (size.classes - 2) + 2
    return (found[rows] if others else found[0] + found[1]).to(device())


def image(size: Size) -> Tensor:
    """A photograph's pixels at the size of the image."""
    pixels = torch.from_numpy(data.chelsea()).permute(2, 0, 1).float()
    return views.resize(pixels, size.image).to(device())


def load(size: Size, files: list[Path], rng_seed: int, step: int) -> tuple[Tensor, Tensor]:
    """The others of a step decoded and cropped, as the official code does it in its loop."""
    seen = []
    for k in range(size.n_others):
        pixels = views.to_tensor(images.decode(files[(step * size.n_others + k) % len(files)]))
        generator = torch.Generator().manual_seed(rng_seed + step * size.n_others + k)
        seen.append(views.random_crop(pixels, size.long_sides, size.side, (0.0,) * 3, generator))
    return torch.stack(seen).to(device()), label(size, others=True)


def theirs(size: Size, others: Callable, index: int = 0) -> dict[float, Tensor]:
    """One image the official way."""
    pairs = views.scaled_pairs(image(size), size.scales)
    own = plain_network(size.backbone, size.classes).adaptable()
    return official.adapt(own, pairs, label(size), others, size.settings)


def ours(size: Size, precision, bank: dict[str, Tensor], index: int = 0) -> dict[float, Tensor]:
    """One image our way; the others come as frozen features out of the bank."""
    return adapted(network(size.backbone, size.classes, precision), size, bank, index)


def adapted(net: Network, size: Size, bank: dict[str, Tensor], index: int) -> dict[float, Tensor]:
    """Ours with this network."""
    pairs = views.scaled_pairs(image(size), size.scales)
    features = {scale: net.features(pair) for scale, pair in pairs.items()}
    draw = OtherImageSampler(bank, label(size), size.n_others, str(index), 0)
    return adaptation.adapt(net, features, label(size), draw, size.settings).maps


def bank(size: Size, precision, others: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Frozen features of one step's others, from which every step then draws all."""
    net = network(size.backbone, size.classes, precision)
    features = [net.features(one[None]) for one in others[0]]
    return {"features": torch.cat(features), "labels": others[1]}


def on_every_core(way: Callable[[int], dict], count: int) -> list[dict]:
    """One image, or on a CPU as many as there are cores side by side, with one thread each."""
    return map_images(partial(_moved, way), range(count), "adaptation")


def _moved(way: Callable[[int], dict], index: int) -> dict[float, Tensor]:
    return {scale: maps.cpu() for scale, maps in way(index).items()}


def ways(size: Size, files: list[Path], fixed: tuple[Tensor, Tensor]) -> dict[str, Callable]:
    """What is timed; each gives summed maps."""
    full, half = (bank(size, precision, fixed) for precision in (None, torch.bfloat16))
    return {
        "official": partial(theirs, size, partial(load, size, files, 0)),
        "official, no loading": partial(theirs, size, partial(_same, fixed)),
        "ours, float32": partial(ours, size, None, full),
        "ours, bfloat16": partial(ours, size, torch.bfloat16, half),
    }


def compared(size: Size, files: list[Path], rounds: int = 2) -> dict:
    """The entry of both ways at one size."""
    count = workers() if device().type == "cpu" else 1
    fixed = load(size, files, 0, 0)
    for way in ways(dataclasses.replace(size, steps=1), files, fixed).values():
        on_every_core(way, count)  # processes start, kernels are chosen
    timed = {n: partial(on_every_core, w, count) for n, w in ways(size, files, fixed).items()}
    seconds, results = measuring.alternate(timed, rounds)
    theirs_, full, half = (
        results[name][0] for name in ("official, no loading", "ours, float32", "ours, bfloat16")
    )
    error = agreement(theirs_, full)
    assert error < (1e-4 if device().type == "cpu" else 2e-2), error  # cuDNN multiplies in TF32
    needed = flops(partial(theirs, size, partial(_same, fixed))), flops(plainly(size, fixed))
    return {
        "name": "adaptation",
        "ratio": seconds["official"] / seconds["ours, bfloat16"],
        "device": measuring.name(),
        "size": dataclasses.asdict(size) | {"images side by side": count},
        "seconds": seconds,
        "ratio in float32, no loading": seconds["official, no loading"] / seconds["ours, float32"],
        "its limit by what each has to multiply": needed[0] / needed[1],
        "ratio in float32, with loading": seconds["official"] / seconds["ours, float32"],
        "largest difference of float32 maps": error,
        "largest difference of bfloat16 maps": agreement(full, half),
    }


def _same(fixed: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, Tensor]:
    return fixed


def plainly(size: Size, fixed: tuple[Tensor, Tensor]) -> Callable[[], dict[float, Tensor]]:
    """Ours with torch's plain layers, whose operations are those that are needed."""
    net = plain_network(size.backbone, size.classes)
    return partial(adapted, net, size, bank(size, None, fixed), 0)


def flops(way: Callable[[], dict]) -> int:
    """Additions and multiplications of convolutions and matrix products."""
    right = {torch.ops.aten.convolution_backward: _backward_flops}
    with FlopCounterMode(display=False, custom_mapping=right) as counter:
        single_threaded(lambda _: way(), None)
    return counter.get_total_flops()


def _backward_flops(gradient, x, weight, *rest, **kwargs) -> int:
    """As many as forward, for the input and for the weight; torch counts groups as if dense."""
    wanted = rest[-1][:2]
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * sum(wanted)


def rate(precision: torch.dtype | None, rounds: int = 5) -> float:
    """Best rate of a square matrix product in FLOP/s, on a CPU of one core."""
    side = 8192 if device().type == "cuda" else 1024
    pair = torch.rand(2, side, side, device=device(), dtype=precision or torch.float32)
    product = {"product": partial(single_threaded, lambda _: pair[0] @ pair[1], None)}
    return 2 * side**3 / measuring.alternate(product, rounds)[0]["product"]


def share(size: Size, precision: torch.dtype | None) -> dict:
    """The entry of ours, beside what the device could do, measured before, between and after."""
    pixels = torch.rand(size.n_others, 3, size.side, size.side, device=device()) * 255
    fixed = pixels, label(size, others=True)
    needed = flops(plainly(size, fixed))
    way = partial(single_threaded, partial(ours, size, precision, bank(size, precision, fixed)), 0)
    seconds, most = float("inf"), rate(precision)
    for _ in range(3):
        seconds = min(seconds, measuring.alternate({"ours": way}, 1)[0]["ours"])
        most = max(most, rate(precision))
    return {
        "name": f"share of the matrix-product rate, {size.backbone}",
        "device": measuring.name(),
        "size": dataclasses.asdict(size),
        "precision": str(precision or torch.float32).removeprefix("torch."),
        "share": needed / seconds / most,
        "seconds": seconds,
        "seconds at the full rate": needed / most,
        "GFLOP": needed / 1e9,
        "GFLOP/s of a matrix product": most / 1e9,
    }


def agreement(one: dict[float, Tensor], other: dict[float, Tensor]) -> float:
    """Largest difference of the summed maps, over the largest value."""
    return max(float((one[s] - other[s]).abs().max() / one[s].abs().max()) for s in one)


def growth(size: Size, precision: torch.dtype | None) -> dict[str, dict[str, float]]:
    """Seconds of one short adaptation as each part of its size grows, the rest kept."""
    size = dataclasses.replace(size, steps=4, n_others=8)
    height, width = size.image
    axes = {
        "image": [(height // 2, width // 2), size.image, (2 * height, 2 * width)],
        "classes": [20, 80],
        "steps": [2, 4, 8],
        "n_others": [4, 8, 16, 32],
    }
    return {
        axis: {str(v): _short(dataclasses.replace(size, **{axis: v}), precision) for v in values}
        for axis, values in axes.items()
    }


def _short(size: Size, precision: torch.dtype | None) -> float:
    others = torch.zeros(size.n_others, 3, size.side, size.side, device=device())
    features = bank(size, precision, (others, label(size, others=True)))
    way = partial(single_threaded, partial(ours, size, precision, features), 0)
    return measuring.alternate({"ours": way}, 2)[0]["ours"]


def measure() -> list[dict]:
    """Both ways at one size, and how ours grows."""
    gpu = device().type == "cuda"
    size, precision = (VOC, torch.bfloat16) if gpu else (LITE, None)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{k}.jpg") for k in range(4 * size.n_others)]
        photograph = Image.fromarray(data.chelsea()).resize((500, 375))
        for file in files:
            photograph.save(file, quality=95)
        entry = compared(size, files)
    # On a CPU two steps of ResNet-50, that is one update, have to do: its share is that of ten.
    sizes = [MINI, LITE, VOC if gpu else dataclasses.replace(VOC, steps=2)]
    shares = [share(one, kind) for one in sizes for kind in (None, torch.bfloat16)]
    return [entry | {"seconds by size": growth(size, precision)}, *shares]


if __name__ == "__main__":
    for found in measure():
        print(measuring.words(found))
