"""The paper's data sets, fetched on request: ``python -m ribkit.download voc FOLDER``, or ``coco``.

An interrupted download goes on where it stopped. Nothing is unpacked that has not the MD5 checksum
known for it; torchvision knows those of VOC and SBD, checks them and unpacks. VOC comes with the
list that networks learn from, `train_aug`: the images of SBD (Hariharan et al. 2011) and of VOC's
train that are not in VOC's val.
"""

import argparse
import http.client
import shlex
import shutil
import sys
import tarfile
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from torchvision.datasets import SBDataset
from torchvision.datasets.utils import check_integrity, extract_archive
from torchvision.datasets.voc import DATASET_YEAR_DICT

from ribkit.data import voc
from ribkit.runtime.command import command
from ribkit.runtime.errors import InputError, first_line, say
from ribkit.runtime.files import locked, resolved
from ribkit.runtime.parallel import map_images
from ribkit.runtime.progress import bar

BLOCK = 1 << 20
SECONDS = 60  # without a byte from the server
VOC_2012 = DATASET_YEAR_DICT["2012"]
SBD = "benchmark_RELEASE/dataset"
COCO = "http://images.cocodataset.org"
ARCHIVES = {  # of each data set: address, MD5 checksum, and which files in it are wanted
    "voc": (
        (VOC_2012["url"], VOC_2012["md5"], ["VOCdevkit/VOC2012/**/*"]),
        (SBDataset.url, SBDataset.md5, [f"{SBD}/cls/*", f"{SBD}/*.txt"]),
    ),
    "coco": (
        (
            f"{COCO}/annotations/annotations_trainval2014.zip",
            "0a379cfc70b0e71301e0f377548639bd",
            ["annotations/instances_*"],
        ),
        (f"{COCO}/zips/train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88", ["train2014/*"]),
        (f"{COCO}/zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3", ["val2014/*"]),
    ),
}


def get(url: str, md5: str, wanted: list[str], folder: Path) -> None:
    """Fetch an archive into the folder, check it and unpack it there, if that is not done yet.

    The archive stays; once it is unpacked, it may be removed. InputError: no connection, cut off,
    no space, another checksum, or an archive that is broken or holds a link or a way out.
    """
    path = folder / url.rsplit("/", 1)[-1]
    done = folder / f"{path.name}.unpacked"
    if done.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        _fetch(url, folder / f"{path.name}.partial")
        (folder / f"{path.name}.partial").replace(path)
    say(f"Checking and unpacking {path} ...")
    if not check_integrity(path, md5):
        raise InputError(
            f"{path} has another MD5 checksum than {md5}; remove it and run the same command again."
        )
    _unpack(path, wanted)
    done.touch()


def _fetch(url: str, path: Path) -> None:
    """Download a file, going on after the bytes that are there."""
    have = path.stat().st_size if path.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            have = have if answer.status == http.client.PARTIAL_CONTENT else 0
            left = int(answer.headers.get("Content-Length") or 0)
            need, free = have + 2 * left, shutil.disk_usage(path.parent).free
            if free < need:
                raise InputError(
                    f"{path.stem}, packed and unpacked, needs {need / 1e9:.1f} GB, and "
                    f"{path.parent} has {free / 1e9:.1f} GB free; make room there."
                )
            with path.open("ab" if have else "wb") as file:
                blocks = iter(lambda: answer.read(BLOCK), b"")
                for block in bar(blocks, f"download of {path.stem}", -(-left // BLOCK)):
                    left -= file.write(block)
        if left > 0:
            raise http.client.IncompleteRead(b"", left)
    except (OSError, http.client.HTTPException) as error:
        if have and getattr(error, "code", None) == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # all of it was there; its checksum tells
        raise InputError(
            f"{url} stopped after {path.stat().st_size if path.is_file() else 0:,} bytes "
            f"({error}); run the same command again, it goes on from there."
        ) from None


def _unpack(path: Path, wanted: list[str]) -> None:
    """Unpack an archive beside it; once all of it is whole, what is wanted takes its place."""
    if not hasattr(tarfile, "data_filter"):  # torchvision would unpack without it
        raise InputError("this Python's tarfile follows links; use Python 3.11.4 or newer.")
    place = path.with_name(f"{path.name}.unpacking")
    shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
    try:
        extract_archive(path, place)  # nothing leaves the place: tarfile's filter, zipfile's names
        if any(member.is_symlink() for member in place.rglob("*")):
            raise ValueError("it holds a link")
        for member in [member for pattern in wanted for member in place.glob(pattern)]:
            if member.is_file():
                target = path.parent / member.relative_to(place)
                target.parent.mkdir(parents=True, exist_ok=True)
                member.replace(target)
    except Exception as error:  # zipfile and tarfile meet a broken file with many types of error
        raise InputError(
            f"{path} cannot be unpacked ({first_line(error)}); remove it, or make room, and run "
            f"the same command again."
        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


# ---- train_aug ----------------------------------------------------------------------------------
def add_train_aug(root: Path, sbd: Path) -> None:
    """Write VOC's split `train_aug`, with SBD's masks of images that have none of VOC's own.

    ``sbd`` holds ``cls/<id>.mat``, ``train.txt`` and ``val.txt``. InputError: one cannot be read.
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
        raise InputError(f"{path} cannot be read ({error}); unpack SBD again.") from None
    voc.write_mask(root, id, mask)


@command("ribkit.download")
def main(argv: list[str] | None = None) -> None:
    """Fetch a data set and say which folder to give as DATA."""
    parser = argparse.ArgumentParser(prog="ribkit.download", description=__doc__)
    parser.add_argument("set", choices=ARCHIVES)
    parser.add_argument("folder", type=resolved)
    options = parser.parse_args(argv)
    root = options.folder
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:  # a folder that is a file
        raise InputError(str(error)) from error
    waiting = "Process {} downloads there; this one waits for it."
    with locked(options.folder / "download.lock", waiting):
        for archive in ARCHIVES[options.set]:
            get(*archive, options.folder)
        if options.set == "voc":
            root = options.folder / "VOCdevkit" / "VOC2012"
            add_train_aug(root, options.folder / SBD)
    print(f"Run it with: make reproduce PROFILE={options.set} DATA={shlex.quote(str(root))}")


if __name__ == "__main__":
    sys.exit(main())
