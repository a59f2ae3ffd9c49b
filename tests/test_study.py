"""The chain of the study: which images, and the rule that chooses the settings."""

import dataclasses
import shutil
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fabricated import stored, swept_from, trained_classifier
from PIL import Image

from ribkit.data import scenes
from ribkit.evaluation import miou as evaluation
from ribkit.evaluation.tuning import Tuned
from ribkit.method.others import OtherImageSampler
from ribkit.networks import classifier
from ribkit.results import tables
from ribkit.runtime.errors import InputError
from ribkit.runtime.store import Store
from ribkit.study import ablation_runs, mask_free
from ribkit.study.inputs import some
from ribkit.study.study import CAM, RIB, RIBS, RIVALS, Seed, Study


def test_scenes_to_train_tune_score_and_pretrain_on_are_others():
    study = Study("mini", "", {"train_images": 16, "score_images": 3, "tune_images": 3})
    seeds = {
        study.train.source.rng_seed,
        study.scored.source.rng_seed,
        study.tuning.source.rng_seed,
    }
    assert len(seeds) == 3
    assert study.train.source.rng_seed != 0
    assert Study("mini").profile.score_images == len(Study("mini").scored)


def test_changed_settings_name_the_folder_of_a_run():
    assert Study("mini").folder.name == "mini"
    changes = {"steps": "5", "lrs": "1e-6"}
    names = [Study("mini", "", dict(pairs)).folder.name for pairs in permutations(changes.items())]
    assert names == ["mini-lrs=1e-6,steps=5"] * 2
    assert Study("mini", "", {"steps": "6"}).folder.name == "mini-steps=6"


def voc_folder(root, counts, val=1):
    """A VOC folder of one class; counts: how many images each split lists, from the first on.

    val: how many further images its val lists.
    """
    listed = {split: range(count) for split, count in counts.items()}
    listed["val"] = range(max(counts.values()), max(counts.values()) + val)
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation", "Annotations"):
        (root / name).mkdir(parents=True)
    for i in range(listed["val"].stop):
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(root / f"JPEGImages/{i}.jpg")
        Image.fromarray(np.full((32, 32), 8, np.uint8)).save(root / f"SegmentationClass/{i}.png")
        xml = "<annotation><object><name>cat</name></object></annotation>"
        (root / f"Annotations/{i}.xml").write_text(xml)
    for split, numbers in listed.items():
        names = "".join(f"{i}\n" for i in numbers)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(names)
    return root


def test_no_image_is_both_tuned_on_and_scored(tmp_path):
    folder = voc_folder(tmp_path, {"train": 6, "train_aug": 10})
    study = Study("voc-lite", str(folder), {"tune_images": 4})
    assert not set(study.tuning.ids) & set(study.scored.ids)
    assert len(study.scored) == 6


def test_too_few_images_to_tune_on_are_told(tmp_path):
    folder = voc_folder(tmp_path, {"train": 6, "train_aug": 6})
    study = Study("voc-lite", str(folder), {"tune_images": 4})
    with pytest.raises(InputError, match=r"train_aug\.txt has 0 images that show a class"):
        study.check()


def test_networks_are_not_scored_on_what_they_learned_from(tmp_path):
    folder = voc_folder(tmp_path, {"train": 6, "train_aug": 16})
    settings = {"tune_images": 4}
    assert Study("voc-lite", str(folder), settings).validation.ids == ("16",)
    (folder / "ImageSets/Segmentation/val.txt").write_text("16\n3\n15\n")
    with pytest.raises(InputError, match=r"val\.txt lists 3, 15, which networks learn from too"):
        _ = Study("voc-lite", str(folder), settings).validation


def test_networks_are_not_scored_on_what_was_tuned_on(tmp_path):
    folder = voc_folder(tmp_path, {"train": 16, "train_aug": 48})
    settings = {"train_images": 16, "tune_images": 20}
    study = Study("voc-lite", str(folder), settings)
    tuned = [name for name in study.tuning.ids if name not in {*study.train.ids, *study.scored.ids}]
    (folder / "ImageSets/Segmentation/val.txt").write_text(f"{tuned[0]}\n")
    with pytest.raises(InputError, match=rf"val\.txt lists {tuned[0]}, which networks learn from"):
        _ = Study("voc-lite", str(folder), settings).validation


