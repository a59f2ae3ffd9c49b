"""The one place that maps over images, and trainings: here, over processes or GPUs, or a cluster.

Where the work is done is chosen by what there is. One worker or one item: in this process. Else by
local processes (loky's), one per core, or one per GPU where the device is CUDA. Where
``RAY_ADDRESS`` is set, by a Ray cluster, one CPU or one GPU per worker: the machines must see code,
data and ``build/`` at the same place of a file system that they share, and each ``ray start`` must
be this environment's. ``RAY_ADDRESS=local`` starts a cluster of this machine alone.

An item is computed with one thread wherever it runs, so its result does not depend on how many
workers there are, nor on the order, nor on which of them die.
"""

import ctypes
import os
import signal
import sys
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass
from typing import Any

import torch
from joblib.externals.loky import ProcessPoolExecutor

from ribkit.runtime.device import device, single_threaded
from ribkit.runtime.errors import InputError, ResourceError, out_of_memory
from ribkit.runtime.keys import code, require_same_code
from ribkit.runtime.progress import bar

THREADS = 8  # of `prefetch`, at most
TRIES = 3  # of an item, before its error comes out
CHUNK = 32  # items that are sent together, at most: what a worker that dies can lose
SHARES = 8  # chunks for each worker of a short list
IDLE_S = 300  # after which a local worker without work ends
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>

# loky replaces a process that grew large, which changes no result and needs no warning
warnings.filterwarnings("ignore", "A worker stopped", UserWarning)

Task = Callable[[Any], Any]


def workers(gpu: bool = True) -> int:
    """Count the items that are computed at the same time, on this machine or on the cluster.

    One per GPU where the device is one and the items use it, else one per core that this process
    may use. ``RIBKIT_WORKERS`` asks for another number, also of more than there are GPUs, which
    then take turns: for what a GPU waits for, such as the CRF after a network.

    Args:
        gpu: Whether the items use a GPU where there is one.

    Returns:
        Their number, at least 1; on a cluster that has nothing of the kind, 0.
    """
    requested = int(os.environ.get("RIBKIT_WORKERS") or 0)
    if requested == 1:
        return 1
    gpu = gpu and _on_gpus()
    if os.environ.get("RAY_ADDRESS"):
        available = int(_ray().cluster_resources().get("GPU" if gpu else "CPU", 0))
        return min(requested or available, available)
    if not gpu:
        return requested or len(os.sched_getaffinity(0))
    return 1 if device().index is not None else requested or torch.cuda.device_count()


def _on_gpus() -> bool:
    return device().type == "cuda"


def map_images(task: Task, items: Sequence, label: str, gpu: bool = True) -> list:
    """Compute ``[task(item) for item in items]`` over all workers, behind a progress bar.

    An item that fails, or whose worker dies, is tried again; the third error comes out with a note
    that names the item. InputError and ResourceError come out at once. Where memory runs out, one
    worker fewer goes on, down to one: an item's result does not depend on how many there are.

    Args:
        task: A function of a module, or a partial of one; picklable.
        items: What it is called with, one by one; picklable.
        label: The progress bar's.
        gpu: Whether the task uses a GPU where there is one; if not, it goes over all cores.

    Returns:
        The results, in the order of the items.

    Raises:
        InputError: The task raised it.
        ResourceError: The task raised it.
        Exception: Whatever the task raised for the same item three times.
    """
    gpu = gpu and _on_gpus()
    team = _team(task, min(len(items), workers(gpu)), gpu)
    results = dict(bar(_results(team, items), label, len(items)))
    return [results[position] for position in range(len(items))]


