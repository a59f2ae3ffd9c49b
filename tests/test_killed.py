"""A chain of stages is killed at every one of its writes, and ends as if nothing had happened."""

import itertools
import multiprocessing
import os
import signal
from functools import partial

import dying
import numpy as np
import pandas as pd
import pytest
import torch

from ribkit.data import scenes
from ribkit.networks import training
from ribkit.networks.configs import ClassifierConfig
from ribkit.runtime import per_image
from ribkit.runtime.store import Store, stage

IMAGES, ITERATIONS, CHECKPOINT = 3, 5, 2
SETTINGS = ClassifierConfig(batch=2, lr=0.1, checkpoint=CHECKPOINT)
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(
    ["ribkit.runtime.per_image", "ribkit.data.scenes", "ribkit.networks.training"]
)


def note(words):
    """A line in the log of what was computed, there whatever happens next."""
    with open(os.environ["LOG"], "a") as file:
        file.write(f"{words}\n")


def mean(images, index):
    note(f"image {index}")
    return {"mean": images.image(index).mean(axis=(0, 1)), "n": index}


@stage("maps")
def maps(images, scratch):
    made = per_image.map_to_disk(partial(mean, images), images, scratch, "means")
    return {"means": made.arrays("mean"), "numbers": made.table(["n"])}


class Objective(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, pixels):
        note("iteration")
        return ((pixels - self.weight) ** 2).mean()


@stage("train")
def train(maps, scratch):
    every = np.stack(list(maps.values()))
    objective = Objective()
    optimiser = training.sgd([{"params": objective.parameters(), "lr_mult": 1.0}], SETTINGS)

    def view(row, generator):
        noise = torch.randn(3, generator=generator)
        return (torch.from_numpy(every[row]).float() / 255 + noise,)

    losses, _ = training.fit(
        objective, optimiser, view, IMAGES, ITERATIONS, SETTINGS, scratch, "toy", "lr"
    )
    return {"weights": objective.state_dict(), "losses": pd.DataFrame({"loss": losses.numpy()})}


def chain(root, moment="", number=0):
    """Two stages; ``moment``: where this process dies."""
    os.environ |= {"RIBKIT_WORKERS": "1", "RIBKIT_DEVICE": "cpu", "LOG": str(root / "log")}
    if moment:
        dying.die_at(moment, number)
    store, images = Store(root / "store"), scenes.generate(0, IMAGES, size=48)
    store.run(train, maps=store.run(maps, images=images).arrays("means"))


def live(*arguments):
    """The exit code of a process that runs the chain."""
    process = SPAWN.Process(target=chain, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def files(root):
    """Path -> bytes of all that lies in a store; of a folder, and a manifest, none."""
    paths = {path.relative_to(root): path for path in root.rglob("*") if path.name != "log"}
    plain = {name for name, p in paths.items() if p.is_file() and p.name != "manifest.json"}
    return {name: path.read_bytes() if name in plain else b"" for name, path in paths.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    assert live(root) == 0
    assert (root / "log").read_text().splitlines() == [
        *(f"image {k}" for k in range(IMAGES)),
        *(["iteration"] * ITERATIONS),
    ]
    return root


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.soak)])
def test_killed_at_any_write_it_ends_with_the_same_bytes(step, undisturbed, tmp_path, figures):
    deaths = dict.fromkeys(dying.MOMENTS, 0)
    for moment in dying.MOMENTS:
        for number in itertools.count(1, step):
            root = tmp_path / f"{moment} {number}"
            root.mkdir()
            code = live(root, moment, number)
            if code == 0:  # there are fewer writes
                break
            assert code in (-signal.SIGKILL, -signal.SIGXFSZ)
            deaths[moment] += 1
            assert live(root) == 0
            assert files(root) == files(undisturbed)
            done = (root / "log").read_text().splitlines()
            assert sum(line != "iteration" for line in done) <= IMAGES + 1  # one image is lost
            assert done.count("iteration") <= ITERATIONS + CHECKPOINT  # or one interval
    renamed = -(-(IMAGES + ITERATIONS // CHECKPOINT + 2) // step)  # the last: two results
    assert deaths["before a rename"] == deaths["after a rename"] == renamed
    assert deaths["before a write"] >= deaths["in a write"] > renamed
    figures[f"kills of a chain of stages, at every {step}. moment of its writing"] = deaths


def test_killed_at_random_moments_it_ends_with_the_same_bytes(undisturbed, tmp_path):
    random, most, cut = np.random.default_rng(0), 0.05, 0  # seconds; a machine is never as fast
    while True:
        process = SPAWN.Process(target=chain, args=(tmp_path,))
        process.start()
        process.join(random.uniform(0, most))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        cut += (tmp_path / "log").is_file()
        most *= 1.1
    assert cut
    assert files(tmp_path) == files(undisturbed)