def test_a_folder_for_a_profile_that_reads_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"profile mini draws its images and reads no folder, .*"):
        Study("mini", str(tmp_path))


def test_settings_that_change_a_given_profile_are_refused():
    with pytest.raises(InputError, match="change a profile that is named"):
        Study(Study("mini").profile, "", {"steps": 5})


@pytest.mark.parametrize(
    ("chosen", "miou", "stilled"), [(1e-6, 50.0, True), (1e-6, 50.1, False), (2e-6, 50.0, False)]
)
def test_a_lowest_rate_that_gains_nothing_over_cam_is_still_and_the_highest_is_shown(
    chosen, miou, stilled
):
    study, rates = Study("mini"), [1e-6, 2e-6]
    rows = {"stage": "lr", "lr": rates, "chosen": [rate == chosen for rate in rates], "edge": ""}
    rows["miou"] = [miou if rate == chosen else 50.2 for rate in rates]  # not the best is chosen
    found = {"lr": chosen, "margin": 0.0, "n_others": 4}
    study._tuned[RIB] = Tuned(pd.DataFrame(rows), found)
    study._tuned[CAM] = Tuned(pd.DataFrame({"chosen": [True], "miou": [50.0]}), {})
    assert study.stilled(RIB) == stilled
    assert study.settings(RIB).lr == chosen
    shown = max(study.profile.lrs) if stilled else chosen
    assert study.shown(RIB) == dataclasses.replace(study.settings(RIB), lr=shown)


def test_halves_are_split_by_the_peak_of_another_trainings_maps_which_are_not_clipped(monkeypatch):
    def named(name):
        return SimpleNamespace(arrays=lambda value: name, table=lambda value: pd.DataFrame())

    asked, study = {}, Study("mini", "", {"replicas": 3})
    study.store = SimpleNamespace(run=lambda stage, **given: asked.update(given) or named("table"))
    for one in study.replicas:
        chosen = {"scales": (float(one.number),), "percentile": 90.0}
        one._tuned[CAM] = Tuned(pd.DataFrame(), chosen)
    monkeypatch.setattr(
        Study, "maps", lambda self, images, scales, settings: named((self.number, scales))
    )
    chosen = {"held-out": 30}
    monkeypatch.setattr(Study, "seed", lambda self, method: Seed(named("seed"), None, chosen))
    for one, other in ((0, 1), (1, 2), (2, 0)):
        study.replicas[one].coverage(RIB)
        plain = (other, (float(other),))  # of another training, as that one chose its scales
        assert (asked["maps"], asked["plain"], asked["threshold"]) == ("seed", plain, 0.3)


def peaked(*at):
    """Scores of images whose pixels are all right at one threshold each, all wrong elsewhere."""
    confusions = np.tile(np.array([[0, 1], [1, 0]]), (len(at), 100, 1, 1))
    confusions[np.arange(len(at)), at] = np.eye(2)
    return swept_from(confusions)


def test_a_seed_has_thresholds_of_its_own_images_of_the_tuning_images_and_without_masks(
    monkeypatch,
):
    study = Study("mini", "", {"score_images": 2, "tune_images": 3})
    best, asked = {2: 40, 3: 35}, []  # by how many images there are

    def seeds(self, method, *sets):
        return [SimpleNamespace(result=len(images)) for images in sets]

    def without_masks(store, images, seeds):
        asked.append((images, seeds.result))
        return 50

    monkeypatch.setattr(Study, "seeds", seeds)
    monkeypatch.setattr(
        Study, "swept", lambda self, images, seeds: peaked(*[best[seeds.result]] * len(images))
    )
    monkeypatch.setattr(mask_free, "threshold", without_masks)
    seed = study.seed(CAM)
    assert seed.chosen == {"oracle": 40, "held-out": 35, "mask-free": 50}
    assert asked == [(study.tuning, 3)]
    assert seed.maps == 2
    assert [seed.at(choice)[:, 0].sum() for choice in seed.chosen] == [4, 0, 0]  # of the scored


