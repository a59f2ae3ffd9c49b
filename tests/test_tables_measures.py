"""The tables of the critics' measures, from fabricated runs."""

import numpy as np
import pandas as pd
import pytest
from fabricated import swept_from

from ribkit.evaluation import intervals, measures
from ribkit.evaluation.miou import iou, miou
from ribkit.evaluation.thresholds import own_best
from ribkit.results import figures, tables, tables_measures
from ribkit.study import pipeline
from ribkit.study.study import CAM, RIB, Seed, Study

COUNT, CHOICES = 20, {"oracle": 40, "held-out": 35, "mask-free": 50}


def made(level, rng_seed):
    """A `Swept` of images, better by the level; each has a best threshold of its own."""
    random = np.random.default_rng(rng_seed)
    best = random.integers(20, 60, (COUNT, 1))
    hits = random.integers(30, 60, (COUNT, 1)) + level - np.abs(np.arange(100) - best) // 4
    every = np.zeros((COUNT, 100, 9, 9), int)
    every[..., 1, 1], every[..., 1, 0], every[..., 0, 0], every[..., 0, 1] = (
        hits,
        100 - hits,
        90,
        10,
    )
    return swept_from(every)


@pytest.fixture
def study(monkeypatch):
    """RIB beats CAM by 5 pixels in a hundred of every object, in two trainings."""

    def seed(self, method):
        level = {CAM: 0, RIB: 5}.get(method, len(method.title))
        return Seed(None, made(level, self.number), CHOICES)

    monkeypatch.setattr(intervals, "DRAWS", 200)
    monkeypatch.setattr(Study, "seed", seed)
    return Study("mini", "", {"score_images": COUNT, "tune_images": 4, "replicas": 2})


def by_measure(study):
    return tables_measures.measured_gains(study).set_index(["measure", "threshold chosen"])


def test_every_measure_is_the_mean_over_trainings_of_its_own_formula(study):
    table = by_measure(study)
    assert table["trainings"].unique() == [2]
    for name, method in (("CAM", CAM), ("RIB", RIB)):
        swept = [one.seed(method).swept for one in study.replicas]
        expected = {
            ("mIoU", "oracle"): [miou(one.total()[40]) for one in swept],
            ("mIoU", "mask-free"): [miou(one.total()[50]) for one in swept],
            ("mIoU", "each image's own"): [miou(s.at(own_best(s)).sum(axis=0)) for s in swept],
            ("mean IoU over images", "held-out"): [miou(one.at(35)).mean() for one in swept],
            ("worst tenth of images", "held-out"): [
                np.sort(miou(one.at(35)))[:2].mean() for one in swept
            ],
            ("PxAP", "no threshold"): [measures.pxap(one) for one in swept],
        }
        for row, values in expected.items():
            assert table.loc[row, name] == pytest.approx(np.mean(values)), row
    gains = table["RIB"] - table["CAM"]
    np.testing.assert_allclose(table["gain"], gains)
    assert (table["gain_low"] <= gains).all()
    assert (gains <= table["gain_high"]).all()
    assert (table["gain_low"].groupby("measure").min().drop("worst tenth of images") > 0).all()


def test_the_intervals_are_those_of_the_claims(study):
    pairs = [tuple(o.seed(m).at("held-out") for m in (RIB, CAM)) for o in study.replicas]
    expected = intervals.replicated(intervals.gain, pairs)
    row = by_measure(study).loc[("mIoU", "held-out"), ["gain", "gain_low", "gain_high"]]
    np.testing.assert_allclose(row.astype(float), expected)


def test_of_one_training_the_intervals_are_over_images(study):
    alone = Study("mini", "", {"score_images": COUNT, "tune_images": 4, "replicas": 1})
    pair = [alone.seed(method).at("oracle") for method in (RIB, CAM)]
    row = by_measure(alone).loc[("mIoU", "oracle"), ["gain", "gain_low", "gain_high"]]
    np.testing.assert_allclose(row.astype(float), intervals.bootstrap(intervals.gain, *pair))


def test_the_figures_are_drawn_from_the_tables(study):
    figures.draw("measures", tables_measures.measured_gains(study))
    figures.draw("precision_recall", tables_measures.precision_recall(study, "seeds"))
    text = tables.readable(tables_measures.measured_gains(study))
    assert list(text)[:2] == ["measure", "threshold chosen"]


