import json
import pickle

import numpy as np
import pytest
from crafted import png
from PIL import Image

from ribkit.data import voc
from ribkit.runtime.errors import InputError

IDS = ("one", "two")
NAMES = ("ant", "bee", "cow")
LABELS = {"one": ["bee"], "two": ["cow", "ant"]}
MASK_ONE = np.zeros((8, 8), np.uint8)
MASK_ONE[2:5, 2:5] = 2
MASK_ONE[5, 2:5] = 255
MASK_TWO = np.zeros((8, 8), np.uint8)
MASK_TWO[0] = 3
MASK_TWO[7] = 1


def save_mask(path, values):
    image = Image.fromarray(values, "P")
    image.putpalette([k * 7 % 256 for k in range(768)])
    image.save(path)


@pytest.fixture
def root(tmp_path):
    """Two 8 x 8 images in VOC layout with three classes, bee | cow and ant, labelled in JSON."""
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, mask in zip(IDS, (MASK_ONE, MASK_TWO), strict=True):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "JPEGImages" / f"{name}.jpg", quality=95)
        save_mask(tmp_path / "SegmentationClass" / f"{name}.png", mask)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("one\ntwo\n")
    write_labels(tmp_path)
    return tmp_path


def write_labels(root, labels=LABELS, classes=NAMES):
    content = {"classes": list(classes), "labels": labels}
    (root / "image_labels.json").write_text(json.dumps(content))


def annotate(root, name, text):
    (root / "image_labels.json").unlink(missing_ok=True)
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "Annotations" / f"{name}.xml").write_text(text)


def problem(root, splits=("train",), classes=()):
    with pytest.raises(InputError) as caught:
        voc.check(root, splits, classes)
    return str(caught.value)


def image_of(root, name):
    return root / "JPEGImages" / f"{name}.jpg"


def mask_of(root, name):
    return root / "SegmentationClass" / f"{name}.png"


# --- reading


def test_all_classes(root):
    images = voc.read(root, "train")
    assert images.ids == IDS
    assert images.classes == NAMES
    assert images.labels.tolist() == [[False, True, False], [True, False, True]]
    assert images.image(0).shape == (8, 8, 3)
    assert images.image(0).dtype == np.uint8
    np.testing.assert_array_equal(images.mask(0), MASK_ONE)
    np.testing.assert_array_equal(images.mask(1), MASK_TWO)
    voc.check(root, ["train"])


def test_chosen_classes_in_their_order_and_the_others_as_background(root):
    images = voc.read(root, "train", ["cow", "bee"])
    assert images.labels.tolist() == [[False, True], [True, False]]
    mask = images.mask(1)
    assert (mask[0] == 1).all()
    assert (mask[1:] == 0).all()
    assert images.mask(0)[2, 2] == 2
    assert images.mask(0)[5, 2] == 255


def test_an_image_without_a_chosen_class_is_kept(root):
    images = voc.read(root, "train", ["bee"])
    assert images.ids == IDS
    assert images.labels.tolist() == [[True], [False]]


def test_labels_from_masks(root):
    (root / "image_labels.json").unlink()
    images = voc.read(root, "train", ["aeroplane", "bird", "bicycle"])  # 1, 3, 2 of PASCAL
    assert images.labels.tolist() == [[False, False, True], [True, True, False]]


def test_labels_from_annotations(root):
    part = "<part><name>head</name></part>"
    annotate(root, "one", f"<annotation><object><name>cat</name>{part}</object></annotation>")
    difficult = "<object><name>dog</name><difficult>1</difficult></object>"
    annotate(root, "two", f"<annotation>{difficult}<object><name>cat</name></object></annotation>")
    images = voc.read(root, "train", ["cat", "dog"])
    assert images.labels.tolist() == [[True, False], [True, True]]
    for name in IDS:
        save_mask(mask_of(root, name), np.full((8, 8), 8, np.uint8))
    voc.check(root, ["train"], ["cat"])


def test_json_comes_before_annotations(root):
    annotate(root, "one", "<annotation><object><name>cat</name></object></annotation>")
    write_labels(root)
    assert voc.read(root, "train").labels[0].tolist() == [False, True, False]


def test_the_source_survives_a_pickle(root):
    source = voc.read(root, "train", ["cow"]).source
    source.mask("two")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).mask("two"), MASK_TWO == 3)  # noqa: S301 - our own bytes


