"""From seeds to a scored network, on a handful of scenes whose seeds are made up."""

import dataclasses
import re

import numpy as np
import pytest

from ribkit.data import scenes
from ribkit.evaluation import tuning
from ribkit.evaluation.miou import miou
from ribkit.networks.configs import AffinityConfig
from ribkit.refinement.random_walk import WALKS
from ribkit.results import figures, report, tables, tables_ablations, tables_rq4
from ribkit.runtime.store import Store, stage
from ribkit.study import pipeline, predictions
from ribkit.study.pipeline import FEW, Refinement
from ribkit.study.study import CAM, RIB, RIVALS, Study

HEADS = AffinityConfig(stride=4, radius=3, epochs=1, batch=4, lr=0.05, crop=48)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """RIB's maps are the objects, CAM's and the rival's only upper parts of them, the rival's
    longer ones; nothing was trained before. In the second training CAM is the best rival itself.
    """
    patched = pytest.MonkeyPatch()
    patched.setattr(pipeline, "SALIENT_SCENES", 4)
    patched.setattr(Study, "pretext_of", lambda self, backbone: None)
    rivals, rows = (RIVALS["norm"], CAM), {CAM: 8, RIVALS["norm"]: 12, RIB: 64}
    patched.setattr(Study, "best_rival", property(lambda self: rivals[self.number]))
    found = Study("mini", "", {"score_images": 4, "tune_images": 2, "val_images": 3, "replicas": 2})
    found.store = Store(tmp_path_factory.mktemp("store"))
    network = dataclasses.replace(found.profile.network, iterations=2, batch=2, crop=48)
    found.profile = dataclasses.replace(
        found.profile,
        irn=HEADS,
        psa=HEADS,
        network=network,
        psa_alphas=(4.0, 16.0),
        psa_log2_steps=(4, 6, 8),
        irn_log2_steps=(3, 4),
    )

    def seeds(self, images):
        arrays, upper = {}, rows[self.method]
        for i, name in enumerate(images.ids):
            shown = [images.mask(i) == k + 1 for k in np.flatnonzero(images.labels[i])]
            shown = [m & (np.cumsum(m.any(axis=1))[:, None] <= upper) for m in shown]
            arrays[name] = 0.8 * np.stack(shown).astype(np.float16)
        key = f"seeds-{upper}-{images.source.rng_seed}"
        result = self.study.store.run(stage(key)(lambda: {"maps": arrays}))
        return images, result.arrays("maps")

    patched.setattr(Refinement, "_seeds", seeds)
    patched.setattr(Refinement, "threshold", 0.4)
    yield found
    patched.undo()


def test_every_stage_has_labels_for_every_scored_image(study):
    for own in pipeline.refinements(study).values():
        for name in pipeline.available_stages(study):
            refined = own.stage(name)
            assert set(refined.labels.arrays("labels")) == set(study.scored.ids)
            assert refined.counts[:, 1].sum() == refined.confusion.sum() == 4 * 64 * 64
            assert refined.background.shape == (4, 3, 9)


def test_scores_are_of_each_stage_and_paired(study):
    table = tables_rq4.refinement_scores(study).set_index(["method", "stage"])
    assert {stage.split(",")[0] for _, stage in table.index} == set(pipeline.STAGES)
    assert np.isnan(table.loc[("CAM", "seed"), "over_seed"])
    assert table.loc[("RIB", "seed"), "miou"] == pytest.approx(100)
    assert table.loc[("RIB", "seed"), "over_cam_low"] > 0
    rival = table.loc[("best rival", "seed"), ["over_cam", "miou"]]
    assert 0 < rival["over_cam"] < table.loc[("RIB", "seed"), "over_cam"]  # in one training of two
    assert table.loc[("CAM", "seed"), "miou"] + rival["over_cam"] == pytest.approx(rival["miou"])
    text = tables.readable(table.reset_index())
    assert text["gain over the seed"][0] == ""
    assert re.fullmatch(r"100\.0 \(\d+\.\d to 100\.0\)", text["mIoU (%)"][2])


