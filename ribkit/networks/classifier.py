"""Training the classifier on image labels: BCE, poly schedule, frozen batch norm (Section 4.1)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribkit.data import views
from ribkit.data.images import ImageSet
from ribkit.networks.architectures import SmallResNet, Weights, efficientnet_lite0, resnet
from ribkit.networks.backbone import PRECISIONS, Network, from_classifier, seeded
from ribkit.networks.configs import BACKBONES, ClassifierConfig
from ribkit.networks.training import epoch_history, fit, keep, resume, steps_per_epoch
from ribkit.runtime.device import device
from ribkit.runtime.errors import InputError
from ribkit.runtime.progress import bar
from ribkit.runtime.store import stage

SMALL_MEAN, SMALL_STD = (127.5,) * 3, (64.0,) * 3


# ---- networks -----------------------------------------------------------------------------------
def build(
    name: str,
    n_classes: int,
    rng_seed: int = 0,
    weights: Weights | None = None,
    output_stride: int = 16,
) -> Network:
    """Build a classifier; the ImageNet networks come with their weights.

    Args:
        name: One of `BACKBONES`.
        n_classes: How many classes; 1000 keep the ImageNet head.
        rng_seed: Of the weights that are drawn.
        weights: The file of ImageNet weights; None: what `architectures.imagenet_weights` finds.
        output_stride: Of a ResNet.

    Returns:
        The network, on the CPU.

    Raises:
        InputError: The name is unknown, or the weights cannot be used.
    """
    if name not in BACKBONES:
        raise InputError(f"backbone '{name}' is unknown; use one of {', '.join(BACKBONES)}.")
    with seeded(rng_seed):
        if name == "small":
            return _small(SmallResNet(n_classes))
        if name == "efficientnet_lite0":
            network = efficientnet_lite0(weights)
        else:
            network = resnet(int(name.removeprefix("resnet")), weights, output_stride)
    return network if n_classes == 1000 else network.with_classes(n_classes, rng_seed)


def _small(model: SmallResNet) -> Network:
    """`mini`'s network: frozen up to stride 2, output stride 4."""
    return from_classifier(model, SMALL_MEAN, SMALL_STD, frozen_stride=2, output_stride=4)


def pretrained(
    name: str,
    n_classes: int,
    pretext: Mapping[str, Tensor] | None,
    weights: Weights | None,
    rng_seed: int,
    output_stride: int = 16,
) -> Network:
    """Build a network to be trained, its classifier new.

    Args:
        name: One of `BACKBONES`.
        n_classes: How many classes.
        pretext: For ``small``: the weights from `pretrain`; None: it starts from drawn weights.
        weights: For the others: the file of ImageNet weights, see `build`.
        rng_seed: Of the weights that are drawn.
        output_stride: Of a ResNet.

    Returns:
        The network, on the CPU.
    """
    if pretext is None:
        return build(name, n_classes, rng_seed, weights, output_stride)
    with seeded(rng_seed):
        model = SmallResNet(len(pretext["linear.bias"]))
    model.load_state_dict(pretext)
    return _small(model).with_classes(n_classes, rng_seed)


def trained_network(
    backbone: str, n_classes: int, precision: str = "float32", weights: Weights | None = None
) -> Network:
    """Build the network that a `TrainedModel` of `train` loads its weights into.

    Args:
        backbone: One of `BACKBONES`.
        n_classes: How many classes it was trained on.
        precision: One of `backbone.PRECISIONS`, with which it runs.
        weights: The file of ImageNet weights that it was trained from.

    Returns:
        The network, on the CPU; its memory in the order that is faster on the device that computes.
    """
    network = build(backbone, n_classes, weights=weights)
    network.precision = PRECISIONS[precision]
    if device().type == "cuda":
        network.to(memory_format=torch.channels_last)
    return network


@stage("imagenet")
def imagenet(backbone: str, weights: Weights | None = None) -> dict:
    """The ``weights`` of an ImageNet network with its own head, as `train` stores them."""
    return {"weights": build(backbone, 1000, weights=weights).state_dict()}


