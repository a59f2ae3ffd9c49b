import itertools
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ribkit.compare import SETTINGS, Comparison, compare
from ribkit.data import views
from ribkit.data.images import ImageSet
from ribkit.method import cam
from ribkit.method.others import OtherImageSampler
from ribkit.method.settings import Settings
from ribkit.networks.backbone import IMAGENET, from_classifier
from ribkit.results import figures
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


def test_a_network_is_taken_with_its_own_mean_and_std(folder, model):
    own = [50.0] * 3, [20.0] * 3
    given = compare(folder, model, settings=settings(), mean=own[0], std=own[1])
    ready = compare(folder, from_classifier(model, *own), settings=settings())
    for name in SIZES:
        assert np.array_equal(given.rib[name], ready.rib[name])


def test_the_figure_has_a_row_for_each_photograph_and_class(folder, model):
    labels = {"a.png": ["dog", "ant"], "b.png": ["bee"], "c.png": ["elk"]}
    found = compare(folder, model, CLASSES, labels, settings=settings())
    names, panels = zip(*found.pictures(), strict=True)
    assert list(dict.fromkeys(names)) == [
        "a.png, ant", "a.png, dog", "b.png, bee", "c.png, elk",
    ]  # fmt: skip
    assert list(dict.fromkeys(panels)) == ["photograph", "CAM", "RIB"]
    (drawn,) = found.figures()
    assert len(drawn.axes) == 4 * 3 + 1  # and the colour bar


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


def test_a_folder_may_lie_in_the_home(folder, model, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    found = compare(f"~/{folder.name}", model, CLASSES, settings=settings())
    assert set(found.images.ids) == {"a.png", "b.png", "c.png"}


def test_a_folder_without_photographs_is_told(tmp_path, model):
    with pytest.raises(InputError, match="holds no photograph"):
        compare(tmp_path, model)
    with pytest.raises(InputError, match="is not a folder"):
        compare(tmp_path / "missing", model)


def test_a_label_that_is_no_class_is_told_and_so_is_an_empty_one(folder, model):
    labels = {"a.png": ["fox"], "b.png": ["bee"], "c.png": ["elk"]}
    with pytest.raises(InputError, match=r"label 'fox' of a\.png is not a class"):
        compare(folder, model, CLASSES, labels)
    with pytest.raises(InputError, match=r"label '5' of b\.png is not .* 5 classes, 0 to 4,"):
        compare(folder, model, labels={"b.png": 5})
    with pytest.raises(InputError, match=r"labels has no class for a\.png"):
        compare(folder, model, CLASSES, labels | {"a.png": []})


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        (CLASSES, {"a.png": "dog", "b.png": ["bee"], "c.png": {"elk"}}, [3, 1, 4]),
        (None, {"a.png": 3, "b.png": [np.int64(1)], "c.png": "4"}, [3, 1, 4]),
        (range(10, 15), {"a.png": 13, "b.png": ("11",), "c.png": [14]}, [3, 1, 4]),
        (("ant", "crane", "cow", "crane", "elk"), {"a.png": "elk", "c.png": ["cow"]}, [4, -1, 2]),
    ],
    ids=["a string", "numbers", "names that are numbers", "some"],
)
def test_labels_are_taken_as_people_have_them(folder, model, classes, labels, expected):
    still = Settings(pooling="gap", steps=0)
    top = compare(folder, model, classes, settings=still).images.labels[1].argmax()
    found = compare(folder, model, classes, labels, settings=still).images.labels
    assert (found.sum(axis=1) == 1).all()
    assert found.argmax(axis=1).tolist() == [k if k >= 0 else top for k in expected]


def test_labels_of_two_meanings_are_told(folder, model):
    names = ("ant", "crane", "cow", "crane", "elk")
    with pytest.raises(
        InputError, match=r"label 'crane' of b\.png is the name of outputs \[1, 3\]"
    ):
        compare(folder, model, names, {"a.png": "elk", "b.png": ["cow", "crane"]})
    with pytest.raises(InputError, match=r"labels repeats a class for a\.png"):  # where it is 1
        compare(folder, model, labels={"a.png": [0, 0, 0, 1, 0]})
    with pytest.raises(InputError, match=r"labels is 'cow'; give a mapping of file names"):
        compare(folder, model, CLASSES, "cow")
    with pytest.raises(InputError, match="label 'False' of a"):
        compare(folder, model, labels={"a.png": [False, True]})


