import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
import torch
from jupyter_client.kernelspec import KernelSpecManager

from ribkit import estimate, reproduce, train
from ribkit.data import scenes
from ribkit.runtime import notebooks
from ribkit.runtime.errors import InputError, StudyError, resource_errors
from ribkit.runtime.notebooks import NotebookError
from ribkit.study import command_line, profiles
from ribkit.study.study import Study

SMALL = [
    "--set",
    "train_images=4",
    "--set",
    "classifier.batch=4",
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
    monkeypatch.setattr("ribkit.runtime.store._settle", refuse)


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
        (["--notebooks", "01 8"], "notebook '8' is unknown; they are 01, 02, 03, 04, 05, 06, 07"),
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
    assert command_line.overrides([]) == {}
    assert command_line.overrides(["steps=5", "digits=a=b", "lrs="]) == {
        "steps": "5",
        "digits": "a=b",
        "lrs": "",
    }
    assert command_line.overrides([""]) == {}
    assert command_line.overrides(
        [" steps=5  saliency=/my maps/of cats irn.epochs=3", "tau=1"]
    ) == {
        "steps": "5",
        "saliency": "/my maps/of cats",
        "irn.epochs": "3",
        "tau": "1",
    }
    with pytest.raises(InputError, match="'steps:5' is not of the form name=value"):
        command_line.overrides(["steps=5", "steps:5"])
    with pytest.raises(InputError, match="'lr' is set twice; leave one out"):
        command_line.overrides(["steps=5 lr=1e-3", "lrs=1 lr=1e-4"])


def test_without_words_the_command_runs_the_embedded_default():
    options = command_line.parser("ribkit.reproduce", "").parse_args([])
    assert (options.profile, options.data, options.device, options.set) == ("mini", "", "", [])


@pytest.mark.parametrize(("name", "kept"), [("", "cuda:1"), ("cpu", "cpu"), ("cuda", "cuda")])
def test_the_device_is_set_for_everything_that_follows(monkeypatch, name, kept):
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    command_line.set_device(name)
    assert os.environ["RIBKIT_DEVICE"] == kept


@pytest.mark.parametrize(
    ("there", "usable", "device", "hidden", "refused"),
    [
        (True, False, "", None, True),
        (True, True, "", None, False),
        (True, False, "cpu", None, False),
        (True, False, "", "", False),
        (False, False, "", None, False),
    ],
    ids=["an old driver", "a new driver", "the CPU is asked for", "hidden", "no GPU"],
)
def test_a_gpu_that_torch_cannot_use_is_told(
    monkeypatch, tmp_path, there, usable, device, hidden, refused
):
    monkeypatch.setattr(command_line, "GPU", tmp_path if there else tmp_path / "none")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    monkeypatch.setenv("RIBKIT_DEVICE", device)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    told = r"cannot use the GPU of this machine: update its driver .*DEVICE=cpu"
    with pytest.raises(InputError, match=told) if refused else nullcontext():
        command_line.require_driver()


@pytest.mark.parametrize("name", ["tpu", "CPU", "cuda:0"])
def test_a_device_of_another_name_is_refused(name):
    with pytest.raises(InputError, match=f"device '{name}' is unknown"):
        command_line.set_device(name)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="'cuda' is not there"):
        command_line.set_device("cuda")
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda")
    with pytest.raises(InputError, match="'cuda' is not there; use cpu"):
        command_line.set_device("")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda:2")
    with pytest.raises(InputError, match="'cuda:2' is not there; use cpu"):
        command_line.set_device("")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("RIBKIT_WORKERS", "auto", "RIBKIT_WORKERS=auto is not a number of workers; set it to 1"),
        ("RIBKIT_WORKERS", "-1", "RIBKIT_WORKERS=-1 is not a number of workers; set it to 1 or"),
        ("RIBKIT_DEVICE", "gpu", "RIBKIT_DEVICE=gpu is unknown; set it to cuda, cuda:1 or cpu."),
        ("RIBKIT_DEVICE", "mps", "RIBKIT_DEVICE=mps is unknown; set it to cuda, cuda:1 or cpu."),
    ],
)
@pytest.mark.parametrize("words", [[], ["--check"]])
@pytest.mark.usefixtures("nothing_computed")
def test_a_wrong_variable_is_told_before_anything_is_computed(
    words, variable, value, says, monkeypatch, capsys
):
    monkeypatch.setenv(variable, value)
    for command in (reproduce, train):
        if command is reproduce or not words:
            assert command.main(words) == 1
            printed = capsys.readouterr()
            assert printed.out == ""
            (line,) = printed.err.splitlines()
            assert line.startswith(says)