def test_grey_and_cmyk_and_turned_images_become_rgb(root):
    Image.new("L", (8, 8), 100).save(image_of(root, "one"))
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(image_of(root, "two"))
    images = voc.read(root, "train")
    assert (images.image(0) == 100).all()
    assert (images.image(1) < 5).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to view
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 8:] = 255
    Image.fromarray(wide).save(image_of(root, "one"), exif=exif, quality=95)
    turned = images.image(0)
    assert turned.shape == (16, 8, 3)
    assert turned[:8].max() < 20
    assert turned[8:].min() > 235
    save_mask(mask_of(root, "one"), np.full((16, 8), 2, np.uint8))
    voc.check(root, ["train"])


# --- wrong input, one test each


def test_missing_folder(root):
    assert problem(root / "no") == f"{root / 'no'} is not a folder; give a folder in VOC layout."
    with pytest.raises(InputError, match="is not a folder"):
        voc.read(root / "no", "train")


def test_missing_split(root):
    text = problem(root, ["val"])
    assert "split 'val' is empty: list image names in " in text
    assert text.endswith("choose a list that exists (train).")


def test_empty_split(root):
    (root / "ImageSets/Segmentation/val.txt").write_text("\n \n")
    assert "split 'val' is empty" in problem(root, ["train", "val"])


def test_a_name_listed_twice(root):
    (root / "ImageSets/Segmentation/train.txt").write_text("one\ntwo\none\n")
    assert "lists 'one' (2 x)" in problem(root)


def test_missing_image(root):
    image_of(root, "two").unlink()
    assert problem(root).startswith(f"{image_of(root, 'two')} does not exist; ")


def test_image_without_mask(root):
    mask_of(root, "two").unlink()
    assert problem(root).startswith(f"{mask_of(root, 'two')} does not exist; ")


def test_mask_with_a_value_that_is_no_class(root):
    save_mask(mask_of(root, "one"), np.full((8, 8), 4, np.uint8))
    text = f"{mask_of(root, 'one')} has the value 4, which is no class; use 0 to 3, or 255 for "
    assert problem(root) == text + "pixels to ignore."
    with pytest.raises(InputError, match="value 4, which is no class"):
        voc.read(root, "train").mask(0)


def test_colour_mask(root):
    Image.new("RGB", (8, 8)).save(mask_of(root, "one"))
    assert "is a mask of colour mode RGB; save class numbers" in problem(root)


def test_truncated_jpeg(root):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(image_of(root, "one"))
    save_mask(mask_of(root, "one"), np.full((64, 64), 2, np.uint8))
    voc.check(root, ["train"])
    content = image_of(root, "one").read_bytes()
    image_of(root, "one").write_bytes(content[:-500])
    assert problem(root).startswith(f"{image_of(root, 'one')} cannot be used (")
    with pytest.raises(InputError, match="get it again"):
        voc.read(root, "train").image(0)


def test_truncated_mask(root):
    save_mask(mask_of(root, "one"), np.random.default_rng(0).integers(0, 4, (99, 99), np.uint8))
    content = mask_of(root, "one").read_bytes()
    mask_of(root, "one").write_bytes(content[: len(content) // 2])
    assert f"{mask_of(root, 'one')} cannot be used (" in problem(root)


def test_not_an_image(root):
    image_of(root, "one").write_text("words")
    assert "get it again, or save it as one of JPEG, PNG, " in problem(root)


def test_sizes_differ(root):
    save_mask(mask_of(root, "one"), np.zeros((8, 9), np.uint8))
    assert "is 9 x 8 pixels and its image 8 x 8; make them one size." in problem(root)


def test_decompression_bomb(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    with pytest.warns(Image.DecompressionBombWarning):
        text = problem(root)
    reason = "DecompressionBombError: 8 x 8 pixels, more than 60 in all"
    assert f"one.jpg cannot be used ({reason}); get it again" in text


def test_unknown_or_repeated_class(root):
    text = f"{root}: no class is called 'wasp'; use some of ant, bee, cow."
    assert problem(root, classes=["bee", "wasp"]) == text
    assert "a class is given twice in bee, bee; give it once." in problem(
        root, ("train",), ["bee"] * 2
    )
    with pytest.raises(InputError, match="no class is called 'wasp'"):
        voc.read(root, "train", ["wasp"])


def test_unknown_class_in_json(root):
    write_labels(root, LABELS | {"two": ["wasp"]})
    assert "image_labels.json, image two: no class is called 'wasp'" in problem(root)


def test_image_missing_in_json(root):
    write_labels(root, {"one": ["bee"]})
    assert "image_labels.json has no entry for 'two'" in problem(root)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"classes": ["a"]}',
        '{"classes": "ab", "labels": {}}',
        '{"classes": [1], "labels": {}}',
        '{"classes": ["a"], "labels": ["one"]}',
        '{"classes": ["a"], "labels": {"one": "a"}}',
        '{"classes": ["a", "a"], "labels": {}}',
        '{"classes": [], "labels": {}}',
    ],
)
def test_malformed_json(root, text):
    (root / "image_labels.json").write_text(text)
    assert "image_labels.json" in problem(root)
    with pytest.raises(InputError):
        voc.read(root, "train")


