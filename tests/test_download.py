"""Downloads from a server of this machine: interrupted, wrong, hostile; and VOC's train_aug."""

import errno
import hashlib
import io
import pickle
import shlex
import shutil
import struct
import tarfile
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from crafted import Touch
from PIL import Image
from scipy.io import savemat

from ribkit import download
from ribkit.data import voc
from ribkit.runtime.errors import InputError

CONTENT = {"a/one.txt": b"1" * 5000, "a/two.txt": b"2" * 5000, "b/three.txt": b"3"}


def zipped(contents):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(contents, kind=tarfile.REGTYPE, mode="w", linkname="/etc/passwd", **pax):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), linkname
            info.pax_headers = pax
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def sparse(name, content, start, size):
    """A tar of one GNU sparse member: ``size`` bytes, all 0 but ``content`` at ``start``."""
    info = tarfile.TarInfo(name)
    info.type, info.size = tarfile.GNUTYPE_SPARSE, len(content)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"%011o\0" % start, b"%011o\0" % len(content)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content.ljust(512, b"\0") + bytes(1024)


def patched(content, old, new):
    """An archive with some of its bytes replaced wherever they are."""
    assert old in content
    return content.replace(old, new)


class Handler(BaseHTTPRequestHandler):
    """Serves ``files`` with ranges; ``cut`` sends no more than so many bytes of an answer."""

    files: dict = {}  # noqa: RUF012
    asked: list = []  # noqa: RUF012
    cut = None
    ranges = True

    def do_GET(self):
        kind = type(self)
        content, range_ = kind.files.get(self.path), self.headers.get("Range")
        kind.asked.append(range_)
        start = int(range_.removeprefix("bytes=").rstrip("-")) if range_ and kind.ranges else 0
        if content is None:
            return self.send_error(404)
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: kind.cut])
        return None

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    """serve(name, content, wanted) -> the archive to fetch; the server's settings at `.handler`."""
    handler = type("Own", (Handler,), {"files": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def add(name, content, wanted="**/*"):
        handler.files[f"/{name}"] = content
        url = f"http://127.0.0.1:{server.server_address[1]}/{name}"
        return url, hashlib.md5(content).hexdigest(), [wanted]

    add.handler = handler
    yield add
    server.shutdown()
    server.server_close()


def found(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def problem(archive, folder):
    with pytest.raises(InputError) as caught:
        download.get(*archive, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.zip", zipped(CONTENT)),
        ("x.tar", tarred({f"./{name}": content for name, content in CONTENT.items()})),
        ("x.tgz", tarred(CONTENT, mode="w:gz")),
    ],
)
def test_what_is_wanted_is_unpacked_once(serve, tmp_path, name, content):
    archive = serve(name, content, "a/*")
    download.get(*archive, tmp_path)
    assert found(tmp_path) == {name, f"{name}.unpacked", "a/one.txt", "a/two.txt"}
    assert (tmp_path / "a/two.txt").read_bytes() == CONTENT["a/two.txt"]
    (tmp_path / name).unlink()
    download.get(*archive, tmp_path)
    assert serve.handler.asked == [None]


def test_a_download_goes_on_where_it_was_cut_off(serve, tmp_path):
    content = zipped(CONTENT)
    archive, serve.handler.cut = serve("x.zip", content), 4000
    text = problem(archive, tmp_path)
    assert "/x.zip stopped after 4,000 bytes (" in text
    assert text.endswith("run the same command again, it goes on from there.")
    assert found(tmp_path) == {"x.zip.partial"}
    serve.handler.cut = None
    download.get(*archive, tmp_path)
    assert serve.handler.asked == [None, "bytes=4000-"]
    assert (tmp_path / "x.zip").read_bytes() == content


def test_a_server_without_ranges_sends_all_of_it_again(serve, tmp_path):
    archive, serve.handler.ranges = serve("x.zip", zipped(CONTENT)), False
    (tmp_path / "x.zip.partial").write_bytes(b"half")
    download.get(*archive, tmp_path)
    assert (tmp_path / "a/one.txt").is_file()


def test_a_download_interrupted_after_its_last_byte_is_taken(serve, tmp_path):
    archive = serve("x.zip", zipped(CONTENT))
    (tmp_path / "x.zip.partial").write_bytes(zipped(CONTENT))
    download.get(*archive, tmp_path)
    assert (tmp_path / "a/one.txt").is_file()


def test_what_a_killed_unpacking_left_is_replaced(serve, tmp_path):
    archive = serve("x.zip", zipped(CONTENT))
    for folder in ("a", "x.zip.unpacking/a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "two.txt").write_bytes(b"2")
    download.get(*archive, tmp_path)
    assert found(tmp_path) == {"x.zip", "x.zip.unpacked", *CONTENT}
    assert (tmp_path / "a/two.txt").read_bytes() == CONTENT["a/two.txt"]


def test_what_lies_beside_the_members_stays(serve, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/mine.txt").write_text("mine")
    download.get(*serve("x.zip", zipped(CONTENT)), tmp_path)
    assert (tmp_path / "a/mine.txt").read_text() == "mine"
    assert (tmp_path / "a/one.txt").read_bytes() == CONTENT["a/one.txt"]


def test_another_checksum_is_refused_before_unpacking(serve, tmp_path):
    archive = serve("x.zip", zipped(CONTENT))
    serve.handler.files["/x.zip"] = zipped(CONTENT | {"a/one.txt": b"other"})
    text = problem(archive, tmp_path)
    assert text.startswith(f"{tmp_path / 'x.zip'} has another MD5 checksum than {archive[1]}; ")
    assert text.endswith("remove it and run the same command again.")
    assert found(tmp_path) == {"x.zip"}
    assert problem(archive, tmp_path) == text  # of a file that was there before, too


LINKED = zipfile.ZipInfo("a/link")
LINKED.external_attr = 0o120777 << 16


@pytest.mark.parametrize(
    "content",
    [
        tarred({"../evil.txt": b"2"}),
        tarred({"a/../../evil.txt": b"2"}),
        tarred({"link": b""}, tarfile.SYMTYPE),
        tarred({"link": b""}, tarfile.LNKTYPE),
        tarred({"device": b""}, tarfile.CHRTYPE),
        tarred({"pipe": b""}, tarfile.FIFOTYPE),
        tarred({"a": b"2"}, path="a\0/../../evil.txt"),
        tarred({"one.txt": b"1"})[:1024] + tarred({"a": b""}, tarfile.SYMTYPE),
        tarred({"one.txt": b"1"})[:1024] + tarred({"a": b""}, tarfile.SYMTYPE, linkname="one.txt"),
    ],
)
def test_a_hostile_archive_writes_nothing(serve, tmp_path, content):
    archive, folder = serve("x.tar", content), tmp_path / "deep" / "folder"
    text = problem(archive, folder)
    assert text.startswith(f"{folder / 'x.tar'} ")
    assert "remove it" in text
    assert [p.name for p in tmp_path.rglob("*") if not p.is_dir()] == ["x.tar"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.zip", zipped({"../evil.txt": b"2"})),
        ("x.zip", zipped({"a/../../evil.txt": b"2"})),
        ("x.zip", zipped({"/evil.txt": b"2"})),
        ("x.zip", zipped({"a\\..\\evil.txt": b"2"})),
        ("x.zip", zipped({LINKED: b"/etc/passwd"})),
        ("x.tar", tarred({"/evil.txt": b"2"})),
        ("x.tar", tarred({"a": b"2"}, path="/evil.txt")),
    ],
)
def test_a_name_leads_nowhere_out_of_the_folder(serve, tmp_path, name, content):
    folder = tmp_path / "deep" / "folder"
    download.get(*serve(name, content), folder)
    there = [p for p in tmp_path.rglob("*") if not p.is_dir()]
    assert len(there) == 3  # the archive, its mark, and the member
    assert all(p.is_relative_to(folder) and not p.is_symlink() for p in there)


def test_a_member_behind_a_link_leaves_the_folder_nowhere(serve, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tarfile.TarInfo("a")
    link.type, link.linkname = tarfile.SYMTYPE, str(outside)
    content = link.tobuf() + tarred({"a/one.txt": b"1"})
    text = problem(serve("x.tar", content, "a/*"), tmp_path / "folder")
    assert "x.tar cannot be unpacked (" in text
    assert not list(outside.iterdir())
    assert found(tmp_path / "folder") == {"x.tar"}


def test_a_link_where_a_member_belongs_is_replaced_not_followed(serve, tmp_path):
    outside, folder = tmp_path / "precious.txt", tmp_path / "folder"
    outside.write_text("precious")
    (folder / "a").mkdir(parents=True)
    (folder / "a/one.txt").symlink_to(outside)
    download.get(*serve("x.zip", zipped(CONTENT)), folder)
    assert outside.read_text() == "precious"
    assert (folder / "a/one.txt").read_bytes() == CONTENT["a/one.txt"]


def test_a_folder_that_is_a_link_is_where_to_unpack(serve, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    download.get(*serve("x.zip", zipped(CONTENT)), tmp_path / "link")
    assert (tmp_path / "disk/a/one.txt").read_bytes() == CONTENT["a/one.txt"]


def test_a_member_that_is_there_twice_is_whole(serve, tmp_path):
    content = tarred({"a": b"1"})[:1024] + tarred({"a": b"22"})
    download.get(*serve("x.tar", content), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"22"


def test_a_sparse_member_is_unpacked_in_full(serve, tmp_path):
    download.get(*serve("x.tar", sparse("a", b"end", 99_997, 100_000)), tmp_path)
    assert (tmp_path / "a").read_bytes() == bytes(99_997) + b"end"


DEFLATED = io.BytesIO()
with zipfile.ZipFile(DEFLATED, "w", zipfile.ZIP_DEFLATED) as packed:
    packed.writestr("a", CONTENT["a/one.txt"])
ONE = zipped({"a": CONTENT["a/one.txt"]})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.zip", patched(ONE, struct.pack("<II", 5000, 5000), struct.pack("<II", 5000, 10))),
        ("x.zip", patched(ONE, b"1" * 5000, b"1" * 4999 + b"2")),
        ("x.zip", patched(ONE, b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1")),
        ("x.zip", patched(ONE, b"\x14\0\0\0\0\0", b"\x14\0\0\0\x63\0")),  # no such compression
        ("x.zip", DEFLATED.getvalue()[:31] + b"\xff" * 9 + DEFLATED.getvalue()[40:]),
        ("x.zip", ONE[:-9]),
        ("x.tar", tarred({"a": b"1" * 5000})[:3000]),
        ("x.tgz", tarred({"a": b"1" * 5000}, mode="w:gz")[:-20]),
        ("x.tar", tarred({"a": b"1", "a/b": b"2"})),
    ],
)
def test_a_broken_archive_leaves_none_of_its_members(serve, tmp_path, name, content):
    text = problem(serve(name, content), tmp_path)
    assert text.startswith(f"{tmp_path / name} cannot be unpacked (")
    assert found(tmp_path) == {name}
    assert not (tmp_path / f"{name}.unpacking").exists()


def test_a_full_disk_is_told_and_leaves_no_member(serve, tmp_path, monkeypatch):
    def full(path, place):
        (place / "a").mkdir(parents=True)
        (place / "a/one.txt").write_bytes(b"1")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "extract_archive", full)
    text = problem(serve("x.zip", zipped(CONTENT)), tmp_path)
    assert "No space left on device); remove it, or make room, and run the same" in text
    assert found(tmp_path) == {"x.zip"}


def test_too_little_space_is_told_before_the_first_byte(serve, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(9, 0, 9))
    archive = serve("x.zip", zipped(CONTENT))
    text = problem(archive, tmp_path)
    assert f"x.zip, packed and unpacked, needs 0.0 GB, and {tmp_path} has 0.0 GB free; " in text
    assert found(tmp_path) == set()


def test_a_refusal_and_a_dead_server_are_told(serve, tmp_path):
    archive = serve("x.zip", zipped(CONTENT))
    serve.handler.files.clear()
    assert "/x.zip stopped after 0 bytes (HTTP Error 404" in problem(archive, tmp_path)
    closed = ("http://127.0.0.1:1/x.zip", archive[1], [])
    assert "stopped after 0 bytes (" in problem(closed, tmp_path)


def test_a_file_that_is_no_archive_is_told(serve, tmp_path):
    assert "x.tgz cannot be unpacked (not a gzip file" in problem(
        serve("x.tgz", b"words"), tmp_path
    )


def test_the_archives_are_those_of_the_paper():
    (voc_url, voc_md5, _), (sbd_url, sbd_md5, _) = download.ARCHIVES["voc"]
    assert voc_url.endswith("/VOCtrainval_11-May-2012.tar")
    assert voc_md5 == "6cd6e144f989b92b3379bac3b3de84fd"
    assert sbd_url.endswith("/benchmark.tgz")
    assert sbd_md5 == "82b4d87ceb2ed10f6038a1cba92111cb"


# ---- train_aug ----------------------------------------------------------------------------------
def voc_folder(root):
    """VOC's train: 1, 2; its val: 3. Masks of all three."""
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    for id in "12345":
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(root / voc.IMAGE.format(id))
    for id in "123":
        voc.write_mask(root, id, np.full((4, 6), 7, np.uint8))
    voc.write_list(root, "train", ["1", "2"])
    voc.write_list(root, "val", ["3"])
    return root


def sbd_folder(root):
    """SBD's train: 2, 3, 5; its val: 4. The class is the image's number."""
    (root / "cls").mkdir(parents=True)
    for id in "2345":
        mask = np.zeros((4, 6), np.uint8)
        mask[1:3, 2:4] = int(id)
        savemat(root / f"cls/{id}.mat", {"GTcls": {"Segmentation": mask, "Boundaries": 0}})
    (root / "train.txt").write_text("2\n3\n5\n")
    (root / "val.txt").write_text("4\n")
    return root


def test_train_aug_is_both_trains_without_val_and_vocs_masks_stay(tmp_path):
    root, sbd = voc_folder(tmp_path / "VOC2012"), sbd_folder(tmp_path / "dataset")
    download.add_train_aug(root, sbd)
    assert voc.split_ids(root, "train_aug") == ("1", "2", "4", "5")
    voc.check(root, ["train_aug", "val"])
    images = voc.read(root, "train_aug")
    assert (images.mask(1) == 7).all()
    assert images.mask(2).tolist() == [[0] * 6, *[[0, 0, 4, 4, 0, 0]] * 2, [0] * 6]
    shutil.rmtree(sbd)
    download.add_train_aug(root, sbd)  # nothing left to do


def test_a_mask_of_sbd_that_cannot_be_read_is_told(tmp_path):
    root, sbd = voc_folder(tmp_path / "VOC2012"), sbd_folder(tmp_path / "dataset")
    (sbd / "cls/5.mat").write_bytes(b"words")
    with pytest.raises(InputError, match=r"5\.mat cannot be read \(.*\); unpack SBD"):
        download.add_train_aug(root, sbd)
    assert not (root / voc.LIST.format("train_aug")).exists()


def crafted(values):
    file = io.BytesIO()
    savemat(file, {"GTcls": values})
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\2IM" + b"\xff" * 64,  # version 7.3: HDF5
        crafted(np.zeros((4, 6))),
        crafted({"Boundaries": 0}),
        crafted({"Segmentation": "words"}),
        crafted({"Segmentation": {"a": 1}}),
        crafted({"Segmentation": np.zeros((2, 3, 4))}),
        "pickle",
    ],
)
def test_other_mat_files_are_refused_by_name_and_run_nothing(tmp_path, content):
    root, sbd = voc_folder(tmp_path / "VOC2012"), sbd_folder(tmp_path / "dataset")
    ran = tmp_path / "ran"
    content = pickle.dumps(Touch(ran)) if content == "pickle" else content
    (sbd / "cls/5.mat").write_bytes(content)
    with pytest.raises(InputError, match=r"5\.mat cannot be read \(.*\); unpack SBD"):
        download.add_train_aug(root, sbd)
    assert not ran.exists()
    assert not (root / voc.LIST.format("train_aug")).exists()


def test_a_name_in_sbds_lists_leads_nowhere_else(tmp_path):
    root, sbd = voc_folder(tmp_path / "VOC2012"), sbd_folder(tmp_path / "dataset")
    (sbd / "train.txt").write_text("2\n../../evil\n")
    with pytest.raises(
        InputError, match=r"train\.txt lists '\.\./\.\./evil' \(1 x\); give plain image"
    ):
        download.add_train_aug(root, sbd)


# ---- the command --------------------------------------------------------------------------------
def test_the_command_names_the_folder_to_go_on_with(serve, tmp_path, monkeypatch, capsys):
    parts = (serve("train2014.zip", zipped({"train2014/1.jpg": b"1"}), "train2014/*"),)
    monkeypatch.setitem(download.ARCHIVES, "coco", parts)
    monkeypatch.setenv("RIBKIT_PROGRESS", "")
    assert download.main(["coco", str(tmp_path)]) == 0
    assert f"make reproduce PROFILE=coco DATA={tmp_path}\n" in capsys.readouterr().out
    assert (tmp_path / "train2014/1.jpg").is_file()
    serve.handler.files.clear()
    assert download.main(["coco", str(tmp_path / "other")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("folder", "where"), [("my sets", "{}/my sets"), ("~/sets", "{}/home/sets"), (".", "{}")]
)
def test_a_folder_begins_where_the_user_stands(tmp_path, monkeypatch, capsys, folder, where):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    places = []
    monkeypatch.setattr(download, "get", lambda *archive: places.append(archive[-1]))
    assert download.main(["coco", folder]) == 0
    assert set(map(str, places)) == {where.format(tmp_path)}
    (word,) = shlex.split(capsys.readouterr().out.partition("DATA=")[2])
    assert word == where.format(tmp_path)


def test_a_folder_that_is_a_file_is_told_in_a_line(tmp_path, capsys):
    path = tmp_path / "taken"
    path.write_text("")
    assert download.main(["voc", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
