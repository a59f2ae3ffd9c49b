import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fabricated import last_unlabelled, run_stage, stored, trained_classifier

from ribkit.data import scenes
from ribkit.data.images import ImageSet
from ribkit.evaluation import miou, thresholds
from ribkit.method import cam
from ribkit.method.others import OtherImageSampler
from ribkit.method.rivals import Rival, altered
from ribkit.method.settings import NO_MARGIN, VARIANTS, Settings
from ribkit.networks import classifier
from ribkit.networks.architectures import Weights
from ribkit.runtime import store
from ribkit.runtime.errors import InputError
from ribkit.study import maps as seeds
from ribkit.study.maps import Adaptation, Sizes

SCALES = (1.0, 0.5)
SETTINGS = Settings(pooling="gap", steps=2, lr=1e-3, n_others=3, margin=1e9)


@pytest.fixture(scope="module", autouse=True)
def _one_process_on_the_cpu():
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RIBKIT_DEVICE", "cpu")
        yield


@pytest.fixture(scope="module")
def images():
    return last_unlabelled(6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    network = classifier.build("small", len(scenes.CLASSES), rng_seed=0)
    weights = stored(tmp_path_factory.mktemp("m"), weights=network.state_dict())
    return trained_classifier(weights.tensors("weights"))


def banked(model, folder, images=None, rng_seed=0):
    """A feature bank of 12 scenes."""
    images = images or scenes.generate(1, 12, size=48)
    view = {"long_sides": (40, 56), "side": 32, "rng_seed": rng_seed}
    made = run_stage(seeds.feature_bank, images, folder / "scratch", model=model, **view)
    return stored(folder, "bank", **made).tensors("features")


@pytest.fixture(scope="module")
def bank(model, tmp_path_factory):
    return banked(model, tmp_path_factory.mktemp("bank"))


def compute(model, bank, images, scratch, settings=SETTINGS, rng_seed=0, stage=seeds.rib_seeds):
    adapted = {"sizes": Sizes(SCALES), "adaptation": Adaptation(settings, bank, rng_seed)}
    return run_stage(stage, images, scratch, model=model, **adapted)


def plain(model, images, scratch, scales=SCALES, long_side=None):
    sizes = Sizes(scales, long_side)
    return run_stage(seeds.cam_seeds, images, scratch, model=model, sizes=sizes)


@pytest.fixture(scope="module")
def made(model, bank, images, tmp_path_factory):
    """RIB's seeds of all images, in this process."""
    return compute(model, bank, images, tmp_path_factory.mktemp("made") / "scratch")


def as_bytes(made, folder):
    """What would be stored, byte by byte."""
    folder.mkdir()
    for name, content in made.items():
        store.save(folder, name, content)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- the same bytes ---------------------------------------------------------------------------
def test_a_model_is_built_with_the_weights_it_was_trained_from(model, monkeypatch, tmp_path):
    asked, build = [], classifier.build

    def small(name, n_classes, weights):
        asked.append((name, weights))
        return build("small", n_classes)

    monkeypatch.setattr(classifier, "build", small)
    file = Weights(tmp_path / "mine.pth")
    trained_classifier(model.weights, backbone="resnet50", file=file).load()
    assert asked == [("resnet50", file)]


def test_an_interrupted_run_continues_to_the_same_bytes(model, bank, images, made, tmp_path):
    scratch = tmp_path / "scratch"
    compute(model, bank, images, scratch)
    kept = {}
    for i, path in enumerate(sorted(scratch.iterdir())):
        if i % 2:
            path.unlink()
        else:
            kept[path] = path.stat().st_mtime_ns
    again = compute(model, bank, images, scratch)
    assert as_bytes(again, tmp_path / "again") == as_bytes(made, tmp_path / "made")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_another_seed_draws_other_images(model, bank, images, made, tmp_path):
    again = compute(model, bank, images, tmp_path / "scratch", rng_seed=1)
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


def test_rib_without_steps_is_cam(model, bank, images, tmp_path):
    images = images.take([0, 1])
    cam = plain(model, images, tmp_path / "cam")
    still = dataclasses.replace(SETTINGS, steps=0)
    rib = compute(model, bank, images, tmp_path / "rib", settings=still)
    for name in images.ids:
        assert cam["maps"][name].tobytes() == rib["maps"][name].tobytes()
    assert set(cam) == {"maps"}


def test_bfloat16_passes_give_nearly_the_same_maps(model, bank, images, tmp_path):
    images = images.take([0, 1])
    mixed = trained_classifier(model.weights, precision="bfloat16")
    low_bank = banked(mixed, tmp_path / "p")
    assert low_bank["features"].dtype == torch.bfloat16
    low = compute(mixed, low_bank, images, tmp_path / "low")
    full = compute(model, bank, images, tmp_path / "full")
    for name in images.ids:
        difference = np.abs(low["maps"][name].astype(float) - full["maps"][name])
        assert 0 < difference.max() < 0.1
        assert difference.mean() < 0.01


def test_maps_have_the_size_seen_at_scale_1(model, images, tmp_path):
    made = plain(model, images.take([0]), tmp_path / "s", (1.0,), 32)
    assert made["maps"]["0"].shape[1:] == (32, 32)


# ---- rate 0 -----------------------------------------------------------------------------------
def rate_0(model, bank, images, scratch, steps, variant="official", pooling="gndrp"):
    """RIB that never moves: ``steps`` equal maps are summed, one more by ``paper``."""
    how = {"steps": steps, "lr": 0.0, "n_others": 2, "margin": NO_MARGIN}
    settings = Settings(pooling=pooling, variant=VARIANTS[variant], **how)
    return compute(model, bank, images, scratch, settings)


@pytest.mark.parametrize("pooling", ["gap", "gndrp"])
def test_at_rate_0_one_map_is_cams_byte_for_byte(model, bank, images, tmp_path, pooling):
    still = rate_0(model, bank, images, tmp_path / "rib", 1, pooling=pooling)
    assert set(still["images"]["steps"]) == {0, 1}  # 0: the image without a label
    same = plain(model, images, tmp_path / "cam")["maps"]
    for name, maps in still["maps"].items():
        assert maps.tobytes() == same[name].tobytes()


@pytest.mark.parametrize(("variant", "steps"), [("official", 2), ("official", 4), ("paper", 3)])
def test_at_rate_0_rib_gains_exactly_0_but_for_what_is_added_to_the_maximum(
    model, bank, images, tmp_path, monkeypatch, variant, steps
):
    # M / (max M + 1e-5) is not quite K M / (K max M + 1e-5). Without the 1e-5, and of 2 or 4 maps,
    # whose sums round nothing, all counts at all thresholds are CAM's.
    monkeypatch.setattr(cam, "EPSILON", 1e-30)  # lost in any sum; a map of zeros stays one
    still = rate_0(model, bank, images, tmp_path / "rib", steps, variant)
    same = swept(images, plain(model, images, tmp_path / "cam")["maps"], tmp_path / "c")
    moved = swept(images, still["maps"], tmp_path / "r")
    for threshold in range(100):
        assert (moved.at(threshold) == same.at(threshold)).all()


def test_at_rate_0_the_sum_of_many_maps_moves_only_pixels_that_stand_at_a_threshold(
    model, bank, images, tmp_path
):
    still = rate_0(model, bank, images, tmp_path / "rib", 10)
    same = plain(model, images, tmp_path / "cam")["maps"]
    crossed = 0
    for name, maps in same.items():
        before, after = (each.astype(float) for each in (maps, still["maps"][name]))
        assert (after >= before).all()  # the sum's maximum stands further above the 1e-5
        assert (after - before <= 2 * np.spacing(maps)).all()  # two steps of float16
        k = np.arange(100)[:, None, None, None] / 100
        crossed += ((after > k) & (before <= k)).sum()
    counts = swept(images, same, tmp_path / "c"), swept(images, still["maps"], tmp_path / "r")
    gain = np.subtract(*(miou.miou(each.total()) for each in reversed(counts)))
    assert abs(gain).max() < 0.1  # points; mostly 0
    assert np.median(abs(gain)) == 0
    predicted = [each.total()[:, 2, 1:].sum() for each in counts]
    assert abs(predicted[1] - predicted[0]) <= crossed < 100  # of a million


# ---- rivals -----------------------------------------------------------------------------------
class Painted:
    """A source of one image, given as pixels."""

    def __init__(self, pixels):
        self.pixels = pixels

    def image(self, id):
        return self.pixels

    def mask(self, id):
        return np.zeros(self.pixels.shape[:2], np.uint8)

    def fingerprint(self, ids):
        return {"pixels": self.pixels.tolist()}


def norms(images, monkeypatch, folder, sizes):
    """Norms of a network whose features are the pixels; whose last ones twice as much."""
    network = SimpleNamespace(features=lambda x: x, last_features=lambda x: 2 * x)
    monkeypatch.setattr(seeds, "loaded", lambda model: network)
    (norm,) = run_stage(seeds.feature_norms, images, folder, model=None, sizes=sizes)[
        "norm"
    ].values()
    return norm


def test_the_norm_of_the_features_by_hand(monkeypatch, tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[2, 3], pixels[5, 7] = (30, 40, 0), (60, 80, 0)  # norms 50 and 100
    images = ImageSet(("a",), ("cat",), np.ones((1, 1), bool), Painted(pixels))
    norm = norms(images, monkeypatch, tmp_path / "one", Sizes((1.0,)))
    expected = np.zeros((1, 16, 16))
    expected[0, 2, 3], expected[0, 5, 7] = 0.5, 1  # the flip, turned back, adds the same
    assert norm.dtype == np.float16
    assert norm == pytest.approx(expected, abs=1e-3)
    # two scales are summed before the maximum is taken, as a map's are; stored at a quarter
    pixels[:] = (30, 40, 0)
    norm = norms(images, monkeypatch, tmp_path / "two", Sizes((1.0, 0.5), map_stride=4))
    assert norm.shape == (1, 4, 4)
    assert norm == pytest.approx(1, abs=1e-3)


def test_an_image_without_label_has_a_norm_too(model, images, tmp_path):
    found = run_stage(
        seeds.feature_norms, images, tmp_path / "n", model=model, sizes=Sizes(SCALES)
    )["norm"]
    assert list(found) == list(images.ids)
    for norm in found.values():
        assert norm.shape == (1, 48, 48)
        assert 0.99 < norm.max() <= 1
        assert norm.min() >= 0


def changed(images, maps, norm, rival, folder):
    given = {"maps": saved(maps, folder), "norm": stored(folder, "norm", norm=norm).arrays("norm")}
    made = run_stage(seeds.rival_seeds, images, folder / "scratch", **given, rival=rival)
    return made["maps"]


def test_a_rivals_maps_by_hand(tmp_path):
    images = scenes.generate(0, 2, size=48)
    shown = [int(count) for count in images.labels.sum(axis=1)]
    ramp = np.array([[0, 0.25, 0.5, 1.0]], np.float16)
    maps = {n: np.stack([ramp] * k) for n, k in zip(images.ids, shown, strict=True)}
    norm = {n: np.ones((1, 1, 4), np.float16) for n in images.ids}
    # (M + 1) / 2, of every class of every image
    found = changed(images, maps, norm, Rival(norm=1.0), tmp_path / "norm")
    for name, count in zip(images.ids, shown, strict=True):
        assert found[name].dtype == np.float16
        assert found[name].shape == (count, 1, 4)
        assert found[name] == pytest.approx(np.stack([[[0.5, 0.625, 0.75, 1]]] * count), abs=1e-3)
    # the third of four values is two thirds of the way up; the norm does not matter
    found = changed(images, maps, norm, Rival(percentile=200 / 3), tmp_path / "clipped")
    assert found[images.ids[0]][0] == pytest.approx(np.array([[0, 0.5, 1, 1]]), abs=1e-3)
    found = changed(images, maps, norm, Rival(), tmp_path / "plain")
    assert all(found[name].tobytes() == maps[name].tobytes() for name in images.ids)


def test_a_rival_changes_each_images_own_maps_by_its_own_norm(model, images, tmp_path):
    maps = plain(model, images, tmp_path / "cam")["maps"]
    sizes = Sizes(SCALES)
    norm = run_stage(seeds.feature_norms, images, tmp_path / "n", model=model, sizes=sizes)["norm"]
    rival = Rival(norm=0.5, smoothing=0.02, percentile=95.0)
    found = changed(images, maps, norm, rival, tmp_path)
    for name in images.ids:
        own = maps[name].astype(np.float32), norm[name][0].astype(np.float32)
        assert found[name].tobytes() == altered(*own, rival).astype(np.float16).tobytes()
    assert found[images.ids[-1]].shape == (0, 48, 48)  # no label: no map


# ---- the others -------------------------------------------------------------------------------
def numbered_bank():
    """30 images of 4 classes, in turns; the only feature of each is its number."""
    labels = torch.zeros(30, 4)
    labels[torch.arange(30), torch.arange(30) % 4] = 1
    labels[::8, 3] = 1  # some of class 0 show class 3 as well
    return {"features": torch.arange(30.0).view(30, 1, 1, 1), "labels": labels}


def drawn(label, name="a", rng_seed=0, count=5, steps=6):
    draw = OtherImageSampler(numbered_bank(), torch.tensor(label), count, name, rng_seed)
    return [[tensor.squeeze() for tensor in draw(step)] for step in range(steps)]


def test_the_others_share_no_class_with_the_image():
    for label in ([1.0, 0, 0, 0], [0, 1.0, 0, 1.0], [1.0, 1, 1, 0]):
        for features, labels in drawn(label):
            assert not (labels * torch.tensor(label)).any()
            expected = numbered_bank()["labels"][features.long()]
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
    draw = OtherImageSampler(numbered_bank(), torch.tensor([1.0, 0, 0, 0]), 5, "a", 0)
    assert draw(3)[0].flatten().tolist() == numbers()[3]  # whatever was asked for before


def test_fewer_are_drawn_if_no_more_exist():
    features, _ = drawn([1.0, 1, 1, 0], count=20)[0]
    assert sorted(features.tolist()) == [3, 7, 11, 15, 19, 23, 27]
    nobody, labels = OtherImageSampler(numbered_bank(), torch.ones(4), 5, "a", 0)(0)
    assert nobody.shape == (0, 1, 1, 1)
    assert labels.shape == (0, 4)


def test_a_step_draws_each_image_of_the_data_set_as_often_as_any_other():
    # The bank is drawn from the data set first, then the step from the bank: 12 -> 6 -> 2.
    times = np.zeros(12)
    for rng_seed in range(3000):
        own = np.random.default_rng(rng_seed).permutation(12)[:6]
        features = torch.from_numpy(own).float().view(6, 1, 1, 1)
        bank = {"features": features, "labels": torch.tensor([[0.0, 1.0]]).expand(6, 2)}
        chosen, _ = OtherImageSampler(bank, torch.tensor([1.0, 0]), 2, "a", rng_seed)(0)
        times[chosen.flatten().long().numpy()] += 1
    assert times.sum() == 6000
    assert np.abs(times - 500).max() < 4 * np.sqrt(500)


def test_the_bank_sees_each_image_in_one_random_view_of_its_own(model, tmp_path):
    images = scenes.generate(1, 4, size=48)
    made = banked(model, tmp_path / "all", images)
    again = banked(model, tmp_path / "one", images.take([2]))
    assert made["features"].shape[0] == 4
    assert torch.equal(made["features"][2], again["features"][0])
    other = banked(model, tmp_path / "other", images.take([2]), rng_seed=1)
    assert not torch.equal(made["features"][2], other["features"][0])
    torch.testing.assert_close(made["labels"], torch.from_numpy(images.labels).float())


def test_an_image_is_adapted_alone_if_all_others_share_a_class(model, bank, images, tmp_path):
    everything = dataclasses.replace(images.take([0]), labels=np.ones((1, 8), bool))
    made = compute(model, bank, everything, tmp_path / "scratch")
    assert made["images"]["steps"].tolist() == [2]


# ---- scores -----------------------------------------------------------------------------------
def saved(maps, folder):
    return stored(folder, "seeds", maps=dict(maps)).arrays("maps")


def swept(images, maps, folder):
    rows = run_stage(seeds.score, images, folder / "scratch", maps=saved(maps, folder))["rows"]
    return thresholds.Swept(len(images), 9, **rows)


def test_seeds_are_scored_at_every_threshold(images, made, tmp_path):
    found = swept(images, made["maps"], tmp_path)
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
    found = swept(images, maps, tmp_path)
    assert (found.at(0)[:, 1:].sum(axis=2) == 48 * 48).all()


def test_missing_maps_are_told(images, tmp_path):
    maps = saved({"0": np.zeros((1, 48, 48), np.float16)}, tmp_path)
    with pytest.raises(InputError, match="image 1 is missing; compute it first"):
        run_stage(seeds.score, images, tmp_path / "s", maps=maps)


# ---- maps through the process -----------------------------------------------------------------
def test_growth_starts_with_cam_and_ends_with_the_sum_of_all_steps(model, bank, images, tmp_path):
    images = images.take([0])
    grown = compute(model, bank, images, tmp_path / "growth", stage=seeds.growth)
    cam = plain(model, images, tmp_path / "cam")["maps"]["0"]
    rib = compute(model, bank, images, tmp_path / "rib")["maps"]["0"]
    assert grown["step"]["0"].shape == (2, len(cam), 48, 48)  # official: steps 0 to K - 1
    assert (grown["step"]["0"][0] == cam).all()
    assert (grown["sum"]["0"] == rib).all()


def test_a_model_and_a_bank_are_loaded_once_in_a_process_whoever_asks(model, bank):
    for read, value in ((seeds.loaded, model), (seeds.on_device, bank)):
        again = dataclasses.replace(value)
        assert again is not value
        assert read(again) is read(value)
