"""Saliency: the rule by hand, files of all kinds, and U2-Net-p with a stand-in for its runtime."""

import hashlib
import types

import numpy as np
import pytest
from fabricated import run_stage
from PIL import Image

from ribkit.data.images import ImageSet
from ribkit.refinement import saliency
from ribkit.runtime.errors import InputError


class Plain:
    """A source of dark images, ``size`` (H, W)."""

    def __init__(self, size):
        self.size = size

    def image(self, id):
        return np.full((*self.size, 3), 7, np.uint8)

    def mask(self, id):
        return np.zeros(self.size, np.uint8)

    def fingerprint(self, ids):
        return ""


def images(*ids, size=(4, 6)):
    return ImageSet(ids, ("a",), np.ones((len(ids), 1), bool), Plain(size))


def test_the_rule_by_hand():
    labels = np.array([
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1],
        [0, 0, 2, 2, 1, 1],
        [0, 0, 2, 2, 0, 0],
        [0, 0, 0, 0, 0, 255],
        [0, 0, 0, 0, 0, 255],
    ], np.uint8)  # fmt: skip
    salient = np.zeros((6, 6))
    salient[:4, 2:5] = 0.9
    salient[5, 5] = 0.9
    salient[4, 0] = 0.5  # not above the threshold
    assert saliency.combine(labels, salient).tolist() == [
        [0, 0, 255, 1, 1, 255],
        [0, 0, 255, 1, 1, 255],
        [0, 0, 2, 2, 1, 255],
        [0, 0, 2, 2, 255, 0],
        [0, 0, 0, 0, 0, 255],
        [0, 0, 0, 0, 0, 255],
    ]


def test_sizes_that_differ_are_an_error():
    with pytest.raises(ValueError, match="differ in size"):
        saliency.combine(np.zeros((2, 3), np.uint8), np.zeros((3, 2)))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGB", "RGBA", "P", "CMYK"])
def test_grey_files_of_any_mode_are_read(tmp_path, mode):
    grey = np.zeros((4, 6), np.uint8)
    grey[:, 3:] = 255
    image = Image.fromarray(grey).convert("RGB" if mode in ("RGBA", "P", "CMYK") else "L")
    image = image.convert(mode)
    if mode == "CMYK":  # no PNG has it; Pillow goes by the content, not by the name
        image.save(tmp_path / "x.png", "TIFF")
    else:
        image.save(tmp_path / "x.png")
    assert (saliency.read(tmp_path, "x", (4, 6)) == grey).all()


def test_sixteen_bits_are_read(tmp_path):
    Image.fromarray(np.full((4, 6), 65535, np.uint16)).save(tmp_path / "x.png")
    assert (saliency.read(tmp_path, "x", (4, 6)) == 255).all()


def test_one_pixel(tmp_path):
    Image.fromarray(np.full((1, 1), 200, np.uint8)).save(tmp_path / "x.png")
    found = saliency.from_folder(images("x", size=(1, 1)), saliency.Folder(str(tmp_path), ("x",)))
    assert found["maps"]["x"].tolist() == [[200]]


def test_what_is_wrong_with_a_folder_is_told_at_once(tmp_path):
    Image.new("L", (5, 4)).save(tmp_path / "small.png")
    Image.new("RGB", (6, 4), (255, 0, 0)).save(tmp_path / "red.png")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(InputError) as caught:
        saliency.check(images("small", "red", "torn", "missing"), str(tmp_path))
    lines = str(caught.value).splitlines()[1:]
    assert "small.png is 5 x 4 pixels and its image 6 x 4; make them one size." in lines[0]
    assert "red.png is coloured; save the saliency map as a grey PNG." in lines[1]
    assert "torn.png" in lines[2]
    assert "missing.png does not exist" in lines[3]
    with pytest.raises(InputError) as caught:
        saliency.check(images(*map(str, range(50))), str(tmp_path))
    assert len(str(caught.value).splitlines()) == 2
    assert str(caught.value).endswith("off the list (and 49 more like it).")
    with pytest.raises(InputError, match="nowhere is not a folder"):
        saliency.check(images("x"), str(tmp_path / "nowhere"))


def test_a_changed_file_changes_the_key(tmp_path):
    folder = saliency.Folder(str(tmp_path), ("x",))
    before = folder.fingerprint()
    Image.new("L", (6, 4)).save(tmp_path / "x.png")
    assert folder.fingerprint() != before


# ---- U2-Net-p ---------------------------------------------------------------------------------
@pytest.fixture(autouse=True)
def _nothing_remembered():
    saliency._session.cache_clear()
    yield
    saliency._session.cache_clear()


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    """A model file and a runtime that answers with a ramp; what it was asked."""
    path, asked = tmp_path / "u2netp.onnx", []
    path.write_bytes(b"model")
    digest = hashlib.sha256(b"model").hexdigest()

    class Session:
        def __init__(self, path, options, providers):
            assert options.intra_op_num_threads == 1

        def get_inputs(self):
            return [types.SimpleNamespace(name="input.1")]

        def run(self, names, inputs):
            asked.append(inputs["input.1"])
            return [np.tile(np.linspace(-1, 3, 320, dtype=np.float32), (1, 1, 320, 1))]

    module = types.SimpleNamespace(SessionOptions=types.SimpleNamespace, InferenceSession=Session)
    file = types.SimpleNamespace(name="u2netp.onnx", locate=lambda: path)
    monkeypatch.setattr(saliency.importlib.metadata, "files", lambda name: [file])
    monkeypatch.setattr(saliency, "U2NETP_SHA256", digest)
    monkeypatch.setattr(saliency.importlib, "import_module", lambda name: module)
    return path, asked


def test_u2net_gives_maps_stretched_to_the_images(runtime, tmp_path):
    made = run_stage(saliency.u2net, images("x", size=(10, 20)), tmp_path / "scratch")
    found = made["maps"]["x"]
    assert found.shape == (10, 20)
    assert found[0, 0] <= 8
    assert found[0, -1] >= 247
    (seen,) = runtime[1]
    assert seen.shape == (1, 3, 320, 320)
    # a constant image is scaled to 1
    np.testing.assert_allclose(seen[0, :, 0, 0], (1 - np.array(saliency.MEAN)) / saliency.STD, 1e-5)


def test_another_model_is_refused(runtime):
    runtime[0].write_bytes(b"other")
    with pytest.raises(InputError, match=r"u2netp\.onnx is not the U2-Net-p that is known"):
        saliency.ready("u2netp")


def test_what_is_missing_is_told_with_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(saliency, "PACKAGED", "no-such-package")
    with pytest.raises(InputError, match=r"u2netp\.onnx is missing; install it: .*\[saliency\]"):
        saliency._model_path()

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(saliency.importlib, "import_module", missing)
    with pytest.raises(InputError, match="onnxruntime is missing; install it"):
        saliency._runtime()
