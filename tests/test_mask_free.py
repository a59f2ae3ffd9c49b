"""The threshold that is chosen without any mask: it reads none, and no pixel either."""

import numpy as np
from fabricated import stored

from ribkit.data.images import ImageSet
from ribkit.runtime.store import Store
from ribkit.study import mask_free


class NothingToSee:
    """A source of which nothing may be read."""

    def image(self, id):
        raise AssertionError(f"pixels of {id} are read")

    def mask(self, id):
        raise AssertionError(f"the mask of {id} is read")

    def fingerprint(self, ids):
        return "a" * 64


def chosen(folder, maps):
    """The threshold of maps, image name -> ``(K, h, w)``, an image of K classes each."""
    labels = np.stack([np.arange(2) < len(each) for each in maps.values()])
    images = ImageSet(tuple(maps), ("cat", "dog"), labels, NothingToSee())
    made = stored(folder, maps={name: each.astype(np.float16) for name, each in maps.items()})
    return mask_free.threshold(Store(folder / "store"), images, made.arrays("maps"))


def test_the_threshold_parts_the_highest_maps_of_all_images(tmp_path):
    first, second = np.full((4, 4), 0.125), np.full((2, 2), 0.25)
    first[:, 2:], second[1] = 0.7, 0.8
    assert chosen(tmp_path, {"1": np.stack([first / 2, first]), "2": second[None]}) == 25


def test_an_image_without_a_map_changes_nothing(tmp_path):
    random = np.random.default_rng(0)
    maps = {"1": random.random((2, 5, 5)), "2": random.random((1, 4, 6)) ** 3}
    alone = chosen(tmp_path / "a", maps)
    assert chosen(tmp_path / "b", maps | {"unlabelled": np.zeros((0, 90, 90))}) == alone


def test_maps_that_are_empty_everywhere_have_the_first_threshold(tmp_path):
    assert chosen(tmp_path, {"1": np.zeros((1, 3, 3))}) == 0
