"""Pseudo labels for a folder of photographs without any mask, through the study's own chain."""

import json
import os
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ribkit import label as door
from ribkit.data import voc
from ribkit.data.images import ImageSet
from ribkit.label import label
from ribkit.results import sheets
from ribkit.results.sheets import Row
from ribkit.runtime import store
from ribkit.runtime.errors import InputError
from ribkit.study import command_line, study

QUICK = {
    "backbone": "small", "pretext_scenes": 32, "pretext_epochs": 1, "classifier.epochs": 1,
    "classifier.batch": 4,
    "classifier.crop": 32, "classifier.long_sides": (32, 40), "long_side": 32, "bank_side": 32,
    "scale_sets": "1.0",
    "steps": 1, "n_others": "2", "irn.epochs": 1, "irn.batch": 2, "irn.crop": 32, "irn.stride": 4,
    "irn.radius": 2, "irn_log2_steps": "2",
}  # fmt: skip
SIZES = {"a.png": (36, 48), "b.jpg": (48, 30), "c.png": (40, 40), "d.png": (600, 400)}
LABELS = {"a.png": ["red"], "b.jpg": ["blue"], "c.png": ["blue", "red"], "d.png": []}


@pytest.fixture(autouse=True, scope="module")
def _one_store(tmp_path_factory):
    """For all tests: the same photographs are labelled again and again."""
    patched = pytest.MonkeyPatch()
    patched.setattr(study, "ROOT", tmp_path_factory.mktemp("root"))
    yield
    patched.undo()


@pytest.fixture
def _computes_nothing(monkeypatch):
    monkeypatch.setattr(store, "_compute", lambda job: pytest.fail(f"{job.result} is made"))


