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
from ribkit.networks.configs import BACKBONES, ClassifierConfig, TrainingConfig
from ribkit.networks.convolutions import ReLU6
from ribkit.networks.training import Objective, epoch_history, fit, sgd, steps_per_epoch
from ribkit.runtime.device import device
from ribkit.runtime.errors import InputError
from ribkit.runtime.store import stage

SMALL_MEAN, SMALL_STD = (127.5,) * 3, (64.0,) * 3


# ---- networks -----------------------------------------------------------------------------------
def build(
    name: str,
    n_classes: int,
    rng_seed: int = 0,
    weights: Weights | None = None,
    output_stride: int = 16,
    pretext: Mapping[str, Tensor] | None = None,
) -> Network:
    """Build a classifier on the CPU; ``rng_seed`` decides the weights that are drawn.

    ``small`` starts from ``pretext``, the weights from `pretrain`, if given. The others start from
    a file of ImageNet weights (None: what `architectures.imagenet_weights` finds) and keep its head
    for 1000 classes. ``output_stride`` is a ResNet's.
    """
    if name not in BACKBONES:
        raise InputError(f"backbone '{name}' is unknown; use one of {', '.join(BACKBONES)}.")
    with seeded(rng_seed):
        if name == "efficientnet_lite0":
            network = efficientnet_lite0(weights)
        elif name != "small":
            network = resnet(int(name.removeprefix("resnet")), weights, output_stride)
        else:
            model = SmallResNet(n_classes if pretext is None else len(pretext["linear.bias"]))
            if pretext is not None:
                model.load_state_dict(pretext)
            network = from_classifier(
                model, SMALL_MEAN, SMALL_STD, frozen_stride=2, output_stride=4
            )
    if pretext is None and network.classifier.out_channels == n_classes:
        return network
    return network.with_classes(n_classes, rng_seed)


def trained_network(
    backbone: str,
    n_classes: int,
    precision: str = "float32",
    weights: Weights | None = None,
    saturates: bool = True,
) -> Network:
    """Build the network that a `TrainedModel` of `train` loads its weights into.

    It runs with ``precision``, one of `backbone.PRECISIONS`; its memory is in the order that is
    faster on CPUs and on GPUs. Without ``saturates`` the part that RIB adapts has ReLU where it was
    trained with ReLU6, which is flat on both sides: no activation above 6 gets a gradient.
    """
    network = build(backbone, n_classes, weights=weights)
    network.precision = PRECISIONS[precision]
    if not saturates:
        for name, module in list(network.adapted.named_modules()):
            if isinstance(module, ReLU6 | nn.ReLU6):
                network.adapted.set_submodule(name, nn.ReLU(inplace=True))
    return network.to(memory_format=torch.channels_last)


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

    Heads and body textures, so that features for more than the heads exist. With
    Nesterov's momentum: the plain one left more than twice the loss of held-out scenes. Returns
    ``weights`` (of the `SmallResNet`) and ``history``, a row for each epoch.
    """
    images, attributes = scenes.arrays()
    steps = steps_per_epoch(len(images), batch)
    training = TrainingConfig(batch=batch, checkpoint=steps, rng_seed=rng_seed)
    targets = torch.from_numpy(attributes).float()
    with seeded(rng_seed):
        model = SmallResNet(targets.shape[1]).to(device())
    momentum = {"momentum": 0.9, "nesterov": True}
    optimiser = torch.optim.SGD(model.parameters(), lr, weight_decay=5e-4, **momentum)

    def view(index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        image = views.to_tensor(images[index])
        side = image.shape[-1]
        image = views.random_crop(image, (side, side), side, SMALL_MEAN, generator)
        return views.normalise(image, SMALL_MEAN, SMALL_STD), targets[index]

    losses, _ = fit(
        Objective(model, F.binary_cross_entropy_with_logits),
        optimiser,
        view,
        len(images),
        epochs * steps,
        training,
        scratch,
        "pretext task",
        "its lr",
    )
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
    """Train the adapted part and the classifier with BCE on image labels; see `build`.

    Returns ``weights`` (the whole `Network`) and ``history``: per epoch ``loss``, and of the
    monitor images, by which nothing is chosen, ``monitor_loss`` and ``subset_accuracy``, the share
    in % whose labels are all right.
    """
    n_classes, steps = len(images.classes), steps_per_epoch(len(images), training.batch)
    network = build(backbone, n_classes, training.rng_seed, weights, pretext=pretext).to(device())
    groups = [
        {"params": network.adapted.parameters(), "lr_mult": 1.0},
        {"params": network.classifier.parameters(), "lr_mult": training.head_lr_mult},
    ]
    labels = torch.from_numpy(images.labels).float()

    def view(index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        image = views.to_tensor(images.image(index))
        sizes = (training.long_sides, training.crop)
        return views.random_crop(image, *sizes, network.mean, generator), labels[index]

    losses, monitored = fit(
        Objective(network, _loss),
        sgd(groups, training),
        view,
        len(images),
        training.epochs * steps,
        training,
        scratch,
        "classifier",
        "lr",
        monitor=lambda: _measure(network, monitor_images, training.crop),
    )
    history = epoch_history(losses, training.epochs)
    history[["monitor_loss", "subset_accuracy"]] = monitored.double().numpy()
    return {"weights": network.state_dict(), "history": history}


def _loss(maps: Tensor, labels: Tensor) -> Tensor:
    """BCE of class maps ``(N, C, h, w)`` under global average pooling."""
    return F.binary_cross_entropy_with_logits(maps.mean(dim=(2, 3)), labels)


@torch.no_grad()
def _measure(network: Network, images: ImageSet, long_side: int) -> list[float]:
    """The loss, and the share in % of images whose labels are all right at 0.5."""
    logits = []
    for index in range(len(images)):
        image = views.to_tensor(images.image(index), long_side).to(device())
        logits.append(network(image[None]).mean(dim=(2, 3)).cpu())
    logits, labels = torch.cat(logits), torch.from_numpy(images.labels)
    loss = F.binary_cross_entropy_with_logits(logits, labels.float())
    all_right = ((logits > 0) == labels).all(dim=1).float().mean()
    return [float(loss), 100 * float(all_right)]
