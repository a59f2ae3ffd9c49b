import dataclasses
import itertools

import numpy as np
import pytest
import torch

from ribkit.data import scenes
from ribkit.data.images import ImageSet
from ribkit.networks import classifier, training
from ribkit.networks.configs import ClassifierConfig
from ribkit.runtime.errors import InputError

TRAINING = ClassifierConfig(epochs=2, batch=4, lr=0.05, momentum=0.9, long_sides=(40, 56), crop=48)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")


@pytest.fixture(scope="module")
def images():
    return scenes.generate(0, 9, size=48)


@pytest.fixture(scope="module")
def held_out():
    return scenes.generate(1, 4, size=48)


def test_an_unknown_backbone_is_told():
    with pytest.raises(InputError, match="backbone 'large' is unknown"):
        classifier.build("large", 3)


def test_a_network_depends_on_its_seed_and_on_nothing_else():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (
        classifier.build("small", 3, rng_seed).state_dict() for rng_seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_1000_classes_keep_the_imagenet_head_and_others_get_a_new_one():
    head = classifier.build("efficientnet_lite0", 1000).classifier.weight
    new = classifier.build("efficientnet_lite0", 5, rng_seed=1).classifier.weight
    assert head.shape[0] == 1000
    assert new.shape[0] == 5
    assert float(head.detach().std()) > 2 * float(new.detach().std())


def test_without_saturation_the_adapted_part_alone_has_another_activation():
    own, other = (
        classifier.trained_network("efficientnet_lite0", 3, saturates=saturates)
        for saturates in (True, False)
    )
    other.load_state_dict(own.state_dict())
    kinds = [{type(m).__name__ for m in part.modules()} for part in (other.frozen, other.adapted)]
    assert [kind & {"ReLU", "ReLU6"} for kind in kinds] == [{"ReLU6"}, {"ReLU"}]
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    features = own.features(pixels)
    assert torch.equal(other.features(pixels), features)
    highest = [n.last_features(features * 100).max() for n in (own, other)]
    assert highest[0] == 6 < highest[1]


def test_training_moves_the_upper_parts_and_leaves_frozen_part_and_statistics(
    images, held_out, tmp_path
):
    start = classifier.build("small", 8, rng_seed=0).state_dict()
    made = classifier.train("small", images, held_out, TRAINING, tmp_path)
    assert start.keys() == made["weights"].keys()
    for name, value in made["weights"].items():
        still = name.startswith("frozen") or "running" in name or "num_batches" in name
        assert torch.equal(value, start[name]) == still, name


def test_training_tells_its_losses(images, held_out, tmp_path):
    history = classifier.train("small", images, held_out, TRAINING, tmp_path)["history"]
    assert history["epoch"].tolist() == [1, 2]
    assert history[["loss", "monitor_loss"]].gt(0).all(axis=None)
    assert history["subset_accuracy"].between(0, 100).all()


def test_training_is_reproducible_and_seeded(images, held_out, tmp_path):
    def weights(rng_seed=0):
        training = dataclasses.replace(TRAINING, epochs=1, rng_seed=rng_seed)
        return classifier.train("small", images, held_out, training, tmp_path)["weights"]

    one, same, other = weights(), weights(), weights(rng_seed=1)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


class Colours:
    """A source of plain images: red ones and blue ones."""

    def image(self, id):
        """Red or blue, 16 x 16."""
        image = np.full((16, 16, 3), 60, np.uint8)
        image[..., 0 if id.startswith("red") else 2] = 220
        return image


def colours(count):
    ids = tuple(f"{'red' if i % 2 else 'blue'}{i}" for i in range(count))
    labels = np.array([[i.startswith("red"), i.startswith("blue")] for i in ids])
    return ImageSet(ids, ("red", "blue"), labels, Colours())


def test_a_classifier_learns_to_tell_red_from_blue(tmp_path):
    training = ClassifierConfig(
        epochs=6, batch=8, lr=0.05, momentum=0.9, long_sides=(16, 16), crop=16
    )  # fmt: skip
    history = classifier.train("small", colours(32), colours(8), training, tmp_path)["history"]
    assert history["subset_accuracy"].iloc[-1] == 100
    assert history["loss"].iloc[-1] < 0.5 * history["loss"].iloc[0]


def test_the_rate_falls_to_zero_by_the_poly_schedule_and_the_head_is_ten_times_as_fast(
    images, held_out, tmp_path, monkeypatch
):
    lrs = []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            lrs.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "SGD", Recording)
    classifier.train("small", images, held_out, TRAINING, tmp_path)
    factors = [
        (1 - i / 4) ** 0.9 for i in range(4)
    ]  # two epochs of two batches of four; one is left
    assert np.array(lrs) == pytest.approx(np.outer(factors, [0.05, 0.5]))


def test_the_pretext_task_gives_the_features_that_training_starts_from(images, held_out, tmp_path):
    made = classifier.pretrain(
        scenes.Pretext(0, 8), epochs=1, batch=4, lr=0.05, rng_seed=0, scratch=tmp_path
    )
    (tmp_path / "classifier").mkdir()
    attributes = len(scenes.CLASSES) + len(scenes.TEXTURES)
    assert made["weights"]["linear.weight"].shape[0] == attributes
    assert made["history"]["epoch"].tolist() == [1]
    network = classifier.build("small", 8, pretext=made["weights"])
    assert network.classifier.out_channels == 8
    weights = [v for k, v in made["weights"].items() if v.ndim == 4]
    kept = [p for n, p in network.named_parameters() if p.ndim == 4][:-1]
    for ours, theirs in zip(kept, weights, strict=True):
        assert torch.equal(ours, theirs)
    trained = classifier.train(
        "small", images, held_out, TRAINING, tmp_path / "classifier", made["weights"]
    )
    assert len(trained["history"]) == 2


def test_the_pretext_task_is_reproducible_and_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    def pretrain(name):
        (tmp_path / name).mkdir(exist_ok=True)
        asked = {"epochs": 3, "batch": 4, "lr": 0.05, "rng_seed": 3, "scratch": tmp_path / name}
        return classifier.pretrain(scenes.Pretext(0, 8), **asked)

    def stop(*arguments):
        yield from itertools.islice(batches(*arguments), 5)
        raise KeyboardInterrupt

    one, batches, done = pretrain("one"), training.batches, []
    with monkeypatch.context() as patched:
        patched.setattr(training, "batches", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain("two")
    monkeypatch.setattr(training, "batches", lambda *a: done.extend(a[3]) or batches(*a))
    same = pretrain("two")
    assert done == [4, 5]  # two epochs of two batches were kept
    assert all(torch.equal(one["weights"][k], same["weights"][k]) for k in one["weights"])
    assert one["history"].equals(same["history"])
