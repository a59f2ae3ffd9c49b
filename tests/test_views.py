import numpy as np
import pytest
import torch
from PIL import Image

from ribkit.data import views

RANDOM = np.random.default_rng(0)
PHOTOGRAPH = RANDOM.integers(0, 256, (30, 40, 3), np.uint8)


def numbered(height, width):
    """Pixels that say where they come from, none of them 0: 1, 2, 3, ... in reading order."""
    values = 1 + torch.arange(float(height * width)).view(1, height, width)
    return values.expand(3, -1, -1).contiguous()


def test_an_array_becomes_a_tensor_of_the_same_values():
    tensor = views.to_tensor(PHOTOGRAPH)
    assert tensor.shape == (3, 30, 40)
    assert tensor.dtype == torch.float32
    assert (tensor.permute(1, 2, 0).numpy() == PHOTOGRAPH).all()


def test_an_image_is_seen_as_long_as_asked_for():
    assert views.to_tensor(PHOTOGRAPH, 20).shape == (3, 15, 20)
    assert views.to_tensor(PHOTOGRAPH.transpose(1, 0, 2), 80).shape == (3, 80, 60)
    assert views.to_tensor(PHOTOGRAPH[:1], 8).shape == (3, 1, 8)


def test_shrinking_agrees_with_pillows_bicubic():
    smooth = np.array(Image.fromarray(PHOTOGRAPH[:4, :5]).resize((40, 30), Image.BICUBIC))
    ours = views.resize(views.to_tensor(smooth), (15, 20)).permute(1, 2, 0).numpy()
    theirs = np.asarray(Image.fromarray(smooth).resize((20, 15), Image.BICUBIC), float)
    assert np.abs(ours - theirs).max() <= 1.01  # Pillow rounds after each axis


def test_resized_pixels_stay_in_range():
    edge = torch.zeros(3, 8, 8)
    edge[:, :, 4:] = 255
    large = views.resize(edge, (32, 32))
    assert large.min() >= 0
    assert large.max() <= 255


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = views.to_tensor(PHOTOGRAPH)
    assert views.resize(image, (30, 40)) is image


def test_pixels_are_normalised_channel_by_channel():
    pixels = torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1).expand(2, 3, 4, 5)
    normal = views.normalise(pixels, (10, 10, 10), (1, 2, 4))
    assert normal[:, :, 0, 0].tolist() == [[0, 5, 5]] * 2


def test_pixels_are_normalised_on_the_device_they_are_on():
    pixels = torch.zeros(1, 3, 2, 2, device="meta")
    assert views.normalise(pixels, (0, 0, 0), (1, 1, 1)).device.type == "meta"


def test_a_scaled_pair_is_a_view_and_its_mirror_image():
    pairs = views.scaled_pairs(views.to_tensor(PHOTOGRAPH), (1.0, 0.5, 1.5))
    shapes = {scale: tuple(pair.shape) for scale, pair in pairs.items()}
    assert shapes == {1.0: (2, 3, 30, 40), 0.5: (2, 3, 15, 20), 1.5: (2, 3, 45, 60)}
    for pair in pairs.values():
        assert torch.equal(pair[0].flip(-1), pair[1])
    assert torch.equal(pairs[1.0][0], views.to_tensor(PHOTOGRAPH))


def test_the_smallest_view_has_one_pixel():
    assert views.scaled_pairs(torch.zeros(3, 1, 1), (0.25,))[0.25].shape == (2, 3, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(8, 12), (12, 8)])
def test_a_square_is_the_centre_of_the_image(height, width):
    image = numbered(height, width)
    top, left = (height - 8) // 2, (width - 8) // 2
    assert torch.equal(views.square(image, 8), image[:, top : top + 8, left : left + 8])


@pytest.mark.parametrize("shape", [(5, 300), (300, 5), (31, 47)])
def test_a_square_of_any_image_has_the_side_asked_for(shape):
    assert views.square(torch.rand(3, *shape), 16).shape == (3, 16, 16)


BLACK = (0.0, 0.0, 0.0)


def crops(image, side, count=60):
    generator = torch.Generator().manual_seed(0)
    length = max(image.shape[-2:])
    return [
        views.random_crop(image, (length, length), side, BLACK, generator) for _ in range(count)
    ]


def test_a_crop_of_a_large_image_is_a_window_of_it_or_of_its_mirror_image():
    image = numbered(10, 14)
    windows = {
        tuple(seen[0, top : top + 6, left : left + 6].flatten().tolist())
        for seen in (image, image.flip(-1))
        for top in range(5)
        for left in range(9)
    }
    found = {tuple(crop[0].flatten().tolist()) for crop in crops(image, 6)}
    assert found <= windows
    assert len(found) > 30  # of 90


def test_a_crop_of_a_small_image_holds_all_of_it():
    image = numbered(4, 6)
    places = set()
    for crop in crops(image, 8):
        rows, columns = (crop[0] != 0).nonzero().unbind(1)
        top, left = int(rows.min()), int(columns.min())
        inside = crop[:, top : top + 4, left : left + 6]
        assert torch.equal(inside, image) or torch.equal(inside, image.flip(-1))
        assert int((crop != 0).sum()) == 3 * 4 * 6
        places.add((top, left))
    assert len(places) == 5 * 3


def test_a_crop_may_be_cut_in_one_direction_and_padded_in_the_other():
    for crop in crops(numbered(4, 12), 8):
        assert (crop[0] != 0).any(dim=1).sum() == 4
        assert (crop[0] != 0).any(dim=0).all()


def test_the_long_side_of_a_crop_is_drawn_from_its_range():
    generator = torch.Generator().manual_seed(0)
    lengths = set()
    for _ in range(60):
        crop = views.random_crop(torch.ones(3, 10, 20), (4, 7), 8, BLACK, generator)
        lengths.add(int((crop[0] != 0).any(dim=0).sum()))
    assert lengths == {4, 5, 6, 7}


def test_what_surrounds_a_small_image_has_the_colour_asked_for():
    generator = torch.Generator().manual_seed(0)
    crop = views.random_crop(torch.zeros(3, 4, 4), (4, 4), 8, (1.0, 2.0, 3.0), generator)
    assert crop.amax(dim=(1, 2)).tolist() == [1, 2, 3]
    assert (crop != 0).sum() == 3 * (64 - 16)


def test_crops_depend_on_nothing_but_their_generator():
    image = torch.rand(3, 9, 13)
    for one, other in zip(crops(image, 7, 5), crops(image, 7, 5), strict=True):
        assert torch.equal(one, other)
