from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ribkit.compare import SETTINGS, compare
from ribkit.data import views
from ribkit.method import cam
from ribkit.method.others import OtherImageSampler
from ribkit.method.settings import Settings
from ribkit.networks.backbone import from_classifier
from ribkit.runtime.errors import InputError
from ribkit.study import maps

CLASSES = ("ant", "bee", "cow", "dog", "elk")
SIZES = {"a.png": (48, 64), "b.png": (64, 40), "c.png": (48, 48)}


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        small = random.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(small).resize((width, height), Image.BICUBIC).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        )  # fmt: skip


def settings(lr=1e-2):
    return Settings(pooling="gap", lr=lr, steps=2, n_others=2, margin=1e9)


def test_maps_have_the_size_of_their_photographs_and_differ(folder, model):
    found = compare(folder, model, CLASSES, settings=settings())
    assert found.images.ids == tuple(SIZES)
    assert found.images.classes == CLASSES
    for name, size in SIZES.items():
        assert found.cam[name].shape == found.rib[name].shape == (1, *size)
        assert 0 <= found.cam[name].min() <= found.cam[name].max() < 1
    assert any((found.cam[n] != found.rib[n]).any() for n in SIZES)


def test_cam_is_the_models_own_on_its_top_class(folder, model):
    found = compare(folder, model, CLASSES, settings=settings(), scales=(1.0,))
    network = from_classifier(model)
    for i, name in enumerate(found.images.ids):
        image = views.to_tensor(found.images.image(i))
        with torch.no_grad():
            top = int(network(image[None]).mean(dim=(2, 3)).argmax())
            assert np.flatnonzero(found.images.labels[i]).tolist() == [top]
            maps = network(torch.stack([image, image.flip(-1)]))[:, [top]]
        expected = cam.multi_scale({1.0: cam.flip_sum(maps)}, SIZES[name])
        np.testing.assert_allclose(found.cam[name], expected, atol=1e-5)


def test_without_steps_rib_is_cam(folder, model):
    still = Settings(pooling="gap", steps=0)
    found = compare(folder, model, settings=still)
    for name in SIZES:
        np.testing.assert_allclose(found.rib[name], found.cam[name], atol=1e-6)


def test_labels_may_be_given_and_need_not_be_the_top_class(folder, model):
    labels = {"a.png": ["dog", "ant"], "b.png": ["bee"], "c.png": ["elk"]}
    found = compare(folder, model, CLASSES, labels, settings=settings())
    assert found.images.labels.astype(int).tolist() == [
        [1, 0, 0, 1, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1],
    ]
    assert found.cam["a.png"].shape[0] == 2


def test_the_others_of_a_photograph_are_the_rest_of_the_folder(folder, model, monkeypatch):
    drawn = []

    class Recording(OtherImageSampler):
        def __call__(self, step):
            features, labels = super().__call__(step)
            drawn.append((len(features), labels.argmax(dim=1).tolist()))
            return features, labels

    monkeypatch.setattr(maps, "OtherImageSampler", Recording)
    labels = {"a.png": ["ant"], "b.png": ["bee"], "c.png": ["ant"]}
    compare(folder, model, CLASSES, labels, settings=settings())
    assert [sorted(classes) for _, classes in drawn] == [[1], [0, 0], [1]]


def test_a_single_photograph_is_adapted_without_others(folder, model):
    for name in ("b.png", "c.png"):
        (folder / name).unlink()
    found = compare(folder, model, CLASSES, settings=settings())
    assert list(found.rib) == ["a.png"]


def test_classes_without_names_are_numbered(folder, model):
    assert compare(folder, model, settings=settings()).images.classes == ("0", "1", "2", "3", "4")


def test_the_figure_has_a_row_for_each_photograph_and_class(folder, model):
    labels = {"a.png": ["dog", "ant"], "b.png": ["bee"], "c.png": ["elk"]}
    found = compare(folder, model, CLASSES, labels, settings=settings())
    names, panels = zip(*found.pictures(), strict=True)
    assert list(dict.fromkeys(names)) == [
        "a.png, ant", "a.png, dog", "b.png, bee", "c.png, elk",
    ]  # fmt: skip
    assert list(dict.fromkeys(panels)) == ["photograph", "CAM", "RIB"]
    assert len(found.figure().axes) == 4 * 3 + 1  # and the colour bar


def test_every_picture_stands_under_its_own_title(folder, model):
    found = compare(folder, model, CLASSES, {n: ["dog", "ant"] for n in SIZES}, settings=settings())
    maps = {
        name: np.stack([np.full(size, 0.2), np.full(size, 0.4)]) for name, size in SIZES.items()
    }
    found = replace(found, cam=maps, rib={name: 2 * both for name, both in maps.items()})
    shown = found.pictures()
    for i, name in enumerate(SIZES):
        assert (shown[f"{name}, dog", "photograph"] == found.images.image(i)).all()
        values = {key: shown[f"{name}, {key[0]}", key[1]].mean() for key in TITLES}
        assert values == pytest.approx(TITLES, abs=1 / 255)


TITLES = {("ant", "CAM"): 0.2, ("dog", "CAM"): 0.4, ("ant", "RIB"): 0.4, ("dog", "RIB"): 0.8}


def test_the_model_is_left_as_it_is(folder, model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    compare(folder, model, CLASSES, settings=settings())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_model_that_does_not_suit_is_told(folder):
    with pytest.raises(InputError, match="global average pooling and one linear layer"):
        compare(folder, nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten()))


def test_a_folder_without_photographs_is_told(tmp_path, model):
    with pytest.raises(InputError, match="holds no photograph"):
        compare(tmp_path, model)
    with pytest.raises(InputError, match="is not a folder"):
        compare(tmp_path / "missing", model)


def test_a_label_that_is_no_class_is_told_and_so_is_a_missing_one(folder, model):
    labels = {"a.png": ["fox"], "b.png": ["bee"], "c.png": ["elk"]}
    with pytest.raises(InputError, match=r"label 'fox' of a\.png is not a class"):
        compare(folder, model, CLASSES, labels)
    del labels["a.png"]
    with pytest.raises(InputError, match=r"labels has no class for a\.png"):
        compare(folder, model, CLASSES, labels)


def test_the_default_is_a_rate_at_which_the_maps_of_an_imagenet_head_grow():
    assert (SETTINGS.pooling, SETTINGS.lr, SETTINGS.n_others) == ("gap", 1e-4, 4)


def test_names_labels_and_scales_that_do_not_fit_are_told(folder, model):
    labels = {"a.png": ["fox"], "b.png": ["bee"], "c.png": ["elk"]}
    with pytest.raises(InputError, match="2 names for 5 classes"):
        compare(folder, model, ("fox", "bee"))
    with pytest.raises(InputError, match=r"no class for b\.png"):
        compare(folder, model, CLASSES, {"a.png": [CLASSES[0]], "b.png": []})
    with pytest.raises(InputError, match=r"labels names d\.png"):
        compare(folder, model, CLASSES, labels | {"d.png": ["fox"]})
    with pytest.raises(InputError, match=r"lack 1\.0"):
        compare(folder, model, CLASSES, scales=(0.5, 2.0))
