import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from fabricated import stored

from ribkit import scenes, store
from ribkit.errors import InputError
from ribkit.store import Store, describe, imports, syntax

CALLS = []


@pytest.fixture(autouse=True)
def _no_calls_yet():
    CALLS.clear()


@pytest.fixture
def results(tmp_path):
    return Store(tmp_path / "store")


def stage(number, text="", scale=None):
    CALLS.append(number)
    return {
        "numbers": pd.DataFrame({"n": [number, 2 * number], "text": [text, "b"]}),
        "grid": {"a": np.arange(3.0), "b": np.ones((2, 0), np.float16)},
        "weights": {"w": torch.full((2, 2), float(number))},
        "notes": {"list": [1, "two"], "nothing": None},
    }


@dataclasses.dataclass(frozen=True)
class Setting:
    rate: float
    scales: tuple[float, ...] = (1.0,)


# ---- computed once ----------------------------------------------------------------------------
def test_the_same_call_twice_computes_once(results):
    first, second = (results.run("stage", stage, number=1, text="x") for _ in range(2))
    assert CALLS == [1]
    assert first == second
    assert Store(results.root).run("stage", stage, number=1, text="x") == first
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
    results.run("stage", stage, number=1, text="x")
    results.run("stage", stage, **({"number": 1, "text": "x"} | changed))
    assert len(CALLS) == 2


def test_another_stage_or_name_is_another_result(results):
    one = results.run("one", stage, number=1)
    assert results.run("two", stage, number=1) != one
    assert results.run("one", another_stage, number=1) != one


def another_stage(number):
    return {"json": {"number": number}}


def test_a_changed_setting_of_a_dataclass_is_computed_anew(results):
    for setting in (Setting(1e-3), Setting(1e-3), Setting(1e-4), Setting(1e-3, (1.0, 0.5))):
        results.run("stage", stage, number=1, scale=setting)
    assert len(CALLS) == 3


def test_a_result_that_is_read_counts_by_what_made_it(results):
    one, two = (results.run("stage", stage, number=n) for n in (1, 2))
    read = [results.run("reader", reader, source=source) for source in (one, two, one)]
    assert read[0] == read[2] != read[1]
    assert [r.json("sum")["sum"] for r in read] == [3.0, 6.0, 3.0]


def reader(source):
    return {"sum": {"sum": float(source.table("numbers")["n"].sum())}}


def test_images_count_by_their_content_and_labels(tmp_path):
    images = scenes.generate(0, 3, size=48)
    assert describe(images) == describe(scenes.generate(0, 3, size=48))
    assert describe(images) != describe(scenes.generate(1, 3, size=48))
    assert describe(images) != describe(images.take([0, 1]))
    assert describe(images) != describe(images.take([1, 0, 2]))
    relabelled = dataclasses.replace(images, labels=~images.labels)
    assert describe(images) != describe(relabelled)
    renamed = dataclasses.replace(images, classes=images.classes[::-1])
    assert describe(images) != describe(renamed)


def test_what_cannot_be_described_is_refused_before_anything_is_computed(results):
    for value in ({1, 2}, object(), np.arange(3), torch.ones(1)):
        with pytest.raises(InputError, match="cannot be a parameter of a stored stage"):
            results.run("stage", stage, number=value)
    assert CALLS == []
    assert not results.root.exists()


def test_a_description_is_something_json_can_write():
    setting = {"a": Setting(1e-6), "b": (math.inf, None, True), "c": np.float64(0.5)}
    assert json.loads(json.dumps(describe(setting))) == {
        "a": {"Setting": {"rate": 1e-6, "scales": [1.0]}},
        "b": [{"float": "inf"}, None, True],
        "c": 0.5,
    }


