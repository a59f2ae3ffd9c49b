"""Training the classifier on image labels: BCE, poly schedule, frozen batch norm (Section 4.1)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ribkit.data import views
from ribkit.data.images import ImageSet
from ribkit.networks import training as fitting
from ribkit.networks.architectures import SmallResNet, Weights, efficientnet_lite0, resnet
from ribkit.networks.backbone import Network, from_classifier, seeded
from ribkit.networks.training import TrainingConfig
from ribkit.runtime.device import device
from ribkit.runtime.errors import InputError
from ribkit.runtime.progress import bar
from ribkit.runtime.settings import Count, NotNegative, Range
from ribkit.runtime.store import stage


@dataclass(frozen=True)
class ClassifierConfig(TrainingConfig):
    """How the classifier is trained. Defaults: the paper's, for VOC."""

    epochs: Count = 5
    head_lr_mult: NotNegative = 10.0  # how much faster the last layer learns
    long_sides: Range[Count] = (320, 640)  # of an image before it is cropped, drawn from this range


BACKBONES = ("small", "efficientnet_lite0", "resnet50", "resnet101")


def build(
    name: str,
    n_classes: int,
    rng_seed: int = 0,
    weights: Weights | None = None,
    output_stride: int = 16,
) -> Network:
    """The network called by one of `BACKBONES`, for ``n_classes``.

    The ImageNet networks come with ``weights``, or with what `architectures.imagenet_weights`
    finds; 1000 classes keep the ImageNet head. output_stride: of a ResNet. Raises InputError for
    another name.
    """
    if name not in BACKBONES:
        raise InputError(f"backbone '{name}' is unknown; use one of {', '.join(BACKBONES)}.")
    with seeded(rng_seed):
        if name == "small":
            return small(SmallResNet(n_classes))
        if name == "efficientnet_lite0":
            network = efficientnet_lite0(weights)
        else:
            network = resnet(int(name.removeprefix("resnet")), weights, output_stride)
    return network if n_classes == 1000 else network.with_classes(n_classes, rng_seed)


def small(model: SmallResNet) -> Network:
    """`mini`'s network: frozen up to stride 2, output stride 4."""
    return from_classifier(model, SMALL_MEAN, SMALL_STD, frozen_stride=2, output_stride=4)


SMALL_MEAN, SMALL_STD = (127.5,) * 3, (64.0,) * 3


class Pretext(Protocol):
    """Images that a pretext task learns from."""

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Images ``(N, S, S, 3)`` uint8 and what each shows, ``(N, A)`` bool."""


@stage("pretext")
def pretrain(
    scenes: Pretext,
    epochs: int,
    rng_seed: int,
    scratch: Path,
    batch: int = 32,
    lr: float = 0.2,
) -> dict:
    """`mini`'s stand-in for ImageNet: a small residual network learns which heads, body textures
    and body shapes a scene shows, so that features for more than the heads exist.

    SGD with Nesterov momentum 0.9, weight decay 5e-4, one cycle; horizontal and vertical flips.
    scratch: it goes on after the last epoch that lies there. Returns ``weights`` (the
    `SmallResNet`) and ``history``.
    """
    images, attributes = scenes.arrays()
    count, pixels = len(images), torch.from_numpy(images).permute(0, 3, 1, 2).float()
    pixels = views.normalise(pixels, SMALL_MEAN, SMALL_STD)
    targets = torch.from_numpy(attributes).float()
    with seeded(rng_seed):
        model = SmallResNet(targets.shape[1]).to(device())
    model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps = count // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=epochs * steps)
    generator, losses = (
        torch.Generator().manual_seed(rng_seed),
        torch.zeros(epochs * steps, device=device()),
    )
    done, _ = fitting.resume(scratch, model, optimiser, losses)
    for epoch in bar(range(epochs), "pretext task"):
        order = torch.randperm(count, generator=generator)[: steps * batch]
        for iteration, rows in enumerate(order.view(steps, batch), epoch * steps):
            flips = [axis for axis in (-1, -2) if torch.rand((), generator=generator) < 0.5]
            if iteration >= done:
                inputs = pixels[rows].flip(flips).to(device(), memory_format=torch.channels_last)
                loss = F.binary_cross_entropy_with_logits(model(inputs), targets[rows].to(device()))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                losses[iteration] = loss.detach()
            optimiser.step()  # without gradients, where it was done before, it does nothing
            schedule.step()
        if (epoch + 1) * steps > done:
            fitting.keep(scratch, model, optimiser, losses[: (epoch + 1) * steps], [])
    history = [{"epoch": k + 1, "loss": float(x.mean())} for k, x in enumerate(losses.split(steps))]
    return {"weights": model.state_dict(), "history": pd.DataFrame(history)}


def start(
    name: str,
    n_classes: int,
    pretext: Mapping[str, Tensor] | None,
    weights: Weights | None,
    rng_seed: int,
    output_stride: int = 16,
) -> Network:
    """The network before its training: ImageNet weights, or the pretext task's (``small``)."""
    if pretext is None:
        return build(name, n_classes, rng_seed, weights, output_stride)
    state = dict(pretext)
    with seeded(rng_seed):
        model = SmallResNet(len(state["linear.bias"]))
    model.load_state_dict(state)
    return small(model).with_classes(n_classes, rng_seed)


