"""Every threshold at once: held against one threshold after the other."""

import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu

from ribkit.evaluation.miou import confusion, counts, miou
from ribkit.evaluation.thresholds import (
    THRESHOLDS,
    Swept,
    best_threshold,
    concat_rows,
    exceeded,
    image_rows,
    otsu,
    sweep,
)


def naive(maps, class_indices, target, n_classes):
    """One threshold after the other, as the definition says."""
    result = []
    for threshold in THRESHOLDS:
        prediction = np.zeros(target.shape, int)
        if len(class_indices):
            winner = np.asarray(class_indices)[maps.argmax(axis=0)] + 1
            prediction = np.where(maps.max(axis=0).astype(float) > threshold, winner, 0)
        result.append(confusion(prediction, target, n_classes))
    return np.stack(result)


def whole(maps, class_indices, target, n_classes):
    """A sweep among all classes, ``(100, n, n)``."""
    labels, own = sweep(torch.from_numpy(maps), class_indices, target)
    found = np.zeros((100, n_classes, n_classes), int)
    found[np.ix_(range(100), labels, labels)] = own
    return found


def drawn_maps(random, class_indices):
    """Maps in which many pixels equal a threshold, or each other, and a target with 255."""
    maps = random.random((len(class_indices), 9, 11)).astype(np.float32)
    tied = random.random(maps.shape) < 0.4
    maps[tied] = random.choice(THRESHOLDS, maps.shape)[tied]
    target = random.choice([0, 1, 2, 3, 4, 5, 6, 255], (9, 11)).astype(np.uint8)
    return maps, target


@pytest.mark.parametrize("class_indices", [(), (2,), (0, 4), (1, 3, 5)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_sweep_is_every_threshold_on_its_own(class_indices, dtype):
    random = np.random.default_rng(len(class_indices))
    for _ in range(3):
        maps, target = drawn_maps(random, class_indices)
        maps = maps.astype(dtype)
        given = (maps, class_indices, target, 7)
        assert (whole(*given) == naive(*given)).all()


def test_sweep_is_exact_at_every_threshold_and_beside_it():
    at = THRESHOLDS.astype(np.float32)
    beside = [np.nextafter(at, np.float32(side)) for side in (-1, 2)]
    maps = np.stack([at, *beside, np.ones_like(at)])[None].clip(0, 1)
    target = np.ones(maps.shape[1:], np.uint8)
    assert (whole(maps, [0], target, 2) == naive(maps, [0], target, 2)).all()


def test_a_map_that_equals_the_threshold_is_background():
    maps = np.array([[[0, 0.25, 0.5, 0.75]]], np.float32)  # these float32 holds exactly
    found = whole(maps, [0], np.ones((1, 4), np.uint8), 2)[:, 1, 1]
    assert found[[0, 24, 25, 49, 50, 74, 75]].tolist() == [3, 3, 2, 2, 1, 1, 0]


def test_sweep_counts_every_pixel_at_every_threshold_among_the_own_labels():
    target = np.array([[0, 9, 255, 2]], np.uint8)
    labels, found = sweep(torch.tensor([[[0.1, 0.9, 0.5, 0.0]]]), [1], target)
    assert labels.tolist() == [0, 2, 9]
    assert found.shape == (100, 3, 3)
    assert (found.sum(axis=(1, 2)) == 3).all()


def test_the_best_threshold_is_the_first_of_the_highest_miou():
    target = np.array([[0, 0, 1, 1]], np.uint8)
    maps = np.array([[[0.1, 0.305, 0.5, 0.9]]], np.float32)
    best = best_threshold(counts(whole(maps, [0], target, 2)))
    assert THRESHOLDS[best] == 0.31


def test_what_is_stored_of_sweeps_gives_back_the_counts_of_each_image_and_of_all():
    random, found, dense = np.random.default_rng(0), [], []
    for class_indices in ((), (2,), (0, 4), (1, 3, 5)):
        maps, target = drawn_maps(random, class_indices)
        found.append(image_rows(*sweep(torch.from_numpy(maps), class_indices, target)))
        dense.append(counts(naive(maps, class_indices, target, 7)))
    dense = np.stack(dense)
    swept = Swept(4, 7, **concat_rows(found))
    assert (swept.at(30) == dense[:, 30]).all()
    own = np.array([3, 99, 0, 50])
    assert (swept.at(own) == dense[range(4), own]).all()
    assert (swept.total() == dense.sum(axis=0)).all()
    which = np.array([True, False, True, False])
    assert (swept.total(which) == dense[which].sum(axis=0)).all()
    assert miou(swept.total()).shape == (100,)


def test_otsus_threshold_is_scikit_images():
    random = np.random.default_rng(0)
    values = [random.normal(0.2, 0.05, 900), random.normal(0.7, 0.05, 300), [0.0, 1.0]]
    own = exceeded(torch.from_numpy(np.concatenate(values).clip(0, 1))).numpy()
    # integers: a bin for each, from the least to the most
    assert otsu(np.bincount(own, minlength=101)) == threshold_otsu(own)


def test_it_parts_the_means_most_by_hand():
    levels = np.zeros(101, int)
    levels[[10, 50, 60]] = 3, 1, 2
    # up to 10: 3 of 6 pixels, means 10 and 170 / 3: 9 x 46.7^2; up to 50: 4 and 2 of 20 and 60
    assert 3 * 3 * (170 / 3 - 10) ** 2 > 4 * 2 * (60 - 20) ** 2
    assert otsu(levels) == 10


@pytest.mark.parametrize("level", [None, 0, 40, 100])
def test_pixels_that_are_all_equal_have_the_first_threshold(level):
    levels = np.zeros(101, int)
    if level is not None:
        levels[level] = 7
    assert otsu(levels) == 0
