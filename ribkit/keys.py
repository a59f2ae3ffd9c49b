"""What a result is made of, hashed: its stage's name and code, its parameters, its inputs.

The code is the syntax trees, without comments and docstrings, of every `ribkit` module that the
stage's module imports, directly or not, and of those that read its images. Coarser than exact is
fine, stale never.
"""

import ast
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ribkit.errors import InputError
from ribkit.files import checksum
from ribkit.images import ImageSet

PACKAGE = Path(__file__).parent
TEXTS = {path: path.read_text() for path in PACKAGE.glob("*.py")}  # as this process imports them


def key_of(name: str, stage: Callable, parameters: Mapping[str, Any]) -> tuple[str, dict, str]:
    """A result's key, its parameters as JSON can write them, and the hash of its stage's code."""
    require_same_code()
    described = {k: describe(v) for k, v in parameters.items()}
    code = code_hash(stage.__module__)
    return checksum([name, stage.__qualname__, code, described])[:20], described, code


def describe(value: Any) -> Any:
    """What a parameter contributes to a key, as something JSON can write."""
    if isinstance(value, ImageSet):
        labels = hashlib.sha256(np.ascontiguousarray(value.labels).tobytes()).hexdigest()
        read_by = code_hash(type(value.source).__module__)
        return [value.fingerprint(), read_by, list(value.ids), list(value.classes), labels]
    if hasattr(value, "fingerprint"):
        return value.fingerprint()
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
    """SHA-256 of all the code of `ribkit` that this process runs."""
    return checksum([[path.stem, _without_words(TEXTS[path])] for path in sorted(TEXTS)])


def require_same_code() -> None:
    """Raises InputError in a process that was started by one that runs other code."""
    if os.environ.get("RIBKIT_CODE", code()) != code():
        raise InputError("The code of ribkit was changed while it ran; run the same command again.")


@cache
def code_hash(module: str) -> str:
    """SHA-256 of the code of a `ribkit` module and of all `ribkit` modules it imports."""
    code = "".join(syntax(PACKAGE, name) for name in imports(PACKAGE, module))
    return hashlib.sha256(code.encode()).hexdigest()


def imports(package: Path, module: str) -> list[str]:
    """The module and every module of the package that it imports, directly or not; sorted."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in found and _file(package, name).is_file():
            found.add(name)
            waiting += _imported(_text(package, name))
    return sorted(found)


@cache
def _imported(text: str) -> list[str]:
    """Names of what a module's text imports, modules or not."""
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    return names


def syntax(package: Path, module: str) -> str:
    """A module's syntax tree as text, without comments, docstrings and positions."""
    return module + _without_words(_text(package, module))


def _text(package: Path, module: str) -> str:
    path = _file(package, module)
    return TEXTS[path] if path in TEXTS else path.read_text()


@cache
def _without_words(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
            del body[0]
    return ast.dump(tree)


def _file(package: Path, module: str) -> Path:
    """Where a module's source lies; a name of another package gives no file."""
    head, _, tail = module.partition(".")
    if head != package.name:
        return package / "-"
    return package / f"{tail.replace('.', '/')}.py" if tail else package / "__init__.py"
