"""Stages between seeds and pseudo ground truth, on images small enough to see through."""

import numpy as np
import pytest
import torch
from fabricated import PIXELS, run_stage, stored

from ribkit.data import scenes
from ribkit.data.images import ImageSet
from ribkit.evaluation import miou, thresholds
from ribkit.networks.configs import AffinityConfig
from ribkit.networks.trained import TrainedModel
from ribkit.refinement import affinity, irn, psa, stages
from ribkit.refinement.random_walk import WALKS
from ribkit.runtime.errors import InputError
from ribkit.runtime.store import Store

SEEN = {"long_side": None}
TRAINING = AffinityConfig(stride=2, radius=3, epochs=2, batch=2, lr=0.05, momentum=0.9, crop=48)


@pytest.fixture(scope="module")
def images():
    return scenes.generate(5, 4)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def seeds(images, store):
    """Maps that are the objects, at half height, with a sure middle."""
    maps = {}
    for i, name in enumerate(images.ids):
        masks = [images.mask(i) == k + 1 for k in np.flatnonzero(images.labels[i])]
        maps[name] = np.stack([0.9 * mask for mask in masks]).astype(np.float16)
    return stored(store.root, "seeds", maps=maps).arrays("maps")


def small(size, n_classes=1, shown=(0,), grey=90):
    """An image set of one image, grey or of these greys, that shows some of its classes."""

    class Source:
        def image(self, id):
            return np.full((*size, 3), grey, np.uint8)

        def mask(self, id):
            return np.zeros(size, np.uint8)

        def fingerprint(self, ids):
            return str(size)

    labels = np.zeros((1, n_classes), bool)
    labels[0, list(shown)] = True
    return ImageSet(("x",), tuple("abc"[:n_classes]), labels, Source())


# ---- label maps ---------------------------------------------------------------------------------
def test_a_label_map_by_hand_and_as_the_sweep_counts_it():
    maps = np.array([[[0.2, 0.6, 0.3]], [[0.1, 0.7, 0.3]]], np.float32)
    keys = np.array([1, 4])
    assert stages.label_map(maps, keys, 0.25).tolist() == [[0, 5, 2]]
    assert stages.label_map(maps, keys, 0.3).tolist() == [[0, 5, 0]]  # not above
    assert stages.label_map(maps[:0], keys[:0], 0.3).tolist() == [[0, 0, 0]]
    mask = np.array([[0, 5, 1]])
    for threshold in (0.0, 0.2, 0.25, 0.5, 0.7):
        predicted = stages.label_map(maps, keys, threshold)
        own, swept = thresholds.sweep(torch.from_numpy(maps), keys, mask)
        if threshold not in (0.2, 0.7):  # values that float32 puts on one side of the threshold
            whole = miou.confusion(predicted, mask, 6)
            assert (whole[np.ix_(own, own)] == swept[round(100 * threshold)]).all()
            assert swept[0].sum() == whole.sum()


def test_labels_for_irn_and_psa_are_sure_where_two_crfs_agree(images, seeds, tmp_path):
    given = SEEN | {"maps": seeds, "threshold": 0.4}
    found = run_stage(stages.sure_labels, images, tmp_path, **given)["labels"]
    for i, name in enumerate(images.ids):
        mask, own = images.mask(i), found[name]
        assert own.shape == mask.shape
        sure = own != affinity.IGNORE
        assert (own[sure] == mask[sure]).mean() > 0.9
        assert sure.mean() > 0.5


def test_labels_for_irn_and_psa_follow_the_threshold(images, tmp_path):
    """PSA's own fixed scores take everything above 0.28 for the object."""
    maps = {}
    for i, name in enumerate(images.ids):
        shown = [images.mask(i) == k + 1 for k in np.flatnonzero(images.labels[i])]
        maps[name] = (0.4 + 0.5 * np.stack(shown)).astype(np.float16)  # never below 0.4
    kept = stored(tmp_path, "seeds", maps=maps).arrays("maps")
    given = SEEN | {"maps": kept, "threshold": 0.7}
    found = run_stage(stages.sure_labels, images, tmp_path / "sure", **given)["labels"]
    for i, name in enumerate(images.ids):
        sure = found[name] != affinity.IGNORE
        assert (found[name][sure] == images.mask(i)[sure]).mean() > 0.9
        assert sure.mean() > 0.5