# ---- pixels -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), IMAGENET),
        ((torch.tensor([0.5, 0.5, 0.5]), np.array([0.5, 0.5, 0.5])), ((127.5,) * 3, (127.5,) * 3)),
        (((0, 0, 0), (1, 1, 1)), ((0,) * 3, (255,) * 3)),
        (((0, 0, 0), (1 / 255,) * 3), ((0,) * 3, (1,) * 3)),
        (((123.68, 116.779, 103.939), (1, 1, 1)), ((123.68, 116.779, 103.939), (1,) * 3)),
        (IMAGENET, IMAGENET),
    ],
    ids=["torchvision", "tensors", "ToTensor", "raw", "Caffe", "ours"],
)
def test_mean_and_std_are_for_the_pixels_that_their_size_says(folder, model, given, taken):
    found = compare(folder, model, mean=given[0], std=given[1], settings=settings(), scales=(1.0,))
    network = from_classifier(model, *taken)
    with torch.no_grad():
        maps = network(views.to_tensor(found.images.image(0))[None])
    assert found.images.labels[0].argmax() == maps.mean(dim=(2, 3)).argmax()
    expected = compare(
        folder, model, mean=taken[0], std=taken[1], settings=settings(), scales=(1.0,)
    )
    if taken[1] != (1,) * 3 or taken[0] != (0,) * 3:  # which mean something else
        np.testing.assert_allclose(found.rib["a.png"], expected.rib["a.png"], atol=1e-5)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.485, 0.456, 0.406), IMAGENET[1]),
        (IMAGENET[0], (0.229, 0.224, 0.225)),
        ((0.5, 0.5, 0.5), (0.5, 0, 0.5)),
        ((0.5, 0.5, float("nan")), (0.5, 0.5, 0.5)),
        (0.5, 0.5),
        ((0.5,), (0.5,)),
        ((0.5, 0.5, 0.5), (0.5, 0.5)),
    ],
)
def test_a_mean_and_std_that_do_not_belong_together_are_told(folder, model, mean, std):
    with pytest.raises(InputError, match=r"both for pixels in \[0, 255\], or both for \[0, 1\]"):
        compare(folder, model, mean=mean, std=std)


# ---- what users name, and how much of it --------------------------------------------------------
def shown_as(names, classes=("cat",), side=4):
    """A comparison of black photographs, each of one class."""
    black = SimpleNamespace(image=lambda name: np.zeros((side, side, 3), np.uint8))
    images = ImageSet(
        tuple(names),
        tuple(classes),
        np.eye(len(classes), dtype=bool)[:1].repeat(len(names), 0),
        black,
    )
    maps = {name: np.zeros((1, side, side)) for name in names}
    return Comparison(images, maps, maps)


def test_names_are_drawn_as_they_are(tmp_path):
    names = ["price_$5_and_$10.jpg", os.fsdecode(b"caf\xe9.jpg"), "000000000139.jpg"]
    (drawn,) = shown_as(names, ["$x_1$ and $y"]).figures()
    drawn.savefig(tmp_path / "drawn.png")
    labels = [axis.yaxis.label for axis in drawn.axes[:-1:3]]
    texts = [label.get_text().replace("\n", "") for label in labels]
    assert [text.replace(" ", "") for text in texts] == [
        f"{name}$x_1$and$y" for name in (names[0], "caf\\xe9.jpg", names[2])
    ]
    assert not any(label.get_parse_math() for label in labels)


def test_long_names_stay_beside_their_own_photograph():
    (drawn,) = shown_as(["a_photograph_" * 4 + f"{k}.jpg" for k in range(3)]).figures()
    boxes = [axis.yaxis.label.get_window_extent() for axis in drawn.axes[:-1:3]]
    assert all(above.y0 > below.y1 for above, below in itertools.pairwise(boxes))


def test_hundreds_of_photographs_are_drawn_on_pages_of_twenty(monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda _, page: page)
    pages = shown_as([f"{k:012d}.jpg" for k in range(205)]).figures()
    assert [len(page) for page in pages] == [60] * 10 + [15]
    names = [name for page in pages for name, panel in page if panel == "RIB"]
    assert names == [f"{k:012d}.jpg, cat" for k in range(205)]


def test_each_page_is_laid_out_once_and_whole():
    one, two = shown_as([f"{k}.jpg" for k in range(21)]).figures()
    assert (len(one.axes), len(two.axes)) == (61, 4)
    before = one.axes[0].get_position().bounds
    one.draw_without_rendering()
    assert one.axes[0].get_position().bounds == before
    assert 0 < before[0] < one.axes[1].get_position().x0


def test_a_file_whose_name_is_not_utf_8_is_compared_like_any_other(folder, model):
    name = os.fsdecode(b"caf\xe9.png")
    (folder / "a.png").rename(folder / name)
    found = compare(folder, model, CLASSES, {name: "bee"}, settings=settings())
    assert found.cam[name].shape == (1, *SIZES["a.png"])
    assert ("caf\\xe9.png, bee", "RIB") in found.pictures()
    assert len(found.images.checksum()) == 64


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
    for scales in ((0.5, 2.0), (1.0, -2.0), (1.0, 0.0), (1.0, float("nan"))):
        with pytest.raises(InputError, match=r"must be positive, and have 1\.0 among them"):
            compare(folder, model, CLASSES, scales=scales)
