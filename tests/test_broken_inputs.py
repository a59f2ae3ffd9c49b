"""Every kind of broken input: one sentence, exit status 1, nothing computed; all of them at once.

A small folder of scenes in VOC layout is broken in one place each. What is said must name the file,
the value and the remedy. `VOC` labels come from JSON; those of `ANNOTATED` from XML.
"""

import io
import itertools
import json
import os
import pickle
import shutil
import zlib

import numpy as np
import pytest
import torch
from crafted import Touch, chunk, png
from PIL import Image
from test_digits import write_mnist

from ribkit import reproduce
from ribkit.data import scenes, voc
from ribkit.runtime import notebooks
from ribkit.study.study import Study

NAMES = ("cat", "cow", "dog", "horse", "sheep", "bird", "boat", "bus")
IDS = tuple(f"{k:02}" for k in range(40))
TRIED = []  # command lines with something broken
SPLITS = {"train": IDS[:32], "train_aug": IDS[:36], "val": IDS[36:]}
SETTINGS = {
    "classes": ",".join(NAMES),
    "tune_images": "4",
    "classifier.batch": "2",
    "saliency": "{}/saliency",
    "digits": "{}/digits",
    "toy_train": "12",
    "toy_test": "6",
    "backbone": "small",
    "network_backbone": "small",
    "pretext_scenes": "32",
    "pretext_epochs": "1",
}


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    """A folder without a fault: photographs, masks, labels, lists, saliency maps and digits."""
    root = tmp_path_factory.mktemp("sound")
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation", "saliency"):
        (root / part).mkdir(parents=True)
    labels = {}
    for k, id in enumerate(IDS):
        scene = scenes.draw(5, k, 64)
        Image.fromarray(scene.image).save(root / voc.IMAGE.format(id), quality=95)
        voc.write_mask(root, id, scene.mask)
        Image.fromarray(np.uint8(255) * (scene.mask > 0)).save(root / f"saliency/{id}.png")
        labels[id] = [NAMES[value - 1] for value in np.unique(scene.mask) if value]
    voc.write_labels(root, NAMES, labels)
    for split, ids in SPLITS.items():
        voc.write_list(root, split, ids)
    write_mnist(root / "digits")
    return root


