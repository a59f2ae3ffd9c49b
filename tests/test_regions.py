import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ribkit.evaluation import regions

OBJECTS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(OBJECTS, st.integers(0, 1000))
def test_halves_are_an_object_split_in_two_around_the_peak(whole, rng_seed):
    score = np.random.default_rng(rng_seed).random(whole.shape)
    near, far = regions.halves(whole, score)
    assert ((near | far) == whole).all()
    assert not (near & far).any()
    assert near.sum() >= far.sum()
    if whole.any():
        peak = np.unravel_index(np.where(whole, score, -1).argmax(), whole.shape)
        assert near[peak]
        distance = np.hypot(*(np.indices(whole.shape) - np.array(peak)[:, None, None]))
        assert distance[near].max() < distance[far].min(initial=np.inf)


def test_the_peak_is_the_maps_highest_place_on_the_object_not_off_it():
    whole = np.zeros((4, 4), bool)
    whole[1] = True
    score = np.zeros((4, 4))
    score[3, 0], score[1, 3] = 9, 1
    near, far = regions.halves(whole, score)
    assert np.argwhere(near).tolist() == [[1, 2], [1, 3]]
    assert np.argwhere(far).tolist() == [[1, 0], [1, 1]]


@given(OBJECTS)
def test_a_band_lies_on_both_sides_of_the_boundary_and_swaps_with_the_object(whole):
    on, off = regions.band(whole)
    assert not (on & ~whole).any()
    assert not (off & whole).any()
    assert on.any() == off.any() == (whole.any() and not whole.all())
    other = regions.band(~whole)
    assert (on == other[1]).all()
    assert (off == other[0]).all()


def test_a_band_is_2_percent_of_the_diagonal_wide_and_the_images_border_is_no_boundary():
    whole = np.zeros((300, 400), bool)  # a diagonal of 500: 10 pixels
    whole[:, 200:] = True
    on, off = regions.band(whole)
    assert np.flatnonzero(on.all(axis=0)).tolist() == list(range(200, 210))
    assert np.flatnonzero(off.all(axis=0)).tolist() == list(range(190, 200))
    assert on.sum() == off.sum() == 300 * 10


@pytest.mark.parametrize(
    ("colour", "expected"),
    [((86, 125, 70), True), ((128, 128, 128), False), ((120, 110, 90), False), ((0, 0, 0), False)],
    ids=["grass", "grey", "sand", "black"],
)
def test_grass_is_green(colour, expected):
    assert regions.green(np.full((1, 1, 3), colour, np.uint8)).item() is expected
