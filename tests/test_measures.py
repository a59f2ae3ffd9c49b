"""The critics' measures, held against scikit-learn, by hand, and what must always hold."""

import numpy as np
import pytest
import torch
from fabricated import swept_from
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from ribkit.evaluation.measures import auc, over_images, precision, pxap, recall, worst_tenth
from ribkit.evaluation.miou import confusion, counts, miou
from ribkit.evaluation.thresholds import (
    Swept,
    concat_rows,
    exceeded,
    image_rows,
    own_best,
    sweep,
)

always = settings(max_examples=30)
RANDOM = st.integers(0, 10**6).map(np.random.default_rng)
N_CLASSES = 5


def drawn_images(random, count=4):
    """Maps, their classes and a target each: ties, 255, classes without pixels and without maps."""
    found = []
    for _ in range(count):
        classes = np.flatnonzero(random.random(N_CLASSES - 1) < 0.5)
        maps = random.random((len(classes), 6, 7)).astype(np.float32) ** 2
        maps[random.random(maps.shape) < 0.2] = 0
        target = random.choice([0, 0, *(classes + 1), 3, 255], (6, 7)).astype(np.uint8)
        found.append((maps, classes, target))
    return found


def swept_of(images):
    rows = [image_rows(*sweep(torch.from_numpy(m), classes, t)) for m, classes, t in images]
    return Swept(len(images), N_CLASSES, **concat_rows(rows))


def made(random, count=6, n_classes=3):
    """A `Swept` of images of other sizes whose counts at any two thresholds have no relation."""
    every = random.integers(0, 9, (count, 100, n_classes, n_classes))
    target = random.integers(0, 200, (count, 1, n_classes, 1))
    shares = every / np.maximum(every.sum(axis=-1, keepdims=True), 1)
    found = np.floor(shares * target).astype(int)
    found[..., 0] += target[..., 0] - found.sum(axis=-1)
    return swept_from(found)


# ---- precision and recall -----------------------------------------------------------------------
def test_precision_and_recall_are_scikit_learns():
    random = np.random.default_rng(0)
    target, predicted = random.integers(0, 6, 500), random.integers(0, 6, 500)
    target[target == 5], predicted[predicted == 4] = 3, 2  # one class has no target, one no pixel
    found, names = counts(confusion(predicted, target, 6)), {"labels": range(6), "average": None}
    for own, theirs in ((precision, precision_score), (recall, recall_score)):
        expected = 100 * theirs(target, predicted, **names, zero_division=np.nan)
        np.testing.assert_allclose(own(found), expected)
        assert np.isnan(expected).sum() == 1


# ---- each image's own threshold -----------------------------------------------------------------
@always
@given(RANDOM, st.integers(0, 99))
def test_no_threshold_for_all_images_has_a_higher_mean_over_images(random, index):
    swept = made(random)
    own = over_images(miou(swept.at(own_best(swept))))
    assert own >= over_images(miou(swept.at(index))) - 1e-9


def test_the_miou_of_the_set_may_be_lower_at_each_images_own_threshold():
    # one image is nearly all object: what its 10 pixels of background gain there is worth less to
    # the set, whose background is another image's, than the 30 of the object that it costs
    every = np.zeros((2, 100, 2, 2), int)
    every[0, :50], every[0, 50:] = [[0, 10], [0, 1000]], [[10, 0], [30, 970]]
    every[1] = [[1000, 0], [0, 10]]
    swept = swept_from(every)
    assert own_best(swept)[0] == 50
    pooled = [miou(swept.at(k).sum(axis=0)) for k in (own_best(swept), 0)]
    assert pooled[0] < pooled[1]


def test_an_image_of_which_no_pixel_counts_has_the_first_threshold():
    target = np.full((2, 2), 255, np.uint8)
    rows = image_rows(*sweep(torch.full((1, 2, 2), 0.5), np.array([0]), target))
    assert own_best(Swept(1, 2, **concat_rows([rows]))).tolist() == [0]