def test_labels_for_irn_and_psa_leave_out_what_is_near_the_threshold(monkeypatch, tmp_path):
    # by hand: at 0.4, above 0.48 it is the object, below 0.3 the background
    monkeypatch.setattr(stages.crf, "refine_labels", lambda pixels, local, n: local)
    maps = {"x": np.array([[[0.29, 0.31, 0.47, 0.49]]], np.float32)}
    given = SEEN | {"maps": stored(tmp_path, "seeds", maps=maps).arrays("maps"), "threshold": 0.4}
    found = run_stage(stages.sure_labels, small((1, 4)), tmp_path / "sure", **given)["labels"]
    assert found["x"].tolist() == [[0, 255, 255, 1]]


@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
@pytest.mark.parametrize("shown", [(), (1,), (0, 2)])
def test_images_without_a_class_with_one_and_of_one_pixel(size, shown, tmp_path):
    images = small(size, 3, shown)
    maps = np.full((len(shown), *size), 0.8, np.float16)
    given = SEEN | {"maps": stored(tmp_path, "seeds", maps={"x": maps}).arrays("maps")}
    half = given | {"threshold": 0.5}
    labels = {
        "crf": run_stage(stages.crf_labels, images, tmp_path / "crf", **half),
        "sure": run_stage(stages.sure_labels, images, tmp_path / "sure", **half),
        "plain": run_stage(stages.threshold_labels, images, tmp_path / "plain", **half),
    }
    for found in labels.values():
        assert found["labels"]["x"].shape == size
        assert set(np.unique(found["labels"]["x"])) <= {0, 255, *(k + 1 for k in shown)}
    assert (labels["plain"]["labels"]["x"] == (shown[0] + 1 if shown else 0)).all()


def test_missing_maps_are_told(seeds, tmp_path):
    more = scenes.generate(5, 6)
    given = SEEN | {"maps": seeds, "threshold": 0.5}
    with pytest.raises(InputError, match=r"maps in .*: image 4 is missing; compute it first"):
        run_stage(stages.threshold_labels, more, tmp_path, **given)


# ---- networks and walks -------------------------------------------------------------------------
def trained(kind, images, seeds, store):
    """The result of a training of IRN or PSA, and the model."""
    method, given = {"irn": irn, "psa": psa}[kind], SEEN | {"maps": seeds, "threshold": 0.4}
    labels = store.run(stages.sure_labels, images=images, **given).arrays("labels")
    begun = {"backbone": "small", "training": TRAINING}
    result = store.run(method.train, parts=((images, labels),), n_labels=9, **SEEN, **begun)
    return result, TrainedModel.of(method.build, result.tensors("weights"), **begun)


@pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS)
def test_irn_trains_and_walks(images, seeds, store, walk, tmp_path):
    result, model = trained("irn", images, seeds, store)
    assert len(result.table("history")) == TRAINING.epochs
    given = SEEN | {"model": model, "maps": seeds, "walk": walk}
    found = run_stage(stages.irn_walk, images, tmp_path, **given)
    for i, name in enumerate(images.ids):
        maps = found["maps"][name]
        assert maps.shape == (images.labels[i].sum(), 64, 64)
        peaks = maps.max(axis=(1, 2))
        assert peaks.max() == pytest.approx(1, abs=1e-2)
        if not walk.one_maximum:
            assert peaks == pytest.approx(1, abs=1e-2)


def test_psa_trains_and_walks(images, seeds, store, tmp_path):
    _, model = trained("psa", images, seeds, store)
    given = SEEN | {"model": model, "maps": seeds, "alpha": 16.0, "log2_steps": 2}
    found = run_stage(stages.psa_walk, images, tmp_path, **given)["labels"]
    for i, name in enumerate(images.ids):
        assert found[name].shape == (64, 64)
        assert set(np.unique(found[name])) <= {0, *(np.flatnonzero(images.labels[i]) + 1)}


