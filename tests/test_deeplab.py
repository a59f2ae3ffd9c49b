"""DeepLab: its loss by hand, its head, a training that is interrupted, its probabilities."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from ribkit.data import scenes
from ribkit.networks import configs, deeplab, training
from ribkit.networks.configs import DeepLabConfig
from ribkit.networks.deeplab import ASPP, balanced_cross_entropy
from ribkit.runtime.errors import InputError
from ribkit.study import profiles

SMALL = DeepLabConfig(
    aspp_rates=(1, 2, 4), iterations=6, batch=3, lr=0.01, crop=48, scales=(0.75, 1.25),
    checkpoint=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return scenes.generate(3, 5)


def trained(images, scratch, training=SMALL, labels=None, n_labels=9):
    scratch.mkdir(exist_ok=True)
    return deeplab.train("small", n_labels, ((images, labels),), training, None, scratch)


# ---- the loss, by hand --------------------------------------------------------------------------
@pytest.fixture
def labels():
    """6 x 6: 30 of background, 4 of class 1, 2 ignored."""
    found = torch.zeros(1, 6, 6, dtype=torch.long)
    found[0, 2:4, 2:4] = 1
    found[0, 0, :2] = 255
    return found


def test_background_and_foreground_weigh_the_same(labels):
    logits = torch.zeros(1, 2, 6, 6)
    assert float(balanced_cross_entropy(logits, labels)) == pytest.approx(math.log(2))
    logits[:, 1] = math.log(3)  # 1/4 for background, 3/4 for the class, everywhere
    expected = (math.log(4) + math.log(4 / 3)) / 2
    assert float(balanced_cross_entropy(logits, labels)) == pytest.approx(expected)
    plain = nn.functional.cross_entropy(logits, labels, ignore_index=255)
    assert float(plain) == pytest.approx((30 * math.log(4) + 4 * math.log(4 / 3)) / 34)


def test_the_means_are_over_the_whole_batch(labels):
    logits = torch.zeros(2, 2, 6, 6)
    logits[:, 1] = math.log(3)
    one_kind = torch.cat([labels, torch.zeros_like(labels)])
    expected = (math.log(4) + math.log(4 / 3)) / 2
    assert float(balanced_cross_entropy(logits, one_kind)) == pytest.approx(expected)


@pytest.mark.parametrize(("only", "expected"), [(0, 0.5), (1, 0.5), (255, 0.0)])
def test_one_kind_of_pixel_only(only, expected):
    logits = torch.zeros(1, 2, 3, 3, requires_grad=True)
    loss = balanced_cross_entropy(logits, torch.full((1, 6, 6), only))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected * math.log(2))
    assert logits.grad.isfinite().all()


# ---- the network --------------------------------------------------------------------------------
def test_aspp_is_the_sum_of_its_branches():
    torch.manual_seed(0)
    head = ASPP(2, 3, (1, 3))
    x = torch.randn(1, 2, 9, 9)
    one, three = head.branches
    torch.testing.assert_close(head(x), one(x) + three(x))
    # one bright position is seen by 9 positions at each rate; the middle one by both
    spot = torch.zeros(1, 2, 9, 9)
    spot[0, :, 4, 4] = 1
    bias = one.bias + three.bias
    touched = ((head(spot) - bias.view(3, 1, 1)).abs() > 1e-6).any(dim=1)[0]
    expected = {(4 + r * y, 4 + r * x) for r in (1, 3) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    assert {tuple(p) for p in touched.nonzero().tolist()} == expected
    assert (one.bias == 0).all()


@pytest.mark.parametrize("head", configs.HEADS)
def test_both_heads_give_logits_and_learn_the_whole_network(head):
    training = dataclasses.replace(SMALL, head=head)
    segmenter = deeplab.build("small", 4, training).train()
    logits = segmenter(255 * torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 4, 8, 8)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in segmenter.frozen.parameters())
    norms = {m.training for m in segmenter.adapted.modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms == {False}
    assert segmenter.head.training


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"network.head": "unet"}, "head='unet' must be one of deeplabv2, deeplabv3; its value"),
        (
            {"network.head": "deeplabv3", "network.batch": 1},
            "network.batch=1 must be 2 or more, for deeplabv3's batch norm",
        ),
    ],
)
def test_unknown_heads_and_batches_that_cannot_work_are_told_with_the_settings(settings, fault):
    with pytest.raises(InputError, match=fault):
        profiles.load("mini", settings)


def test_the_settings_are_the_papers():
    paper = DeepLabConfig()
    assert (paper.iterations, paper.batch, paper.lr, paper.crop) == (30_000, 10, 2.5e-4, 321)
    assert (paper.aspp_rates, paper.scales) == ((6, 12, 18, 24), (0.5, 2.0))


# ---- training -----------------------------------------------------------------------------------
def test_training_lowers_the_loss(images, tmp_path):
    training = dataclasses.replace(SMALL, iterations=40, momentum=0.9, lr=0.02)
    losses = trained(images, tmp_path / "s", training)["history"]["loss"]
    assert len(losses) == 40
    assert losses[30:].mean() < losses[:10].mean()


@pytest.mark.parametrize("head", configs.HEADS)  # deeplabv3 has dropout, which draws too
def test_an_interrupted_training_ends_with_the_same_bits(head, images, tmp_path, monkeypatch):
    training_ = dataclasses.replace(SMALL, head=head)
    torch.manual_seed(1)
    whole = trained(images, tmp_path / "whole", training_)
    torch.manual_seed(2)
    batches = training.batches

    def stop(*arguments):
        yield from itertools.islice(batches(*arguments), 5)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "batches", stop)
        with pytest.raises(KeyboardInterrupt):
            trained(images, tmp_path / "cut", training_)
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["training.safetensors"]
    done = []
    monkeypatch.setattr(training, "batches", lambda *a: done.extend(a[3]) or batches(*a))
    resumed = trained(images, tmp_path / "cut", training_)
    assert done == [4, 5]
    for name, value in whole["weights"].items():
        assert torch.equal(value, resumed["weights"][name]), name
    assert whole["history"].equals(resumed["history"])


def test_labels_that_do_not_suit_are_refused_before_the_first_iteration(images, tmp_path):
    labels = {name: np.zeros((64, 64), np.uint8) for name in images.ids}
    labels["4"] = np.full((64, 64), 9, np.uint8)
    with pytest.raises(InputError, match=r"label map of 4 has .* values up to 9"):
        trained(images, tmp_path / "s", labels=labels)


# ---- prediction ---------------------------------------------------------------------------------
def test_probabilities_sum_to_one_and_mirrors_commute(images):
    segmenter, image = deeplab.build("small", 9, SMALL).eval(), images.image(0)
    found = deeplab.probabilities(segmenter, image, (0.5, 1.0), None)
    assert found.shape == (9, 64, 64)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(64, 64))
    mirrored = deeplab.probabilities(segmenter, image[:, ::-1].copy(), (0.5, 1.0), None)
    torch.testing.assert_close(mirrored.flip(-1), found, atol=1e-5, rtol=1e-4)
