"""Where the real classifier loses what it knows: gradients and mutual information, layer by layer.

The toy experiment asks it of six layers; here the same is asked of the classifier whose maps become
seeds. *Gradients*: HGR, as in `ribkit.study.toy`. *Information itself*: how many bits a feature
holds about whether its position is a body (or a head) or background, I(region; f_k(u)).

The estimator is Kraskov's, by nearest neighbours (scikit-learn's `mutual_info_classif`), which is
sound in one dimension only. A layer's features are therefore first projected on the direction that
parts the two regions best (linear discriminant), fitted on other images: by the data-processing
inequality this gives a lower bound, and the same kind of one for every layer.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
    parts = np.where(mask == IGNORE, IGNORE, np.where(mask > 0, 2, 0)).astype(np.uint8)
    if heads is not None:
        parts[heads > 0] = 1
    return parts


def gradient(output: Tensor, pixels: Tensor) -> np.ndarray:
    """``|d output / d pixels|`` summed over colours and scaled by its maximum, ``(H, W)``."""
    (slopes,) = torch.autograd.grad(output, pixels, retain_graph=True)
    slopes = slopes.abs().sum(dim=(0, 1))
    peak = slopes.max()
    return (slopes / peak if peak > 0 else slopes).cpu().numpy()


def high_ratios(gradients: np.ndarray, parts: np.ndarray) -> dict[str, float]:
    """HGR of a map ``(H, W)`` in the regions ``(H, W)``; NaN for a region that is not there."""
    return toy.hgr(gradients[None], parts[None], HIGH)


def logit_ratios(network: Network, image: LabelledImage, parts: np.ndarray) -> dict[str, float]:
    """HGR of the image's own logits (GAP), summed: what a layer-by-layer curve ends in.

    Args:
        network: A classifier, trained or adapted.
        image: The image.
        parts: Its `regions`.

    Returns:
        Region -> the share of its pixels with a high gradient.
    """
    pixels = views.to_tensor(image.pixels())[None].to(device()).requires_grad_()
    maps = network.maps(network.frozen(views.normalise(pixels, network.mean, network.std)))
    shown = torch.from_numpy(image.label).to(maps.device)
    return high_ratios(gradient(pooling.gap(maps)[0, shown].sum(), pixels), parts)


def _hgr(results: PerImageResult) -> Values:
    rows = [
        {"image": image.name, "layer": str(layer)} | dict(zip(REGIONS, ratios, strict=True))
        for image, arrays in zip(results.images, results.each(), strict=True)
        for layer, ratios in zip(arrays["layers"], arrays["ratios"].tolist(), strict=True)
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
    shown = torch.from_numpy(image.label).to(logits.device)
    outputs |= {
        "logits": logits,
        "sigmoid": F.logsigmoid(logits).exp(),
        "own logits": logits[shown],
        "own sigmoid": F.logsigmoid(logits[shown]).exp(),
    }
    parts = regions(image)
    ratios = [high_ratios(gradient(output.sum(), pixels), parts) for output in outputs.values()]
    return {"layers": list(outputs), "ratios": [[r[name] for name in REGIONS] for r in ratios]}


def _levels(network: Network, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
    pyramid = FeaturePyramid(network)
    for k, (stride, output) in enumerate(zip(pyramid.strides, pyramid(pixels), strict=True), 1):
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
    discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return discriminant.fit(features, kinds)


@dataclass(frozen=True)
class Sample:
    """Positions of one image, drawn from an object part and equally many from the background.

    Attributes:
        fold: Of the image.
        features: Layer -> features at the positions, ``(n, D)``.
        kinds: 1 at the part, 0 at the background, ``(n,)``.
    """

    fold: int
    features: dict[str, np.ndarray]
    kinds: np.ndarray


@stage("bits")
def estimate(
    model: TrainedModel,
    images: ImageSet,
    probe_train_images: ImageSet,
    maps: Mapping[str, Mapping[str, np.ndarray]],
) -> Values:
    """Bits about the region, layer by layer: ``bits``, a row for each layer, contrast and fold.

    Equally many positions of object part and background are drawn from each image: 1 bit is all.

    Args:
        model: The trained classifier.
        images: Those of which the bits are told.
        probe_train_images: Images that the projections are fitted on.
        maps: Name -> seeds of ``images``, which close the row of layers: what a map of the image's
            own class tells of its object.

    Returns:
        ``bits``.
    """
    label = "features of positions"
    train, test = (
        map_images(partial(_samples, model, chosen), range(len(chosen)), label)
        for chosen in (probe_train_images, images)
    )
    rows: list[dict] = []
    for part in ("non-discriminative", "discriminative"):
        probes = [sample[part] for sample in train if part in sample]
        tested = [sample[part] for sample in test if part in sample]
        if not probes or not tested:
            continue
        kinds = np.concatenate([sample.kinds for sample in probes])
        for name in tested[0].features:
            fitted = projection(np.concatenate([s.features[name] for s in probes]), kinds)
            rows += _rows(name, part, tested, fitted.decision_function)
        for name, arrays in maps.items():
            drawn = (_of_map(name, image, arrays[image.name], part) for image in images)
            rows += _rows(name, part, [s for s in drawn if s is not None], np.asarray)
    return {"bits": pd.DataFrame(rows)}


def _rows(
    name: str, part: str, samples: list[Sample], project: Callable[[np.ndarray], np.ndarray]
) -> Iterator[dict]:
    """The bits of one layer in each fold, of the features after their projection to a number."""
    for fold in range(FOLDS):
        chosen = [sample for sample in samples if sample.fold == fold]
        if chosen:
            features = np.concatenate([sample.features[name] for sample in chosen])
            value = bits(project(features), np.concatenate([s.kinds for s in chosen]))
            yield {"layer": name, "part": part, "fold": fold, "bits": value}


@torch.no_grad()
def _samples(model: TrainedModel, images: ImageSet, index: int) -> dict[str, Sample]:
    """Part -> sample of one image's features."""
    network, image = loaded(model), images[index]
    parts, pixels = regions(image), views.to_tensor(image.pixels())[None].to(device())
    outputs = {name: output[0].cpu().numpy() for name, output in _levels(network, pixels)}
    samples = {}
    for part in REGIONS[1:]:
        if (drawn := _draw(parts, part, index)) is not None:
            where, kinds = drawn
            features = {name: _at(output, where, parts.shape) for name, output in outputs.items()}
            samples[part] = Sample(index % FOLDS, features, kinds)
    return samples


