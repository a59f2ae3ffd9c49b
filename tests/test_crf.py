"""The CRF: by its energy on tiny images, and what it refuses."""

import numpy as np
import pytest

from ribkit.refinement import crf
from ribkit.runtime.errors import InputError


def halves(height=12, width=16):
    """Left half black, right half white."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = 255
    return image


def test_labels_snap_to_the_edge_of_the_colours():
    labels = np.zeros((12, 16), int)
    labels[:, 10:] = 1  # two columns short of the white half
    refined = crf.refine_labels(halves(), labels, 2)
    expected = np.zeros((12, 16), int)
    expected[:, 8:] = 1
    assert (refined == expected).all()
    assert refined.dtype == labels.dtype


def test_without_kernels_labels_stay():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (9, 7)).astype(np.uint8)
    kernels = crf.Kernels(gaussian_weight=0, bilateral_weight=0)
    assert (crf.refine_labels(halves(9, 7), labels, 3, kernels=kernels) == labels).all()


def test_a_label_that_does_not_occur_takes_its_share_of_the_unary():
    labels = np.zeros((12, 16), int)
    labels[:, 8:] = 1
    assert (crf.refine_labels(halves(), labels, 5) == labels).all()


def test_one_label_has_nothing_to_do():
    labels = np.zeros((12, 16), np.uint8)
    refined = crf.refine_labels(halves(), labels, 1)
    assert (refined == 0).all()
    assert refined is not labels


@pytest.mark.parametrize("n_labels", [1, 2, 4])
def test_one_pixel(n_labels):
    assert crf.refine_labels(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), int), n_labels) == [
        [0]
    ]


def test_scores_are_normalised_and_sum_to_one():
    random = np.random.default_rng(0)
    scores = random.random((3, 12, 16))
    scores[:, 0, 0] = 0
    refined = crf.refine_scores(halves(), scores, crf.NETWORK)
    assert refined.shape == (3, 12, 16)
    np.testing.assert_allclose(refined.sum(axis=0), 1, rtol=1e-5)
    none = crf.Kernels(gaussian_weight=0, bilateral_weight=0)
    kept = crf.refine_scores(halves(), scores, none)
    np.testing.assert_allclose(kept[:, 0, 0], 1 / 3, rtol=1e-5)
    np.testing.assert_allclose(kept[:, 5, 5], scores[:, 5, 5] / scores[:, 5, 5].sum(), rtol=1e-4)
    assert (crf.refine_scores(halves(), scores[:1], crf.PSA) == 1).all()


def test_labels_without_weight_anywhere_are_left_out():
    random = np.random.default_rng(0)
    scores = random.random((5, 12, 16)) + 0.1
    scores[[1, 3]] *= 1e-3
    scores /= scores.sum(axis=0)
    kept = crf.refine_scores(halves(), scores[[0, 2, 4]], crf.NETWORK)
    found = crf.refine_scores(halves(), scores, crf.NETWORK, min_score=0.05)
    assert (found[[1, 3]] == 0).all()
    np.testing.assert_allclose(found[[0, 2, 4]], kept, atol=1e-4)
    everything = crf.refine_scores(halves(), scores, crf.NETWORK)
    assert (everything.argmax(axis=0) == found.argmax(axis=0)).all()


@pytest.mark.parametrize("flat", [0.0, 1.0])
def test_the_likeliest_label_is_never_left_out(flat):
    scores = np.full((3, 12, 16), flat)
    found = crf.refine_scores(halves(), scores, crf.NETWORK, min_score=0.9)
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)


def test_what_does_not_fit_is_told_in_one_sentence():
    with pytest.raises(
        InputError, match="a map of 16 x 9 pixels does not fit its image of 16 x 12"
    ):
        crf.refine_labels(halves(), np.zeros((9, 16), int), 2)
    with pytest.raises(InputError, match=r"labels 0 to 255 are not all among the CRF's 0 to 1"):
        crf.refine_labels(halves(), np.full((12, 16), 255) * np.eye(12, 16, dtype=int), 2)
    with pytest.raises(InputError, match="does not fit its image"):
        crf.refine_scores(halves(), np.ones((2, 9, 16)), crf.PSA)


def test_the_settings_are_the_papers():
    assert crf.LABELS == crf.Kernels(10, 3, 3, 50, 5, 10)
    assert crf.PSA == crf.Kernels(10, 3, 3, 80, 13, 10)
    assert crf.NETWORK == crf.Kernels(10, 1, 3, 67, 3, 4)
