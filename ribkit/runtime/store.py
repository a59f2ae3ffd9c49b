"""Results on disk: each stored under a hash of what made it, whole or not at all, and reused.

A result's manifest holds the SHA-256 of its files and of itself. No file is read before its
checksum is found right: a damaged result is computed again, or refused by name.

A *stage* is a function, decorated with its name, of plain parameters. It returns a dictionary whose
keys name its files: CSV for tables, npz without pickles for arrays, safetensors for weights, JSON
for the rest. A result's key (`ribkit.runtime.keys`) hashes the stage's code and what it is given.
"""

import inspect
import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ribkit.runtime import distributed
from ribkit.runtime.device import threads
from ribkit.runtime.errors import InputError, resource_errors
from ribkit.runtime.files import checksum, digest, flush, known_digest, locked, state
from ribkit.runtime.keys import key_of
from ribkit.runtime.measures import measured
from ribkit.runtime.parallel import map_images
from ribkit.runtime.progress import bar

MANIFEST = "manifest.json"
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # of its text
THREADS = 2  # a stage computes with so many, whatever the machine has: the same bytes everywhere
Values = Mapping[str, Any]


def stage(name: str) -> Callable[[Callable[..., Values]], Callable[..., Values]]:
    """Decorate a function as a stage, whose results are stored under this name.

    It stays an ordinary function. A stage that takes ``scratch`` gets a folder that outlives an
    interrupted run, to resume from.
    """

    def decorate(function: Callable[..., Values]) -> Callable[..., Values]:
        function.stage = name
        function.resumes = "scratch" in inspect.signature(function).parameters
        return function

    return decorate


class Arrays(Mapping[str, np.ndarray]):
    """Named arrays that are read one by one, each when it is asked for; memory holds none."""

    def __init__(self, names: Iterable[str], read: Callable[[str], np.ndarray]):
        """Give the names in order, and what reads the array of a name; picklable if that is."""
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Npz:
    """An npz file that stays open; another process or thread may read it too."""

    def __init__(self, path: Path):
        self.path, self._archive = path, zipfile.ZipFile(path)

    def __reduce__(self) -> tuple:
        return Npz, (self.path,)

    def names(self) -> list[str]:
        """Of its arrays, in order."""
        return [name.removesuffix(".npy") for name in self._archive.namelist()]

    def read(self, name: str) -> np.ndarray:
        """One array. Raises ValueError for an array of objects, which only a pickle could make."""
        with self._archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)


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
        """A table."""
        path = self.file(f"{value}.csv")
        return pd.read_csv(path, keep_default_na=False, na_values=["nan"])

    def arrays(self, value: str) -> "StoredArrays":
        """Named arrays, read one by one."""
        return StoredArrays(self, value)

    def tensors(self, value: str) -> "StoredTensors":
        """Named tensors, on the CPU."""
        return StoredTensors(self, value)

    def json(self, value: str) -> Any:
        """Numbers, strings, lists and dictionaries."""
        return json.loads(self.file(f"{value}.json").read_text())

    @property
    def manifest(self) -> dict[str, Any]:
        """What it was made of, in how many seconds, and its files' checksums."""
        found = _manifest(self.path, state(self.path / MANIFEST))
        if found is None:
            raise InputError(_damaged(self.path / MANIFEST))
        return found

    @property
    def seconds(self) -> float:
        """How long the stage took when it was computed."""
        return self.manifest["seconds"]

    def damaged(self) -> Path | None:
        """The first of its files that is missing or has not its checksum."""
        found = _manifest(self.path, state(self.path / MANIFEST))
        if found is None:
            return self.path / MANIFEST
        files = {self.path / name: expected for name, expected in found["sha256"].items()}
        return next((path for path, expected in files.items() if not _is(path, expected)), None)

    def file(self, name: str) -> Path:
        """One of its files, known to be sound."""
        path, files = self.path / name, self.manifest["sha256"]
        if name not in files:
            raise FileNotFoundError(f"{self.path} holds {', '.join(files)} and no {name}")
        if not _is(path, files[name]):
            raise InputError(_damaged(path))
        return path


@dataclass(frozen=True)
class Stored(Mapping[str, Any]):
    """One value of a result, by name: a stage's parameter, which counts by what made the result."""

    result: Result
    value: str

    suffix = ""

    def fingerprint(self) -> dict[str, str]:
        """What made it, for the keys of what is made of it."""
        return self.result.fingerprint() | {"value": self.value}

    def _content(self) -> Mapping[str, Any]:
        path = self.result.file(f"{self.value}.{self.suffix}")
        return _read(path, path.stat().st_mtime_ns)

    def __getitem__(self, name: str) -> Any:
        return self._content()[name]

    def __contains__(self, name: object) -> bool:
        return name in self._content()

    def __iter__(self) -> Iterator[str]:
        return iter(self._content())

    def __len__(self) -> int:
        return len(self._content())

    def __str__(self) -> str:
        return f"{self.value} in {self.result.path}"


class StoredArrays(Stored):
    """Arrays in a file that stays open, read one by one; memory holds none."""

    suffix = "npz"


class StoredTensors(Stored):
    """Tensors, on the CPU."""

    suffix = "safetensors"


@lru_cache(maxsize=16)
def _read(path: Path, changed: int) -> Arrays:
    """A file that stays open, its list of names read once in each process."""
    if path.suffix == ".safetensors":
        file = safe_open(path, framework="pt")
        return Arrays(file.keys(), file.get_tensor)
    npz = Npz(path)
    return Arrays(npz.names(), npz.read)


