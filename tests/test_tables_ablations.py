"""The ablations' tables, from fabricated runs."""

import dataclasses
import zlib

import numpy as np
import pytest
from fabricated import swept_from

from ribkit.data.images import ImageSet
from ribkit.evaluation import intervals, miou
from ribkit.method.settings import Settings
from ribkit.results import figures, tables, tables_ablations
from ribkit.study import ablation_runs, pipeline
from ribkit.study.ablation_runs import RunResult
from ribkit.study.pipeline import Refined
from ribkit.study.study import Study

COUNT, LITE = 30, "efficientnet_lite0"


def made(level, random):
    """A `Swept` of 30 images, better by the level, best at threshold 40."""
    hits = random.integers(30, 60, (COUNT, 1)) + level - np.abs(np.arange(100) - 40) // 4
    every = np.zeros((COUNT, 100, 2, 2), int)
    every[..., 1, 1], every[..., 1, 0], every[..., 0, 0] = hits, 100 - hits, 100
    return swept_from(every)


@pytest.fixture
def study(monkeypatch):
    """RIB beats CAM by 5 points of the object, the maximum loses 5; all else is as RIB."""

    def run_result(study, run):
        level = 0 if run.settings is None else {"maximum": -5}.get(run.value, 5)
        every = made(level, np.random.default_rng(0))
        parts = np.tile([0.9, 0.5 + level / 100, 0.1], (COUNT, 1))
        return RunResult(every.at(40), parts, parts, every, 10.0)

    monkeypatch.setattr(ablation_runs, "run_result", run_result)
    monkeypatch.setattr(Study, "settings", lambda self, method: Settings(margin=1e9))
    monkeypatch.setattr(Study, "margin_unit", lambda self, method: 5.0)
    monkeypatch.setattr(Study, "scales", (1.0,))
    return Study("mini", "", {"score_images": COUNT, "tune_images": 4})


@pytest.fixture
def together(monkeypatch):
    """How many comparisons had their intervals made together, each time."""
    counts, simultaneous = [], tables_ablations.simultaneous
    monkeypatch.setattr(
        tables_ablations,
        "simultaneous",
        lambda statistic, family: counts.append(len(family)) or simultaneous(statistic, family),
    )
    return counts


def test_gains_are_over_cam_and_corrected_for_their_question(study, together):
    question = {name: tables_ablations.family(study, name) for name in ("RQ1", "RQ2", "RQ3")}
    assert together == [len(table) for table in question.values()]
    for name, table in question.items():
        assert table["value"][:2].tolist() == ["CAM", "RIB"]
        assert set(table["question"][2:]) == {name}
    first, second, third = (t.set_index(["factor", "value"]) for t in question.values())
    assert second.loc[("pooling", "maximum"), "gain_high"] < 0
    assert second.loc[("pooling", "GAP"), "gain_low"] > 0
    assert third.loc[("steps K", "0"), "gain"] == 0
    assert first.loc[("activation", "none"), "cover body"] == pytest.approx(55)
    text = tables.readable(tables_ablations.family(study, "RQ2"))
    assert list(text["value"][:2]) == ["CAM", "RIB"]
    assert "gain (points)" in text


def test_with_relu_inside_a_gain_is_over_cam_with_relu_inside(study, monkeypatch):
    monkeypatch.setattr(study, "profile", dataclasses.replace(study.profile, backbone=LITE))
    levels = {("CAM", True): 0, ("RIB", True): 6, ("CAM", False): 4, ("RIB", False): 5}

    def run_result(study, run):
        every = made(levels.get((run.value, run.saturates), 5), np.random.default_rng(0))
        return RunResult(every.at(40), np.ones((COUNT, 3)), np.ones((COUNT, 3)), every, 10.0)

    monkeypatch.setattr(ablation_runs, "run_result", run_result)
    table = tables_ablations.family(study, "RQ1").set_index(["factor", "value"])
    inside = table.loc[ablation_runs.UNSATURATED]
    assert inside.loc["CAM", "gain"] == 0
    one_point = inside.loc["RIB", "gain"]  # five points would be over CAM with ReLU6
    assert one_point == pytest.approx(inside.loc["RIB", "miou"] - inside.loc["CAM", "miou"])
    assert table.loc[("baseline", "RIB"), "gain"] > 5 * one_point > 0


def test_the_curves_hold_the_chosen_setting_once(study):
    table = tables_ablations.sensitivity(study)
    for factor, x in (("steps K", 10), ("others B", 20), ("learning rate", 8e-6)):
        own = table[table["factor"] == factor]
        assert (own["x"] == x).sum() == 1, factor
        assert own["x"].is_monotonic_increasing
        assert own.loc[own["chosen"], "x"].tolist() == [x]
    assert table.loc[table["chosen"] & (table["factor"] == "margin"), "x"].tolist() == [0]
    assert table["factor"].iloc[0] == "baseline"
    figures.draw("sensitivity", table)


