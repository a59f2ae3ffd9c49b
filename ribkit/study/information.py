"""Where the real classifier loses what it knows: gradients and mutual information, layer by layer.

*Gradients*: HGR, as in `ribkit.study.toy`. *Information*: how many bits a feature holds about
whether its position is a body (or a head) or background, I(region; f_k(u)). The estimator is
Kraskov's, by nearest neighbours (scikit-learn's `mutual_info_classif`), which is sound in one
dimension only. A layer's features are therefore first projected on the direction that parts the two
regions best (linear discriminant), fitted on other images: by the data-processing inequality this
gives a lower bound, and the same kind of one for every layer.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import mutual_info_classif
from torch import Tensor

from ribkit.data import views
from ribkit.data.digits import REGIONS
from ribkit.data.images import ImageSet, LabelledImage
from ribkit.data.views import IGNORE
from ribkit.method import pooling
from ribkit.networks.backbone import FeaturePyramid, Network
from ribkit.networks.trained import TrainedModel, loaded
from ribkit.runtime.device import device
from ribkit.runtime.parallel import map_images
from ribkit.runtime.per_image import per_image
from ribkit.runtime.store import Values, stage
from ribkit.study import toy

HIGH = 0.3  # a gradient above this share of its map's maximum counts as high, as in the toy
POSITIONS = 40  # of each region and image that enter an estimate, at most
FOLDS = 4
Maps = Mapping[str, Mapping[str, np.ndarray]]  # name -> image name -> seeds


def regions(image: LabelledImage) -> np.ndarray:
    """``(H, W)`` uint8, indices in `digits.REGIONS`: outside, head, body; 255 where none counts.

    Where heads are not known (photographs), the whole object is "non-discriminative": its body.
    """
    mask, heads = image.mask(), image.heads()
    parts = np.where(mask == IGNORE, IGNORE, np.where(mask > 0, 2, 0)).astype(np.uint8)
    if heads is not None:
        parts[heads > 0] = 1
    return parts


def pixels_of(image: LabelledImage, long_side: int | None) -> Tensor:
    """``(1, 3, h, w)`` in [0, 255], as maps see it at scale 1, on the device that computes."""
    return views.to_tensor(image.pixels(), long_side)[None].to(device())


# ---- gradients ----------------------------------------------------------------------------------
def high_ratios(output: Tensor, pixels: Tensor, parts: np.ndarray) -> dict[str, float]:
    """HGR of an output in the `regions` of its image: of ``|d output / d pixels|`` over colours.

    The regions may be of another size than the pixels, to which they are brought.
    """
    (slopes,) = torch.autograd.grad(output, pixels, retain_graph=True)
    gradient = toy.scaled(slopes.abs().sum(dim=1).cpu().numpy())
    seen = views.resize_labels(torch.from_numpy(parts), pixels.shape[-2:])
    return toy.hgr(gradient, seen.numpy()[None], HIGH)


def logit_ratios(
    network: Network, image: LabelledImage, parts: np.ndarray, long_side: int | None
) -> dict[str, float]:
    """HGR of the image's own logits (GAP), summed: what a layer-by-layer curve ends in."""
    pixels = pixels_of(image, long_side).requires_grad_()
    maps = network.maps(network.frozen(views.normalise(pixels, network.mean, network.std)))
    shown = torch.from_numpy(image.label).to(maps.device)
    return high_ratios(pooling.gap(maps)[0, shown].sum(), pixels, parts)


@per_image("layers", "gradients by layer", gather=lambda results: {"hgr": results.joined()})
def layers(image: LabelledImage, model: TrainedModel, long_side: int | None) -> Values:
    """HGR layer by layer: ``hgr``, a row for each image and layer, a column for each region.

    Layers: the feature levels, summed; then the logits, before and after the sigmoid, summed over
    all classes and over the image's own.
    """
    network, parts = loaded(model), regions(image)
    pixels = pixels_of(image, long_side).requires_grad_()
    outputs = _levels(network, pixels)
    logits = pooling.gap(network.classifier(list(outputs.values())[-1]))[0]
    own = logits[torch.from_numpy(image.label).to(logits.device)]
    outputs |= {"logits": logits, "sigmoid": F.logsigmoid(logits).exp()}
    outputs |= {"own logits": own, "own sigmoid": F.logsigmoid(own).exp()}
    ratios = [high_ratios(output.sum(), pixels, parts) for output in outputs.values()]
    return {"layer": list(outputs)} | {name: [each[name] for each in ratios] for name in REGIONS}


