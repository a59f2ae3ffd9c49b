import json
import math
import tomllib
from importlib.resources import files
from operator import attrgetter

import pytest
from pydantic import ValidationError

from ribkit.method.settings import VARIANTS, Settings
from ribkit.networks.configs import ClassifierConfig
from ribkit.runtime.errors import InputError
from ribkit.runtime.settings import override
from ribkit.study import profiles
from ribkit.study.inputs import ROOT
from ribkit.study.profiles import PROFILES


def problem(name, overrides=None):
    with pytest.raises(InputError) as caught:
        profiles.load(name, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_without_overrides_is_the_named_one(name):
    assert profiles.load(name) == profiles.load(name, {}) == PROFILES[name]
    assert PROFILES[name].name == name


@pytest.mark.parametrize("name", PROFILES)
def test_the_file_of_profiles_names_only_settings(name):
    table = tomllib.loads(files("ribkit.study").joinpath("profiles.toml").read_text())[name]
    like = {"coco": "voc", "mini-large": "mini", "mnist": "mini"}
    assert table.pop("like", "") == like.get(name, "")
    for setting, value in table.items():
        own = getattr(PROFILES[name], setting)
        if isinstance(value, dict):
            own = {part: getattr(own, part) for part in value}
        if setting == "digits":  # a folder of the repository
            own = own.removeprefix(f"{ROOT}/")
        assert json.loads(json.dumps(own)) == value


def test_the_large_run_is_the_default_measured_on_more():
    mini, large = PROFILES["mini"], PROFILES["mini-large"]
    assert (large.irn, large.network, large.classifier) == (mini.irn, mini.network, mini.classifier)
    assert large.replicas == large.pretext_seeds >= 6
    assert large.score_images >= 480
    for name in ("scale_sets", "lrs", "margins", "norms", "irn_log2_steps", "psa_log2_steps"):
        assert set(getattr(large, name)) >= set(getattr(mini, name))


def test_a_profile_that_is_like_another_differs_in_what_it_names():
    voc, coco = PROFILES["voc"], PROFILES["coco"]
    assert (coco.backbone, coco.ablations, coco.replicas) == ("resnet50", voc.ablations, 1)
    assert (coco.lrs, coco.network.iterations, voc.network.iterations) == ((5e-6,), 100_000, 30_000)


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        ("steps", "5", 5),
        ("classifier.lr", "1e-6", 1e-6),  # what YAML makes of 1e-6
        ("classifier.lr", "1", 1.0),
        ("classifier.lr", 1, 1.0),
        ("steps", 5.0, 5),
        ("lrs", "1e-6, 3e-6", (1e-6, 3e-6)),
        ("lrs", "1e-6", (1e-6,)),
        ("lrs", ["1e-6", 2], (1e-6, 2.0)),
        ("n_others", "2,4,", (2, 4)),
        ("n_others", [2], (2,)),
        ("classifier.long_sides", "64,96", (64, 96)),
        ("scale_sets", "1.0; 0.5,1.0", ((1.0,), (0.5, 1.0))),
        ("scale_sets", [[1], [0.5, 1.0]], ((1.0,), (0.5, 1.0))),
        ("classes", "cat, dog", ("cat", "dog")),
        ("classes", "", ()),
        ("long_side", "320", 320),
        ("long_side", "None", None),
        ("long_side", None, None),
        ("digits", "a/folder", "{}/a/folder"),
        ("digits", "~/folder", "{}/home/folder"),
        ("digits", "", ""),
        ("saliency", "u2netp", "u2netp"),
        ("saliency", "scenes", "scenes"),
        ("saliency", "./u2netp", "{}/u2netp"),
        ("saliency", "my maps/../maps", "{}/maps"),
    ],
)
def test_a_setting_may_be_given_as_value_or_as_text(setting, text, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    profile = profiles.load("mini", {setting: text})
    found = attrgetter(setting)(profile)
    assert found == (value.format(tmp_path) if isinstance(value, str) else value)
    assert type(found) is type(value)
    usual = {setting: attrgetter(setting)(PROFILES["mini"])}
    assert override(profile, usual) == PROFILES["mini"]


def test_text_and_value_make_the_same_profile():
    assert profiles.load("mini", {"lrs": "1e-6,2e-6", "steps": "3"}) == profiles.load(
        "mini", {"lrs": (1e-6, 2e-6), "steps": 3}
    )


def test_a_loaded_profile_has_only_values_that_can_be_hashed():
    hash(profiles.load("voc-lite", {"scale_sets": [[1.0]], "lrs": [1e-6], "classes": ["cat"]}))


def test_an_unknown_profile_is_told_with_those_there_are():
    message = problem("maxi")
    assert "'maxi'" in message
    assert all(name in message for name in PROFILES)


def test_an_unknown_setting_is_told_with_the_nearest():
    assert "no setting 'stepz'; did you mean steps" in problem("mini", {"stepz": 5})
    far = problem("mini", {"zzzzzz": 5})
    assert "zzzzzz" in far
    assert "toy_seeds" in far


def test_the_name_of_a_profile_is_no_setting():
    assert "no setting 'name'" in problem("mini", {"name": "other"})


@pytest.mark.parametrize(
    ("setting", "value", "kind"),
    [
        ("steps", "many", "int"),
        ("steps", 2.5, "int"),
        ("steps", True, "int"),
        ("steps", "2.5", "int"),
        ("steps", None, "int"),
        ("classifier.lr", "fast", "float"),
        ("classifier.lr", [1.0], "float"),
        ("lrs", "1e-6,fast", "tuple[float, ...]"),
        ("lrs", 1e-6, "tuple[float, ...]"),
        ("classifier.long_sides", "64", "tuple[int, int]"),
        ("classifier.long_sides", "1,2,3", "tuple[int, int]"),
        ("long_side", "wide", "int | None"),
        ("backbone", 5, "str"),
    ],
)
def test_a_value_of_another_type_is_told_with_its_type_and_default(setting, value, kind):
    message = problem("mini", {setting: value})
    assert f"{setting}={value!r} is not of type {kind}" in message
    assert repr(attrgetter(setting)(PROFILES["mini"])) in message


def test_overrides_do_not_stay():
    profiles.load("mini", {"steps": 3})
    assert profiles.load("mini").steps == PROFILES["mini"].steps != 3


def test_a_group_has_what_the_profile_says_and_the_papers_values_for_the_rest():
    changes = {"classifier.epochs": 2, "classifier.lr": 0.3, "classifier.crop": 32}
    training = profiles.load("mini", changes).classifier
    assert (training.epochs, training.lr, training.crop) == (2, 0.3, 32)
    assert training.head_lr_mult == ClassifierConfig().head_lr_mult


def test_a_named_file_of_weights_is_the_classifiers_backbone_and_no_other():
    profile = profiles.load("voc", {"weights": "/mine.pth"})
    assert (profile.backbone, profile.network_backbone) == ("resnet50", "resnet101")
    assert str(profile.imagenet_weights("resnet50").path) == "/mine.pth"
    assert profile.imagenet_weights("resnet101").path.name.startswith("resnet101-")
    assert profile.imagenet_weights("small") is None


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_an_adaptation_takes_what_the_profile_says(variant):
    profile = profiles.load("mini", {"steps": 3, "tau": 0.5, "area_ratio": 0.8})
    settings = profile.settings("gap", variant, 1e-5, 40.0, 6)
    assert settings == Settings(
        pooling="gap", tau=0.5, steps=3, lr=1e-5, n_others=6, margin=40.0, area_ratio=0.8,
        variant=VARIANTS[variant],
    )  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES.values(), ids=str)
