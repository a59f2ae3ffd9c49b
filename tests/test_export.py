"""What other programs read: palette PNGs in VOC layout, and the server's tar."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from ribkit.data import export, scenes, voc
from ribkit.data.images import ImageSet
from ribkit.runtime.errors import InputError


def test_the_palette_is_pascals():
    colours = export.palette()
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
    export.pseudo_ground_truth(tmp_path, pair("x", "y"), {"x": LABELS, "y": LABELS}, "pseudo")
    with Image.open(tmp_path / "SegmentationClass" / "x.png") as file:
        assert file.mode == "P"
        assert np.unique(np.asarray(file)).tolist() == [0, 8, 12, 255]  # PASCAL's cat and dog
    voc.check(tmp_path, ["pseudo"])
    back = voc.read(tmp_path, "pseudo", ("cat", "dog"))
    assert back.ids == ("x", "y")
    assert (back.mask(1) == LABELS).all()
    assert back.labels.all()
    assert not list(tmp_path.rglob("*.partial"))


def test_classes_that_are_not_pascals_keep_their_numbers(tmp_path):
    images = scenes.generate(0, 2)
    labels = {name: images.mask(i) for i, name in enumerate(images.ids)}
    export.pseudo_ground_truth(tmp_path, images, labels, "train")
    back = voc.read(tmp_path, "train")
    assert back.classes == images.classes
    assert (back.labels == images.labels).all()
    assert (back.mask(0) == images.mask(0)).all()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({}, "image x has no label map"),
        ({"x": LABELS[:2]}, "the label map of x is 6 x 2 pixels and its image 6 x 4"),
        ({"x": LABELS + 2}, "the label map of x has the value 4, which is no class; use 0 to 2"),
    ],
)
def test_label_maps_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, labels, words):
    with pytest.raises(InputError, match=words):
        export.pseudo_ground_truth(tmp_path / "new", pair("x"), labels, "train")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ""])
def test_a_name_that_is_a_path_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="cannot be a file's name"):
        export.pseudo_ground_truth(tmp_path / "new", pair(name), {name: LABELS}, "train")
    with pytest.raises(InputError, match="cannot be a file's name"):
        export.comp6(tmp_path / "x.tar", {name: LABELS}, ("cat", "dog"))


def test_comp6_is_what_the_server_takes(tmp_path):
    labels = {name: np.minimum(LABELS, 2) for name in ("b", "a")}
    for path in ("one.tar", "two.tar"):
        export.comp6(tmp_path / path, labels, ("cat", "dog"))
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        folder = "results/VOC2012/Segmentation/comp6_test_cls"
        assert archive.getnames() == [f"{folder}/a.png", f"{folder}/b.png"]
        content = archive.extractfile(f"{folder}/a.png").read()
    assert np.unique(np.asarray(Image.open(io.BytesIO(content)))).tolist() == [0, 8, 12]


def test_comp6_refuses_what_the_server_would(tmp_path):
    with pytest.raises(InputError, match="the prediction of a has the value 255"):
        export.comp6(tmp_path / "x.tar", {"a": LABELS}, ("cat", "dog"))
    with pytest.raises(InputError, match="class 'cross' is none of PASCAL's"):
        export.comp6(tmp_path / "x.tar", {"a": LABELS}, ("cross",))
