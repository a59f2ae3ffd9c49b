"""The masking test: is what a gradient calls high what a network needs? Blank it and train anew.

Some pixels of every image become black, in training and in test, those of the *high*est gradient,
of the *low*est, or as many *random* ones; a new network learns from what is left. If a high
gradient marks what a network uses, accuracy falls most where high pixels are blanked, least where
low ones are. That is ROAR (Hooker et al., arXiv:1806.10758), asked of input gradients as by Shah et
al. (arXiv:2102.12781).

Only pixels that are not black are chosen among, since blanking black changes nothing. A mask says
something by its form: so none is made with the label, and G6 is read at the class predicted. It
still carries what its network saw, which "random" does not; between "high" and "low" that is even.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from ribkit.data.digits import Digits, DigitSet
from ribkit.runtime.store import stage
from ribkit.study import toy
from ribkit.study.toy import Maps, Network

LAYERS = {"G5": (5, "after", "sum"), "G6": (6, "after", "target")}
"""Name of a gradient -> (layer, reading, output) of `toy.gradient_maps`."""
KINDS = ("high", "low", "random")


def mask(images: np.ndarray, values: np.ndarray, share: float, lowest: bool = False) -> np.ndarray:
    """``(N, H, W)`` bool: a share of each image's pixels that are not black.

    Those of the highest ``values``, or of the lowest, their number rounded down; up to a share of
    1/2 the two never meet, also where values are equal.
    """
    flat = images.reshape(len(images), -1) > 0
    ranked = np.where(flat, -values.reshape(flat.shape), np.inf).argsort(axis=1, kind="stable")
    rank = ranked.argsort(axis=1)  # 0: the highest of its image; the black ones last
    count = flat.sum(axis=1, keepdims=True)
    chosen = np.floor(share * count)
    where = (count - chosen <= rank) & (rank < count) if lowest else rank < chosen
    return where.reshape(images.shape)


def gradients(network: Network, images: np.ndarray, activation: str) -> Maps:
    """The gradients of LAYERS, where G6 is of the class that the network predicts."""
    labels = toy.predicted(network, images)
    return toy.gradient_maps(network, images, labels, activation)


@stage("toy-masking")
def masking(
    digits: Digits,
    rng_seed: int = 0,
    steps: int = 100,
    shares: Sequence[float] = (0.25, 0.5),
    activation: str = "sigmoid",
    *,
    scratch: Path,
) -> dict:
    """The masking test with one seed: a network whose gradients tell, and those trained anew.

    Returns "accuracies": columns share, layer, blanked (one of KINDS; the random ones are the same
    for both layers), seed, ink (the part of the test images' grey that is blanked), accuracy, and
    whole, the accuracy where nothing is blanked.
    """
    sets = (digits.train, digits.test)

    def fresh(train: DigitSet, name: str) -> Network:
        kept = scratch / name
        kept.mkdir(exist_ok=True)
        return toy.train(train, activation, rng_seed, steps, kept)[0]

    network = fresh(digits.train, "whole")
    maps = [gradients(network, part.images, activation) for part in sets]
    rng = np.random.default_rng(rng_seed)
    values = {}
    for layer, key in LAYERS.items():
        values[layer, "high"] = values[layer, "low"] = [part[key] for part in maps]
    values["", "random"] = [rng.random(part.images.shape) for part in sets]
    whole, rows = _accuracy(network, digits.test), []
    for share, ((layer, kind), by) in product(shares, values.items()):
        train, test = (
            replace(
                part, images=np.where(mask(part.images, v, share, kind == "low"), 0, part.images)
            )
            for part, v in zip(sets, by, strict=True)
        )
        accuracy = _accuracy(fresh(train, f"{layer}-{kind}-{share}"), test)
        ink = 1 - test.images.sum() / digits.test.images.sum()
        found = (kind, rng_seed, ink, accuracy, whole)
        rows += [(share, name, *found) for name in ([layer] if layer else LAYERS)]
    columns = ["share", "layer", "blanked", "seed", "ink", "accuracy", "whole"]
    return {"accuracies": pd.DataFrame(rows, columns=columns)}


def _accuracy(network: Network, test: DigitSet) -> float:
    return float((toy.predicted(network, test.images) == test.labels).mean())
