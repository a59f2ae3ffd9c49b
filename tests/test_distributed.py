"""Two processes that share each batch end where one process does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import train_together
from fabricated import has

from ribkit import reproduce, train
from ribkit.runtime import command, distributed
from ribkit.runtime.errors import InputError
from ribkit.runtime.store import Store

ROOT = Path(__file__).parent.parent
TOGETHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
QUICK = {
    "train_images": 4, "classifier.batch": 4, "tune_images": 2, "score_images": 2,
    "pretext_scenes": 32, "pretext_epochs": 1, "classifier.epochs": 1, "replicas": 1,
}  # fmt: skip
WORDS = [word for pair in QUICK.items() for word in ("--set", "{}={}".format(*pair))]


def torchrun(*words):
    """What two processes on this machine's CPU print."""
    settings = {"RIBKIT_DEVICE": "cpu", "PYTHONPATH": str(ROOT), "RIBKIT_WORKERS": "1"}
    run = subprocess.run(
        [sys.executable, *TOGETHER, *words],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return run


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """One process's and two processes' results."""
    one, two = (Store(tmp_path_factory.mktemp(name)) for name in ("one", "two"))
    run = torchrun(str(ROOT / "tests" / "train_together.py"), str(two.root))
    assert run.returncode == 0, run.stderr
    patched = pytest.MonkeyPatch()
    patched.setenv("RIBKIT_DEVICE", "cpu")
    train_together.train(one)
    patched.undo()
    return one, two


@pytest.mark.parametrize("name", train_together.STAGES)
def test_the_loss_curve_and_the_weights_are_those_of_one_process(stores, name):
    call = train_together.STAGES[name]
    assert has(stores[1], call)
    one, two = (store.run(call.func, **call.keywords) for store in stores)
    np.testing.assert_allclose(two.table("history"), one.table("history"), rtol=1e-4, atol=1e-4)
    first, second = (result.tensors("weights") for result in (one, two))
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-3, atol=1e-4, msg=key)
    assert not list(stores[1].root.glob("*.scratch"))


def test_by_itself_a_process_is_the_first_of_one():
    tensor = torch.ones(2)
    with distributed.joined(), distributed.collective():
        assert (distributed.rank(), distributed.world()) == (0, 1)
        assert distributed.all_reduce_sum(tensor) is tensor
        assert distributed.is_main_process()
        assert not distributed.is_distributed()


@pytest.mark.parametrize(
    "given",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "0"},
        {"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "-1"},
        {"WORLD_SIZE": "0", "RANK": "0", "LOCAL_RANK": "0"},
    ],
)
def test_what_torchrun_did_not_set_is_told_in_one_sentence(monkeypatch, capsys, given):
    for name in distributed.TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(command.time, "sleep", lambda seconds: None)
    assert train.main([*WORDS, "classifier"]) == 1
    printed = capsys.readouterr()
    told = ", ".join(f"{name}={given.get(name, '')}" for name in distributed.TORCHRUN)
    assert printed.out == ""
    assert printed.err == (
        f"{told} are not what torchrun sets; start this with torchrun, or unset WORLD_SIZE.\n"
    )


@pytest.mark.parametrize("size", [None, "", "1"])
def test_a_rank_without_others_is_that_of_the_only_process(monkeypatch, size):
    monkeypatch.setenv("RANK", "1")  # left over from another program
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    done = []
    with distributed.joined():
        distributed.main_process_first(lambda: done.append(1))
    assert done == [1]


def test_the_command_trains_what_the_study_looks_for(tmp_path):
    study = reproduce.Study("mini", "", {k: str(v) for k, v in QUICK.items()})
    study.store = Store(tmp_path)
    train.train(study, "classifier")
    call = study.training()
    assert has(study.store, call)


def test_a_batch_that_two_processes_cannot_share_is_told_in_one_sentence():
    words = [word.replace("classifier.batch=4", "classifier.batch=3") for word in WORDS]
    run = torchrun("-m", "ribkit.train", *words, "classifier")
    said = [line for line in run.stderr.splitlines() if line.startswith("a batch of 3")]
    assert run.returncode != 0
    assert said == [
        "a batch of 3 cannot be shared by 2 processes; make one a multiple of the other."
    ]


@pytest.mark.parametrize(
    ("where", "local", "told"),
    [("cuda:1", "0", "RIBKIT_DEVICE=cuda:1 is one GPU for 2 processes; unset it"),
     ("cuda", "1", "process 1 has no GPU, there are 1; lower --nproc-per-node")],
)  # fmt: skip
def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch, where, local, told):
    given = {"RIBKIT_DEVICE": where, "WORLD_SIZE": "2", "RANK": local, "LOCAL_RANK": local}
    for name, value in (given | {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=told), distributed.joined():
        pass


def test_what_is_not_trained_is_told(capsys):
    assert train.main(["saliency"]) == 1
    assert "'saliency' is not trained; use one of classifier, irn" in capsys.readouterr().err
