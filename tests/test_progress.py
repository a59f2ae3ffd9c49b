"""What a stage takes, as its manifest tells it: which loop is counted, and of how many items."""

import itertools
import math
import os
import re
import select
import socket
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from ribkit.runtime import progress
from ribkit.runtime.progress import bar, measured
from ribkit.runtime.store import Store, stage


@pytest.fixture(autouse=True)
def _ticks(monkeypatch):
    """A clock that goes on by one second each time it is read; no GPU."""
    monkeypatch.setattr(progress.time, "perf_counter", map(float, itertools.count()).__next__)
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_items_of_a_loop_come_out_as_they_are(count):
    with measured():
        assert list(bar(range(count), "")) == list(range(count))
        assert [items for _, items in progress.loops] == [count - 1] * (count > 0)


def test_the_loop_that_took_longest_sets_the_pace_and_its_first_item_does_not_count():
    with measured() as taken:
        for k in bar(range(3), ""):
            for _ in range(5 * k):
                progress.time.perf_counter()
        list(bar(range(9), "quick"))
        list(bar([], ""))
        assert [items for _, items in progress.loops] == [2, 8]
    assert set(taken) == {"seconds", "memory", "each"}
    assert taken["each"] == (5 + 10 + 1) / 2  # one second more, for the reading at its end
    assert taken["memory"] >= 0


@pytest.mark.parametrize("items", [None, [], [1]])
def test_without_a_second_item_there_is_no_pace(items):
    with measured() as taken:
        if items is not None:
            list(bar(items, ""))
    assert taken["each"] is None
    assert taken["seconds"] > 0


def test_each_measurement_begins_anew():
    with measured():
        list(bar(range(100), ""))
    with measured() as taken:
        pass
    assert taken["each"] is None


def test_a_loop_that_is_broken_off_is_not_counted():
    with measured() as taken:
        next(bar(range(5), ""))
    assert taken["each"] is None


@stage("loop")
def looped(count):
    return {"numbers": {"numbers": np.array(list(bar(range(count), "numbers")))}}


def test_a_manifest_tells_what_its_stage_took(tmp_path):
    manifest = Store(tmp_path).run(looped, count=3).manifest
    assert {"seconds", "memory", "each"} < set(manifest)
    assert manifest["each"] is not None
    assert Store(tmp_path).run(looped, count=1).manifest["each"] is None


# ---- what a watcher sees ------------------------------------------------------------------------
SHOWS = """
import os, sys, time
import numpy as np
from ribkit.runtime import progress
from ribkit.runtime.store import Store, stage

@stage("slow")
def slow(count):
    for _ in progress.bar(range(count), "slow images"):
        time.sleep(0.5)
    return {"done": {"count": np.array(count)}}

with progress.shown():
    for number in progress.bar(range(1), "notebooks"):
        os.environ["RIBKIT_BARS"] = "1"
        Store(sys.argv[1]).run(slow, count=6)
        Store(sys.argv[1]).run(slow, count=1)
    progress.line("a.ipynb: 3 s")
print("done")
"""


@pytest.fixture
def watched(tmp_path):
    """Run it with this as standard error; what is printed, and the exit status."""
    script = tmp_path / "shows.py"
    script.write_text(SHOWS)
    command = [sys.executable, str(script), str(tmp_path / "store")]
    asked = {"RIBKIT_PROGRESS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}

    def run(stderr, **more):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | asked | more
        )
        return done.stdout, done.returncode

    return run


@pytest.mark.parametrize("kind", ["file", "pipe", "socket"])
def test_a_log_has_a_line_for_each_notebook_and_slow_stage(watched, tmp_path, kind):
    ours, theirs = socket.socketpair() if kind == "socket" else (None, None)
    if kind == "pipe":
        ours, theirs = (os.fdopen(end, mode) for end, mode in zip(os.pipe(), "rw", strict=True))
    log = (tmp_path / "log").open("w") if kind == "file" else theirs
    assert watched(log) == ("done\n", 0)
    log.close()
    text = {
        "file": lambda: (tmp_path / "log").read_text(),
        "pipe": lambda: ours.read(),
        "socket": lambda: ours.recv(10_000).decode(),
    }[kind]()
    assert re.fullmatch(r"  slow: \d+ s\na\.ipynb: 3 s\n", text)


