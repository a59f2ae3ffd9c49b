"""Adaptation: ours against the official way of working (`official.py`), both in one run.

On a GPU ResNet-50 (random weights serve for timing) with the paper's settings at VOC size; on a CPU
the packaged EfficientNet-Lite0 at `voc-lite`'s, an image on each core. Apart: in float32 without
loading, where the maps must agree and the limit is the share of the frozen part and of the last
update; with loading; and in bfloat16. Then how the time grows. Memory: `bench_memory.py`.
"""

import dataclasses
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
from torch import Tensor
from torchvision import models

from ribkit.data import images, views
from ribkit.method import adaptation
from ribkit.method.adaptation import Settings
from ribkit.method.others import OtherImageSampler
from ribkit.networks import classifier
from ribkit.networks.backbone import Network, from_classifier
from ribkit.runtime.device import device, single_threaded
from ribkit.runtime.parallel import map_images, workers

SETTINGS = Settings(margin=1e9, area_ratio=1.0)  # the paper's for VOC, without its stops


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
        return dataclasses.replace(SETTINGS, steps=self.steps, n_others=self.n_others)


VOC = Size("resnet50", (375, 500), (1.0, 0.5, 1.5, 2.0), (320, 640), 512)
LITE = Size("efficientnet_lite0", (192, 256), (1.0,), (192, 320), 160)
COCO = dataclasses.replace(VOC, image=(480, 640), classes=80, n_others=15)


@lru_cache(maxsize=1)
def network(size: Size, precision: torch.dtype | None) -> Network:
    """The classifier, one in each process."""
    if size.backbone.startswith("resnet"):
        random = models.get_model(size.backbone, weights=None)
        made = from_classifier(random).with_classes(size.classes, 0)
    else:
        made = classifier.build(size.backbone, size.classes)
    made.precision = precision
    if device().type == "cuda":
        made.to(memory_format=torch.channels_last)
    return made.to(device())


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
    own = network(size, None).adaptable()
    return official.adapt(own, pairs, label(size), others, size.settings)


def ours(size: Size, precision, bank: dict[str, Tensor], index: int = 0) -> dict[float, Tensor]:
    """One image our way; the others come as frozen features out of the bank."""
    net = network(size, precision)
    pairs = views.scaled_pairs(image(size), size.scales)
    features = {scale: net.features(pair) for scale, pair in pairs.items()}
    draw = OtherImageSampler(bank, label(size), size.n_others, str(index), 0)
    return adaptation.adapt(net, features, label(size), draw, size.settings).maps


def bank(size: Size, precision, others: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Frozen features of one step's others, from which every step then draws all."""
    features = [network(size, precision).features(one[None]) for one in others[0]]
    return {"features": torch.cat(features), "labels": others[1]}


def frozen(size: Size, others: Tensor, index: int = 0) -> dict[float, Tensor]:
    """The frozen part of every step: what the official way sees again and again."""
    net, pairs = network(size, None), views.scaled_pairs(image(size), size.scales)
    for _ in range(size.steps):
        for pixels in (*pairs.values(), others):
            found = net.features(pixels)
    return {1.0: found.flatten()[:1]}


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
        "frozen part at every step": partial(frozen, size, fixed[0]),
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
    assert error < 1e-4, error
    every = seconds.pop("frozen part at every step")
    without = seconds["official, no loading"] / seconds["ours, float32"]
    return {
        "name": "adaptation",
        "ratio": seconds["official"] / seconds["ours, bfloat16"],
        "device": measuring.name(),
        "size": dataclasses.asdict(size) | {"images side by side": count},
        "seconds": seconds,
        "ratio in float32, no loading": without,
        "its limit by the frozen part's share": 1 / (1 - every / seconds["official, no loading"]),
        "ratio in float32, with loading": seconds["official"] / seconds["ours, float32"],
        "largest difference of float32 maps": error,
        "largest difference of bfloat16 maps": agreement(full, half),
    }


def _same(fixed: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, Tensor]:
    return fixed


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
    return [entry | {"seconds by size": growth(size, precision)}]


if __name__ == "__main__":
    for found in measure():
        print(measuring.words(found))
