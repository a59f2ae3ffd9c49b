"""What a trained segmentation network predicts of image sets, and how it is scored."""

import numpy as np
import pytest
import torch
from fabricated import run_stage, stored

from ribkit.data import scenes
from ribkit.networks import deeplab
from ribkit.networks.configs import DeepLabConfig
from ribkit.networks.trained import TrainedModel
from ribkit.refinement import crf, stages
from ribkit.study import predictions

TRAINING = DeepLabConfig(aspp_rates=(1, 2, 4))


@pytest.fixture(scope="module")
def images():
    return scenes.generate(3, 5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    options = {"backbone": "small", "n_labels": 9, "training": TRAINING}
    result = stored(tmp_path_factory.mktemp("x"), weights=deeplab.build(**options).state_dict())
    return TrainedModel.of(deeplab.build, result.tensors("weights"), **options)


def test_predictions_are_scored_against_the_masks(images, model, tmp_path):
    some = images.take([1, 3])
    seen = {"model": model, "scales": (1.0,), "long_side": 64}
    found = run_stage(predictions.predict, some, tmp_path / "predicted", **seen)
    assert found.keys() == {"labels", "refined"}
    assert found["labels"]["3"].shape == (64, 64)
    right = {name: some.mask(i)[::2, ::2] for i, name in enumerate(some.ids)}
    labels = stored(tmp_path, labels=right).arrays("labels")
    counts = run_stage(stages.score, some, tmp_path / "scored", labels=labels)["scores"]["error"]
    assert counts.shape == (2, 3, 9)
    hits, target, predicted = counts.sum(axis=(0, 2))
    assert target == predicted == 2 * 64 * 64
    assert hits > 0.9 * target


def test_labels_are_the_most_likely_and_refined_the_most_likely_after_the_crf(
    images, monkeypatch, tmp_path
):
    some, rng = images.take([1]), np.random.default_rng(0)
    likely = rng.dirichlet(np.ones(9), (64, 64)).transpose(2, 0, 1).astype(np.float32)
    monkeypatch.setattr(predictions, "loaded", lambda model: model)
    monkeypatch.setattr(predictions, "probabilities", lambda *how: torch.from_numpy(likely))
    seen = {"model": None, "scales": (1.0,), "long_side": None}
    found = run_stage(predictions.predict, some, tmp_path, **seen)
    plain = likely.argmax(axis=0)
    assert (found["labels"]["1"] == plain).all()
    smoothed = crf.refine_scores(some.image(0), likely, crf.NETWORK).argmax(axis=0)
    assert (found["refined"]["1"] == smoothed).all()
    assert (smoothed != plain).mean() > 0.1


def test_a_network_that_is_told_the_classes_predicts_no_others(images, monkeypatch, tmp_path):
    some = images.take([1, 3])
    # by hand: the background in the upper half; below, classes by number, the last one most likely
    likely = np.zeros((9, 64, 64), np.float32)
    likely[:, 32:] = np.linspace(0.1, 0.9, 9)[:, None, None]
    likely[0, :32] = 1
    asked = []

    def probabilities(network, pixels, scales, long_side):
        asked.append((network, scales, long_side))
        return torch.from_numpy(likely)

    monkeypatch.setattr(predictions, "loaded", lambda model: model)
    monkeypatch.setattr(predictions, "probabilities", probabilities)
    seen = {"model": "network", "scales": (1.0, 0.5), "long_side": 64}
    found = run_stage(predictions.predict_present, some, tmp_path, **seen)["labels"]
    assert asked == [("network", (1.0, 0.5), 64)] * 2
    for i, name in enumerate(some.ids):
        assert found[name].dtype == np.uint8
        assert (found[name][:32] == 0).all()
        assert (found[name][32:] == 1 + np.flatnonzero(some.labels[i]).max()).all()


def test_objects_and_how_likely_each_pixel_is_one(images, monkeypatch, tmp_path):
    image = images.take([0])
    objects = run_stage(predictions.objects, image, tmp_path / "objects")["labels"]["0"]
    assert objects.dtype == np.uint8
    assert ((objects == 1) == (images.mask(0) > 0)).all()
    likely = torch.tensor([0.8, 0.2])[:, None, None].expand(2, 64, 64)  # background, object
    monkeypatch.setattr(predictions, "loaded", lambda model: model)
    monkeypatch.setattr(predictions, "probabilities", lambda *how: likely)
    seen = {"model": None, "long_side": None}
    maps = run_stage(predictions.foreground, image, tmp_path / "found", **seen)["maps"]["0"]
    assert (maps.shape, maps.dtype) == ((64, 64), np.uint8)
    assert (maps == 51).all()  # 0.2 of 255
