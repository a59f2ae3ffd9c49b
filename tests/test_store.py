import dataclasses
import json
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fabricated import has, stored

from ribkit.runtime import store
from ribkit.runtime.errors import InputError
from ribkit.runtime.keys import describe
from ribkit.runtime.store import Result, Store, StoredArrays, stage

CALLS = []


@pytest.fixture(autouse=True)
def _no_calls_yet():
    CALLS.clear()


@pytest.fixture
def results(tmp_path):
    return Store(tmp_path / "store")


@stage("numbers")
def numbers(number, text="", scale=None):
    CALLS.append(number)
    return {
        "numbers": pd.DataFrame({"n": [number, 2 * number], "text": [text, "b"]}),
        "grid": {"a": np.arange(3.0), "b": np.ones((2, 0), np.float16)},
        "weights": {"w": torch.full((2, 2), float(number))},
    }


@dataclasses.dataclass(frozen=True)
class Setting:
    lr: float
    scales: tuple[float, ...] = (1.0,)


# ---- computed once ----------------------------------------------------------------------------
def test_the_same_call_twice_computes_once(results):
    first, second = (results.run(numbers, number=1, text="x") for _ in range(2))
    assert CALLS == [1]
    assert first == second
    assert Store(results.root).run(numbers, number=1, text="x") == first
    assert CALLS == [1]


@pytest.mark.parametrize(
    "changed",
    [
        {"number": 2},
        {"number": 1.0},
        {"text": "y"},
        {"scale": 0},
        {"scale": Setting(1e-3)},
        {"scale": (1, 2)},
    ],
)
def test_a_changed_parameter_is_computed_anew(results, changed):
    results.run(numbers, number=1, text="x")
    results.run(numbers, **({"number": 1, "text": "x"} | changed))
    assert len(CALLS) == 2


def test_another_stage_or_name_is_another_result(results, monkeypatch):
    one = results.run(numbers, number=1)
    assert results.run(other_numbers, number=1).key != one.key
    monkeypatch.setattr(numbers, "stage", "two")
    two = results.run(numbers, number=1)
    assert two.key != one.key
    assert two.path.name == f"two-{two.key}"


@stage("numbers")
def other_numbers(number):
    return {"numbers": pd.DataFrame({"n": [number]})}


def test_a_changed_setting_of_a_dataclass_is_computed_anew(results):
    for setting in (Setting(1e-3), Setting(1e-3), Setting(1e-4), Setting(1e-3, (1.0, 0.5))):
        results.run(numbers, number=1, scale=setting)
    assert len(CALLS) == 3


def test_a_result_that_is_read_counts_by_what_made_it(results):
    one, two = (results.run(numbers, number=n) for n in (1, 2))
    read = [results.run(reader, source=source) for source in (one, two, one)]
    assert read[0] == read[2] != read[1]
    assert [sum_of(r) for r in read] == [3.0, 6.0, 3.0]


@stage("reader")
def reader(source):
    return summing(source.table("numbers")["n"].sum())


def summing(value):
    return {"sum": pd.DataFrame({"sum": [value]})}


def sum_of(result):
    return result.table("sum")["sum"].item()


def test_a_stage_stays_an_ordinary_function():
    assert numbers(3)["numbers"]["n"].tolist() == [3, 6]
    assert (numbers.stage, numbers.resumes) == ("numbers", False)
    assert (slow.stage, slow.resumes) == ("slow", True)