def test_paths_begin_where_the_user_stands_and_notebooks_get_them_whole(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    given = {}

    def run_all(study, publish, numbers):
        monkeypatch.chdir("/")  # a notebook's process stands elsewhere
        data = str(study.given)
        again = Study(study.profile.name, data, study.overrides)
        assert (again.folder, again.given) == (study.folder, study.given)
        assert again.profile == study.profile
        given.update(study.overrides, data=data)

    monkeypatch.setattr(reproduce, "run_all", run_all)
    words = ["--profile", "voc-lite", "--data", "my photos/../VOC"]
    words += ["--set", "saliency=my maps digits=~/digits steps=3"]
    assert reproduce.main(words) == 0
    assert given == {
        "data": f"{tmp_path}/VOC",
        "saliency": f"{tmp_path}/my maps",
        "digits": f"{tmp_path}/home/digits",
        "steps": "3",
    }
    assert capsys.readouterr().err == ""


# ---- notebooks --------------------------------------------------------------------------------
def write(folder, *sources, tags=(), parameters=("parameters",)):
    folder.mkdir(parents=True, exist_ok=True)
    first = nbformat.v4.new_code_cell(
        'profile = "mini"\ndata = ""\noverrides = {}', metadata={"tags": list(parameters)}
    )
    others = [nbformat.v4.new_code_cell(text, metadata={"tags": list(tags)}) for text in sources]
    cells = [first, *others]
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
        overrides={},
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


def test_a_figure_that_was_changed_since_is_not_published(study, tmp_path, monkeypatch):
    write(tmp_path / "notebooks", "one = 1")
    monkeypatch.setattr(study, "check", lambda: "sound", raising=False)
    monkeypatch.setattr(study, "data", "", raising=False)
    monkeypatch.setattr(notebooks, "recorded", lambda *_: None)
    with pytest.raises(StudyError, match=r"01_one\.ipynb: a figure that it stored is another one"):
        reproduce.run_all(study, publish=True)
    assert not (tmp_path / "figures").exists()


def test_only_the_notebooks_of_these_numbers_run_in_their_order(study, tmp_path, monkeypatch):
    for number in (3, 7, 1):
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        (tmp_path / "notebooks" / f"0{number}_x.ipynb").write_text('{"cells": []}')
    ran = []
    monkeypatch.setattr(notebooks, "run", lambda source, *_: ran.append(source.name[:2]))
    reproduce.reproduce(study, PARAMETERS, "07 01 01")
    assert ran == ["01", "07"]
    reproduce.reproduce(study, PARAMETERS)
    assert ran[2:] == ["01", "03", "07"]


def kept(study):
    """The executed notebook that is kept, and that there is nothing else."""
    (path,) = study.folder.glob("*.ipynb")
    assert path.name == "01_one.ipynb"
    return nbformat.read(path, as_version=4)


FALSE_SUCCESSES = {
    "an error": (("1 / 0", "print('never')"), "ZeroDivisionError: division by zero"),
    "sys.exit(0)": (("import sys\nsys.exit(0)", "print('never')"), "SystemExit"),
    "sys.exit(0) in the last cell": (("import sys\nsys.exit(0)",), "SystemExit"),
    "a dead kernel": (("import os\nos._exit(0)", "print('never')"), "its process died"),
    "a killed kernel": (("import os\nos.kill(os.getpid(), 9)",), "its process died"),
    "an interrupted cell": (("raise KeyboardInterrupt",), "KeyboardInterrupt"),
    "our own error": (
        ("from ribkit.runtime.errors import InputError\nraise InputError('x is bad;\\nmend it.')",),
        "01_one.ipynb stopped: x is bad; mend it.",
    ),
    "a machine that lacks memory": (
        (
            "from ribkit.runtime.errors import resource_errors\n"
            "with resource_errors('seeds'):\n    raise MemoryError",
        ),
        "01_one.ipynb stopped: seeds: memory ran out (MemoryError); let fewer work at once "
        "(RIBKIT_WORKERS=1), or set batch, crop or n_others lower, and run the same command again: "
        "it goes on from there.",
    ),
    "a figure that is not drawn": (
        ("class figures:\n    show = print", "if profile != 'mini': figures.show(1, 'gain', 1)"),
        "it did not store",
    ),
    "a figure that is an old one": (
        ("class figures:\n    show = print", "figures.show(1, 'old')"),
        "it did not store",
    ),
}


@pytest.mark.parametrize("kind", FALSE_SUCCESSES)
def test_a_false_success_is_a_failure_and_the_notebook_is_kept(study, tmp_path, kind):
    sources, reason = FALSE_SUCCESSES[kind]
    write(tmp_path / "notebooks", *sources)
    (study.folder / "figures").mkdir(parents=True)
    for suffix in notebooks.KEPT["show"]:
        (study.folder / "figures" / f"old{suffix}").touch()
    with pytest.raises(NotebookError) as caught:
        reproduce.reproduce(study, PARAMETERS)
    with pytest.raises(NotebookError) as again, resource_errors("ribkit"):
        raise caught.value
    assert again.value is caught.value  # told once
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{study.folder / '01_one.ipynb'} stopped: ")
    assert reason in line
    assert sources[0] in [cell.source for cell in kept(study).cells]
    assert recorded(study) is None


def test_a_cell_that_may_fail_may_not(study, tmp_path):
    write(tmp_path / "notebooks", "1 / 0", "print('after')", tags=["raises-exception"])
    with pytest.raises(NotebookError, match="ZeroDivisionError"):
        reproduce.reproduce(study, PARAMETERS)
    assert recorded(study) is None


def test_a_cell_that_a_reader_is_to_run_is_passed_by(study, tmp_path):
    write(tmp_path / "notebooks", "1 / 0", tags=[notebooks.SKIPPED])
    reproduce.reproduce(study, PARAMETERS)
    assert recorded(study)["parameters"] == PARAMETERS


def test_a_cell_that_did_not_run_is_a_failure(study, tmp_path, monkeypatch):
    write(tmp_path / "notebooks", "print('never')")

    def lazy(source, target, *arguments, **more):
        target.write_text(source.read_text())
        return nbformat.read(target, as_version=4)

    monkeypatch.setattr("papermill.execute_notebook", lazy)
    with pytest.raises(
        NotebookError, match="the cell that begins 'profile = \"mini\"' did not run"
    ):
        reproduce.reproduce(study, PARAMETERS)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"profil": "mini"}, r"takes no profil='mini'; its parameters are profile \(str\), data"),
        ({"overrides": "steps=5"}, r"takes no overrides='steps=5'; .*, overrides \(dict\)\.$"),
        ({"profile": 1}, "takes no profile=1; its"),
        ({"data": None}, "takes no data=None; its"),
    ],
)
def test_a_parameter_of_another_name_or_type_is_refused(study, tmp_path, parameters, says):
    write(tmp_path / "notebooks", "1 + 1")
    with pytest.raises(NotebookError, match=says):
        reproduce.reproduce(study, parameters)
    assert not list(study.folder.iterdir())