class Store:
    """A folder of results."""

    def __init__(self, root: Path | str):
        self.root = Path(root)

    def run(self, stage: Callable[..., Values], **parameters: Any) -> Result:
        """The result of ``stage(**parameters)``: read if it is stored, else computed and stored.

        If another process computes the same, this one waits and reads. Processes that train
        together all run the stage; the first writes.

        Args:
            stage: A function decorated with `stage` or `per_image`.
            **parameters: Numbers, strings, tuples, frozen dataclasses, functions, image sets,
                and values of results.

        Returns:
            The stored result.

        Raises:
            InputError: A parameter is of another kind, or the code changed while it ran.
            ResourceError: The machine lacks room, memory or a right.
        """
        result, made_of = self._named(stage, parameters)
        with resource_errors(str(result.path)):
            if not distributed.broadcast_bool(lambda: _settled(result)):
                self.root.mkdir(parents=True, exist_ok=True)
                with _lock_for(result):
                    if not distributed.broadcast_bool(lambda: _stored(result)):  # by another
                        self._compute(result, stage, parameters, made_of)
                    shutil.rmtree(_beside(result, "scratch"), ignore_errors=True)
        return result

    def has(self, stage: Callable[..., Values], **parameters: Any) -> bool:
        """Whether `run` would read and not compute."""
        return _stored(self._named(stage, parameters)[0])

    def run_all(self, calls: Sequence[partial], label: str) -> list[Result]:
        """`run` of several stages, each a `partial` with its parameters; the missing side by side.

        Args:
            calls: ``partial(stage, **parameters)``, all of them picklable.
            label: What the progress bar says.

        Returns:
            The results, in the order of the calls.
        """
        missing = [call for call in calls if not self.has(call.func, **call.keywords)]
        if missing:
            map_images(self._run, missing, label)
        return [self._run(call) for call in calls]

    def _run(self, call: partial) -> Result:
        return self.run(call.func, **call.keywords)

    def _named(self, stage: Callable[..., Values], parameters: Values) -> tuple[Result, dict]:
        """Where the result lies, and the manifest's account of what it is made of."""
        key, described, code = key_of(stage.stage, stage, parameters)
        result = Result(stage.stage, key, self.root / f"{stage.stage}-{key}")
        return result, {"parameters": described, "code": code}

    def _compute(self, result: Result, stage: Callable, parameters: Values, made_of: dict) -> None:
        if result.path.is_dir():
            print(f"{result.damaged()} is damaged or missing; it is made anew.", file=sys.stderr)
        scratch = {}
        if stage.resumes:
            scratch["scratch"] = _beside(result, "scratch")
            scratch["scratch"].mkdir(parents=True, exist_ok=True)
        with threads(THREADS), measured() as measures:
            values = stage(**parameters, **scratch)
        if distributed.rank() == 0:
            _write(result, values, made_of | measures)
        distributed.barrier()


def _write(result: Result, values: Mapping[str, Any], manifest: dict) -> None:
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


def _settled(result: Result) -> bool:
    """Whether a result is stored, and nothing is left of its making: then its lock is gone."""
    return _stored(result) and not _beside(result, "lock").exists()


def _lock_for(result: Result) -> AbstractContextManager:
    """The right to compute a result; of processes that train together, the first holds it."""
    if distributed.rank() > 0:
        return nullcontext()
    waiting = f"Process {{}} computes {result.path.name} already; this one waits for it."
    return locked(_beside(result, "lock"), waiting)


# ---- checksums ----------------------------------------------------------------------------------
def _stored(result: Result) -> bool:
    """Whether a result is there and sound."""
    return result.path.is_dir() and result.damaged() is None


def _damaged(path: Path) -> str:
    return f"{path} is damaged or missing; run the same command again, which makes it anew."


def _with_checksum(manifest: dict) -> str:
    """A manifest as text, with the checksum of all the rest of it."""
    return json.dumps(manifest | {"manifest": checksum(manifest)}, indent=1) + "\n"


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


def _is(path: Path, expected: str) -> bool:
    """Whether a file is there and has this SHA-256."""
    return path.is_file() and known_digest(path) == expected


# ---- files --------------------------------------------------------------------------------------
def save(folder: Path, value: str, content: Any) -> None:
    """One value as one file, in the format that its type asks for."""
    if isinstance(content, pd.DataFrame):
        content.to_csv(folder / f"{value}.csv", index=False, lineterminator="\n", na_rep="nan")
    elif isinstance(content, Arrays) or _all(content, np.ndarray):
        save_arrays(folder / f"{value}.npz", content)
    elif _all(content, torch.Tensor):
        tensors = {k: v.detach().cpu().contiguous() for k, v in content.items()}
        save_file(tensors, folder / f"{value}.safetensors")
    else:
        (folder / f"{value}.json").write_text(json.dumps(content, indent=1) + "\n")


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """One npz file, array by array.

    Any name will do. The same arrays make the same bytes, whatever their order in memory: a member
    written by name alone bears the date 1980-01-01. Raises ValueError for object arrays.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in bar(arrays.items(), f"writing {path.name}", len(arrays)):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array, order="C"), allow_pickle=False)


def _all(content: Any, kind: type) -> bool:
    """Whether this is a dictionary of such values, and not empty."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(v, kind) for v in content.values())
    )