# ---- several at once ----------------------------------------------------------------------------
@pytest.mark.parametrize("workers", ["1", "2"])
def test_several_stages_are_run_in_order_and_only_what_is_missing(results, workers, monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")
    monkeypatch.setenv("RIBKIT_WORKERS", workers)
    kept = results.run(numbers, number=2)
    calls = [partial(numbers, number=1), partial(numbers, number=2)]
    calls.append(partial(slow, count=2, fail_at=5))
    assert [has(results, call) for call in calls] == [False, True, False]
    several = results.run_all(calls, "several")
    assert several == [results.run(call.func, **call.keywords) for call in calls]
    assert several[1] == kept
    assert [result.name for result in several] == ["numbers", "numbers", "slow"]
    assert sum_of(several[2]) == 1
    if workers == "1":  # where calls are counted
        assert CALLS == [2, 1, 0, 1]
    assert not list(results.root.glob("*.scratch"))
    CALLS.clear()
    assert results.run_all(calls, "several") == several
    assert CALLS == []


def test_nothing_is_run_of_no_calls(results):
    assert results.run_all([], "none") == []
    assert not results.root.exists()


def test_what_cannot_be_described_is_refused_before_anything_is_computed(results):
    for value in ({1, 2}, object(), np.arange(3), torch.ones(1)):
        with pytest.raises(InputError, match="cannot be a parameter of a stored stage"):
            results.run(numbers, number=value)
    assert CALLS == []
    assert not results.root.exists()


# ---- files ------------------------------------------------------------------------------------
def test_every_value_is_read_as_it_was_returned(results):
    result = results.run(numbers, number=3, text="")
    expected = numbers(3, "")
    pd.testing.assert_frame_equal(result.table("numbers"), expected["numbers"])
    arrays = result.arrays("grid")
    assert {k: v.tolist() for k, v in arrays.items()} == {"a": [0, 1, 2], "b": [[], []]}
    assert arrays["b"].dtype == np.float16
    assert torch.equal(result.tensors("weights")["w"], torch.full((2, 2), 3.0))
    assert result.manifest["seconds"] >= 0


def test_no_arrays_are_read_as_none_and_what_no_format_holds_is_refused(tmp_path):
    assert dict(stored(tmp_path, grid={}).arrays("grid")) == {}
    with pytest.raises(TypeError, match="'notes' is neither a table nor"):
        store.save(tmp_path, "notes", {"a": np.ones(1), "b": "word"})


def test_a_table_keeps_its_gaps_and_its_words(tmp_path):
    words = ["", "NA", "None", "null"]
    table = pd.DataFrame({"words": words, "gaps": [0.1, np.nan, 1e-9, 3.0], "n": [1, 2, 3, 4]})
    pd.testing.assert_frame_equal(stored(tmp_path, table=table).table("table"), table)


def test_names_of_images_keep_their_zeros(tmp_path):
    table = pd.DataFrame({"image": ["000000000139", "007", "8"], "step": [0, 1, 2]})
    pd.testing.assert_frame_equal(stored(tmp_path, table=table).table("table"), table)


def test_files_are_those_that_others_can_read(results):
    path = results.run(numbers, number=1).path
    names = {file.name for file in path.iterdir()}
    assert names == {"numbers.csv", "grid.npz", "weights.safetensors", "manifest.json"}
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest["sha256"]) == names - {"manifest.json"}
    assert manifest["parameters"] == {"number": 1}


def test_an_npz_with_pickles_is_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        store.open_arrays(tmp_path / "bad.npz")["a"]


def test_the_same_arrays_make_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        order = "C" if name == "one" else "F"
        store.save(tmp_path, name, {"a": np.ones((2, 3), order=order), "b": np.asarray(3.0)})
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


# ---- values as parameters -----------------------------------------------------------------------
def test_a_value_is_a_mapping_that_is_read_when_it_is_asked_for(results, monkeypatch):
    result = results.run(numbers, number=3)
    arrays, tensors = result.arrays("grid"), result.tensors("weights")
    read = []
    monkeypatch.setattr(np.lib.format, "read_array", lambda *a, **k: read.append(a) or np.ones(2))
    assert isinstance(arrays, StoredArrays)
    assert str(arrays) == f"grid in {result.path}"
    assert (list(arrays), len(arrays), list(tensors)) == (["a", "b"], 2, ["w"])
    assert "a" in arrays
    assert "z" not in arrays
    assert arrays.get("z") is None
    assert read == []
    assert arrays["b"].shape == (2,)
    assert len(read) == 1


def test_values_of_a_result_are_equal_where_they_are_the_same(results):
    one, two = (results.run(numbers, number=n) for n in (1, 2))
    values = [one.arrays("grid"), one.tensors("weights"), two.tensors("weights")]
    assert len({*values, one.arrays("grid"), one.tensors("weights")}) == 3
    assert one.arrays("grid") != one.tensors("grid")  # two ways to read one file are two values


def test_a_value_counts_by_what_made_its_result_and_by_its_name(results):
    one, two = (results.run(numbers, number=n) for n in (1, 2))
    values = [
        one.arrays("grid"), two.arrays("grid"), one.arrays("weights"),
        dataclasses.replace(one, name="other").arrays("grid"),
    ]  # fmt: skip
    assert len({json.dumps(describe(value)) for value in values}) == 4
    elsewhere = Result(one.name, one.key, results.root / "elsewhere").arrays("grid")
    assert describe(elsewhere) == describe(values[0])
    sums = [results.run(summed, arrays=r.arrays("grid"), word="x") for r in (one, two, one)]
    assert sums[0] == sums[2] != sums[1]
    assert sum_of(sums[0]) == 3
    nested = [results.run(summed_all, arrays={"x": r.arrays("grid")}) for r in (one, two)]
    assert nested[0].key != nested[1].key


@stage("summed")
def summed(arrays, word):
    return summing(sum(array.sum() for array in arrays.values()))