def test_the_ledger_has_every_difference_once_and_in_order(study, monkeypatch, together):
    pair = tuple(made(level, np.random.default_rng(1)).at(40) for level in (3, 0))
    monkeypatch.setattr(tables_ablations, "_walked_both_ways", lambda s: pair)
    study.profile = dataclasses.replace(study.profile, saliency="")
    table = tables_ablations.ledger(study)
    assert together == [len(table)]
    numbers = [words.split()[0] for words in table["difference"]]
    assert list(dict.fromkeys(numbers)) == [
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        "8",
        "9",
        "10",
        "all",
    ]
    assert table.set_index("difference").loc["10 maps into the walk", "gain"] > 0
    against = table.set_index(["difference", "value"])["against"]
    assert against["5 scale 0.5", "in the loss"] == "a map, no loss"  # on the same scales
    assert against["3 classes"].tolist() == against["7 momentum"].unique().tolist() == ["paper"]
    rows = table[table["difference"].str.match("[1-8] ")]
    assert rows["gain"].abs().max() == 0  # fabricated alike
    figures.draw("ledger", table)


def test_the_interaction_is_the_difference_of_two_gains(study, monkeypatch, together):
    levels = {"CAM": {"seed": 0, "+ CRF": 4}, "RIB": {"seed": 2, "+ CRF": 10}}

    def refinement(title):
        def stage(name):
            level = levels[title].get(name, levels[title]["seed"])
            return Refined(None, made(level, np.random.default_rng(2)).at(40), None, None)

        return type("Own", (), {"stage": staticmethod(stage)})

    monkeypatch.setattr(pipeline, "refinement", lambda study, title: refinement(title))
    table = tables_ablations.interaction(study).set_index("stage")
    assert together == [len(table)]
    row = table.loc["+ CRF"]
    assert row["beyond"] == pytest.approx(row["on RIB"] - row["on CAM"])
    assert row["beyond_low"] > 0
    assert table.loc["+ PSA", "beyond"] == 0
    assert set(table.index) == set(pipeline.STAGES) - {"seed"}


def test_the_best_of_many_equal_settings_looks_too_good(study, monkeypatch):
    def run_result(study, run):
        key = zlib.crc32(f"{run.factor} {run.value}".encode())
        every = made(0, np.random.default_rng(key))
        return RunResult(every.at(40), None, None, every, 10.0)

    monkeypatch.setattr(ablation_runs, "run_result", run_result)
    table = tables_ablations.best_of(study, draws=100).set_index("tried")
    assert abs(table.loc[1, "bias"]) < 3 * table.loc[1, "error"] + 0.3
    assert table["bias"].iloc[-1] > 5 * table["error"].iloc[-1]
    assert table["bias"].is_monotonic_increasing


def test_the_protocol_counts_images_from_the_standard_error(study, monkeypatch):
    after = made(5, np.random.default_rng(3))
    before = made(0, np.random.default_rng(3))

    def seed(self, method):
        every = before if method.title == "CAM" else after
        at = staticmethod(lambda c: every.at(40 if c == "oracle" else 35))
        return type("Seed", (), {"at": at, "swept": every})

    monkeypatch.setattr(Study, "seed", seed)
    monkeypatch.setattr(Study, "seeds", lambda self, method, images: [method])
    swept = made(0, np.random.default_rng(4))
    monkeypatch.setattr(Study, "swept", lambda self, images, method: swept)
    monkeypatch.setattr(Study, "stilled", lambda self, method: False)
    table = tables_ablations.protocol(study).set_index("quantity")["value"]
    error = np.std(intervals.resample(intervals.gain, after.at(35), before.at(35))[1], ddof=1)
    row = [value for name, value in table.items() if name.endswith("apart, paired")]
    assert row == [intervals.images_needed(error, COUNT)]
    optimism = [value for name, value in table.items() if name.startswith("oracle")]
    best = miou.miou(after.total()[40]) - miou.miou(after.total()[35])
    assert optimism[0] == pytest.approx(best, abs=0.2)
    assert table["the same of its gain over CAM"] == 0
    # whatever tuning images are drawn, both have the same threshold there: 40, or one beside it
    gains = miou.miou(after.total()) - miou.miou(before.total())
    error = table[
        "standard error by which 4 tuning images choose thresholds, of the mean over 2 trainings"
    ]
    assert 0 <= error <= np.ptp(gains[36:44])
    # how alike CAM's maps and RIB's are says nothing where tuning left RIB still
    monkeypatch.setattr(Study, "stilled", lambda self, method: True)
    still = tables_ablations.protocol(study).set_index("quantity")["value"]
    left_out = set(table.index) - set(still.index)
    assert left_out == {
        f"standard error of RIB's gain over {COUNT} images, paired",
        "images that tell 1 point apart, paired",
        "the same of its gain over CAM",
    }


def test_thresholds_vary_with_the_images_that_choose_them():
    scores = np.arange(100.0)
    tuning = np.zeros((2, 100, 3, 2), int)  # two draws: best at 10 and at 30
    tuning[:, :, 1:] = 2
    tuning[0, 10, 0] = tuning[1, 30, 0] = 2
    other = tuning[::-1]
    found = tables_ablations._gain_at_best(scores, 2 * scores, tuning, other)
    assert found.tolist() == [10 - 60, 30 - 20]


@pytest.mark.parametrize(
    ("names", "titles"),
    [
        (("a.1", "a.2", "000139"), ["a.1, cat", "a.2, cat", "000139, cat"]),
        (("chelsea.png", "rocket.jpg"), ["chelsea, cat", "rocket, cat"]),
    ],
)
def test_every_image_has_a_title_of_its_own(names, titles):
    images = ImageSet(names, ("cat",), np.ones((len(names), 1), bool), None)
    assert [title for title, _, _ in tables.each_class(images)] == titles
