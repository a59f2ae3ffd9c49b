"""What a run will take: counts by hand, and a sample that leaves nothing behind."""

import pytest

from ribkit import estimate
from ribkit.data import scenes
from ribkit.runtime.errors import InputError
from ribkit.study import ablation_runs, profiles
from ribkit.study.inputs import ROOT
from ribkit.study.study import Study

SMALL = {
    "train_images": 40, "score_images": 6, "tune_images": 4, "bank_images": 5, "replicas": 2,
    "classifier.epochs": 3, "classifier.batch": 8, "scale_sets": "1.0;1.0,1.5",
    "lrs": "1e-6,1e-5", "margins": "0,3",
    "n_others": "2,4", "steps": 2, "pretext_scenes": 64, "pretext_epochs": 2, "val_images": 7,
    "irn.epochs": 2, "irn.batch": 4, "psa.epochs": 1, "psa.batch": 5, "network.iterations": 9,
    "psa_log2_steps": 4, "irn_log2_steps": "3,4", "ablations.images": 3,
    "ablations.usual_textures": "0.0",
}  # fmt: skip


@pytest.fixture
def study():
    return Study("mini", "", {key: str(value) for key, value in SMALL.items()})


def test_counts_by_hand(study):
    counts = estimate.counts(study)
    assert counts["pretext"] == 2 * 64 // 32
    # each of two replicas, on scenes of two kinds: epochs, batches
    assert counts["classifier"] == 2 * 2 * 3 * (40 // 8)
    assert counts["bank"] == 2 * 2 * 5
    assert counts["cam"] == 2 * 2 * (2 * 4 + 6)  # both sets of scales on the tuning images
    example = study.profile.settings("gndrp", "official", 1e-6, 1.0, 2)
    runs = ablation_runs.grid(example, 1.0, 1.0, study.profile.ablations, relu6=False)
    runs += ablation_runs.ledger(example, 1.0, 1.0, 8, (1.0,))
    adapted = sum(run.settings is not None for run in runs)
    # two rates and three beyond, one more margin, one more B: four RIBs on the study's scenes, one
    # on the others; in the other training again RIB, the sigmoid (twice), the last map, one for
    # all
    tuned = (2 + 3 + 1 + 1) * 4
    at_one_scale = (2 + 1) * tuned  # RIB's rate of both trainings, the paper's of one
    assert counts["rib"] == 2 * (4 + 1) * (tuned + 6) + at_one_scale + 3 * (adapted + 5)
    # of CAM, the best rival and RIB; of the seeds and after IRN
    assert counts["crf"] == 3 * 2 * 2 * 6
    assert counts["irn"] == 3 * 2 * 2 * (10 // 4)  # replicas, epochs, batches
    assert counts["psa"] == 3 * 2 * 1 * (10 // 5)
    assert counts["irn-walk"] == 3 * 2 * (6 + 2 * 4)
    # CAM, RIB, both with saliency, true masks, few masks; and saliency's own
    networks = 2 * 6 + 1
    assert counts["network"] == networks * 9
    assert counts["predictions"] == 2 * 5 * 7  # few masks and saliency have no CRF


def test_a_network_with_relu6_is_adapted_with_relu_too(study):
    other = Study("mini", "", study.overrides | {"backbone": "efficientnet_lite0"})
    more = estimate.counts(other)["rib"] - estimate.counts(study)["rib"]
    assert more == 2 * 3  # trainings, images
    assert estimate.counts(other)["pretext"] == estimate.counts(study)["pretext"]  # the network's


def test_a_study_without_small_networks_learns_no_pretext(study):
    both = {"backbone": "efficientnet_lite0", "network_backbone": "efficientnet_lite0"}
    assert estimate.counts(Study("mini", "", study.overrides | both))["pretext"] == 0


def test_images_that_are_only_labelled_count_once_for_each_training(study, monkeypatch):
    before, left = estimate.counts(study), scenes.generate(5, 11)
    monkeypatch.setattr(study, "remaining_images", (left,))
    more = {stage: count - before[stage] for stage, count in estimate.counts(study).items()}
    assert more["cam"] == more["rib"] == 2 * len(left)
    assert more["irn-walk"] == 2 * 2 * len(left)


def test_a_sample_measures_every_stage_and_leaves_nothing_behind(study, monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")
    before = set((ROOT / "build").rglob("*")) if (ROOT / "build").is_dir() else set()
    costs = estimate.table(study).set_index("stage")
    assert (set((ROOT / "build").rglob("*")) if (ROOT / "build").is_dir() else set()) == before
    assert set(costs.index) == set(estimate.counts(study))
    assert costs["how often"]["rib"] == f"{estimate.counts(study)['rib']:,} images"
    assert costs["how often"]["irn"].endswith(" iterations")
    assert (costs["seconds each"] > 0).all()
    assert (costs["memory (GiB)"] >= 0).all()
    assert costs["disk (GiB)"]["cam"] > 0
    # 16 channels of 32 x 32 float32 of each of the bank's images
    bank = estimate.counts(study)["bank"] * 16 * 32 * 32 * 4 / 2**30
    assert costs["disk (GiB)"]["bank"] == pytest.approx(bank, rel=0.1)
    assert f"About {costs['hours'].sum():,.3g} hours" in estimate.summary(costs.reset_index())


def test_images_are_shared_by_the_workers_and_a_training_is_not(monkeypatch):
    monkeypatch.setattr("ribkit.runtime.parallel.workers", lambda gpu: 4)
    manifest = {"each": 2.0, "seconds": 9.0, "memory": 512.0, "bytes": 3 * 2**30, "images": 3}
    assert estimate.cost("cam", 7200, manifest, 3)["hours"] == 1
    assert estimate.cost("irn", 7200, manifest, 1)["hours"] == 4
    assert estimate.cost("irn", 7200, manifest, 2)["hours"] == 2  # side by side
    assert estimate.cost("irn", 7200, manifest, 8)["hours"] == 1
    assert estimate.cost("pretext", 7200, manifest, 8)["hours"] == 4  # before all others
    assert estimate.cost("cam", 7, manifest, 1)["disk (GiB)"] == 7
    assert estimate.cost("irn", 1, manifest | {"each": None}, 1)["seconds each"] == 9.0


@pytest.mark.parametrize("name", ["mini", "voc", "coco"])
def test_a_sample_adapts_with_as_many_others_as_the_study(name):
    """Two in three images of VOC share no class with one."""
    profile = profiles.load(name)
    small = estimate.shrunk(profile)
    assert small.n_others == profile.n_others
    assert small.train_images >= small.bank_images > 2 * profile.n_others[0]


@pytest.mark.parametrize("count", ["-1", "1.5"])
def test_hours_are_never_negative(monkeypatch, count):
    monkeypatch.setenv("RIBKIT_WORKERS", count)
    manifest = {"each": 2.0, "seconds": 9.0, "memory": 512.0, "bytes": 0, "images": 3}
    with pytest.raises(InputError, match=f"RIBKIT_WORKERS={count} is not a number"):
        estimate.cost("cam", 7200, manifest, 1)