@stage("summed")
def summed_all(arrays):
    return summing(sum(each["a"].sum() for each in arrays.values()))


def test_a_value_that_a_result_has_not_is_told(results):
    result = results.run(numbers, number=1)
    with pytest.raises(FileNotFoundError, match=r"grid\.npz.* and no maps\.npz"):
        len(result.arrays("maps"))


# ---- interruptions ----------------------------------------------------------------------------
def test_a_stage_that_fails_leaves_no_result(results):
    def run():
        return results.run(failing, number=1)

    with pytest.raises(RuntimeError, match="fails"):
        run()
    assert not list(results.root.glob("*/manifest.json"))
    with pytest.raises(RuntimeError, match="fails"):
        run()


@stage("failing")
def failing(number):
    raise RuntimeError("fails")


def test_an_interrupted_write_is_no_result_and_is_made_again(results, monkeypatch):
    save, saved = store.save, []

    def interrupted(folder, value, content):
        saved.append(value)
        if len(saved) == 3:
            raise KeyboardInterrupt
        save(folder, value, content)

    with monkeypatch.context() as patched:
        patched.setattr(store, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            results.run(numbers, number=1)
    assert not list(results.root.glob("*/manifest.json"))
    result = results.run(numbers, number=1)
    assert CALLS == [1, 1]
    assert result.table("numbers")["n"].tolist() == [1, 2]
    assert [path.name for path in results.root.iterdir()] == [result.path.name]


def test_a_folder_without_a_manifest_is_made_again(results):
    path = results.run(numbers, number=1).path
    (path / "manifest.json").unlink()
    (path / "left.over").touch()
    assert results.run(numbers, number=1).table("numbers")["n"].tolist() == [1, 2]
    assert CALLS == [1, 1]
    assert not (path / "left.over").exists()


def test_scratch_outlives_an_interruption_and_goes_with_success(results):
    with pytest.raises(KeyboardInterrupt):
        results.run(slow, count=5, fail_at=3)
    assert CALLS == [0, 1, 2, 3]
    CALLS.clear()
    with pytest.raises(KeyboardInterrupt):
        results.run(slow, count=5, fail_at=3)
    assert CALLS == [3]
    scratch = next(results.root.glob("*.scratch"))
    np.savez(scratch / "3.npz", n=3)
    result = results.run(slow, count=5, fail_at=3)
    assert sum_of(result) == 10
    assert not list(results.root.glob("*.scratch"))


@stage("slow")
def slow(count, fail_at, scratch):
    for n in range(count):
        path = scratch / f"{n}.npz"
        if not path.is_file():
            CALLS.append(n)
            if n == fail_at:
                raise KeyboardInterrupt
            store.save_arrays(path, {"n": np.asarray(n)})
    return summing(sum(int(np.load(scratch / f"{n}.npz")["n"]) for n in range(count)))


def test_scratch_is_no_part_of_the_key(results):
    assert "scratch" not in results.run(slow, count=1, fail_at=9).manifest["parameters"]


def test_arrays_may_have_any_name_but_not_hold_objects(tmp_path):
    store.save_arrays(tmp_path / "a.npz", {"file": np.ones(1), "2007/1.jpg": np.zeros(1)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["2007/1.jpg", "file"]
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        store.save_arrays(tmp_path / "b.npz", {"a": np.array([{}])})


@stage("unwritable")
def unwritable():
    return {"a": {"x": object()}}


def test_a_write_that_fails_leaves_nothing(results):
    with pytest.raises(TypeError):
        results.run(unwritable)
    assert not list(results.root.glob("*"))


def test_threads_that_read_one_archive_take_turns(tmp_path, monkeypatch):
    """Python 3.12's ZipFile skips ahead from wherever another thread has left the file."""
    store.save_arrays(tmp_path / "many.npz", {str(k): np.full(50, k) for k in range(40)})
    arrays, reading, most = store.open_arrays(tmp_path / "many.npz"), [], []
    plain = zipfile.ZipFile.open

    def watched(archive, *arguments, **more):
        reading.append(archive)
        most.append(len(reading))
        time.sleep(0.001)
        file = plain(archive, *arguments, **more)
        reading.pop()
        return file

    monkeypatch.setattr(zipfile.ZipFile, "open", watched)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(arrays.__getitem__, map(str, range(40))))
    assert [array[0] for array in found] == list(range(40))
    assert max(most) == 1


def test_a_tables_names_stay_text_though_they_look_like_numbers(tmp_path):
    table = pd.DataFrame({"image": ["007"], "class": ["1"], "size": [0.5]})
    found = stored(tmp_path, shares=table).table("shares")
    assert found.to_dict("records") == [{"image": "007", "class": "1", "size": 0.5}]
