"""Files that are written whole or not at all, by one process at a time, and known by a checksum.

A lock is the operating system's (flock): it ends with the process that holds it, however that ends,
so nothing has to be cleaned up by hand. What a killed process left of a file is written over.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from ribkit.runtime.errors import InputError, say

DIGITS = 64  # of a SHA-256 in hex
NAME = 80  # characters of `safe_name`, at most


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield ``<name>.partial``, to write to; then it becomes ``path``. Another writer waits."""
    partial = path.with_name(f"{path.name}.partial")
    with locked(partial):
        yield partial
        flush(partial)
        partial.replace(path)


def flush(path: Path) -> None:
    """Have the system write a file to the disk, so that it outlives a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


# ---- locks --------------------------------------------------------------------------------------
class Busy(InputError):
    """Another process holds a lock."""


@contextmanager
def locked(path: Path, waiting: str = "", wait: bool = True) -> Iterator[None]:
    """Hold the file ``path`` as the only process; it is gone afterwards, unless it was moved.

    It may be the very file that is written. Where another process holds it, this one waits and
    prints ``waiting``, in which ``{}`` stands for the other's id; or it raises Busy with that.
    """
    while True:
        with path.open("a+") as file:  # closed, the lock is given back
            if not _lock(file):
                file.seek(0)
                sentence = waiting.replace("{}", file.read() or "?")
                if not wait:
                    raise Busy(sentence)
                if sentence:
                    say(sentence)
                _lock(file, blocking=True)
            if not _is_at(path, file):  # moved or removed by the process before
                continue
            try:
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                yield
            finally:
                if _is_at(path, file):
                    path.unlink()
            return


def _lock(file: IO[str], blocking: bool = False) -> bool:
    """Whether this process has the lock now."""
    try:
        return lock_descriptor(file.fileno(), blocking=blocking)
    except OSError as error:
        raise InputError(
            f"{file.name} cannot be locked ({error.strerror}); use a file system with flock."
        ) from error


def _is_at(path: Path, file: IO[str]) -> bool:
    return state(path)[:1] == (os.fstat(file.fileno()).st_ino,)


# ---- names --------------------------------------------------------------------------------------
def resolved(path: str | Path) -> Path:
    """The absolute path; a relative one begins where the user stands, ``~`` is their home."""
    return Path(os.path.expanduser(path)).resolve()


def safe_name(text: str) -> str:
    """Make a name that every file system takes: the text, if it is one, else with part of its hash.

    >>> safe_name("mini-lrs=1e-6,steps=5")
    'mini-lrs=1e-6,steps=5'
    >>> safe_name("mini-saliency=my/maps")
    'mini-saliency=my_maps-42ca9a03'
    """
    safe = re.sub(r"[^A-Za-z0-9=.,_-]", "_", text)
    if safe == text and len(text) <= NAME:
        return text
    return f"{safe[: NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


# ---- checksums ----------------------------------------------------------------------------------
def digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_digest(path: Path) -> str:
    """`digest`, remembered until the file is written anew; empty where there is none."""
    return _known(path, state(path)) if path.is_file() else ""


@cache
def _known(path: Path, state: tuple) -> str:
    return digest(path)


def state(path: Path) -> tuple:
    """What differs once a file is written anew; empty if it is not there."""
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return about.st_ino, about.st_size, about.st_mtime_ns


def checksum(content: Any) -> str:
    """SHA-256 (hex) of something that JSON can write."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def append_checksum(path: Path) -> None:
    """Add the SHA-256 of name and content at a file's end. Readers of zip and npz pass over it."""
    sha256 = _of_name_and_content(path, path.read_bytes())
    with path.open("ab") as file:
        file.write(sha256)


def has_checksum(path: Path) -> bool:
    """Whether the file is there and ends with what `append_checksum` adds."""
    if not path.is_file():
        return False
    content = memoryview(path.read_bytes())
    return content[-DIGITS:] == _of_name_and_content(path, content[:-DIGITS])


def _of_name_and_content(path: Path, content: bytes | memoryview) -> bytes:
    sha256 = hashlib.sha256(path.name.removesuffix(".partial").encode())
    sha256.update(content)
    return sha256.hexdigest().encode()
