"""Nothing stale: a table of edits, what each of them makes anew, and what it leaves as it is.

Edits of code are made on a copy of the package, of which the keys are then taken; nothing is
computed. What is in neither column of a row may be made anew or not: coarser is fine.
"""

import ast
import json
import os
import shutil
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_digits import write_mnist
from test_study import voc_folder

from ribkit import reproduce
from ribkit.data import photographs
from ribkit.evaluation import tuning
from ribkit.evaluation.tuning import Tuned
from ribkit.refinement import stages
from ribkit.runtime import keys
from ribkit.runtime.store import Result, Store
from ribkit.study import maps as seeds
from ribkit.study import mask_free, pipeline, predictions
from ribkit.study.inputs import ROOT
from ribkit.study.maps import Sizes
from ribkit.study.pipeline import FEW, Refinement
from ribkit.study.study import CAM, RIB, RIVALS, Study

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
TINY = {"train_images": 16, "score_images": 2, "tune_images": 2, "val_images": 2}
TINY |= {"toy_train": 24, "toy_test": 12}


class Key(Result):
    """A result of which only its key is known, which is all that its tables hold."""

    def table(self, value):
        return pd.DataFrame({"key": [self.key]})


class Keys(Store):
    """A store that has every result: it takes keys, computes nothing and reads nothing."""

    def run(self, stage, **parameters):
        return Key(stage.stage, keys.key_of(stage.stage, stage, parameters)[0], self.root)

    def run_all(self, calls, label):
        return [self.run(call.func, **call.keywords) for call in calls]


@pytest.fixture(autouse=True)
def _chosen(monkeypatch):
    """What a study reads off its results: settings and thresholds, the first candidates here."""

    def search(axes, score):
        return Tuned(pd.DataFrame(), {axis.name: axis.values[0] for axis in axes})

    monkeypatch.setattr(tuning, "search", search)
    monkeypatch.setattr(Refinement, "threshold", 0.4)
    monkeypatch.setattr(Refinement, "irn_threshold", 0.3)
    monkeypatch.setattr(pipeline, "SALIENT_SCENES", 2)
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")


def all_keys(profile="mini", data="", overrides=TINY):
    """Stage -> key of its result, along the chain that ends in the network of RIB's labels."""
    study = Study(profile, str(data), overrides)
    study.store, p = Keys(study.store.root), study.profile
    rib = Refinement(study, RIB)
    images, maps = rib.scored
    sizes = Sizes(study.scales, p.long_side, p.map_stride)
    seen = {"images": images, "scales": p.test_scales, "long_side": p.long_side}
    few = pipeline.network(study, FEW)
    predicted = pipeline.network_labels(study, "RIB")
    scored = {"images": study.validation, "labels": predicted.arrays("labels")}
    results = {
        "classifier": study.classifier,
        "bank": study.bank(),
        "CAM seeds": study.maps(images, study.scales, None),
        "CAM as chosen": study.seeds(CAM, images)[0],
        "norm": study.store.run(seeds.feature_norms, model=study.model, images=images, sizes=sizes),
        "rival": study.seeds(RIVALS["norm"], images)[0],
        "RIB seeds": maps,
        "growth": study.growth(RIB)[1],
        "score": study.store.run(seeds.score, images=images, maps=maps),
        "levels": study.store.run(mask_free.levels, images=images, maps=maps),
        "labels": rib.labels("seed", images, maps),
        "crf": rib.labels("+ CRF", images, maps),
        "sure-labels": rib.training_labels[0][1],
        "irn": rib.irn.weights,
        "irn-walk": rib.irn_maps(images, maps),
        "psa": rib.psa.weights,
        "psa-walk": rib.labels("+ PSA", images, maps),
        "saliency": pipeline.saliency_maps(study, images),
        "saliency-labels": rib.labels("+ IRN + saliency", images, maps),
        "network": pipeline.network(study, "RIB").weights,
        "predictions": predicted,
        "score-network": study.store.run(stages.score, **scored),
        "few masks": few.weights,
        "predictions-present": study.store.run(predictions.predict_present, model=few, **seen),
        "toy": study.toy(),
        "toy-dose": list(study.toy_doses().values())[-1],
    }
    if p.backbone == "small":
        results["pretext"] = study.pretext
    found = {name: result.fingerprint()["key"] for name, result in results.items()}
    parameters = {"profile": profile, "data": str(data), "overrides": overrides}
    found["toy-masking"] = study.toy_masking()["key"][0]  # of the first seed
    return found | {"notebooks": reproduce.notebook_key(NOTEBOOKS[0], study, parameters)}


