import json
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
import torch

from ribkit import estimate, notebooks, profiles, reproduce, scenes
from ribkit.errors import InputError
from ribkit.notebooks import NotebookError

SMALL = [
    "--set",
    "train_images=4",
    "--set",
    "batch=4",
    "--set",
    "score_images=2",
    "--set",
    "tune_images=2",
]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.delenv("RIBKIT_PROGRESS", raising=False)
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")


@pytest.fixture
def nothing_computed(monkeypatch):
    """Fails a test in which anything is run or stored."""

    def refuse(*arguments, **more):
        raise AssertionError("something was computed")

    monkeypatch.setattr(notebooks, "run", refuse)
    monkeypatch.setattr("ribkit.store.Store.run", refuse)


# ---- the command line -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--profile", "maxi"], "profile 'maxi' is unknown"),
        (["--set", "stepz=5"], "no setting 'stepz'; did you mean steps"),
        (["--set", "steps"], "'steps' is not of the form name=value"),
        (["--set", "steps=many"], "steps='many' is not of type int"),
        (["--profile", "voc-lite"], "needs a folder in VOC layout"),
        (["--profile", "voc-lite", "--data", "/nowhere"], "/nowhere"),
        (["--device", "tpu"], "device 'tpu' is unknown"),
    ],
)
@pytest.mark.usefixtures("nothing_computed")
def test_wrong_input_ends_with_status_1_and_one_sentence(words, says, capsys):
    assert reproduce.main(words) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in printed.err
    assert len(printed.err.strip().splitlines()) == 1


@pytest.mark.usefixtures("nothing_computed")
def test_check_says_what_there_is_and_what_it_will_take(capsys, monkeypatch):
    table = pd.DataFrame(
        {"stage": ["CAM"], "hours": [2.0]} | {"disk (GiB)": 3.0, "memory (GiB)": 1}
    )
    monkeypatch.setattr(estimate, "table", lambda study: table)
    assert reproduce.main([*SMALL, "--check"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("mini: 2 images to score, 4 to train on, 2 to tune on")
    assert "About 2 hours" in printed
    assert "3 GiB of disk, and 1 GiB of memory in each process" in printed


def test_overrides_are_names_and_texts():
    assert reproduce.overrides([]) == {}
    assert reproduce.overrides(["steps=5", "digits=a=b", "rates="]) == {
        "steps": "5",
        "digits": "a=b",
        "rates": "",
    }
    with pytest.raises(InputError, match="'steps:5' is not of the form name=value"):
        reproduce.overrides(["steps=5", "steps:5"])


def test_without_words_the_command_runs_the_embedded_default():
    options = reproduce.arguments([])
    assert (options.profile, options.data, options.device, options.set) == ("mini", "", "", [])


@pytest.mark.parametrize(("name", "kept"), [("", "before"), ("cpu", "cpu"), ("cuda", "cuda")])
def test_the_device_is_set_for_everything_that_follows(monkeypatch, name, kept):
    monkeypatch.setenv("RIBKIT_DEVICE", "before")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    reproduce.set_device(name)
    assert reproduce.os.environ["RIBKIT_DEVICE"] == kept


@pytest.mark.parametrize("name", ["tpu", "CPU", "cuda:0"])
def test_a_device_of_another_name_is_refused(name):
    with pytest.raises(InputError, match=f"device '{name}' is unknown"):
        reproduce.set_device(name)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="'cuda' is not there"):
        reproduce.set_device("cuda")


# ---- notebooks --------------------------------------------------------------------------------
def write(folder, *sources):
    folder.mkdir(parents=True, exist_ok=True)
    first = nbformat.v4.new_code_cell(
        'profile = "mini"\ndata = ""\noverrides = {}', metadata={"tags": ["parameters"]}
    )
    cells = [first, *(nbformat.v4.new_code_cell(source) for source in sources)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(notebook, folder / "01_one.ipynb")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of two scenes, with a folder of notebooks of its own."""
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    profile = profiles.load("mini")
    return SimpleNamespace(
        folder=tmp_path / "build" / "mini",
        inputs=lambda: ["images"],
        profile=profile,
    )


def recorded(study):
    return notebooks.recorded(study.folder / "01_one.ipynb", study.folder / "figures")


PARAMETERS = {"profile": "mini", "data": "", "overrides": {"steps": "1e-6"}}


def test_a_notebook_is_executed_once_with_its_parameters_and_a_record(study, tmp_path, monkeypatch):
    write(tmp_path / "notebooks", "open('log', 'a').write(f'{profile} {overrides}\\n')")
    (target,) = reproduce.reproduce(study, PARAMETERS)
    assert target == study.folder / "01_one.ipynb"
    assert (tmp_path / "log").read_text() == "mini {'steps': '1e-6'}\n"  # still text, run at ROOT
    made = nbformat.read(target, as_version=4).metadata["ribkit"]
    assert made["parameters"] == PARAMETERS
    assert {"commit", "versions", "machine", "seed", "settings", "python", "date"} <= set(made)
    assert json.dumps(made)
    assert [path.name for path in study.folder.iterdir()] == ["01_one.ipynb"]

    monkeypatch.setattr(notebooks, "run", lambda *_: pytest.fail("a notebook ran again"))
    assert reproduce.reproduce(study, PARAMETERS) == [target]
    write(tmp_path / "notebooks", "something_else = 1")
    with pytest.raises(pytest.fail.Exception):
        reproduce.reproduce(study, PARAMETERS)


def test_a_notebook_that_fails_is_told_has_no_record_and_runs_again(study, tmp_path):
    write(tmp_path / "notebooks", "1 / 0", "print('never')")
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"01_one\.ipynb stopped: ZeroDivisionError"):
            reproduce.reproduce(study, PARAMETERS)
        assert recorded(study) is None


def test_a_notebook_that_ends_early_does_not_pass_for_success(study, tmp_path):
    write(tmp_path / "notebooks", "import sys\nsys.exit(0)", "print('never')")
    with pytest.raises(NotebookError, match="SystemExit"):
        reproduce.reproduce(study, PARAMETERS)
    assert recorded(study) is None


def test_what_a_notebook_is_made_of_decides_whether_it_runs(study, tmp_path, monkeypatch):
    write(tmp_path / "notebooks", "1 + 1")
    source = tmp_path / "notebooks" / "01_one.ipynb"

    def key(parameters=PARAMETERS):
        return reproduce.notebook_key(source, study, parameters)

    first = key()
    assert key() == first
    notebook = nbformat.read(source, as_version=4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="2")]
    notebook.cells[1].execution_count = 7
    nbformat.write(notebook, source)
    assert key() == first  # outputs do not count
    assert key(PARAMETERS | {"overrides": {}}) != first
    notebook.cells[1].source = "1 + 2"
    nbformat.write(notebook, source)
    assert key() != first
    write(tmp_path / "notebooks", "1 + 1")
    study.inputs = lambda: ["other images"]
    assert key() != first
    study.scored = scenes.generate(0, 2, size=48)
    monkeypatch.setattr(reproduce, "code_hash", lambda module: "changed")
    assert key() != first


@pytest.mark.parametrize("content", ["", "not json", "{}", "[]"])
def test_a_damaged_executed_notebook_counts_as_none(tmp_path, content):
    (tmp_path / "a.ipynb").write_text(content)
    assert notebooks.recorded(tmp_path / "a.ipynb", tmp_path) is None
    assert notebooks.recorded(tmp_path / "missing.ipynb", tmp_path) is None