# ---- the pretext task ---------------------------------------------------------------------------
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
    """Train `mini`'s stand-in for ImageNet: a small residual network learns what a scene shows.

    Heads, body textures and body shapes, so that features for more than the heads exist. SGD with
    Nesterov momentum 0.9, weight decay 5e-4, one cycle; horizontal and vertical flips.

    Args:
        scenes: The images and what each shows.
        epochs: How often each image is seen.
        rng_seed: Of the first weights, the order and the flips.
        scratch: The folder from which an interrupted training goes on, after its last epoch.
        batch: Images of a step.
        lr: The highest learning rate of the cycle.

    Returns:
        ``weights`` (of the `SmallResNet`) and ``history``, a row for each epoch.
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
    done, _ = resume(scratch, model, optimiser, losses)
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
            keep(scratch, model, optimiser, losses[: (epoch + 1) * steps], [])
    return {"weights": model.state_dict(), "history": epoch_history(losses, epochs)}


# ---- the classifier -----------------------------------------------------------------------------
@stage("classifier")
def train(
    backbone: str,
    images: ImageSet,
    monitor_images: ImageSet,
    training: ClassifierConfig,
    scratch: Path,
    pretext: Mapping[str, Tensor] | None = None,
    weights: Weights | None = None,
) -> dict:
    """Train the adapted part and the classifier with BCE on image labels.

    Args:
        backbone: One of `BACKBONES`.
        images: The images to train on; an epoch is ``len(images) // batch`` batches.
        monitor_images: Images to measure on after each epoch, not to choose by.
        training: The settings.
        scratch: The folder from which an interrupted training goes on.
        pretext: See `pretrained`.
        weights: See `pretrained`.

    Returns:
        ``weights`` (the whole `Network`) and ``history``: per epoch ``loss``, and of the monitor
        images ``monitor_loss`` and ``subset_accuracy``, the share in % whose labels are all right.
    """
    rng_seed, n_classes = training.rng_seed, len(images.classes)
    network = pretrained(backbone, n_classes, pretext, weights, rng_seed).to(device())
    groups = [
        {"params": network.adapted.parameters(), "lr_mult": 1.0},
        {"params": network.classifier.parameters(), "lr_mult": training.head_lr_mult},
    ]
    labels = torch.from_numpy(images.labels).float()
    steps = steps_per_epoch(len(images), training.batch)

    def view(index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        image = views.to_tensor(images.image(index))
        sizes = (training.long_sides, training.crop)
        return views.random_crop(image, *sizes, network.mean, generator), labels[index]

    losses, monitored = fit(
        _Objective(network),
        groups,
        view,
        len(images),
        training.epochs * steps,
        training,
        scratch,
        "classifier",
        "lr",
        monitor=lambda: _measure(network, monitor_images, training.crop),
        monitor_every=steps,
    )
    history = epoch_history(losses, training.epochs)
    history[["monitor_loss", "subset_accuracy"]] = monitored.double().numpy()
    return {"weights": network.state_dict(), "history": history}


class _Objective(nn.Module):
    """Pixels ``(N, 3, H, W)`` and labels ``(N, C)`` -> BCE of the averaged class maps."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(_average(self.network(pixels)), labels)


def _average(maps: Tensor) -> Tensor:
    """Class maps ``(N, C, h, w)`` -> logits ``(N, C)``: global average pooling."""
    return maps.mean(dim=(2, 3))


@torch.no_grad()
def _measure(network: Network, images: ImageSet, long_side: int) -> list[float]:
    """The loss, and the share in % of images whose labels are all right at 0.5."""
    logits = []
    for i in range(len(images)):
        image = views.to_tensor(images.image(i), long_side)
        logits.append(_average(network(image[None].to(device()))).cpu())
    logits, labels = torch.cat(logits), torch.from_numpy(images.labels)
    loss = F.binary_cross_entropy_with_logits(logits, labels.float())
    all_right = ((logits > 0) == labels).all(dim=1).float().mean()
    return [float(loss), 100 * float(all_right)]
