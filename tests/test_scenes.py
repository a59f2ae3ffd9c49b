import pickle

import numpy as np
import pytest

from ribkit.data import scenes

COUNT = 40


@pytest.fixture(scope="module")
def images():
    return scenes.generate(0, COUNT)


def test_a_scene_is_a_photograph_with_masks_of_its_size(images):
    for i in range(COUNT):
        mask, heads = images.mask(i), images.source.heads(images.ids[i])
        assert images.image(i).shape == (64, 64, 3)
        assert images.image(i).dtype == mask.dtype == heads.dtype == np.uint8
        assert mask.shape == heads.shape == (64, 64)
        assert mask.max() <= len(scenes.CLASSES)


def test_heads_lie_within_their_own_objects_and_leave_a_larger_body(images):
    for i in range(COUNT):
        mask, heads = images.mask(i), images.source.heads(images.ids[i])
        assert (heads[heads > 0] == mask[heads > 0]).all()
        for label in np.flatnonzero(images.labels[i]) + 1:
            head, whole = (heads == label).sum(), (mask == label).sum()
            assert 0 < head < whole - head


def test_labels_are_the_classes_in_the_mask(images):
    for i in range(COUNT):
        assert set(np.flatnonzero(images.labels[i]) + 1) == set(np.unique(images.mask(i))) - {0}
    assert images.labels.any(axis=1).all()


def test_every_class_occurs_and_scenes_show_one_to_three(images):
    assert images.labels.any(axis=0).all()
    assert set(images.labels.sum(axis=1)) == {1, 2, 3}
    assert images.classes == scenes.CLASSES


def test_attributes_start_with_the_labels_and_name_a_texture_for_them(images):
    n = len(scenes.CLASSES)
    for i in range(COUNT):
        attributes = scenes.draw(0, i, 64).attributes
        assert (attributes[:n] == images.labels[i]).all()
        textures = attributes[n : n + len(scenes.TEXTURES)]
        assert 1 <= textures.sum() <= images.labels[i].sum()


def test_objects_are_in_the_picture(images):
    # The share of background: neither empty nor full.
    shares = [(images.mask(i) == 0).mean() for i in range(COUNT)]
    assert 0.3 < min(shares) <= max(shares) < 0.95


def test_a_scene_depends_on_its_seed_and_name_alone(images):
    few = scenes.generate(0, 3)
    assert few.fingerprint()[0] == images.take([0, 1, 2]).fingerprint()[0]
    assert few.fingerprint()[0] != images.take([1, 0, 2]).fingerprint()[0]
    assert few.fingerprint()[0] != scenes.generate(1, 3).fingerprint()[0]
    assert few.fingerprint()[0] != scenes.generate(0, 3, size=48).fingerprint()[0]
    before = images.image(5)
    scenes.draw.cache_clear()
    assert (scenes.generate(0, COUNT).image(5) == before).all()


def test_a_source_travels_to_another_process(images):
    copy = pickle.loads(pickle.dumps(images.source))  # noqa: S301
    assert copy == images.source


@pytest.mark.parametrize("size", [48, 64, 97])
def test_scenes_come_in_other_sizes(size):
    images = scenes.generate(3, 4, size)
    assert images.image(0).shape == (size, size, 3)
    assert images.labels.any(axis=1).all()


def test_the_pixels_are_the_same_everywhere():
    # Change this only together with the scenes: all results of `mini` change with it.
    expected = "14c1b53e4806f80e7af096c78eadf980972796fe7c20830dd10061d697452587"
    assert scenes.generate(0, 8).fingerprint()[0] == expected
