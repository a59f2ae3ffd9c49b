"""Image files of every hostile kind: what the header tells is refused before decoding."""

import io
import os
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from crafted import chunk, png
from PIL import Image, ImageFile, ImageOps

from ribkit.data import voc
from ribkit.data.images import FORMATS, LONGEST, decode, verify
from ribkit.refinement import saliency
from ribkit.runtime.errors import InputError, Problems

BOMB = 300_000_000  # bytes, out of 300 kB


def saved(kind, **options):
    file = io.BytesIO()
    Image.new(options.pop("mode", "RGB"), (16, 16)).save(file, kind, **options)
    return bytearray(file.getvalue())


def jpeg(width, height):
    content = saved("JPEG")
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return content


def bmp(width, height):
    content = saved("BMP")
    content[18:26] = struct.pack("<ii", width, height)
    return content


def tiff(width, height):
    content = saved("TIFF")
    first = struct.unpack_from("<I", content, 4)[0]
    for place in range(first + 2, len(content) - 12, 12):
        tag = struct.unpack_from("<H", content, place)[0]
        if tag in (256, 257):
            struct.pack_into("<HII", content, place + 2, 4, 1, width if tag == 256 else height)
    return content


def webp(width, height):
    content = saved("WEBP", lossless=True)
    place = content.index(b"VP8L") + 9
    struct.pack_into("<I", content, place, (width - 1) | (height - 1) << 14)
    return content


def problems(path):
    """What is said of a file as an image, checked and read, as a mask and as a saliency map."""
    readers = (
        verify,
        decode,
        lambda path: decode(path, 8),
        lambda path: voc.VOCFolder(path.parent.parent, ("cat",)).mask(path.stem),
        lambda path: saliency.read(path.parent, path.stem, (16, 16)),
    )
    for read in readers:
        with pytest.raises(InputError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(path))
        yield str(caught.value)


