"""What a stage takes, as its manifest tells it: which loop is counted, and of how many items."""

import itertools

import pytest

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
    return {"numbers": {"numbers": list(bar(range(count), "numbers"))}}


def test_a_manifest_tells_what_its_stage_took(tmp_path):
    manifest = Store(tmp_path).run(looped, count=3).manifest
    assert {"seconds", "memory", "each"} < set(manifest)
    assert manifest["each"] is not None
    assert Store(tmp_path).run(looped, count=1).manifest["each"] is None
