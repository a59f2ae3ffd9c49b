"""What other programs read: palette PNGs in VOC layout."""

import numpy as np
import pytest
from PIL import Image

from ribkit.data import export, scenes, voc
from ribkit.data.images import ImageSet
from ribkit.runtime.errors import InputError


def test_the_palette_is_pascals():
    colours = voc.palette()
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    for label, colour in (known | {255: (224, 224, 192)}).items():
        assert tuple(colours[label]) == colour


class Source:
    def image(self, id):
        return np.full((4, 6, 3), 9, np.uint8)


def pair(*ids, classes=("cat", "dog")):
    return ImageSet(ids, classes, np.ones((len(ids), len(classes)), bool), Source())


LABELS = np.array([[0, 0, 1, 1, 2, 255]] * 4, np.uint8)


def test_pseudo_ground_truth_is_read_back_as_a_voc_folder(tmp_path):
    parts = [(pair("x", "y"), {"x": LABELS, "y": LABELS})]
    export.pseudo_ground_truth(tmp_path, parts, "pseudo")
    with Image.open(tmp_path / "SegmentationClass" / "x.png") as file:
        assert file.mode == "P"
        assert file.getpalette() == voc.palette().ravel().tolist()
        assert np.unique(np.asarray(file)).tolist() == [0, 8, 12, 255]  # PASCAL's cat and dog
    voc.check(tmp_path, ["pseudo"])
    back = voc.read(tmp_path, "pseudo", ("cat", "dog"))
    assert back.ids == ("x", "y")
    assert (back.mask(1) == LABELS).all()
    assert back.labels.all()
    assert not list(tmp_path.rglob("*.partial"))


def test_all_parts_are_in_one_split(tmp_path):
    scored, rest = pair("b"), pair("c", "a")
    rest.labels[0] = [False, True]
    maps = {"c": np.full((4, 6), 2, np.uint8), "a": LABELS}
    export.pseudo_ground_truth(tmp_path, [(scored, {"b": LABELS}), (rest, maps)], "pseudo")
    voc.check(tmp_path, ["pseudo"])
    back = voc.read(tmp_path, "pseudo", ("cat", "dog"))
    assert back.ids == ("b", "c", "a")
    assert [back.mask(k).tolist() for k in range(3)] == [
        LABELS.tolist(), [[2] * 6] * 4, LABELS.tolist()
    ]  # fmt: skip
    assert back.labels.tolist() == [[True, True], [False, True], [True, True]]


def test_label_maps_are_resized_to_their_images_one_at_a_time(tmp_path):
    class Maps(dict):
        def __getitem__(self, name):  # made when asked for, kept by nobody
            assert name in ("x", "y")
            return np.array([[0, 1, 2], [2, 1, 255]], np.uint8)

    export.pseudo_ground_truth(tmp_path, [(pair("x", "y"), Maps(x=0, y=0))], "pseudo")
    back = voc.read(tmp_path, "pseudo", ("cat", "dog"))
    for k in range(2):
        assert back.mask(k).tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[2, 2, 1, 1, 255, 255]] * 2


def test_photographs_in_voc_layout_are_not_copied(tmp_path):
    export.pseudo_ground_truth(tmp_path / "one", [(pair("x"), {"x": LABELS})], "train")
    images = voc.read(tmp_path / "one", "train", ("cat", "dog"))
    export.pseudo_ground_truth(tmp_path / "two", [(images, {"x": LABELS})], "train")
    assert not list((tmp_path / "two/JPEGImages").iterdir())
    assert (tmp_path / "two/SegmentationClass/x.png").is_file()


def test_classes_that_are_not_pascals_keep_their_numbers(tmp_path):
    images = scenes.generate(0, 2)
    labels = {name: images.mask(i) for i, name in enumerate(images.ids)}
    export.pseudo_ground_truth(tmp_path, [(images, labels)], "train")
    back = voc.read(tmp_path, "train")
    assert back.classes == images.classes
    assert (back.labels == images.labels).all()
    assert (back.mask(0) == images.mask(0)).all()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({}, "image x has no label map"),
        (
            {"x": LABELS[:2]},
            r"the label map of x has the shape \(2, 6\) .*, its image the size \(4, 6\)",
        ),
        ({"x": LABELS + 2}, r"the label map of x .* values up to 4, .* use 0 to 2, or 255"),
    ],
)
def test_label_maps_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, labels, words):
    parts = [(pair("y"), {"y": LABELS}), (pair("x"), labels)]
    with pytest.raises(InputError, match=words):
        export.pseudo_ground_truth(tmp_path / "new", parts, "train")
    assert not (tmp_path / "new").exists()


def test_an_image_that_is_in_two_parts_is_refused(tmp_path):
    parts = [(pair("x"), {"x": LABELS})] * 2
    with pytest.raises(InputError, match="two images are called x; rename one of them"):
        export.pseudo_ground_truth(tmp_path / "new", parts, "train")
    assert not (tmp_path / "new").exists()
