"""Where the real classifier loses what it knows: gradients and mutual information, layer by layer.

The toy experiment asks it of six layers; here the same is asked of the classifier whose maps become
seeds. *Gradients*: HGR, as in `ribkit.study.toy`. *Information itself*: how many bits a feature
holds about whether its position is a body (or a head) or background, I(region; f_k(u)).

The estimator is Kraskov's, by nearest neighbours (scikit-learn's `mutual_info_classif`), which is
sound in one dimension only. A layer's features are therefore first projected on the direction that
parts the two regions best (linear discriminant), fitted on other images: by the data-processing
inequality this gives a lower bound, and the same kind of one for every layer.
"""

from collections.abc import Iterator, Mapping
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
from ribkit.method import pooling
from ribkit.networks.backbone import Network
from ribkit.networks.pyramid import FeaturePyramid
from ribkit.networks.trained import TrainedModel, loaded
from ribkit.runtime.device import device
from ribkit.runtime.parallel import map_images
from ribkit.runtime.per_image import PerImageResult, per_image
from ribkit.runtime.store import Values, stage
from ribkit.study import toy

HIGH = 0.3  # a gradient above this share of its map's maximum counts as high, as in the toy
POSITIONS = 40  # of each region and image that enter an estimate, at most
FOLDS = 4


def regions(image: LabelledImage) -> np.ndarray:
    """``(H, W)`` uint8, indices in `digits.REGIONS`: outside, head, body; 255 where none counts.

    Where heads are not known (photographs), the whole object is "non-discriminative": its body.
    """
    mask, heads = image.mask(), image.heads()
    found = np.where(mask == 255, 255, np.where(mask > 0, 2, 0)).astype(np.uint8)
    if heads is not None:
        found[heads > 0] = 1
    return found


def gradient(output: Tensor, pixels: Tensor) -> np.ndarray:
    """``|d output / d pixels|`` summed over colours and scaled by its maximum, ``(H, W)``."""
    (found,) = torch.autograd.grad(output, pixels, retain_graph=True)
    found = found.abs().sum(dim=(0, 1))
    peak = found.max()
    return (found / peak if peak > 0 else found).cpu().numpy()


