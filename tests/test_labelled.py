"""Images with label maps: checked before training, and cut alike."""

from collections import UserDict

import numpy as np
import pytest
import torch
from PIL import Image

from ribkit.data import views
from ribkit.data.images import ImageSet, decode
from ribkit.data.labelled import Labelled, require_label_map
from ribkit.runtime.errors import InputError


class Source:
    def __init__(self, image, mask=None):
        self.pixels, self.labels = image, mask

    def image(self, id):
        return self.pixels

    def mask(self, id):
        return self.labels

    def fingerprint(self, ids):
        return "source"


def images(size=(4, 6), mask=None):
    source = Source(np.full((*size, 3), 100, np.uint8), mask)
    return ImageSet(("x",), ("a", "b"), np.ones((1, 2), bool), source)


def test_pairs_have_one_size_whatever_the_label_maps_size():
    maps = {"x": np.array([[0, 1, 2], [2, 1, 255]], np.uint8)}
    pixels, labels = Labelled([(images(), maps)], 3, None)[0]
    assert pixels.shape == (3, 4, 6)
    assert labels.tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[2, 2, 1, 1, 255, 255]] * 2
    pixels, labels = Labelled([(images(), maps)], 3, 12)[0]
    assert (pixels.shape, labels.shape) == ((3, 8, 12), (8, 12))


def test_without_label_maps_the_masks_are_the_labels():
    mask = np.full((4, 6), 2, np.uint8)
    assert (Labelled([(images(mask=mask), None)], 3, None)[0][1] == 2).all()


class Maps(UserDict):
    """Label maps that know where they lie."""

    def __str__(self):
        return "labels in build/x"


def test_what_does_not_suit_is_told_by_name():
    with pytest.raises(InputError, match=r"^image x has no label map; make it\.$"):
        Labelled([(images(), {"y": np.zeros((4, 6), np.uint8)})], 3, None)
    with pytest.raises(InputError, match="no label map among the labels in build/x; make it"):
        Labelled([(images(), Maps())], 3, None)
    with pytest.raises(InputError, match="there is no image to train on"):
        Labelled([(images().take([]), None)], 3, None)
    wide = {"x": np.zeros((4, 12), np.uint8)}
    with pytest.raises(
        InputError, match=r"label map of x has the shape \(4, 12\) .* image the size \(4, 6\); make"
    ):
        Labelled([(images(), wide)], 3, None).check()
    high = {"x": np.full((4, 6), 7, np.uint8)}
    with pytest.raises(
        InputError, match=r"label map of x .* values up to 7, .* and use 0 to 2, or 255"
    ):
        Labelled([(images(), high)], 3, None).check()


def test_several_sets_come_one_after_the_other():
    ones, twos = (np.full((4, 6), value, np.uint8) for value in (1, 2))
    data = Labelled([(images(), {"x": ones}), (images(mask=twos), None)], 3, None)
    assert len(data) == 2
    assert [int(data[k][1][0, 0]) for k in range(2)] == [1, 2]


@pytest.mark.parametrize(
    ("height", "width"), [(212, 500), (500, 111), (3, 500), (1, 512), (900, 1), (375, 500)]
)
def test_label_maps_of_a_resized_image_always_suit(height, width):
    factor = 256 / max(height, width)
    size = tuple(max(1, round(side * factor)) for side in (height, width))
    maps = {"x": np.zeros(size, np.uint8)}
    Labelled([(images((height, width)), maps)], 3, 256).check()


def test_a_label_map_that_is_no_map_is_told():
    maps = {"x": np.zeros((4, 6, 3), np.uint8)}
    with pytest.raises(InputError, match=r"label map of x has the shape \(4, 6, 3\)"):
        Labelled([(images(), maps)], 3, None).check()


def test_the_highest_label_and_a_map_that_is_ignored_throughout_suit():
    require_label_map("x", np.array([[0, 2, 255]], np.uint8), (1, 3), 3)
    require_label_map("x", np.full((1, 3), 255, np.uint8), (1, 3), 3)


@pytest.mark.parametrize("side", [8, 24])
def test_views_cut_image_and_labels_alike(side):
    labels = torch.arange(16 * 12, dtype=torch.uint8).view(16, 12)
    pixels = labels.float().expand(3, 16, 12)
    for rng_seed in range(8):
        generator = torch.Generator().manual_seed(rng_seed)
        seen, cut = views.random_scaled_crop(
            pixels, labels, (1.0, 1.0), side, (9.0,) * 3, generator
        )
        inside = cut != 255
        assert torch.equal(seen[0][inside], cut[inside].float())
        assert (seen[:, ~inside] == 9).all()
        assert int(inside.sum()) == min(16, side) * min(12, side)


def test_views_have_every_scale_between_the_two():
    labels = torch.zeros(10, 10, dtype=torch.uint8)
    sizes = set()
    for rng_seed in range(40):
        generator = torch.Generator().manual_seed(rng_seed)
        _, cut = views.random_scaled_crop(labels.expand(3, 10, 10).float(), labels, (0.5, 2.0), 30,
                                   (0.0,) * 3, generator)  # fmt: skip
        sizes.add(int((cut == 0).sum()) ** 0.5)
    assert min(sizes) == 5
    assert max(sizes) >= 19


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "rotated"])
def test_photographs_of_any_mode_are_trained_on_in_colour(tmp_path, mode):
    picture = Image.fromarray(np.full((4, 6, 3), 100, np.uint8))
    path = tmp_path / ("x.png" if mode == "RGBA" else "x.jpg")
    if mode == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(path, exif=exif)
    else:
        picture.convert(mode).save(path)
    image = decode(path)
    mask = np.ones(image.shape[:2], np.uint8)
    data = Labelled(
        [(ImageSet(("x",), ("a",), np.ones((1, 1), bool), Source(image, mask)), None)], 2, None
    )
    pixels, labels = data[0]
    assert pixels.shape[0] == 3
    assert pixels.shape[1:] == labels.shape == ((6, 4) if mode == "rotated" else (4, 6))
