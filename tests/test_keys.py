"""What a result is made of, hashed: parameters and inputs by their content, code by its syntax."""

import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from ribkit.data import scenes
from ribkit.method import pooling
from ribkit.networks import classifier
from ribkit.networks.trained import TrainedModel
from ribkit.runtime import keys
from ribkit.runtime.errors import InputError
from ribkit.runtime.keys import describe, imports, syntax
from ribkit.runtime.per_image import per_image
from ribkit.runtime.store import THREADS, Store, stage


@dataclasses.dataclass(frozen=True)
class Setting:
    lr: float
    scales: tuple[float, ...] = (1.0,)


# ---- parameters and inputs --------------------------------------------------------------------
def test_images_count_by_their_content_and_labels():
    images = scenes.generate(0, 3, size=48)
    assert describe(images) == describe(scenes.generate(0, 3, size=48))
    assert describe(images) != describe(scenes.generate(1, 3, size=48))
    assert describe(images) != describe(images.take([0, 1]))
    assert describe(images) != describe(images.take([1, 0, 2]))
    relabelled = dataclasses.replace(images, labels=~images.labels)
    assert describe(images) != describe(relabelled)
    renamed = dataclasses.replace(images, classes=images.classes[::-1])
    assert describe(images) != describe(renamed)


def test_a_description_is_something_json_can_write():
    setting = {"a": Setting(1e-6), "b": (math.inf, None, True), "c": np.float64(0.5)}
    assert json.loads(json.dumps(describe(setting))) == {
        "a": {"Setting": {"lr": 1e-6, "scales": [1.0]}},
        "b": [{"float": "inf"}, None, True],
        "c": 0.5,
    }


def test_text_and_infinity_differ_and_so_do_two_kinds_of_settings():
    @dataclasses.dataclass(frozen=True)
    class One:
        x: int

    @dataclasses.dataclass(frozen=True)
    class Other:
        x: int

    assert describe(math.inf) != describe("inf")
    assert describe(One(1)) != describe(Other(1))


def test_a_function_counts_by_its_name_and_its_modules_code(monkeypatch):
    one, other = describe(pooling.gap), describe(pooling.gmp)
    assert one[:2] == ["ribkit.method.pooling", "gap"]
    assert one[2] == other[2] == keys.code_hash("ribkit.method.pooling")
    assert one != other
    assert json.loads(json.dumps(one)) == one
    monkeypatch.setattr(keys, "code_hash", lambda module: f"edited {module}")
    assert describe(pooling.gmp)[2] == "edited ribkit.method.pooling"


def test_a_function_that_others_share_their_name_with_is_refused():
    def local():
        return 1

    for function in (lambda: 1, local, functools.partial(run_nothing), max):
        with pytest.raises(InputError, match="cannot be a parameter of a stored stage"):
            describe(function)


# ---- code -------------------------------------------------------------------------------------
MODULES = {
    "__init__": '"""A package."""\n',
    "top": (
        "import math\nimport numpy as np\nfrom tiny import middle\n\n"
        "def f():\n    return middle.g()\n"
    ),
    "middle": (
        '"""Middle."""\n\ndef g(x=1):\n    """G."""\n    from tiny.low import h\n'
        "    return h(x) + 1  # a comment\n"
    ),
    "low": "import tiny.lowest as l\n\nclass A:\n    '''A.'''\n\ndef h(x):\n    return x * l.K\n",
    "lowest": "K = 2\n",
    "apart": "def unused():\n    return 3\n",
}


@pytest.fixture
def tiny(tmp_path):
    package = tmp_path / "tiny"
    package.mkdir()
    for name, code in MODULES.items():
        (package / f"{name}.py").write_text(code)
    return package


def code(package, module="tiny.top"):
    return [syntax(package, name) for name in imports(package, module)]


def change(package, module, old, new):
    path = package / f"{module}.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_imports_are_followed_within_the_package(tiny):
    assert imports(tiny, "tiny.top") == [
        "tiny", "tiny.low", "tiny.lowest", "tiny.middle", "tiny.top",
    ]  # fmt: skip
    assert imports(tiny, "tiny.lowest") == ["tiny.lowest"]
    assert imports(tiny, "json") == []


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("middle", "# a comment", "# another"),
        ("middle", '"""Middle."""', '"""Another docstring."""'),
        ("middle", '    """G."""\n', ""),
        ("low", "'''A.'''", '"""B."""'),
        ("low", "x * l.K", "(x *\n        l.K)"),
        ("middle", "\n\ndef", "\n\n\n\n\ndef"),
        ("apart", "3", "4"),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_the_code(tiny, module, old, new):
    before = code(tiny)
    change(tiny, module, old, new)
    assert code(tiny) == before


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("top", "middle.g()", "middle.g(2)"),
        ("middle", "+ 1", "+ 2"),
        ("middle", "x=1", "x=2"),
        ("low", "x * l.K", "x + l.K"),
        ("lowest", "K = 2", "K = 2.0"),
        ("lowest", "K = 2", "K = '2'"),
    ],
)
def test_a_changed_formula_anywhere_below_changes_the_code(tiny, module, old, new):
    before = code(tiny)
    change(tiny, module, old, new)
    assert code(tiny) != before


def test_a_string_that_is_returned_is_no_docstring(tiny):
    change(tiny, "apart", "return 3", 'return "three"')
    before = code(tiny, "tiny.apart")
    change(tiny, "apart", "three", "four")
    assert code(tiny, "tiny.apart") != before


def test_a_body_that_is_only_a_docstring_is_still_code(tiny):
    change(tiny, "low", "    '''A.'''\n", "    pass\n")
    assert code(tiny)


