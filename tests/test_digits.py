"""Digits: shapes lie off the digit, regions mean what they say, bad input is told in a sentence."""

import gzip
import struct

import numpy as np
import pytest

from ribkit.data import digits
from ribkit.runtime.errors import InputError


@pytest.fixture(scope="module")
def data():
    return digits.load(n_train=120, n_test=40)


def write_mnist(root, n=60, images_of=None):
    """A tiny MNIST in IDX files: blobs labelled 2, 8 and 5 in turn."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    labels = np.resize([2, 8, 5], n).astype(np.uint8)
    images = np.zeros((n, 28, 28), np.uint8)
    images[:, 10:18, 10:18] = labels[:, None, None] * 20
    for part in ("train", "t10k"):
        head = struct.pack(">IIII", 2051, n, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">II", 2049, n)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return raw


def test_regions_and_shapes(data):
    for part, share in ((data.train, 0.1), (data.test, 1.0)):
        shaped = (part.regions == 2).any(axis=(1, 2))
        assert shaped.mean() == pytest.approx(share, abs=0.01)
        assert (part.images[part.regions == 2] == 255).all()
        assert (part.images[part.regions == 1] >= digits.INK).all()
        assert (part.images[part.regions == 0] < digits.INK).all()
    areas = (data.test.regions == 2).sum(axis=(1, 2))
    assert set(areas[data.test.labels == 0]) == {37}
    assert set(areas[data.test.labels == 1]) == {49}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 1.0])
def test_a_dose_counts_exactly_for_each_digit_and_leaves_the_test_alone(data, share):
    dosed = digits.load(n_train=120, n_test=40, share=share)
    for part in (dosed.train, dosed.control):
        shaped = (part.regions == 2).any(axis=(1, 2))
        for label in (0, 1):
            members = part.labels == label
            assert shaped[members].sum() == round(share * members.sum())
    np.testing.assert_array_equal(dosed.test.images, data.test.images)
    np.testing.assert_array_equal(dosed.train.labels, data.train.labels)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_controls_shapes_say_nothing_of_the_digit(share):
    control = digits.load(n_train=120, n_test=40, share=share).control
    areas = (control.regions == 2).sum(axis=(1, 2))
    for label in (0, 1):
        discs, squares = ((areas[control.labels == label] == area).sum() for area in (37, 49))
        assert discs - squares in (0, 1)


def test_shape_covers_nothing_of_the_digit(data):
    bare = digits.load(n_train=120, n_test=40, share=0).train.images
    where = data.train.regions == 2
    assert where.any()
    assert (bare[where] == 0).all()
    np.testing.assert_array_equal(bare[~where], data.train.images[~where])


def test_control_differs_in_the_shapes_alone(data):
    np.testing.assert_array_equal(data.train.labels, data.control.labels)
    bare = [digits.digits_only(d) for d in (data.train, data.control)]
    np.testing.assert_array_equal(*bare)
    square = (data.control.regions == 2).sum(axis=(1, 2)) == 49
    shaped = (data.control.regions == 2).any(axis=(1, 2))
    assert abs(square.sum() - shaped.sum() / 2) <= 1
    assert (square != (data.control.labels == 1))[shaped].any()


def test_parts_wiped_out(data):
    shapes, bare = digits.shapes_only(data.test), digits.digits_only(data.test)
    np.testing.assert_array_equal(np.maximum(shapes, bare), data.test.images)
    assert not (shapes.astype(int) * bare).any()


def test_train_and_test_share_no_image(data):
    bare = [{image.tobytes() for image in digits.digits_only(d)} for d in (data.train, data.test)]
    assert len(bare[0] & bare[1]) == 0


def test_seeded_and_fingerprinted(data):
    again = digits.load(n_train=120, n_test=40)
    other = digits.load(n_train=120, n_test=40, rng_seed=1)
    assert data.fingerprint() == again.fingerprint() != other.fingerprint()


def test_mnist_from_idx_files(tmp_path):
    write_mnist(tmp_path)
    data = digits.load(str(tmp_path), 40, 30)
    assert data.name == "MNIST"
    assert len(data.train) == 40
    assert len(data.test) == 30
    inner = data.train.images[:, 12:16, 12:16].max(axis=(1, 2))
    np.testing.assert_array_equal(inner, np.where(data.train.labels == 1, 160, 40))


def test_missing_and_broken_mnist(tmp_path):
    with pytest.raises(InputError, match="MNIST/raw"):
        digits.load(str(tmp_path / "nowhere"))
    raw = write_mnist(tmp_path)
    file = raw / "train-images-idx3-ubyte"
    whole = file.read_bytes()
    for broken in (whole[:-5], whole[:3], b"", gzip.compress(whole)):
        file.write_bytes(broken)
        with pytest.raises(InputError, match="MNIST/raw") as told:
            digits.load(str(tmp_path), 10, 10)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_train": 5000}, "n_train = 5000"),
        ({"n_train": 300, "n_test": 100}, "n_test = 100"),
        ({"n_train": -3}, "n_train = -3"),
    ],
)
def test_impossible_settings(settings, words):
    with pytest.raises(InputError, match=words):
        digits.load(**settings)


def test_a_digit_without_room_for_its_shape_is_told(monkeypatch):
    monkeypatch.setattr(digits, "SIZE", 20)
    with pytest.raises(InputError, match="no room for a shape of 20 pixels"):
        digits.load()