def test_unknown_class_in_annotation(root):
    for name in IDS:
        annotate(root, name, "<annotation><object><name>ant</name></object></annotation>")
    assert "one.xml: no class is called 'ant'; use some of aeroplane" in problem(root)


def test_missing_annotation(root):
    annotate(root, "one", "<annotation/>")
    assert f"{root / 'Annotations' / 'two.xml'} does not exist" in problem(root)


def test_annotation_that_is_unsafe_or_broken(root):
    bomb = '<!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y "&x;&x;">]><a>&y;</a>'
    annotate(root, "one", bomb)
    annotate(root, "two", "<annotation>" + " " * voc.XML_BYTES)
    text = problem(root)
    assert "it declares a document type" in text
    assert "over 1,000,000 bytes" in text
    annotate(root, "one", "<annotation>")
    assert "no element found" in problem(root)


def test_several_problems_are_told_at_once_in_twenty_lines(root):
    image_of(root, "two").unlink()
    mask_of(root, "one").unlink()
    lines = problem(root, classes=["wasp"]).splitlines()
    assert lines[0] == "3 problems; correct these first:"
    assert len(lines) == 4
    many = "\n".join(f"no{k}" for k in range(50))
    (root / "ImageSets/Segmentation/train.txt").write_text(many)
    lines = problem(root).splitlines()
    assert lines[0] == "150 problems; correct these first:"
    assert len(lines) == 4  # of image, mask and label
    assert all(line.endswith(" (and 49 more like it).") for line in lines[1:])


# --- masks, palettes and labels that do not go together


def repainted(root, name, values, colours):
    """A palette mask whose values have these colours."""
    image = Image.fromarray(values, "P")
    image.putpalette(np.array(colours, np.uint8).tobytes())
    image.save(mask_of(root, name))


@pytest.mark.parametrize("split", [8, 5])  # rows of 255: all, more than half
def test_masks_of_0_and_255_are_told(root, split):
    write_labels(root, {"one": ["cat"], "two": ["cat"]}, ["cat"])
    for name in IDS:
        mask = np.zeros((8, 8), np.uint8)
        mask[:split] = 255
        save_mask(mask_of(root, name), mask)
    told = problem(root)
    assert f"{root / 'SegmentationClass'}: {split / 8:.0%} of all pixels are 255" in told
    assert f"{mask_of(root, 'one')} lacks 1 ('cat'), a label of its image, and has " in told
    assert "255, as 2 of 2 such masks; make masks and labels agree" in told


def test_masks_of_0_and_few_255_without_any_labels_are_told(root):
    (root / "image_labels.json").unlink()
    for name in IDS:
        save_mask(mask_of(root, name), np.diag(np.full(8, 255, np.uint8)))
    told = f"{root / 'SegmentationClass'}: 12% of all pixels are 255, which is ignored; give"
    assert problem(root).startswith(told)


@pytest.mark.parametrize("name", ["background", "_background_", "__Background__"])
def test_a_class_list_with_the_background_is_told(root, name):
    write_labels(root, LABELS, [name, *NAMES])
    assert f"image_labels.json: the class {name!r} is 0 in every mask; take it off" in problem(root)
    with pytest.raises(InputError, match="of which the first is 1"):
        voc.read(root, "train")


def test_masks_one_class_off_are_told(root):
    write_labels(root, LABELS, ["void", *NAMES])
    told = problem(root)
    assert "one.png lacks 3 ('bee'), a label of its image, and has 0, 2, 255" in told
    assert "one.png has 2 ('ant'), which is no label of its image, among 0, 2, 255" in told


def test_classes_that_changed_places_are_told_though_labels_and_masks_have_both(root):
    write_labels(root, {"one": ["bee"], "two": ["ant"]}, ["bee", "ant", "cow"])
    save_mask(mask_of(root, "two"), np.full((8, 8), 1, np.uint8))
    assert "has 2 ('ant'), which is no label of its image" in problem(root)


def test_a_label_that_half_of_its_masks_show_is_sound(root):
    write_labels(root, {"one": ["bee", "cow"], "two": ["cow", "ant"]})
    voc.check(root, ["train"])


PERSON = (192, 128, 128)


