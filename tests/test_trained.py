"""A trained model is built once in a process, with its own weights."""

import copy

import pytest
import torch
from fabricated import stored
from torch import nn

from ribkit.data import scenes
from ribkit.networks import classifier, configs, deeplab
from ribkit.networks.trained import TrainedModel, loaded

BUILT = []


def build(width):
    BUILT.append(width)
    return nn.Linear(width, 1)


@pytest.fixture
def model(tmp_path):
    weights = {"weight": torch.tensor([[2.0, 3.0]]), "bias": torch.tensor([1.0])}
    return TrainedModel.of(build, stored(tmp_path, weights=weights).tensors("weights"), width=2)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")


def test_a_network_gets_its_weights_and_is_ready_to_predict(model):
    network = model.load()
    assert not network.training
    assert network(torch.tensor([1.0, 10.0])).tolist() == [33]


def test_copies_of_a_model_share_one_network_in_a_process(model):
    BUILT.clear()
    other = copy.deepcopy(model)  # as a worker process gets it
    assert other == model
    assert loaded(other) is loaded(model)
    assert BUILT == [2]


def test_a_classifier_is_built_for_its_weights(tmp_path):
    classes = len(scenes.CLASSES)
    network = classifier.build("small", classes, rng_seed=5)
    weights = stored(tmp_path, weights=network.state_dict()).tensors("weights")
    options = {"backbone": "small", "n_classes": classes, "precision": "bfloat16"}
    model = TrainedModel.of(classifier.trained_network, weights, **options)
    assert model.load().precision == torch.bfloat16
    same = model.load().state_dict()
    assert all(torch.equal(same[name], value) for name, value in network.state_dict().items())


def test_a_segmentation_network_needs_no_pretext_to_be_built(tmp_path):
    pretext = classifier.SmallResNet(20).state_dict()
    options = {
        "backbone": "small",
        "n_labels": 4,
        "training": configs.DeepLabConfig(aspp_rates=(1, 2)),
    }
    network = deeplab.build(**options, pretext=pretext).eval()
    weights = stored(tmp_path, weights=network.state_dict()).tensors("weights")
    same = TrainedModel.of(deeplab.build, weights, **options).load()
    pixels = 255 * torch.rand(1, 3, 32, 32)
    assert torch.equal(network(pixels), same(pixels))
