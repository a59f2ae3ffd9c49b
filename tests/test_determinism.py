"""The same bytes from every process: whatever its cores, its hash seed, its folders' order.

`docs/determinism.md` says what that holds for. The chain is `tiny_chain`: every stage once.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_chain
import torch
from fabricated import registered
from PIL import Image

from ribkit.data import photographs, voc
from ribkit.networks import classifier, configs, deeplab
from ribkit.refinement import irn, psa
from ribkit.runtime.errors import InputError
from ribkit.runtime.files import digest
from ribkit.runtime.store import MANIFEST, Store, stage

ROOT = Path(__file__).parent.parent
PLAIN = {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "0"}


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")


def digests(folder: Path) -> dict[str, str]:
    """Checksums of all that is stored, by key and name; manifests tell the time, so not theirs."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {str(p.relative_to(folder)): digest(p) for p in files}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Settings of the environment -> what a process of its own then stores."""
    found = {}

    def run(**settings: str) -> dict[str, str]:
        settings = PLAIN | settings
        if str(settings) not in found:
            folder = tmp_path_factory.mktemp("chain")
            place = {"RIBKIT_DEVICE": "cpu", "RIBKIT_WORKERS": "1", "PYTHONPATH": str(ROOT)}
            command = [sys.executable, str(ROOT / "tests" / "tiny_chain.py"), str(folder)]
            subprocess.run(command, env=os.environ | place | settings, check=True, timeout=300)
            found[str(settings)] = digests(folder)
        return found[str(settings)]

    return run


def differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
    """Files that are not the same in both."""
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


# ---- processes ----------------------------------------------------------------------------------
@pytest.mark.parametrize(("cores", "hash_seed"), [("1", "0"), ("4", "1")])
def test_the_machine_s_cores_and_python_s_hash_seed_change_no_key_and_no_byte(
    chain, cores, hash_seed
):
    found = chain()
    names = {name.partition("/")[0].rpartition("-")[0] for name in found}
    every = {function.stage for function in registered()}
    assert names - {"projection"} == every - {"given-classifier"}  # which copies a file
    assert not differing(chain(OMP_NUM_THREADS=cores, PYTHONHASHSEED=hash_seed), found)


# ---- global random states -----------------------------------------------------------------------
def states() -> list:
    """Of all generators that some library may draw from without being given one."""
    (_, keys, *rest), python = np.random.get_state(), random.getstate()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), keys.tolist(), rest, python]


def test_global_random_states_change_no_byte_and_stay_as_they_are(chain, tmp_path):
    results = tiny_chain.run(Store(tmp_path))
    for rng_seed in range(100):
        torch.manual_seed(rng_seed)
        np.random.seed(rng_seed)  # noqa: NPY002
        random.seed(rng_seed)
        before = states()
        if next(results, None) is None:
            break
        assert states() == before
    assert not differing(digests(tmp_path), chain())


def test_a_network_is_made_without_touching_a_gpu_s_random_state(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    classifier.build("small", 3)
    for network in (irn, psa):
        network.build(backbone="small", training=configs.AffinityConfig())
    deeplab.build("small", 3, configs.DeepLabConfig())
    assert seeded == []


# ---- the order of folders -----------------------------------------------------------------------
@stage("two")
def two() -> dict:
    return {name: {"n": np.ones(1)} for name in "ba"}


def read(folder: Path) -> tuple:
    """What is made of the folders that ribkit lists: photographs, a stored result, split lists."""
    source = photographs.folder(folder)
    result = Store(folder / "store").run(two)
    with pytest.raises(InputError) as told:
        voc.read(folder, "none", ("a",))
    return source.ids, source.fingerprint(source.ids), list(result.manifest["sha256"]), told.value


def test_the_order_in_which_a_folder_is_listed_does_not_matter(tmp_path, monkeypatch):
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name in ("b", "c", "a"):
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
        (lists / f"{name}.txt").write_text(name)
    found = []
    for backwards in (False, True):
        with monkeypatch.context() as patched:
            for owner, name in ((os, "listdir"), (Path, "iterdir"), (Path, "glob")):
                patched.setattr(owner, name, ordered(getattr(owner, name), backwards))
            found.append(read(tmp_path))
        shutil.rmtree(tmp_path / "store")
    (ids, digest, files, told), (*others, other) = found
    assert others == [ids, digest, files]
    assert ids == ("a.png", "b.png", "c.png")
    assert str(told) == str(other)
    assert "a, b, c" in str(told)


def ordered(listing: Callable, backwards: bool) -> Callable:
    """A function that lists folders in alphabetical order, or backwards."""
    return lambda *arguments: sorted(listing(*arguments), reverse=backwards)