@pytest.fixture(scope="module")
def before():
    """The keys of `mini` before any edit, taken once."""
    return cache(all_keys)


def changed(before, after):
    """The stages that are made anew."""
    assert before.keys() == after.keys()
    return {stage for stage in before if before[stage] != after[stage]}


# ---- groups of stages -------------------------------------------------------------------------
END = {"network", "predictions", "score-network", "notebooks"}
IRN_ON = {"irn", "irn-walk", "saliency-labels"} | END
SEEDS_ON = {"RIB seeds", "growth", "score", "labels", "crf", "sure-labels", "psa"}
SEEDS_ON |= {"psa-walk", "levels"} | IRN_ON
CAMS = {"CAM seeds", "CAM as chosen", "norm", "rival"}
CLASSIFIER_ON = {"classifier", "bank"} | CAMS | SEEDS_ON
FEW_ON = {"few masks", "predictions-present"}
SCENES_ON = {"pretext", "saliency"} | CLASSIFIER_ON | FEW_ON
TOYS = {"toy", "toy-dose", "toy-masking"}
ALL = TOYS | SCENES_ON
TRAINED = {"pretext", "classifier"}
SEEDS = {"bank", "RIB seeds"} | CAMS
OTHERS = {"irn", "irn-walk", "psa", "psa-walk"}


