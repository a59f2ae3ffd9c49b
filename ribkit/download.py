"""The paper's data sets, fetched on request: ``python -m ribkit.download voc FOLDER``, or ``coco``.

An interrupted download goes on where it stopped. Nothing is unpacked that has not the MD5 checksum
known for it; torchvision knows those of VOC and SBD, checks them and unpacks. VOC comes with the
list that networks learn from, `train_aug`: the images of SBD (Hariharan et al. 2011) and of VOC's
train that are not in VOC's val.
"""

import argparse
import http.client
import os
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from torchvision.datasets import SBDataset
from torchvision.datasets.utils import check_integrity, extract_archive
from torchvision.datasets.voc import DATASET_YEAR_DICT

from ribkit.data import voc
from ribkit.runtime.errors import InputError, first_line
from ribkit.runtime.parallel import map_images
from ribkit.runtime.progress import bar

BLOCK = 1 << 20
SECONDS = 60  # without a byte from the server
BROKEN = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, tarfile.TarError)


@dataclass(frozen=True)
class Archive:
    """A zip or tar file to fetch, and the files and folders in it that are wanted."""

    url: str
    md5: str
    wanted: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the file."""
        return self.url.rsplit("/", 1)[-1]


COCO_URL = "http://images.cocodataset.org"
VOC_2012 = Archive(
    DATASET_YEAR_DICT["2012"]["url"], DATASET_YEAR_DICT["2012"]["md5"], ("VOCdevkit/VOC2012",)
)
SBD = Archive(
    SBDataset.url,
    SBDataset.md5,
    tuple(f"benchmark_RELEASE/dataset/{part}" for part in ("cls", "train.txt", "val.txt")),
)
COCO = (
    Archive(
        f"{COCO_URL}/annotations/annotations_trainval2014.zip",
        "0a379cfc70b0e71301e0f377548639bd",
        ("annotations/instances_train2014.json", "annotations/instances_val2014.json"),
    ),
    Archive(f"{COCO_URL}/zips/train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88", ("train2014",)),
    Archive(f"{COCO_URL}/zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3", ("val2014",)),
)


def get_voc(folder: Path) -> Path:
    """VOC 2012 with `train_aug` (3.4 GB to fetch); the folder to read."""
    for archive in (VOC_2012, SBD):
        get(archive, folder)
    root = folder / "VOCdevkit" / "VOC2012"
    add_train_aug(root, folder / "benchmark_RELEASE" / "dataset")
    return root


def get_coco(folder: Path) -> Path:
    """COCO 2014, train and val (20 GB to fetch); the folder to read."""
    for archive in COCO:
        get(archive, folder)
    return folder


SETS = {"voc": get_voc, "coco": get_coco}


def get(archive: Archive, folder: Path) -> None:
    """Fetch an archive into the folder, check it and unpack it there, if that is not done yet.

    The archive stays; once it is unpacked, it may be removed.

    Raises:
        InputError: No connection, cut off, no space, another checksum, or an archive that is
            broken or has a member that is a link or leads out of the folder.
    """
    path, done = folder / archive.name, folder / f"{archive.name}.unpacked"
    if done.is_file():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            _fetch(archive.url, folder / f"{path.name}.partial")
            (folder / f"{path.name}.partial").replace(path)
        print(f"Checking and unpacking {path} ...", file=sys.stderr, flush=True)
        if not check_integrity(path, archive.md5):
            raise InputError(
                f"{path} has another MD5 checksum than {archive.md5}; remove it and run the same "
                f"command again."
            )
        _unpack(path, archive.wanted)
        done.touch()
    except InputError:
        raise
    except (*BROKEN, zlib.error) as error:
        raise InputError(
            f"{path} cannot be unpacked ({first_line(error)}); remove it, or make room, and run "
            f"the same command again."
        ) from error


def _fetch(url: str, path: Path) -> None:
    """Download a file, going on after the bytes that are there."""
    have = path.stat().st_size if path.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            have = have if answer.status == http.client.PARTIAL_CONTENT else 0
            left = int(answer.headers.get("Content-Length") or 0)
            _require_space(path, have + 2 * left)
            blocks = iter(partial(answer.read, BLOCK), b"")
            with path.open("ab" if have else "wb") as file:
                for block in bar(blocks, f"download of {path.stem}", -(-left // BLOCK)):
                    left -= file.write(block)
        if left > 0:
            raise http.client.IncompleteRead(b"", left)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # all of it was there; its checksum tells
        raise InputError(f"{url} was refused ({error}); try again later.") from None
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"{url} stopped after {path.stat().st_size if path.is_file() else 0:,} bytes "
            f"({error}); run the same command again, it goes on from there."
        ) from None


def _require_space(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise InputError(
            f"{path.stem}, packed and unpacked, needs {size / 1e9:.1f} GB in {path.parent}, where "
            f"{free / 1e9:.1f} GB are free; make room or choose another folder."
        )


def _unpack(path: Path, wanted: tuple[str, ...]) -> None:
    """Unpack an archive beside it; once all of it is whole, what is wanted takes its place."""
    place = path.with_name(f"{path.name}.unpacking")
    shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
    try:
        if not hasattr(tarfile, "data_filter"):  # torchvision would unpack without it
            raise InputError("this Python's tarfile follows links; use Python 3.11.4 or newer.")
        extract_archive(path, place)  # nothing leaves the place: tarfile's filter, zipfile's names
        members = list(place.rglob("*"))
        if any(member.is_symlink() for member in members):
            raise InputError(f"{path} holds a link; remove it and get the archive from elsewhere.")
        for member in members:
            name = member.relative_to(place)
            if member.is_file() and any(name.is_relative_to(part) for part in wanted):
                (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
                member.replace(path.parent / name)
    finally:
        shutil.rmtree(place, ignore_errors=True)


# ---- train_aug ----------------------------------------------------------------------------------
def add_train_aug(root: Path, sbd: Path) -> None:
    """Write the split `train_aug` of VOC's folder, with SBD's masks of images without VOC's own.

    Args:
        root: VOC 2012.
        sbd: SBD's ``dataset``: ``cls/<id>.mat``, ``train.txt``, ``val.txt``.

    Raises:
        InputError: A list or a mask cannot be read.
    """
    if (root / voc.LIST.format("train_aug")).is_file():
        return
    known = [id for split in ("train", "val") for id in voc.read_list(sbd / f"{split}.txt")]
    ids = {*voc.split_ids(root, "train"), *known} - {*voc.split_ids(root, "val")}
    missing = [id for id in sorted(ids) if not (root / voc.MASK.format(id)).is_file()]
    map_images(partial(_write_mask, root, sbd), missing, "masks of train_aug", gpu=False)
    voc.write_list(root, "train_aug", sorted(ids))


def _write_mask(root: Path, sbd: Path, id: str) -> None:
    path = sbd / "cls" / f"{id}.mat"
    try:
        mask = np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0], np.uint8)
        if mask.ndim != 2:
            raise ValueError(f"a mask of shape {mask.shape}")
    except Exception as error:  # scipy meets a broken file with nearly any type of error
        raise InputError(f"{path} cannot be read ({error}); unpack {SBD.name} again.") from None
    voc.write_mask(root, id, mask)


def main(arguments: list[str] | None = None) -> int:
    """Fetch a data set and say which folder to give as DATA. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="ribkit.download", description=__doc__)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    os.environ.setdefault("RIBKIT_PROGRESS", f"/proc/{os.getpid()}/fd/2")
    try:
        root = SETS[options.set](options.folder)
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Run it with: make reproduce PROFILE={options.set} DATA={root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