def test_a_margins_unit_is_the_mean_logit_and_official_sums_it_over_rows_and_classes(monkeypatch):
    study, asked = Study("mini"), []
    study._tuned[CAM] = Tuned(pd.DataFrame(), {"scales": (0.5, 1.0, 1.5)})
    study.tuning = SimpleNamespace(labels=np.array([[True, False], [True, True]]))  # 1.5 classes
    logits = SimpleNamespace(table=lambda name: pd.DataFrame({"logit_first": [2.0, 4.0]}))
    monkeypatch.setattr(Study, "maps", lambda self, *seen: asked.append(seen) or logits)
    unit = {one.variant: study.margin_unit(one) for one in RIBS}
    assert unit == {"paper": 3, "official": 3 * 4 * 1.5}  # two scales in the loss, and their flips
    for images, scales, settings in asked:
        assert (images, scales) == (study.tuning, (0.5, 1.0, 1.5))
        assert (settings.pooling, settings.steps) == ("gap", 1)


def test_an_ablation_is_scored_at_the_threshold_that_is_best_on_the_other_images(monkeypatch):
    study = Study("mini", "", {"score_images": 2})
    swept, cover = peaked(40, 35), np.arange(600).reshape(2, 100, 3)
    names = ("image", "label", "target", "hits", "predicted")
    rows = {name: getattr(swept, name) for name in names}
    values = {"rows": rows, "measured": {"cover": cover, "hgr": "ratios"}}
    table = pd.DataFrame({"steps": [3, 4]})
    result = SimpleNamespace(arrays=values.__getitem__, table=lambda name: table)
    study.store = SimpleNamespace(run=lambda stage, **given: result)
    monkeypatch.setattr(Study, "model", "model")
    run = ablation_runs.Run("all", "baseline", "CAM", None, (1.0,))
    found = ablation_runs.run_result(study, run)
    own = swept.at(np.array([35, 40]))  # not at 40 and 35
    assert found.counts[..., :2].tolist() == own.tolist()
    assert found.cover.tolist() == [cover[0, 35].tolist(), cover[1, 40].tolist()]
    assert (found.hgr, found.steps) == ("ratios", 3.5)


def test_the_best_rival_is_the_one_that_scores_best(monkeypatch):
    points = {CAM: 30, RIVALS["norm"]: 31, RIVALS["smoothing"]: 29}
    study = Study("mini", "", {"percentiles": (100.0,)})
    monkeypatch.setattr(Study, "_tried", lambda self, method, own: (hits(points[method]), 0.3))
    assert study.best_rival == RIVALS["norm"]


def test_some_images_are_drawn_once_and_kept_in_order():
    images = Study("mini").tuning
    drawn = some(images, 5, rng_seed=1)
    positions = [images.ids.index(name) for name in drawn.ids]
    assert positions == sorted(set(positions))
    assert some(images, 0, rng_seed=1) is images


def hits(points):
    """Counts of one class on four images: so many of 100 pixels are hit, and no others."""
    return np.tile(np.array([points, 100, points])[:, None], (4, 1, 1))


@pytest.fixture
def chosen(monkeypatch):
    """A study whose scores on the tuning images are made up; what was asked for, in order."""
    asked = []

    def tried(self, method, setting):
        asked.append(dict(setting))
        points = {1e-6: 10, 1e-5: 30, 1e-4: 20}[setting["lr"]]
        return hits(points + 4 * (setting["margin"] > 0) + 2 * (setting["n_others"] == 8)), 0.3

    monkeypatch.setattr(Study, "_tried", tried)
    monkeypatch.setattr(Study, "margin_unit", lambda self, method: 2.0)
    monkeypatch.setattr(Study, "scales", (1.0,))
    overrides = {"lrs": (1e-6, 1e-5, 1e-4), "margins": (0.0, 3.0), "n_others": (4, 8)}
    return Study("mini", "", overrides), asked


def test_first_the_rate_then_the_margin_then_the_others(chosen):
    study, asked = chosen
    settings, table = study.settings(RIB), study.tuned(RIB).table
    assert (settings.lr, settings.margin, settings.n_others) == (1e-5, 6.0, 8)
    assert (settings.pooling, settings.variant.gndrp) == ("gndrp", "official")
    assert table["stage"].tolist() == ["lr"] * 3 + ["margin"] * 2 + ["n_others"] * 2
    assert len(asked) == study.tuned(RIB).trials == 5  # nothing is tried twice