def test_precision_and_recall_are_means_over_classes_and_trainings(study):
    table = tables_measures.precision_recall(study, "seeds")
    row = table[(table["method"] == RIB.title) & table["stage"].str.contains("held-out")].iloc[0]
    counts = [one.seed(RIB).at("held-out").sum(axis=0) for one in study.replicas]
    for name, score in (("precision", measures.precision), ("recall", measures.recall)):
        expected = np.mean([np.nanmean(score(each)) for each in counts])
        assert row[name] == pytest.approx(expected)
        assert row[f"{name}_low"] < expected < row[f"{name}_high"]
    assert len(table) == len(study.methods) * len(CHOICES)


def test_classes_have_their_names_and_those_that_do_not_occur_no_score(study):
    table = tables_measures.class_scores(study, "seeds")
    asked = (table["method"] == CAM.title) & (table["stage"] == "seed, held-out threshold")
    own = table[asked].set_index("class")[["precision", "recall", "iou"]]
    assert own.index.tolist() == ["background", *study.scored.classes]
    counts = [one.seed(CAM).at("held-out").sum(axis=0) for one in study.replicas]
    np.testing.assert_allclose(own["iou"], np.mean([iou(each) for each in counts], axis=0))
    assert own.iloc[:2].notna().all().all()
    assert own.iloc[2:].isna().all().all()
    assert len(table) == len(study.methods) * len(own)  # at one threshold alone


def test_labels_and_networks_are_scored_by_stage(study, monkeypatch):
    counts = made(0, 0).at(40)

    monkeypatch.setattr(tables_measures, "stage_counts", lambda *asked: [counts])
    monkeypatch.setattr(pipeline, "network_counts", lambda *asked: [counts, counts])
    table = tables_measures.precision_recall(study, "labels")
    assert table["stage"].unique().tolist() == list(pipeline.available_stages(study))
    assert set(table["method"]) == set(pipeline.STARTS)
    networks = tables_measures.precision_recall(study, "networks")
    assert len(networks) == 2 * len(pipeline.sources(study))
    assert networks["trainings"].unique() == [2]


def test_a_rank_correlation_needs_six_points_that_differ_and_says_so(study, monkeypatch):
    nothing = [np.nan] * 2
    scores = pd.DataFrame(
        {"a": range(8), "b": [0, 1, 2, 3, 5, 4, *nothing], "c": [*nothing * 3, 5, 6], "d": [7] * 8},
        index=pd.MultiIndex.from_product([("CAM", "RIB"), range(4)], names=["method", "training"]),
    )
    monkeypatch.setattr(tables_measures, "_all_scores", lambda study: scores)
    table = tables_measures.rank_correlations(study).set_index(["score", "against"])
    assert table.loc[("a", "b")].tolist() == [6, 2, "+0.94"]  # 1 - 6 (1 + 1) / (6 (36 - 1))
    assert table.loc[("a", "c")].tolist() == [2, 1, "fewer than 6 points"]
    assert table.loc[("a", "d")].tolist() == [8, 2, "all equal"]
    assert table.loc[("b", "c"), "points"] == 0


def test_scores_are_matched_by_method_and_training_seed(study, monkeypatch):
    networks = {"CAM": 1, "RIB": 2, "CAM + saliency": 3, "RIB + saliency": 3}
    networks |= {"ground truth": 9}
    monkeypatch.setattr(
        pipeline,
        "network_counts",
        lambda study, source, crf: [made(networks[source], k).at(40) for k in (0, 1)],
    )
    monkeypatch.setattr(tables_measures, "_label_miou", lambda one, source: 50.0 + one.number)
    table = tables_measures._all_scores(study)
    methods = {*(m.title for m in study.methods[:-1]), "RIB", "CAM + saliency", "RIB + saliency"}
    assert set(table.index) == {(method, seed) for method in methods for seed in (0, 1)}
    known = table["network mIoU"].dropna().index
    assert set(known.get_level_values("method")) == set(networks) - {"ground truth"}
    assert table.loc[("RIB + saliency", 1)].isna().tolist() == [True, True, False, False]
    assert table.loc[("CAM", 1), "label mIoU"] == 51
    assert table.loc[("RIB", 0), "seed mIoU"] > table.loc[("CAM", 0), "seed mIoU"]