@pytest.mark.parametrize("asked", ["", "1"])
def test_a_closed_standard_error_ends_nothing(watched, asked, tmp_path):
    code = f"import os, sys; os.close(2); sys.stderr = None; sys.argv = ['', {str(tmp_path)!r}]\n"
    done = subprocess.run(
        [sys.executable, "-c", code + SHOWS.replace("count=6", "count=1")],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"RIBKIT_PROGRESS": asked},
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("done\n", 0)


COMMANDS = """
import hashlib, pathlib, zipfile
from ribkit import download, reproduce, train
from ribkit.runtime import progress
from ribkit.runtime.errors import say
archive = pathlib.Path("set.zip")
with zipfile.ZipFile(archive, "w") as file:
    file.writestr("train2014/1.jpg", "1" * 3_000_000)
md5 = hashlib.md5(archive.read_bytes()).hexdigest()
download.ARCHIVES["coco"] = ((archive.resolve().as_uri(), md5, ["train2014/*"]),)
assert download.main(["coco", "got"]) == 0
assert pathlib.Path("got/train2014/1.jpg").is_file()
train.train = lambda study, name: [progress.line(name) for _ in progress.bar(range(2), name)]
train.Study.check = lambda study: "all there"
assert train.main(["classifier"]) == 0
assert reproduce.main(["--profile", "none"]) == 1
say("made anew")
print("done")
"""


@pytest.mark.parametrize("kind", ["socket", "socket that is left", "pipe that is left", "closed"])
def test_no_command_ends_for_what_its_standard_error_is(tmp_path, kind):
    ends = os.pipe() if "pipe" in kind else map(socket.socket.detach, socket.socketpair())
    ours, theirs = ends
    if kind.endswith("left"):
        os.close(ours)
    code = "import os, sys; os.close(2); sys.stderr = None\n" if kind == "closed" else ""
    asked = {"RIBKIT_PROGRESS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code + COMMANDS], cwd=tmp_path, env=os.environ | asked,
        stdout=subprocess.PIPE, stderr=theirs, text=True,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.splitlines()[1:] == ["all there", "classifier: trained.", "done"]
    assert not (tmp_path / "1").exists()  # RIBKIT_PROGRESS's


def test_a_place_that_cannot_be_opened_ends_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("RIBKIT_PROGRESS", str(tmp_path / "no" / "such" / "terminal"))
    assert list(bar(range(3), "three")) == [0, 1, 2]
    progress.line("lost")


def test_in_a_terminal_the_stage_has_a_bar_under_that_of_the_notebooks(watched):
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with ThreadPoolExecutor() as pool:  # a terminal that nobody reads stops whoever writes
        running = pool.submit(watched, theirs)
        text = ""
        while not running.done():
            if select.select([ours], [], [], 0.1)[0]:
                text += os.read(ours, 10_000).decode()
        assert running.result() == ("done\n", 0)
    os.close(theirs)
    os.close(ours)
    assert "notebooks:" in text
    under = text.split("\n")[1:]
    assert any("slow images:" in part and "\x1b[A" in part for part in under)
    assert " s\n" not in text
    assert "a.ipynb" not in text


@pytest.mark.parametrize("status", ["VmRSS: 4 kB", OSError()])
def test_memory_that_a_kernel_does_not_tell_is_unknown_and_ends_nothing(monkeypatch, status):
    def read_text(path):
        if isinstance(status, OSError):
            raise status
        return status

    monkeypatch.setattr(progress.Path, "read_text", read_text)
    with progress.measured() as measures:
        pass
    assert math.isnan(measures["memory"])


@pytest.mark.parametrize("where", ["cuda", "cuda:1"])
def test_memory_is_that_of_the_gpu_that_computes(monkeypatch, where):
    asked = []
    monkeypatch.setenv("RIBKIT_DEVICE", where)
    monkeypatch.setattr(torch.cuda, "init", lambda: asked.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: asked.append(gpu) or 2**21)
    with progress.measured() as measures:
        pass
    assert measures["memory"] == 2
    assert asked == ["init"] + [torch.device(where)] * 2  # a card that is not started has no peak