@pytest.mark.parametrize(("alpha", "label"), [(1.0, 0), (2.0, 1)])
def test_psas_walk_spreads_map_and_background_by_hand(alpha, label, monkeypatch, tmp_path):
    # a dark half and a bright one, none of which is near the other. In the dark one the map's mean
    # is 0.45, that of the background's 0.4 and 0.7, to the power alpha, 0.55 or 0.325.
    monkeypatch.setattr(stages, "loaded", lambda model: PIXELS)
    images = small((4, 4), grey=np.array([0, 0, 255, 255])[:, None])
    maps = {"x": np.tile(np.array([0.6, 0.3, 0, 0], np.float32), (1, 4, 1))}
    given = SEEN | {"maps": stored(tmp_path, "seeds", maps=maps).arrays("maps"), "model": None}
    how = {"alpha": alpha, "log2_steps": 4}
    found = run_stage(stages.psa_walk, images, tmp_path / "walk", **given, **how)["labels"]["x"]
    assert found.tolist() == [[label, label, 0, 0]] * 4


@pytest.mark.parametrize(
    ("name", "power", "highest"), [("paper", 1, 1), ("official", 1.3, 0.5**1.3)]
)
def test_the_walks_are_difference_10(name, power, highest):
    maps = torch.tensor([[[0.25, 0.25]], [[0.5, 0.5]]])
    spread = WALKS[name].spread(maps, torch.zeros(1, 2))  # constants stay
    torch.testing.assert_close(spread, maps**power)
    divided = WALKS[name].divided(spread)[:, 0, 0].tolist()
    assert divided == pytest.approx([highest, 1], abs=1e-4)


# ---- saliency and scores ------------------------------------------------------------------------
def test_saliency_is_resized_to_the_labels(tmp_path):
    images = small((4, 4))
    labels = {"x": np.tile([0, 0, 1, 1], (4, 1)).astype(np.uint8)}
    labels = stored(tmp_path, "labels", labels=labels).arrays("labels")
    salient = {"x": np.array([[0, 255], [255, 255]], np.uint8)}
    salient = stored(tmp_path, "salient", maps=salient).arrays("maps")
    given = {"labels": labels, "salient": salient}
    found = run_stage(stages.salient_labels, images, tmp_path / "s", **given)["labels"]["x"]
    assert found[0].tolist() == [0, 0, 1, 1]
    assert found[3].tolist() == [255, 255, 1, 1]
    none = stored(tmp_path, "none", maps={"y": np.zeros((2, 2), np.uint8)}).arrays("maps")
    given = {"labels": labels, "salient": none}
    with pytest.raises(InputError, match="none: image x is missing"):
        run_stage(stages.salient_labels, images, tmp_path / "s", **given)


def test_255_in_a_pseudo_label_is_scored_both_ways(tmp_path):
    class Half:
        def mask(self, id):
            return np.array([[0, 0, 1, 1]], np.uint8)

        def fingerprint(self, ids):
            return ""

    images = ImageSet(("x",), ("a",), np.ones((1, 1), bool), Half())
    labels = stored(tmp_path, labels={"x": np.array([[0, 255, 1, 255]], np.uint8)})
    given = {"labels": labels.arrays("labels")}
    found = run_stage(stages.score, images, tmp_path / "s", **given)["scores"]
    assert found["confusion"].tolist() == [[1, 0, 1], [0, 1, 1]]
    assert found["error"].tolist() == [[[1, 1], [2, 2], [1, 1]]]
    assert found["background"].tolist() == [[[2, 1], [2, 2], [3, 1]]]
    assert miou.miou(found["error"].sum(axis=0)) == 50
    assert miou.miou(found["background"].sum(axis=0)) == pytest.approx((200 / 3 + 50) / 2)