@pytest.mark.parametrize(
    ("colours", "value", "other"),
    [
        ([(0, 0, 0), PERSON], 1, 15),  # as an optimiser leaves it
        ([PERSON, (0, 0, 0)], 0, 15),  # by frequency
        ([(0, 0, 0), (224, 224, 192)], 1, 255),
    ],
)
def test_a_palette_in_another_order_is_told(root, colours, value, other):
    (root / "image_labels.json").unlink()
    repainted(root, "one", (MASK_ONE == 2).astype(np.uint8), colours)
    told = problem(root, classes=["person"])
    assert f"{mask_of(root, 'one')} shows {value} in the colour {colours[value]}, which" in told
    assert f"is {other} in PASCAL's palette; save the class numbers" in told


def test_palettes_of_ones_own_must_be_one(root):
    own = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    repainted(root, "one", MASK_ONE % 255, own)
    repainted(root, "two", MASK_TWO, own)
    voc.check(root, ["train"])
    repainted(root, "two", MASK_TWO, [own[0], own[2], own[1], own[3]])
    assert f"which is 2 in {mask_of(root, 'one')}; save" in problem(root)


def test_pascals_palette_and_grey_in_colours_are_sound(root):
    voc.write_mask(root, "one", MASK_ONE)
    repainted(root, "two", MASK_TWO, np.arange(256)[:, None].repeat(3, axis=1))
    voc.check(root, ["train"])


@pytest.mark.parametrize(
    ("bits", "rows", "values"),
    [
        (4, [[0x01, 0x2F], [0xF3, 0x00]], [[0, 1, 2, 15], [15, 3, 0, 0]]),
        (2, [[0b00011011]], [[0, 1, 2, 3]]),
        (1, [[0b10010110]], [[1, 0, 0, 1, 0, 1, 1, 0]]),
    ],
)
def test_grey_masks_of_few_bits_have_the_numbers_that_they_store(root, bits, rows, values):
    pixels = b"".join(b"\0" + bytes(row) for row in rows)
    mask = png(len(rows[0]) * 8 // bits, len(rows), bits=bits, pixels=pixels)
    mask_of(root, "one").write_bytes(mask)
    (root / "image_labels.json").unlink()
    images = voc.read(root, "train")
    assert images.mask(0).tolist() == values
    assert (images.labels[0].nonzero()[0] + 1).tolist() == sorted({*np.ravel(values)} - {0})


# --- files that are there under another name, lists in another form


@pytest.mark.parametrize("name", ["one.JPG", "one.jpeg", "one.png", "one.JPEG"])
def test_an_image_with_another_suffix_is_named(root, name):
    image_of(root, "one").rename(root / "JPEGImages" / name)
    text = f"{image_of(root, 'one')} does not exist, but {name} is there; save it as one.jpg."
    assert problem(root) == text


def test_a_mask_or_an_annotation_with_another_suffix_is_named(root):
    mask_of(root, "two").rename(mask_of(root, "two").with_suffix(".PNG"))
    assert "two.png does not exist, but two.PNG is there; save it as two.png." in problem(root)
    for name in IDS:
        annotate(root, name, "<annotation/>")
    (root / "Annotations/one.xml").rename(root / "Annotations/one.XML")
    assert "one.xml does not exist, but one.XML is there; save it as" in problem(root)


@pytest.mark.parametrize("form", ["{}  1", "{} -1", "{}.jpg", "{}.PNG", "{},1", "{}.jpg {}.png"])
def test_a_list_in_another_form_is_told_once(root, form):
    path = root / "ImageSets/Segmentation/train.txt"
    path.write_text("".join(form.format(name, name) + "\n" for name in IDS))
    listed = form.format("one", "one")
    assert problem(root) == (
        f"{path} lists {listed!r}, and 1 more names in this form; give plain image names such as "
        f"one, without extension or further columns."
    )


def test_names_with_blanks_and_dots_are_plain_where_there_is_such_an_image(root):
    image_of(root, "one").rename(image_of(root, "one 1"))
    image_of(root, "two").rename(image_of(root, "two.png"))
    mask_of(root, "one").rename(mask_of(root, "one 1"))
    mask_of(root, "two").rename(mask_of(root, "two.png"))
    write_labels(root, {"one 1": LABELS["one"], "two.png": LABELS["two"]})
    (root / "ImageSets/Segmentation/train.txt").write_text("one 1\ntwo.png\n")
    voc.check(root, ["train"])


def test_the_end_of_a_dos_file_is_no_name(root):
    (root / "ImageSets/Segmentation/train.txt").write_bytes(b"one\r\ntwo\r\n\x1a")
    assert voc.read(root, "train").ids == IDS
    (root / "ImageSets/Segmentation/val.txt").write_bytes(b"two\x1a\r\n")
    assert voc.split_ids(root, "val") == ("two",)


# --- annotations


CAT_XML = "<object><name>cat</name></object>"


@pytest.mark.parametrize(
    "text",
    [
        f"<annotation><objects>{CAT_XML}</objects></annotation>",
        f'<annotation xmlns="http://x.org/voc">{CAT_XML}</annotation>',
        f"<annotation>{CAT_XML.replace('object', 'Object')}</annotation>",
        f"<annotation>{CAT_XML}<group>{CAT_XML}</group></annotation>",
        CAT_XML,
    ],
)
def test_objects_that_would_not_be_found_are_told_with_their_file(root, text):
    annotate(root, "one", text)
    annotate(root, "two", "<annotation/>")
    with pytest.raises(InputError, match=r"one\.xml has objects that would not be found; write"):
        voc.read(root, "train")
    assert f"{root / 'Annotations/one.xml'} has objects that would not be found" in problem(root)


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("iso-8859-1", "ISO-8859-1"),
        ("utf-16", "UTF-16"),
        ("utf-8-sig", "utf-8"),
        ("gbk", "GBK"),
        ("cp1251", "windows-1251"),
        ("utf-8", "utf-16"),  # as .NET writes it from a string
    ],
)
def test_xml_is_read_as_it_declares(root, encoding, declared):
    comment = {"gbk": "\u732b", "cp1251": "\u043a\u043e\u0442"}.get(encoding, "caf\u00e9")
    start = f'<?xml version="1.0" encoding="{declared}"?>'
    text = f"{start}<annotation><owner>{comment}</owner>{CAT_XML}</annotation>"
    for name in IDS:
        annotate(root, name, "")
        (root / f"Annotations/{name}.xml").write_bytes(text.encode(encoding))
    assert voc.read(root, "train", ["cat"]).labels.all()


