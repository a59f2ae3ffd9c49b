"""What a user reads: one problem as it is, several one a line, never more than twenty lines."""

import pickle

import pytest
import torch

from ribkit.runtime.errors import (
    END,
    LINES,
    START,
    InputError,
    Problems,
    ResourceError,
    resource_errors,
)


def refuse(*sentences):
    raise InputError(*sentences)


def told(problems):
    with pytest.raises(InputError) as caught:
        problems.tell()
    return str(caught.value)


def test_no_problem_is_told_as_nothing():
    problems = Problems()
    assert problems.collect(max, 1, 2) == 2
    problems.tell()


def test_one_problem_is_told_as_it_is():
    problems = Problems()
    assert problems.collect(refuse, "a.jpg is empty; replace it.") is None
    assert told(problems) == "a.jpg is empty; replace it."


def test_several_problems_are_told_one_a_line_each_once_in_order():
    problems = Problems()
    problems.collect(refuse, "b.", "a.")
    problems.collect(refuse, "a.")
    problems.collect(refuse, "c.")
    assert told(problems) == "3 problems; correct these first:\nb.\na.\nc."


@pytest.mark.parametrize(("count", "last"), [(19, "s."), (20, "... and 2 more.")])
def test_no_more_than_twenty_lines_are_told(count, last):
    lines = str(InputError(*(f"{chr(97 + k)}." for k in range(count)))).splitlines()
    assert len(lines) == LINES
    assert lines[0] == f"{count} problems; correct these first:"
    assert lines[-1] == last


def test_of_many_problems_those_alike_are_told_once_with_their_count():
    missing = [f"/d/{k} b.jpg does not exist; add it." for k in range(30)]
    values = [f"/d/{k}.png has the value {k}; use 0." for k in range(25)]
    alone = ["/d/list.txt lists 'x'; rename it.", "/d/labels.json is empty; write it."]
    both = (problem for pair in zip(missing, values, strict=False) for problem in pair)
    assert str(InputError(*both, *missing[25:], *alone)).splitlines() == [
        "57 problems; correct these first:",
        "/d/0 b.jpg does not exist; add it (and 29 more like it).",
        "/d/0.png has the value 0; use 0 (and 24 more like it).",
        *alone,
    ]


def test_few_problems_are_each_told_however_alike():
    lines = str(InputError(*(f"/d/{k}.jpg is empty; add it." for k in range(19)))).splitlines()
    assert lines[1:] == [f"/d/{k}.jpg is empty; add it." for k in range(19)]


def test_other_errors_are_not_collected():
    with pytest.raises(ZeroDivisionError):
        Problems().collect(lambda: 1 / 0)


def test_a_long_problem_keeps_its_file_and_its_remedy():
    text = str(InputError("x.txt lists '" + "y" * 10**6 + "'; remove it."))
    assert len(text) == START + END + 5
    assert text.startswith("x.txt lists 'y")
    assert text.endswith("y'; remove it.")


def test_problems_survive_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(InputError("a.", "b.")))  # noqa: S301 - our own bytes
    assert error.args == ("a.", "b.")


# ---- a GPU's libraries --------------------------------------------------------------------------
LACKING = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "the driver": RuntimeError("CUDA error: out of memory"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "cuBLAS's start": RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN's backend": RuntimeError("CUDNN_BACKEND_API_FAILED: CUDNN_STATUS_ALLOCATION_FAILED"),
    "cuSPARSE": RuntimeError("CUDA error: insufficient resources when calling `cusparseSpMM`"),
}


@pytest.mark.parametrize("error", LACKING.values(), ids=LACKING)
def test_a_library_that_lacks_memory_is_told_with_what_to_lower(error):
    told = r"memory ran out .*RIBKIT_WORKERS=1.*batch"
    with pytest.raises(ResourceError, match=told), resource_errors("seeds"):
        raise error


@pytest.mark.parametrize(
    "words", ["CUBLAS_STATUS_EXECUTION_FAILED", "device-side assert triggered"]
)
def test_another_error_of_a_gpu_comes_out_as_it_is(words):
    with pytest.raises(RuntimeError, match=words) as caught, resource_errors("seeds"):
        raise RuntimeError(f"CUDA error: {words}")
    assert not isinstance(caught.value, ResourceError)
