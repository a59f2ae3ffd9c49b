"""What a result is made of, hashed: its stage's name and code, its parameters, its inputs.

The code is the syntax trees, without comments and docstrings, of every `ribkit` module that the
stage's module imports, directly or not, and of those that read its inputs. `ribkit.runtime` is left
out: how work is spread, locked, told and kept decides no byte of a result. Where a change of it
does, raise `RUNTIME`. Coarser than exact is fine, stale never.
"""

import ast
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from ribkit.runtime.errors import InputError
from ribkit.runtime.files import checksum

RUNTIME = 1  # raised by hand when a change of `ribkit.runtime` changes a stored result's bytes
PACKAGE = Path(__file__).parents[1]
TEXTS = {path: path.read_text() for path in PACKAGE.rglob("*.py")}  # as this process imports them
TABLES = {path: path.read_text() for end in ("toml", "csv") for path in PACKAGE.rglob(f"*.{end}")}


def key_of(name: str, stage: Callable, parameters: Mapping[str, Any]) -> tuple[str, dict, str]:
    """A result's key, its parameters as JSON can write them, and the hash of its stage's code."""
    require_same_code()
    described = {k: describe(v) for k, v in parameters.items()}
    code = code_hash(stage.__module__)
    made_of = [RUNTIME, name, stage.__qualname__, code, described]
    return checksum(made_of)[:20], described, code


def describe(value: Any) -> Any:
    """What a parameter contributes to a key, as something JSON can write.

    An object with a ``fingerprint()`` counts by that, and by the code of the module that reads it:
    its class's, or the one that it names as ``read_by``.
    """
    if hasattr(value, "fingerprint"):
        reader = getattr(value, "read_by", type(value).__module__)
        return [value.fingerprint(), code_hash(reader)]
    if isinstance(value, FunctionType) and "<" not in value.__qualname__:  # no lambda
        return [value.__module__, value.__qualname__, code_hash(value.__module__)]
    if is_dataclass(value):
        described = {f.name: describe(getattr(value, f.name)) for f in fields(value)}
        return {type(value).__name__: described}
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise InputError(f"{type(value).__name__} {value!r} cannot be a parameter of a stored stage.")


@cache
def code() -> str:
    """SHA-256 of all the code of `ribkit` that this process runs, and of its tables."""
    texts = TABLES | {path: _strip_docstrings(text) for path, text in TEXTS.items()}
    return checksum([[str(path.relative_to(PACKAGE)), texts[path]] for path in sorted(texts)])


def require_same_code() -> None:
    """Raise InputError in a process that was started by one that runs other code."""
    if os.environ.get("RIBKIT_CODE", code()) != code():
        raise InputError("The code of ribkit was changed while it ran; run the same command again.")


@cache
def code_hash(module: str) -> str:
    """SHA-256 of the code of a module and of all it imports, of `ribkit` but not of its runtime."""
    runtime = f"{PACKAGE.name}.runtime"
    names = [n for n in imports(PACKAGE, module) if not n.startswith(runtime)]
    return hashlib.sha256("".join(syntax(PACKAGE, n) for n in names).encode()).hexdigest()


def imports(package: Path, module: str) -> list[str]:
    """The module and every module of the package that it imports, directly or not; sorted."""
    known, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in known and (text := _text(package, name)) is not None:
            known.add(name)
            waiting += imported(text)
    return sorted(known)


@cache
def imported(text: str) -> list[str]:
    """Names of what a piece of code imports, modules or not."""
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    return names


def syntax(package: Path, module: str) -> str:
    """A module's syntax tree as text, without comments, docstrings and positions."""
    return module + _strip_docstrings(_text(package, module))


@cache
def _strip_docstrings(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
            del body[0]
    return ast.dump(tree)


def _text(package: Path, module: str) -> str | None:
    """A module's source; None for what is no module of the package."""
    head, *tail = module.split(".")
    place = package.joinpath(*tail)
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if head != package.name or not path.is_file():
        return None
    return TEXTS[path] if path in TEXTS else path.read_text()
