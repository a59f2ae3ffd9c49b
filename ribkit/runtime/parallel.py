"""The one place that maps over images, and trainings: here, over processes or GPUs, or a cluster.

Where the work is done is chosen by what there is. One worker or one item: in this process. Else by
local processes, one per core, or one per GPU where the device is CUDA. Where ``RAY_ADDRESS`` is
set, by a Ray cluster, one CPU or one GPU per worker: the machines must see code, data and
``build/`` at the same place of a file system that they share, and each ``ray start`` must be this
environment's. ``RAY_ADDRESS=local`` starts a cluster of this machine alone.

An item is computed with one thread wherever it runs, so its result does not depend on how many
workers there are, nor on the order, nor on which of them die.
"""

import os
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any, Protocol

import torch
from joblib.externals.loky import ProcessPoolExecutor

from ribkit.runtime.device import device, single_threaded
from ribkit.runtime.errors import InputError, ResourceError, out_of_memory
from ribkit.runtime.keys import code, require_same_code
from ribkit.runtime.progress import bar

THREADS = 8  # of `prefetch`, at most
TRIES = 3  # of an item, before its error comes out
CHUNK = 32  # items that are sent together, at most: what a worker that dies can lose
SHARES = 8  # chunks for each worker of a list that is short
IDLE = 300  # seconds after which a local worker without work ends
LOOK = 0.5  # seconds between a local worker's looks whether its parent lives

Task = Callable[[Any], Any]


def workers(gpu: bool = True) -> int:
    """How many items are computed at the same time, of this machine or of the cluster.

    One per GPU where the device is one and the items use it (``gpu``), else one per core this
    process may use; ``RIBKIT_WORKERS`` asks for another number, also of more than there are GPUs,
    which then take turns: for what a GPU waits for, such as the CRF after a network.
    """
    asked = int(os.environ.get("RIBKIT_WORKERS") or 0)
    if asked == 1:
        return 1
    gpu = gpu and _on_gpus()
    if os.environ.get("RAY_ADDRESS"):
        there = int(_ray().cluster_resources().get("GPU" if gpu else "CPU", 0))
        return min(asked or there, there)
    if not gpu:
        return asked or len(os.sched_getaffinity(0))
    return 1 if device().index is not None else asked or torch.cuda.device_count()


def _on_gpus() -> bool:
    return device().type == "cuda"


