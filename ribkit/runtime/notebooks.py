"""One notebook through papermill, to its end or not at all.

papermill lets pass for success: a parameter that the notebook has not, `sys.exit(0)`, a cell that
may fail or did not run. Here these are failures, and so is a figure that was not drawn. A notebook
that failed is kept, for reading; only one that ran to its end bears a record.
"""

import ast
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import default
from traitlets.config import Config

from ribkit.runtime.errors import InputError, ResourceError, StudyError, resource_errors
from ribkit.runtime.files import checksum, digest, flush, state
from ribkit.runtime.keys import code

RECORD = "ribkit"
SKIPPED = "skip-execution"  # nbclient's tag of a cell that is for a reader to run
KEPT = {"show": (".csv", ".png", ".pdf"), "tell": (".md",)}  # function of figures -> its files
START = 600  # seconds that a kernel may take to start, on a machine that is busy
SHORT = 70  # characters of a folder; a socket's path has 107 at most
OURS = (InputError.__name__, ResourceError.__name__)  # their sentence is enough


class NotebookError(StudyError):
    """A notebook that did not do what it says, and why, in one line."""


def run(source: Path, target: Path, root: Path, parameters: dict, figures: Path, record: dict):
    """Execute a notebook at ``root``; ``target`` is kept, with a record if it ran to its end.

    Raises NotebookError where it did not, or did not draw into ``figures`` what its cells name.
    """
    _check_parameters(source, parameters)
    before = {path: state(path) for path in _promised(source, figures)}
    running, started = target.with_name(f"{target.stem}.running.ipynb"), time.perf_counter()
    try:
        with resource_errors(str(target)):
            _execute(source, running, root, parameters)
        missing = [path for path, was in before.items() if state(path) in ((), was)]
        if missing:
            raise NotebookError(f"it did not store {missing[0]}, as its cells say it does.")
    except (NotebookError, ResourceError) as error:
        if running.is_file():  # it is not where its process died at its start
            running.replace(target)
        raise NotebookError(f"{target} stopped: {error}") from error
    stored = sorted(path for name in {p.stem for p in before} for path in figures.glob(f"{name}.*"))
    checksums = {path.name: digest(path) for path in stored}
    notebook = json.loads(running.read_text())
    record = record | {"seconds": time.perf_counter() - started, "stored": checksums}
    notebook["metadata"][RECORD] = record
    record["sha256"] = checksum(notebook)
    running.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    flush(running)
    running.replace(target)


def recorded(target: Path, figures: Path) -> dict[str, Any] | None:
    """Read the record of a notebook that ran to its end; None if it or its figures are damaged."""
    try:
        notebook = json.loads(target.read_text())
        record = notebook["metadata"][RECORD]
        expected = record.pop("sha256")
        sound = checksum(notebook) == expected and all(
            digest(figures / name) == sha256 for name, sha256 in record["stored"].items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return record if sound else None


def cells(source: Path, tag: str = "") -> list[tuple[str, str]]:
    """Type and source of a notebook's cells, or of those with a tag, without outputs."""
    return [
        (cell["cell_type"], "".join(cell["source"]))
        for cell in json.loads(source.read_text())["cells"]
        if not tag or tag in cell["metadata"].get("tags", [])
    ]


def program(source: Path) -> str:
    """All code of a notebook, without IPython's magic. NotebookError: it is not Python."""
    without_magic = TransformerManager().transform_cell
    text = "".join(without_magic(text) for kind, text in cells(source) if kind == "code")
    _parsed(source, text)
    return text


def _check_parameters(source: Path, parameters: dict) -> None:
    """Raise NotebookError unless the notebook has these parameters, with values of these types."""
    tagged = cells(source, "parameters")
    if len(tagged) != 1:
        raise NotebookError(f"{source} has {len(tagged)} cells tagged 'parameters'; tag one.")
    lines = [line for line in _parsed(source, tagged[0][1]).body if isinstance(line, ast.Assign)]
    kinds = {ast.unparse(line.targets[0]): type(ast.literal_eval(line.value)) for line in lines}
    for name, value in parameters.items():
        if type(value) is not kinds.get(name):
            known = ", ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())
            raise NotebookError(f"{source} takes no {name}={value!r}; its parameters are {known}.")


def _promised(source: Path, figures: Path) -> list[Path]:
    """List the files that cells name, as in ``figures.show(study, "name", ...)``, see `KEPT`."""
    calls = [node for node in ast.walk(ast.parse(program(source))) if isinstance(node, ast.Call)]
    kept = [call for call in calls if getattr(call.func, "attr", "") in KEPT]
    named = [
        (call.func.attr, name.value)
        for call in kept
        for name in call.args[1:2]
        if isinstance(name, ast.Constant)
    ]
    return [figures / f"{name}{suffix}" for how, name in named for suffix in KEPT[how]]


def _parsed(source: Path, text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise NotebookError(f"{source} has a cell that is not Python ({error}).") from error


class _Kernel(AsyncKernelManager):
    """A notebook's process runs in this interpreter, whatever else the user calls python3."""

    @default("kernel_spec_manager")
    def _no_kernel_but_this_python(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder with a short path that nobody else may read; gone if this process is killed too."""
    place = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="ribkit-", dir=place if len(place) < SHORT else "/tmp")
    remove = ["/bin/sh", "-c", 'read -r _; rm -rf "$0"', folder]  # once this process's end is shut
    with subprocess.Popen(remove, stdin=subprocess.PIPE, start_new_session=True):
        yield Path(folder)


def _execute(source: Path, running: Path, root: Path, parameters: dict) -> None:
    """Have papermill execute a notebook into ``running``. Raises NotebookError."""
    import papermill  # takes seconds, which a run with nothing to do need not wait for

    os.environ["RIBKIT_CODE"] = code()  # for the notebook's process, and what that starts
    os.environ["RIBKIT_BARS"] = "1"  # that of the notebooks
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")  # else it has the last word
    try:
        with _private_folder() as folder:
            connection = {"ip": str(folder / "k"), "connection_file": str(folder / "kernel.json")}
            connection["transport"] = "ipc"  # no port for others to read
            startup = [f"--ipython-dir={folder}", "--InteractiveShellApp.exec_PYTHONSTARTUP=False"]
            notebook = papermill.execute_notebook(
                source,
                running,
                parameters,
                cwd=root,
                kernel_name="python3",
                progress_bar=False,
                start_timeout=START,
                extra_arguments=["--log-level=50", *startup],  # the user's own are left out
                kernel_manager_class=_Kernel,
                config=Config({"KernelManager": connection}),
            )
    except papermill.PapermillExecutionError as error:
        raise NotebookError(_one_line(error.ename, error.evalue)) from error
    except RuntimeError as error:  # a DeadKernelError, or what a start that fails raises
        raise NotebookError(
            f"its process died or did not start ({_one_line(type(error).__name__, error)}), as "
            "happens when memory runs out or somebody ends it; run the same command again: it goes "
            "on from there."
        ) from error
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                raise NotebookError(_one_line(output.ename, output.evalue))
        if SKIPPED in cell.metadata.get("tags", []):
            continue
        completed = cell.metadata.get("papermill", {}).get("status") == "completed"
        finished = completed and cell.get("execution_count") is not None
        if cell.cell_type == "code" and cell.source.strip() and not finished:
            line = cell.source.strip().splitlines()[0]
            raise NotebookError(f"the cell that begins {line!r} did not run to its end.")


def _one_line(name: str, value: object) -> str:
    text = " ".join(str(value).split())
    return text if name in OURS else f"{name}: {text}"
