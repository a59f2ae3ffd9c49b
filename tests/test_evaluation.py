import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics
from torchmetrics.classification import MulticlassJaccardIndex

from ribkit.evaluation import miou as evaluation
from ribkit.evaluation.miou import THRESHOLDS, Swept, confusion, counts, iou, mean_iou, miou, sweep

CLASSES = 7


def random_map(rng_seed):
    """Prediction and target with ignored pixels; classes occur on both sides, one, or none."""
    random = np.random.default_rng(rng_seed)
    in_target = random.choice(CLASSES, random.integers(1, CLASSES), replace=False)
    in_prediction = random.choice(CLASSES, random.integers(1, CLASSES), replace=False)
    target = random.choice(in_target, (13, 17)).astype(np.uint8)
    prediction = random.choice(in_prediction, (13, 17)).astype(np.uint8)
    agrees = random.random((13, 17)) < 0.5
    prediction[agrees] = target[agrees]
    target[random.random((13, 17)) < random.choice([0.0, 0.1, 0.9])] = 255
    return prediction, target


MAPS = [random_map(rng_seed) for rng_seed in range(100)]


def test_the_random_maps_have_ignored_pixels_and_absent_classes():
    assert sum((target == 255).any() for _, target in MAPS) > 50
    assert sum(np.isnan(iou(counts(confusion(p, t, CLASSES)))).any() for p, t in MAPS) > 50


def test_miou_equals_scikit_learns_on_100_random_maps():
    for prediction, target in MAPS:
        counted = target != 255
        ours = confusion(prediction, target, CLASSES)
        truth, guess = target[counted], prediction[counted]
        theirs = metrics.confusion_matrix(truth, guess, labels=range(CLASSES))
        assert (ours == theirs).all()
        # without `labels` its mean is over the classes that occur on either side, as ours
        score = metrics.jaccard_score(truth, guess, average="macro", zero_division=0)
        assert mean_iou(ours) == pytest.approx(100 * score, abs=1e-9)


def test_miou_equals_torchmetrics_on_100_random_maps():
    for prediction, target in MAPS:
        # torchmetrics, too, leaves out of its mean a class that occurs on neither side
        metric = MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=255)
        score = metric(torch.from_numpy(prediction).long(), torch.from_numpy(target).long())
        assert mean_iou(confusion(prediction, target, CLASSES)) == pytest.approx(
            100 * float(score), abs=1e-4
        )


def test_iou_by_hand():
    prediction = np.array([[0, 0, 1, 1], [0, 1, 1, 3]])
    target = np.array([[0, 0, 1, 0], [0, 1, 255, 255]])
    matrix = confusion(prediction, target, 4)
    assert matrix.tolist() == [[3, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert matrix.dtype == np.int64
    assert counts(matrix).tolist() == [[3, 2, 0, 0], [4, 2, 0, 0], [3, 3, 0, 0]]
    assert iou(counts(matrix))[:2] == pytest.approx([75.0, 200 / 3])
    assert np.isnan(iou(counts(matrix))[2:]).all()
    assert mean_iou(matrix) == pytest.approx((75 + 200 / 3) / 2)


def test_a_class_that_is_only_predicted_counts_as_zero():
    assert mean_iou(confusion(np.array([1, 1]), np.array([1, 0]), 2)) == 25.0


def test_scores_of_many_matrices_are_those_of_each():
    matrices = np.stack([confusion(p, t, CLASSES) for p, t in MAPS]).reshape(20, 5, 7, 7)
    each = [[mean_iou(m) for m in row] for row in matrices]
    np.testing.assert_allclose(mean_iou(matrices), each)


def test_nothing_counted_is_not_a_number_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(mean_iou(confusion(np.zeros(3), np.full(3, 255), 2)))


def test_confusion_refuses_labels_that_are_no_class_and_shapes_that_differ():
    with pytest.raises(ValueError, match="prediction has labels 0 to 2, outside 0 to 1"):
        confusion(np.array([0, 2]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="target has labels"):
        confusion(np.array([0, 1]), np.array([0, 7]), 2)
    with pytest.raises(ValueError, match="prediction has labels 255"):
        confusion(np.array([255]), np.array([0]), 2)
    with pytest.raises(ValueError, match="differ in shape"):
        confusion(np.zeros((2, 2)), np.zeros((2, 3)), 2)


def test_what_is_predicted_on_ignored_pixels_does_not_matter():
    assert confusion(np.array([255, 1]), np.array([255, 1]), 2).tolist() == [[0, 0], [0, 1]]


# ---- thresholds -------------------------------------------------------------------------------
def naive(maps, keys, target, n_classes):
    """One threshold after the other, as the definition says."""
    result = []
    for threshold in THRESHOLDS:
        prediction = np.zeros(target.shape, int)
        if len(keys):
            winner = np.asarray(keys)[maps.argmax(axis=0)] + 1
            prediction = np.where(maps.max(axis=0).astype(float) > threshold, winner, 0)
        result.append(confusion(prediction, target, n_classes))
    return np.stack(result)


def whole(maps, keys, target, n_classes):
    """A sweep among all classes, ``(100, n, n)``."""
    labels, own = sweep(torch.from_numpy(maps), keys, target)
    found = np.zeros((100, n_classes, n_classes), int)
    found[np.ix_(range(100), labels, labels)] = own
    return found


def drawn_maps(random, keys):
    """Maps in which many pixels equal a threshold, or each other, and a target with 255."""
    maps = random.random((len(keys), 9, 11)).astype(np.float32)
    tied = random.random(maps.shape) < 0.4
    maps[tied] = random.choice(THRESHOLDS, maps.shape)[tied]
    target = random.choice([0, 1, 2, 3, 4, 5, 6, 255], (9, 11)).astype(np.uint8)
    return maps, target


@pytest.mark.parametrize("keys", [(), (2,), (0, 4), (1, 3, 5)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_sweep_is_every_threshold_on_its_own(keys, dtype):
    random = np.random.default_rng(len(keys))
    for _ in range(3):
        maps, target = drawn_maps(random, keys)
        maps = maps.astype(dtype)
        assert (whole(maps, keys, target, 7) == naive(maps, keys, target, 7)).all()


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
    best = evaluation.best_threshold(counts(whole(maps, [0], target, 2)))
    assert THRESHOLDS[best] == 0.31


def test_what_is_stored_of_sweeps_gives_back_the_counts_of_each_image_and_of_all():
    random, found, dense = np.random.default_rng(0), [], []
    for keys in ((), (2,), (0, 4), (1, 3, 5)):
        maps, target = drawn_maps(random, keys)
        found.append(evaluation.rows(*sweep(torch.from_numpy(maps), keys, target)))
        dense.append(counts(naive(maps, keys, target, 7)))
    dense = np.stack(dense)
    swept = Swept(4, 7, **evaluation.gathered(found))
    assert (swept.at(30) == dense[:, 30]).all()
    own = np.array([3, 99, 0, 50])
    assert (swept.at(own) == dense[range(4), own]).all()
    assert (swept.total() == dense.sum(axis=0)).all()
    which = np.array([True, False, True, False])
    assert (swept.total(which) == dense[which].sum(axis=0)).all()
    assert miou(swept.total()).shape == (100,)


def test_a_prediction_of_no_class_is_an_error_and_nothing_else():
    # targets 0, 0, 1, 1; predictions 0, none, 1, none
    confusion = np.array([[1, 0, 1], [0, 1, 1]])
    assert iou(counts(confusion)).tolist() == [50, 50]
    assert mean_iou(confusion) == 50