def test_every_profile_can_do_what_its_settings_say(profile):
    assert all(1.0 in scales for scales in profile.scale_sets)
    assert profile.lrs == tuple(sorted(profile.lrs))
    assert profile.margins[0] == 0 or profile.margin_unit == 1
    assert profile.toy_seeds >= 5
    assert profile.backbone in ("small", "efficientnet_lite0", "resnet50")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale_sets", "0.5"),
        ("classifier.batch", 0),
        ("steps", -1),
        ("classifier.lr", "nan"),
        ("backbone", "large"),
        ("train_images", 8),
        ("train_images", -3),
        ("classifier.crop", 0),
        ("n_others", ""),
        ("lrs", ""),
        ("lrs", "inf"),
        ("toy_seeds", 0),
        ("data", "photographs"),
        ("label_split", "train"),
        ("precision", "float16"),
        ("margin_unit", -1.0),
        ("classifier.epochs", 0),
        ("score_images", -1),
        ("classifier.long_sides", "64,32"),
        ("classifier.long_sides", "0,32"),
        ("long_side", 31),
        ("long_side", 0),
        ("classifier.lr", -0.1),
        ("classifier.lr", math.inf),
        ("lrs", "1e-6,nan"),
        ("tau", 1.5),
        ("area_ratio", "-0.1"),
        ("margins", "-1"),
        ("test_scales", "0"),
        ("test_scales", ""),
        ("psa_alphas", "inf"),
        ("psa_log2_steps", "0"),
        ("irn_log2_steps", "0"),
        ("irn_betas", "-1"),
        ("smoothings", "-0.1"),
        ("percentiles", "0"),
        ("percentiles", "101"),
        ("norms", "0"),
        ("usual_texture", 1.5),
        ("pretext_seeds", 0),
        ("pretext_scenes", 0),
        ("pretext_epochs", 0),
        ("ablations.usual_textures", "2"),
        ("scale_sets", ""),
        ("scale_sets", "1.0;0.5,2.0"),
        ("scale_sets", "1.0,-2.0"),
        ("network_backbone", "vgg16"),
        ("walk", ""),
        ("rng_seed", -1),
        ("val_images", -1),
        ("weights", "mine.pth"),
        ("irn.lr", "nan"),
        ("irn.rng_seed", 7),
        ("classifier.rng_seed", 7),
        ("psa.rng_seed", 7),
        ("network.rng_seed", 7),
        ("irn.scales", "1.5,0.5"),
        ("psa.stride", 0),
        ("psa.weight_decay", -1),
        ("network.checkpoint", 0),
        ("network.aspp_rates", ""),
        ("network.aspp_rates", "6,0"),
        ("network.head", "unet"),
        ("ablations.images", -1),
        ("ablations.scales", "0.5"),
        ("ablations.taus", "0.1,2"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(name, value):
    message = problem("mini", {name: value})
    usual = attrgetter(name)(PROFILES["mini"])
    assert message.startswith(f"setting {name}={value!r} must be ")
    assert message.endswith(f"; its value in profile mini is {usual!r}.")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"train_images": "8"},
            "setting train_images='8' must be at least 16, one batch (or 0: all images); its value "
            "in profile mini is 1500.",
        ),
        (
            {"classifier.batch": 2000},
            "setting train_images=1500 must be at least 2000, one batch (or 0: all images); its "
            "value in profile mini is 1500.",
        ),
        (
            {"data": "voc"},
            "setting saliency='scenes' must be u2netp or a folder where there are photographs; its "
            "value in profile mini is 'scenes'.",
        ),
        (
            {"weights": "mine.pth"},
            "setting weights='mine.pth' must be empty, unless backbone is resnet50 or resnet101; "
            "its value in profile mini is ''.",
        ),
        (
            {"label_split": "train"},
            "setting label_split='train' must be empty where images are scenes; its value in "
            "profile mini is ''.",
        ),
        (
            {"network.head": "deeplabv3", "network.batch": "1"},
            "setting network.batch='1' must be 2 or more, for deeplabv3's batch norm; its value in "
            "profile mini is 10.",
        ),
    ],
)
def test_settings_that_do_not_fit_each_other_are_told_by_name(changes, sentence):
    assert problem("mini", changes) == sentence