@stage("classifier")
def train(
    backbone: str,
    images: ImageSet,
    watched: ImageSet,
    training: ClassifierConfig,
    scratch: Path,
    pretext: Mapping[str, Tensor] | None = None,
    weights: Weights | None = None,
) -> dict:
    """Train the adapted part and the classifier with BCE on image labels.

    backbone, pretext, weights: see `start`. watched: images to watch, not to choose by. scratch:
    see `training.fit`. An epoch is ``len(images) // batch`` batches. Returns ``weights`` (the
    whole `Network`) and ``history``: per epoch the loss, and on the watched images the loss and the
    share (in %) whose labels are all right at 0.5.
    """
    network = start(backbone, len(images.classes), pretext, weights, training.rng_seed).to(device())
    groups = [
        {"params": network.adapted.parameters(), "lr_mult": 1.0},
        {"params": network.classifier.parameters(), "lr_mult": training.head_lr_mult},
    ]
    labels = torch.from_numpy(images.labels).float()
    steps = fitting.steps(len(images), training.batch)

    def view(row: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        image = views.to_tensor(images.image(row))
        sizes = (training.long_sides, training.crop)
        return views.random_crop(image, *sizes, network.mean, generator), labels[row]

    losses, seen = fitting.fit(
        Objective(network),
        groups,
        view,
        len(images),
        training.epochs * steps,
        training,
        scratch,
        "classifier",
        "lr",
        watch=lambda: _watch(network, watched, training),
        period=steps,
    )
    history = pd.DataFrame(seen.double().numpy(), columns=["watched_loss", "exact"])
    history.insert(0, "epoch", range(1, training.epochs + 1))
    history.insert(1, "loss", losses.view(training.epochs, steps).mean(dim=1).double().numpy())
    return {"weights": network.state_dict(), "history": history}


class Objective(nn.Module):
    """Pixels ``(N, 3, H, W)`` and labels ``(N, C)`` -> BCE of the averaged class maps."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(average(self.network(pixels)), labels)


def average(maps: Tensor) -> Tensor:
    """Class maps ``(N, C, h, w)`` -> logits ``(N, C)``: global average pooling."""
    return maps.mean(dim=(2, 3))


@torch.no_grad()
def _watch(network: Network, images: ImageSet, training: ClassifierConfig) -> list[float]:
    """The loss, and the share in % of images whose labels are all right."""
    logits = []
    for i in range(len(images)):
        image = views.to_tensor(images.image(i), training.crop)
        logits.append(average(network(image[None].to(device()))).cpu())
    logits, labels = torch.cat(logits), torch.from_numpy(images.labels)
    loss = F.binary_cross_entropy_with_logits(logits, labels.float())
    exact = ((logits > 0) == labels).all(dim=1).float().mean()
    return [float(loss), 100 * float(exact)]


@stage("imagenet")
def imagenet(backbone: str, weights: Weights | None = None) -> dict:
    """The weights of an ImageNet network with its own head, as `train` stores them."""
    return {"weights": build(backbone, 1000, weights=weights).state_dict()}