def _of_map(name: str, image: LabelledImage, maps: np.ndarray, part: str) -> Sample | None:
    """Values of the highest own map at a part's positions and as many of the background."""
    parts = regions(image)
    if (drawn := _draw(parts, part, image.index)) is None:
        return None
    where, kinds = drawn
    highest = views.resize_maps(maps, parts.shape).max(axis=0)
    return Sample(image.index % FOLDS, {name: highest[where[:, 0], where[:, 1]]}, kinds)


def _draw(parts: np.ndarray, part: str, rng_seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions ``(n, 2)`` of a part and as many of the background, and which is which."""
    random, inside = np.random.default_rng(rng_seed), np.argwhere(parts == REGIONS.index(part))
    outside = np.argwhere(parts == 0)
    count = min(len(inside), len(outside), POSITIONS)
    if count == 0:
        return None
    drawn = [random.permutation(len(where))[:count] for where in (inside, outside)]
    return np.concatenate([inside[drawn[0]], outside[drawn[1]]]), np.repeat([1, 0], count)


def _at(output: np.ndarray, where: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Features ``(n, D)`` of an output ``(D, h, w)`` at the cells that hold the pixels."""
    rows, columns = (where * np.array(output.shape[1:]) // np.array(size)).T
    return output[:, rows, columns].T
