import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics
from torchmetrics.classification import MulticlassJaccardIndex

from ribkit.evaluation.miou import confusion, counts, iou, mean_iou

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


def test_a_prediction_of_no_class_is_an_error_and_nothing_else():
    # targets 0, 0, 1, 1; predictions 0, none, 1, none
    confusion = np.array([[1, 0, 1], [0, 1, 1]])
    assert iou(counts(confusion)).tolist() == [50, 50]
    assert mean_iou(confusion) == 50