def test_the_code_of_a_stage_holds_every_module_that_it_stands_on():
    found = imports(keys.PACKAGE, "ribkit.study.maps")
    method = {f"ribkit.method.{name}" for name in ("adaptation", "cam", "losses", "pooling")}
    networks = {f"ribkit.networks.{name}" for name in ("backbone", "trained")}
    assert method | networks | {"ribkit.evaluation.miou"} <= set(found)
    assert "ribkit.reproduce" not in found
    assert "ribkit.results.figures" not in found
    assert keys.code_hash("ribkit.study.maps") != keys.code_hash("ribkit.networks.classifier")
    assert "ribkit.runtime.store" in imports(keys.PACKAGE, "ribkit.runtime.store")


def test_a_trained_model_counts_by_the_code_that_builds_it():
    model = TrainedModel.of(classifier.trained_network, {}, backbone="small")
    described = describe(model)["TrainedModel"]
    module = "ribkit.networks.classifier"
    assert described["build"] == [module, "trained_network", keys.code_hash(module)]


# ---- the runtime, which no key holds ------------------------------------------------------------
@stage("kinds")
def kinds():
    table = {"name": ["a", "01"], "n": [1, -2], "share": [0.1, np.nan], "right": [True, False]}
    tensors = {"b": torch.arange(6.0).view(2, 3).T, "a": torch.tensor([1, 2], dtype=torch.uint8)}
    return {"table": pd.DataFrame(table), "tensors": tensors}


@per_image("products", "products", arrays=("products",), scalars=("factor", "name"))
def products(image, factor):
    made = np.arange(6, dtype=np.float16).reshape(2, 3).T * np.float16(factor)
    return {"products": made, "factor": factor, "name": f"image {image.name}"}


STORED = {
    "images.csv": "315755738f464448",
    "products.npz": "cd255cb9f9b0362e",
    "table.csv": "a08c3fb58d246733",
    "tensors.safetensors": "e9695fef8439b128",
}


def test_what_is_stored_is_the_same_to_the_byte(tmp_path):
    store, images = Store(tmp_path), scenes.generate(0, 3, size=48)
    found = {}
    for result in (store.run(kinds), store.run(products, images=images, factor=0.1)):
        for path in result.path.iterdir():
            content = path.read_bytes()
            if path.suffix == ".npz":  # another version of zlib packs the same into other bytes
                with zipfile.ZipFile(path) as archive:
                    members = [(i.filename, i.date_time) for i in archive.infolist()]
                    content = b"".join(archive.read(name) for name, _ in members)
                    content += repr(members).encode()
            found[path.name] = hashlib.sha256(content).hexdigest()[:16]
    assert found.pop("manifest.json")
    assert found == STORED, "stored results change: raise keys.RUNTIME, and renew these hashes"
    assert (THREADS, keys.RUNTIME) == (2, 1), "what else decides on stored bytes, or tells of it"


def test_no_key_holds_the_code_of_the_runtime(tmp_path, monkeypatch):
    copy = tmp_path / "ribkit"
    shutil.copytree(keys.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(keys, "PACKAGE", copy)
    keys.code_hash.cache_clear()
    known = keys.code_hash("ribkit.study.maps")
    for path in (copy / "runtime").glob("*.py"):
        path.write_text(f"{path.read_text()}\nEDITED = 1\n")
        keys.code_hash.cache_clear()
        assert keys.code_hash("ribkit.study.maps") == known
    monkeypatch.undo()
    keys.code_hash.cache_clear()


def test_every_key_holds_the_number_of_the_runtime(monkeypatch):
    known = keys.key_of("name", run_nothing, {})[0]
    monkeypatch.setattr(keys, "RUNTIME", keys.RUNTIME + 1)
    assert keys.key_of("name", run_nothing, {})[0] != known


# ---- code that changes while it runs ------------------------------------------------------------
RUN = """
import sys
from pathlib import Path
from ribkit.method import cam
from ribkit.runtime import keys
known = keys.code_hash("ribkit.study.maps")
path = Path(cam.__file__)
assert path.parents[2] == Path.cwd()
path.write_text(path.read_text().replace("1e-5", "1e-4"))
keys.code_hash.cache_clear()
assert keys.code_hash("ribkit.study.maps") == known  # of what this process imported
print(known)
"""


def test_a_key_is_of_the_code_that_runs_and_not_of_the_files_of_now(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(keys.PACKAGE, tmp_path / "ribkit", ignore=ignored)

    def run():
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", RUN]
        where = {"cwd": tmp_path, "env": environment}  # so that it is the copy that is edited
        done = subprocess.run(command, **where, capture_output=True, text=True, check=True)
        return done.stdout

    first, second = run(), run()
    assert first != second  # the second one starts with the edit of the first


@pytest.mark.parametrize("name", ["study/profiles.toml", "results/claims.csv"])
def test_a_table_that_was_changed_is_other_code_but_no_other_key(monkeypatch, name):
    whole, of_stage = keys.code(), keys.code_hash("ribkit.study.maps")
    for cached in (keys.code, keys.code_hash):
        cached.cache_clear()
    monkeypatch.setitem(keys.TABLES, keys.PACKAGE / name, "changed")
    assert keys.code() != whole
    assert keys.code_hash("ribkit.study.maps") == of_stage
    keys.code.cache_clear()


def test_a_process_of_other_code_takes_no_keys(monkeypatch):
    keys.require_same_code()
    monkeypatch.setenv("RIBKIT_CODE", "of another time")
    with pytest.raises(InputError, match="changed while it ran; run the same command again"):
        keys.key_of("name", run_nothing, {})


def run_nothing():
    return {}
