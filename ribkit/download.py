"""The paper's data sets, fetched on request: ``python -m ribkit.download voc FOLDER``, or ``coco``.

An interrupted download goes on where it stopped. Nothing is unpacked that has not the checksum
known for it. VOC comes with the list that networks learn from, `train_aug`: the images of SBD
(Hariharan et al. 2011) and of VOC's train that are not in VOC's val.
"""

import argparse
import hashlib
import http.client
import os
import shutil
import stat
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from scipy.io import loadmat

from ribkit.data import voc
from ribkit.runtime.errors import InputError
from ribkit.runtime.files import atomic_write
from ribkit.runtime.parallel import map_images
from ribkit.runtime.progress import bar

BLOCK = 1 << 20
SECONDS = 60  # without a byte from the server
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error)


@dataclass(frozen=True)
class Archive:
    """A file to fetch, and which of its members are wanted: those whose names begin so."""

    url: str
    md5: str
    wanted: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the file."""
        return self.url.rsplit("/", 1)[-1]


COCO_URL = "http://images.cocodataset.org"
SBD_URL = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours"
VOC_2012 = Archive(
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "6cd6e144f989b92b3379bac3b3de84fd",
    ("VOCdevkit/VOC2012/",),
)
SBD = Archive(
    f"{SBD_URL}/benchmark.tgz",
    "82b4d87ceb2ed10f6038a1cba92111cb",
    tuple(f"benchmark_RELEASE/dataset/{part}" for part in ("cls/", "train.txt", "val.txt")),
)
COCO = (
    Archive(
        f"{COCO_URL}/annotations/annotations_trainval2014.zip",
        "0a379cfc70b0e71301e0f377548639bd",
        ("annotations/instances_",),
    ),
    Archive(f"{COCO_URL}/zips/train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88", ("train2014/",)),
    Archive(f"{COCO_URL}/zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3", ("val2014/",)),
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


# ---- fetching -----------------------------------------------------------------------------------
def get(archive: Archive, folder: Path) -> None:
    """Fetch an archive into the folder, check it and unpack it there, if that is not done yet.

    The archive stays; once it is unpacked, it may be removed. InputError: no connection, cut off,
    no space, another checksum, or a member that has no place in the folder.
    """
    done = folder / f"{archive.name}.unpacked"
    if done.is_file():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / archive.name
        if not path.is_file():
            partial_path = folder / f"{archive.name}.partial"
            fetch(archive.url, partial_path)
            verify(partial_path, archive.md5)
            partial_path.replace(path)
        else:
            verify(path, archive.md5)
        unpack(path, folder, archive.wanted)
        done.touch()
    except InputError:
        raise
    except (OSError, EOFError, RuntimeError, ValueError, *BROKEN) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{folder / archive.name} cannot be unpacked ({reason}); remove it, or make room, and "
            f"run the same command again."
        ) from error


def fetch(url: str, path: Path) -> None:
    """Download a file to ``path``, going on after the bytes that are there."""
    have = path.stat().st_size if path.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            have = have if answer.status == http.client.PARTIAL_CONTENT else 0
            left = int(answer.headers.get("Content-Length") or 0)
            require_space(path.parent, have + 2 * left, f"{path.stem}, packed and unpacked,")
            with path.open("ab" if have else "wb") as file:
                got = _copy(answer, file, left, f"download of {path.stem}")
        if got < left:
            raise http.client.IncompleteRead(b"", left - got)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # all of it was there; its checksum tells
        raise InputError(f"{url} was refused ({error}); try again later.") from None
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"{url} stopped after {path.stat().st_size if path.is_file() else 0:,} bytes "
            f"({error}); run the same command again, it goes on from there."
        ) from None


def _copy(source: IO[bytes], target: IO[bytes], size: int, words: str) -> int:
    """Copy to the end; how many bytes. size: how many are expected, for the bar."""
    copied = 0
    for block in bar(iter(partial(source.read, BLOCK), b""), words, -(-size // BLOCK)):
        copied += target.write(block)
    return copied


def verify(path: Path, md5: str) -> None:
    """InputError unless the file has this MD5 checksum."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        blocks = iter(partial(file.read, BLOCK), b"")
        for block in bar(blocks, f"checksum of {path.name}", -(-path.stat().st_size // BLOCK)):
            digest.update(block)
    if digest.hexdigest() != md5:
        raise InputError(
            f"{path} has the MD5 checksum {digest.hexdigest()} and not {md5}; remove it and run "
            f"the same command again."
        )


def require_space(folder: Path, size: int, what: str) -> None:
    """InputError unless so many bytes are free where the folder is."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise InputError(
            f"{what} needs {size / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free; "
            f"make room or choose another folder."
        )


# ---- unpacking ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Member:
    """A member of an archive. plain: a file, not a link or a device. open: its content."""

    name: str
    size: int
    plain: bool
    open: Callable[[], IO[bytes]]


def unpack(path: Path, folder: Path, wanted: tuple[str, ...]) -> None:
    """Write an archive's wanted members into the folder, each whole; those there are left."""
    with _members(path) as members:
        chosen = [member for member in members if member.name.startswith(wanted)]
        for member in chosen:
            _refuse_unsafe(path, member)
        missing = [m for m in chosen if not _is_there(folder / m.name, m.size)]
        size = sum(member.size for member in missing)
        require_space(folder, size, f"what {path.name} holds")
        for member in bar(missing, f"unpacking {path.name}"):
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with (
                member.open() as source,
                atomic_write(target) as written,
                written.open("wb") as file,
            ):
                shutil.copyfileobj(source, file, BLOCK)
                if file.tell() != member.size:
                    raise EOFError(f"{member.name} has not the {member.size:,} bytes promised")


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


@contextmanager
def _members(path: Path) -> Iterator[list[Member]]:
    """All members of a zip or tar file but its folders."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield [
                Member(
                    _plainly(info.filename),
                    info.file_size,
                    stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG),
                    partial(archive.open, info),
                )
                for info in archive.infolist()
                if not info.is_dir()
            ]
    else:
        with tarfile.open(path) as archive:
            yield [
                Member(
                    _plainly(info.name),
                    info.size,
                    info.isreg(),
                    partial(archive.extractfile, info),
                )
                for info in archive
                if not info.isdir()
            ]


def _plainly(name: str) -> str:
    """A member's name without ``./``."""
    return str(PurePosixPath(name))


def _refuse_unsafe(path: Path, member: Member) -> None:
    """InputError for a link, a device, and a name that leads out of the folder."""
    parts = PurePosixPath(member.name)
    plain = member.plain and member.name.isprintable() and "\\" not in member.name
    if not plain or parts.is_absolute() or ".." in parts.parts:
        raise InputError(
            f"{path} holds {member.name!r}, which is a link or leads out of the folder; nothing "
            f"was unpacked, get the archive from elsewhere."
        )


# ---- train_aug ----------------------------------------------------------------------------------
def add_train_aug(root: Path, sbd: Path) -> None:
    """Write the split `train_aug` of VOC's folder, with SBD's masks of images without VOC's own.

    root: VOC 2012. sbd: SBD's ``dataset``: ``cls/<id>.mat``, ``train.txt``, ``val.txt``.
    """
    if voc.list_path(root, "train_aug").is_file():
        return
    known = [id for split in ("train", "val") for id in voc.read_list(sbd / f"{split}.txt")]
    ids = {*voc.split_ids(root, "train"), *known} - {*voc.split_ids(root, "val")}
    missing = [id for id in sorted(ids) if not voc.mask_path(root, id).is_file()]
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


def main(words: list[str] | None = None) -> int:
    """Fetch a data set and say which folder to give as DATA. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="ribkit.download", description=__doc__)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(words)
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