def test_a_cell_that_is_not_python_is_told(study, tmp_path):
    write(tmp_path / "notebooks", "1 +")
    with pytest.raises(NotebookError, match=r"01_one\.ipynb has a cell that is not Python"):
        reproduce.reproduce(study, PARAMETERS)


def test_a_process_that_does_not_start_is_told(study, tmp_path, monkeypatch):
    write(tmp_path / "notebooks", "1 + 1")

    def dead(*arguments, **more):
        raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr("papermill.execute_notebook", dead)
    with pytest.raises(NotebookError, match=r"01_one\.ipynb stopped: its process died or did not"):
        reproduce.reproduce(study, PARAMETERS)


def test_a_notebook_without_parameters_is_refused(study, tmp_path):
    write(tmp_path / "notebooks", "1 + 1", parameters=())
    with pytest.raises(NotebookError, match="has 0 cells tagged 'parameters'"):
        reproduce.reproduce(study, PARAMETERS)


def test_the_reason_is_the_last_line_of_the_terminal(study, tmp_path, monkeypatch, capsys):
    write(tmp_path / "notebooks", "print('a line')", "raise ValueError('one\\ntwo')")
    study.check = lambda: "mini: all there"
    study.data = None
    monkeypatch.setattr(reproduce, "opened", lambda options: study)
    assert reproduce.main([]) == 1
    printed = capsys.readouterr()
    assert printed.out == "mini: all there\n"
    assert printed.err.splitlines()[-1].endswith("01_one.ipynb stopped: ValueError: one two")


