"""The whole study by one command: the notebooks in order, through papermill.

    python -m ribkit.reproduce --profile mini

Input is checked first, before anything is computed. A notebook runs again only if what it is made
of has changed: its cells, its parameters, the code of `ribkit`, the images. Each executed notebook,
in ``build/<profile>/``, records commit, versions, hardware, parameters and seeds.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from traitlets.config import Config

from ribkit import claims, figures, parallel
from ribkit.errors import InputError
from ribkit.progress import bar
from ribkit.store import code_hash, describe
from ribkit.study import ROOT, Study

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scipy", "scikit-learn", "scikit-image")
RECORD = "ribkit"


def reproduce(study: Study, parameters: dict) -> list[Path]:
    """Run what must be run; return the executed notebooks. Raises RuntimeError if one fails."""
    study.folder.mkdir(parents=True, exist_ok=True)
    executed = []
    for source in bar(sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), "notebooks"):
        target = study.folder / source.name
        key = notebook_key(source, study, parameters)
        if recorded(target) != key:
            run(source, target, parameters, key, study)
        executed.append(target)
    return executed


def notebook_key(source: Path, study: Study, parameters: dict) -> str:
    """What an executed notebook is made of, hashed."""
    cells = [
        (c["cell_type"], "".join(c["source"])) for c in json.loads(source.read_text())["cells"]
    ]
    code = [code_hash(f"ribkit.{name}") for name in ("report", "export")]
    made_of = [cells, parameters, code, study.inputs(), str(parallel.device().type)]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def recorded(target: Path) -> str | None:
    """The key of a notebook that was executed to its end, else None."""
    if not target.is_file():
        return None
    try:
        return json.loads(target.read_text())["metadata"].get(RECORD, {}).get("key")
    except (ValueError, KeyError):
        return None


def run(source: Path, target: Path, parameters: dict, key: str, study: Study) -> None:
    """Execute one notebook; only one that ran to its end carries a record."""
    import nbformat  # both take seconds to import, which a run with nothing to do need not wait for
    import papermill

    started = time.perf_counter()
    running = target.with_name(f"{target.stem}.running.ipynb")
    try:
        papermill.execute_notebook(
            source,
            running,
            parameters,
            cwd=ROOT,
            kernel_name="python3",
            progress_bar=False,
            extra_arguments=["--log-level=50"],
            config=Config({"KernelManager": {"transport": "ipc"}}),  # no port for others to read
        )
    except papermill.PapermillExecutionError as error:
        running.replace(target)
        raise RuntimeError(f"{target} stopped: {error.ename}: {error.evalue}") from error
    notebook = nbformat.read(running, as_version=4)
    unfinished = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None
    ]
    if unfinished:
        raise RuntimeError(f"{running} has a cell that did not run: {unfinished[0].source[:60]!r}")
    seconds = time.perf_counter() - started
    notebook.metadata[RECORD] = record(study, parameters) | {"key": key, "seconds": seconds}
    nbformat.write(notebook, running)
    running.replace(target)


def record(study: Study, parameters: dict) -> dict:
    """Commit, versions, hardware, parameters and seeds of this run."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    cuda = torch.cuda.get_device_name() if parallel.device().type == "cuda" else None
    return {
        "commit": commit or "unknown",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "machine": {"system": platform.platform(), "cores": parallel.workers(), "cuda": cuda},
        "parameters": parameters,
        "seed": study.profile.seed,
        "settings": describe(study.profile),
    }


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    found = parser("ribkit.reproduce", __doc__)
    found.add_argument(
        "--check", action="store_true", help="check the input, say what it will take, and stop"
    )
    return found.parse_args(words)


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """What every command asks for: a profile, its data, the device, changed settings."""
    found = argparse.ArgumentParser(prog=name, description=description)
    found.add_argument("--profile", default="mini")
    found.add_argument("--data", default="", help="a folder in VOC layout")
    found.add_argument("--device", default="", help="cuda or cpu; CUDA where there is one")
    found.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    return found


def opened(options: argparse.Namespace) -> Study:
    """The study that a command line asks for; bars go to this terminal. Raises InputError."""
    if os.environ.get("RIBKIT_PROGRESS"):
        os.environ["RIBKIT_PROGRESS"] = f"/proc/{os.getpid()}/fd/2"
    set_device(options.device)
    return Study(options.profile, options.data, overrides(options.set))


def overrides(pairs: list[str]) -> dict[str, str]:
    """``["steps=5"]`` -> ``{"steps": "5"}``. Raises InputError for a pair without ``=``."""
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"'{pair}' is not of the form name=value, as in PARAMS=\"steps=5\".")
    return dict(pair.split("=", 1) for pair in pairs)


def set_device(name: str) -> None:
    """Make everything compute on this device. Raises InputError if it is not there."""
    if name not in ("", "cpu", "cuda"):
        raise InputError(f"device '{name}' is unknown; use cuda or cpu.")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not there; use cpu, or leave it out.")
    if name:
        os.environ["RIBKIT_DEVICE"] = name


def main(words: list[str] | None = None) -> int:
    """Check, run, publish the figures, print the claims. Returns the exit status."""
    options = arguments(words)
    started = time.perf_counter()
    try:
        study = opened(options)
        changes = overrides(options.set)
        print(study.check(), flush=True)
        if options.check:
            from ribkit import estimate  # what a run need not import

            print(f"\n{estimate.words(estimate.table(study))}")
            return 0
        parameters = {
            "profile": options.profile,
            "data": str(study.data or ""),
            "overrides": changes,
        }
        executed = reproduce(study, parameters)
    except (InputError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    if not changes:
        figures.publish(study.folder / "figures", ROOT / "figures" / study.profile.name)
    table = pd.read_csv(study.folder / "figures" / "claims.csv", keep_default_na=False)
    print(f"\n{claims.markdown(table.drop(columns='decided by'))}\n")
    minutes = (time.perf_counter() - started) / 60
    print(f"{len(executed)} notebooks in {study.folder}, {minutes:.1f} minutes.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
