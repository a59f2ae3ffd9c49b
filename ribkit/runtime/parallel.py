"""The one place that maps over images, and trainings: in this process, over processes, or on Ray.

loky's processes, one per core, or one per GPU where the device is CUDA. Where ``RAY_ADDRESS`` is
set, a Ray cluster, whose machines must see code, data and ``build/`` at the same place of a shared
file system, each with this environment; ``RAY_ADDRESS=local`` is a cluster of this machine. An item
is computed with one thread, so its result does not depend on where, nor on which workers die.
"""

import ctypes
import errno
import itertools
import os
import re
import signal
import socket
import sys
import textwrap
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import torch
from joblib import cpu_count as cores  # by this process's affinity and its container's quota
from joblib.externals.loky import ProcessPoolExecutor

from ribkit.runtime.device import device, single_threaded
from ribkit.runtime.errors import InputError, is_final
from ribkit.runtime.keys import code, require_same_code
from ribkit.runtime.progress import bar

THREADS = 8  # of `prefetch`, at most
ROUNDS = 3  # in a row over what is missing, before an error comes out
FAILURES = 8  # items of a round, after which it ends: what fails everywhere is told soon
CHUNK = 32  # items that are sent together, at most: what a worker that dies can lose
SHARES = 8  # chunks for each worker of a short list
IDLE_S = 300  # after which a local worker without work ends
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>

# loky replaces a process that grew large, which changes no result and needs no warning
warnings.filterwarnings("ignore", "A worker stopped", UserWarning)

Task = Callable[[Any], Any]
Submit = Callable[[dict[int, Any]], Future]  # has a worker `_compute` a chunk: position -> item
Stop = Callable[[Iterable[Future]], None]  # ends all workers at once, with what they do
_pools: dict[bool, tuple[tuple, ProcessPoolExecutor]] = {}  # on GPUs or not -> how it was made, it


def workers(gpu: bool = True) -> int:
    """Count the items that are computed at the same time, on this machine or on the cluster.

    One per GPU where the device is one and the items use it, else one per core that this process
    may use; 1, this process, for a cluster that has nothing of the kind. `requested` asks for
    another number, also of more than there are GPUs, which then take turns; not where one GPU is
    named, as ``cuda:1``, which has one.
    """
    asked = requested()
    if asked == 1:
        return 1
    gpu = gpu and device().type == "cuda"
    if os.environ.get("RAY_ADDRESS"):
        available = int(_ray().cluster_resources().get("GPU" if gpu else "CPU", 0))
        return max(1, min(asked or available, available))
    if not gpu:
        return asked or cores()
    return 1 if device().index is not None else asked or torch.cuda.device_count()


def requested() -> int:
    """``RIBKIT_WORKERS``, how many are asked for; 0 where that is left open. Raises InputError."""
    text = os.environ.get("RIBKIT_WORKERS") or "0"
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII):
        raise InputError(
            f"RIBKIT_WORKERS={text} is not a number of workers; set it to 1 or more, or leave it "
            "empty for one on each core or GPU."
        )
    return int(text)


