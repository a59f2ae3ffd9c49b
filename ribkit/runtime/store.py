"""Results on disk: each stored under a hash of what made it, whole or not at all, and reused.

A *stage* is a function, decorated with its name, of plain parameters. It returns a dictionary whose
keys name its files: CSV for tables, npz without pickles for arrays, safetensors for weights. A
result's key (`ribkit.runtime.keys`) hashes the stage's code and what it is given.
No file is read before its SHA-256 is found right: a damaged result is computed again, or refused.
"""

import inspect
import itertools
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ribkit.runtime import distributed
from ribkit.runtime.device import threads
from ribkit.runtime.errors import InputError, resource_errors, say
from ribkit.runtime.files import checksum, digest, flush, known_digest, locked, state
from ribkit.runtime.keys import key_of
from ribkit.runtime.parallel import map_images
from ribkit.runtime.progress import bar, line, measured

MANIFEST = "manifest.json"
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # of its text
THREADS = 2  # a stage computes with so many, whatever the machine has: the same bytes everywhere
Values = Mapping[str, Any]


def stage(name: str) -> Callable[[Callable[..., Values]], Callable[..., Values]]:
    """Decorate a function as a stage, whose results are stored under this name.

    One that takes ``scratch`` gets a folder that outlives an interrupted run, to resume from.
    """

    def decorate(function: Callable[..., Values]) -> Callable[..., Values]:
        function.stage = name
        function.resumes = "scratch" in inspect.signature(function).parameters
        return function

    return decorate


# ---- what is read -------------------------------------------------------------------------------
class Arrays(Mapping[str, Any]):
    """Arrays or tensors by name, in order; ``read(name)`` reads one when it is asked for."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Any]):
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def open_arrays(path: Path) -> Arrays:
    """An npz or safetensors file that stays open. Raises ValueError for an array of objects."""
    if path.suffix == ".safetensors":
        tensors = safe_open(path, framework="pt")
        return Arrays(tensors.keys(), tensors.get_tensor)
    archive, one_by_one = zipfile.ZipFile(path), Lock()  # Python 3.12's mixes up its threads

    def read(name: str) -> np.ndarray:
        with one_by_one, archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    return Arrays((name.removesuffix(".npy") for name in archive.namelist()), read)


@lru_cache(maxsize=16)
def _opened(path: Path, state: tuple) -> Arrays:
    return open_arrays(path)


@dataclass(frozen=True)
class Result:
    """What a stage stored: a folder with one file for each value, and a manifest.

    Raises InputError, which names it, for a file that has not its checksum.
    """

    name: str
    key: str
    path: Path

    def fingerprint(self) -> dict[str, str]:
        """What made it, for the keys of what is made of it."""
        return {"result": self.name, "key": self.key}

    def table(self, value: str) -> pd.DataFrame:
        path = self.file(f"{value}.csv")
        names = dict.fromkeys(("image", "class"), str)  # of digits keep their zeros
        return pd.read_csv(path, keep_default_na=False, na_values=["nan"], dtype=names)

    def arrays(self, value: str) -> "StoredArrays":
        return StoredArrays(self, value)

    def tensors(self, value: str) -> "StoredTensors":
        return StoredTensors(self, value)

    @property
    def manifest(self) -> dict[str, Any]:
        """What it was made of, in how many seconds, and its files' checksums."""
        manifest = _manifest(self.path, state(self.path / MANIFEST))
        if manifest is None:
            raise InputError(_damaged(self.path / MANIFEST))
        return manifest

    def file(self, name: str) -> Path:
        """One of its files, known to be sound."""
        path, files = self.path / name, self.manifest["sha256"]
        if name not in files:
            raise FileNotFoundError(f"{self.path} holds {', '.join(files)} and no {name}")
        if known_digest(path) != files[name]:
            raise InputError(_damaged(path))
        return path

    def damaged(self) -> Path | None:
        """The first of its files that is missing or has not its checksum."""
        manifest = _manifest(self.path, state(self.path / MANIFEST))
        if manifest is None:
            return self.path / MANIFEST
        files = {self.path / name: sha256 for name, sha256 in manifest["sha256"].items()}
        return next((path for path in files if known_digest(path) != files[path]), None)


def _damaged(path: Path) -> str:
    return f"{path} is damaged or missing; run the same command again, which makes it anew."


@lru_cache(maxsize=4096)
def _manifest(folder: Path, state: tuple) -> dict[str, Any] | None:
    """A result's manifest, or None if it is missing or has not its checksum."""
    try:
        text = (folder / MANIFEST).read_text()
        manifest = json.loads(text)
        manifest.pop("manifest")
        return manifest if text == _with_checksum(manifest) else None
    except (FileNotFoundError, NotADirectoryError, *MALFORMED):
        return None


def _with_checksum(manifest: dict) -> str:
    """A manifest as text, with the checksum of all the rest of it."""
    return json.dumps(manifest | {"manifest": checksum(manifest)}, indent=1) + "\n"


@dataclass(frozen=True)
class Stored(Arrays):
    """One value of a result, by name: a stage's parameter, which counts by what made the result."""

    result: Result
    value: str

    suffix = ""

    def fingerprint(self) -> dict[str, str]:
        """What made it, for the keys of what is made of it."""
        return self.result.fingerprint() | {"value": self.value}

    def _open(self) -> Arrays:
        path = self.result.file(f"{self.value}.{self.suffix}")
        return _opened(path, state(path))

    @property
    def _names(self) -> dict[str, None]:
        return self._open()._names

    def __getitem__(self, name: str) -> Any:
        return self._open()[name]

    def __str__(self) -> str:
        return f"{self.value} in {self.result.path}"


