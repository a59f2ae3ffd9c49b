"""Stored files are cut, flipped, swapped, made longer: each is noticed, and none is read."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ribkit.data import scenes
from ribkit.networks import training
from ribkit.networks.configs import ClassifierConfig
from ribkit.runtime import files, per_image, store
from ribkit.runtime.errors import InputError
from ribkit.runtime.store import Store

SETTINGS = ClassifierConfig(batch=2, lr=0.1, checkpoint=2)


@store.stage("stage")
def stage(number):
    values = np.random.default_rng(number)
    return {
        "table": pd.DataFrame({"n": values.normal(size=9), "word": list("abcdefghi")}),
        "maps": {name: values.normal(size=(4, 5)) for name in ("one", "two")},
        "weights": {name: torch.from_numpy(values.normal(size=(3, 3))) for name in ("w", "v")},
    }


READ = {
    "table.csv": lambda result: result.table("table").to_csv(),
    "maps.npz": lambda result: [a.tobytes() for a in result.arrays("maps").values()],
    "weights.safetensors": lambda result: [
        t.numpy().tobytes() for t in result.tensors("weights").values()
    ],
    "manifest.json": lambda result: result.manifest["seconds"],
}
DAMAGES = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1, exclude_max=True), st.just(0)),
    st.tuples(st.just("flip"), st.floats(0, 1, exclude_max=True), st.integers(0, 7)),
    st.tuples(st.just("longer"), st.just(0.0), st.integers(0, 255)),
    st.tuples(st.just("another file's"), st.just(0.0), st.just(0)),
)


def damage(path, kind, place, number):
    """Do it; the file's time and place stay, as a bad disk leaves them."""
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    if kind == "cut":
        del content[at:]
    elif kind == "flip":
        content[at] ^= 1 << number
    elif kind == "longer":
        content.append(number)
    else:
        others = [p for p in path.parent.iterdir() if p.is_file() and p != path]
        content = bytearray(sorted(others)[0].read_bytes())
    path.write_bytes(content)
    for remembered in (files._known, store._manifest, store._opened):
        remembered.cache_clear()  # as a new process would find it


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A store with one result, and what its files read."""
    root = tmp_path_factory.mktemp("sound")
    result = Store(root).run(stage, number=1)
    return root, result, {name: read(result) for name, read in READ.items()}


def test_200_damaged_files_are_refused_by_name_then_computed_again(
    sound, tmp_path_factory, figures
):
    root, result, expected = sound
    told = {"damaged": 0, "refused": 0, "computed again": 0}

    @settings(max_examples=200)
    @given(name=st.sampled_from(sorted(READ)), how=DAMAGES)
    def noticed(name, how):
        copy = tmp_path_factory.mktemp("copy")
        shutil.copytree(root, copy, dirs_exist_ok=True)
        found = store.Result(result.name, result.key, copy / result.path.name)
        whole = {path.name: path.read_bytes() for path in found.path.iterdir()}
        damage(found.path / name, *how)
        told["damaged"] += 1
        with pytest.raises(InputError, match=name):
            READ[name](found)
        told["refused"] += 1
        assert Store(copy).run(stage, number=1) == found
        del whole["manifest.json"]
        assert {n: (found.path / n).read_bytes() for n in whole} == whole
        assert all(read(found) == expected[n] for n, read in READ.items() if n != "manifest.json")
        told["computed again"] += 1
        shutil.rmtree(copy)

    noticed()
    assert told["damaged"] >= 200
    assert told["damaged"] == told["refused"] == told["computed again"]
    figures["stored files damaged"] = told


# ---- what an interrupted run left ----------------------------------------------------------------
def mean(index):
    return {"mean": np.full(3, index), "n": index}


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(how=DAMAGES)
def test_a_damaged_image_is_made_again(tmp_path_factory, how):
    folder = tmp_path_factory.mktemp("scratch")
    images = scenes.generate(0, 3, size=48)
    per_image.map_to_disk(mean, images, folder, "means")
    whole = (folder / "1.npz").read_bytes()
    damage(folder / "1.npz", *how)
    with pytest.raises(InputError, match=r"1\.npz is damaged"):
        per_image.PerImageResult(folder, images).table(["n"])
    per_image.map_to_disk(mean, images, folder, "means")
    assert (folder / "1.npz").read_bytes() == whole


class Objective(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, pixels):
        return ((pixels - self.weight) ** 2).mean()


def fit(folder, iterations):
    objective = Objective()
    optimiser = training.sgd([{"params": objective.parameters(), "lr_mult": 1.0}], SETTINGS)

    def view(row, generator):
        return (torch.randn(3, generator=generator),)

    training.fit(objective, optimiser, view, 4, iterations, SETTINGS, folder, "toy", "lr")
    return objective.weight.detach()


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(how=DAMAGES.filter(lambda how: how[0] != "another file's"))
def test_a_damaged_checkpoint_is_not_gone_on_from(tmp_path_factory, how):
    folder = tmp_path_factory.mktemp("scratch")
    fit(folder, 4)
    damage(folder / training.STATE, *how)
    assert not files.has_checksum(folder / training.STATE)
    assert torch.equal(fit(folder, 6), fit(tmp_path_factory.mktemp("fresh"), 6))
