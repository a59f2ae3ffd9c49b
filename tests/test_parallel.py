import os
import threading
from functools import partial

import pytest
import torch

from ribkit import parallel
from ribkit.errors import InputError


def square(item):
    return item**2


def where(item):
    return os.getpid(), torch.get_num_threads(), item


def scaled(factor, item):
    return factor * item


def refusing(item):
    raise InputError(f"item {item} is bad.")


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


def test_results_come_in_the_order_of_the_items(monkeypatch):
    for count in ("1", "2"):
        monkeypatch.setenv("RIBKIT_WORKERS", count)
        assert parallel.map_images(square, [3, 1, 2, 5], "squares") == [9, 1, 4, 25]
        assert parallel.map_images(partial(scaled, 10), range(3), "products") == [0, 10, 20]
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


def test_the_message_of_a_worker_reaches_the_user(monkeypatch):
    for count in ("1", "2"):
        monkeypatch.setenv("RIBKIT_WORKERS", count)
        with pytest.raises(InputError, match=r"item \d is bad"):
            parallel.map_images(refusing, range(2), "refused")


def test_on_a_gpu_everything_runs_in_this_process(monkeypatch):
    monkeypatch.setenv("RIBKIT_WORKERS", "2")
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda")
    done = parallel.map_images(where, range(3), "places")
    assert {pid for pid, _, _ in done} == {os.getpid()}


def test_there_are_as_many_workers_as_asked_for_or_as_there_are_cores(monkeypatch):
    monkeypatch.setenv("RIBKIT_WORKERS", "7")
    assert parallel.workers() == 7
    monkeypatch.delenv("RIBKIT_WORKERS")
    assert parallel.workers() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("asked", "there", "expected"),
    [("", True, "cuda"), ("", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_the_device_is_chosen_by_itself_and_can_be_set(monkeypatch, asked, there, expected):
    monkeypatch.setenv("RIBKIT_DEVICE", asked)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert parallel.device().type == expected


# ---- ahead --------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", ["1", "3"])
def test_ahead_keeps_the_order_and_its_distance(monkeypatch, count):
    monkeypatch.setenv("RIBKIT_WORKERS", count)
    asked = []
    results = parallel.ahead(square, (asked.append(i) or i for i in range(20)), 4)
    for i, found in enumerate(results):
        assert found == i**2
        assert len(asked) - (i + 1) <= 4
    assert len(asked) == 20


def test_an_error_comes_out_in_its_items_place():
    results = parallel.ahead(lambda i: refusing(i) if i == 2 else i, range(5), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(InputError, match="item 2 is bad"):
        next(results)


def test_the_threads_end_when_the_consumer_stops():
    before = threading.active_count()
    results = parallel.ahead(square, range(100), 8)
    next(results)
    results.close()
    assert threading.active_count() == before
