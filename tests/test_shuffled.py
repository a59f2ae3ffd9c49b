"""Stages image by image: however the images are shared out and ordered, each has the same bytes.

A shard is a part of an image set given to a stage by itself, as several people or machines would
share a data set. Workers are processes of this machine; 1 is this process.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
import pytest
import torch
from fabricated import last_unlabelled

from ribkit.data import scenes
from ribkit.data.images import ImageSet
from ribkit.method import adaptation
from ribkit.networks import classifier, deeplab
from ribkit.refinement import irn, psa, stages
from ribkit.refinement.random_walk import WALKS
from ribkit.refinement.stages import AffinityModel
from ribkit.runtime.store import Store
from ribkit.study import ablations, information, predictions
from ribkit.study import maps as seeds

COUNT, SCALES = 8, (1.0, 0.5)
SETTINGS = adaptation.Settings(pooling="gap", steps=2, lr=1e-3, n_others=3, margin=1e9)
POOL = {"long_sides": (40, 56), "side": 32, "rng_seed": 0}
SEEN = {"scales": SCALES, "long_side": 56}
TRAINING = deeplab.DeepLabConfig(crop=48)
N_LABELS = len(scenes.CLASSES) + 1
TOTALS = ("confusion",)  # counted over all images


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu():
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RIBKIT_DEVICE", "cpu")
        patched.setenv("RIBKIT_WORKERS", "1")
        yield


@pytest.fixture(scope="module")
def images():
    return last_unlabelled(COUNT)


@pytest.fixture(scope="module")
def given(images, tmp_path_factory) -> dict:
    """What the stages read: untrained networks, and what earlier stages stored of all images."""
    store, kept = Store(tmp_path_factory.mktemp("store")), {}

    def keep(name: str, stage: Callable, **parameters):
        kept[name] = store.run(name, stage, **parameters)
        return kept[name]

    def weights(name: str, network: torch.nn.Module):
        return keep(f"{name} weights", lambda: {"weights": network.state_dict()})

    network = classifier.build("small", len(scenes.CLASSES), rng_seed=0)
    kept["model"] = model = seeds.Model(weights("cam", network), "small", len(scenes.CLASSES))
    others = scenes.generate(1, COUNT, size=48)
    pool = keep("pool", seeds.feature_bank, model=model, images=others, **POOL)
    arguments = {"images": images, "model": model, **SEEN}
    maps = keep("maps", seeds.compute, **arguments, settings=SETTINGS, pool=pool)
    half = {"images": images, "seeds": maps, "threshold": 0.5, "long_side": 56}
    keep("labels", stages.threshold_labels, **half)
    for kind, made in (("irn", irn), ("psa", psa)):
        _, heads = made.build("small", None, "", 0)
        kept[kind] = AffinityModel(kind, weights(kind, heads), "small", 4, 0)
    made = deeplab.build("small", N_LABELS, TRAINING)
    about = (weights("network", made), "small", N_LABELS, TRAINING)
    kept["network"] = network = deeplab.Model(*about)
    keep("predicted", predictions.predict, model=network, images=images, **SEEN)
    keep("salient", predictions.foreground, model=network, images=images, long_side=48)
    return kept


# a stage of images, a scratch folder and what is given
STAGES = {
    "pool": lambda i, s, g: seeds.feature_bank(g["model"], i, **POOL),
    "cam": lambda i, s, g: seeds.compute(g["model"], i, **SEEN, scratch=s),
    "rib": lambda i, s, g: seeds.compute(
        g["model"], i, **SEEN, scratch=s, settings=SETTINGS, pool=g["pool"], map_stride=4
    ),
    "growth": lambda i, s, g: seeds.growth(
        g["model"], i, **SEEN, settings=SETTINGS, pool=g["pool"]
    ),
    "score": lambda i, s, g: seeds.score(i, g["maps"]),
    "cover": lambda i, s, g: seeds.cover(i, g["maps"], 0.4),
    "plain": lambda i, s, g: stages.threshold_labels(i, g["maps"], 0.5, 56, s),
    "crf": lambda i, s, g: stages.crf_on_maps(i, g["maps"], 0.5, 56, s),
    "irn-labels": lambda i, s, g: stages.irn_labels(i, g["maps"], 0.5, 56, s),
    "psa-labels": lambda i, s, g: stages.psa_labels(i, g["maps"], 56, s),
    "irn-walk": lambda i, s, g: stages.irn_walk(g["irn"], i, g["maps"], WALKS["official"], 56, s),
    "psa-walk": lambda i, s, g: stages.psa_walk(g["psa"], i, g["maps"], 4.0, 3, 56, s),
    "saliency": lambda i, s, g: stages.with_saliency(i, g["labels"], g["salient"], s),
    "score-labels": lambda i, s, g: stages.score(i, g["labels"]),
    "predict": lambda i, s, g: predictions.predict(g["network"], i, **SEEN, scratch=s),
    "foreground": lambda i, s, g: predictions.foreground(g["network"], i, 56, s),
    "score-network": lambda i, s, g: predictions.score(i, g["predicted"], "refined"),
    "objects": lambda i, s, g: predictions.objects(i),
    "ablation": lambda i, s, g: ablations.measure(
        g["model"], i, **SEEN, scratch=s, settings=SETTINGS, pool=g["pool"]
    ),
    "layers": lambda i, s, g: information.layers(g["model"], i),
}
LABELLED = ("growth", "ablation")  # stages that an image without a label is not given to


def labelled(images: ImageSet) -> ImageSet:
    """The images that have a label."""
    return images.take(np.flatnonzero(images.labels.any(axis=1)))


# ---- what belongs to an image -------------------------------------------------------------------
def pieces(values: Mapping, ids: tuple[str, ...]) -> dict[str, dict]:
    """What a stage returns, apart for each image: name -> value -> bytes."""
    found = {name: {} for name in ids}
    for value, content in values.items():
        if isinstance(content, pd.DataFrame):
            for name, row in zip(content["image"], content.to_dict("records"), strict=True):
                found[name].setdefault(value, []).append(exact(row))
        elif set(content) == set(ids):
            for name in ids:
                found[name][value] = as_bytes(content[name])
        else:
            for part, name, array in stacked(content, ids):
                found[name][value, part] = as_bytes(array)
    return found


def stacked(content: Mapping, ids: tuple[str, ...]) -> Iterator[tuple]:
    """The parts of arrays whose rows are images, or say in ``image`` whose they are."""
    owner = content.get("image", np.arange(len(ids)))
    for part in set(content) - {"image", *TOTALS}:
        assert len(content[part]) == len(owner)
        for position, name in enumerate(ids):
            yield part, name, np.asarray(content[part])[owner == position]


def as_bytes(array: np.ndarray) -> tuple:
    return str(array.dtype), array.shape, array.tobytes()


def exact(row: dict) -> dict:
    """A table's row, with all digits; what an image does not have is left out."""
    return {k: repr(v) for k, v in row.items() if not (isinstance(v, float) and np.isnan(v))}