def prefetch(function: Callable[[Any], Any], items: Iterable, depth: int) -> Iterator:
    """Yield ``function(item)`` of each item, in order, computed in threads ahead of its use.

    For work that leaves Python's lock alone: decoding, resizing. An error comes out in its item's
    place. The threads end with the last item, or when the consumer stops.

    Args:
        function: What is called in a thread.
        items: Its arguments, one by one.
        depth: How many items it may be ahead, at most.

    Yields:
        The function's values.
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
class Computed:
    """Results of the items up to the first that failed, and its error.

    lost: the worker ended before it could return anything, so each of the items may be why.
    """

    results: list
    error: Exception | None = None
    lost: bool = False


def _compute(task: Task, items: list) -> Computed:
    """Compute items in the process that this is."""
    results = []
    require_same_code()
    for item in items:
        try:
            results.append(single_threaded(task, item))
        except Exception as error:
            if not isinstance(error, InputError):
                error.add_note(traceback.format_exc())  # does not travel by itself
            return Computed(results, error)
    return Computed(results)


def _outcome(future: Future) -> Computed:
    try:
        return future.result()
    except Exception as error:
        return Computed([], error, lost=True)


def _results(team: list, items: Sequence) -> Iterator[tuple[int, Any]]:
    """Yield (position, result) as they come; an idle worker takes the next chunk."""
    size = min(CHUNK, len(items) // (SHARES * len(team)) or 1) if len(team) > 1 else 1
    positions = range(len(items))
    waiting = deque(positions[start : start + size] for start in positions[::size])
    idle, running, failures = list(team), {}, Counter()
    try:
        while waiting or running:
            while waiting and idle:
                worker, chunk = idle.pop(), waiting.popleft()
                running[worker.submit([items[k] for k in chunk])] = worker, chunk
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, chunk = running.pop(future)
                computed = _outcome(future)
                yield from zip(chunk, computed.results, strict=False)
                if computed.error is None:
                    idle.append(worker)
                    continue
                worker.stop()
                left = chunk[len(computed.results) :]
                if (running or idle) and _may_be_memory(computed, failures[left[0]]):
                    waiting.appendleft(left)  # the others go on without this worker
                else:
                    waiting.extendleft(reversed(_again(computed, left, items, failures)))
                    idle.append(worker)
    except BaseException:
        for worker, _ in running.values():
            worker.stop()
        raise


def _may_be_memory(computed: Computed, failures: int) -> bool:
    """Whether memory ran out, or a worker was killed for the second time, as happens then."""
    return out_of_memory(computed.error) or bool(computed.lost and failures)


def _again(computed: Computed, left: range, items: Sequence, failures: Counter) -> list[range]:
    """Chunks to try again: each item that may be why alone, then the rest.

    Raises the error where trying again cannot mend it.
    """
    suspects = left if computed.lost else left[:1]
    failures.update(suspects)
    tries = failures[left[0]]
    if tries == TRIES:
        computed.error.add_note(f"item {items[left[0]]!r}, tried {TRIES} times")
    if tries == TRIES or isinstance(computed.error, InputError | ResourceError):
        raise computed.error
    alone = [left[k : k + 1] for k in range(len(suspects))]
    return [chunk for chunk in (*alone, left[len(suspects) :]) if chunk]


# ---- workers: submit(items) -> Future of Computed; stop() ends one at once, with what it does ----
def _team(task: Task, count: int, gpu: bool) -> list:
    """So many workers for a task."""
    if count <= 1:
        return [InProcessWorker(task)]
    if os.environ.get("RAY_ADDRESS"):
        shared = _ray().put(task)  # each machine fetches it once
        return [RayWorker(shared, gpu) for _ in range(count)]
    return [LocalWorker(task, number, gpu) for number in range(count)]


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


class InProcessWorker:
    """This process."""

    def __init__(self, task: Task):
        self.task = task

    def submit(self, items: list) -> Future:
        """Computed before it returns."""
        future = Future()
        future.set_result(_compute(self.task, items))
        return future

    def stop(self) -> None:
        """There is nothing to end."""


class LocalWorker:
    """A process of this machine, on a GPU of its own where the device is CUDA.

    It is kept for later tasks, since its start takes seconds. An executor of one process, so that
    one that dies takes no other's work with it, and the next one gets its GPU.
    """

    executors: dict[str, ProcessPoolExecutor] = {}  # noqa: RUF012

    def __init__(self, task: Task, number: int, gpu: bool):
        self.task = task
        self.place = f"cuda:{number % torch.cuda.device_count()}" if gpu else "cpu"
        self.name = f"{self.place} {number}"

    def submit(self, items: list) -> Future:
        """To the process of this name, which starts with its first items."""
        if self.name not in self.executors:
            self.executors[self.name] = ProcessPoolExecutor(
                1,
                timeout=IDLE_S,
                env=_environment(self.place),
                initializer=_die_with_parent,
                initargs=(os.getpid(),),
            )
        try:
            return self.executors[self.name].submit(_compute, self.task, items)
        except BrokenExecutor:  # the process died while it was idle
            self.stop()
            return self.submit(items)

    def stop(self) -> None:
        """Killed; the next items start another."""
        if executor := self.executors.pop(self.name, None):
            executor.shutdown(kill_workers=True)


def _die_with_parent(parent: int) -> None:
    """Have the system kill this worker when the process that it works for ends, however that ends.

    Another run may do the same work by then, and an idle worker would wait, and keep pipes open.
    Linux kills it already when the thread ends that started it; the next call starts another.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


class RayWorker:
    """A CPU or a GPU somewhere in the cluster; Ray chooses which, and waits until one is free."""

    def __init__(self, task: Any, gpu: bool):
        room = {"num_gpus": 1} if gpu else {"num_cpus": 1}
        place = "cuda" if gpu else "cpu"  # Ray shows a worker no GPU but its own
        settings = {"max_retries": 0, "runtime_env": {"env_vars": _environment(place)}}
        self.remote = _ray().remote(_compute).options(**room, **settings)
        self.task, self.reference = task, None

    def submit(self, items: list) -> Future:
        """As soon as the cluster has room for it."""
        self.reference = self.remote.remote(self.task, items)
        return self.reference.future()

    def stop(self) -> None:
        """Killed, and its CPU or GPU given back."""
        _ray().cancel(self.reference, force=True)


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
