"""CAM against RIB on one's own photographs, with any torchvision classifier that suits.

An image's others are the folder's remaining photographs. The rate is one at which an ImageNet
head's maps visibly grow; nothing tells which is best without masks, so try others:
``settings=dataclasses.replace(compare.SETTINGS, lr=3e-5)``.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
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
SIDE = 224  # of the square that an adaptation sees of another image, in pixels
ROWS = 20  # of a figure; matplotlib lays out ten times as many in minutes


@dataclass(frozen=True)
class Comparison:
    """images: what was seen, and as what. cam, rib: image name -> normalised maps ``(K, h, w)``."""

    images: ImageSet
    cam: Mapping[str, np.ndarray]
    rib: Mapping[str, np.ndarray]

    def pictures(self) -> Pictures:
        """What `figures` are drawn from: (title, panel) -> photograph or map."""
        pictures = {}
        for image in self.images:
            for k, label in enumerate(image.classes):
                # a file name's bytes that are not UTF-8 cannot be drawn
                name = os.fsencode(image.name).decode(errors="backslashreplace")
                title = f"{name}, {self.images.classes[label]}"
                pictures[title, "photograph"] = image.pixels()
                pictures[title, "CAM"] = self.cam[image.name][k]
                pictures[title, "RIB"] = self.rib[image.name][k]
        return pictures

    def figures(self) -> list[Figure]:
        """Photograph, CAM and RIB side by side, a row for each image and class, 20 in a figure."""
        pictures, size = list(self.pictures().items()), 3 * ROWS
        pages = [dict(pictures[i : i + size]) for i in range(0, len(pictures), size)]
        return [figures.draw("photographs", page) for page in pages]


def compare(
    folder: str | Path,
    model: nn.Module | Network,
    classes: Sequence[str] | None = None,
    labels: Mapping[str, str | int | Iterable[str | int]] | None = None,
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
        model: A trained classifier that ends in global average pooling and one linear layer, whose
            bias is dropped (see `ribkit.networks.backbone.from_classifier`); or a `Network` made of
            one, which has its own mean and std.
        classes: The names of its C outputs; None: their numbers, from 0.
        labels: File name -> one or more of these; for other photographs their top class is taken.
        settings: Of the adaptation.
        scales: Of the views, 1.0 among them.
        mean: Of the model's input, three channels, for pixels in [0, 255]; mean and std that are
            all 1 or less, as in torchvision's transforms, are for pixels in [0, 1].
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
    if not isinstance(model, Network):
        model = from_classifier(model, *_for_bytes(mean, std))
    network = model.to(device())
    outputs = network.classifier.out_channels
    names = tuple(map(str, range(outputs) if classes is None else classes))
    if len(names) != outputs:
        raise InputError(f"{len(names)} names for {outputs} classes; give the classifier's own.")
    if 1.0 not in scales or not all(0 < scale < math.inf for scale in scales):
        raise InputError(
            f"scales {tuple(scales)} must be positive, and have 1.0 among them, which the "
            "adaptation watches."
        )
    source = photographs.folder(os.path.expanduser(folder))
    labels = {} if labels is None else labels
    if not isinstance(labels, Mapping):
        raise InputError(f"labels is {labels!r}; give a mapping of file names to class names.")
    for name in labels:
        if name not in source.ids:
            raise InputError(f"labels names {name}, which is not in {folder}; correct the name.")
    given = {name: _indices(name, labels[name], names) for name in labels}
    shown = [given.get(name) or [_top(network, source.image(name))] for name in source.ids]
    images = source.labelled(names, shown)
    squares = [views.square(views.to_tensor(image.pixels()), SIDE) for image in images]
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


def _indices(name: str, labels: str | int | Iterable[str | int], names: Sequence[str]) -> list[int]:
    """The outputs of a photograph's labels."""
    one = isinstance(labels, str) or not isinstance(labels, Iterable)
    wanted = [str(label) for label in ([labels] if one else labels)]
    if not wanted or len(set(wanted)) < len(wanted):
        fault = "has no class" if not wanted else "repeats a class"
        raise InputError(f"labels {fault} for {name}; give its class names, each once.")
    for label in wanted:
        if names.count(label) != 1:
            outputs = [number for number, other in enumerate(names) if other == label]
            fault = f"is the name of outputs {outputs}" if outputs else "is not a class"
            raise InputError(
                f"label '{label}' of {name} {fault} of the classifier; give one of its "
                f"{len(names)} classes, {names[0]} to {names[-1]}, whose name is its own."
            )
    return [names.index(label) for label in wanted]


def _for_bytes(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """Mean and std for pixels in [0, 255]. InputError: not three each, or of different pixels."""
    if np.shape(mean) == np.shape(std) == (3,):
        both = np.array([mean, std], float)
        unit = both.max() <= 1
        of_bytes = both[1].min() >= 1 and (both[0].max() > 1 or not both[0].any())
        if np.isfinite(both).all() and both[1].min() > 0 and (unit or of_bytes):
            return tuple((both * 255 if unit else both).tolist())
    raise InputError(
        f"mean {mean} and std {std} are not those of three channels; give three numbers each, both "
        "for pixels in [0, 255], or both for [0, 1]."
    )
