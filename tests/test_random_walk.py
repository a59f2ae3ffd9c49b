"""The walk: by hand on 6 x 6 positions, against dense matrices, and what always holds."""

import numpy as np
import pytest
import torch

from ribkit.refinement.random_walk import edge_affinity, offsets, path, propagate


def random_maps(*size, rng_seed=0):
    return torch.rand(*size, generator=torch.Generator().manual_seed(rng_seed), dtype=torch.double)


def dense(edge, radius):
    """Affinities pair by pair, straight from the words of the definition."""
    height, width = edge.shape
    places = [(y, x) for y in range(height) for x in range(width)]
    matrix = torch.eye(len(places), dtype=edge.dtype)
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            dy, dx = v - y, u - x
            if i == j or dy * dy + dx * dx >= radius * radius:
                continue
            on_path = [
                float(edge[b, a])
                for b, a in places
                if min(y, v) <= b <= max(y, v)
                and min(x, u) <= a <= max(x, u)
                and (dy * (a - x) - dx * (b - y)) ** 2 / (dy * dy + dx * dx) < 1
            ]
            matrix[i, j] = 1 - max(on_path)
    return matrix


# ---- 6 x 6, by hand ---------------------------------------------------------------------------
@pytest.fixture
def strip():
    """A wall in the third column; 16 in the upper left corner of the 6 x 2 strip beside it."""
    edge, cam = torch.zeros(6, 6), torch.zeros(1, 6, 6)
    edge[:, 2] = 1
    cam[0, 0, 0] = 16
    return cam, edge


def test_one_step_gives_each_pixel_the_mean_of_its_neighbours(strip):
    cam, edge = strip
    once = propagate(cam, edge, radius=2, beta=1, log2_steps=0)[0]
    # In the strip a corner has 4 neighbours, itself among them, a side 6.
    torch.testing.assert_close(once[:2, :2], torch.tensor([[4, 4], [16 / 6, 16 / 6]]))
    assert float(once.sum()) == pytest.approx(4 + 4 + 2 * 16 / 6)


def test_a_long_walk_fills_the_strip_and_stops_at_the_wall(strip):
    cam, edge = strip
    filled = propagate(cam, edge, radius=2, beta=10, log2_steps=8)[0]
    # Degrees: 4 corners of 4, 8 sides of 6, 64 in all. 16 * 4 / 64 = 1 everywhere.
    expected = torch.zeros(6, 6)
    expected[:, :2] = 1
    torch.testing.assert_close(filled, expected)


def test_nothing_starts_on_an_edge(strip):
    _, edge = strip
    assert propagate(edge[None], edge, radius=2).abs().max() == 0


def test_a_half_wall_lets_half_of_the_affinity_through():
    edge = torch.tensor([[0.0, 0.5, 0.0]])
    found = edge_affinity(edge, radius=3).to_dense()
    assert found.tolist() == [[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]]


def test_offsets_are_half_of_the_disc():
    assert offsets(2) == ((0, 1), (1, -1), (1, 0), (1, 1))
    assert len(offsets(1)) == 0
    both = {*offsets(5), *((-dy, -dx) for dy, dx in offsets(5))}
    disc = [(y, x) for y in range(-4, 5) for x in range(-4, 5) if 0 < y * y + x * x < 25]
    assert both == set(disc)


def test_the_path_is_the_pixels_near_the_line():
    assert set(path(0, 2)) == {(0, 0), (0, 1), (0, 2)}
    # the corners (0, 2) and (2, 0) are further than 1 from the diagonal
    assert set(path(2, 2)) == {(y, x) for y in range(3) for x in range(3)} - {(0, 2), (2, 0)}
    assert set(path(1, -1)) == {(0, 0), (1, -1), (0, -1), (1, 0)}


# ---- against dense matrices -------------------------------------------------------------------
def test_affinities_are_those_of_the_definition():
    edge = random_maps(5, 7)
    torch.testing.assert_close(edge_affinity(edge, 4).to_dense(), dense(edge, 4))


def test_the_walk_is_a_power_of_the_transition_matrix():
    edge, cam = random_maps(5, 6), random_maps(2, 5, 6, rng_seed=1)
    affinity = dense(edge, 3) ** 8
    transition = affinity / affinity.sum(dim=0, keepdim=True)
    expected = (cam * (1 - edge)).flatten(1) @ torch.linalg.matrix_power(transition, 2**5)
    found = propagate(cam, edge, radius=3, beta=8, log2_steps=5)
    torch.testing.assert_close(found.flatten(1), expected)


# ---- what always holds ------------------------------------------------------------------------
def test_without_edges_a_constant_map_stays():
    assert propagate(torch.ones(1, 4, 5), torch.zeros(4, 5)).allclose(torch.ones(1, 4, 5))


def test_one_pixel_no_class_and_arrays():
    assert propagate(torch.full((1, 1, 1), 3.0), torch.zeros(1, 1)).tolist() == [[[3]]]
    assert propagate(torch.zeros(0, 4, 3), torch.zeros(4, 3)).shape == (0, 4, 3)
    assert propagate(np.ones((1, 2, 2), np.float32), np.zeros((2, 2), np.float32)).shape == (
        1,
        2,
        2,
    )


def test_sizes_that_differ_are_told():
    with pytest.raises(ValueError, match="differ in size"):
        propagate(torch.ones(1, 4, 5), torch.zeros(5, 4))


def test_the_walk_is_quiet(recwarn):
    propagate(torch.ones(1, 4, 5), torch.zeros(4, 5))
    assert not recwarn.list
    assert edge_affinity(torch.zeros(2, 2), 1).to_dense().equal(torch.eye(4))
