"""COCO's folder becomes one in VOC layout: masks by hand, interruptions, and wrong input."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from ribkit.data import coco, voc
from ribkit.runtime.errors import InputError
from ribkit.study.study import Study

# 4 rows, 6 columns. Categories 2, 5 and 9 become 1, 2 and 3.
CATEGORIES = ((5, "bee"), (2, "ant"), (9, "cow"))
HEIGHT, WIDTH = 4, 6
LARGE = [[0, 0, 4, 0, 4, 4, 0, 4]]  # columns 0 to 3, all rows
SMALL = [[1, 1, 3, 1, 3, 3, 1, 3]]  # in the middle of it
PARTS = [[0, 0, 1, 0, 1, 1, 0, 1], [5, 3, 6, 3, 6, 4, 5, 4]]  # two opposite corners
CROWD = {"size": [HEIGHT, WIDTH], "counts": [0, 24]}  # down the columns: everything
COMPRESSED = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
COMPRESSED[3] = 1


def compressed(runs):
    """Run lengths as other tools write them: any, also those of length 0 (COCO's own format)."""
    text = ""
    for number, run in enumerate(runs):
        rest = run - (runs[number - 2] if number > 2 else 0)
        while True:
            five, rest = rest & 31, rest >> 5
            ends = rest == (-1 if five & 16 else 0)
            text += chr(48 + five + 32 * (not ends))
            if ends:
                break
    return {"size": [HEIGHT, WIDTH], "counts": text}


def encoded(mask):
    found = rle.encode(np.asfortranarray(mask))
    return found | {"counts": found["counts"].decode()}


def annotation(id, image, category, segmentation, crowd=0):
    entry = {"id": id, "image_id": image, "category_id": category, "iscrowd": crowd}
    return entry | {"segmentation": segmentation}


ANNOTATIONS = {
    "train": [
        annotation(1, 1, 2, SMALL),
        annotation(2, 1, 5, LARGE),
        annotation(3, 2, 9, PARTS),
        annotation(4, 2, 2, CROWD, crowd=1),
        annotation(5, 2, 5, encoded(COMPRESSED)),
    ],
    "val": [annotation(1, 1, 9, LARGE)],
}


def write_split(root, split, annotations, count, categories=CATEGORIES):
    """``count`` noise images of one size and their annotation file."""
    photographs = root / f"{split}2014"
    for folder in (photographs, root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    random, images = np.random.default_rng(0), []
    for id in range(1, count + 1):
        name = f"COCO_{split}2014_{id:012d}.jpg"
        Image.fromarray(random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(
            photographs / name
        )
        images.append({"id": id, "file_name": name, "height": HEIGHT, "width": WIDTH})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": id, "name": name} for id, name in categories]
    (root / f"annotations/instances_{split}2014.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "coco"
    write_split(folder, "train", ANNOTATIONS["train"], 3)
    write_split(folder, "val", ANNOTATIONS["val"], 1)
    return folder


def change(root, edit, split="train"):
    path = root / f"annotations/instances_{split}2014.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def problem(root):
    with pytest.raises(InputError) as caught:
        coco.as_voc(root, root.parent / "target")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- masks and labels by hand -------------------------------------------------------------------
def test_masks_and_labels_are_those_of_the_annotations(root, tmp_path):
    folder = coco.as_voc(root, tmp_path / "target")
    voc.check(folder, ["train", "val"])
    images = voc.read(folder, "train")
    assert images.classes == ("ant", "bee", "cow")
    assert images.ids[0] == "COCO_train2014_000000000001"
    assert images.labels.tolist() == [[True, True, False], [True] * 3, [False] * 3]
    first = np.zeros((HEIGHT, WIDTH), int)
    first[:, :4] = 2
    first[1:3, 1:3] = 1  # small: on top, though it is annotated first
    np.testing.assert_array_equal(images.mask(0), first)
    second = np.ones((HEIGHT, WIDTH), int)  # the crowd, below all
    second[3] = 2
    second[0, 0] = second[3, 5] = 3
    np.testing.assert_array_equal(images.mask(1), second)
    assert not images.mask(2).any()
    assert voc.read(folder, "val").labels.tolist() == [[False, False, True]]
    photograph = root / "train2014/COCO_train2014_000000000001.jpg"
    assert (images.image(0) == np.asarray(Image.open(photograph))).all()


@pytest.mark.parametrize(
    "runs", [[3, 0, 0, 2, 19], [0, 24, 0], [5, 5, 14, 0], [0, 0, 5, 5, 14], [1] * 24, [24]]
)
def test_run_lengths_are_painted_as_pycocotools_decodes_them(root, tmp_path, runs):
    change(root, first("annotations", segmentation=compressed(runs), image_id=3))
    folder = coco.as_voc(root, tmp_path / "target")
    mask = voc.read(folder, "train").mask(2)
    expected = np.repeat(np.arange(len(runs)) % 2, runs).reshape(WIDTH, HEIGHT).T
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(rle.decode(compressed(runs)), expected)


def test_long_run_lengths_are_read():
    random = np.random.default_rng(0)
    for _ in range(50):
        mask = (random.random((300, 500)) < random.random() ** 4).astype(np.uint8)
        mask[:, : random.integers(500)] = 1
        runs = coco._runs(encoded(mask)["counts"])
        assert sum(runs) == mask.size
        assert sum(runs[1::2]) == mask.sum()
    assert coco._runs("") == coco._runs("o") == coco._runs("1 2") == []


def test_whole_floats_are_numbers(root, tmp_path):
    plain = coco.as_voc(root, tmp_path / "plain")
    for split in ("train", "val"):
        path = root / f"annotations/instances_{split}2014.json"
        content = json.loads(path.read_text(), parse_int=float)
        path.write_text(json.dumps(content))
        assert ".0" in path.read_text()
    folder = coco.as_voc(root, tmp_path / "target")
    assert folder.name != plain.name
    for split in ("train", "val"):
        ours, theirs = voc.read(folder, split), voc.read(plain, split)
        assert (ours.labels == theirs.labels).all()
        for index in range(len(ours)):
            np.testing.assert_array_equal(ours.mask(index), theirs.mask(index))


def test_one_split_is_enough(root, tmp_path):
    (root / "annotations/instances_train2014.json").unlink()
    folder = coco.as_voc(root, tmp_path / "target")
    assert [p.name for p in (folder / "ImageSets/Segmentation").iterdir()] == ["val.txt"]
    voc.check(folder, ["val"])


def test_a_conversion_is_made_once_and_follows_the_photographs(root, tmp_path, monkeypatch):
    folder = coco.as_voc(root, tmp_path / "target")
    monkeypatch.setattr(coco, "_convert", None)
    assert coco.as_voc(folder, tmp_path / "target") == folder
    moved = root.rename(tmp_path / "moved")
    assert coco.as_voc(moved, tmp_path / "target") == folder
    voc.check(folder, ["train", "val"])


def test_other_annotations_make_another_folder(root, tmp_path):
    before = coco.as_voc(root, tmp_path / "target")
    change(root, lambda content: content["annotations"].pop())
    assert coco.as_voc(root, tmp_path / "target") != before


def test_an_interrupted_conversion_goes_on(root, tmp_path, monkeypatch):
    painted, paint = [], coco.paint

    def once(image, *rest):
        if painted:
            raise KeyboardInterrupt
        return always(image, *rest)

    def always(image, *rest):
        painted.append(image["id"])
        return paint(image, *rest)

    monkeypatch.setattr(coco, "paint", once)
    with pytest.raises(KeyboardInterrupt):
        coco.as_voc(root, tmp_path / "target")
    (folder,) = (tmp_path / "target").iterdir()
    assert not list(folder.rglob("*.partial"))
    assert not (folder / "image_labels.json").exists()
    monkeypatch.setattr(coco, "paint", always)
    assert coco.as_voc(root, tmp_path / "target") == folder
    assert sorted(painted) == [1, 1, 2, 3]  # three of train, one of val, each once
    voc.check(folder, ["train", "val"])


# ---- wrong input --------------------------------------------------------------------------------
def test_a_folder_without_annotations_or_photographs_is_told(root, tmp_path):
    assert f"{tmp_path} is not MS COCO 2014; unpack annotations/instances_" in problem(tmp_path)
    (root / "val2014").rename(root / "away")
    assert "and train2014 there, or the same of val2014, or both." in problem(root)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "[" * 100_000, '{"images": [1]}', "\ud800"])
def test_a_malformed_file_is_told(root, text):
    path = root / "annotations/instances_train2014.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    assert problem(root).startswith(f"{path} cannot be used (")


def first(part, **values):
    return lambda content: content[part][0].update(values)


NAMED = "3 categories; give 1 to 254, each with a name."


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (first("annotations", image_id=77), "annotation 1 of image 77 and category 2 cannot"),
        (first("annotations", category_id=1), "annotation 1 of image 1 and category 1 cannot"),
        (first("images", file_name="../x.jpg"), "image 1 is '../x.jpg' of 6 x 4 pixels; add this"),
        (first("images", file_name="/x.jpg"), "image 1 is '/x.jpg' of 6"),
        (first("images", file_name="x\n.jpg"), r"image 1 is 'x\n.jpg' of 6"),
        (first("images", file_name="x.jpg"), "image 1 is 'x.jpg' of 6 x 4 pixels; add this photo"),
        (first("images", height=0), "of 6 x 0 pixels; "),
        (
            first("images", height=10**9, width=10**9),
            "or give its plain name, which ends in .jpg, and",
        ),
        (first("images", id=2), "2 is there twice"),
        (first("images", height="4"), "image 1 is 'COCO_train2014_000000000001.jpg' of 6 x '4'"),
        (first("images", height=4.5), "of 6 x 4.5 pixels; "),
        (first("categories", name="ant"), "category name 'ant' is there twice; give each its own."),
        (first("categories", name="cow"), "category name 'cow' is there twice; give each its own."),
        (first("categories", id=2), "category id 2 is there twice; give each its own."),
        (first("categories", name=""), NAMED),
        (first("categories", name=None), NAMED),
    ],
)
def test_entries_that_do_not_suit_are_told(root, edit, words):
    change(root, edit)
    assert words in problem(root)
    assert not list(root.parent.rglob("SegmentationClass"))  # told before anything is painted


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[]],
        [[1, 1, 4, 1]],  # pycocotools would take it for a box
        [[1, 1, 4, 1, 4, 4, 2]],
        [[1, 1, 4, 1, 4, float("nan")]],
        [[1, 1, 4, 1, 4, 1e12]],
        [["a", 1, 4, 1, 4, 4]],
        5,
        None,
        {"counts": [24]},
        {"size": [6, 4], "counts": [24]},
        {"size": [4, 6], "counts": [1, 2]},
        {"size": [4, 6], "counts": [-1, 25]},
        {"size": [4, 6], "counts": None},
        {"size": [4, 6], "counts": "\u00e9"},
        {"size": [4, 6], "counts": "o"},
        encoded(np.ones((2, 2), np.uint8)) | {"size": [4, 6]},
        encoded(np.ones((9, 9), np.uint8)) | {"size": [4, 6]},
        {"size": [4, 6], "counts": "o" * 9 + "0"},
        compressed([3, 2]),  # pycocotools would leave the rest as it lies in memory
        compressed([3, 21, 1]),
        compressed([0, 4, 4, -1, 17]),
        {"size": [4.5, 6], "counts": [0, 24]},
        {"size": [4, 6], "counts": [0.5, 23.5]},
        [4, 1],
    ],
)
def test_segmentations_that_cannot_be_painted_are_told(root, segmentation):
    change(root, first("annotations", segmentation=segmentation))
    path = root / "annotations/instances_train2014.json"
    assert problem(root) == (
        f"{path}: annotation 1 of image 1 and category 2 cannot be painted; give ids that are "
        "listed, and polygons of three points or more inside the image or run lengths that add up "
        "to its pixels."
    )