def test_each_training_seed_chooses_for_itself(chosen, monkeypatch):
    study, _ = chosen
    best = {0: 1e-5, 1: 1e-4}

    def tried(self, method, setting):
        return hits(50 - 10 * (setting["lr"] != best[self.number])), 0.3

    monkeypatch.setattr(Study, "_tried", tried)
    study.profile = dataclasses.replace(study.profile, lrs=(1e-5, 1e-4, 1e-3))
    one, other = study.replicas
    assert (one.settings(RIB).lr, other.settings(RIB).lr) == (1e-5, 1e-4)
    assert (one.training_seed, other.training_seed) == (0, 1)
    assert one.tuning.checksum() == other.tuning.checksum()


@pytest.mark.parametrize("method", [RIB, RIVALS["norm"]])
def test_every_method_has_the_scales_the_smoothing_and_the_percentile_of_cam(
    method, tmp_path, monkeypatch
):
    """So a rate of 0 gains nothing over CAM, whatever CAM chose, and neither does a norm of 0."""
    study = Study("mini", "", {"steps": 1, "n_others": (0,), "bank_side": 32})
    study.store, images = Store(tmp_path / "store"), scenes.generate(0, 2, size=48)
    network = classifier.build("small", len(scenes.CLASSES), rng_seed=0)
    weights = stored(tmp_path, weights=network.state_dict()).tensors("weights")
    monkeypatch.setattr(Study, "model", trained_classifier(weights))
    monkeypatch.setattr(Study, "others", images)
    own = {"scales": (1.0, 0.5), "smoothing": 0.05, "percentile": 80.0}
    study._tuned[CAM] = Tuned(pd.DataFrame(), own)
    plain = study._maps(CAM, images, own).arrays("maps")
    nothing = {"norm": 0.0} if method.rival else {"lr": 0.0, "margin": 0.0, "n_others": 0}
    same = study._maps(method, images, nothing).arrays("maps")
    raw = study.maps(images, (1.0, 0.5), None).arrays("maps")
    for name in images.ids:
        assert np.array_equal(same[name], plain[name])
        assert np.abs(plain[name] - raw[name]).max() > 0.05


def test_a_profile_with_one_candidate_of_each_tries_one_setting_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Study, "_tried", lambda self, *own: asked.append(own) or (hits(5), 0.3))
    monkeypatch.setattr(Study, "margin_unit", None)  # an absolute margin: nothing is measured
    for name, expected in (("voc", (8e-6, 600.0, 20, 0.4)), ("coco", (5e-6, 1000.0, 15, 0.5))):
        study = Study(name, str(tmp_path))
        settings = study.settings(RIB)
        assert (settings.lr, settings.margin, settings.n_others, settings.tau) == expected
        assert study.scales == (0.5, 1.0, 1.5, 2.0)
        assert study.rivals == ()
    assert len(asked) == 2 * 2  # of RIB and of CAM


def test_cam_chooses_as_a_rib_does_and_each_rival_what_changes_something(monkeypatch):
    study, asked = Study("mini-large"), []

    def tried(self, method, setting):
        asked.append((method.title, dict(setting)))
        points = 20 + 5 * (setting.get("scales") == (1.0, 1.5))
        points -= 5 * (setting.get("smoothing", 0.02) not in (0.0, 0.02))
        points -= 5 * (setting.get("norm", 0.4) != 0.4)
        return hits(points), 0.3

    monkeypatch.setattr(Study, "_tried", tried)
    assert study.tuned(CAM).chosen == {
        "scales": (1.0, 1.5), "smoothing": 0.0, "percentile": 100.0,
    }  # fmt: skip
    p = study.profile
    others = len(p.smoothings) - 1 + len(p.percentiles) - 1  # the first of each is tried before
    assert study.tuned(CAM).trials == len(asked) == len(p.scale_sets) + others
    titles = ["CAM, smoothed", "CAM, percentile", "CAM + feature norm"]
    assert [rival.title for rival in study.rivals] == titles
    assert study.tuned(study.rivals[0]).chosen == {"smoothing": 0.02}
    assert study.tuned(study.rivals[1]).chosen == {"percentile": 99.0}
    assert study.tuned(study.rivals[2]).chosen == {"norm": 0.4}
    assert study.best_rival == CAM


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ({"CAM": 50, "CAM, smoothed": 60, "CAM + feature norm": 62}, "CAM + feature norm"),
        ({"CAM": 70, "CAM, smoothed": 60, "CAM + feature norm": 62}, "CAM"),
        ({"CAM": 50, "CAM, smoothed": 62, "CAM + feature norm": 62}, "CAM, smoothed"),
    ],
)
def test_the_best_rival_is_the_first_that_none_beats_on_the_tuning_images(
    monkeypatch, points, expected
):
    def tried(self, method, setting):
        # all but the first candidate of a method are worse
        later = setting not in ({"smoothing": 0.02}, {"percentile": 95.0}, {"norm": 0.2})
        return hits(points.get(method.title, 40) - 5 * (later and bool(method.rival))), 0.3

    monkeypatch.setattr(Study, "_tried", tried)
    study = Study("mini")
    assert study.best_rival.title == expected
    assert study.best_rival in (CAM, *study.rivals)


