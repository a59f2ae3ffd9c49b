"""The whole study is killed and starved, and ends with the bytes of a run that nobody disturbed."""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import dying
import pytest
from small_study import MINI, SmallStudy

pytestmark = pytest.mark.soak
KILLS = 20
WHOM = ("all its processes", "the command", "the notebook's process", "a worker")
AT = (3, 25)  # which of its writes a process does not survive
FULL = re.compile(r".* stopped: .*: the disk has no room.*make room and run the same command again")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a run makes that nobody disturbs."""
    study = SmallStudy(tmp_path_factory.mktemp("undisturbed"), MINI)
    code, _, err = study.run()
    assert code == 0, err
    made = study.made()
    assert len([path for path in made if path.endswith((".npz", ".safetensors", ".csv"))]) > 50
    assert not [path for path in made if path.endswith((".partial", ".lock"))]
    assert not [path for path in made if ".scratch" in path or ".running" in path]
    return made


def processes(study):
    """Process id -> command line of all that work in a study's folder."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cwd").readlink() == study.folder:
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode()
        except OSError:  # it has ended
            continue
    return found


def kill(whom, study):
    """SIGKILL to one or all of a study's processes; how many there were."""
    kinds = {
        "the command": "ribkit.reproduce",
        "the notebook's process": "ipykernel_launcher",
        "a worker": "loky.backend",
    }
    there = [pid for pid, line in processes(study).items() if kinds.get(whom, "") in line]
    for pid in there if whom == "all its processes" else there[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(there)


def test_killed_at_random_moments(undisturbed, tmp_path, figures):
    """A worker's death does not even end the run; a notebook's ends it with the reason."""
    study, deaths, whole, process = SmallStudy(tmp_path, MINI), dict.fromkeys(WHOM, 0), 0, None
    while sum(deaths.values()) < KILLS:
        if process is None:
            process = study.start()
        whom = random.choice([w for w in WHOM if deaths[w] < KILLS // len(WHOM)])
        try:
            process.wait(random.uniform(4, 25))
        except subprocess.TimeoutExpired:
            killed = kill(whom, study)
            deaths[whom] += bool(killed)
            if not killed or whom == "a worker":
                continue
            if whom == "the notebook's process":
                _, err = process.communicate()
                assert process.returncode == 1
                assert "stopped: its process died" in err.splitlines()[-1]
        else:
            assert process.returncode == 0, process.communicate()[1]
            assert study.made() == undisturbed
            whole += 1
            shutil.rmtree(study.build)
        process = None  # what it had started may live on for a moment, beside the next run
    if process is None:
        process = study.start()
    _, err = process.communicate()
    assert process.returncode == 0, err
    for _ in range(600):
        living = processes(study)
        if not living:
            break
        time.sleep(0.1)
    assert not living
    assert study.made() == undisturbed
    figures["kills of make reproduce at random moments"] = deaths | {"whole runs": whole + 1}


def test_killed_at_chosen_moments(undisturbed, tmp_path, figures):
    study, deaths = SmallStudy(tmp_path, MINI, RIBKIT_WORKERS="1"), {}
    (tmp_path / "sitecustomize.py").write_text("import dying\n")
    for number in AT:
        for moment in dying.MOMENTS:
            code, _, err = study.run(variables={"DIE": f"{moment},{number}"})
            assert code == 1
            assert "stopped: its process died" in err.splitlines()[-1]
            deaths[moment] = deaths.get(moment, 0) + 1
    code, _, err = study.run()
    assert code == 0, err
    assert study.made() == undisturbed
    figures["kills of make reproduce at chosen moments"] = deaths


def test_no_file_may_grow(undisturbed, tmp_path, figures):
    """RLIMIT_FSIZE: every file is full at so many bytes; then there is room again."""
    study, ends = SmallStudy(tmp_path, MINI, RIBKIT_WORKERS="1"), 0
    for size in (40_000, 400_000):
        limit = {"preexec_fn": lambda size=size: limited(size)}
        code, _, err = study.run(**limit)
        assert code == 1
        assert FULL.match(err.splitlines()[-1]), err
        ends += 1
    code, _, err = study.run()
    assert code == 0, err
    assert study.made() == undisturbed
    figures["full disks survived by make reproduce, files limited"] = ends


def limited(size):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error, as of a full disk, and no signal
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 300 kB at build/, and how to make it larger."""
    build, options = tmp_path / "build", ["-t", "tmpfs", "tmpfs"]
    build.mkdir()
    if subprocess.run(["mount", "-o", "size=300k", *options, build], check=False).returncode:
        pytest.skip("this user may not mount")
    yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", build], check=True)
    subprocess.run(["umount", "-l", build], check=True)


def test_the_disk_is_full(undisturbed, tmp_path, small_disk, figures):
    study, ends = SmallStudy(tmp_path, MINI), 0
    for size in ("300k", "5m", "25m"):
        small_disk(size)
        code, _, err = study.run()
        assert code == 1
        assert "room" in err.splitlines()[-1], err
        ends += 1
    small_disk("500m")
    code, _, err = study.run()
    assert code == 0, err
    assert study.made() == undisturbed
    figures["full disks survived by make reproduce, a tmpfs"] = ends