@pytest.fixture
def undecoded(monkeypatch):
    """`problems`, and the test fails if pixels are decoded for them or much memory is used."""

    def refuse(*arguments):
        raise AssertionError("something was decoded")

    def found(path):
        for kind in (Image.Image, ImageFile.ImageFile):
            monkeypatch.setattr(kind, "load", refuse)
        tracemalloc.start()
        texts = list(problems(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10_000_000
        return texts

    return found


@pytest.fixture
def path(tmp_path):
    (tmp_path / "SegmentationClass").mkdir()
    return tmp_path / voc.MASK.format("x")


@pytest.mark.parametrize("make", [png, jpeg, bmp, tiff])
@pytest.mark.parametrize(("width", "height"), [(30_000, 10), (10, 30_000), (LONGEST + 1, 1)])
def test_a_side_of_30_000_pixels_is_refused_by_the_header(path, make, width, height, undecoded):
    path.write_bytes(make(width, height))
    for text in undecoded(path):
        assert f"cannot be used (DecompressionBombError: {width} x {height} pixels); " in text
        assert text.endswith("JPEG, PNG, WEBP, BMP, TIFF, 20,000 pixels a side at most.")


@pytest.mark.parametrize(
    "content",
    [*(make(30_000, 30_000) for make in (png, jpeg, bmp, tiff)), webp(16_383, 16_383)],
)
def test_a_bomb_of_pixels_is_refused_by_the_header(path, content, undecoded):
    path.write_bytes(content)
    for text in undecoded(path):
        assert "limit of 178956970 pixels" in text


@pytest.mark.parametrize(
    "head", [(b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")]
)
def test_a_bomb_in_a_png_beside_its_pixels_is_refused(path, head, undecoded):
    name, start = head
    path.write_bytes(png(16, 16, chunk(name, start + zlib.compress(bytes(BOMB), 1))))
    for text in undecoded(path):
        assert "Decompressed data too large" in text


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    "content",
    [
        POSTSCRIPT,
        b"\xc5\xd0\xd3\xc6" + struct.pack("<I", 30) + bytes(22) + POSTSCRIPT,
        b"%PDF-1.4\n",
        bytes.fromhex("d0cf11e0a1b11ae1") + bytes(2000),  # FPX, MIC: OLE files
        b"\xd7\xcd\xc6\x9a" + bytes(99),  # WMF
        bytes.fromhex("000000") + b"\x0cjP  \r\n\x87\n" + bytes(99),
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        saved("GIF"),
        saved("ICO"),
        saved("PPM"),
        b"/* XPM */\n",
    ],
)
def test_formats_that_no_photograph_has_are_refused_and_no_program_is_run(
    path, content, monkeypatch
):
    for run in ("system", "posix_spawn", "fork"):
        monkeypatch.setattr(os, run, None)
    monkeypatch.setattr("subprocess.Popen", None)
    path.write_bytes(content)
    for text in problems(path):
        assert "cannot be used (UnidentifiedImageError: cannot identify image file" in text
        assert "; get it again, or save it as one of JPEG, PNG, WEBP, BMP" in text


@pytest.mark.parametrize("kind", FORMATS)
def test_the_formats_of_photographs_are_read_whatever_the_name(path, kind):
    path.write_bytes(saved(kind))
    assert verify(path) == (16, 16)
    assert decode(path).shape == (16, 16, 3)


def test_of_moving_pictures_the_first_is_read(path):
    pictures = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (200, 0, 0)]
    for kind in ("PNG", "WEBP", "TIFF", "MPO"):
        more = {"lossless": True} if kind == "WEBP" else {}
        pictures[0].save(path, kind, save_all=True, append_images=pictures[1:], **more)
        assert decode(path)[0, 0, 0] == pytest.approx(200, abs=3)
        assert verify(path) == (16, 16)


def test_what_is_not_a_file_is_not_waited_for(path):
    os.mkfifo(path)
    for text in problems(path):
        assert text == f"{path} is not a file; add it or take its name off the list."


def read_or_told(path):
    """What `verify` and the shape that `decode` finds; None for what is told in one line."""
    found = []
    for read in (verify, lambda path: decode(path).shape[:2]):
        told = Problems()
        found.append(told.collect(read, path))
        assert all(text.startswith(str(path)) and "\n" not in text for text in told)
    return found


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_exif_block_does_no_harm(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "words"
    for place in range(6, len(exif.tobytes())):
        damaged = bytearray(exif.tobytes())
        damaged[place] ^= 0xFF
        path.write_bytes(saved("JPEG", exif=bytes(damaged)))
        assert set(read_or_told(path)) <= {(16, 16), None}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_pillow_turns_them(path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path, kind, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(decode(path), expected)
    assert verify(path) == expected.shape[:2]


def test_sixteen_bits_are_turned_too(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3) << 8).save(path, exif=exif)
    assert decode(path)[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]
    assert verify(path) == (3, 2)


@pytest.mark.parametrize("mode", ["I", "F"])
@pytest.mark.parametrize("long_side", [0, 8])
def test_pixels_of_32_bits_are_refused_with_the_true_reason(path, mode, long_side):
    Image.new(mode, (16, 16), 1).save(path, "TIFF")
    for read in (verify, decode):
        with pytest.raises(InputError, match=f"colour mode {mode}, whose white is unknown; save"):
            read(path, long_side)


def test_signed_pixels_of_16_bits_are_refused_too(path):
    Image.fromarray(np.full((4, 4), -5, np.int16).astype(np.int32)).save(path, "TIFF")
    with pytest.raises(InputError, match="8 or 16 bits a channel"):
        decode(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_jpeg_over_the_limit_is_read_where_it_is_shrunk_anyway(path, monkeypatch):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    Image.fromarray(pixels).save(path, "JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    for read in (verify, decode):
        with pytest.raises(InputError, match="64 x 64 pixels, more than 3,000 in all"):
            read(path)
    assert verify(path, 8) == (8, 8)
    assert decode(path, 8)[4, :, 0].tolist() == pytest.approx([0] * 4 + [255] * 4, abs=9)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_other_kinds_over_the_limit_are_refused_as_they_must_be_decoded_whole(path, monkeypatch):
    Image.new("RGB", (64, 64)).save(path, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(InputError, match="more than 3,000 in all"):
        decode(path, 8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [2, 5, 7, 12])  # text, a fraction, bytes, a float
def test_an_orientation_or_a_width_of_another_type_does_not_matter(path, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0100] = 16
    block = exif.tobytes()
    for tag in (0x0112, 0x0100):
        for order in ("little", "big"):
            old, new = (tag.to_bytes(2, order) + k.to_bytes(2, order) for k in (3, kind))
            long = tag.to_bytes(2, order) + (4).to_bytes(2, order)
            block = block.replace(old, new).replace(long, new)
    path.write_bytes(saved("JPEG", exif=block))
    assert read_or_told(path) == [(16, 16), (16, 16)]


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_read_or_told_whatever_the_damage(path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    files = []
    for kind in FORMATS:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        files.append(file.getvalue())
    chance = random.Random(0)
    for _ in range(400):
        content = bytearray(chance.choice(files))
        for _ in range(chance.choice([1, 2, 8])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content[: chance.choice([None, chance.randrange(len(content))])])
        read_or_told(path)