@pytest.mark.parametrize("outline", [LARGE[0], SMALL[0], [1.5, 1, 4, 1, 4, 3.25]])
def test_a_flat_polygon_is_told_as_what_it_is(root, outline):
    change(root, first("annotations", segmentation=outline))
    assert problem(root).endswith(
        "annotation 1 of image 1 and category 2 cannot be painted; its polygon is a flat list; put "
        "it into a list of polygons: [[x, y, ...]]."
    )


def test_an_annotation_of_a_box_alone_is_told(root):
    change(root, lambda content: content["annotations"][0].pop("segmentation"))
    assert "annotation 1 of image 1 and category 2 cannot be painted; give" in problem(root)


def test_annotations_are_told_all_at_once_before_anything_is_painted(root, monkeypatch):
    monkeypatch.setattr(coco, "paint", None)

    def spoil(content):
        first("annotations", image_id=77)(content)
        content["annotations"][1]["segmentation"] = []
        content["annotations"][4]["segmentation"] = encoded(np.ones((2, 2), np.uint8))
        content["annotations"][4]["segmentation"]["size"] = [HEIGHT, WIDTH]

    change(root, spoil)
    with pytest.raises(InputError) as caught:
        coco.as_voc(root, root.parent / "target")
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 problems; correct these first:"
    assert [line.split(": ")[1][:12] for line in lines[1:]] == [
        f"annotation {k}" for k in (1, 2, 5)
    ]