# ---- code -------------------------------------------------------------------------------------
@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package, whose code the keys are taken of."""
    copy = tmp_path / "ribkit"
    shutil.copytree(keys.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    keys.code()  # of what runs, once: it is no part of the copy
    monkeypatch.setattr(keys, "PACKAGE", copy)
    keys.code_hash.cache_clear()
    yield copy
    keys.code_hash.cache_clear()


def edit(package, module, old, new):
    path = package / f"{module}.py"
    text = path.read_text()
    assert old in text, f"{module} has no {old!r} any more; choose another edit"
    path.write_text(text.replace(old, new, 1))
    keys.code_hash.cache_clear()


CODE = {
    "a formula of CAM": (
        "method/cam", "maps[0] + maps[1].flip(-1)", "maps[0]",
        CAMS | SEEDS_ON, TRAINED | TOYS,
    ),
    "a constant of CAM": (
        "method/cam", "EPSILON = 1e-5", "EPSILON = 1e-4",
        CAMS | SEEDS_ON, TRAINED | TOYS,
    ),
    "a formula of pooling": ("method/pooling", "< tau", "<= tau", SEEDS_ON, TOYS),
    "a formula of the loss": (
        "method/losses", "-(ACTIVATIONS", "(ACTIVATIONS", SEEDS_ON, TRAINED | TOYS,
    ),
    "a formula of the adaptation": (
        "method/adaptation", "1 - step / settings.steps", "1", SEEDS_ON, TRAINED | TOYS,
    ),
    "a default of the adaptation": (
        "method/settings", "area_level: Share = 0.3", "area_level: Share = 0.4",
        SEEDS_ON, TRAINED | TOYS,
    ),
    "a formula of the walk": (
        "refinement/random_walk", "weights / sums[rows]", "weights",
        {"irn-walk", "psa-walk"} | END, TRAINED | SEEDS | TOYS | {"score"},
    ),
    "a constant of the walk": (
        "refinement/random_walk", "beta: float = 10.0", "beta: float = 9.0",
        {"irn-walk"} | END, TRAINED | SEEDS | TOYS | {"score"},
    ),
    "a decorator": (
        "refinement/psa", "@torch.no_grad()\ndef predict", "def predict",
        {"psa-walk", "notebooks"}, TRAINED | SEEDS | TOYS | {"score"},
    ),
    "a formula of PSA's background": (
        "refinement/psa", "clamp(min=0) ** alpha", "clamp(min=0)",
        {"psa-walk", "notebooks"}, TRAINED | SEEDS | TOYS | {"score"},
    ),
    "a formula of the CRF": (
        "refinement/crf", "bilateral_sxy: float = 50", "bilateral_sxy: float = 49",
        {"crf", "sure-labels", "psa", "psa-walk"} | IRN_ON, TRAINED | SEEDS | TOYS | {"score"},
    ),
    "a formula of the score": (
        "evaluation/miou", "target + predicted - hits", "target + predicted",
        {"score", "score-network", "notebooks"}, TRAINED | TOYS,
    ),
    "a formula of IRN": (
        "refinement/irn", "class Heads", "DELTA = 1\n\n\nclass Heads",
        IRN_ON, TRAINED | SEEDS | TOYS | {"score"},
    ),
    "a formula of IRN's and PSA's labels": (
        "refinement/affinity", "def confident", "DELTA = 1\n\n\ndef confident",
        {"sure-labels", "psa", "psa-walk"} | IRN_ON, TRAINED | SEEDS | TOYS,
    ),
    "a formula of the network": (
        "networks/deeplab", "sum(means) / 2", "sum(means)",
        {"saliency"} | FEW_ON | END,
        TRAINED | SEEDS | TOYS | {"score", "irn", "psa", "irn-walk"},
    ),
    "a formula of the saliency": (
        "refinement/saliency", "saliency > threshold", "saliency >= threshold",
        {"saliency-labels", "notebooks"}, TRAINED | SEEDS | TOYS | {"score"},
    ),
    "a formula of scenes": ("data/scenes", "USUAL_TEXTURE = 0.7", "USUAL_TEXTURE = 0.8", SCENES_ON,
        TOYS,
    ),
    "a formula of views": ("data/views", ".clamp(0, 255)", ".clamp(0, 254)", SCENES_ON, TOYS),
    "a formula of the toy": (
        "study/toy", "maps > threshold", "maps >= threshold",
        TOYS | {"notebooks"}, ALL - TOYS - {"notebooks"},
    ),
    "a formula of the masking test": (
        "study/toy_masking", "np.floor", "np.ceil",
        {"toy-masking", "notebooks"}, ALL - {"toy-masking", "notebooks"},
    ),
    "a formula of a rival": (
        "method/rivals", "maps + weight * norm", "maps - weight * norm",
        {"rival", "notebooks"}, TRAINED | TOYS | FEW_ON | {"saliency"},
    ),
    "a formula of the norm": (
        "study/maps", "norm(dim=1, keepdim=True)", "norm(dim=1, keepdim=True) ** 2",
        {"norm", "rival", "notebooks"}, TRAINED | TOYS | FEW_ON | {"saliency"},
    ),
    "a formula of the mask-free threshold": (
        "study/mask_free", "amax(dim=0)", "amin(dim=0)",
        {"levels", "notebooks"}, ALL - {"levels", "notebooks"},
    ),
    "a formula of predictions of the classes that are shown": (
        "study/predictions", "np.append(0, image.classes + 1)", "np.append(0, image.classes)",
        {"predictions-present", "notebooks"}, TRAINED | SEEDS | TOYS | OTHERS | {"few masks"},
    ),
    "the rule that chooses settings": (
        "evaluation/tuning", "behind <= error", "behind < error",
        {"notebooks"}, ALL - {"notebooks"},
    ),
    "the scenes of another dose": (
        "study/ablation_runs", "set(study.profile.ablations.usual_textures) - {own}", "set()",
        {"notebooks"}, ALL - {"notebooks"},
    ),
    "a formula of an interval": (
        "evaluation/intervals", "[2.5, 97.5]", "[5, 95]", {"notebooks"}, ALL - {"notebooks"},
    ),
    "a figure": (
        "results/special_figures", "ms=11", "ms=12", {"notebooks"}, ALL - {"notebooks"},
    ),
    "words of the runtime": (
        "runtime/store", "is damaged or missing; it is made anew.", "is torn; it is made anew.",
        set(), ALL,
    ),
    "words of an error of the runtime": (
        "runtime/errors", "run the same command again", "start again", set(), ALL,
    ),
    "the chain": (
        "study/pipeline", "SALIENT_SCENES = 400", "SALIENT_SCENES = 401",
        {"notebooks"}, ALL - {"notebooks"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CODE)
def test_an_edit_of_code_makes_anew_what_depends_on_it(name, package, before):
    module, old, new, recomputed, kept = CODE[name]
    known = before()
    edit(package, module, old, new)
    found = changed(known, all_keys())
    assert recomputed <= found
    assert not kept & found


def commented(text):
    inside = text.replace("\ndef ", "\n\n\n\n# Another.\ndef ")
    return f"# A comment.\n{inside}\n\n# The last.\n"


def formatted(text):
    """As Python itself writes it: no comments, other quotes, line breaks and parentheses."""
    return ast.unparse(ast.parse(text))


def documented(text):
    """Other docstrings, everywhere."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        own = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if own and ast.get_docstring(node):
            node.body[0].value.value = "Another docstring."
    return ast.unparse(tree)


