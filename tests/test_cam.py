import pytest
import torch

from ribkit.method import cam

EPSILON = cam.EPSILON


def test_negative_values_are_cut_off_and_the_mirror_image_is_turned_back():
    maps = torch.tensor([[[[1.0, -2.0, 3.0]]], [[[10.0, 20.0, -30.0]]]])
    assert cam.flip_sum(maps).tolist() == [[[1 + 0, 0 + 20, 3 + 10]]]


def test_each_map_is_divided_by_its_own_maximum():
    maps = torch.tensor([[[1.0, 4.0]], [[50.0, 100.0]], [[0.0, 0.0]]])
    expected = torch.tensor([[[0.25, 1.0]], [[0.5, 1.0]], [[0.0, 0.0]]])
    torch.testing.assert_close(cam.normalise(maps), expected, atol=1e-5, rtol=0)
    assert cam.normalise(maps).max() < 1


def test_merge_sums_the_scales_before_it_normalises():
    # Constant along rows; doubled in width by bilinear interpolation, corners not aligned:
    # [a, b] -> [a, .75 a + .25 b, .25 a + .75 b, b].
    large = torch.tensor([[[8.0, 6.0, 2.0, 0.0]] * 4])
    small = torch.tensor([[[0.0, 4.0]] * 2])
    merged = cam.multi_scale({1.0: large, 0.5: small}, (16, 16), stride=4)
    total = torch.tensor([8 + 0, 6 + 1, 2 + 3, 0 + 4.0])
    torch.testing.assert_close(merged, (total / (8 + EPSILON)).expand(1, 4, 4))


def test_at_full_size_a_map_covers_the_next_multiple_of_16_and_is_cropped():
    ramp = torch.tensor([[[0.0, 1.0]]])
    merged = cam.multi_scale({1.0: ramp}, (16, 24))
    # 2 -> 32 positions: position u lies at (u + .5) / 16 - .5, clamped to 0 .. 1
    expected = ((torch.arange(24) + 0.5) / 16 - 0.5).clamp(0, 1)
    assert merged.shape == (1, 16, 24)
    torch.testing.assert_close(merged[0, 7], expected / (expected.max() + EPSILON))


@pytest.mark.parametrize(("size", "grid"), [((17, 30), (5, 8)), ((16, 32), (4, 8))])
def test_at_stride_4_the_size_is_rounded_up(size, grid):
    assert cam.multi_scale({1.0: torch.ones(3, 2, 2)}, size, stride=4).shape == (3, *grid)
    assert cam.multi_scale({1.0: torch.ones(3, 2, 2)}, size).shape == (3, *size)


def test_an_image_without_positive_value_has_a_map_of_zeros():
    assert cam.multi_scale({1.0: torch.zeros(1, 2, 2)}, (16, 16)).abs().max() == 0
