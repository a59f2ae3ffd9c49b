"""Files that are written whole or not at all, by one process at a time, and known by a checksum.

A lock is the operating system's (flock): it ends with the process that holds it, however that ends,
so nothing has to be cleaned up by hand. What a killed process left of a file is written over.
"""

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ribkit.errors import InputError

DIGITS = 64  # of a SHA-256 in hex
BLOCK = 1 << 20


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file ``<name>.partial`` to write to; at the end it takes the place of ``path``.

    It is on the disk before it does. Another process that writes ``path`` waits.
    """
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

    waiting: what to say, once, on stderr when another process holds it; ``{}`` is its process id.
    wait: wait for that process; else raise Busy with these words.
    """
    file = _acquire(path, waiting, wait)
    try:
        yield
    finally:
        if _same(file, path):
            path.unlink()
        file.close()


def _acquire(path: Path, waiting: str, wait: bool) -> IO[str]:
    """The lock file, locked, with this process's id in it."""
    told = False
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            words = waiting.replace("{}", _holder(file))
            if not wait:
                file.close()
                raise Busy(words) from None
            if words and not told:
                print(words, file=sys.stderr, flush=True)
                told = True
            fcntl.flock(file, fcntl.LOCK_EX)
        if _same(file, path):  # and not moved or removed by the one before
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file
        file.close()


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read() or "?"


def _same(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


# ---- checksums ----------------------------------------------------------------------------------
def digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(content: Any) -> str:
    """SHA-256 (hex) of something that JSON can write."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seal(path: Path) -> None:
    """Add the file's SHA-256 at its end. Readers of zip, so of npz, pass over it."""
    found = digest(path)
    with path.open("ab") as file:
        file.write(found.encode())


def sealed(path: Path) -> bool:
    """Whether the file is there and ends with the SHA-256 of what comes before."""
    if not path.is_file():
        return False
    left, found = path.stat().st_size - DIGITS, hashlib.sha256()
    with path.open("rb") as file:
        while left > 0:
            block = file.read(min(BLOCK, left))
            found.update(block)
            left -= len(block) or left
        return file.read() == found.hexdigest().encode()
