"""The machine lacks room, memory or a right: one sentence, nothing lost, and on it goes."""

import ctypes
import errno
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError

from ribkit.data import scenes
from ribkit.runtime import per_image
from ribkit.runtime.errors import InputError, ResourceError, is_final, resource_errors
from ribkit.runtime.files import locked
from ribkit.runtime.store import Store, stage

CALLS = []
SENTENCES = {
    "no space": (OSError(errno.ENOSPC, "No space left on device"), "the disk has no room", "room"),
    "a quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk has no room", "room"),
    "a file's limit": (OSError(errno.EFBIG, "File too large", "a.npz"), "no room at a.npz", "room"),
    "safetensors": (SafetensorError("I/O error: No space (os error 28)"), "no room", "room"),
    "no right": (PermissionError(errno.EACCES, "Permission denied", "b"), "at b", "allow it"),
    "a read-only disk": (
        OSError(errno.EROFS, "Read-only file system"),
        "access is not allowed",
        "allow it",
    ),
    "memory": (MemoryError(), "memory ran out (MemoryError)", "RIBKIT_WORKERS=1"),
    "no fork": (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory ran out", "WORKERS=1"),
    "a GPU's": (torch.OutOfMemoryError("CUDA out of memory.\nMore."), "out of memory", "WORKERS=1"),
    "torch's": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "memory", "fewer"),
    "a killed worker": (BrokenProcessPool("A process died."), "was killed", "RIBKIT_WORKERS=1"),
}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")
    CALLS.clear()


@pytest.mark.parametrize("kind", SENTENCES)
def test_what_is_lacking_is_told_in_one_sentence_with_a_remedy(kind):
    error, says, remedy = SENTENCES[kind]
    with pytest.raises(ResourceError) as caught, resource_errors("build/store/seeds"):
        raise error
    (line,) = str(caught.value).splitlines()
    assert line.startswith("build/store/seeds: ")
    assert says in line
    assert remedy in line
    assert line.endswith("run the same command again: it goes on from there.")
    with pytest.raises(ResourceError) as again, resource_errors("outer"):
        raise caught.value
    assert again.value is caught.value  # told once


@pytest.mark.parametrize("error", [InputError("x"), ValueError("x"), FileNotFoundError(2, "x")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, resource_errors("build/store/seeds"):
        raise error
    assert caught.value is error


def test_what_trying_again_cannot_mend():
    final = {kind for kind, (error, _, _) in SENTENCES.items() if is_final(error)}
    assert final == {"no space", "a quota", "a file's limit", "safetensors", "no right",
                     "a read-only disk"}  # fmt: skip
    assert is_final(InputError("x"))
    assert is_final(ResourceError("x"))
    assert not is_final(ValueError("x"))


# ---- stages -------------------------------------------------------------------------------------
def value(index):
    CALLS.append(index)
    return {"x": np.random.default_rng(index).normal(size=2000)}


@stage("values")
def values(images, scratch):
    made = per_image.map_to_disk(value, images, scratch, "values")
    return {"x": made.arrays("x"), "table": pd.DataFrame({"n": [1.0]})}


@pytest.fixture
def images():
    return scenes.generate(0, 3, size=48)


def starve(*lines):
    """Run lines of Python in a process of its own; what it prints."""
    code = "\n".join(["from test_starved import *", *lines])
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


LIMITED = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
images, store = scenes.generate(0, 3, size=48), Store({root!r})
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def attempt():
    try:
        store.run(values, images=images)
    except ResourceError as error:
        print(error)
"""


def test_a_full_disk_loses_nothing_and_it_goes_on_where_there_is_room(tmp_path, images):
    """An image needs 16 kB, the result 48 kB."""
    found = starve(
        LIMITED.format(root=str(tmp_path)),
        "limit(10_000); attempt(); print(CALLS)",
        "limit(30_000); attempt(); print(CALLS)",
        "limit(resource.RLIM_INFINITY); attempt(); print(CALLS)",
    ).splitlines()
    assert len(found) == 5
    assert "the disk has no room" in found[0]
    assert "the disk has no room" in found[2]
    assert found[0].startswith(f"{tmp_path}/values-")
    # the first image, which no other try could mend; then all images; then none again
    assert found[1::2] == ["[0]", "[0, 0, 1, 2]"]
    assert found[4] == found[3]
    (path,) = tmp_path.iterdir()
    fresh = Store(tmp_path / "fresh").run(values, images=images)
    assert (path / "x.npz").read_bytes() == (fresh.path / "x.npz").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's rights need root")
def test_no_right_to_write_is_told_and_then_it_goes_on(images):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        os.chmod(folder, 0o755)
        without_the_right(Path(folder), images)


def without_the_right(root, images):
    setfsuid, nobody = ctypes.CDLL(None).setfsuid, 65534
    try:
        setfsuid(nobody)
        with pytest.raises(ResourceError, match=r"access is not allowed at .*lock.*; allow it"):
            Store(root).run(values, images=images)
    finally:
        setfsuid(0)
    assert not list(root.iterdir())
    assert CALLS == []
    assert len(Store(root).run(values, images=images).arrays("x")) == 3


@stage("values")
def hungry(images, scratch):
    def once(index):
        if index == 1 and CALLS.count(1) < 3:
            CALLS.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return value(index)

    made = per_image.map_to_disk(once, images, scratch, "values")
    return {"x": made.arrays("x")}


def test_memory_that_runs_out_loses_no_image(tmp_path, images):
    with pytest.raises(ResourceError, match=r"values-\w*: memory ran out \(CUDA out of memory"):
        Store(tmp_path).run(hungry, images=images)
    assert CALLS == [0, 1, 2, 1, 1]
    assert len(Store(tmp_path).run(hungry, images=images).arrays("x")) == 3
    assert CALLS == [0, 1, 2, 1, 1, 1]


# ---- crowded ------------------------------------------------------------------------------------
@stage("slow")
def slow(seconds):
    time.sleep(seconds)
    return {"pid": pd.DataFrame({"pid": [os.getpid()]})}


def computing(root):
    """A process that computes `slow`, or reads it, and says who computed it."""
    code = "from test_starved import *\nprint(Store(sys.argv[1]).run(slow, seconds=1)"
    code += ".table('pid')['pid'].item())"
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", code, root], env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_processes_that_want_the_same_result_compute_it_once(tmp_path):
    every = [computing(tmp_path) for _ in range(3)]
    told = [process.communicate()[0] for process in every]
    assert len(set(told)) == 1
    assert int(told[0]) in {process.pid for process in every}
    assert [path.suffix for path in tmp_path.iterdir()] == [""]


def test_who_waits_for_a_result_says_for_whom(tmp_path):
    folder = Store(tmp_path)._job(partial(slow, seconds=1)).result.path
    with locked(folder.with_name(f"{folder.name}.lock")):
        other = computing(tmp_path)
        told = f"Process {os.getpid()} computes {folder.name} already; this one waits for it.\n"
        assert other.stderr.readline() == told
        assert not folder.exists()
    assert int(other.communicate()[0]) == other.pid