def _levels(network: Network, pixels: Tensor) -> dict[str, Tensor]:
    pyramid = FeaturePyramid(network)
    levels = enumerate(zip(pyramid.strides, pyramid(pixels), strict=True), 1)
    return {f"level {k}\nstride {stride}": output for k, (stride, output) in levels}


# ---- mutual information -------------------------------------------------------------------------
def bits(values: np.ndarray, kinds: np.ndarray) -> float:
    """Mutual information of numbers ``(n,)`` and their kinds ``(n,)``, in bits; 0 at least."""
    nats = mutual_info_classif(values[:, None], kinds, discrete_features=False, random_state=0)
    return float(nats[0] / np.log(2))


def projection(features: np.ndarray, kinds: np.ndarray) -> LinearDiscriminantAnalysis:
    """The direction of ``(n, D)`` features that parts two kinds best, shrunk a little."""
    discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return discriminant.fit(features, kinds)


@stage("bits")
def estimate(
    model: TrainedModel,
    images: ImageSet,
    probe_train_images: ImageSet,
    maps: Maps,
    long_side: int | None,
) -> Values:
    """Bits about the region, layer by layer: ``bits``, a row for each layer, contrast and fold.

    Equally many positions of object part and background are drawn from each image: 1 bit is all.
    The projections are fitted on ``probe_train_images``. ``maps``, seeds of ``images``, close the
    row of layers: what the highest map of an image's own classes tells of its object.
    """
    train, test = (
        map_images(
            partial(_samples, model, long_side, *of), range(len(of[0])), "features of positions"
        )
        for of in ((probe_train_images, {}), (images, maps))
    )
    rows = []
    for part in ("non-discriminative", "discriminative"):
        probes = [sample[part] for sample in train if part in sample]
        tested = [(k % FOLDS, sample[part]) for k, sample in enumerate(test) if part in sample]
        if not (probes and tested):
            continue
        for name in tested[0][1]:
            project = np.ravel  # of a map, which is a number as it is
            if name not in maps:
                project = projection(*_stacked(probes, name)).decision_function
            for fold in sorted({fold for fold, _ in tested}):
                features, kinds = _stacked([own for of, own in tested if of == fold], name)
                told = bits(project(features), kinds)
                rows.append({"layer": name, "part": part, "fold": fold, "bits": told})
    return {"bits": pd.DataFrame(rows)}


def _stacked(samples: list[dict[str, np.ndarray]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features ``(n, D)`` of a layer, and their kinds ``(n,)``: 1 at the part, 0 off the object."""
    features = [sample[name] for sample in samples]
    kinds = [np.repeat([1, 0], len(own) // 2) for own in features]
    return np.concatenate(features), np.concatenate(kinds)


@torch.no_grad()
def _samples(
    model: TrainedModel, long_side: int | None, images: ImageSet, maps: Maps, index: int
) -> dict[str, dict[str, np.ndarray]]:
    """Part -> layer -> features of one image at positions of the part, then of the background."""
    image = images[index]
    parts, levels = regions(image), _levels(loaded(model), pixels_of(image, long_side))
    outputs = {name: output[0].cpu().numpy() for name, output in levels.items()}
    for name, seeds in maps.items():
        fitted = views.resize_maps(seeds[image.name], parts.shape)
        outputs[name] = fitted.max(axis=0, keepdims=True, initial=0)
    samples, outside = {}, np.argwhere(parts == 0)
    for part in REGIONS[1:]:
        random, inside = np.random.default_rng(index), np.argwhere(parts == REGIONS.index(part))
        count = min(len(inside), len(outside), POSITIONS)
        if count:
            drawn = [where[random.permutation(len(where))[:count]] for where in (inside, outside)]
            samples[part] = {
                name: _at(output, np.concatenate(drawn), parts.shape)
                for name, output in outputs.items()
            }
    return samples


def _at(output: np.ndarray, where: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Features ``(n, D)`` of an output ``(D, h, w)`` at the cells that hold the pixels."""
    rows, columns = (where * np.array(output.shape[1:]) // np.array(size)).T
    return output[:, rows, columns].T