@pytest.fixture
def folder(tmp_path):
    """Grey photographs with a red or blue rectangle, or both, or nothing on them."""
    found, random = tmp_path / "photos", np.random.default_rng(0)
    found.mkdir()
    for name, (height, width) in SIZES.items():
        pixels = random.integers(90, 160, (height, width, 3), np.uint8)
        half = width // 2
        if "red" in LABELS[name]:
            pixels[height // 4 : -height // 4, 2:half] = (230, 20, 20)
        if "blue" in LABELS[name]:
            pixels[height // 4 : -height // 4, half:-2] = (20, 20, 230)
        Image.fromarray(pixels).save(found / name, quality=95)
    return found


def made(folder):
    """Path -> bytes of all that was written."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def written(path, text):
    path.write_text(text)
    return path


# ---- what is written ----------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["cam", "rib"])
def test_a_folder_without_masks_becomes_a_sound_folder_in_voc_layout(folder, method):
    done = label(folder, LABELS, method=method, settings=QUICK)
    assert done.folder == folder.with_name("photos_labels")
    voc.check(done.folder, ["train"], masked=["d"])
    images = voc.read(done.folder, "train")
    assert images.ids == ("a", "b", "c", "d")
    assert images.classes == ("blue", "red")
    assert images.labels.tolist() == [[False, True], [True, False], [True, True], [False, False]]
    for index, (name, size) in enumerate(SIZES.items()):
        assert images.image(index).shape[:2] == images.mask(index).shape == size
        shown = {0, *(images.classes.index(one) + 1 for one in LABELS[name])}
        assert set(np.unique(images.mask(index)).tolist()) <= shown
        with Image.open(done.folder / voc.MASK.format(images.ids[index])) as file:
            assert file.mode == "P"
    assert done.classes["class"].tolist() == ["blue", "red"]
    assert done.classes["value"].tolist() == [1, 2]
    assert done.classes["photographs"].tolist() == [2, 2]
    found = [[value in images.mask(i) for i in range(4)] for value in (1, 2)]
    assert done.classes["found"].tolist() == np.sum(found, axis=1).tolist()
    with Image.open(done.folder / "sheet1.png") as sheet:
        assert min(sheet.size) > 300
    assert not list(done.folder.rglob("*.partial"))


def test_irn_walks_before_the_crf(folder):
    plain = label(folder, LABELS, method="cam", settings=QUICK)
    walked = label(folder, LABELS, folder.with_name("walked"), "cam", irn=True, settings=QUICK)
    assert walked.threshold != plain.threshold
    voc.check(walked.folder, ["train"], masked=["d"])


def test_pascals_classes_have_pascals_numbers(folder):
    labels = {name: ["cat" if one == "red" else "dog" for one in LABELS[name]] for name in LABELS}
    done = label(folder, labels, method="cam", settings=QUICK)
    assert done.classes["value"].tolist() == [8, 12]


def test_an_interrupted_run_goes_on_and_a_second_one_computes_nothing(
    folder, tmp_path, monkeypatch, request
):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "ROOT", tmp_path)

    with monkeypatch.context() as patched:
        patched.setattr(door.export, "pseudo_ground_truth", stopped)
        with pytest.raises(KeyboardInterrupt):
            label(folder, LABELS, method="cam", settings=QUICK)
    out = folder.with_name("photos_labels")
    assert {path.name for path in out.iterdir()} == {door.RECORD}
    request.getfixturevalue("_computes_nothing")
    label(folder, LABELS, method="cam", settings=QUICK)
    before = made(out)
    label(folder, LABELS, method="cam", settings=QUICK)
    assert made(out) == before


def test_a_classifier_of_an_earlier_run_labels_other_photographs(folder, tmp_path):
    first = label(folder, LABELS, method="cam", settings=QUICK)
    other = tmp_path / "other"
    other.mkdir()
    (folder / "a.png").rename(other / "e.png")
    weights = first.folder / door.CLASSIFIER
    second = label(other, {"e": "red"}, method="cam", weights=weights, settings=QUICK)
    assert second.classes["value"].tolist() == [1, 2]  # blue and red as before, though only red is
    assert (second.folder / door.CLASSIFIER).read_bytes() == weights.read_bytes()
    with pytest.raises(
        InputError, match="'green' is no class of the classifier; its are blue, red"
    ):
        label(other, {"e": "green"}, method="cam", weights=weights, settings=QUICK)
    with pytest.raises(InputError, match="is of small; leave the setting backbone out"):
        label(other, {"e": "red"}, weights=weights, settings=QUICK | {"backbone": "resnet50"})
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"classifier\.safetensors is no classifier \(.*; give"):
        label(other, {"e": "red"}, weights=weights)


def test_more_photographs_may_follow_but_no_others(folder):
    few = {name: LABELS[name] for name in ("a.png", "b.jpg")}
    with pytest.warns(UserWarning, match=r"passed over, as they have no entry: c\.png, d\.png"):
        label(folder, few, method="cam", settings=QUICK)
    done = label(folder, LABELS, method="cam", settings=QUICK)
    assert len(voc.read(done.folder, "train")) == 4
    (folder / "a.png").unlink()
    rest = {name: LABELS[name] for name in LABELS if name != "a.png"}
    with pytest.raises(InputError, match="labels of other photographs, as of a; give a new folder"):
        label(folder, rest, method="cam", settings=QUICK)


def test_a_sheet_names_each_label_within_it_and_leaves_the_rest_grey():
    labels = np.zeros((20, 30), np.uint8)
    labels[2:12, 3:9], labels[10:18, 15:29] = 1, 11
    pixels = np.full((20, 30, 3), (200, 100, 50), np.uint8)
    rows = [Row("one", pixels, labels / 20, labels), Row("two", pixels, labels / 20, 0 * labels)]
    drawn = sheets.sheet(rows, [f"$class {k}$" for k in range(20)], 0.1)
    photo, plain, first, *_, second, _ = drawn.axes
    texts = {text.get_text(): text.get_position() for text in first.texts}
    assert list(texts) == ["$class 0$", "$class 10$"]
    for (x, y), value in zip(texts.values(), (1, 11), strict=True):
        assert labels[round(y), round(x)] == value
    assert (photo.images[0].get_array() == pixels).all()
    assert len(plain.collections) == 1  # the contour
    coloured = first.images[0].get_array()
    assert np.ptp(coloured[labels == 0], axis=1).max() == 0
    assert len(np.unique(coloured.reshape(-1, 3), axis=0)) == 4  # grey, two classes, white edges
    edge = (coloured == 255).all(axis=2)
    assert edge[2, 3:9].all()
    assert not edge[labels == 0].any()
    assert not edge[6, 5]
    assert not second.texts


# ---- labels -------------------------------------------------------------------------------------
FILES = {
    "labels.json": json.dumps(LABELS),
    "image_labels.json": json.dumps({"classes": ["red", "blue"], "labels": LABELS}),
    "labels.csv": "file,classes\na,red\nb.jpg,blue\n\nc.png,blue; red\nd.png,\n",
    "plain.csv": "\ufeffa.png,red\r\nb.jpg,blue\r\nc.png,red;blue\r\nd.png,\r\n",
}


@pytest.mark.parametrize("name", FILES)
def test_labels_are_read_as_people_write_them(folder, name):
    path = written(folder.parent / name, FILES[name])
    images = door._images(folder, path, ())
    order = ("red", "blue") if name == "image_labels.json" else ("blue", "red")
    assert images.classes == order
    for index, shown in enumerate(LABELS.values()):
        assert {images.classes[k] for k in images[index].classes} == set(shown)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("l.json", "{", r"l\.json cannot be used \(JSONDecodeError.*; write .* as JSON, or lines"),
        ("l.json", "[1]", r"l\.json: the labels are \[1\]"),
        ("l.json", '{"a.png": 3}', r"l\.json: a\.png has 3; write"),
        ("l.json", '{"a.png": ["red", ""]}', r"l\.json: a\.png has \['red', ''\]; write"),
        ("l.json", '{"a.png": [], "a.png": []}', r"'a\.png' stands there 2 times"),
        ("l.json", '{"a.png": []}', r"l\.json: 0 classes; give 1 to 254 different names"),
        ("l.json", '{"a.png": "red", "a": "red"}', r"l\.json names a twice"),
        ("l.json", '{"a.png": "Background"}', "'Background' is no class"),
        ("l.json", '{"classes": ["red"], "labels": {"a": ["blue"]}}', "'blue' is none of the"),
        ("l.json", '{"labels": {"a": ["blue"]}}', r"cannot be used \(KeyError: 'classes'\)"),
        ("l.csv", "a.png,red\ne.png,red\n", r"l\.csv: not in .*photos: e\.png; correct the names"),
        ("l.csv", "a.png,red,blue\n", r"line 1 has 3 columns, not 2"),
        ("l.csv", "a.png;red\n", r"line 1 has 1 columns, not 2"),
        ("l.csv", 'a.png,"red\n', r"l\.csv cannot be used \(ValueError: line 1: "),
        ("l.csv", "a.png,red\na.png,blue\n", r"'a\.png' stands there 2 times"),
        (
            "l.csv",
            "a,red\nb,blue\nc,red blue\n",
            "'red blue' names several classes; write semicolo",
        ),
        (
            "l.csv",
            "a,red\nb,red\nc,red\nd,red;blue\n",
            "all 4 photographs show red, so that a class",
        ),
    ],
)
def test_labels_that_do_not_suit_are_told(folder, name, text, words):
    path = written(folder.parent / name, text)
    with pytest.raises(InputError, match=words) as caught:
        label(folder, path)
    assert "\n" not in str(caught.value)


def test_classes_of_few_photographs_are_told_with_what_they_may_have_meant(folder):
    names = ["red"] * 12 + ["blue", "rde"]
    shown = np.array([[name == each for each in ("blue", "rde", "red")] for name in names])
    images = ImageSet(tuple(map(str, range(14))), ("blue", "rde", "red"), shown, None)
    with pytest.warns(UserWarning, match=r"few photographs show blue \(1\), rde \(1, or red\); a"):
        door._warn_of_few(images)
    with warnings.catch_warnings(action="error"):
        door._warn_of_few(replace(images, classes=("red",), labels=shown[:, 2:]))


def test_a_file_of_labels_that_is_missing_or_no_text_is_told(folder, tmp_path):
    with pytest.raises(InputError, match=r"none\.csv is no file of labels; write"):
        label(folder, tmp_path / "none.csv")
    (tmp_path / "l.csv").write_bytes(b"a.png,caf\xe9")
    with pytest.raises(InputError, match=r"l\.csv cannot be used \(UnicodeDecodeError"):
        label(folder, str(tmp_path / "l.csv"))


# ---- photographs and folders --------------------------------------------------------------------
def test_no_folder_and_one_without_photographs_are_told(tmp_path):
    with pytest.raises(InputError, match="none is not a folder; give one that holds photographs"):
        label(tmp_path / "none", LABELS)
    with pytest.raises(InputError, match="holds no photograph"):
        label(tmp_path, LABELS)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.jpg", r"a\.png and a\.jpg would have one name; rename one of them"),
        (" a.jpg", "has a name that no list can hold; rename it"),
        ("a\nb.jpg", "has a name that no list can hold; rename it"),
        (os.fsdecode(b"caf\xe9.jpg"), "has a name that no list can hold; rename it"),
    ],
)
def test_names_that_no_folder_in_voc_layout_can_have_are_told(folder, name, words):
    Image.new("RGB", (40, 40)).save(folder / name)
    with pytest.raises(InputError, match=words):
        label(folder, LABELS)


@pytest.mark.usefixtures("_computes_nothing")
def test_nothing_is_written_over(folder, tmp_path):
    for holds in ("masks", "photos_labels"):
        (tmp_path / holds).mkdir()
        written(tmp_path / holds / "mine.png", "precious")
    for out in ("", tmp_path / "masks", folder):
        with pytest.raises(InputError, match="holds other things; give a new folder by --out"):
            label(folder, LABELS, out, settings=QUICK)


def test_a_threshold_that_is_given_is_taken(folder):
    done = [label(folder, LABELS, threshold=t, settings=QUICK) for t in (0.0, 0.4, 0.99)]
    assert [one.threshold for one in done] == [0.0, 0.4, 0.99]
    areas = [(one.classes["found"] * one.classes["area"]).sum() for one in done]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > areas[-1]
    with pytest.raises(InputError, match=r"threshold 40\.0 is out of range; give one from 0 to"):
        label(folder, LABELS, threshold=40.0)


def test_methods_and_settings_that_do_not_exist_are_told(folder):
    with pytest.raises(InputError, match="method 'crf' is unknown; use one of cam, rib"):
        label(folder, LABELS, method="crf")
    with pytest.raises(
        InputError, match=r"no setting 'epoch'; did you mean classifier\.epochs or irn"
    ):
        label(folder, LABELS, settings={"epoch": 2})
    assert not folder.with_name(f"{folder.name}_labels").exists()


def test_the_study_sends_its_profile_to_the_command(folder):
    said = r"profile label needs .* python -m ribkit\.label FOLDER"
    with pytest.raises(InputError, match=said):
        study.Study("label")
    options = ["--profile", "label", "--data", str(folder), "--device", "cpu"]
    with pytest.raises(InputError, match=said):
        command_line.opened(command_line.parser("", "").parse_args(options))


def test_the_command_says_what_it_wrote_or_what_is_wrong(folder, tmp_path, capsys):
    path = written(tmp_path / "labels.csv", FILES["labels.csv"])
    settings = [
        "--set",
        " ".join(f"{k}={v}" for k, v in QUICK.items() if k != "classifier.long_sides"),
    ]
    command = [str(folder), "--labels", str(path), "--method", "cam", *settings]
    assert door.main([*command, "--set", "classifier.long_sides=32,40"]) == 0
    shown = capsys.readouterr()
    assert shown.out.split()[:5] == ["class", "value", "photographs", "found", "area"]
    assert f"Look at {folder.with_name('photos_labels') / 'sheet1.png'} first." in shown.out
    assert door.main([str(folder / "none"), "--labels", str(path)]) == 1
    assert capsys.readouterr().err.endswith("is not a folder; give one that holds photographs.\n")


def test_the_command_explains_itself(capsys):
    with pytest.raises(SystemExit):
        door.main(["--help"])
    assert "no mask is read anywhere" in capsys.readouterr().out
