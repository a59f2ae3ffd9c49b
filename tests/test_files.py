"""Files: whole or not at all, one writer at a time, known by their checksum."""

import errno
import fcntl
import hashlib
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ribkit.runtime import files, store
from ribkit.runtime.errors import InputError
from ribkit.runtime.files import Busy, append_checksum, atomic_write, has_checksum, locked

HOLD = """
import pathlib, sys, time
from ribkit.runtime.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(path, seconds):
    """Another process that holds a lock, and does so now."""
    command = [sys.executable, "-c", HOLD, str(path), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


# ---- whole or not at all ------------------------------------------------------------------------
def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as partial:
        partial.write_text("one")
        assert not path.exists()
    with pytest.raises(UnicodeEncodeError), atomic_write(path) as partial:
        partial.write_text("two\udc80")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, there = tmp_path / "a.txt", []
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: there.append(path.exists()))
    with atomic_write(path) as partial:
        partial.write_text("one")
    assert there == [False]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    (tmp_path / "a.txt.partial").write_text("half of something that is longer")
    with atomic_write(tmp_path / "a.txt") as partial:
        partial.write_text("all")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "all"


def test_writers_of_one_file_wait_for_each_other(tmp_path):
    path, torn = tmp_path / "a.txt", []

    def write(letter):
        for _ in range(20):
            with atomic_write(path) as partial, partial.open("w") as file:
                for _ in range(20):
                    file.write(letter)
                    file.flush()
            torn.extend(found for found in [path.read_text()] if len(set(found)) != 1)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torn == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def acquire(path, words=""):
    with locked(path, words, wait=False):
        pass


# ---- locks --------------------------------------------------------------------------------------
def test_a_lock_is_for_one_process_and_bears_its_id(tmp_path, capsys):
    path = tmp_path / "a.lock"
    other = hold(path, 60)
    with pytest.raises(Busy, match=f"process {other.pid} has it"):
        acquire(path, "process {} has it")
    assert capsys.readouterr().err == ""
    threading.Timer(0.2, other.kill).start()
    with locked(path, "waiting for {}"):
        assert path.read_text() == str(os.getpid())
    assert capsys.readouterr().err == f"waiting for {other.pid}\n"
    assert not path.exists()
    other.wait()


def test_a_killed_process_holds_no_lock(tmp_path):
    path = tmp_path / "a.lock"
    other = hold(path, 60)
    other.kill()
    other.wait()
    assert path.exists()
    with locked(path, wait=False):
        pass
    assert not path.exists()


def test_a_lock_is_given_back_when_something_fails(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="x"), locked(tmp_path / "a", wait=False):
            raise ValueError("x")
    assert not list(tmp_path.iterdir())


def test_a_lock_whose_file_cannot_be_written_is_given_back(tmp_path, monkeypatch):
    """Where the disk is full, and in a notebook the traceback keeps everything alive."""
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "getpid", lambda: "\udc80")  # cannot be written
        with pytest.raises(UnicodeEncodeError) as kept:
            acquire(tmp_path / "a")
    acquire(tmp_path / "a")
    assert kept
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def none(file, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(InputError, match=r"a cannot be locked \(No locks available\); use a file"):
        acquire(tmp_path / "a")


# ---- names --------------------------------------------------------------------------------------
def test_a_safe_name_is_the_text_where_every_file_system_takes_it():
    assert files.safe_name("mini-lrs=1e-6,steps=5") == "mini-lrs=1e-6,steps=5"
    assert files.safe_name("a" * files.NAME) == "a" * files.NAME


@pytest.mark.parametrize("text", ["a/b", "../up", "a b", "ä", "a" * 81, "x" * 1000, "a\nb"])
def test_a_text_that_is_no_name_becomes_one_of_its_own(text):
    name = files.safe_name(text)
    assert re.fullmatch(r"[A-Za-z0-9=.,_-]{10,80}", name)
    assert name.endswith(f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}")
    assert files.safe_name("a/b") != files.safe_name("a_b") != files.safe_name("a?b")


# ---- checksums ----------------------------------------------------------------------------------
def test_a_seal_is_the_sha256_of_the_name_and_of_what_comes_before(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"content")
    assert not has_checksum(path)
    append_checksum(path)
    assert path.read_bytes() == b"content" + hashlib.sha256(b"acontent").hexdigest().encode()
    assert has_checksum(path)
    path.rename(tmp_path / "b")  # in another's place
    assert not has_checksum(tmp_path / "b")
    with atomic_write(path) as partial:
        partial.write_bytes(b"content")
        append_checksum(partial)
    assert has_checksum(path)
    assert not has_checksum(tmp_path / "missing")


@settings(max_examples=100)
@given(st.binary(max_size=200), st.data())
def test_a_seal_holds_for_no_other_content(tmp_path_factory, content, data):
    path = tmp_path_factory.mktemp("seal") / "a"
    path.write_bytes(content)
    append_checksum(path)
    whole_file = path.read_bytes()
    at = data.draw(st.integers(0, len(whole_file) - 1))
    flipped = whole_file[at] ^ (1 << data.draw(st.integers(0, 7)))
    path.write_bytes(whole_file[:at] + bytes([flipped]) + whole_file[at + 1 :])
    assert not has_checksum(path)
    path.write_bytes(whole_file[:at])
    assert not has_checksum(path)
    path.write_bytes(whole_file)
    assert has_checksum(path)


def test_numpy_reads_a_sealed_npz(tmp_path):
    store.save_arrays(tmp_path / "a.npz", {"x": np.arange(3), "y": np.ones(2)})
    append_checksum(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert {name: array.tolist() for name, array in arrays.items()} == {
            "x": [0, 1, 2],
            "y": [1, 1],
        }


def test_a_checksum_is_of_the_content_and_not_of_its_order():
    assert files.checksum({"a": 1, "b": [2]}) == files.checksum({"b": [2], "a": 1})
    assert files.checksum({"a": 1}) != files.checksum({"a": 2})