def test_both_walks_are_tuned_one_setting_after_another(study):
    for method in pipeline.refinements(study).values():
        table = method.psa_tuned.table
        stages, alphas = table["stage"].tolist(), table.query("stage == 'alpha'")["alpha"].tolist()
        assert stages == ["alpha"] * len(alphas) + ["log2_steps"] * 3
        assert {4, 16} <= set(alphas) <= {0.062, 0.25, 1, 4, 16, 64, 256, 1000}  # it goes on
        assert len(alphas) <= 2 + tuning.MORE
        assert method.psa_tuned.trials == len(alphas) + 2
        assert method.psa_tuned.chosen["alpha"] in alphas
        assert table["threshold"].isna().all()
        table, chosen = method.irn_tuned.table, method.irn_tuned.chosen
        assert table["stage"].tolist() == ["log2_steps"] * 2
        assert table["log2_steps"].tolist() == [3, 4]
        assert method.walk == dataclasses.replace(WALKS["official"], **chosen)
        row = table[table["log2_steps"] == chosen["log2_steps"]].iloc[0]
        assert row["chosen"]
        assert row["threshold"] == method.irn_threshold
        assert row["miou"] >= table["miou"].max() - row["error"]
        images, maps = method.tuning
        counts, threshold = study.best(images, method.irn_maps(images, maps))
        assert miou(counts.sum(axis=0)) == pytest.approx(row["miou"])
        assert threshold == row["threshold"]
    choices = tables_rq4.walk_choices(study)
    assert choices["walk"].tolist() == ["IRN"] * 6 + ["PSA"] * 6
    tuned = [own.psa_tuned for one in study.replicas for own in pipeline.refinements(one).values()]
    assert choices["trials"].tolist() == [2] * 6 + [each.trials for each in tuned]
    alphas = [None] * 6 + [each.table["alpha"] for each in tuned]
    assert set(choices["training"]) == {0, 1}
    p, ends = study.profile, {"lowest": min, "highest": max}
    steps = {"IRN": p.irn_log2_steps, "PSA": p.psa_log2_steps}
    for row, tried in zip(choices.to_dict("records"), alphas, strict=True):
        grids = {"alpha": tried, "log2_steps": steps[row["walk"]]}
        for words in filter(None, row["at an edge"].split(", ")):
            which, name = words.split()
            assert row[name] == ends[which](grids[name])


def test_the_curves_of_irn_and_psa_are_of_each_training(study):
    table = tables_rq4.affinity_curves(study)
    assert table["network"].tolist() == ["IRN"] * 6 + ["PSA"] * 6  # of one epoch each
    for one in study.replicas:
        for title, own in pipeline.refinements(one).items():
            rows = table[(table["method"] == title) & (table["training"] == one.training_seed)]
            stored = [model.weights.result.table("history") for model in (own.irn, own.psa)]
            assert rows["loss"].tolist() == [history["loss"].item() for history in stored]


def test_another_walk_makes_other_maps_than_the_chosen_one(study):
    rib = pipeline.refinement(study, "RIB")
    images, maps = rib.tuning
    chosen = rib.irn_maps(images, maps)
    assert rib.irn_maps(images, maps, rib.walk) == chosen
    paper = dataclasses.replace(WALKS["paper"], **rib.irn_tuned.chosen)
    other = rib.irn_maps(images, maps, paper)
    assert any((other[name] != chosen[name]).any() for name in images.ids)


def test_the_walks_of_both_codes_are_as_long_as_the_tuned_one(study):
    official, paper = tables_ablations._walked_both_ways(study)
    walked = pipeline.refinement(study, "RIB").stage("+ IRN").counts
    assert (official == walked).all()  # the walk that was chosen, at the threshold chosen
    assert paper.shape == walked.shape
    assert (paper != walked).any()


def test_few_masks_teach_a_network_of_each_training_seed_that_knows_the_classes(study):
    counts = pipeline.few_masks_counts(study)
    assert len(counts) == len(study.replicas) == 2
    assert pipeline.labelled(study, FEW) == ((study.tuning, None),)
    trained = [pipeline.network(one, FEW).weights.fingerprint() for one in study.replicas]
    assert trained[0] != trained[1]
    assert trained[0] != pipeline.network(study, "ground truth").weights.fingerprint()
    n_labels = len(study.scored.classes) + 1
    for one, replica in zip(counts, study.replicas, strict=True):
        assert one.shape == (4, 3, n_labels)
        masks = [study.scored.mask(i) for i in range(4)]
        there = [np.bincount(mask.ravel(), minlength=n_labels) for mask in masks]
        assert (one[:, 1] == there).all()
        # no class that an image does not show is predicted
        shown = np.pad(study.scored.labels, ((0, 0), (1, 0)), constant_values=True)
        seen = {"model": pipeline.network(replica, FEW), "images": study.scored}
        how = {"scales": study.profile.test_scales, "long_side": None}
        made = study.store.run(predictions.predict_present, **seen, **how).arrays("labels")
        for i, name in enumerate(study.scored.ids):
            labels = made[name]
            assert labels.shape == (64, 64)
            assert shown[i][np.unique(labels)].all()
            assert (one[i] == counted(labels, masks[i], n_labels)).all()