# ---- files ------------------------------------------------------------------------------------
def test_every_value_is_read_as_it_was_returned(results):
    result = results.run("stage", stage, number=3, text="")
    expected = stage(3, "")
    pd.testing.assert_frame_equal(result.table("numbers"), expected["numbers"])
    arrays = result.arrays("grid")
    assert {k: v.tolist() for k, v in arrays.items()} == {"a": [0, 1, 2], "b": [[], []]}
    assert arrays["b"].dtype == np.float16
    assert torch.equal(result.tensors("weights")["w"], torch.full((2, 2), 3.0))
    assert result.json("notes") == {"list": [1, "two"], "nothing": None}
    assert result.seconds >= 0


def test_a_table_keeps_its_gaps_and_its_words(tmp_path):
    words = ["", "NA", "None", "null"]
    table = pd.DataFrame({"words": words, "gaps": [0.1, np.nan, 1e-9, 3.0], "n": [1, 2, 3, 4]})
    pd.testing.assert_frame_equal(stored(tmp_path, table=table).table("table"), table)


def test_files_are_those_that_others_can_read(results):
    path = results.run("stage", stage, number=1).path
    names = {file.name for file in path.iterdir()}
    assert names == {
        "numbers.csv", "grid.npz", "weights.safetensors", "notes.json", "manifest.json",
    }  # fmt: skip
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest["sha256"]) == names - {"manifest.json"}
    assert manifest["parameters"] == {"number": 1}


def test_an_npz_with_pickles_is_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        store.Npz(tmp_path / "bad.npz").read("a")


def test_the_same_arrays_make_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        store.save(tmp_path, name, {"a": np.arange(5), "b": np.zeros(3)})
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


# ---- interruptions ----------------------------------------------------------------------------
def test_a_stage_that_fails_leaves_no_result(results):
    def run():
        return results.run("failing", failing, number=1)

    with pytest.raises(RuntimeError, match="fails"):
        run()
    assert not list(results.root.glob("*/manifest.json"))
    with pytest.raises(RuntimeError, match="fails"):
        run()


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
            results.run("stage", stage, number=1)
    assert not list(results.root.glob("*/manifest.json"))
    result = results.run("stage", stage, number=1)
    assert CALLS == [1, 1]
    assert result.json("notes")["list"] == [1, "two"]
    assert [path.name for path in results.root.iterdir()] == [result.path.name]


def test_a_folder_without_a_manifest_is_made_again(results):
    path = results.run("stage", stage, number=1).path
    (path / "manifest.json").unlink()
    (path / "left.over").touch()
    assert results.run("stage", stage, number=1).json("notes")["list"] == [1, "two"]
    assert CALLS == [1, 1]
    assert not (path / "left.over").exists()


def test_scratch_outlives_an_interruption_and_goes_with_success(results):
    with pytest.raises(KeyboardInterrupt):
        results.run("slow", slow, count=5, fail_at=3)
    assert CALLS == [0, 1, 2, 3]
    CALLS.clear()
    with pytest.raises(KeyboardInterrupt):
        results.run("slow", slow, count=5, fail_at=3)
    assert CALLS == [3]
    scratch = next(results.root.glob("*.scratch"))
    np.savez(scratch / "3.npz", n=3)
    result = results.run("slow", slow, count=5, fail_at=3)
    assert result.json("sum") == {"sum": 10}
    assert not list(results.root.glob("*.scratch"))


def slow(count, fail_at, scratch):
    for n in range(count):
        path = scratch / f"{n}.npz"
        if not path.is_file():
            CALLS.append(n)
            if n == fail_at:
                raise KeyboardInterrupt
            store.save_arrays(path, {"n": np.asarray(n)})
    return {"sum": {"sum": sum(int(np.load(scratch / f"{n}.npz")["n"]) for n in range(count))}}


def test_scratch_is_no_part_of_the_key(results):
    assert "scratch" not in results.run("slow", slow, count=1, fail_at=9).manifest["parameters"]


