"""The masking test: which pixels are blanked, by hand, and what a network learns from the rest."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ribkit.data import digits
from ribkit.results import tables_toy
from ribkit.study import toy, toy_masking
from ribkit.study.toy_masking import mask

IMAGE = np.array([[[9, 9, 0, 0], [9, 9, 0, 0], [0, 0, 0, 0], [0, 0, 9, 9]]], np.uint8)
GRADIENT = np.array([[[6, 5, 9, 0], [4, 1, 0, 0], [0, 9, 0, 0], [0, 0, 3, 2]]])


def test_masks_by_hand():
    """Of six pixels that are not black a third: 6 and 5 are high, 2 and 1 low; 9 lies on black."""
    high, low = (mask(IMAGE, GRADIENT, 1 / 3, lowest)[0] for lowest in (False, True))
    assert np.argwhere(high).tolist() == [[0, 0], [0, 1]]
    assert np.argwhere(low).tolist() == [[1, 1], [3, 3]]
    assert (mask(IMAGE, GRADIENT, 1.0) == (IMAGE > 0)).all()
    assert not mask(IMAGE, GRADIENT, 0.0).any()


@given(st.integers(0, 999), st.floats(0, 0.5), st.integers(1, 4))
def test_every_kind_blanks_as_many_pixels_and_high_never_meets_low(seed, share, levels):
    """Also where many gradients are equal, as they are at few levels."""
    rng = np.random.default_rng(seed)
    images = (rng.integers(0, 3, (3, 5, 4)) * 100).astype(np.uint8)
    gradient = rng.integers(0, levels, images.shape)
    high, low = (mask(images, gradient, share, lowest) for lowest in (False, True))
    noise = mask(images, rng.random(images.shape), share)
    for where in (high, low, noise):
        assert not where[images == 0].any()
        expected = np.floor(share * (images > 0).sum(axis=(1, 2)))
        assert (where.sum(axis=(1, 2)) == expected).all()
    assert not (high & low).any()
    kept = np.where(high | low, np.nan, np.where(images > 0, gradient, np.nan))
    for i in range(3):
        if high[i].any():
            rest = kept[i][~np.isnan(kept[i])]
            assert gradient[i][high[i]].min() >= rest.max(initial=-1)
            assert gradient[i][low[i]].max() <= rest.min(initial=levels)


@pytest.fixture(scope="module")
def few():
    return digits.load(n_train=40, n_test=20)


@pytest.fixture(scope="module")
def accuracies(few, tmp_path_factory):
    how = {"steps": 5, "shares": (0.25, 1.0), "scratch": tmp_path_factory.mktemp("masking")}
    return toy_masking.masking(few, **how)["accuracies"]


def test_a_network_that_saw_nothing_is_at_chance(few, accuracies):
    blind = accuracies[accuracies["share"] == 1]
    one_class = (few.test.labels == 0).mean()
    assert blind["accuracy"].round(6).isin([one_class, 1 - one_class]).all()
    assert (blind["ink"] == 1).all()


def test_the_masking_test_is_seeded(few, accuracies, tmp_path):
    again = toy_masking.masking(few, steps=5, shares=(0.25,), scratch=tmp_path)["accuracies"]
    expected = accuracies[accuracies["share"] == 0.25].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, expected)
    assert list(again["layer"]) == ["G5", "G5", "G6", "G6", "G5", "G6"]
    assert again["ink"].between(0, 1, inclusive="neither").all()


def test_no_label_reaches_a_mask(few):
    network = toy.Network(3)
    seen = toy_masking.gradients(network, few.test.images, "sigmoid")
    labels = toy.predicted(network, few.test.images)
    expected = toy.gradient_maps(network, few.test.images, labels, "sigmoid")
    np.testing.assert_array_equal(seen[6, "after", "target"], expected[6, "after", "target"])


def accuracy_rows(*falls):
    """Falls of accuracy (high, low, random) at two shares and two seeds, of one layer."""
    kinds = dict(zip(toy_masking.KINDS, falls, strict=True))
    return pd.DataFrame(
        {"layer": "G6", "share": share, "blanked": kind, "seed": seed, "ink": 0.2}
        | {"accuracy": 0.9 - fall - 0.01 * seed, "whole": 0.9 - 0.01 * seed}
        for share in (0.25, 0.5)
        for kind, fall in kinds.items()
        for seed in (0, 1)
    )


def test_what_blanking_costs_by_hand():
    rows = accuracy_rows(0.5, 0.1, 0.2)
    found = tables_toy.masking(rows).set_index(["share", "blanked"])["mean"]
    assert found[0.25, "high"] == pytest.approx(50)
    gaps = tables_toy.masking_gaps(rows).set_index(["share", "others"])["mean"]
    assert gaps[0.5, "random"] == pytest.approx(30)
    assert gaps[0.5, "low"] == pytest.approx(40)


@pytest.mark.parametrize(
    ("falls", "words"),
    [
        ((0.5, 0.1, 0.2), ["random: +30.0 (+30.0 to +30.0) at 25 % (more), +30.0"]),
        ((0.1, 0.5, 0.2), ["random: -10.0", "low: -40.0", " at 50 % (less)."]),
        ((0.2, 0.2, 0.2), ["+0.0 (+0.0 to +0.0) at 50 % (undecided)"]),
    ],
)
def test_the_masking_tests_sentence(falls, words):
    told = tables_toy.masking_answer(accuracy_rows(*falls))
    assert all(word in told for word in words)


def test_one_network_tells_nothing_of_what_is_needed():
    rows = accuracy_rows(0.5, 0.1, 0.2).query("seed == 0")
    told = tables_toy.masking_answer(rows)
    assert "random: +30.0 at 25 % (one network tells nothing)," in told
    assert "nan" not in told