@pytest.mark.parametrize("change", [commented, formatted, documented])
def test_comments_docstrings_and_layout_make_nothing_anew(change, package, before):
    known = before()
    for path in package.rglob("*.py"):
        text = path.read_text()
        path.write_text(change(text))
        assert path.read_text() != text or len(text) < 300
    keys.code_hash.cache_clear()
    assert changed(known, all_keys()) == set()


# ---- parameters -------------------------------------------------------------------------------
CLIPPED = (
    {"CAM as chosen"} | SEEDS_ON - {"growth"},
    TRAINED | TOYS | {"CAM seeds", "bank", "growth"},
)
PARAMETERS = {
    "rng_seed=1": (ALL, set()),
    "pretext_epochs=11": ({"pretext"} | CLASSIFIER_ON | FEW_ON, TOYS),
    "classifier.lr=0.02": (CLASSIFIER_ON, TOYS | FEW_ON | {"pretext", "saliency"}),
    "classifier.epochs=4": (CLASSIFIER_ON, TOYS | FEW_ON | {"pretext", "saliency"}),
    "bank_side=48": ({"bank"} | SEEDS_ON, TRAINED | TOYS | CAMS | FEW_ON),
    "bank_images=8": ({"bank"} | SEEDS_ON, TRAINED | TOYS | CAMS | FEW_ON),
    "precision=bfloat16": ({"bank"} | CAMS | SEEDS_ON, TRAINED | TOYS),
    "scale_sets=1.0,1.5": (CAMS | SEEDS_ON, TRAINED | TOYS | {"bank"}),
    "map_stride=4": (CAMS | SEEDS_ON - {"growth"}, TRAINED | TOYS | {"bank", "growth"}),
    "long_side=48": (CAMS | SEEDS_ON, TRAINED | TOYS | {"bank"}),
    "tau=0.5": (SEEDS_ON, TRAINED | TOYS | CAMS | {"bank", "saliency"}),
    "steps=5": (SEEDS_ON, TRAINED | TOYS | CAMS | {"bank", "saliency"}),
    "lrs=2e-6": (SEEDS_ON, TRAINED | TOYS | CAMS | {"bank", "saliency"}),
    "n_others=5": (SEEDS_ON, TRAINED | TOYS | CAMS | {"bank", "saliency"}),
    "area_ratio=0.8": (SEEDS_ON, TRAINED | TOYS | CAMS | {"bank", "saliency"}),
    "smoothings=0.05": CLIPPED,
    "percentiles=90": CLIPPED,
    "norms=0.3": ({"rival", "notebooks"}, ALL - {"rival", "notebooks"}),
    "irn_log2_steps=5": (IRN_ON - {"irn"}, ALL - IRN_ON | {"irn"}),
    "irn_betas=5.0": (IRN_ON - {"irn"}, ALL - IRN_ON | {"irn"}),
    "irn_radii=3": (IRN_ON - {"irn"}, ALL - IRN_ON | {"irn"}),
    "irn.epochs=11": (IRN_ON, TRAINED | SEEDS | TOYS | {"sure-labels", "psa", "psa-walk", "crf"}),
    "psa.lr=0.05": (
        {"psa", "psa-walk", "notebooks"}, ALL - {"psa", "psa-walk", "notebooks"},
    ),
    "psa_alphas=5.0": ({"psa-walk", "notebooks"}, ALL - {"psa-walk", "notebooks"}),
    "psa_log2_steps=5": ({"psa-walk", "notebooks"}, ALL - {"psa-walk", "notebooks"}),
    "walk=paper": (IRN_ON - {"irn"}, TRAINED | SEEDS | TOYS | {"irn", "psa", "psa-walk"}),
    "network.lr=0.001": ({"saliency"} | FEW_ON | END, TRAINED | SEEDS | OTHERS | TOYS),
    "test_scales=1.0,1.5": (
        END - {"network"} | {"predictions-present"},
        ALL - END - {"predictions-present"} | {"network"},
    ),
    "val_images=3": (END - {"network"}, ALL - END | {"network"}),
    "toy_steps=50": (TOYS | {"notebooks"}, ALL - TOYS - {"notebooks"}),
    "toy_train=100": (TOYS | {"notebooks"}, ALL - TOYS - {"notebooks"}),
    "toy_doses=0.5": ({"toy-dose", "notebooks"}, ALL - {"toy-dose", "notebooks"}),
    "toy_dose_seeds=4": ({"toy-dose", "notebooks"}, ALL - {"toy-dose", "notebooks"}),
    "toy_masks=0.3": ({"toy-masking", "notebooks"}, ALL - {"toy-masking", "notebooks"}),
    "tune_images=3": ({"few masks", "predictions-present"} | IRN_ON, TOYS | {"pretext"}),
    "usual_texture=0.0": (CLASSIFIER_ON | FEW_ON, TOYS | {"pretext"}),
    "ablations.usual_textures=0.5": ({"notebooks"}, ALL - {"notebooks"}),
    "replicas=4": ({"notebooks"}, ALL - {"notebooks"}),
}  # fmt: skip