def test_a_rival_that_is_ahead_by_little_is_the_best(monkeypatch):
    ahead = np.array([20, -18, 4, 0])[:, None, None] * np.array([1, 0, 1])[:, None]

    def tried(self, method, setting):
        return hits(50) + (ahead if method.rival == "norm" else 0), 0.3

    monkeypatch.setattr(Study, "_tried", tried)
    study = Study("mini")
    norm = study.rivals[-1]
    gains = [evaluation.miou(c.sum(axis=0)) for c in (hits(50), hits(50) + ahead)]
    assert gains[1] > gains[0]
    assert norm.rival == "norm"
    assert study.best_rival == norm


def test_each_training_seed_has_its_own_best_rival(monkeypatch):
    best = ("norm", "smoothing")

    def tried(self, method, setting):
        return hits(50 + 20 * (method.rival == best[self.number])), 0.3

    monkeypatch.setattr(Study, "_tried", tried)
    study = Study("mini")
    assert [one.best_rival.rival for one in study.replicas] == ["norm", "smoothing"]


def test_a_study_without_rivals_is_held_against_cam(monkeypatch):
    monkeypatch.setattr(Study, "_tried", lambda self, *own: (hits(50), 0.3))
    plain = {"norms": (), "smoothings": (0.0,), "percentiles": (100.0,)}
    study = Study("mini", "", plain)
    assert study.rivals == ()
    assert study.best_rival == CAM
    assert study.methods[0] == CAM
    assert all(method.pooling for method in study.methods[1:])


def test_data_that_is_needed_is_asked_for():
    with pytest.raises(InputError, match="profile coco needs MS COCO 2014; name its folder: make"):
        Study("coco")
    with pytest.raises(InputError, match=r"voc needs a folder in VOC layout; .*DATA=path/to/VOC"):
        Study("voc")


def test_further_images_are_neither_scored_nor_tuned_on(tmp_path, monkeypatch):
    monkeypatch.setattr("ribkit.study.inputs.PART", 3)
    folder = voc_folder(tmp_path, {"train": 6, "train_aug": 16})
    study = Study("voc", str(folder), {"tune_images": 3})
    assert [len(images) for images in study.remaining_images] == [3, 3, 1]
    sets = (study.scored, study.tuning, *study.remaining_images)
    names = [name for images in sets for name in images.ids]
    assert len(names) == len(set(names)) == 16
    assert Study("voc-lite", str(folder)).remaining_images == ()


def without_class(folder, names):
    """Their annotations name a class that is not chosen; their masks agree."""
    for name in names:
        xml = "<annotation><object><name>dog</name></object></annotation>"
        (folder / f"Annotations/{name}.xml").write_text(xml)
        mask = Image.fromarray(np.full((32, 32), 12, np.uint8))
        mask.save(folder / f"SegmentationClass/{name}.png")
    return folder