# ---- one value of each image --------------------------------------------------------------------
def test_the_worst_tenth_is_the_mean_of_the_lowest_values():
    values = np.random.default_rng(0).permutation(np.arange(30.0))
    assert worst_tenth(values) == pytest.approx(1)  # of 0, 1, 2
    assert worst_tenth(np.append(values, np.nan)) == pytest.approx(1)
    assert worst_tenth(values[:25]) == pytest.approx(
        (np.sort(values[:25])[:2].sum() + np.sort(values[:25])[2] / 2) / 2.5
    )
    assert worst_tenth(np.array([3.0, 1.0, 2.0])) == 1


@always
@given(RANDOM, st.integers(1, 25))
def test_a_draw_counts_an_image_as_often_as_it_is_drawn(random, count):
    values = random.random(count)
    values[random.random(count) < 0.2] = np.nan
    values[0] = 0.5
    drawn = random.multinomial(count, np.full(count, 1 / count), size=3)
    drawn[:, 0] += 1
    for score in (over_images, worst_tenth):
        again = [score(np.repeat(values, one)) for one in drawn]
        np.testing.assert_allclose(score(values, drawn), again)


@always
@given(RANDOM)
def test_the_worst_tenth_is_no_better_than_the_mean_and_no_worse_than_the_worst(random):
    values = random.random(23)
    assert values.min() <= worst_tenth(values) <= over_images(values)


# ---- PxAP ---------------------------------------------------------------------------------------
def scikit_learns(images):
    """PxAP from each pixel's quantised score: that of its highest map, if that is the class's."""
    found = []
    for label in range(1, N_CLASSES):
        truth, scores = [], []
        for maps, classes, target in images:
            if label - 1 in classes or (target == label).any():
                score = np.zeros(target.shape)
                if len(classes):
                    best, winner = torch.from_numpy(maps).max(dim=0)
                    own = classes[winner.numpy()] + 1 == label
                    score = np.where(own, exceeded(best).numpy(), 0)
                truth.append((target == label)[target != 255])
                scores.append(score[target != 255])
        if truth and np.concatenate(truth).any():
            found.append(average_precision_score(np.concatenate(truth), np.concatenate(scores)))
    return 100 * np.mean(found) if found else np.nan


@always
@given(RANDOM)
def test_pxap_is_scikit_learns_average_precision_of_the_quantised_maps(random):
    images = drawn_images(random)
    np.testing.assert_allclose(pxap(swept_of(images)), scikit_learns(images))


@always
@given(RANDOM)
def test_pxap_of_a_draw_is_that_of_its_images(random):
    images = drawn_images(random)
    drawn = random.multinomial(4, [0.25] * 4, size=3)
    again = [scikit_learns([images[i] for i in np.repeat(range(4), one)]) for one in drawn]
    np.testing.assert_allclose(pxap(swept_of(images), drawn), again)


def test_pxap_of_maps_that_tell_nothing_is_the_share_of_the_class():
    target = np.array([[0, 0, 0, 1]], np.uint8)
    for level in (0.0, 0.4):  # no pixel above any threshold; all at once
        assert (
            pxap(swept_of([(np.full((1, 1, 4), level, np.float32), np.array([0]), target)])) == 25
        )


# ---- the area under the ROC curve ----------------------------------------------------------------
@always
@given(RANDOM)
def test_auc_is_scikit_learns_ties_included_and_knows_no_scale(random):
    values, inside = random.integers(0, 6, 40) / 5, np.arange(40) < random.integers(1, 40)
    found = auc(values[inside], values[~inside])
    assert found == pytest.approx(roc_auc_score(inside, values))
    assert found == auc(values[inside] ** 3, values[~inside] ** 3)
    assert found == pytest.approx(1 - auc(values[~inside], values[inside]))


def test_auc_needs_pixels_of_both_kinds():
    assert np.isnan(auc(np.zeros(0), np.ones(3)))
    assert np.isnan(auc(np.ones(3), np.zeros(0)))