class StoredArrays(Stored):
    """Arrays, read one by one; memory holds none."""

    suffix = "npz"


class StoredTensors(Stored):
    """Tensors, on the CPU."""

    suffix = "safetensors"


# ---- what is computed ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Job:
    """A stage with its parameters, where its result lies, and what the manifest says it is of."""

    call: partial
    result: Result
    made_of: dict[str, Any]


class Store:
    """A folder of results."""

    def __init__(self, root: Path | str):
        self.root = Path(root)

    def run(self, stage: Callable[..., Values], **parameters: Any) -> Result:
        """The result of ``stage(**parameters)``: read if it is stored, else computed and stored.

        If another process computes the same, this one waits and reads. Processes that train
        together all run the stage; the first writes. Raises InputError where the code changed, or a
        parameter is no number, text, tuple, dataclass, function, image set or value of a result.
        """
        job = self._job(partial(stage, **parameters))
        if _settle(job):
            _tell(job.result)
        return job.result

    def run_all(self, calls: Sequence[partial], label: str) -> list[Result]:
        """`run` of each ``partial(stage, **parameters)``, in order; the missing side by side."""
        jobs = [self._job(call) for call in calls]
        missing = [job for job in jobs if not _settled(job.result)]
        if missing:
            settled = map_images(_settle, missing, label, even=True)
            for job in itertools.compress(missing, settled):
                _tell(job.result)
        return [job.result for job in jobs]

    def _job(self, call: partial) -> Job:
        name = call.func.stage
        key, described, code = key_of(name, call.func, call.keywords)
        result = Result(name, key, self.root / f"{name}-{key}")
        return Job(call, result, {"parameters": described, "code": code})


def _tell(result: Result) -> None:
    """Show what a result took, if that was a second or more."""
    if (seconds := result.manifest["seconds"]) >= 1:
        line(f"  {result.name}: {seconds:.0f} s")


def _settle(job: Job) -> bool:
    """Compute and store a result, unless that is done; whether it was done here."""
    result, here = job.result, False
    with resource_errors(str(result.path)):
        if not distributed.broadcast_bool(lambda: _settled(result)):
            result.path.parent.mkdir(parents=True, exist_ok=True)
            waiting = f"Process {{}} computes {result.path.name} already; this one waits for it."
            first = distributed.rank() == 0  # of processes that train together
            with locked(_beside(result, "lock"), waiting) if first else nullcontext():
                if not distributed.broadcast_bool(lambda: result.damaged() is None):  # by another
                    _compute(job)
                    here = True
                shutil.rmtree(_beside(result, "scratch"), ignore_errors=True)
    return here


def _settled(result: Result) -> bool:
    """Whether a result is stored, and nothing is left of its making: then its lock is gone."""
    return result.damaged() is None and not _beside(result, "lock").exists()


def _compute(job: Job) -> None:
    if job.result.path.is_dir():
        say(f"{job.result.damaged()} is damaged or missing; it is made anew.")
    scratch = {}
    if job.call.func.resumes:
        scratch["scratch"] = _beside(job.result, "scratch")
        scratch["scratch"].mkdir(parents=True, exist_ok=True)
    with threads(THREADS), measured() as measures:
        values = job.call(**scratch)
    torch.cuda.empty_cache()  # other processes may need it; without a GPU nothing happens
    if distributed.rank() == 0:
        _write(job.result, values, job.made_of | measures)
    distributed.barrier()


def _write(result: Result, values: Values, manifest: dict) -> None:
    """Write everything beside its place, then move the folder there in one step."""
    partial = _beside(result, "partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(parents=True)
    try:
        for value, content in values.items():
            save(partial, value, content)
        manifest["sha256"] = {path.name: digest(path) for path in sorted(partial.iterdir())}
        (partial / MANIFEST).write_text(_with_checksum(manifest))
        for path in partial.iterdir():
            flush(path)
        shutil.rmtree(result.path, ignore_errors=True)  # a damaged one
        partial.rename(result.path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _beside(result: Result, kind: str) -> Path:
    return result.path.with_name(f"{result.path.name}.{kind}")


# ---- files --------------------------------------------------------------------------------------
def save(folder: Path, value: str, content: Any) -> None:
    """One value as one file: a table, or a dictionary of arrays or of tensors."""
    if isinstance(content, pd.DataFrame):
        content.to_csv(folder / f"{value}.csv", index=False, lineterminator="\n", na_rep="nan")
    elif isinstance(content, Arrays) or _all(content, np.ndarray):
        save_arrays(folder / f"{value}.npz", content)
    elif _all(content, torch.Tensor):
        tensors = {k: v.detach().cpu().contiguous() for k, v in content.items()}
        save_file(tensors, folder / f"{value}.safetensors")
    else:
        raise TypeError(f"{value!r} is neither a table nor a dictionary of arrays or of tensors")


def _all(content: Any, kind: type) -> bool:
    """Whether this is a dictionary of such values, if of any."""
    return isinstance(content, dict) and all(isinstance(v, kind) for v in content.values())


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """One npz file, array by array; the same arrays make the same bytes. None may hold objects."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in bar(arrays.items(), f"writing {path.name}", len(arrays)):
            # a member that is opened by its name alone bears the date 1980-01-01
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array, order="C"), allow_pickle=False)