@pytest.fixture
def root(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "data")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Where results go, and a test in which any is computed fails."""

    def refuse(*arguments, **more):
        raise AssertionError("something was computed")

    folder = tmp_path / "project"
    for module in ("study", "inputs"):
        monkeypatch.setattr(f"ribkit.study.{module}.ROOT", folder)
    monkeypatch.setattr(reproduce, "ROOT", folder)
    monkeypatch.setattr(notebooks, "run", refuse)
    monkeypatch.setattr("ribkit.runtime.store._settle", refuse)
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")
    monkeypatch.delenv("RIBKIT_PROGRESS", raising=False)
    return folder


def settings(root, **changes):
    return {name: value.format(root) for name, value in (SETTINGS | changes).items()}


def told(root, capsys, project, profile="voc-lite", **changes):
    """What a user reads, in lines, when he runs the study on a folder."""
    words = ["--profile", profile, "--data", str(root)]
    for pair in settings(root, **changes).items():
        words += ["--set", "{}={}".format(*pair)]
    assert reproduce.main(words) == 1
    TRIED.append(words)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert not [path for path in project.rglob("*") if path.is_file()]
    return printed.err.strip().split("\n")


def test_the_sound_folder_has_no_fault(root):
    study = Study("voc-lite", str(root), settings(root))
    assert study.check() == (
        "voc-lite: 32 images to score, 36 to train on, 4 to tune on, 8 classes"
    )


# ---- one file of many ---------------------------------------------------------------------------
def image(id):
    return f"JPEGImages/{id}.jpg"


def mask(id):
    return f"SegmentationClass/{id}.png"


def shorten(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def becomes(content):
    return lambda path: path.write_bytes(content)


def picture(mode, size=(64, 64), colour=0, kind="PNG"):
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, kind)
    return becomes(file.getvalue())


def replaced(make):
    """The file goes; ``make(path)`` puts something else in its place."""

    def edit(path):
        path.unlink()
        make(path)

    return edit


def labels(edit):
    """An edit of the labels in ``image_labels.json``."""

    def change(path):
        content = json.loads(path.read_text())
        edit(content["labels"])
        path.write_text(json.dumps(content))

    return change


TEXT_BOMB = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
JSON = "image_labels.json"
FILES = {  # kind: the file, what is done to it, what is said of it, and to do
    "truncated JPEG": (image("00"), shorten, "image file is truncated", "get it again, or"),
    "empty image": (image("01"), becomes(b""), "cannot identify image file", "save it as one of"),
    "text named .jpg": (image("02"), becomes(b"words"), "cannot identify image file", "save it as"),
    "missing image": (image("03"), os.unlink, "does not exist", "add it or take its name off"),
    "dangling link": (
        image("04"),
        replaced(lambda path: path.symlink_to("nowhere.jpg")),
        "does not exist",
        "add it or take its name off the list.",
    ),
    "link to itself": (
        image("05"),
        replaced(lambda path: path.symlink_to(path.name)),
        "does not exist",
        "add it or take its name off the list.",
    ),
    "folder in place of an image": (
        image("06"),
        replaced(os.mkdir),
        "is not a file",
        "add it or take its name off the list.",
    ),
    "pipe in place of an image": (image("07"), replaced(os.mkfifo), "not a file", "add it or"),
    "EPS named .jpg": (
        image("08"),
        becomes(EPS),
        "cannot identify image file",
        "save it as one of",
    ),
    "GIF named .jpg": (
        image("09"),
        picture("L", kind="GIF"),
        "cannot identify image file",
        "save it as one of JPEG, PNG",
    ),
    "image of 30,000 pixels": (
        image("10"),
        becomes(png(30_000, 10)),
        "30000 x 10 pixels",
        "20,000 pixels a side at most.",
    ),
    "bomb of pixels": (
        image("11"),
        becomes(png(25_000, 25_000)),
        "625000000 pixels",
        "20,000 pixels a",
    ),
    "bomb of text": (mask("12"), becomes(png(64, 64, TEXT_BOMB)), "too large for", "get it again"),
    "missing mask": (mask("13"), os.unlink, "does not exist", "add it or take its name off"),
    "truncated mask": (mask("14"), shorten, "cannot be used (", "get it again"),
    "mask of another size": (
        mask("15"),
        picture("L", (64, 65)),
        "is 64 x 65 pixels and its image 64 x 64",
        "make them one size.",
    ),
    "mask in colours": (mask("16"), picture("RGB"), "colour mode RGB", "palette or 8-bit grey PNG"),
    "mask of 16 bits": (mask("17"), picture("I;16"), "mode I;16", "palette or 8-bit grey PNG."),
    "mask of 32 bits": (
        mask("18"),
        picture("I", kind="TIFF"),
        "colour mode I;",
        "palette or 8-bit grey PNG.",
    ),
    "mask with a value that is no class": (
        mask("19"),
        picture("L", colour=9),
        "the value 9, which is no class",
        "use 0 to 8, or 255",
    ),
    "mask as a JPEG": (
        mask("20"),
        lambda path: Image.open(path).convert("L").point(lambda v: v * 20).save(path, "JPEG"),
        "which is no class",
        "use 0 to 8, or 255 for pixels to ignore.",
    ),
    "image without a label": (
        JSON,
        labels(lambda content: content.pop("21")),
        "has no entry for '21'",
        'add it to "labels".',
    ),
    "label that is no class": (
        JSON,
        labels(lambda content: content.update({"22": ["wasp"]})),
        "image 22: no class is called 'wasp'",
        "use some of cat, cow",
    ),
}
MAPS = {  # the same, of saliency maps, which are looked at once the lists and labels are sound
    "missing saliency map": ("saliency/23.png", os.unlink, "does not exist", "add it"),
    "saliency map in colours": (
        "saliency/24.png",
        picture("RGB", colour=(255, 0, 0)),
        "is coloured;",
        "save the saliency map as a grey PNG.",
    ),
    "saliency map of another size": (
        "saliency/25.png",
        picture("L", (32, 64)),
        "is 32 x 64 pixels and its image 64 x 64",
        "make them one size.",
    ),
    "saliency map of 30,000 pixels": (
        "saliency/26.png",
        becomes(png(10, 30_000)),
        "10 x 30000 pixels",
        "20,000 pixels a side at most.",
    ),
    "truncated saliency map": ("saliency/27.png", shorten, "cannot be used (", "get it again"),
}


@pytest.mark.parametrize("kind", [*FILES, *MAPS])
def test_a_broken_file_is_told_in_one_sentence(kind, root, capsys, project):
    name, edit, said, remedy = (FILES | MAPS)[kind]
    edit(root / name)
    (line,) = told(root, capsys, project)
    assert line.startswith(str(root / name))
    assert said in line
    assert remedy in line
    assert line.endswith(".")


# ---- lists, labels and the folder ---------------------------------------------------------------
def annotate(text):
    """Labels from XML: one image has this annotation, the others a sound one."""

    def edit(root):
        (root / JSON).unlink()
        (root / "Annotations").mkdir()
        for id in IDS:
            sound = "<annotation><object><name>cat</name></object></annotation>"
            (root / f"Annotations/{id}.xml").write_text(sound)
            voc.write_mask(root, id, np.full((64, 64), 8, np.uint8))
        path = root / "Annotations/02.xml"
        path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text)

    return edit


def relabel(root, values):
    """Masks of one value each, and labels that agree."""
    for id, value in values.items():
        voc.write_mask(root, id, np.full((64, 64), value, np.uint8))
    voc.write_labels(root, NAMES, {id: [NAMES[value - 1]] for id, value in values.items()})


def wrong_list(content):
    return lambda root: (root / voc.LIST.format("train")).write_bytes(content)


def wrong_json(text):
    return lambda root: (root / JSON).write_text(text)


ENTITIES = "".join(f'<!ENTITY {b} "{10 * f"&{a};"}">' for a, b in itertools.pairwise("abcdefghi"))
LAUGHS = f'<!DOCTYPE z [<!ENTITY a "ha">{ENTITIES}]><annotation>&i;</annotation>'
OUTSIDE = '<!DOCTYPE z [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>'
XML, LIST = "Annotations/02.xml", "ImageSets/Segmentation/train.txt"
PASCALS = {"classes": "cat,dog"}  # of PASCAL's 20, which XML names
FOLDERS = {  # kind: the file, what is done to the folder, what is said, and to do; settings
    "broken XML": (
        XML,
        annotate("<annotation><object>"),
        "no element found",
        "replace it.",
        PASCALS,
    ),
    "entity bomb": (XML, annotate(LAUGHS), "declares a document type", "replace it.", PASCALS),
    "entity that reads a file": (XML, annotate(OUTSIDE), "document type", "replace it.", PASCALS),
    "entity bomb in UTF-16": (
        XML,
        annotate(LAUGHS.encode("utf-16")),
        "cannot be used (",
        "replace it.",
        PASCALS,
    ),
    "XML that is too long": (
        XML,
        annotate("<annotation>" + " " * voc.XML_BYTES + "</annotation>"),
        "over 1,000,000 bytes",
        "replace it.",
        PASCALS,
    ),
    "annotation of no class": (
        XML,
        annotate("<annotation><object><name>wasp</name></object></annotation>"),
        "no class is called 'wasp'",
        "use some of aeroplane",
        PASCALS,
    ),
    "missing annotation": (
        XML,
        lambda root: (annotate("")(root), (root / XML).unlink()),
        "does not exist",
        "add it or take its name off the list.",
        PASCALS,
    ),
    "JSON cut short": (JSON, wrong_json('{"classes": ["cat'), "JSONDecodeError", "write {", {}),
    "JSON of another form": (
        JSON,
        wrong_json('{"02": "cat"}'),
        "KeyError: 'classes'",
        "write {",
        {},
    ),
    "JSON nested without end": (JSON, wrong_json("[" * 99_999), "RecursionError", "write {", {}),
    "name twice": (
        LIST,
        wrong_list(b"00\n01\n00\n"),
        "lists '00' (2 x); give plain",
        "each once.",
        {},
    ),
    "empty list": (LIST, wrong_list(b"\n \n"), "split 'train' is empty", "one a line, or", {}),
    "missing list": (
        LIST,
        lambda root: (root / LIST).unlink(),
        "split 'train' is empty",
        "choose a list that exists (train_aug, val).",
        {},
    ),
    "name that leads out": (
        LIST,
        wrong_list(b"00\n../../secret\n"),
        "lists '../../secret'",
        "give plain image names such as 2007_000032",
        {},
    ),
    "absolute name": (LIST, wrong_list(b"/etc/passwd\n"), "lists '/etc/passwd'", "give plain", {}),
    "name with backslashes": (LIST, wrong_list(b"..\\00\n"), r"'..\\00'", "give plain", {}),
    "list of pairs of paths": (
        LIST,
        wrong_list(b"/JPEGImages/00.jpg /SegmentationClass/00.png\n"),
        "lists '/JPEGImages/00.jpg /SegmentationClass/00.png'",
        "give plain image names",
        {},
    ),
    "name with a zero byte": (LIST, wrong_list(b"00\0\n"), r"lists '00\x00'", "give plain", {}),
    "binary list": (
        LIST,
        wrong_list(bytes(range(256))),
        "codec can't decode",
        "as UTF-8 text.",
        {},
    ),
    "list in UTF-16": (
        LIST,
        wrong_list("00\n01\n".encode("utf-16")),
        "codec can't decode byte 0xff",
        "save it as UTF-8 text.",
        {},
    ),
    "unknown class": (
        "",
        lambda root: None,
        "no class is called 'wasp'",
        "use some of cat, cow",
        {"classes": "cat,wasp"},
    ),
    "class twice": ("", lambda root: None, "twice in cat, cat", "once.", {"classes": "cat,cat"}),
    "class that no image shows": (
        LIST,
        lambda root: relabel(root, {id: 1 if id in SPLITS["val"] else 2 for id in IDS}),
        "lists no image that shows one of the classes (cat)",
        "set classes to others.",
        {"classes": "cat"},
    ),
    "too few images to tune on": (
        "ImageSets/Segmentation/train_aug.txt",
        lambda root: None,
        "has 4 images that show a class and are not scored, and tune_images=5 are needed",
        "set score_images to fewer, or tune_images.",
        {"tune_images": "5"},
    ),
    "saliency folder that is none": (
        "saliency",
        lambda root: shutil.rmtree(root / "saliency"),
        "is not a folder",
        "give one with a saliency PNG for each image.",
        {},
    ),
    "digits that are none": (
        "digits/MNIST/raw",
        lambda root: shutil.rmtree(root / "digits"),
        "Cannot read MNIST in",
        "put the four IDX files there",
        {},
    ),
    "digits cut short": (
        "digits/MNIST/raw",
        lambda root: shorten(root / "digits/MNIST/raw/t10k-images-idx3-ubyte"),
        "Cannot read MNIST in",
        "put the four IDX files there",
        {},
    ),
    "fewer digits than needed": (
        "digits",
        lambda root: None,
        "n_train = 500, but there are 40 images",
        "choose a number from 2 to 40.",
        {"toy_train": "500"},
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_broken_folder_is_told_in_one_sentence(kind, root, capsys, project):
    name, edit, said, remedy, changes = FOLDERS[kind]
    edit(root)
    (line,) = told(root, capsys, project, **changes)
    assert str(root / name) in line
    assert said in line
    assert remedy in line
    assert line.endswith(".")


@pytest.mark.parametrize("place", ["nowhere", JSON])
def test_data_that_is_no_folder_is_told(place, root, capsys, project):
    (line,) = told(root / place, capsys, project, saliency="", digits="")
    assert line == f"{root / place} is not a folder; give a folder in VOC layout."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_told(root, capsys, project):
    (root / image("03")).chmod(0)
    (line,) = told(root, capsys, project)
    assert line.startswith(f"{root / image('03')} cannot be used (PermissionError: [Errno 13]")


# ---- weights ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path, ran: None, "is missing"),
        (lambda path, ran: path.mkdir(), "is missing"),
        (lambda path, ran: path.write_bytes(b"words"), "is damaged or holds more than tensors"),
        (lambda path, ran: path.write_bytes(b""), "is damaged or holds more than tensors"),
        (
            lambda path, ran: path.write_bytes(pickle.dumps(Touch(ran))),
            "is damaged or holds more than tensors",
        ),
        (
            lambda path, ran: torch.save({"fc.weight": Touch(ran)}, path),
            "is damaged or holds more than tensors",
        ),
        (lambda path, ran: (torch.save({"a": torch.ones(999)}, path), shorten(path)), "is damaged"),
        (lambda path, ran: torch.save([1, 2], path), "does not fit ResNet-50 (Expected state_dict"),
        (lambda path, ran: torch.save({1: 2}, path), "does not fit ResNet-50 ("),
        (lambda path, ran: torch.save({"fc.weight": 3}, path), "does not fit ResNet-50 ("),
        (
            lambda path, ran: torch.save({"conv1.weight": torch.ones(2)}, path),
            "does not fit ResNet-50 (Error(s) in loading state_dict for ResNet",
        ),
    ],
)
def test_broken_weights_are_told_and_run_nothing(make, said, root, capsys, project):
    path, ran = root / "weights.pth", root / "ran"
    make(path, ran)
    changes = {"backbone": "resnet50", "weights": str(path)}
    (line,) = told(root, capsys, project, **changes)
    assert line.startswith(f"{path} {said}")
    assert line.endswith("on a machine with a network, and copy the file here.")
    assert not ran.exists()


# ---- settings -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("steps", "many", "setting steps='many' is not of type int; its value in profile voc-lite"),
        (
            "classifier.lr",
            "nan",
            "setting classifier.lr='nan' must be finite; its value in profile voc-lite is 0.01.",
        ),
        ("lrs", "1e-6,-1", "setting lrs='1e-6,-1' must be 0 or more; its value in profile"),
        ("scale_sets", "0.5;1.0", "setting scale_sets='0.5;1.0' must be different scales with 1.0"),
        ("scale_sets", "1,1", "setting scale_sets='1,1' must be different scales with 1.0 among"),
        ("norms", "0.8,0.2", "setting norms='0.8,0.2' must be in ascending order, the most"),
        ("psa_alphas", "8,8", "setting psa_alphas='8,8' must be in ascending order, the most"),
        ("smoothings", "0.1,0", "setting smoothings='0.1,0' must be in ascending order, the most"),
        ("irn.batch", "0", "setting irn.batch='0' must be 1 or more; its value in profile"),
        ("train_images", "1", "setting train_images='1' must be at least 2, one batch (or 0: all"),
        ("weights", "a.pth", "setting weights='a.pth' must be empty, unless backbone is resnet50"),
        ("seed", "1", "profile voc-lite has no setting 'seed'; did you mean rng_seed."),
        ("stepz", "5", "profile voc-lite has no setting 'stepz'; did you mean steps."),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(name, text, sentence, root, capsys, project):
    (line,) = told(root, capsys, project, **{name: text})
    assert line.startswith(sentence)
    assert line.endswith(".")


# ---- all at once --------------------------------------------------------------------------------
def test_everything_is_told_at_once_in_twenty_lines(root, capsys, project):
    broken = {kind: case for kind, case in (FILES | MAPS).items() if case[0] != JSON}
    for name, edit, *_ in broken.values():
        edit(root / name)
    (root / voc.LIST.format("val")).write_text("36\n36\n")
    shutil.rmtree(root / "digits")
    changes = {"backbone": "resnet50", "weights": str(root / "weights.pth")}
    lines = told(root, capsys, project, **changes)
    assert len(lines) <= 20
    assert lines[0] == f"{len(broken) + 3} problems; correct these first:"
    study = Study("voc-lite", str(root), settings(root, **changes))
    with pytest.raises(ValueError, match="problems; correct these first") as caught:
        study.check()
    every = "\n".join(caught.value.args)
    for name, _, said, remedy in broken.values():
        (line,) = [line for line in caught.value.args if line.startswith(str(root / name))]
        assert said in line
        assert remedy in line
    for words in ("val.txt lists '36' (2 x)", "Cannot read MNIST in", "weights.pth is missing"):
        assert words in every


def aside(root):
    """Masks of five images lie in a folder beside."""
    (root / "SegmentationClassAug").mkdir()
    for id in IDS[20:25]:
        (root / mask(id)).rename(root / f"SegmentationClassAug/{id}.png")


def renamed(root):
    for id in IDS[:20]:
        (root / image(id)).rename(root / f"JPEGImages/{id}.JPG")


def optimised(root):
    """The palette of a mask in another order."""
    picture = Image.fromarray(np.ones((64, 64), np.uint8), "P")
    picture.putpalette([0, 0, 0, *voc.palette()[8].tolist()])
    picture.save(root / mask("30"))


def binary(root):
    for id in IDS:
        values = np.where(np.array(Image.open(root / mask(id))) > 0, 255, 0)
        Image.fromarray(values.astype(np.uint8)).save(root / mask(id))


def thirty_two_bits(root):
    for id in IDS[30:]:
        picture("F", kind="TIFF")(root / image(id))


def columns(root):
    text = "".join(f"{id}  1\n" for id in SPLITS["val"])
    (root / voc.LIST.format("val")).write_text(text)


def elsewhere(root):
    """Objects that the reader does not find, in the annotation of one image."""
    annotate("<annotation><objects><object><name>cat</name></object></objects></annotation>")(root)


def no_digits(root):
    shutil.rmtree(root / "digits")


MANY = {  # five faults, each of one file or of many, and what is said of them; settings
    "names, folders, palettes, bits and a list": (
        (renamed, aside, optimised, thirty_two_bits, columns),
        (
            "00.jpg does not exist, but 00.JPG is there; save it as 00.jpg (and 19 more like it).",
            "20.png does not exist, but SegmentationClassAug/20.png is there; copy the masks of",
            "30.png shows 1 in the colour (64, 0, 0), which is 8 in PASCAL's palette",
            "colour mode F, whose white is unknown; save it with 8 or 16 bits a channel",
            "lists '36  1', and 3 more names in this form",
        ),
        {},
    ),
    "annotations, masks, bits, digits and a network": (
        (elsewhere, binary, thirty_two_bits, no_digits, lambda root: None),
        (
            "02.xml has objects that would not be found",
            "lacks 8 ('cat'), a label of its image, and has ",
            "colour mode F, whose white is unknown",
            "Cannot read MNIST in",
            "weights.pth is missing",
        ),
        PASCALS | {"backbone": "resnet50", "weights": "{}/weights.pth"},
    ),
}


@pytest.mark.parametrize("kind", MANY)
def test_five_faults_at_once_are_all_told(kind, root, capsys, project):
    edits, said, changes = MANY[kind]
    for edit in edits:
        edit(root)
    lines = told(root, capsys, project, **changes)
    assert len(lines) <= 20
    for words in said:
        assert [line for line in lines if words in line], words


@pytest.mark.soak
def test_that_many_were_tried(figures):
    assert len(TRIED) >= len(MANY)
    figures["kinds of broken input, each told before anything is computed"] = len(TRIED)
