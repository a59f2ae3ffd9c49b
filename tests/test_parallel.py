import contextlib
import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import joblib
import pytest
import torch
from fabricated import run_stage, stored, trained_classifier

from ribkit.data import scenes
from ribkit.method.settings import Settings
from ribkit.networks import classifier
from ribkit.runtime import device, parallel, store
from ribkit.runtime.errors import InputError
from ribkit.study import maps as seeds
from ribkit.study.maps import Adaptation, Sizes


def square(item):
    return item**2


def where(item):
    return os.getpid(), torch.get_num_threads(), item


def scaled(factor, item):
    return factor * item


def refusing(item):
    raise InputError(f"item {item} is bad.")


def once(folder, item):
    """Whether this is the first time that the item is asked for, in any process."""
    try:
        (folder / str(item)).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def deadly(folder, item):
    """Kills its worker when item 3 comes for the first time."""
    if item == 3 and once(folder, item):
        os.kill(os.getpid(), signal.SIGKILL)
    return item**2


def deadly_at_every_fifth(folder, item):
    """Kills its worker when 0, 5, 10, ... come for the first time."""
    if item % 5 == 0 and once(folder, item):
        os.kill(os.getpid(), signal.SIGKILL)
    return item**2


def always_deadly(item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def failing(folder, item):
    """Item 2 fails, and leaves a mark each time."""
    if item == 2:
        (folder / str(time.monotonic_ns())).touch()
        raise ZeroDivisionError("by nothing")
    return item


def half_failing(folder, item):
    """Items 0 and 2 fail, the others leave a mark."""
    if item in (0, 2):
        raise ZeroDivisionError("by nothing")
    (folder / str(item)).touch()


def full(folder, item):
    (folder / str(time.monotonic_ns())).touch()
    raise OSError(errno.ENOSPC, "No space left on device")


def alone(folder):
    """Whether memory, which is enough for one at a time, is enough for this one."""
    with open(folder / "memory", "w") as memory:
        try:
            fcntl.flock(memory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        time.sleep(0.1)
    return True


def hungry_once(folder, item):
    """The first time that an item comes there is too little memory for it."""
    if not (folder / str(item)).exists():
        (folder / str(item)).touch()
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return item


def killed_for_memory(folder, item):
    if not alone(folder):
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def noted(folder, item):
    with open(folder / "log", "a") as log:
        log.write(f"{item}\n")
    time.sleep(0.05)
    return item


def starved(item):
    raise MemoryError


def waiting(folder, item):
    if item == 0:
        raise InputError("item 0 is bad.")
    time.sleep(60)
    (folder / "waited").touch()


def about(item):
    names = ("RIBKIT_DEVICE", "RIBKIT_WORKERS", "RIBKIT_PROGRESS", "OMP_NUM_THREADS")
    return [os.environ.get(name) for name in names]


def met_device(folder, count, item):
    """This worker's device, told once as many workers have come."""
    (folder / str(os.getpid())).touch()
    while len(os.listdir(folder)) < count:
        time.sleep(0.05)
    return os.getpid(), os.environ["RIBKIT_DEVICE"]


class Counted:
    """A task that counts how often it is pickled."""

    pickled = 0

    def __call__(self, item):
        return item

    def __reduce__(self):
        Counted.pickled += 1
        return Counted, ()


def with_threads(count, action):
    """The action's result, done where torch would use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return action()
    finally:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")
    monkeypatch.delenv("RIBKIT_WORKERS", raising=False)


@pytest.fixture(scope="module")
def ray():
    """A Ray of this machine alone, for all tests of the module."""
    found = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {"logging_level": "ERROR", "log_to_driver": False}
        found.init("local", num_cpus=2, include_dashboard=False, **quiet)
        yield found
        found.shutdown()


@pytest.fixture(params=["here", "processes", "ray"])
def workers(request, monkeypatch):
    """Each place where items can be computed."""
    monkeypatch.setenv("RIBKIT_WORKERS", "1" if request.param == "here" else "2")
    if request.param == "ray":
        request.getfixturevalue("ray")
        monkeypatch.setenv("RAY_ADDRESS", "local")
    return request.param


elsewhere = pytest.mark.parametrize("workers", ["processes", "ray"], indirect=True)


def test_results_come_in_the_order_of_the_items(workers):
    assert parallel.map_images(square, [3, 1, 2, 5], "squares") == [9, 1, 4, 25]
    assert parallel.map_images(partial(scaled, 10), range(99), "products")[98] == 980
    assert parallel.map_images(square, [], "nothing") == []


def test_every_item_is_computed_with_one_thread_wherever_it_runs(monkeypatch):
    for count in ("1", "2"):
        monkeypatch.setenv("RIBKIT_WORKERS", count)
        done = with_threads(2, lambda: parallel.map_images(where, range(6), "places"))
        assert {threads for _, threads, _ in done} == {1}
        assert (os.getpid() in {pid for pid, _, _ in done}) == (count == "1")


def test_one_worker_leaves_the_number_of_threads_as_it_was(monkeypatch):
    monkeypatch.setenv("RIBKIT_WORKERS", "1")

    def after_success_and_failure():
        parallel.map_images(square, [1], "squares")
        with pytest.raises(InputError):
            parallel.map_images(refusing, [1], "refused")
        return torch.get_num_threads()

    assert with_threads(2, after_success_and_failure) == 2


def loaders(index):
    return os.environ["RIBKIT_LOADERS"]


def test_the_message_of_a_worker_reaches_the_user(workers):
    with pytest.raises(InputError, match=r"^item \d is bad.$"):
        parallel.map_images(refusing, range(2), "refused")


def test_on_one_gpu_everything_runs_in_this_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda")
    done = parallel.map_images(where, range(3), "places")
    assert {pid for pid, _, _ in done} == {os.getpid()}


def test_there_are_as_many_workers_as_asked_for_or_as_there_are_cores(monkeypatch):
    monkeypatch.setenv("RIBKIT_WORKERS", "7")
    assert parallel.workers() == 7
    monkeypatch.delenv("RIBKIT_WORKERS")
    assert parallel.workers() == joblib.cpu_count()


@pytest.mark.parametrize("text", ["-1", "auto", "1.5", "two", "1e1", "+2", "²", "0x2", "99999"])
def test_what_is_no_number_of_workers_is_told(monkeypatch, text):
    monkeypatch.setenv("RIBKIT_WORKERS", text)
    says = rf"^RIBKIT_WORKERS={re.escape(text)} is not a number of workers; set it to 1 or more"
    for count in (parallel.workers, lambda: parallel.map_images(square, [1, 2], "squares")):
        with pytest.raises(InputError, match=says):
            count()


@pytest.mark.parametrize("asked", ["", "4"])
def test_a_cluster_without_gpus_leaves_the_work_to_this_process(monkeypatch, asked):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda")
    monkeypatch.setenv("RIBKIT_WORKERS", asked)
    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": 3.0})
    monkeypatch.setattr(parallel, "_ray", lambda: cluster)
    assert parallel.workers() == 1
    assert parallel.workers(gpu=False) == 3


@pytest.mark.parametrize(
    "name", ["gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "meta", "0"]
)
def test_a_device_that_is_none_is_told(monkeypatch, name):
    monkeypatch.setenv("RIBKIT_DEVICE", name)
    with pytest.raises(InputError, match=f"^RIBKIT_DEVICE={name} is unknown; set it to cuda, "):
        device.device()


@pytest.mark.parametrize(
    ("asked", "there", "expected"),
    [("", True, "cuda"), ("", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_the_device_is_chosen_by_itself_and_can_be_set(monkeypatch, asked, there, expected):
    monkeypatch.setenv("RIBKIT_DEVICE", asked)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert device.device().type == expected


# ---- ahead --------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", ["1", "3"])
def test_ahead_keeps_the_order_and_its_distance(monkeypatch, count):
    monkeypatch.setenv("RIBKIT_LOADERS", count)
    asked = []
    results = parallel.prefetch(square, (asked.append(i) or i for i in range(20)), 4)
    for i, found in enumerate(results):
        assert found == i**2
        assert len(asked) - (i + 1) <= 4
    assert len(asked) == 20


def test_an_error_comes_out_in_its_items_place():
    results = parallel.prefetch(lambda i: refusing(i) if i == 2 else i, range(5), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(InputError, match="item 2 is bad"):
        next(results)


def test_the_threads_end_when_the_consumer_stops():
    before = set(threading.enumerate())
    results = parallel.prefetch(square, range(100), 8)
    next(results)
    results.close()
    assert set(threading.enumerate()) <= before


def test_a_training_is_fed_by_all_cores_whatever_the_workers(monkeypatch):
    monkeypatch.setenv("RIBKIT_WORKERS", "1")
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    barrier = threading.Barrier(3)
    assert sorted(parallel.prefetch(lambda i: barrier.wait(20), range(3), 3)) == [0, 1, 2]


@pytest.mark.parametrize(("cores", "expected"), [(16, "8"), (1, "1")])
def test_the_workers_of_gpus_share_the_cores_that_feed_them(monkeypatch, cores, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(parallel, "cores", lambda: cores)
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda")
    assert set(parallel.map_images(loaders, range(4), "loaders")) == {expected}


def test_each_gpu_has_a_worker_and_a_named_one_works_in_this_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda")
    assert parallel.workers() == 4
    monkeypatch.setenv("RIBKIT_WORKERS", "6")
    assert parallel.workers() == 6
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda:3")
    assert device.device() == torch.device("cuda", 3)
    assert parallel.workers() == 1


def test_workers_take_the_gpus_in_turns_and_keep_theirs(monkeypatch, tmp_path):
    """Also where there are more workers than GPUs, and where one was replaced."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda")
    monkeypatch.setenv("RIBKIT_WORKERS", "3")
    places = dict(parallel.map_images(partial(met_device, tmp_path, 3), range(30), "devices"))
    assert len(places) == 3
    assert sorted(places.values()) == ["cuda:0", "cuda:0", "cuda:1"]


def test_stages_with_and_without_a_gpu_in_turns_keep_their_workers(monkeypatch):
    """Each start of a pool cost 15 s on a machine of 16 cores, at every other stage."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda")
    monkeypatch.setenv("RIBKIT_WORKERS", "2")

    def met() -> list[set[int]]:
        both = [parallel.map_images(where, range(8), "places", gpu) for gpu in (True, False)]
        return [{pid for pid, _, _ in places} for places in both]

    on_gpus, others = met()
    assert not on_gpus & others
    pools = dict(parallel._pools)
    met()
    assert parallel._pools == pools


@elsewhere
def test_a_worker_finds_its_device_no_bars_and_no_workers_of_its_own(
    workers, monkeypatch, tmp_path
):
    monkeypatch.setenv("RIBKIT_PROGRESS", str(tmp_path / "bars"))
    assert parallel.map_images(about, range(2), "about") == [["cpu", "1", "", "1"]] * 2


# ---- what goes wrong ----------------------------------------------------------------------------
@elsewhere
def test_a_worker_that_is_killed_changes_nothing(workers, tmp_path):
    done = parallel.map_images(partial(deadly, tmp_path), range(40), "squares")
    assert done == [item**2 for item in range(40)]
    assert (tmp_path / "3").exists()


def test_workers_that_are_killed_every_now_and_then_end_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("RIBKIT_WORKERS", "2")
    task, items = partial(deadly_at_every_fifth, tmp_path), range(30)
    assert parallel.map_images(task, items, "squares") == [item**2 for item in items]
    assert len(list(tmp_path.iterdir())) == 6


@elsewhere
def test_an_item_that_always_kills_its_worker_is_named(workers):
    with pytest.raises(Exception, match=r"(?i)died|terminated") as caught:
        parallel.map_images(always_deadly, range(40), "deaths")
    assert caught.value.__notes__[-1] == "not computed in 3 rounds: 3"
    assert parallel.map_images(square, [3, 4], "squares") == [9, 16]


def test_a_worker_that_dies_while_it_is_idle_is_replaced(monkeypatch):
    monkeypatch.setenv("RIBKIT_WORKERS", "2")
    for pid in {pid for pid, _, _ in parallel.map_images(where, range(6), "places")}:
        os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    assert parallel.map_images(square, [3, 4], "squares") == [9, 16]


def test_an_error_is_tried_three_rounds_and_comes_out_with_its_item(workers, tmp_path):
    with pytest.raises(ZeroDivisionError, match="by nothing") as caught:
        parallel.map_images(partial(failing, tmp_path), range(40), "failures")
    assert 3 <= len(list(tmp_path.iterdir())) <= 4  # once more where its chunk had others left
    assert caught.value.__notes__[-1] == "not computed in 3 rounds: 2"
    assert "in failing" in caught.value.__notes__[0]


def test_a_failing_item_stops_no_other(workers, tmp_path):
    with pytest.raises(ZeroDivisionError):
        parallel.map_images(partial(half_failing, tmp_path), range(12), "failures")
    assert {int(path.name) for path in tmp_path.iterdir()} == set(range(1, 12)) - {2}


def test_what_fails_everywhere_is_told_soon(monkeypatch):
    monkeypatch.setenv("RIBKIT_WORKERS", "1")
    calls = []

    def failing_always(item):
        calls.append(item)
        raise ZeroDivisionError(item)

    with pytest.raises(ZeroDivisionError) as caught:
        parallel.map_images(failing_always, range(1000), "failures")
    assert calls == list(range(parallel.FAILURES)) * parallel.ROUNDS
    assert caught.value.__notes__[-1] == "not computed in 3 rounds: 0, 1, 2, 3, 4, 5, 6, 7"


def test_a_full_disk_is_told_at_once(workers, tmp_path):
    with pytest.raises(OSError, match="No space left"):
        parallel.map_images(partial(full, tmp_path), range(2), "full")
    assert len(list(tmp_path.iterdir())) <= 2


def test_bad_input_comes_out_at_once(workers, tmp_path):
    with pytest.raises(InputError, match="item 0 is bad"):
        parallel.map_images(partial(waiting, tmp_path), range(2), "waiting")
    assert not (tmp_path / "waited").exists()
    assert parallel.map_images(square, [3, 4], "squares") == [9, 16]


def test_a_task_is_pickled_once_a_chunk_and_not_once_an_item(monkeypatch):
    monkeypatch.setenv("RIBKIT_WORKERS", "2")
    Counted.pickled = 0
    parallel.map_images(Counted(), range(1000), "items")
    assert Counted.pickled <= 2 * (1000 / parallel.CHUNK + 1)
    Counted.pickled = 0
    parallel.map_images(Counted(), range(4), "items")
    assert Counted.pickled <= 2 * 4


def test_a_missing_ray_and_an_absent_cluster_are_told(monkeypatch):
    monkeypatch.setenv("RIBKIT_WORKERS", "2")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "ray", None)
        with pytest.raises(InputError, match=r"RAY_ADDRESS=10\.0\.0\.1:6379 .*\[cluster\]"):
            parallel.map_images(square, range(2), "squares")


# ---- a real stage -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def rib(tmp_path_factory):
    """RIB on four scenes: what `maps.rib_seeds` needs but scratch; the network is untrained."""
    folder = tmp_path_factory.mktemp("rib")
    network = classifier.build("small", len(scenes.CLASSES), rng_seed=0)
    weights = stored(folder, weights=network.state_dict()).tensors("weights")
    model = trained_classifier(weights)
    view = {"model": model, "long_sides": (40, 56), "side": 32, "rng_seed": 0}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RIBKIT_WORKERS", "1")
        others = scenes.generate(1, 8, size=48)
        bank = store.Store(folder).run(seeds.feature_bank, images=others, **view)
    settings = Settings(pooling="gap", steps=2, lr=1e-3, n_others=3, margin=1e9)
    return {"model": model, "images": scenes.generate(0, 4, size=48), "sizes": Sizes((1.0, 0.5)),
            "adaptation": Adaptation(settings, bank.tensors("features"))}  # fmt: skip


def rib_bytes(folder, rib):
    """What RIB stores, file by file."""
    for name, content in run_stage(seeds.rib_seeds, folder=folder / "scratch", **rib).items():
        store.save(folder, name, content)
    return [(folder / name).read_bytes() for name in ("maps.npz", "images.csv")]


@elsewhere
def test_seeds_are_the_same_bytes_wherever_they_are_computed(workers, rib, tmp_path):
    found = rib_bytes(tmp_path, rib)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RIBKIT_WORKERS", "1")
        patched.delenv("RAY_ADDRESS", raising=False)
        (tmp_path / "here").mkdir()
        assert found == rib_bytes(tmp_path / "here", rib)


def test_what_uses_no_gpu_goes_over_all_cores_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda")
    assert parallel.workers() == 1
    assert parallel.workers(gpu=False) == joblib.cpu_count()
    monkeypatch.setenv("RIBKIT_WORKERS", "2")
    assert parallel.map_images(about, range(2), "about", gpu=False) == [["cpu", "1", "", "1"]] * 2


# ---- memory -------------------------------------------------------------------------------------
def test_where_memory_runs_out_fewer_workers_go_on(monkeypatch, tmp_path):
    monkeypatch.setenv("RIBKIT_WORKERS", "2")
    counts, pool = [], parallel._pool
    monkeypatch.setattr(
        parallel, "_pool", lambda task, count, gpu: counts.append(count) or pool(task, count, gpu)
    )
    task, items = partial(hungry_once, tmp_path), list(range(6))
    assert parallel.map_images(task, items, "items") == items
    assert counts == [2, 1]


@pytest.mark.parametrize("count", ["1", "2"])
def test_where_memory_is_too_little_for_one_its_error_comes_out(monkeypatch, count):
    monkeypatch.setenv("RIBKIT_WORKERS", count)
    with pytest.raises(MemoryError):
        parallel.map_images(starved, [0, 1], "items")


def test_where_workers_are_killed_for_memory_fewer_go_on(monkeypatch, tmp_path):
    monkeypatch.setenv("RIBKIT_WORKERS", "2")
    task, items = partial(killed_for_memory, tmp_path), list(range(6))
    assert parallel.map_images(task, items, "items") == items


# ---- other processes ----------------------------------------------------------------------------
ORPHANS = """
import sys, pathlib
from functools import partial
from ribkit.runtime import parallel
from test_parallel import noted
parallel.map_images(partial(noted, pathlib.Path(sys.argv[1])), range(2000), "items")
"""


def alive(group):
    """Processes of a session."""
    every = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    found = []
    for pid in every:
        with contextlib.suppress(OSError):
            found += [pid] if os.getsid(pid) == group else []
    return found


@pytest.mark.parametrize("idle", [False, True])
def test_workers_end_with_the_process_that_they_work_for(tmp_path, idle):
    code = ORPHANS if not idle else f"{ORPHANS.replace('2000', '2')}\nimport time; time.sleep(60)"
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    asked = {"RIBKIT_WORKERS": "2", "RIBKIT_DEVICE": "cpu", "PYTHONPATH": paths}
    command = [sys.executable, "-c", code, tmp_path]
    parent = subprocess.Popen(command, env=os.environ | asked, start_new_session=True)
    while not (tmp_path / "log").is_file():
        assert parent.poll() is None
        time.sleep(0.05)
    time.sleep(idle)
    parent.kill()
    parent.wait()
    done = len((tmp_path / "log").read_text().splitlines())
    deadline = time.monotonic() + 60
    while alive(parent.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive(parent.pid) == []
    assert len((tmp_path / "log").read_text().splitlines()) < done + 100  # of 2000


def test_a_worker_of_other_code_is_refused(monkeypatch):
    monkeypatch.setenv("RIBKIT_CODE", "of another time")
    with pytest.raises(InputError, match="code of ribkit was changed while it ran"):
        parallel.map_images(square, [1], "items")


@pytest.mark.parametrize(("asked", "evened"), [("", True), ("2", False)])
def test_a_number_of_workers_that_is_asked_for_stands(monkeypatch, asked, evened):
    monkeypatch.setenv("RIBKIT_WORKERS", asked)
    counts = []
    monkeypatch.setattr(parallel, "evenly", lambda *given: counts.append(given) or 1)
    assert parallel.map_images(square, [3, 4, 5], "squares", even=True) == [9, 16, 25]
    assert bool(counts) == evened


@pytest.mark.parametrize(
    ("count", "available", "expected"),
    [(1, 2, 1), (2, 2, 2), (3, 2, 3), (4, 2, 2), (5, 2, 3), (12, 2, 2), (13, 2, 3), (3, 16, 3)],
)
def test_even_items_leave_no_worker_idle_at_the_end(count, available, expected):
    assert parallel.evenly(count, available) == expected
