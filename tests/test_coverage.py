import numpy as np
import pytest
from fabricated import last_unlabelled, run_stage, stored

from ribkit.data.images import ImageSet
from ribkit.study import coverage


def covered(images, maps, threshold, folder, plain=None):
    maps, plain = (
        stored(folder / name, "seeds", maps=dict(each)).arrays("maps")
        for name, each in (("maps", maps), ("plain", plain or maps))
    )
    how = {"maps": maps, "plain": plain, "threshold": threshold}
    return run_stage(coverage.cover, images, folder / "scratch", **how)["coverage"]


def test_heads_bodies_and_the_rest_are_told_apart(tmp_path):
    images = last_unlabelled(6).take([0, 5])
    mask, heads = images.mask(0), images.source.heads("0")
    keys = np.flatnonzero(images.labels[0])
    maps = np.stack([(heads == k + 1) * 0.9 + (mask == k + 1) * 0.05 for k in keys])
    maps = {"0": maps.astype(np.float16), "5": np.zeros((0, 48, 48), np.float16)}
    table = covered(images, maps, 0.5, tmp_path / "s")
    assert list(table["class"]) == [images.classes[k] for k in keys]
    assert (table[["head", "body", "outside"]] == [1, 0, 0]).all(axis=None)
    everything = covered(images, maps, 0.01, tmp_path / "t")
    assert table["auc head"].tolist() == [1, 1][: len(table)]
    assert table["auc body"].tolist() == everything["auc body"].tolist()  # at any threshold
    assert (everything[["head", "body", "near", "far", "outside"]] == [1, 1, 1, 1, 0]).all(
        axis=None
    )
    assert np.allclose(table["size"], [(mask == k + 1).mean() for k in keys])


class Masked:
    """A photograph and its mask: an object on the left, unknown pixels on the right."""

    def image(self, id):
        """8 x 8, grey; the lower half green."""
        pixels = np.full((8, 8, 3), 100, np.uint8)
        pixels[4:, :, 1] = 200
        return pixels

    def mask(self, id):
        """8 x 8: columns 0-3 class 1, 4-5 background, 6-7 ignored."""
        mask = np.zeros((8, 8), np.uint8)
        mask[:, :4], mask[:, 6:] = 1, 255
        return mask


ONE = ImageSet(("a",), ("cat",), np.array([[True]]), Masked())


def test_parts_of_a_photograph_by_hand(tmp_path):
    maps = np.zeros((1, 8, 8), np.float16)
    maps[:, :, 2:5], maps[:, 4:, 5], maps[:, :, 6:] = 0.9, 0.9, 0.9
    plain = np.zeros((1, 8, 8), np.float16)
    plain[0, :, 0] = 0.5  # its peak is (0, 0), the first of the highest
    (row,) = covered(ONE, {"a": maps}, 0.5, tmp_path, {"a": plain}).to_dict("records")
    assert (row.pop("image"), row.pop("class")) == ("a", "cat")
    near = [(y, x) for y in range(8) for x in range(4) if y * y + x * x < 18]
    found = sum(x >= 2 for _, x in near)
    expected = {"near": found / 16, "far": (16 - found) / 16}
    # off the object are 12 pixels as high as those found, and 4 of zero
    told = {f"auc {part}": (10 * share + 2 * (1 - share)) / 16 for part, share in expected.items()}
    expected |= told | {"size": 32 / 48, "object": 0.5, "inside": 8 / 24, "edge": 1}
    expected |= {"outside": 12 / 16, "around": 1, "away": 0.5, "green": 1, "other": 0.5}
    assert row == pytest.approx(expected)


def test_a_part_without_a_pixel_has_no_share_and_small_maps_are_resized(tmp_path):
    class Grey(Masked):
        def image(self, id):
            return np.full((8, 8, 3), 100, np.uint8)

    images = ImageSet(("a",), ("cat",), np.array([[True]]), Grey())
    table = covered(images, {"a": np.full((1, 2, 2), 0.9, np.float16)}, 0.5, tmp_path)
    assert table["green"].isna().all()
    assert (table[["object", "outside", "other"]] == 1).all(axis=None)