# ---- where a notebook runs ----------------------------------------------------------------------
@pytest.fixture
def another_python(tmp_path, monkeypatch):
    """A kernel named python3 on the user's Jupyter path, of a Python that is not there any more."""
    for variable in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):
        kernel = tmp_path / variable / "kernels/python3/kernel.json"
        kernel.parent.mkdir(parents=True)
        argv = ["/removed/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernel.write_text(json.dumps({"argv": argv, "display_name": "", "language": "python"}))
        monkeypatch.setenv(variable, str(tmp_path / variable))


@pytest.mark.usefixtures("another_python")
def test_a_notebook_runs_in_this_python_whatever_kernels_the_user_has(study, tmp_path):
    assert KernelSpecManager().get_kernel_spec("python3").argv[0] == "/removed/bin/python"
    write(tmp_path / "notebooks", "import sys; open('ran', 'w').write(sys.executable)")
    reproduce.reproduce(study, PARAMETERS)
    assert (tmp_path / "ran").read_text() == sys.executable


def test_a_notebook_runs_without_the_users_startup_files_and_without_a_home(
    study, tmp_path, monkeypatch
):
    startup = tmp_path / "ipython/profile_default/startup/mine.py"
    startup.parent.mkdir(parents=True)
    for path in (startup, tmp_path / "python.py"):
        path.write_text("raise SystemExit('my startup'); mine = 1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "python.py"))
    monkeypatch.setenv("HOME", "/proc/no/home")  # no one can write there
    write(tmp_path / "notebooks", "assert 'mine' not in globals()")
    reproduce.reproduce(study, PARAMETERS)
    assert recorded(study)


LISTS = """
import json, os, pathlib
from ipykernel.connect import get_connection_info
ip = pathlib.Path(json.loads(get_connection_info())["ip"])
places = {str(p): oct(p.parent.stat().st_mode)[-3:] for p in ip.parent.glob(ip.name + "-*")}
open("places", "w").write(json.dumps(places))
"""


@pytest.mark.parametrize("long", [False, True])
def test_a_notebooks_sockets_lie_in_a_short_private_folder(study, tmp_path, monkeypatch, long):
    if long:
        (folder := tmp_path / ("long" * 30)).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for number in range(1, 6):  # of another run, or of one that was killed
        (tmp_path / f"kernel-ipc-{number}").touch()
    write(tmp_path / "notebooks", LISTS)
    reproduce.reproduce(study, PARAMETERS)
    places = json.loads((tmp_path / "places").read_text())
    assert len(places) == 5
    assert set(places.values()) == {"700"}
    (folder,) = {Path(place).parent for place in places}
    assert tmp_path not in folder.parents
    assert not folder.exists()
    assert {p.name for p in tmp_path.glob("kernel-ipc-*")} == {
        f"kernel-ipc-{n}" for n in range(1, 6)
    }


STARTS = """
import sys, pathlib
from ribkit.runtime import notebooks
root = pathlib.Path(sys.argv[1])
for folder in (root / "figures", root / "built"): folder.mkdir(exist_ok=True)
notebooks.run(root / "notebooks/01_one.ipynb", root / "built" / sys.argv[2], root, {},
              root / "figures", {})
"""


@pytest.fixture
def started(tmp_path):
    """Run the notebook in a process group of its own, into a file of this name."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    processes = []

    def start(name):
        command = [sys.executable, "-c", STARTS, str(tmp_path), name]
        environment = os.environ | {"PYTHONPATH": paths}
        processes.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_two_notebooks_run_at_the_same_time_from_one_folder(tmp_path, started):
    meet = "import os, time\nopen(f'{os.getpid()}.met', 'w').close()\n"
    meet += "import glob\nwhile len(glob.glob('*.met')) < 2: time.sleep(0.05)"
    write(tmp_path / "notebooks", meet)
    both = [started("a.ipynb"), started("b.ipynb")]
    assert [process.wait(timeout=60) for process in both] == [0, 0]


@pytest.mark.parametrize("whole", [False, True], ids=["the run", "its process group"])
def test_nothing_of_a_killed_notebook_stays(tmp_path, started, whole):
    write(tmp_path / "notebooks", LISTS, "import time; time.sleep(60)")
    run, deadline = started("a.ipynb"), time.monotonic() + 60
    while not (tmp_path / "places").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    (folder,) = {Path(place).parent for place in json.loads((tmp_path / "places").read_text())}
    assert folder.is_dir()
    (os.killpg if whole else os.kill)(run.pid, signal.SIGKILL)
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not folder.exists()
    assert not list(tmp_path.glob("kernel-ipc-*"))


# ---- the commit ---------------------------------------------------------------------------------
def git(folder, *words):
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(study, tmp_path, monkeypatch):
    """A commit of ROOT; nothing of git's is inherited."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    git(tmp_path, "init")
    (tmp_path / "file").touch()
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    return git(tmp_path, "rev-parse", "HEAD")


def test_the_commit_is_recorded_whoever_owns_the_checkout(checkout, tmp_path, study, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as in a container
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as in a hook
    assert reproduce.record_of(study, {})["commit"] == checkout
    (tmp_path / "file").write_text("changed")
    assert reproduce.record_of(study, {})["commit"] == f"{checkout}-dirty"


@pytest.mark.parametrize("fault", ["no git", "no checkout", "a git that fails"])
def test_without_git_or_a_checkout_the_commit_is_unknown(
    checkout, study, tmp_path, monkeypatch, fault
):
    if fault == "no checkout":  # the code was copied into another one
        (tmp_path / "inner").mkdir()
        monkeypatch.setattr(reproduce, "ROOT", tmp_path / "inner")
    else:
        monkeypatch.setenv("PATH", str(tmp_path / "tools"))
        (tmp_path / "tools").mkdir()
    if fault == "a git that fails":
        (tmp_path / "tools/git").write_text("#!/bin/sh\necho lost; exit 1")
        (tmp_path / "tools/git").chmod(0o755)
    assert reproduce.record_of(study, {})["commit"] == "unknown"


# ---- what was stored ----------------------------------------------------------------------------
@pytest.fixture
def executed(study, tmp_path):
    """A notebook that ran and drew a figure."""
    figures = study.folder / "figures"
    draw = f"import pathlib\nfolder = pathlib.Path({str(figures)!r})\n"
    draw += "class figures:\n    def show(study, name):\n"
    draw += "        for s in ('.csv', '.pixels.png', '.png', '.pdf'):\n"
    draw += "            (folder / f'{name}{s}').write_text(name)"
    write(tmp_path / "notebooks", draw, "figures.show(1, 'gain')")
    figures.mkdir(parents=True)
    (target,) = reproduce.reproduce(study, PARAMETERS)
    names = {f"gain{suffix}" for suffix in (".csv", ".pixels.png", ".png", ".pdf")}
    assert set(recorded(study)["stored"]) == names
    return target


@pytest.mark.parametrize(
    "name", ["01_one.ipynb", "figures/gain.csv", "figures/gain.pdf", "figures/gain.pixels.png"]
)
@pytest.mark.parametrize("damage", ["flipped", "cut", "removed"])
def test_a_damaged_notebook_or_figure_is_made_again(executed, study, name, damage):
    path = study.folder / name
    whole = path.read_bytes()
    place = whole.index(b"gain")
    if damage == "removed":
        path.unlink()
    else:
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        path.write_bytes(flipped if damage == "flipped" else whole[:-3])
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
    without = key()
    (tmp_path / "ribkit").mkdir()
    (tmp_path / "ribkit" / "figures.toml").write_text("[growth]")
    assert key() != without  # a table beside the code counts as code does


@pytest.mark.parametrize("content", ["", "not json", "{}", "[]"])
def test_a_damaged_executed_notebook_counts_as_none(tmp_path, content):
    (tmp_path / "a.ipynb").write_text(content)
    assert notebooks.recorded(tmp_path / "a.ipynb", tmp_path) is None
    assert notebooks.recorded(tmp_path / "missing.ipynb", tmp_path) is None


def test_a_second_run_leaves_with_the_first_ones_process(study, monkeypatch, capsys):
    study.check, study.data = (lambda: "mini: all there"), None
    study.folder.parent.mkdir(parents=True)
    monkeypatch.setattr(reproduce, "opened", lambda options: study)
    monkeypatch.setattr(notebooks, "run", lambda *_: pytest.fail("a notebook ran"))
    holding = "import sys, time, pathlib; from ribkit.runtime.files import locked\n"
    holding += "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    lock = study.folder.with_name("mini.lock")
    with subprocess.Popen([sys.executable, "-c", holding, lock], stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"held\n"
        assert reproduce.main([]) == 1
        first.kill()
    assert capsys.readouterr().err == (
        f"Process {first.pid} makes {study.folder} already: wait until it ends, or stop it "
        f"(kill {first.pid}).\n"
    )
    reproduce.reproduce(study, PARAMETERS)  # its lock is gone with it
