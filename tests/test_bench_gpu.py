"""The benchmark of a GPU runs, shrunk, on a CPU: it is not itself what fails there."""

import json
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
# What the others run, processes of their own, is in test_distributed and test_determinism.
QUICK = "adaptation walk evaluation precision layout sizes workers out_of_memory trainings"


@pytest.fixture(scope="module")
def benchmark():
    """The module, as a part's own process has it, on a CPU."""
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIBKIT_DEVICE", "cpu")
        patch.syspath_prepend(FOLDER)
        torch.set_num_threads(1)
        import bench_gpu

        yield bench_gpu
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = tf32


@pytest.mark.parametrize("name", QUICK.split())
def test_a_part_runs(benchmark, tmp_path, name):
    benchmark.alone(name, str(tmp_path))
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) > 1
    assert "left out" not in found


def test_every_part_is_run_or_named_here(benchmark):
    names = {part.__name__ for part in benchmark.PARTS}
    assert names - set(QUICK.split()) == {"memory", "notebooks", "torchrun", "study"}


def test_a_part_has_a_process_of_its_own(benchmark):
    entry = benchmark.apart("walk", 60)
    assert (entry["name"], entry["worked"]) == ("gpu, walk", True)
    assert entry["cpu, error"] == entry["device, error"] < 1e-3
    assert benchmark.row(entry).split()[:2] == ["walk", "yes"]


def test_a_part_that_fails_is_told_with_its_last_lines(benchmark):
    entry = benchmark.apart("unknown", 60)
    assert not entry["worked"]
    assert "ValueError" in entry["said"][-1]
    assert benchmark.row(entry).split()[:2] == ["unknown", "NO"]


def test_a_part_that_hangs_is_ended(benchmark):
    entry = benchmark.apart("study", 0.1)
    assert (entry["worked"], entry["status"]) == (False, "killed after 0 s")


def test_what_uses_no_gpu_names_the_cpu(benchmark, monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda:1")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: f"number {gpu.index}")
    assert benchmark.measuring.name() == "cuda, number 1"
    assert benchmark.measuring.name(gpu=False).startswith("cpu")