def test_all_wrong_settings_are_told_at_once_each_in_one_line():
    changes = {"steps": "many", "lrs": "nan,-1,x", "irn.batch": 0, "classifier.lr": "0.1"}
    with pytest.raises(InputError) as caught:
        profiles.load("mini", changes)
    assert [sentence.split(";")[0] for sentence in caught.value.args] == [
        "setting steps='many' is not of type int",
        "setting lrs='nan,-1,x' must be finite",
        "setting irn.batch=0 must be 1 or more",
    ]
    assert not any("\n" in sentence for sentence in caught.value.args)


@pytest.mark.parametrize(
    "wrong", [{"pooling": "gndpr"}, {"activation": "tan"}, {"tau": 2}, {"lr": -1}, {"steps": 1.5}]
)
def test_settings_of_an_adaptation_are_checked_too(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Settings(**wrong)


def test_settings_of_a_group_are_given_with_a_point():
    changes = {"network.iterations": "7", "irn.radius": 4, "network.scales": "0.5,1.0"}
    profile = profiles.load("mini", changes)
    assert (profile.network.iterations, profile.network.scales) == (7, (0.5, 1.0))
    assert profile.irn.radius == 4
    assert profile.network.lr == PROFILES["mini"].network.lr
    assert "did you mean network.iterations" in problem("mini", {"network.iteration": 7})
    assert "network.batch='x' is not of type int" in problem("mini", {"network.batch": "x"})
    several = "classifier.epochs or irn.epochs or psa.epochs."
    assert f"no setting 'epochs'; did you mean {several}" in problem("mini", {"epochs": 7})
    assert "no setting 'network'; " in problem("mini", {"network": 5})
    with pytest.raises(InputError, match=r"setting network\.batch=0 must be 1 or more"):
        profiles.load("mini", {"network.batch": 0})
    with pytest.raises(InputError, match=r"setting walk='long' must be one of paper, official"):
        profiles.load("mini", {"walk": "long"})


def test_settings_that_need_each_other_may_come_in_any_order():
    assert profiles.load("mini", {"train_images": 4, "classifier.batch": 4}).train_images == 4


@pytest.mark.parametrize("name", ["train_images", "score_images", "val_images"])
def test_there_is_no_all_of_the_scenes(name):
    with pytest.raises(InputError, match=f"{name}='0' must be 1 or more where"):
        profiles.load("mini", {name: "0"})


@pytest.mark.parametrize("rates", ["1e-4,3e-5", "1e-5,1e-5"])
def test_rates_stand_in_order_the_most_careful_first(rates):
    with pytest.raises(InputError, match=r"lrs=.* in ascending order"):
        profiles.load("mini", {"lrs": rates})
