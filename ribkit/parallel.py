"""The one place that maps over images, and trainings: in process, or over local processes.

An item is computed with one thread wherever it runs, so its result does not depend on how many
workers there are, nor on the order.
"""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from joblib import Parallel, delayed

from ribkit.progress import bar

THREADS = 8  # of `ahead`, at most


def workers() -> int:
    """How many processes: ``RIBKIT_WORKERS``, or one per core this process may use."""
    asked = os.environ.get("RIBKIT_WORKERS")
    return int(asked) if asked else len(os.sched_getaffinity(0))


def device() -> torch.device:
    """The device that computes: ``RIBKIT_DEVICE``, else CUDA where there is one, else CPU."""
    asked = os.environ.get("RIBKIT_DEVICE")
    return torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))


def map_images(task: Callable[[Any], Any], items: Sequence, words: str) -> list:
    """``[task(item) for item in items]`` over the local cores, with a progress bar named ``words``.

    task, items: picklable; task is a function of a module, or a partial of one. On a GPU everything
    runs in this process.
    """
    count = min(workers(), len(items)) if device().type == "cpu" else 1
    if count <= 1:
        return [alone(task, item) for item in bar(items, words)]
    jobs = (delayed(_in_worker)(task, item) for item in items)
    with warnings.catch_warnings():
        # a worker that grew large is replaced, which changes no result and needs no warning
        warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
        done = Parallel(n_jobs=count, return_as="generator", pre_dispatch="2*n_jobs")(jobs)
        return list(bar(done, words, total=len(items)))


def _in_worker(task: Callable[[Any], Any], item: Any) -> Any:
    """`alone` in a process of its own: no bars beside the parent's, no processes of its own."""
    os.environ["RIBKIT_WORKERS"] = "1"
    os.environ.pop("RIBKIT_PROGRESS", None)
    return alone(task, item)


def alone(task: Callable[[Any], Any], item: Any) -> Any:
    """``task(item)`` with one thread; the number of threads is left as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return task(item)
    finally:
        torch.set_num_threads(threads)


def ahead(function: Callable[[Any], Any], items: Iterable, depth: int) -> Iterator:
    """``function(item)`` of each item, in order, computed in threads at most ``depth`` ahead.

    For work that leaves Python's lock alone: decoding, resizing. An error comes out in its item's
    place. The threads end with the last item, or when the consumer stops.
    """
    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(min(THREADS, workers(), depth))
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