def map_images(task: Task, items: Sequence, words: str, gpu: bool = True) -> list:
    """``[task(item) for item in items]`` over all workers, with a progress bar named ``words``.

    task, items: picklable; task is a function of a module, or a partial of one. gpu: whether the
    task uses a GPU where there is one; if not, it goes over all cores. An item whose worker dies,
    or that fails, is tried again; the third error comes out with a note that names the item.
    InputError and ResourceError come out at once. Where memory runs out, one worker fewer goes on,
    down to one: an item's result does not depend on how many there are.
    """
    gpu = gpu and _on_gpus()
    count = min(len(items), workers(gpu))
    size = min(CHUNK, len(items) // (SHARES * count) or 1) if count > 1 else 1
    chunks = [
        Chunk(range(start, min(start + size, len(items)))) for start in range(0, len(items), size)
    ]
    with _open(task, count, gpu) as team:
        done = dict(bar(_finished(team, items, chunks), words, len(items)))
    return [done[position] for position in range(len(items))]


def prefetch(function: Callable[[Any], Any], items: Iterable, depth: int) -> Iterator:
    """``function(item)`` of each item, in order, computed in threads at most ``depth`` ahead.

    For work that leaves Python's lock alone: decoding, resizing. An error comes out in its item's
    place. The threads end with the last item, or when the consumer stops.
    """
    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(min(THREADS, workers(gpu=False), depth))
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


# ---- chunks and tries ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Chunk:
    """Positions of items that go to a worker together, and how often that went wrong."""

    positions: range
    failures: int = 0

    def after(self, done: int, broken: bool) -> "list[Chunk]":
        """What is left to do after ``done`` items, where the next failed or the worker broke.

        A worker that broke does not say at which item: all become suspects, each on its own.
        """
        left = self.positions[done:]
        if broken:
            return [Chunk(left[k : k + 1], self.failures + 1) for k in range(len(left))]
        return [Chunk(left[:1], self.failures + 1), *([Chunk(left[1:])] if left[1:] else [])]


class Worker(Protocol):
    """Where chunks are computed, one at a time."""

    def start(self) -> Future:
        """Done as soon as it can take items."""

    def submit(self, items: list) -> Future:
        """Of what `_compute` returns; has an exception where the worker broke."""

    def stop(self) -> None:
        """End it at once, with what it does; it can be started again."""


def _compute(task: Task, items: list) -> tuple[list, Exception | None]:
    """Results of the items up to the first that fails, and why that one did."""
    results = []
    require_same_code()
    for item in items:
        try:
            results.append(single_threaded(task, item))
        except Exception as error:
            if not isinstance(error, InputError):
                error.add_note(traceback.format_exc())  # does not travel by itself
            return results, error
    return results, None


def _finished(team: list[Worker], items: Sequence, chunks: list[Chunk]) -> Iterator[tuple]:
    """Pairs (position, result) as they come; an idle worker takes the next chunk.

    A worker gets nothing before it has started: a cluster may not have room for all at once.
    """
    waiting, running, idle, missing = deque(chunks), {}, [], len(items)
    try:
        for worker in team:
            running[worker.start()] = worker, Chunk(range(0))
        while missing:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                worker, chunk = running.pop(future)
                results, error, broken = _outcome(future)
                yield from zip(chunk.positions, results, strict=False)
                missing -= len(results)
                if error is None:
                    idle.append(worker)
                    continue
                worker.stop()
                hungry = out_of_memory(error) or (broken and chunk.failures)  # or killed for it
                if hungry and (running or idle):  # the others may go on without it
                    waiting.appendleft(Chunk(chunk.positions[len(results) :], chunk.failures))
                    continue
                left = chunk.after(len(results), broken)
                _raise_at_last(error, chunk, [items[c.positions[0]] for c in left if c.failures])
                waiting.extendleft(reversed(left))
                running[worker.start()] = worker, Chunk(range(0), chunk.failures + 1)
            while idle and waiting:
                worker, chunk = idle.pop(), waiting.popleft()
                running[worker.submit([items[k] for k in chunk.positions])] = worker, chunk
    except BaseException:
        for worker, _ in running.values():
            worker.stop()
        raise


def _outcome(future: Future) -> tuple[list, Exception | None, bool]:
    """Results, why there are no more, and whether that is because the worker broke."""
    try:
        return *future.result(), False
    except Exception as error:
        return [], error, True


def _raise_at_last(error: Exception, chunk: Chunk, suspects: list) -> None:
    """Let an error out that trying again cannot mend."""
    if isinstance(error, InputError | ResourceError):
        raise error
    if chunk.failures + 1 == TRIES:
        about = f"item {suspects[0]!r}" if suspects else "a worker that does not start"
        error.add_note(f"{about}, tried {TRIES} times")
        raise error


# ---- workers ------------------------------------------------------------------------------------
@contextmanager
def _open(task: Task, count: int, gpu: bool) -> Iterator[list[Worker]]:
    """So many workers for a task."""
    if count <= 1:
        yield [Here(task)]
    elif os.environ.get("RAY_ADDRESS"):
        shared = _ray().put(task)
        team = [Remote(shared, gpu) for _ in range(count)]
        try:
            yield team
        finally:
            for worker in team:
                worker.stop()
    else:
        with warnings.catch_warnings():
            # a process that grew large is replaced, which changes no result and needs no warning
            warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
            yield [Local(task, number, gpu) for number in range(count)]


def _environment(place: str) -> dict[str, str]:
    """What a worker finds set: its device, no bars, no workers of its own, where modules lie."""
    return {
        "RIBKIT_DEVICE": place,
        "RIBKIT_WORKERS": "1",
        "RIBKIT_PROGRESS": "",
        "RIBKIT_CODE": code(),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


def _now(result: Any) -> Future:
    future = Future()
    future.set_result(result)
    return future


class Here:
    """This process as a worker."""

    def __init__(self, task: Task):
        self.task = task

    def start(self) -> Future:
        """At once."""
        return _now(([], None))

    def submit(self, items: list) -> Future:
        """Computed before it returns."""
        return _now(_compute(self.task, items))

    def stop(self) -> None:
        """There is nothing to end."""


class Local:
    """A process of this machine, with a GPU of its own where the device is CUDA.

    It is kept for later tasks, since its start takes seconds. A pool of one process, so that one
    that dies takes no other's work with it.
    """

    pools: dict[str, ProcessPoolExecutor] = {}  # noqa: RUF012

    def __init__(self, task: Task, number: int, gpu: bool):
        self.task, self.number = task, number
        self.place = f"cuda:{number % torch.cuda.device_count()}" if gpu else "cpu"
        self.name = f"{self.place} {number}"

    def start(self) -> Future:
        """At once: the process starts with its first items."""
        return _now(([], None))

    def submit(self, items: list) -> Future:
        """To the process of this name."""
        if self.name not in self.pools:
            self.pools[self.name] = ProcessPoolExecutor(
                1,
                timeout=IDLE,
                env=_environment(self.place),
                initializer=_end_with,
                initargs=(os.getpid(),),
            )
        try:
            return self.pools[self.name].submit(_compute, self.task, items)
        except BrokenExecutor as error:  # the process died while it was idle
            failed = Future()
            failed.set_exception(error)
            return failed

    def stop(self) -> None:
        """Killed; the next items start another."""
        if pool := self.pools.pop(self.name, None):
            pool.shutdown(kill_workers=True)


def _end_with(parent: int) -> None:
    """Have a local worker end soon after the process that it works for, however that ends.

    Another run may do the same work by then, and an idle worker would wait, and keep pipes open.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _end_local() -> None:
    """At the end of this process, which else would wait until they are no longer needed."""
    for pool in Local.pools.values():
        pool.shutdown(kill_workers=True)


Finalize(None, _end_local, exitpriority=100)


class Remote:
    """A process somewhere in the cluster, with a CPU or a GPU of its own: a Ray actor."""

    def __init__(self, task: Any, gpu: bool):
        self.task, self.gpu, self.actor = task, gpu, None

    def start(self) -> Future:
        """As soon as the cluster has room for it."""
        kind = "cuda" if self.gpu else "cpu"  # Ray shows a worker no GPU but its own
        room = {"num_gpus": 1} if self.gpu else {"num_cpus": 1}
        environment = {"env_vars": _environment(kind)}
        self.actor = _ray().remote(_Actor).options(**room, runtime_env=environment).remote()
        return self.submit([])

    def submit(self, items: list) -> Future:
        """To the actor; the task is fetched once per machine."""
        return self.actor.compute.remote(self.task, items).future()

    def stop(self) -> None:
        """Killed, and its CPU or GPU given back."""
        if self.actor is not None:
            _ray().kill(self.actor)
            self.actor = None


class _Actor:
    """What runs in a process of the cluster."""

    def compute(self, task: Task, items: list) -> tuple[list, Exception | None]:
        return _compute(task, items)


def _ray():
    """Ray, connected to the cluster at ``RAY_ADDRESS``. Raises InputError where that is not so."""
    address = os.environ["RAY_ADDRESS"]
    try:
        import ray
    except ImportError:
        raise InputError(
            f"RAY_ADDRESS={address} asks for Ray, which is missing; install it: "
            "python -m pip install -e .[cluster]."
        ) from None
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(address, logging_level="ERROR", log_to_driver=False)
        except ConnectionError:
            raise InputError(
                f"no Ray cluster answers at RAY_ADDRESS={address}; start one with "
                "`ray start --head`, or unset RAY_ADDRESS."
            ) from None
    return ray