def high_ratios(gradients: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """HGR of a map ``(H, W)`` in the regions ``(H, W)``; NaN for a region that is not there."""
    return toy.hgr(gradients[None], found[None], HIGH)


def logit_ratios(network: Network, image: LabelledImage, found: np.ndarray) -> dict[str, float]:
    """HGR of the image's own logits (GAP), summed: what a layer-by-layer curve ends in."""
    pixels = views.to_tensor(image.pixels())[None].to(device()).requires_grad_()
    maps = network.maps(network.frozen(views.normalise(pixels, network.mean, network.std)))
    own = torch.from_numpy(image.label).to(maps.device)
    return high_ratios(gradient(pooling.gap(maps)[0, own].sum(), pixels), found)


def _hgr(results: PerImageResult) -> Values:
    rows = [
        {"image": image.name, "layer": str(layer)}
        | dict(zip(REGIONS, ratios.tolist(), strict=True))
        for image, found in zip(results.images, results.each(), strict=True)
        for layer, ratios in zip(found["layers"], found["ratios"], strict=True)
    ]
    return {"hgr": pd.DataFrame(rows)}


@per_image("layers", "gradients by layer", gather=_hgr)
def layers(image: LabelledImage, model: TrainedModel) -> Values:
    """HGR layer by layer: ``hgr``, a row for each image and layer, a column for each region.

    Layers: the feature levels, summed; then the logits, before and after the sigmoid, summed over
    all classes and over the image's own.
    """
    network = loaded(model)
    pixels = views.to_tensor(image.pixels())[None].to(device()).requires_grad_()
    outputs = dict(_levels(network, pixels))
    maps = network.classifier(list(outputs.values())[-1])
    logits = pooling.gap(maps)[0]
    own = torch.from_numpy(image.label).to(logits.device)
    outputs |= {
        "logits": logits,
        "sigmoid": F.logsigmoid(logits).exp(),
        "own logits": logits[own],
        "own sigmoid": F.logsigmoid(logits[own]).exp(),
    }
    where = regions(image)
    ratios = [high_ratios(gradient(output.sum(), pixels), where) for output in outputs.values()]
    return {"layers": list(outputs), "ratios": [[r[name] for name in REGIONS] for r in ratios]}


def _levels(network: Network, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
    levels = FeaturePyramid(network)
    for k, (stride, output) in enumerate(zip(levels.strides, levels(pixels), strict=True), 1):
        yield f"level {k}\nstride {stride}", output


# ---- mutual information -------------------------------------------------------------------------
def bits(values: np.ndarray, kinds: np.ndarray, rng_seed: int = 0) -> float:
    """Mutual information of numbers ``(n,)`` and their kinds ``(n,)``, in bits; 0 at least."""
    nats = mutual_info_classif(
        values[:, None], kinds, discrete_features=False, random_state=rng_seed
    )
    return float(nats[0] / np.log(2))


def projection(features: np.ndarray, kinds: np.ndarray) -> LinearDiscriminantAnalysis:
    """The direction of ``(n, D)`` features that parts two kinds best, shrunk a little."""
    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return fitted.fit(features, kinds)


@stage("bits")
def estimate(
    model: TrainedModel,
    images: ImageSet,
    probe_train_images: ImageSet,
    maps: Mapping[str, Mapping[str, np.ndarray]],
) -> Values:
    """Bits about the region, layer by layer: ``bits``, a row for each layer, contrast and fold.

    Equally many positions of object part and background are drawn from each image, so 1 bit is all.

    Args:
        model: The trained classifier.
        images: Those of which the bits are told.
        probe_train_images: Images that the projections are fitted on.
        maps: Name -> seeds of ``images``, which close the row of layers: what a map of the image's
            own class tells of its object.

    Returns:
        ``bits``.
    """
    parts = [map_images(partial(_sample, model, s), range(len(s)), "features of positions")
             for s in (probe_train_images, images)]  # fmt: skip
    rows = []
    for part in REGIONS[:0:-1]:
        taught, tested = (_contrast(found, part) for found in parts)
        if not taught or not tested:
            continue
        for name in tested[0][1]:
            fitted = projection(*_stack(taught, name))
            for fold, own in _folds(tested):
                features, kinds = _stack(own, name)
                value = bits(fitted.decision_function(features), kinds)
                rows.append({"layer": name, "part": part, "fold": fold, "bits": value})
        for name, arrays in maps.items():
            seen = [_map_values(image, arrays[image.name], part) for image in images]
            for fold in range(FOLDS):
                pairs = [pair for pair in seen[fold::FOLDS] if pair is not None]
                if pairs:
                    values, kinds = (np.concatenate(column) for column in zip(*pairs, strict=True))
                    value = bits(values, kinds)
                    rows.append({"layer": name, "part": part, "fold": fold, "bits": value})
    return {"bits": pd.DataFrame(rows)}


def _draw(found: np.ndarray, part: str, rng_seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions ``(n, 2)`` of a part and as many of the background, and which is which."""
    random, own = np.random.default_rng(rng_seed), np.argwhere(found == REGIONS.index(part))
    rest = np.argwhere(found == 0)
    count = min(len(own), len(rest), POSITIONS)
    if count == 0:
        return None
    drawn = [random.permutation(len(each))[:count] for each in (own, rest)]
    return np.concatenate([own[drawn[0]], rest[drawn[1]]]), np.repeat([1, 0], count)


@torch.no_grad()
def _sample(model: TrainedModel, images: ImageSet, index: int) -> dict:
    """part -> (layer -> features ``(n, D)``, kinds ``(n,)``) of one image."""
    network, image = loaded(model), images[index]
    found, pixels = regions(image), views.to_tensor(image.pixels())[None].to(device())
    outputs = {name: output[0].cpu().numpy() for name, output in _levels(network, pixels)}
    sampled = {}
    for part in REGIONS[1:]:
        drawn = _draw(found, part, index)
        if drawn is not None:
            where, kinds = drawn
            sampled[part] = ({n: _at(o, where, found.shape) for n, o in outputs.items()}, kinds)
    return sampled


def _at(output: np.ndarray, where: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Features ``(n, D)`` of an output ``(D, h, w)`` at the cells that hold the pixels."""
    rows, columns = (where * np.array(output.shape[1:]) // np.array(size)).T
    return output[:, rows, columns].T


def _contrast(found: list[dict], part: str) -> list[tuple[int, dict, np.ndarray]]:
    return [(i, *one[part]) for i, one in enumerate(found) if part in one]


def _stack(found: list[tuple], name: str) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.concatenate([features[name] for _, features, _ in found]),
        np.concatenate([kinds for _, _, kinds in found]),
    )


def _folds(found: list[tuple]) -> Iterator[tuple[int, list[tuple]]]:
    for fold in range(FOLDS):
        own = [one for one in found if one[0] % FOLDS == fold]
        if own:
            yield fold, own


def _map_values(image: LabelledImage, maps: np.ndarray, part: str):
    """Values of the highest own map at a part's positions and as many of the background."""
    found = regions(image)
    drawn = _draw(found, part, image.index)
    if drawn is None:
        return None
    where, kinds = drawn
    highest = views.resize_maps(maps, found.shape).max(axis=0)
    return highest[where[:, 0], where[:, 1]], kinds