def counted(labels, mask, n_labels):
    """Counts of one image, by hand: hits, true and predicted pixels of each label."""
    every = np.arange(n_labels)[:, None, None]
    return np.stack([((labels == every) & (mask == every)), mask == every, labels == every]).sum(
        axis=(2, 3)
    )


def test_errors_of_a_confusion_by_hand():
    # targets 0, 1, 2; predictions 0, 1, 2, none
    confusion = np.array([[50, 5, 5, 2], [4, 10, 3, 1], [6, 2, 12, 0]])
    shares = tables_rq4.error_shares(confusion)
    assert shares == {
        "false negative": 10, "false positive": 10, "wrong class": 5, "ignored": 3,
    }  # fmt: skip


def test_judged_pixels_by_hand():
    mask = np.array([[0, 1, 1, 0, 1, 255, 1]], np.uint8)
    labels = np.array([[0, 1, 0, 1, 2, 1, 255]], np.uint8)
    seen = tables_rq4.judged(labels, mask)[0]
    expected = [colour for _, colour in tables_rq4.KINDS]
    assert [tuple(c) for c in seen.tolist()] == [*expected, expected[5]]


def test_networks_are_scored_on_images_of_their_own(study):
    table = tables_rq4.network_scores(study)
    assert list(table["trained on"].unique()) == [
        "CAM",
        "RIB",
        "CAM + saliency",
        "RIB + saliency",
        "ground truth",
    ]
    assert set(table["trainings"]) == {2}
    assert set(table["images"]) == {3}
    sets = (study.scored, study.tuning, study.train, study.validation)
    assert len({images.source.rng_seed for images in sets}) == 4


def test_a_network_is_counted_with_and_without_the_crf(study):
    made, counts = pipeline.network_labels(study, "CAM"), []
    for refined, value in ((True, "refined"), (False, "labels")):
        counts.append(pipeline.network_counts(study, "CAM", refined)[0])
        own = pipeline.label_counts(study, study.validation, made.arrays(value))
        assert (counts[-1] == own).all()
    assert (counts[0] != counts[1]).any()


def test_networks_learn_from_further_images_too(study, monkeypatch):
    remaining_images = scenes.generate(99, 2)
    shown = {n: remaining_images.labels[i].sum() for i, n in enumerate(remaining_images.ids)}
    maps = {n: np.full((k, 64, 64), 0.8, np.float16) for n, k in shown.items()}
    seeds = study.store.run(stage("further")(lambda: {"maps": maps})).arrays("maps")
    plain = pipeline.labelled(study, "RIB")
    assert [images for images, _ in plain] == [study.scored]
    monkeypatch.setattr(study, "remaining_images", (remaining_images,))
    monkeypatch.setattr(Refinement, "remaining", ((remaining_images, seeds),))
    rib = Refinement(study, RIB)
    assert [len(images) for images, _ in rib.training_labels] == [4, 2, 2]
    parts = rib.pseudo("seed")
    assert [images for images, _ in parts] == [study.scored, remaining_images]
    assert set(parts[1][1]) == set(remaining_images.ids)
    assert rib.stage("seed").labels.arrays("labels") == parts[0][1]
    assert pipeline.labelled(study, "ground truth") == (
        (study.scored, None),
        (remaining_images, None),
    )


def test_every_picture_is_drawn(study, tmp_path):
    made = {
        "refined": tables_rq4.refined(study),
        "walks": tables_rq4.walks(study, 1),
        "predictions": tables_rq4.predictions(study, (0, 7)),
        "worst": tables_rq4.worst(study, 1),
        "refinement_errors": tables_rq4.errors(study),
    }
    for name, content in made.items():
        figures.save(name, content, tmp_path)


def test_claims_of_rq4_are_measured(study):
    found = report.measured(study, "04") | report.measured(study, "05")
    names = {"crf-seed", "psa-seed", "irn-seed", "rib-pseudo", "rib-pseudo-rival", "rib-network"}
    names |= {"saliency-network", "rib-network-saliency"}
    assert set(found) == names
    assert all(m.low <= m.difference <= m.high for m in found.values())


def test_without_saliency_maps_there_is_no_stage_with_them(study):
    without = Study("mini", "", {"saliency": ""})
    assert pipeline.available_stages(without) == pipeline.STAGES[:-1]
    assert pipeline.sources(without) == ("CAM", "RIB", "ground truth")
    assert pipeline.refinement(without, "RIB").method == RIB


def test_the_best_rival_goes_through_the_stages_once_where_it_is_cam(study):
    first, second = map(pipeline.refinements, study.replicas)
    assert list(first) == list(second) == ["CAM", "best rival", "RIB"]
    assert first["best rival"].method == RIVALS["norm"]
    assert second["best rival"] is second["CAM"]
    assert len(pipeline.prepared(study.replicas, "irn")) == 3 + 2
