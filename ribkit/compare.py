"""CAM against RIB on one's own photographs, with any torchvision classifier that suits.

An image's others are the folder's remaining photographs. The rate is one at which an ImageNet
head's maps visibly grow; nothing tells which is best without masks, so try others:
``settings=dataclasses.replace(compare.SETTINGS, lr=3e-5)``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from ribkit.data import photographs, views
from ribkit.data.images import ImageSet
from ribkit.method import cam, pooling
from ribkit.method.settings import Settings
from ribkit.networks.backbone import IMAGENET, Network, from_classifier
from ribkit.results import figures
from ribkit.results.style import Pictures
from ribkit.runtime.device import device
from ribkit.runtime.errors import InputError
from ribkit.runtime.progress import bar
from ribkit.study import profiles
from ribkit.study.maps import Adaptation, Sizes, adapt_image

SETTINGS, SCALES = profiles.PHOTOGRAPH_SETTINGS, profiles.PHOTOGRAPH_SCALES


@dataclass(frozen=True)
class Comparison:
    """images: what was seen, and as what. cam, rib: image name -> normalised maps ``(K, h, w)``."""

    images: ImageSet
    cam: Mapping[str, np.ndarray]
    rib: Mapping[str, np.ndarray]

    def pictures(self) -> Pictures:
        """What `figure` is drawn from: (title, panel) -> photograph or map."""
        pictures = {}
        for image in self.images:
            for k, label in enumerate(image.classes):
                title = f"{image.name}, {self.images.classes[label]}"
                pictures[title, "photograph"] = image.pixels()
                pictures[title, "CAM"] = self.cam[image.name][k]
                pictures[title, "RIB"] = self.rib[image.name][k]
        return pictures

    def figure(self) -> Figure:
        """Photograph, CAM and RIB side by side, a row for each image and class."""
        return figures.draw("photographs", self.pictures())


def compare(
    folder: str | Path,
    model: nn.Module,
    classes: Sequence[str] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    settings: Settings = SETTINGS,
    scales: Sequence[float] = SCALES,
    mean: Sequence[float] = IMAGENET[0],
    std: Sequence[float] = IMAGENET[1],
) -> Comparison:
    r"""CAM and RIB maps of every photograph in a folder.

    .. math:: M_c = \textstyle\sum_{s} \mathrm{ReLU}(w_c \cdot f(x_s)) / \max

    for CAM, over scales and horizontal flips (Section 2 of the paper, arXiv:2110.06530); for RIB
    the sum over the steps of `ribkit.method.adaptation.adapt` besides (Section 3.2).

    Args:
        folder: Of photographs of any size.
        model: A trained torchvision classifier that ends in global average pooling and one linear
            layer, whose bias is dropped.
        classes: The names of its C outputs; None: their numbers.
        labels: File name -> class names; None: each photograph's top class.
        settings: Of the adaptation.
        scales: Of the views, 1.0 among them.
        mean: Of the model's input, three channels, for pixels in [0, 255].
        std: The same.

    Returns:
        The photographs, and both methods' maps ``(K, h, w)`` in [0, 1] of their K classes.

    Raises:
        InputError: The model or the folder does not suit, or a label is no class.

    Example:
        >>> from torchvision.models import resnet18
        >>> model = resnet18(num_classes=3)
        >>> compare("none", model, ["cat", "dog", "cow"])
        Traceback (most recent call last):
        ribkit.runtime.errors.InputError: none is not a folder; give one that holds photographs.
    """
    network = from_classifier(model, mean, std).to(device())
    outputs = network.classifier.out_channels
    names = tuple(classes or map(str, range(outputs)))
    if len(names) != outputs:
        raise InputError(f"{len(names)} names for {outputs} classes; give the classifier's own.")
    if 1.0 not in scales:
        raise InputError(f"scales {tuple(scales)} lack 1.0, which the adaptation watches; add it.")
    source = photographs.folder(folder)
    for name in labels or ():
        if name not in source.ids:
            raise InputError(f"labels names {name}, which is not in {folder}; correct the name.")
    shown = [
        [_top(network, source.image(name))] if labels is None else _indices(name, labels, names)
        for name in source.ids
    ]
    images = source.labelled(names, shown)
    photos = [images.image(i) for i in range(len(images))]
    side = min(min(photo.shape[:2]) for photo in photos)
    squares = [views.square(views.to_tensor(photo), side) for photo in photos]
    features = torch.cat([network.features(s[None].to(device())) for s in squares])
    bank = {"features": features, "labels": torch.from_numpy(images.labels).float().to(device())}
    plain, adapted = {}, {}
    for image in bar(images, "CAM and RIB", len(images)):
        for maps, adaptation in ((plain, None), (adapted, Adaptation(settings, bank))):
            size, _, made = adapt_image(network, image, Sizes(tuple(scales)), adaptation)
            maps[image.name] = cam.multi_scale(made.maps, size).cpu().numpy()
    return Comparison(images, plain, adapted)


@torch.no_grad()
def _top(network: Network, image: np.ndarray) -> int:
    return int(pooling.gap(network(views.to_tensor(image)[None].to(device()))).argmax())


def _indices(name: str, labels: Mapping[str, Sequence[str]], classes: Sequence[str]) -> list[int]:
    if not labels.get(name):
        raise InputError(f"labels has no class for {name}; give its class names.")
    for label in labels[name]:
        if label not in classes:
            raise InputError(f"label '{label}' of {name} is not a class of the classifier.")
    return [classes.index(label) for label in labels[name]]