@pytest.mark.parametrize("setting", PARAMETERS)
def test_an_edit_of_a_parameter_makes_anew_what_depends_on_it(setting, before):
    recomputed, kept = PARAMETERS[setting]
    name, value = setting.split("=")
    found = changed(before(), all_keys(overrides=TINY | {name: value}))
    assert recomputed <= found
    assert not kept & found


# ---- inputs -----------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path):
    """A VOC folder: 0 and 1 scored, 0 to 5 to train on, 6 and 7 to validate on; and beside it the
    other files that a study can be given."""
    counts = {"train": 2, "train_aug": 6, "val": 8}
    root = voc_folder(tmp_path / "voc", counts)
    (root / "ImageSets/Segmentation/val.txt").write_text("6\n7\n")
    write_mnist(tmp_path / "digits")
    (tmp_path / "saliency").mkdir()
    for i in range(2):
        Image.fromarray(np.full((32, 32), i, np.uint8)).save(tmp_path / f"saliency/{i}.png")
    (tmp_path / "resnet.pth").write_bytes(b"ImageNet weights")
    return tmp_path


def given(folder, **overrides):
    """The keys of a study of the folder."""
    chosen = {
        "tune_images": 2, "toy_train": 40, "toy_test": 10, "classifier.batch": 2,
        "backbone": "resnet50",
        "network_backbone": "resnet50", "weights": str(folder / "resnet.pth"),
        "saliency": str(folder / "saliency"), "digits": str(folder / "digits"), "norms": (0.2,),
    } | overrides  # fmt: skip
    return all_keys("voc-lite", folder / "voc", chosen)


def pixel(path):
    """One pixel of a picture, in a file without losses."""
    picture = Image.open(path)
    mode, palette = picture.mode, np.array(picture)
    palette.flat[5] ^= 1
    Image.fromarray(palette, mode).save(path, "PNG")


def reverse(path):
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


def relabel(path):
    """The image shows another animal too."""
    dog = "<object><name>dog</name></object></annotation>"
    path.write_text(path.read_text().replace("</annotation>", dog))


def flip_byte(path, place=-1):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def digit(path):
    """A pixel in the middle of the first picture, a 2; 16 bytes of IDX come before it."""
    flip_byte(path, 16 + 14 * 28 + 14)


def ignore(path):
    """One pixel of a mask made 255."""
    mask = np.array(Image.open(path))
    mask[0, 0] = 255
    Image.fromarray(mask).save(path)


