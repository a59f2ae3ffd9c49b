"""Stages that work image by image: what is made of an image goes to disk at once, and stays there.

A worker writes an image's arrays to ``scratch`` and sends nothing back; the stage returns arrays
that are read from there, one at a time, when the result is written. So memory does not grow with
the number of images, and a run that is killed goes on where it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ribkit.runtime.errors import InputError
from ribkit.runtime.files import append_checksum, atomic_write, has_checksum
from ribkit.runtime.parallel import map_images
from ribkit.runtime.store import Arrays, StoredArrays, Values, open_arrays, save_arrays


@dataclass(frozen=True)
class PerImageResult:
    """What was made of each image of a set: the files ``<folder>/<index>.npz``."""

    folder: Path
    images: Any

    def arrays(self, value: str) -> Arrays:
        """Image name -> its array of this name, read when it is asked for."""
        positions = {name: index for index, name in enumerate(self.images.ids)}
        return Arrays(self.images.ids, lambda name: self[positions[name]][value])

    def table(self, columns: Sequence[str]) -> pd.DataFrame:
        """A row for each image: its name and those of these scalars that it has."""
        rows = []
        for index, name in enumerate(self.images.ids):
            arrays = self[index]
            rows.append({"image": name} | {c: arrays[c].item() for c in columns if c in arrays})
        return pd.DataFrame(rows)

    def each(self, *values: str) -> list[dict[str, np.ndarray]]:
        """The arrays of these names, or all arrays, of each image."""
        files = map(self.__getitem__, range(len(self.images)))
        return [{value: arrays[value] for value in values or arrays} for arrays in files]

    def joined(self) -> pd.DataFrame:
        """The rows of all images' arrays, which are columns; the first column is image's name."""
        names = self.images.ids
        tables = [
            pd.DataFrame({"image": n} | each) for n, each in zip(names, self.each(), strict=True)
        ]
        return pd.concat(tables, ignore_index=True)

    def __getitem__(self, index: int) -> Arrays:
        """The file of one image. Raises InputError if it is damaged."""
        path = self.folder / f"{index}.npz"
        if not has_checksum(path):
            raise InputError(f"{path} is damaged or missing; run the same command again.")
        return open_arrays(path)


def per_image(
    name: str,  # under which results are stored
    label: str,  # the progress bar's
    *,
    arrays: Sequence[str] = (),  # values that the stage returns, image name -> array
    scalars: Sequence[str] = (),  # columns of the table ``images`` that it returns
    gather: Callable[[PerImageResult], Values] | None = None,  # makes what it returns instead
    gpu: bool = True,  # whether the function uses a GPU where there is one; else all cores
) -> Callable[[Callable[..., Values]], Callable[..., Values]]:
    """Decorate a function of one image as a stage over an image set.

    The function takes an image and parameters and returns named arrays, scalars among them as
    arrays without dimensions; it stays within reach as ``__wrapped__``. The stage takes ``images``
    in place of the image; a parameter that is a result's arrays by image name is handed to the
    function as the image's own array.
    """

    def decorate(function: Callable[..., Values]) -> Callable[..., Values]:
        @wraps(function)
        def whole(images: Any, scratch: Path, **parameters: Any) -> Values:
            for value in parameters.values():
                if isinstance(value, StoredArrays):
                    _require(images, value)
            task = partial(_one, whole, images, parameters)
            results = map_to_disk(task, images, scratch, label, gpu)
            if gather:
                return gather(results)
            table = {"images": results.table(scalars)} if scalars else {}
            return {value: results.arrays(value) for value in arrays} | table

        whole.stage, whole.resumes = name, True
        return whole

    return decorate


def _require(images: Any, arrays: StoredArrays) -> None:
    missing = [name for name in images.ids if name not in arrays]
    if missing:
        raise InputError(f"{arrays}: image {missing[0]} is missing; compute it first.")


def _one(whole: Callable, images: Any, parameters: Values, index: int) -> Values:
    image = images[index]
    own = {k: v[image.name] if isinstance(v, StoredArrays) else v for k, v in parameters.items()}
    return whole.__wrapped__(image, **own)


def map_to_disk(
    task: Callable[[int], Values], images: Any, scratch: Path, label: str, gpu: bool = True
) -> PerImageResult:
    """The named arrays of ``task(index)`` for each image; those that lie in scratch are kept."""
    map_images(partial(_keep, task, scratch), list(enumerate(images.ids)), label, gpu)
    return PerImageResult(scratch, images)


def _keep(task: Callable[[int], Values], scratch: Path, item: tuple[int, str]) -> None:
    index, _ = item  # the name is for what is told of an image that fails
    path = scratch / f"{index}.npz"
    if not has_checksum(path):
        arrays = {name: np.asarray(array) for name, array in task(index).items()}
        with atomic_write(path) as partial_path:
            save_arrays(partial_path, arrays)
            append_checksum(partial_path)
