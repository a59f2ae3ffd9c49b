"""Stages image by image: however the images are shared out and ordered, each has the same bytes.

A shard is a part of an image set given to a stage by itself, as several people or machines would
share a data set. Workers are processes of this machine; 1 is this process.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
import pytest
import torch
from fabricated import last_unlabelled, registered, run_stage, stored, trained_classifier

from ribkit.data import scenes
from ribkit.data.images import ImageSet
from ribkit.method import settings
from ribkit.method.rivals import Rival
from ribkit.networks import classifier, configs, deeplab
from ribkit.networks.configs import AffinityConfig
from ribkit.networks.trained import TrainedModel
from ribkit.refinement import irn, psa, saliency, stages
from ribkit.refinement.random_walk import WALKS
from ribkit.runtime.store import StoredArrays
from ribkit.study import ablations, coverage, information, mask_free, panels, predictions
from ribkit.study import maps as seeds
from ribkit.study.maps import Adaptation, Sizes

COUNT, SCALES = 8, (1.0, 0.5)
SETTINGS = settings.Settings(pooling="gap", steps=2, lr=1e-3, n_others=3, margin=1e9)
BANK = {"long_sides": (40, 56), "side": 32, "rng_seed": 0}
SEEN = {"sizes": Sizes(SCALES, 56)}
TRAINING = configs.DeepLabConfig(crop=48)
N_LABELS = len(scenes.CLASSES) + 1
TOTALS = ("confusion",)  # counted over all images


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu():
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RIBKIT_DEVICE", "cpu")
        yield


@pytest.fixture(scope="module")
def images():
    return last_unlabelled(COUNT)


@pytest.fixture(scope="module")
def given(images, tmp_path_factory) -> dict:
    """What the stages read: untrained networks, and what earlier stages stored of all images."""
    folder, kept = tmp_path_factory.mktemp("given"), {}

    def arrays(name: str, stage, value: str, **parameters) -> StoredArrays:
        made = run_stage(stage, images, folder / f"{name}.scratch", **parameters)
        kept[name] = stored(folder, name, **made).arrays(value)
        return kept[name]

    def weights(name: str, network: torch.nn.Module):
        return stored(folder, name, weights=network.state_dict()).tensors("weights")

    network = classifier.build("small", len(scenes.CLASSES), rng_seed=0)
    kept["model"] = model = trained_classifier(weights("cam", network))
    others = scenes.generate(1, COUNT, size=48)
    bank = run_stage(seeds.feature_bank, others, folder / "bank.scratch", model=model, **BANK)
    bank = stored(folder, "bank", **bank).tensors("features")
    kept["adaptation"] = Adaptation(SETTINGS, bank)
    adapted = {"model": model, "adaptation": kept["adaptation"]}
    maps = arrays("maps", seeds.rib_seeds, "maps", **SEEN, **adapted)
    arrays("norm", seeds.feature_norms, "norm", **SEEN, model=model)
    arrays("labels", stages.threshold_labels, "labels", maps=maps, threshold=0.5, long_side=56)

    def untrained(name: str, build: Callable, **options) -> TrainedModel:
        built = weights(name, build(**options))
        kept[name] = TrainedModel.of(build, built, **options)
        return kept[name]

    for kind, method in (("irn", irn), ("psa", psa)):
        untrained(kind, method.build, backbone="small", training=AffinityConfig())
    options = {"backbone": "small", "n_labels": N_LABELS, "training": TRAINING}
    network = untrained("network", deeplab.build, **options)
    arrays("salient", predictions.foreground, "maps", model=network, long_side=48)
    return kept


RIVAL = Rival(norm=0.4, smoothing=0.02, percentile=95.0)
HALF = {"threshold": 0.5, "long_side": 56}
OF_MODEL = {"model": "model"}
OF_RIB = OF_MODEL | {"adaptation": "adaptation"}
OF_MAPS = {"maps": "maps"}
# each stage with its parameters: plain ones, and those that are given, by name
STAGES = {
    "bank": (seeds.feature_bank, BANK, OF_MODEL),
    "cam": (seeds.cam_seeds, SEEN, OF_MODEL),
    "rib": (seeds.rib_seeds, {"sizes": Sizes(SCALES, 56, map_stride=4)}, OF_RIB),
    "growth": (seeds.growth, SEEN, OF_RIB),
    "norm": (seeds.feature_norms, {"sizes": Sizes(SCALES, 56, map_stride=4)}, OF_MODEL),
    "rival": (seeds.rival_seeds, {"rival": RIVAL}, OF_MAPS | {"norm": "norm"}),
    "score": (seeds.score, {}, OF_MAPS),
    "levels": (mask_free.levels, {}, OF_MAPS),
    "coverage": (coverage.cover, {"threshold": 0.4}, OF_MAPS | {"plain": "maps"}),
    "plain": (stages.threshold_labels, HALF, OF_MAPS),
    "crf": (stages.crf_labels, HALF, OF_MAPS),
    "sure-labels": (stages.sure_labels, HALF, OF_MAPS),
    "irn-walk": (
        stages.irn_walk,
        {"walk": WALKS["official"], "long_side": 56},
        OF_MAPS | {"model": "irn"},
    ),
    "psa-walk": (
        stages.psa_walk,
        {"alpha": 4.0, "log2_steps": 3, "long_side": 56},
        OF_MAPS | {"model": "psa"},
    ),
    "saliency": (stages.salient_labels, {}, {"labels": "labels", "salient": "salient"}),
    "score-labels": (stages.score, {}, {"labels": "labels"}),
    "predict": (predictions.predict, {"scales": SCALES, "long_side": 56}, {"model": "network"}),
    "predict-present": (
        predictions.predict_present,
        {"scales": SCALES, "long_side": 56},
        {"model": "network"},
    ),
    "foreground": (predictions.foreground, {"long_side": 56}, {"model": "network"}),
    "objects": (predictions.objects, {}, {}),
    "ablation": (ablations.measure, SEEN, OF_RIB),
    "layers": (information.layers, {"long_side": 40}, OF_MODEL),
    "irn-panels": (
        panels.irn_panels,
        {"walk": WALKS["official"], "long_side": 56},
        OF_MAPS | {"model": "irn"},
    ),
    "gradient-region": (panels.gradient_region, {"long_side": 40}, OF_MODEL),
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
    function, plain, by_name = STAGES[stage]
    named = {parameter: given[name] for parameter, name in by_name.items()}
    return pieces(run_stage(function, images, folder, **plain, **named), images.ids)


# ---- the same bytes -----------------------------------------------------------------------------
def test_every_stage_that_works_image_by_image_is_here():
    by_image = {function for function in registered() if hasattr(function, "__wrapped__")}
    assert by_image - {function for function, *_ in STAGES.values()} == {saliency.u2net}  # an extra


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


def test_totals_of_shards_add_up_to_those_of_the_whole(images, given, tmp_path):
    def confusion(shard: ImageSet, folder: str) -> np.ndarray:
        made = run_stage(stages.score, shard, tmp_path / folder, labels=given["labels"])
        return made["scores"]["confusion"]

    expected = confusion(images, "whole")
    for count in (2, 4):
        parts = [confusion(s, f"{count}-{k}") for k, s in enumerate(shards(images, count))]
        assert (sum(parts) == expected).all()


def test_what_is_estimated_over_a_set_does_not_depend_on_workers(images, given, monkeypatch):
    # over a set in its order: its folds, and which positions are drawn, are by place
    teaching, maps = scenes.generate(1, COUNT, size=48), {"RIB": given["maps"]}
    found = []
    for workers in (1, 2):
        monkeypatch.setenv("RIBKIT_WORKERS", str(workers))
        made = information.estimate(given["model"], labelled(images), teaching, maps, None)
        found.append(made["bits"])
    assert found[0]["bits"].gt(0).any()
    pd.testing.assert_frame_equal(*found, check_exact=True)