VALIDATED = END - {"network"}
INPUTS = {
    "a pixel of a scored image": (pixel, "voc/JPEGImages/0.jpg", CLASSIFIER_ON, TOYS),
    "a pixel of a training image": (pixel, "voc/JPEGImages/5.jpg", CLASSIFIER_ON, TOYS),
    "a pixel of a validation image": (pixel, "voc/JPEGImages/6.jpg", VALIDATED, "the rest"),
    "a pixel of a mask": (ignore, "voc/SegmentationClass/0.png", {"score", "notebooks"}, TOYS),
    "a pixel of a validation mask": (ignore, "voc/SegmentationClass/7.png", VALIDATED, "the rest"),
    "a label": (relabel, "voc/Annotations/1.xml", CLASSIFIER_ON, TOYS),
    "the order of the training list": (
        reverse, "voc/ImageSets/Segmentation/train_aug.txt", CLASSIFIER_ON, TOYS,
    ),
    "the order of the scored list": (
        reverse, "voc/ImageSets/Segmentation/train.txt",
        CAMS | SEEDS_ON, TOYS | {"classifier", "bank"},
    ),
    "the order of the validation list": (
        reverse, "voc/ImageSets/Segmentation/val.txt", VALIDATED, "the rest",
    ),
    "a pixel of a saliency map": (
        pixel, "saliency/1.png", {"saliency", "saliency-labels", "notebooks"}, "the rest",
    ),
    "the weights": (flip_byte, "resnet.pth", CLASSIFIER_ON, TOYS | {"saliency"}),
    "a digit": (
        digit, "digits/MNIST/raw/train-images-idx3-ubyte", TOYS | {"notebooks"}, "the rest",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
def test_an_edit_of_an_input_makes_anew_what_depends_on_it(name, folder):
    change, path, recomputed, kept = INPUTS[name]
    before = given(folder)
    change(folder / path)
    found = changed(before, given(folder))
    assert recomputed <= found
    assert not (before.keys() - recomputed if kept == "the rest" else kept) & found


def test_a_label_in_a_json_file_counts_too(folder):
    path = folder / "voc/image_labels.json"
    labels = {str(i): ["cat"] for i in range(8)}
    content = {"classes": ["aeroplane", "cat", "cow", "dog", "horse", "sheep", "bus", "tram"]}
    path.write_text(json.dumps(content | {"labels": labels}))
    before = given(folder)
    path.write_text(json.dumps(content | {"labels": labels | {"5": ["cat", "dog"]}}))
    found = changed(before, given(folder))
    assert CLASSIFIER_ON <= found
    assert not TOYS & found


def test_files_that_are_touched_or_elsewhere_are_the_same_files(folder):
    before = given(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(1, 1))
    assert changed(before, given(folder)) == set()
    moved = {name: str(folder / f"moved-{name}") for name in ("weights", "saliency", "digits")}
    for name, path in (
        ("weights", "resnet.pth"),
        ("saliency", "saliency"),
        ("digits", "digits"),
    ):
        (folder / path).rename(moved[name])
    assert changed(before, given(folder, **moved)) <= {"notebooks"}


def test_weights_in_torchs_cache_count_by_their_content(folder, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    (folder / "checkpoints").mkdir()
    path = folder / "checkpoints/resnet50-0676ba61.pth"
    path.write_bytes(b"ImageNet weights")
    before = given(folder, weights="")
    assert changed(before, given(folder)) <= {"notebooks"}
    path.write_bytes(b"other weights")
    assert CLASSIFIER_ON <= changed(before, given(folder, weights=""))


# The bytes of a file are not yet pixels: the code that reads them counts with them.
def test_an_edit_of_how_a_folder_is_read_makes_anew_what_is_made_of_its_images(folder, package):
    known = given(folder)
    edit(package, "data/voc", "chosen.get(name, 0)", "chosen.get(name, IGNORE)")
    found = changed(known, given(folder))
    assert CLASSIFIER_ON <= found
    assert not TOYS & found


def test_an_edit_of_how_photographs_are_read_counts_too(folder, package):
    shown = photographs.folder(folder / "saliency")
    images = shown.labelled(("thing",), [[0]] * len(shown.ids))
    known = keys.describe(images)
    edit(
        package,
        "data/photographs",
        "decode(self.paths[id], self.long_side)",
        "decode(self.paths[id])",
    )
    assert keys.describe(images) != known


# ---- what the hash of the code stands on ------------------------------------------------------
USES = (
    "results.tables_toy", "method.cam", "results.explorer", "refinement.random_walk", "data.export",
    "results.tables_ablations", "results.published",
)  # fmt: skip
"""What each notebook uses, one of others."""


@pytest.mark.parametrize(("source", "used"), [*zip(NOTEBOOKS, USES, strict=True)], ids=USES)
def test_a_notebook_runs_again_after_an_edit_of_a_module_that_it_imports(source, used, monkeypatch):
    asked = []
    monkeypatch.setattr(reproduce, "code_hash", asked.append)
    reproduce.notebook_key(source, Study("mini", "", TINY), {})
    hashed = set().union(*(keys.imports(keys.PACKAGE, module) for module in asked))
    assert hashed >= {f"ribkit.{used}", "ribkit.study.study", "ribkit.results.figures"}
    alone = {"results.explorer": "03", "data.export": "05", "results.published": "07"}
    found = {f"ribkit.{name}": source.name.startswith(number) for name, number in alone.items()}
    assert {name: name in hashed for name in found} == found


@pytest.mark.parametrize("path", sorted(keys.PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_import_of_the_package_is_one_that_the_hash_follows(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            assert all(alias.name != "*" for alias in node.names)
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called.endswith(("import_module", "__import__")):
            assert "ribkit" not in ast.unparse(node)
        assert called not in ("eval", "exec")


def test_all_of_the_package_is_where_the_hash_looks():
    for path in keys.PACKAGE.rglob("*.py"):
        parts = path.relative_to(keys.PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        assert keys._text(keys.PACKAGE, name) == path.read_text()
