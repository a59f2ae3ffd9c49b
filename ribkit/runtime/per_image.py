"""Stages that work image by image: what is made of an image goes to disk at once, and stays there.

A worker writes an image's arrays to ``scratch`` and sends nothing back; the stage returns arrays
that are read from there, one at a time, when the result is written. So memory does not grow with
the number of images, and a run that is killed goes on where it was.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ribkit.runtime.errors import InputError
from ribkit.runtime.files import append_checksum, atomic_write, has_checksum
from ribkit.runtime.parallel import map_images
from ribkit.runtime.store import Arrays, Npz, Result, save_arrays


@dataclass(frozen=True)
class PerImageResult:
    """What was made of each image of a set: the files ``<folder>/<index>.npz``."""

    folder: Path
    ids: tuple[str, ...]

    def arrays(self, value: str) -> Arrays:
        """Image name -> its array of this name, read when it is asked for."""
        positions = {name: index for index, name in enumerate(self.ids)}
        return Arrays(self.ids, lambda name: self.of(positions[name]).read(value))

    def table(self, *columns: str) -> pd.DataFrame:
        """A row for each image: its name and those of these scalars that it has."""
        rows = []
        for index, name in enumerate(self.ids):
            npz = self.of(index)
            own = set(npz.names())
            found = {column: npz.read(column).item() for column in columns if column in own}
            rows.append({"image": name} | found)
        return pd.DataFrame(rows)

    def every(self, values: Sequence[str]) -> list[dict[str, np.ndarray]]:
        """The arrays of these names of each image."""
        files = map(self.of, range(len(self.ids)))
        return [{value: npz.read(value) for value in values} for npz in files]

    def of(self, index: int) -> Npz:
        """The file of one image. Raises InputError if it is damaged."""
        path = self.folder / f"{index}.npz"
        if not has_checksum(path):
            raise InputError(f"{path} is damaged or missing; run the same command again.")
        return Npz(path)


def map_to_disk(
    task: Callable[[int], Mapping[str, np.ndarray]],
    images: Any,
    scratch: Path,
    words: str,
    gpu: bool = True,
) -> PerImageResult:
    """What ``task(index)`` makes of each image, through `parallel.map_images`.

    task: picklable; returns named arrays, scalars among them as arrays without dimensions. scratch:
    an image whose file lies there, sound by its checksum, is not computed again.
    """
    map_images(partial(_keep, task, scratch), range(len(images)), words, gpu)
    return PerImageResult(scratch, images.ids)


def _keep(task: Callable[[int], Mapping[str, np.ndarray]], scratch: Path, index: int) -> None:
    path = scratch / f"{index}.npz"
    if not has_checksum(path):
        arrays = {name: np.asarray(array) for name, array in task(index).items()}
        with atomic_write(path) as partial_path:
            save_arrays(partial_path, arrays)
            append_checksum(partial_path)


def measure_each(
    images: Any,
    result: Result,
    value: str,
    measure: Callable[[Any, int, np.ndarray], Any],
    words: str,
    gpu: bool = False,
) -> list:
    """``measure(images, index, array)`` of every image, with its array in a stored result.

    Raises InputError if the result lacks an image.
    """
    arrays = result.arrays(value)
    missing = [name for name in images.ids if name not in arrays]
    if missing:
        raise InputError(f"{result.path} has no {value} of image {missing[0]}; compute them first.")
    task = partial(_measured, measure, images, result, value)
    return map_images(task, range(len(images)), words, gpu)


def _measured(measure: Callable, images: Any, result: Result, value: str, index: int) -> Any:
    return measure(images, index, result.arrays(value)[images.ids[index]])