def computed(stage: str, images: ImageSet, given: dict, folder) -> dict[str, dict]:
    """A stage's pieces of the images."""
    if stage in LABELLED:
        images = labelled(images)
    folder.mkdir()
    return pieces(STAGES[stage](images, folder, given), images.ids)


# ---- the same bytes -----------------------------------------------------------------------------
def shards(images: ImageSet, count: int) -> list[ImageSet]:
    """So many parts of the images, all shuffled: the images, and so the parts."""
    order = np.random.default_rng(count).permutation(len(images))
    return [images.take(part) for part in np.split(order, count)]


@pytest.fixture(scope="module")
def whole(images, given, tmp_path_factory):
    """stage -> the pieces of all images together, in order, in this process."""
    folder, found = tmp_path_factory.mktemp("whole"), {}

    def of(stage: str) -> dict[str, dict]:
        if stage not in found:
            found[stage] = computed(stage, images, given, folder / stage)
        return found[stage]

    return of


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("workers", [1, 2])
def test_shards_in_any_order_make_the_same_bytes(
    stage, workers, images, given, whole, tmp_path, monkeypatch
):
    expected = whole(stage)
    assert any(expected.values())
    monkeypatch.setenv("RIBKIT_WORKERS", str(workers))
    for count in (1, 2, 4):
        found = {}
        for k, shard in enumerate(shards(images, count)):
            found |= computed(stage, shard, given, tmp_path / f"{count}-{k}")
        assert found == expected


@pytest.mark.parametrize("stage", STAGES)
def test_the_callers_number_of_threads_does_not_matter_and_stays(
    stage, images, given, whole, tmp_path
):
    expected, before = whole(stage), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert computed(stage, images, given, tmp_path / "three") == expected
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_totals_of_shards_add_up_to_those_of_the_whole(images, given):
    expected = stages.score(images, given["labels"])["scores"]["confusion"]
    for count in (2, 4):
        parts = [stages.score(s, given["labels"]) for s in shards(images, count)]
        assert (sum(p["scores"]["confusion"] for p in parts) == expected).all()


def test_what_is_estimated_over_a_set_does_not_depend_on_workers(images, given, monkeypatch):
    # over a set in its order: its folds, and which positions are drawn, are by place
    teaching, maps = scenes.generate(1, COUNT, size=48), {"RIB": given["maps"]}
    found = []
    for workers in (1, 2):
        monkeypatch.setenv("RIBKIT_WORKERS", str(workers))
        found.append(information.estimate(given["model"], labelled(images), teaching, maps)["bits"])
    assert found[0]["bits"].gt(0).any()
    pd.testing.assert_frame_equal(*found, check_exact=True)
