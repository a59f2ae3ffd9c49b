"""What a run will take: counts by hand, and a sample that leaves nothing behind."""

import pytest

from ribkit import check
from ribkit.study import ablations
from ribkit.study.study import ROOT, Study

SMALL = {
    "train_images": 40, "score_images": 6, "tune_images": 4, "bank_images": 5, "replicas": 2,
    "epochs": 3, "batch": 8, "scale_sets": "1.0;1.0,1.5", "lrs": "1e-6,1e-5", "margins": "0,3",
    "n_others": "2,4", "steps": 2, "pretext_scenes": 64, "pretext_epochs": 2, "val_images": 7,
    "irn.epochs": 2, "irn.batch": 4, "psa.epochs": 1, "psa.batch": 5, "network.iterations": 9,
    "psa_log2_steps": 4, "ablations.images": 3,
}  # fmt: skip


@pytest.fixture
def study():
    return Study("mini", "", {key: str(value) for key, value in SMALL.items()})


def test_counts_by_hand(study):
    found = check.counts(study)
    assert found.pretext == 2 * 64 // 32
    assert found.classifier == 2 * 3 * (40 // 8)  # replicas, epochs, batches
    assert found.pool == 2 * 5
    # both sets of scales on the tuning images; then scored, and tuned again in the second replica
    assert found.cams == 2 * 4 + 2 * 6 + 4
    example = study.profile.settings("gndrp", "official", 1e-6, 1.0, 2)
    runs = ablations.grid(example, example, 1.0, 1.0, 8, study.profile.ablations)
    adapted = sum(run.settings is not None for run in runs)
    # four RIBs: two rates, one more margin, one more B
    assert found.ribs == 4 * ((2 + 1 + 1) * 4 + 2 * 6 + 4) + 3 * adapted
    assert found.irn == 2 * 2 * 2 * (10 // 4)  # CAM's and RIB's, replicas, epochs, batches
    assert found.psa == 2 * 1 * (10 // 5)
    assert found.networks == 2 * 4 + 1  # CAM, RIB, with saliency, true masks; and saliency's own
    assert (found.network, found.validation) == (9, 7)


def test_a_sample_measures_every_stage_and_leaves_nothing_behind(study, monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")
    before = set((ROOT / "build").rglob("*")) if (ROOT / "build").is_dir() else set()
    costs = {cost.stage: cost for cost in check.costs(study)}
    assert (set((ROOT / "build").rglob("*")) if (ROOT / "build").is_dir() else set()) == before
    assert costs["RIB, 2 steps"].count == check.counts(study).ribs
    assert min(costs["RIB, 2 steps"].seconds, costs["CAM"].seconds) > 0
    assert costs["CAM"].bytes > 100
    assert {cost.unit for cost in costs.values()} == {"image", "iteration"}
    assert {"IRN", "PSA's walk", "segmentation networks", "prediction and CRF"} <= costs.keys()
    table = check.table(study)
    assert f"About {table['hours'].sum():,.3g} hours" in check.words(table)


def test_images_are_shared_by_the_workers_and_iterations_are_not(monkeypatch):
    monkeypatch.setattr("ribkit.runtime.parallel.workers", lambda gpu: 4)
    assert check.Cost("CAM", 7200, "image", 2.0, 0, 0).hours == 1
    assert check.Cost("IRN", 7200, "iteration", 2.0, 0, 0).hours == 4