def test_xml_that_is_not_what_it_declares_is_told(root):
    annotate(root, "two", "<annotation/>")
    path = root / "Annotations/one.xml"
    for content in (b'<?xml version="1.0"?><a>caf\xe9</a>', b'<?xml encoding="klingon"?><a/>'):
        path.write_bytes(content)
        assert f"{path} cannot be used (" in problem(root)


def test_labels_in_utf_16_are_read(root):
    text = json.dumps({"classes": NAMES, "labels": LABELS})
    (root / "image_labels.json").write_bytes(text.encode("utf-16"))
    assert voc.read(root, "train").classes == NAMES


# --- masks that nothing reads


def test_masks_are_asked_for_where_they_are_read_and_no_more(root):
    mask_of(root, "two").unlink()
    voc.check(root, ["train"], masked={"one"})
    save_mask(mask_of(root, "one"), np.full((8, 8), 9, np.uint8))
    with pytest.raises(InputError, match=r"one\.png has the value 9"):
        voc.check(root, ["train"], masked={"one"})


@pytest.mark.parametrize("folder", ["SegmentationClassAug", "SegmentationClassPNG"])
def test_masks_in_a_folder_beside_are_offered_by_name(root, folder):
    (root / folder).mkdir()
    mask_of(root, "two").rename(root / folder / "two.png")
    assert problem(root) == (
        f"{mask_of(root, 'two')} does not exist, but {folder}/two.png is there; copy the masks of "
        f"{folder} into SegmentationClass."
    )


# --- fingerprint


def test_fingerprint_follows_the_content_and_not_the_place(root, tmp_path_factory):
    before = voc.read(root, "train", ["bee", "cow"]).fingerprint()[0]
    moved = tmp_path_factory.mktemp("elsewhere") / "copy"
    root.rename(moved)
    images = voc.read(moved, "train", ["bee", "cow"])
    assert images.fingerprint()[0] == before
    seen = {before, voc.read(moved, "train", ["cow", "bee"]).fingerprint()[0]}
    seen |= {images.take([1, 0]).fingerprint()[0], images.take([0]).fingerprint()[0]}
    for change in (
        lambda: Image.new("RGB", (8, 8)).save(image_of(moved, "one")),
        lambda: save_mask(mask_of(moved, "one"), MASK_TWO),
        lambda: mask_of(moved, "one").unlink(),
        lambda: write_labels(moved, LABELS | {"one": []}),
        lambda: annotate(moved, "one", "<annotation/>"),
    ):
        change()
        seen.add(images.fingerprint()[0])
    assert len(seen) == 9
