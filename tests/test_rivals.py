"""What widens a map without an adaptation, by hand on maps of four by four."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ribkit.method import rivals
from ribkit.method.rivals import Rival, altered, clipped, smoothed, with_norm

MAP = np.array([[1.0, 0.5, 0, 0], [0.5, 0.25, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
NORM = np.array([[1.0, 1, 0.5, 0], [1, 1, 0.5, 0], [0.5, 0.5, 0.5, 0], [0, 0, 0, 0]])
BOTH = np.stack([MAP, MAP[::-1]])
MAPS = hnp.arrays(np.float64, (2, 4, 4), elements=st.floats(0, 1, width=16))


def test_the_feature_norm_is_added_to_every_class_and_scaled_to_the_maximum():
    first, second = with_norm(BOTH, NORM, 0.5)
    # by hand: (1 + .5) / 1.5, (.5 + .5) / 1.5, (0 + .25) / 1.5
    assert first[0] == pytest.approx([1, 2 / 3, 1 / 6, 0], abs=1e-4)
    assert first[2] == pytest.approx([1 / 6, 1 / 6, 1 / 6, 0], abs=1e-4)
    # the other class's map is highest at the bottom left: 1 + 0 against 0 + .5
    assert second[:, 0] == pytest.approx([0.5, 0.5, 0.75, 1], abs=1e-4)


def test_a_blur_by_hand_keeps_a_constant_and_spreads_a_point():
    assert smoothed(np.ones((1, 4, 4)), 0.25) == pytest.approx(1, abs=1e-4)
    point = np.zeros((1, 5, 5))
    point[0, 2, 2] = 1
    blurred = smoothed(point, 0.2)[0]  # a deviation of one pixel
    weight = np.exp(-0.5 * np.arange(-2, 3) ** 2)  # of a Gaussian, over that of its middle
    assert blurred == pytest.approx(np.outer(weight, weight), abs=1e-3)


def test_a_percentile_by_hand():
    # 16 values: 12 zeros, .25, .5, .5, 1; the 80th percentile is the 13th: .25
    assert np.percentile(MAP, 80) == 0.25
    assert clipped(MAP[None], 80)[0, :2, :2] == pytest.approx(1, abs=1e-4)
    assert clipped(MAP[None], 80)[0, 2:].max() == 0
    half = clipped(MAP[None], 100 * 14 / 15)[0]  # the 15th: .5
    assert half[:2, :2] == pytest.approx(np.array([[1, 1], [1, 0.5]]), abs=1e-4)


def test_a_rival_that_changes_nothing_leaves_every_bit():
    assert altered(BOTH, NORM, Rival()) is BOTH


def test_the_changes_are_made_in_their_order():
    rival = Rival(norm=0.5, smoothing=0.2, percentile=90)
    expected = clipped(smoothed(with_norm(BOTH, NORM, 0.5), 0.2), 90)
    assert altered(BOTH, NORM, rival) == pytest.approx(expected)


@pytest.mark.parametrize("rival", [Rival(norm=0.4), Rival(smoothing=0.1), Rival(percentile=90)])
def test_no_class_no_map(rival):
    assert altered(np.zeros((0, 4, 4)), NORM, rival).shape == (0, 4, 4)


@given(MAPS, st.floats(0, 2), st.floats(0, 0.5), st.floats(50, 100))
def test_maps_stay_maps(maps, norm, smoothing, percentile):
    changed = altered(maps, NORM, Rival(norm, smoothing, percentile))
    assert changed.shape == maps.shape
    assert np.isfinite(changed).all()
    assert (changed >= 0).all()
    assert (changed <= 1 + 1e-9).all()


@given(MAPS)
def test_no_change_lowers_a_map_where_it_is_a_percentile_alone(maps):
    assert (clipped(maps, 90) >= maps * (1 - 1e-3) - rivals.EPSILON).all()