def test_all_photographs_that_are_missing_are_told_in_both_splits(root):
    for split, number in (("train", 1), ("train", 3), ("val", 1)):
        (root / f"{split}2014/COCO_{split}2014_{number:012d}.jpg").unlink()
    with pytest.raises(InputError) as caught:
        coco.as_voc(root, root.parent / "target")
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 problems; correct these first:"
    for line, name in zip(
        lines[1:], ("train2014_{}1", "train2014_{}3", "val2014_{}1"), strict=True
    ):
        assert f"{name.format('0' * 11)}.jpg' of 6 x 4 pixels; add this photograph to" in line


def test_splits_of_different_data_sets_are_told(root):
    change(root, first("categories", name="wasp"), "val")
    assert "differ in their categories" in problem(root)


def test_a_file_name_that_two_images_have_is_told(root):
    change(root, first("images", file_name="COCO_train2014_000000000002.jpg"))
    assert "or share a file name; give two of one data set." in problem(root)


# ---- the study reads it -------------------------------------------------------------------------
def eighty(root):
    """80 categories, ids with gaps, one an image; a val image too."""
    categories = [(k + 1 + k // 10, f"class {k}") for k in range(80)]
    annotations = [annotation(k, k + 1, id, SMALL) for k, (id, _) in enumerate(categories)]
    write_split(root, "train", annotations, 80, categories)
    write_split(root, "val", [annotation(1, 1, categories[-1][0], LARGE)], 1, categories)
    return root


def three(root):
    """3 categories; the images take turns."""
    ids = [id for id, _ in CATEGORIES]
    annotations = [annotation(k, k + 1, ids[k % 3], LARGE) for k in range(12)]
    write_split(root, "train", annotations, 13)
    write_split(root, "val", ANNOTATIONS["val"], 1)
    return root


@pytest.mark.parametrize(("make", "classes", "labelled"), [(three, 3, 12), (eighty, 80, 80)])
def test_the_study_reads_coco(make, classes, labelled, tmp_path, monkeypatch):
    monkeypatch.setattr("ribkit.study.inputs.ROOT", tmp_path)
    changes = {"score_images": 4, "tune_images": 3, "classifier.batch": 2}
    changes |= {"backbone": "small", "network_backbone": "small"}
    changes |= {"pretext_scenes": 32, "pretext_epochs": 1}
    study = Study("coco", str(make(tmp_path / "coco")), changes)
    trained = labelled + (classes == 3)  # the one without any class, too
    assert study.check().splitlines()[0] == (
        f"coco: 4 images to score, {trained} to train on, 3 to tune on, "
        f"{labelled - 7} further to make labels for, {classes} classes"
    )
    assert study.data.parent == tmp_path / "build/data"
    assert Study("coco", str(study.data), changes).data == study.data
    sets = [study.scored, study.tuning, *study.remaining_images]
    names = [name for images in sets for name in images.ids]
    shown = study.train.labels.any(axis=1)
    assert sorted(names) == sorted(np.array(study.train.ids)[shown])
    for images in sets:
        for index in range(len(images)):
            shown = set(np.unique(images.mask(index))) - {0}
            assert shown == {k + 1 for k in np.flatnonzero(images.labels[index])}
    if classes == 80:
        assert study.train.labels.sum(axis=0).tolist() == [1] * 80
        assert study.train.mask(79).max() == 80
