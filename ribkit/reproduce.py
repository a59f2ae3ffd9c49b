"""The whole study by one command: the notebooks in order, through papermill.

    python -m ribkit.reproduce --profile mini

Input is checked first, before anything is computed. A notebook runs again only if what it is made
of has changed: its cells, its parameters, the code of `ribkit`, the images. Each executed notebook,
in ``build/<profile>/``, records commit, versions, hardware, parameters and seeds.
"""

import datetime
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from ribkit import estimate
from ribkit.results import claims, figures, published
from ribkit.runtime import device, notebooks, parallel, progress
from ribkit.runtime.command import command
from ribkit.runtime.errors import InputError, StudyError
from ribkit.runtime.files import checksum, locked
from ribkit.runtime.keys import code_hash, describe, imported
from ribkit.study.command_line import opened, parser
from ribkit.study.inputs import ROOT
from ribkit.study.study import Study

REPORT = "07_report"
PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scipy", "scikit-learn", "scikit-image")


def chosen(numbers: str) -> list[Path]:
    """Find the notebooks of these numbers, as in "01 07"; all of them for "". Raises InputError."""
    sources = {path.name[:2]: path for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    wanted, known = sorted(set(numbers.split()) or sources), sorted(sources)
    for number in wanted:
        if number not in known:
            raise InputError(f"notebook '{number}' is unknown; they are {', '.join(known)}.")
    return [sources[number] for number in wanted]


def reproduce(study: Study, parameters: dict, numbers: str = "") -> list[Path]:
    """Run what must be run; return the executed notebooks. Raises NotebookError if one fails.

    numbers: of the notebooks, see `chosen`.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    executed, drawn = [], study.folder / "figures"
    for source in progress.bar(chosen(numbers), "notebooks", delay=0):
        target = study.folder / source.name
        key = notebook_key(source, study, parameters)
        record = notebooks.recorded(target, drawn)
        if record is None or record["key"] != key:
            record = record_of(study, parameters) | {"key": key}
            started = time.perf_counter()
            notebooks.run(source, target, ROOT, parameters, drawn, record)
            progress.line(f"{source.name}: {time.perf_counter() - started:.0f} s")
        executed.append(target)
    return executed


def notebook_key(source: Path, study: Study, parameters: dict) -> str:
    """Hash what an executed notebook is made of."""
    names = {name for name in imported(notebooks.program(source)) if name.startswith("ribkit")}
    code = [code_hash(name) for name in sorted(names)]
    tables = [file for file in (ROOT / "ribkit").rglob("*") if file.suffix in (".csv", ".toml")]
    if source.stem == REPORT:  # which shows the runs that decide, as they are kept
        kept = [ROOT / "figures" / name for name in published.RUNS.values()]
        tables += [file for folder in kept for file in folder.glob("*.csv")]
    code += [file.read_text() for file in sorted(tables)]
    made_of = [notebooks.cells(source), parameters, code, study.inputs(), device.device().type]
    return checksum(made_of)


def record_of(study: Study, parameters: dict) -> dict:
    """Commit, versions, hardware, parameters and seeds of this run."""
    where = device.device()
    cuda = torch.cuda.get_device_name(where) if where.type == "cuda" else None
    return {
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "machine": {"system": platform.platform(), "cores": parallel.cores(), "cuda": cuda},
        "parameters": parameters,
        "seed": study.profile.rng_seed,
        "settings": describe(study.profile),
    }


def _commit() -> str:
    """The commit of this checkout, whoever owns it and whatever lies around it, or "unknown"."""
    git = ["git", f"--git-dir={ROOT / '.git'}", f"--work-tree={ROOT}"]
    git += ["describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git; no checkout
        return "unknown"


@command("ribkit")
def main(argv: list[str] | None = None) -> None:
    """Do what the command line asks for."""
    arguments = parser("ribkit.reproduce", __doc__)
    arguments.add_argument(
        "--check", action="store_true", help="check the input, say what it will take, and stop"
    )
    arguments.add_argument(
        "--publish", action="store_true", help="copy its figures to figures/, as scenes' always are"
    )
    arguments.add_argument(
        "--notebooks", default="", metavar="NUMBERS", help='only these, as in "01 07"'
    )
    options = arguments.parse_args(argv)
    chosen(options.notebooks)
    study = opened(options)
    if options.check:
        print(study.check(), flush=True)
        print(f"\n{estimate.summary(estimate.table(study))}")
        return
    lock = study.folder.with_name(f"{study.folder.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    busy = f"Process {{}} makes {study.folder} already: "
    busy += "wait until it ends, or stop it (kill {})."
    with locked(lock, busy, wait=False):
        run_all(study, options.publish, options.notebooks)


def run_all(study: Study, publish: bool, numbers: str = "") -> None:
    """Check the input, run what must be run, publish the figures, print the claims if made.

    Published without being asked: a profile's own scenes, which everybody has, and all notebooks.
    """
    started, folder = time.perf_counter(), study.folder
    print(study.check(), flush=True)
    data = str(study.data or "")
    parameters = {"profile": study.profile.name, "data": data, "overrides": study.overrides}
    executed = reproduce(study, parameters, numbers)
    if publish or (study.profile.data == "scenes" and not study.overrides and not numbers):
        names = {name for path in executed for name in _stored(path, folder / "figures")}
        figures.publish(study, names, ROOT / "figures" / study.profile.name)
    if folder / f"{REPORT}.ipynb" in executed:
        table = claims.readable(figures.read(folder / "figures" / "claims.csv"))
        print(f"\n{claims.markdown(table.drop(columns='decided by'))}\n")
    minutes = (time.perf_counter() - started) / 60
    print(f"{len(executed)} notebooks in {folder}, {minutes:.1f} minutes.")


def _stored(executed: Path, figures: Path) -> dict[str, str]:
    """The figures' files that a notebook stored, by name. StudyError: one is not what it was."""
    record = notebooks.recorded(executed, figures)
    if record is None:
        raise StudyError(
            f"{executed}: a figure that it stored is another one now, so none is published; run "
            "the same command again."
        )
    return record["stored"]


if __name__ == "__main__":
    sys.exit(main())
