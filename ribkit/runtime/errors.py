"""Errors that a user reads: the input is wrong, or the machine has too little of something."""

import errno
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")
LINES = 20  # a message has at most so many
START, END = 400, 300  # characters of a problem that are shown; a file may name what it likes
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
VARIES = re.compile(r"'[^']*'|(?<=[/\\])[^\s/\\]+(?=\s|$)|\d+")  # quoted, files, numbers
OS_ERROR = re.compile(r"\(os error (\d+)\)")  # in an error of safetensors
MEMORY = re.compile(
    "out of memory|can't allocate memory|memory ran out|"
    # of cuBLAS, cuDNN and cuSPARSE, which need their own while they start
    "ALLOC_FAILED|ALLOCATION_FAILED|CUBLAS_STATUS_NOT_INITIALIZED|insufficient resources",
    re.IGNORECASE,
)
FEWER = "let fewer work at once (RIBKIT_WORKERS=1), or set batch, crop or n_others lower,"


class InputError(ValueError):
    """Bad input: a sentence for each problem, which names the file, the value and the remedy.

    A single problem is printed as it is, several one per line, 20 lines at most: of more, those
    that differ in names and numbers only are told by the first and their count.
    """

    def __str__(self) -> str:
        lines = list(self.args) if len(self.args) < LINES else _grouped(self.args)
        for number, problem in enumerate(lines):
            if len(problem) > START + END:  # the file comes first, the remedy last
                lines[number] = f"{problem[:START]} ... {problem[-END:]}"
        if len(self.args) > 1:
            lines.insert(0, f"{len(self.args)} problems; correct these first:")
        if len(lines) > LINES:
            lines[LINES - 1 :] = [f"... and {len(lines) - LINES + 1} more."]
        return "\n".join(lines)


def _grouped(problems: Sequence[str]) -> list[str]:
    """The first of those that are alike, and how many more there are."""
    alike: dict[str, list[str]] = {}
    for problem in problems:
        alike.setdefault(VARIES.sub("", problem), []).append(problem)
    return [
        f"{first[:-1]} (and {len(more)} more like it)." if more else first
        for first, *more in alike.values()
    ]


class Problems(list[str]):
    """What is wrong with some input, a sentence each, collected to be raised at once."""

    def collect(self, function: Callable[..., T], *arguments) -> T | None:
        """The function's value; or None, and its InputError is added here."""
        try:
            return function(*arguments)
        except InputError as error:
            self.extend(error.args)
            return None

    def tell(self) -> None:
        """InputError with all of them, each once; nothing if there is none."""
        if self:
            raise InputError(*dict.fromkeys(self))


class StudyError(RuntimeError):
    """Why a run ended, in one sentence."""


class ResourceError(StudyError):
    """The machine lacks room, memory or a right; one sentence, with the remedy."""


@contextmanager
def resource_errors(doing: str) -> Iterator[None]:
    """Turn errors of a machine that lacks something, while ``doing``, into a ResourceError."""
    try:
        yield
    except (InputError, StudyError):
        raise
    except Exception as error:
        lack = _lack(error)
        if not lack:
            raise
        again = "and run the same command again: it goes on from there."
        raise ResourceError(f"{doing}: {lack} {again}") from error


def say(text: object) -> None:
    """Print a line at standard error; it is lost where nobody reads that any more."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def is_final(error: BaseException) -> bool:
    """Whether trying again cannot mend it: bad input, no room, no right."""
    return isinstance(error, InputError | StudyError) or _number(error) in FULL | FORBIDDEN


def _lack(error: Exception) -> str:
    """What the machine lacks and what to do about it; empty for an error of another kind."""
    number, place, line = _number(error), getattr(error, "filename", None), first_line(error)
    at = f" at {place}" if place else ""
    if number in FULL:
        return f"the disk has no room{at} ({line}); make room"
    if number in FORBIDDEN:
        return f"access is not allowed{at} ({line}); allow it"
    told = isinstance(error, RuntimeError) and MEMORY.search(str(error))
    if told or isinstance(error, MemoryError) or number == errno.ENOMEM:
        return f"memory ran out ({line}); {FEWER}"
    if isinstance(error, BrokenExecutor):
        return f"its process was killed again and again, as happens when memory runs out; {FEWER}"
    return ""


def _number(error: BaseException) -> int | None:
    """Number of a system's error, also of one that safetensors passes on."""
    if isinstance(error, OSError):
        return error.errno
    number = OS_ERROR.search(str(error))
    return int(number[1]) if number else None


def first_line(error: BaseException) -> str:
    """The first line of an error's text without its full stop; its type where there is no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def few(names: Sequence[str]) -> str:
    """The first five names of a list, and how many more there are."""
    return ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5)