def test_images_without_a_class_train_the_classifier_and_are_others(tmp_path):
    folder = voc_folder(tmp_path, {"train": 12, "train_aug": 16}, val=12)
    changes = {"tune_images": 3, "classes": ("cat",)}
    study = Study("voc", str(without_class(folder, range(0, 10, 2))), changes)
    assert len(study.train) == len(study.others) == 16
    assert study.train.labels[:, 0].sum() == 11
    for images in (study.scored, study.tuning, *study.remaining_images):
        assert images.labels.all()
    assert [len(study.scored), len(study.tuning)] == [7, 3]
    assert len(study.validation) == 12  # a network may find objects where there are none
    others = study.others.labels.any(axis=1)
    assert (~others).sum() == 5
    drawn = OtherImageSampler(
        {"features": torch.arange(16), "labels": torch.tensor(study.others.labels).float()},
        torch.ones(1), 5, "x", 0,
    )(0)  # fmt: skip
    assert sorted(drawn[0].tolist()) == [0, 2, 4, 6, 8]


LITE = {"tune_images": 3, "classes": ("cat",), "classifier.batch": 2, "backbone": "small"}
LITE |= {"network_backbone": "small", "pretext_scenes": 32, "pretext_epochs": 1}


@pytest.mark.parametrize(
    ("negatives", "notes"),
    [
        ((1, 3, 5, 7), []),
        (
            (1, 3, 5),
            [
                "10 of 10 images have fewer than n_others=4 others, images to train on without "
                "their classes: add some, or set bank_images to more."
            ],
        ),
        (
            (),
            [
                "Every image to train on shows cat: the classifier cannot tell it; add others.",
                "13 of 13 images have fewer than n_others=4 others, images to train on without "
                "their classes: add some, or set bank_images to more.",
            ],
        ),
    ],
)
def test_the_check_says_what_the_images_cannot_teach(tmp_path, negatives, notes):
    folder = voc_folder(tmp_path, {"train": 10, "train_aug": 16})
    study = Study("voc-lite", str(without_class(folder, negatives)), LITE)
    first, *said = study.check().splitlines()
    scored = 10 - len(negatives)
    assert first == (f"voc-lite: {scored} images to score, 16 to train on, 3 to tune on, 1 classes")
    assert said == notes


def test_a_split_that_shows_no_class_is_told(tmp_path):
    folder = voc_folder(tmp_path, {"train": 4, "train_aug": 12})
    with pytest.raises(InputError, match=r"train\.txt lists no image that shows one of"):
        Study("voc-lite", str(without_class(folder, range(4))), LITE).check()


def masks(folder):
    return {int(path.stem): path for path in (folder / "SegmentationClass").iterdir()}


def test_images_that_only_train_need_no_mask(tmp_path):
    folder = voc_folder(tmp_path, {"train": 4, "train_aug": 12})
    study = Study("voc-lite", str(folder), LITE)
    sets = (study.scored, study.tuning, study.validation)
    read = {int(name) for images in sets for name in images.ids}
    for number, path in masks(folder).items():
        if number not in read:
            path.unlink()
    assert study.check().startswith("voc-lite: 4 images to score, 12 to train on, 3 to tune on")
    path = folder / f"SegmentationClass/{study.tuning.ids[0]}.png"
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name} does not exist; add it"):
        Study("voc-lite", str(folder), LITE).check()


def test_images_that_labels_are_made_for_and_few_of_many_scored_ones_need_masks(tmp_path):
    folder = voc_folder(tmp_path, {"train": 6, "train_aug": 12})
    few = {"score_images": 2}
    study = Study("voc-lite", str(folder), LITE | few)
    read = {int(name) for name in (*study.scored.ids, *study.tuning.ids, *study.validation.ids)}
    for number, path in masks(folder).items():
        if number not in read:
            path.unlink()
    study.check()
    with pytest.raises(InputError, match="does not exist; add it"):
        Study("voc-lite", str(folder), LITE | few | {"label_split": "train_aug"}).check()


def test_masks_are_asked_for_where_labels_come_from_them(tmp_path):
    folder = voc_folder(tmp_path, {"train": 4, "train_aug": 12})
    shutil.rmtree(folder / "Annotations")
    masks(folder)[11].unlink()
    with pytest.raises(InputError, match=r"11\.png does not exist; add it"):
        Study("voc-lite", str(folder), LITE).check()


