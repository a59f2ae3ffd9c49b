"""Image-level labels as people write them down: what each photograph shows, as JSON or CSV.

JSON is ``{"a.jpg": ["cat", "dog"]}``, or the ``image_labels.json`` of a folder in VOC layout. CSV
has two columns, file and classes, and semicolons between classes, whose names may hold spaces:
``a.jpg,cat;potted plant``. A first line ``file,classes`` is a header. File names may lack their
suffix. No class at all is a label too: the photograph shows none of them.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ribkit.data.images import readable
from ribkit.data.voc import MOST
from ribkit.runtime.errors import InputError

HEADER = ["file", "classes"]
FORM = 'write {"a.jpg": ["cat", "dog"]} as JSON, or lines a.jpg,cat;dog as CSV'

Shown = Mapping[str, Sequence[str]]  # file name, or its stem -> classes


def read(path: Path) -> tuple[Shown, tuple[str, ...]]:
    """What each photograph shows, and the names of all classes in order, from a file."""
    if not path.is_file():
        raise InputError(f"{path} is no file of labels; {FORM}.")
    with readable(path, FORM):
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            content = json.loads(text, object_pairs_hook=_unique)
            if isinstance(content, dict) and isinstance(content.get("labels"), dict):
                return checked(content["labels"], content["classes"], str(path))
        else:
            content = _unique(_rows(text))
    return checked(content, (), str(path))


def checked(shown: Any, classes: Iterable[str], where: str) -> tuple[Shown, tuple[str, ...]]:
    """The same with every name of a class known to be one; without classes all, sorted by name.

    InputError: it is no mapping of names to lists of names, or ``where`` has no class, too many, or
    one twice.
    """
    if not isinstance(shown, Mapping):
        raise InputError(f"{where}: the labels are {shown!r:.80}; {FORM}.")
    shown = {name: [one] if isinstance(one, str) else one for name, one in shown.items()}
    for name, listed in [*shown.items(), ("classes", classes)]:
        if not isinstance(listed, Iterable) or not all(isinstance(c, str) and c for c in listed):
            raise InputError(f"{where}: {name} has {listed!r:.80}; {FORM}.")
    found = {name for listed in shown.values() for name in listed}
    classes = tuple(classes) or tuple(sorted(found))
    if not 0 < len(classes) == len(set(classes)) <= MOST:
        raise InputError(f"{where}: {len(classes)} classes; give 1 to {MOST} different names.")
    if unknown := sorted(found - set(classes)):
        raise InputError(f"{where}: {unknown[0]!r} is none of the classes {', '.join(classes)}.")
    for name in classes:
        if name.strip("_ ").lower() == "background":
            raise InputError(f"{where}: {name!r} is no class, but what shows none; leave it out.")
        if len(name.split()) > 1 and set(name.split()) <= set(classes):
            raise InputError(f"{where}: {name!r} names several classes; write semicolons between.")
    return shown, classes


def _rows(text: str) -> list[tuple[str, list[str]]]:
    """The lines of a CSV file. ValueError: one that has not two columns."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    found = []
    try:
        for row in rows:
            if len(row) not in (0, 2):
                raise ValueError(f"line {rows.line_num} has {len(row)} columns, not 2")
            if row and (found or [cell.strip().lower() for cell in row] != HEADER):
                found.append((row[0], [c.strip() for c in row[1].split(";") if c.strip()]))
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}") from None
    return found


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary. ValueError: a name stands there twice."""
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"{name!r} stands there {count} times")
    return dict(pairs)
