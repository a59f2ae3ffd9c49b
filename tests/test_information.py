"""HGR and mutual information of the real classifier, on data whose values are known."""

import numpy as np
import pytest
import torch
from fabricated import run_stage, stored, trained_classifier
from scipy import integrate, stats
from torch import nn

from ribkit.data import scenes
from ribkit.data.digits import REGIONS
from ribkit.data.images import ImageSet
from ribkit.networks import classifier
from ribkit.networks.backbone import FeaturePyramid, Network
from ribkit.study import information
from ribkit.study.panels import gradient_region


def gaussian_bits(distance):
    """Mutual information of a fair coin and a unit Gaussian shifted by the coin, by integration."""

    def term(x):
        p, q = stats.norm.pdf(x, 0), stats.norm.pdf(x, distance)
        mixed = (p + q) / 2
        return 0.5 * (p * np.log2(p / mixed) + q * np.log2(q / mixed))

    return integrate.quad(term, -8, distance + 8)[0]


@pytest.mark.parametrize("distance", [0.0, 1.0, 2.0, 4.0])
def test_the_estimator_finds_the_known_information_of_shifted_gaussians(distance):
    random = np.random.default_rng(0)
    kinds = np.repeat([0, 1], 2000)
    values = random.normal(distance * kinds)
    assert information.bits(values, kinds) == pytest.approx(gaussian_bits(distance), abs=0.04)


def test_the_projection_keeps_the_information_of_one_direction_among_many():
    random = np.random.default_rng(1)
    kinds = np.repeat([0, 1], 6000)
    direction = random.normal(size=12)
    direction /= np.linalg.norm(direction)
    features = random.normal(size=(12000, 12)) + 2 * kinds[:, None] * direction
    half = np.arange(12000) % 2 == 0
    fitted = information.projection(features[half], kinds[half])
    found = information.bits(fitted.decision_function(features[~half]), kinds[~half])
    assert found == pytest.approx(gaussian_bits(2.0), abs=0.05)


def test_a_projection_fitted_on_noise_tells_nothing_of_other_images():
    random = np.random.default_rng(2)
    kinds, features = np.repeat([0, 1], 300), random.normal(size=(600, 50))
    fitted = information.projection(features, kinds)
    other = random.normal(size=(600, 50))
    assert information.bits(fitted.decision_function(other), kinds) < 0.05


def test_regions_of_a_scene_are_its_outside_head_and_body():
    images = scenes.generate(5, 1)
    found = information.regions(images[0])
    heads, mask = images.source.heads("0"), images.mask(0)
    assert (found[heads > 0] == REGIONS.index("discriminative")).all()
    assert (found[(mask > 0) & (heads == 0)] == REGIONS.index("non-discriminative")).all()
    assert (found[mask == 0] == REGIONS.index("irrelevant")).all()


def test_the_gradient_of_a_weighted_sum_by_hand():
    pixels = torch.ones(1, 2, 1, 4, requires_grad=True)
    weights = torch.tensor([[1.0, 0.0, -4.0, 1.1], [1.0, 0.0, 4.0, 1.4]]).view(1, 2, 1, 4)
    parts = np.array([[2, 2, 1, 1]])  # of its maximum there is 0.25, 0, 1 and 0.31
    ratios = information.high_ratios((weights * pixels).sum(), pixels, parts)
    assert ratios["discriminative"] == 1
    assert ratios["non-discriminative"] == 0
    assert np.isnan(ratios["irrelevant"])


class Black:
    """A source of black images of 2 x 2."""

    def image(self, id):
        return np.zeros((2, 2, 3), np.uint8)


def test_the_logit_is_of_the_images_own_class():
    conv = nn.Conv2d(3, 2, 1, bias=False)
    conv.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    network = Network(nn.Identity(), nn.Identity(), conv, (0.0,) * 3, (1.0,) * 3)
    found = np.array([[0, 1], [2, 2]])
    images = ImageSet(("x",), ("a", "b"), np.array([[True, False]]), Black())
    ratios = information.logit_ratios(network, images[0], found, None)
    assert set(ratios.values()) == {1}  # every pixel alike; of both classes there is no gradient


def test_regions_are_brought_to_the_size_of_the_pixels():
    pixels = torch.ones(1, 1, 1, 2, requires_grad=True)
    parts = np.repeat([[1, 2]], 3, axis=1).astype(np.uint8)  # of 1 x 6
    ratios = information.high_ratios((pixels * torch.tensor([1.0, 0.2])).sum(), pixels, parts)
    assert (ratios["discriminative"], ratios["non-discriminative"]) == (1, 0)


@pytest.fixture
def model(tmp_path):
    network = classifier.build("small", len(scenes.CLASSES))
    weights = stored(tmp_path, weights=network.state_dict())
    return trained_classifier(weights.tensors("weights"))


@pytest.fixture
def sizes_seen(monkeypatch):
    """The sizes of pixels that any level of a network was asked for."""
    sizes, levels = set(), FeaturePyramid.forward

    def noted(pyramid, pixels):
        return sizes.add(pixels.shape[-2:]) or levels(pyramid, pixels)

    monkeypatch.setattr(FeaturePyramid, "forward", noted)
    return sizes


def test_photographs_are_seen_as_large_as_their_maps_are_made_from(model, sizes_seen, tmp_path):
    images, seen = scenes.generate(6, 2), {"model": model, "long_side": 32}
    maps = {
        "none": stored(
            tmp_path, "maps", maps=dict.fromkeys(images.ids, np.zeros((1, 4, 4)))
        ).arrays("maps")
    }
    run_stage(information.layers, images, tmp_path / "layers", **seen)
    information.estimate(images=images, probe_train_images=scenes.generate(7, 2), maps=maps, **seen)
    assert sizes_seen == {(32, 32)}
    panels = run_stage(gradient_region, images, tmp_path / "panels", **seen)["panels"]
    seen["long_side"] = None
    whole = run_stage(gradient_region, images, tmp_path / "whole", **seen)["panels"]
    for name in images.ids:
        assert np.array(panels[name].shape)[-2:] * 2 == pytest.approx(whole[name].shape[-2:])


def test_every_layer_of_a_classifier_is_measured(model, tmp_path):
    images, seen = scenes.generate(6, 4), {"model": model, "long_side": None}
    hgr = run_stage(information.layers, images, tmp_path / "layers", **seen)["hgr"]
    names = list(dict.fromkeys(hgr["layer"]))
    assert names[-4:] == ["logits", "sigmoid", "own logits", "own sigmoid"]
    assert len(hgr) == 4 * len(names)
    one = images.labels.sum(axis=1) == 1
    own = hgr[hgr["layer"].str.startswith("own") & hgr["image"].isin(np.array(images.ids)[one])]
    for _, pair in own.groupby("image"):  # one class: its activation cannot change the map
        assert pair["discriminative"].nunique() == 1

    perfect = {n: images.mask(i)[None].astype(float) for i, n in enumerate(images.ids)}
    perfect = {n: (m > 0).astype(np.float16) for n, m in perfect.items()}
    maps = {"perfect": stored(tmp_path, "seeds", maps=perfect).arrays("maps")}
    found = information.estimate(model, images, scenes.generate(7, 4), maps, None)["bits"]
    assert set(found["part"]) == {"discriminative", "non-discriminative"}
    last = found[found["layer"] == "perfect"]
    assert last["bits"].min() > 0.85  # the estimator's own bias on ties
    assert found["bits"].between(0, 1.1).all()