@pytest.fixture
def fabricated(monkeypatch):
    """A study of 40 images whose seeds are made up: RIBs get more of the object right than CAM."""
    random = np.random.default_rng(0)
    base = random.integers(20, 60, size=40)

    def seed(self, method):
        confusions = np.zeros((40, 100, 2, 2), np.int32)
        right = base + (0 if method == CAM else 10)
        confusions[:, :, 0, 0] = 100
        confusions[:, :, 1, 1] = right[:, None]
        confusions[:, :, 1, 0] = 100 - right[:, None]
        return Seed(None, swept_from(confusions), {"oracle": 20, "held-out": 30, "mask-free": 40})

    monkeypatch.setattr(Study, "seed", seed)
    tried = Tuned(pd.DataFrame({"lr": [1, 2, 2, 3]}), {"lr": 2})
    monkeypatch.setattr(Study, "tuned", lambda self, method: tried)
    return Study("mini")


def test_scores_are_paired_with_cam_on_the_same_images(fabricated):
    table = tables.seed_scores(fabricated)
    assert list(table["method"].unique()) == [m.title for m in fabricated.methods]
    assert list(table["threshold chosen"].unique()) == ["oracle", "held-out", "mask-free"]
    assert table["threshold"].unique().tolist() == pytest.approx([0.2, 0.3, 0.4])
    assert set(table["trainings"]) == {2}
    assert set(table["trials"]) == {3}
    ribs = table[table["method"] != CAM.title]
    assert (ribs["over_cam_low"] > 0).all()  # every image gains the same, so the pair tells
    spread = (ribs["miou_high"] - ribs["miou_low"]).min()
    assert (ribs["over_cam_high"] - ribs["over_cam_low"]).max() < spread / 2
    both = fabricated.seed(CAM).at("oracle").sum(axis=0)
    assert table["miou"].iloc[0] == pytest.approx(evaluation.miou(both))


def test_a_readable_table_has_rounded_numbers_with_their_intervals():
    row = {"method": "RIB", "threshold chosen": "oracle", "threshold": 0.3, "miou": 50.04}
    row |= {"miou_low": 48.0, "miou_high": 52.06, "images": 60}
    row |= {"over_cam": 1.25, "over_cam_low": -0.5, "over_cam_high": 3.0}
    text = tables.readable(pd.DataFrame([row, row | {"over_cam": np.nan}]))
    assert text["mIoU (%)"][0] == "50.0 (48.0 to 52.1)"
    assert text["gain over CAM"].tolist() == ["+1.2 (-0.5 to +3.0)", ""]
    assert text.loc[0, ["threshold chosen", "threshold"]].tolist() == ["oracle", "0.30"]


def test_the_papers_variants_may_be_tried_on_fewer_trainings():
    study = Study("mini", "", {"replicas": 3, "variant_replicas": 1})
    tried = {method.title: study.replicas_of(method) for method in study.methods}
    papers = {title for title, trainings in tried.items() if trainings == study.replicas[:1]}
    assert papers == {"RIB paper, GAP", "RIB paper, GNDRP"}
    assert all(len(trainings) == 3 for title, trainings in tried.items() if title not in papers)
    assert len(Study("mini", "", {"replicas": 2}).replicas_of(study.methods[-3])) == 2


def test_ablations_are_tuned_at_their_own_scales(monkeypatch):
    study = Study("mini", "", {"replicas": 2, "scale_sets": "1.0;1.0,1.5"})
    tuned = {True: 1e-6, False: 1e-5}  # whether the scales are the ablations' alone -> best rate

    def best(self, method):
        alone = self.profile.scale_sets == ((1.0,),)
        found = {"lr": tuned[alone], "margin": 0.0, "n_others": 4}
        if method == CAM:
            found = {"scales": (1.0,) if alone else (1.0, 1.5)}
        return Tuned(pd.DataFrame({"edge": [""], "stage": "", "lr": 0.0}), found)

    monkeypatch.setattr(Study, "tuned", best)
    monkeypatch.setattr(Study, "margin_unit", lambda self, method: 5.0)
    second = study.replicas[1]
    own = ablation_runs.at_own_scales(second)
    assert (own.number, own.scales, own.store) == (1, (1.0,), study.store)
    assert (own.profile.smoothings, own.profile.percentiles) == ((0.0,), (100.0,))
    assert ablation_runs.at_own_scales(own) is own
    assert ablation_runs.runs(second)[1].settings == own.shown(RIB)
    assert own.shown(RIB).lr == 1e-6
    assert second.shown(RIB).lr == 1e-5
