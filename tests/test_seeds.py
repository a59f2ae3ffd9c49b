import dataclasses
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fabricated import last_unlabelled, stored

from ribkit.data import scenes
from ribkit.data.images import ImageSet
from ribkit.evaluation import miou, thresholds
from ribkit.method.others import OtherImageSampler
from ribkit.method.settings import Settings
from ribkit.networks import classifier
from ribkit.networks.architectures import Weights
from ribkit.runtime import parallel, store
from ribkit.runtime.errors import InputError
from ribkit.study import maps as seeds

SCALES = (1.0, 0.5)
SETTINGS = Settings(pooling="gap", steps=2, lr=1e-3, n_others=3, margin=1e9)


@pytest.fixture(scope="module", autouse=True)
def _one_process_on_the_cpu():
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RIBKIT_DEVICE", "cpu")
        patched.setenv("RIBKIT_WORKERS", "1")
        yield


@pytest.fixture(scope="module")
def images():
    return last_unlabelled(6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    network = classifier.build("small", len(scenes.CLASSES), rng_seed=0)
    weights = stored(tmp_path_factory.mktemp("m"), weights=network.state_dict())
    return seeds.Model(weights, "small", len(scenes.CLASSES))


@pytest.fixture(scope="module")
def pool(model, tmp_path_factory):
    made = seeds.feature_bank(model, scenes.generate(1, 12, size=48), (40, 56), 32, rng_seed=0)
    return stored(tmp_path_factory.mktemp("p"), **made)


def compute(model, pool, images, scratch, settings=SETTINGS, **more):
    scratch.mkdir(exist_ok=True)
    return seeds.compute(model, images, SCALES, None, scratch, settings=settings, pool=pool, **more)


@pytest.fixture(scope="module")
def made(model, pool, images, tmp_path_factory):
    """RIB's seeds of all images, in this process."""
    return compute(model, pool, images, tmp_path_factory.mktemp("made") / "scratch")


def as_bytes(made, folder):
    """What would be stored, byte by byte."""
    folder.mkdir()
    for name, content in made.items():
        store.save(folder, name, content)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- the same bytes ---------------------------------------------------------------------------
def test_one_worker_or_two_make_the_same_bytes(model, pool, images, made, tmp_path, monkeypatch):
    monkeypatch.setenv("RIBKIT_WORKERS", "2")
    again = compute(model, pool, images, tmp_path / "scratch")
    assert as_bytes(again, tmp_path / "two") == as_bytes(made, tmp_path / "one")


def test_a_model_is_built_with_the_weights_it_was_trained_from(model, monkeypatch, tmp_path):
    asked, build = [], classifier.build

    def small(name, n_classes, weights):
        asked.append((name, weights))
        return build("small", n_classes)

    monkeypatch.setattr(classifier, "build", small)
    file = Weights(tmp_path / "mine.pth")
    dataclasses.replace(model, backbone="resnet50", file=file).network()
    assert asked == [("resnet50", file)]


def test_the_order_of_the_images_does_not_matter(model, pool, images, made, tmp_path):
    order = [4, 1, 5, 0]
    again = compute(model, pool, images.take(order), tmp_path / "scratch")
    assert list(again["maps"]) == [images.ids[i] for i in order]
    for name, maps in again["maps"].items():
        assert maps.tobytes() == made["maps"][name].tobytes()
    expected = made["images"].set_index("image").loc[list(again["maps"])]
    pd.testing.assert_frame_equal(again["images"].set_index("image"), expected, check_exact=True)


def test_an_interrupted_run_continues_to_the_same_bytes(model, pool, images, made, tmp_path):
    scratch = tmp_path / "scratch"
    compute(model, pool, images, scratch)
    kept = {}
    for i, path in enumerate(sorted(scratch.iterdir())):
        if i % 2:
            path.unlink()
        else:
            kept[path] = path.stat().st_mtime_ns
    again = compute(model, pool, images, scratch)
    assert as_bytes(again, tmp_path / "again") == as_bytes(made, tmp_path / "made")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_the_number_of_threads_does_not_matter(model, pool, images, made, tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again = compute(model, pool, images.take([2]), tmp_path / "scratch")
    finally:
        torch.set_num_threads(before)
    assert again["maps"]["2"].tobytes() == made["maps"]["2"].tobytes()


def test_another_seed_draws_other_images(model, pool, images, made, tmp_path):
    again = compute(model, pool, images, tmp_path / "scratch", rng_seed=1)
    assert any((again["maps"][name] != made["maps"][name]).any() for name in images.ids)


# ---- what a seed is ---------------------------------------------------------------------------
def test_a_seed_has_a_normalised_map_for_each_class_of_its_image(images, made):
    for i, name in enumerate(images.ids):
        maps = made["maps"][name]
        assert maps.shape == (images.labels[i].sum(), 48, 48)
        assert maps.dtype == np.float16
        assert (maps >= 0).all()
        assert (maps <= 1).all()


def test_an_image_without_label_has_no_map_and_no_reason(made):
    row = made["images"].set_index("image").loc["5"]
    assert (row["steps"], row["reason"]) == (0, "none")
    assert made["maps"]["5"].shape == (0, 48, 48)


def test_it_is_told_how_each_adaptation_went(images, made):
    table = made["images"]
    assert list(table["image"]) == list(images.ids)
    labelled = table[table["reason"] != "none"]
    assert set(labelled["steps"]) == {2}
    assert labelled[["logit_first", "logit_last", "area_first", "area_last"]].notna().all(axis=None)
    assert (labelled["logit_last"] > labelled["logit_first"]).all()


def test_without_settings_a_seed_is_cam_and_so_is_rib_without_steps(model, pool, images, tmp_path):
    images = images.take([0, 1])
    plain = compute(model, None, images, tmp_path / "cam", settings=None)
    still = dataclasses.replace(SETTINGS, steps=0)
    rib = compute(model, pool, images, tmp_path / "rib", settings=still)
    for name in images.ids:
        assert plain["maps"][name].tobytes() == rib["maps"][name].tobytes()
    assert set(plain["images"]["reason"]) == {"none"}


def test_bfloat16_passes_give_nearly_the_same_maps(model, pool, images, tmp_path):
    images = images.take([0, 1])
    mixed = dataclasses.replace(model, precision="bfloat16")
    made = seeds.feature_bank(mixed, scenes.generate(1, 12, size=48), (40, 56), 32, rng_seed=0)
    assert made["features"]["features"].dtype == torch.bfloat16
    low = compute(mixed, stored(tmp_path / "p", "p", **made), images, tmp_path / "low")
    full = compute(model, pool, images, tmp_path / "full")
    for name in images.ids:
        difference = np.abs(low["maps"][name].astype(float) - full["maps"][name])
        assert 0 < difference.max() < 0.1
        assert difference.mean() < 0.01


def test_maps_have_the_size_seen_at_scale_1(model, images, tmp_path):
    tmp_path.joinpath("s").mkdir()
    made = seeds.compute(model, images.take([0]), (1.0,), 32, tmp_path / "s")
    assert made["maps"]["0"].shape[1:] == (32, 32)


# ---- the others -------------------------------------------------------------------------------
def numbered_pool():
    """30 images of 4 classes, in turns; the only feature of each is its number."""
    labels = torch.zeros(30, 4)
    labels[torch.arange(30), torch.arange(30) % 4] = 1
    labels[::8, 3] = 1  # some of class 0 show class 3 as well
    return {"features": torch.arange(30.0).view(30, 1, 1, 1), "labels": labels}


def drawn(label, name="a", rng_seed=0, count=5, steps=6):
    draw = OtherImageSampler(numbered_pool(), torch.tensor(label), count, name, rng_seed)
    return [[tensor.squeeze() for tensor in draw(step)] for step in range(steps)]


def test_the_others_share_no_class_with_the_image():
    for label in ([1.0, 0, 0, 0], [0, 1.0, 0, 1.0], [1.0, 1, 1, 0]):
        for features, labels in drawn(label):
            assert not (labels * torch.tensor(label)).any()
            expected = numbered_pool()["labels"][features.long()]
            assert torch.equal(labels, expected)  # each comes with its own labels


def test_no_image_is_drawn_twice_in_a_step():
    for features, _ in drawn([1.0, 0, 0, 0]):
        assert len(features.unique()) == len(features) == 5


def test_the_others_are_drawn_anew_at_each_step():
    assert len({tuple(features.tolist()) for features, _ in drawn([1.0, 0, 0, 0])}) == 6


def test_a_draw_is_seeded_by_name_and_seed():
    def numbers(**arguments):
        return [features.tolist() for features, _ in drawn([1.0, 0, 0, 0], **arguments)]

    assert numbers() == numbers()
    assert numbers(name="b") != numbers()
    assert numbers(rng_seed=1) != numbers()
    draw = OtherImageSampler(numbered_pool(), torch.tensor([1.0, 0, 0, 0]), 5, "a", 0)
    assert draw(3)[0].flatten().tolist() == numbers()[3]  # whatever was asked for before


def test_fewer_are_drawn_if_no_more_exist():
    features, _ = drawn([1.0, 1, 1, 0], count=20)[0]
    assert sorted(features.tolist()) == [3, 7, 11, 15, 19, 23, 27]
    nobody, labels = OtherImageSampler(numbered_pool(), torch.ones(4), 5, "a", 0)(0)
    assert nobody.shape == (0, 1, 1, 1)
    assert labels.shape == (0, 4)


def test_a_step_draws_each_image_of_the_data_set_as_often_as_any_other():
    # The pool is drawn from the data set first, then the step from the pool: 12 -> 6 -> 2.
    times = np.zeros(12)
    for rng_seed in range(3000):
        own = np.random.default_rng(rng_seed).permutation(12)[:6]
        features = torch.from_numpy(own).float().view(6, 1, 1, 1)
        pool = {"features": features, "labels": torch.tensor([[0.0, 1.0]]).expand(6, 2)}
        chosen, _ = OtherImageSampler(pool, torch.tensor([1.0, 0]), 2, "a", rng_seed)(0)
        times[chosen.flatten().long().numpy()] += 1
    assert times.sum() == 6000
    assert np.abs(times - 500).max() < 4 * np.sqrt(500)


def test_the_pool_sees_each_image_in_one_random_view_of_its_own(model):
    images = scenes.generate(1, 4, size=48)
    made = seeds.feature_bank(model, images, (40, 56), 32, rng_seed=0)["features"]
    again = seeds.feature_bank(model, images.take([2]), (40, 56), 32, rng_seed=0)["features"]
    assert made["features"].shape[0] == 4
    assert torch.equal(made["features"][2], again["features"][0])
    other = seeds.feature_bank(model, images.take([2]), (40, 56), 32, rng_seed=1)["features"]
    assert not torch.equal(made["features"][2], other["features"][0])
    torch.testing.assert_close(made["labels"], torch.from_numpy(images.labels).float())


def test_an_image_is_adapted_alone_if_all_others_share_a_class(model, pool, images, tmp_path):
    everything = dataclasses.replace(images.take([0]), labels=np.ones((1, 8), bool))
    made = compute(model, pool, everything, tmp_path / "scratch")
    assert made["images"]["steps"].tolist() == [2]


# ---- scores -----------------------------------------------------------------------------------
def saved(made, folder):
    return stored(folder, "seeds", **made)


def swept(images, result):
    return thresholds.Swept(len(images), 9, **seeds.score(images, result)["rows"])


def test_seeds_are_scored_at_every_threshold(images, made, tmp_path):
    found = swept(images, saved(made, tmp_path / "seeds"))
    assert found.total().shape == (100, 3, 9)
    assert (found.at(40)[:, 1:].sum(axis=2) == 48 * 48).all()
    maps = made["maps"]["0"].astype(np.float32)
    winner = np.flatnonzero(images.labels[0])[maps.argmax(axis=0)] + 1
    guess = np.where(maps.max(axis=0) > 0.4, winner, 0)
    expected = miou.counts(miou.confusion(guess, images.mask(0), 9))
    assert (found.at(40)[0] == expected).all()
    assert (found.at(0)[5, 2, 1:] == 0).all()  # no label: background everywhere


def test_maps_of_another_size_are_resized_to_the_mask(images, tmp_path):
    maps = {name: np.full((n, 6, 8), 0.5, np.float16) for name, n in zip(
        images.ids, images.labels.sum(axis=1), strict=True
    )}  # fmt: skip
    found = swept(images, saved({"maps": maps}, tmp_path / "s"))
    assert (found.at(0)[:, 1:].sum(axis=2) == 48 * 48).all()


def test_coverage_tells_heads_bodies_and_the_rest_apart(images, tmp_path):
    images = images.take([0, 5])
    mask, heads = images.mask(0), images.source.heads("0")
    keys = np.flatnonzero(images.labels[0])
    maps = np.stack([(heads == k + 1) * 0.9 + (mask == k + 1) * 0.05 for k in keys])
    result = saved(
        {"maps": {"0": maps.astype(np.float16), "5": np.zeros((0, 48, 48), np.float16)}},
        tmp_path / "s",
    )
    table = seeds.cover(images, result, 0.5)["coverage"]
    assert list(table["class"]) == [images.classes[k] for k in keys]
    assert (table[["head", "body", "outside"]] == [1, 0, 0]).all(axis=None)
    everything = seeds.cover(images, result, 0.01)["coverage"]
    assert (everything[["head", "body", "outside"]] == [1, 1, 0]).all(axis=None)


class Masked:
    """A source of masks only: an object on the left, unknown pixels on the right."""

    def mask(self, id):
        """8 x 8: columns 0-3 class 1, 4-5 background, 6-7 ignored."""
        mask = np.zeros((8, 8), np.uint8)
        mask[:, :4], mask[:, 6:] = 1, 255
        return mask


def test_without_heads_coverage_is_of_the_object_and_ignored_pixels_do_not_count(tmp_path):
    images = ImageSet(("a",), ("cat",), np.array([[True]]), Masked())
    maps = np.zeros((1, 8, 8), np.float16)
    maps[:, :, 2:5], maps[:, :, 6:] = 0.9, 0.9
    table = seeds.cover(images, saved({"maps": {"a": maps}}, tmp_path / "s"), 0.5)["coverage"]
    assert table.to_dict("records") == [
        {"image": "a", "class": "cat", "object": 0.5, "outside": 0.5}
    ]
    small = np.full((1, 2, 2), 0.9, np.float16)  # is resized to the mask
    table = seeds.cover(images, saved({"maps": {"a": small}}, tmp_path / "t"), 0.5)["coverage"]
    assert table[["object", "outside"]].to_numpy().tolist() == [[1, 1]]


def test_missing_maps_are_told(images, tmp_path):
    result = saved({"maps": {"0": np.zeros((1, 48, 48), np.float16)}}, tmp_path / "s")
    with pytest.raises(InputError, match="no maps of image 1"):
        seeds.score(images, result)


# ---- maps through the process -----------------------------------------------------------------
def test_growth_starts_with_cam_and_ends_with_the_sum_of_all_steps(model, pool, images, tmp_path):
    images = images.take([0])
    grown = seeds.growth(model, images, SCALES, None, SETTINGS, pool)
    plain = compute(model, None, images, tmp_path / "cam", settings=None)["maps"]["0"]
    rib = compute(model, pool, images, tmp_path / "rib")["maps"]["0"]
    assert grown["step"]["0"].shape == (2, len(plain), 48, 48)  # official: steps 0 to K - 1
    assert (grown["step"]["0"][0] == plain).all()
    assert (grown["sum"]["0"] == rib).all()
    assert grown["process"]["step"].tolist() == [0, 1]
    assert grown["process"]["logit"].is_monotonic_increasing


def test_a_job_can_travel_to_another_process(model, pool, images):
    job = seeds.AdaptationTask(model, images, SCALES, None, SETTINGS, pool)
    assert parallel.map_images(partial(_ids, job), [0], "job") == [("0", 8)]


def _ids(job, index):
    return job.images.ids[index], job.model.n_classes