def test_arrays_may_have_any_name_but_not_hold_objects(tmp_path):
    store.save_arrays(tmp_path / "a.npz", {"file": np.ones(1), "2007/1.jpg": np.zeros(1)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["2007/1.jpg", "file"]
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        store.save_arrays(tmp_path / "b.npz", {"a": np.array([{}])})


# ---- code -------------------------------------------------------------------------------------
MODULES = {
    "__init__": '"""A package."""\n',
    "top": (
        "import math\nimport numpy as np\nfrom tiny import middle\n\n"
        "def f():\n    return middle.g()\n"
    ),
    "middle": (
        '"""Middle."""\n\ndef g(x=1):\n    """G."""\n    from tiny.low import h\n'
        "    return h(x) + 1  # a comment\n"
    ),
    "low": "import tiny.lowest as l\n\nclass A:\n    '''A.'''\n\ndef h(x):\n    return x * l.K\n",
    "lowest": "K = 2\n",
    "apart": "def unused():\n    return 3\n",
}


@pytest.fixture
def tiny(tmp_path):
    package = tmp_path / "tiny"
    package.mkdir()
    for name, code in MODULES.items():
        (package / f"{name}.py").write_text(code)
    return package


def code(package, module="tiny.top"):
    return [syntax(package, name) for name in imports(package, module)]


def change(package, module, old, new):
    path = package / f"{module}.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_imports_are_followed_within_the_package(tiny):
    assert imports(tiny, "tiny.top") == [
        "tiny", "tiny.low", "tiny.lowest", "tiny.middle", "tiny.top",
    ]  # fmt: skip
    assert imports(tiny, "tiny.lowest") == ["tiny.lowest"]
    assert imports(tiny, "json") == []


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("middle", "# a comment", "# another"),
        ("middle", '"""Middle."""', '"""Another docstring."""'),
        ("middle", '    """G."""\n', ""),
        ("low", "'''A.'''", '"""B."""'),
        ("low", "x * l.K", "(x *\n        l.K)"),
        ("middle", "\n\ndef", "\n\n\n\n\ndef"),
        ("apart", "3", "4"),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_the_code(tiny, module, old, new):
    before = code(tiny)
    change(tiny, module, old, new)
    assert code(tiny) == before


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("top", "middle.g()", "middle.g(2)"),
        ("middle", "+ 1", "+ 2"),
        ("middle", "x=1", "x=2"),
        ("low", "x * l.K", "x + l.K"),
        ("lowest", "K = 2", "K = 2.0"),
        ("lowest", "K = 2", "K = '2'"),
    ],
)
def test_a_changed_formula_anywhere_below_changes_the_code(tiny, module, old, new):
    before = code(tiny)
    change(tiny, module, old, new)
    assert code(tiny) != before


def test_a_string_that_is_returned_is_no_docstring(tiny):
    change(tiny, "apart", "return 3", 'return "three"')
    before = code(tiny, "tiny.apart")
    change(tiny, "apart", "three", "four")
    assert code(tiny, "tiny.apart") != before


def test_a_body_that_is_only_a_docstring_is_still_code(tiny):
    change(tiny, "low", "    '''A.'''\n", "    pass\n")
    assert code(tiny)


def test_the_code_of_a_stage_holds_every_module_that_it_stands_on():
    found = imports(store.PACKAGE, "ribkit.seeds")
    for name in ("adaptation", "backbone", "cam", "classifier", "evaluation", "losses", "pooling"):
        assert f"ribkit.{name}" in found
    assert "ribkit.reproduce" not in found
    assert "ribkit.figures" not in found
    assert store.code_hash("ribkit.seeds") != store.code_hash("ribkit.classifier")
    assert "ribkit.store" in imports(store.PACKAGE, "ribkit.store")


def test_text_and_infinity_differ_and_so_do_two_kinds_of_settings():
    @dataclasses.dataclass(frozen=True)
    class One:
        x: int

    @dataclasses.dataclass(frozen=True)
    class Other:
        x: int

    assert store.describe(math.inf) != store.describe("inf")
    assert store.describe(One(1)) != store.describe(Other(1))


def unwritable():
    return {"a": {"x": object()}}


def test_a_write_that_fails_leaves_nothing(results):
    with pytest.raises(TypeError):
        results.run("unwritable", unwritable)
    assert not list(results.root.glob("*"))
