"""The CRF: by its energy on tiny images, and what it refuses."""

import numpy as np
import pytest
from PIL import Image

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
    assert (crf.refine_scores(halves(), scores[:1], crf.NETWORK) == 1).all()


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
        crf.refine_scores(halves(), np.ones((2, 9, 16)), crf.NETWORK)


# ---- arrays as people have them -----------------------------------------------------------------
def edge():
    """Labels one column short of the white half, and what they become."""
    labels = np.zeros((12, 16), int)
    labels[:, 9:] = 1
    return labels, (np.arange(16) >= 8) * np.ones((12, 1), bool)


def opened(array):
    """The array as Pillow gives it to numpy: read-only."""
    found = np.asarray(Image.fromarray(array))
    assert not found.flags.writeable
    return found


with_alpha = np.dstack([halves(), np.full((12, 16), 255, np.uint8)])
IMAGES = {
    "read-only": opened(halves()),
    "grey": opened(halves()[..., 0]),
    "grey with a channel": halves()[..., :1],
    "opaque": opened(with_alpha),
    "long integers": halves().astype(np.int64),
    "whole floats": halves().astype(np.float32),
    "black": np.zeros((12, 16, 3)),
    "a view": np.repeat(halves(), 2, axis=1)[:, ::2],
    "from the right": np.ascontiguousarray(halves()[:, ::-1])[:, ::-1],
    "big-endian": halves().astype(">u2"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_of_clear_meaning_is_taken(kind):
    (labels, _), before = edge(), IMAGES[kind].copy()
    plain = np.zeros_like(halves()) if kind == "black" else halves()
    found = crf.refine_labels(IMAGES[kind], labels, 2)
    assert (found == crf.refine_labels(plain, labels, 2)).all()
    scores = np.stack([labels == 0, labels == 1]) * 0.6 + 0.2
    found = crf.refine_scores(IMAGES[kind], scores, crf.NETWORK)
    assert (found == crf.refine_scores(plain, scores, crf.NETWORK)).all()
    assert (IMAGES[kind] == before).all()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (halves() / 255, "an image of type float64 is not plainly of grey values 0 to 255; give"),
        (halves() / np.float32(255) * 0.7, "an image of type float32 is not plainly"),
        (halves() > 0, "an image of type bool is not plainly"),
        (halves() * 257.0, "an image of type float64 is not"),
        (halves().astype(np.int16) - 1, "an image of type int16 is not"),
        (halves() + np.nan, "an image of type float64 is not"),
        (halves().astype(str), "an image of type <U3 is not"),
        (halves().astype(object), "an image of type object is not"),
        (np.dstack([halves(), np.zeros((12, 16), np.uint8)]), r"of shape \(12, 16, 4\) is not"),
        (halves().transpose(2, 0, 1), r"of shape \(3, 12, 16\) is not .*; convert it to RGB"),
        (halves()[..., :2], r"of shape \(12, 16, 2\) is not"),
        (halves()[None], r"of shape \(1, 12, 16, 3\) is not"),
        (halves()[0, 0, 0], r"of shape \(\) is not"),
    ],
)
def test_an_image_of_unclear_meaning_is_told_in_one_sentence(image, words):
    for refine, arguments in ((crf.refine_labels, 2), (crf.refine_scores, crf.NETWORK)):
        with pytest.raises(InputError, match=words):
            refine(image, np.ones((2, 12, 16)), arguments)


@pytest.mark.parametrize("kind", [bool, np.uint8, ">i4", np.float32, np.float16, np.uint64])
def test_labels_of_any_type_are_taken_and_keep_it(kind):
    labels, expected = edge()
    given = labels.astype(kind)
    given.flags.writeable = False
    found = crf.refine_labels(halves(), given, 2)
    assert found.dtype == given.dtype
    assert (found == expected).all()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.full((12, 16), 0.5), "labels of type float64 are not all whole numbers"),
        (np.full((12, 16), np.nan), "labels of type float64 are not all whole numbers"),
        (np.full((12, 16), np.inf), "labels of type float64 are not all whole numbers"),
        (np.full((12, 16), "1"), "labels of type <U1 are not all whole numbers"),
        (np.full((12, 16), -1), "labels -1 to -1 are not all among"),
        (np.zeros((12, 16, 1), int), r"labels of shape \(12, 16, 1\) are not \(H, W\)"),
        (np.zeros((2, 12, 16), int), r"labels of shape \(2, 12, 16\) are not \(H, W\)"),
        (np.zeros(12 * 16, int), r"labels of shape \(192,\) are not \(H, W\)"),
    ],
)
def test_labels_that_are_none_are_told_in_one_sentence(labels, words):
    with pytest.raises(InputError, match=words):
        crf.refine_labels(halves(), labels, 2)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (np.full((2, 12, 16), np.inf), "scores from inf to inf are not finite and 0 or more"),
        (np.full((2, 12, 16), np.nan), "scores from nan to nan are not"),
        (np.full((2, 12, 16), 1e300), "scores from inf to inf are not"),
        (np.full((2, 12, 16), -2), "from -2.0 to -2.0 are not .* of logits their softmax"),
        (np.ones((12, 16)), r"scores of shape \(12, 16\) are not \(labels, H, W\)"),
        (np.ones((0, 12, 16)), r"scores of shape \(0, 12, 16\) are not"),
        (np.ones((12, 16, 2)), "a map of 2 x 16 pixels does not fit its image of 16 x 12"),
    ],
)
def test_scores_that_are_none_are_told_in_one_sentence(scores, words):
    with np.errstate(over="ignore"), pytest.raises(InputError, match=words):
        crf.refine_scores(halves(), scores, crf.NETWORK)


def test_the_settings_are_the_papers():
    assert crf.LABELS == crf.Kernels(10, 3, 3, 50, 5, 10)
    assert crf.NETWORK == crf.Kernels(10, 1, 3, 67, 3, 4)