def evenly(count: int, available: int) -> int:
    """The workers for ``count`` items that take equally long: more of them than are available,
    where otherwise some would idle at the end. Three items on two cores: three.
    """
    return -(-count // max(1, count // max(1, available)))


def map_images(
    task: Task, items: Sequence, label: str, gpu: bool = True, even: bool = False
) -> list:
    """Compute ``[task(item) for item in items]`` over all workers, behind a progress bar.

    An item that fails, or a worker that dies, stops no other item: half as many workers go over
    what is missing, since memory may have run out, and so on. After three rounds, of which only the
    first may have added something, the error comes out, with a note that names the items.
    InputError, ResourceError and a full disk do so at once.
    Task and items are picklable; ``gpu``: the task uses a GPU where there is one. ``even``: the
    items take equally long, so on a CPU more of them may share the cores than there are.
    """
    results = dict(bar(_results(task, items, gpu, even), label, len(items)))
    return [results[position] for position in range(len(items))]


def prefetch(function: Callable[[Any], Any], items: Iterable, depth: int) -> Iterator:
    """Yield ``function(item)`` in order, computed in threads, at most ``depth`` items ahead.

    For work that leaves Python's lock alone: decoding, resizing. An error comes out in its item's
    place. The threads end with the last item, or when the consumer stops.
    """
    waiting: deque[Future] = deque()
    threads = int(os.environ.get("RIBKIT_LOADERS") or cores())
    pool = ThreadPoolExecutor(min(THREADS, threads, depth))
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


# ---- rounds -------------------------------------------------------------------------------------
def _results(task: Task, items: Sequence, gpu: bool, even: bool) -> Iterator[tuple[int, Any]]:
    """Yield (position, result) as they come; each round goes over what is missing."""
    missing, count = dict.fromkeys(range(len(items))), workers(gpu)
    asked = requested() or os.environ.get("RAY_ADDRESS")
    if even and not asked and not (gpu and device().type == "cuda"):
        count = evenly(len(items), count)
    in_process = min(count, len(items)) <= 1
    size = 1 if in_process else min(CHUNK, len(items) // (SHARES * count) or 1)
    rounds = 0  # in a row, of which only the first added a result
    while rounds < ROUNDS:
        submit, stop = _in_process(task) if in_process else _pool(task, count, gpu)
        left = list(missing)
        chunks = iter([left[start : start + size] for start in range(0, len(left), size)])
        running: dict[Future, list[int]] = {}
        failed: list[int] = []
        errors: list[Exception] = []
        try:
            for chunk, results, error in _round(submit, items, chunks, count, running):
                for position in results:
                    del missing[position]
                yield from results.items()
                if error is not None:
                    if is_final(error):
                        raise error
                    errors.append(error)
                    failed += [position for position in chunk if position in missing][:1]
                if len(errors) == FAILURES:
                    break
        finally:
            if missing:
                stop(running)
        if not missing:
            return
        rounds = rounds + 1 if len(missing) == len(left) else 1
        size, count = 1, max(1, count // 2)
    names = textwrap.shorten(", ".join(repr(items[position]) for position in failed), 1000)
    errors[0].add_note(f"not computed in {ROUNDS} rounds: {names}")
    raise errors[0]


def _round(
    submit: Submit, items: Sequence, chunks: Iterator[list[int]], count: int, running: dict
) -> Iterator[tuple[list[int], dict[int, Any], Exception | None]]:
    """Yield (chunk, results, error) as they come. A worker that dies ends it, and all that run."""
    try:
        while True:
            for chunk in itertools.islice(chunks, count - len(running)):
                running[submit({position: items[position] for position in chunk})] = chunk
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                results, error = future.result()
                yield running.pop(future), results, error
    except Exception as error:
        yield from ((chunk, {}, error) for chunk in running.values() or [[]])


def _compute(task: Task, chunk: dict[int, Any]) -> tuple[dict[int, Any], Exception | None]:
    """Results of a chunk up to the first item that fails, and its error."""
    results = {}
    try:
        require_same_code()
        for position, item in chunk.items():
            results[position] = single_threaded(task, item)
    except Exception as error:
        if not isinstance(error, InputError):
            error.add_note(traceback.format_exc())  # does not travel by itself
        return results, error
    return results, None


# ---- workers ------------------------------------------------------------------------------------
def _in_process(task: Task) -> tuple[Submit, Stop]:
    def submit(chunk: dict[int, Any]) -> Future:
        future = Future()
        future.set_result(_compute(task, chunk))
        return future

    return submit, lambda running: None


def _pool(task: Task, count: int, gpu: bool) -> tuple[Submit, Stop]:
    gpu = gpu and device().type == "cuda"
    environment = {
        "RIBKIT_DEVICE": "cuda" if gpu else "cpu",
        "RIBKIT_WORKERS": "1",  # no workers of its own
        "RIBKIT_LOADERS": str(max(1, cores() // count)) if gpu else "1",  # threads of `prefetch`
        "RIBKIT_PROGRESS": "",
        "RIBKIT_CODE": code(),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    if os.environ.get("RAY_ADDRESS"):
        return _cluster(task, gpu, environment)
    initargs = os.getpid(), torch.cuda.device_count() if gpu else 0
    made_of = count, environment, initargs
    if gpu not in _pools or _pools[gpu][0] != made_of:  # a start takes a second a worker
        _end(gpu)
        how = {"timeout": IDLE_S, "env": environment}
        how |= {"initializer": _initialise, "initargs": initargs}
        _pools[gpu] = made_of, ProcessPoolExecutor(count, **how)
    return partial(_pools[gpu][1].submit, _compute, task), lambda running: _end(gpu)


def _end(gpu: bool) -> None:
    if gpu in _pools:
        _pools.pop(gpu)[1].shutdown(kill_workers=True)


def _initialise(parent: int, gpus: int) -> None:
    """Give this worker a GPU, and have the system kill it when its parent ends in any way."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)
    if gpus:
        os.environ["RIBKIT_DEVICE"] = f"cuda:{_number(parent) % gpus}"


def _number(parent: int) -> int:
    """The first number that no other worker has; a socket's name, of no file, is one process's."""
    global _held
    _held = socket.socket(socket.AF_UNIX)
    for number in itertools.count():
        try:
            _held.bind(f"\0ribkit-{parent}-{number}")
            return number
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise


def _cluster(task: Task, gpu: bool, environment: dict[str, str]) -> tuple[Submit, Stop]:
    """Ray chooses the machine and its CPU or GPU, and waits until one is free."""
    ray = _ray()
    room = {"num_gpus": 1} if gpu else {"num_cpus": 1}
    settings = {"max_retries": 0, "runtime_env": {"env_vars": environment}}
    remote = ray.remote(_compute).options(**room, **settings)
    shared = ray.put(task)  # each machine fetches it once

    def stop(running: Iterable[Future]) -> None:
        for future in running:
            ray.cancel(future.object_ref, force=True)

    return lambda chunk: remote.remote(shared, chunk).future(), stop


def _ray():
    """Ray, connected to the cluster at ``RAY_ADDRESS``. Raises InputError where that is not so."""
    address = os.environ["RAY_ADDRESS"]
    try:
        import ray
    except ImportError:
        raise InputError(
            f"RAY_ADDRESS={address} asks for Ray, which is missing; install it: "
            "python -m pip install -e '.[cluster]'."
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
