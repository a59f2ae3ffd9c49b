"""The controls' tables and words, from made-up seeds, rivals and doses."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from fabricated import IMAGES, confusions, pooled, swept_from

from ribkit.evaluation import intervals
from ribkit.evaluation.intervals import gain, replicated
from ribkit.evaluation.miou import counts
from ribkit.evaluation.tuning import Tuned
from ribkit.results import figures, tables_controls
from ribkit.study import ablation_runs, pipeline
from ribkit.study.study import CAM, RIB, RIBS, RIVALS, Seed, Study

NORM, SMOOTHED = RIVALS["norm"], RIVALS["smoothing"]
CHANGES = {"ablations.usual_textures": "0,1", "score_images": IMAGES, "tune_images": 4}


@pytest.fixture
def levels():
    """How good each method is; "few": the network; by dose: how far CAM is below that."""
    ranks = {CAM: 0, NORM: 0, SMOOTHED: 0, RIB: 6, "few": 3}
    return ranks | {"below": {0.0: 0, 0.7: 0, 1.0: 0}}


@pytest.fixture
def study(levels, monkeypatch):
    """Two trainings, whose best rivals are the norm's and the smoothing's."""

    def seed(self, method):
        level = levels.get(method, 1)
        if method == CAM:
            level -= levels["below"][self.profile.usual_texture]
        other = np.repeat(confusions(-20)[:, None], 100, axis=1)
        other[:, 30] = confusions(level, self.number)  # only the threshold held out is any good
        return Seed(None, swept_from(other), {"oracle": 20, "held-out": 30, "mask-free": 40})

    def few(study):
        return [counts(confusions(levels["few"], one.number)) for one in study.replicas]

    def coverage(one, method):
        covered = 0.25 if method == CAM else 0.5 + 0.1 * one.profile.usual_texture
        named = {"image": np.arange(IMAGES), "class": "cat", "size": 0.3}
        return pd.DataFrame(named | {"body": covered + 0.2 * one.number, "auc body": covered})

    monkeypatch.setattr(Study, "seed", seed)
    monkeypatch.setattr(pipeline, "few_masks_counts", few)
    monkeypatch.setattr(Study, "coverage", coverage)
    best = property(lambda self: (NORM, SMOOTHED)[self.number])
    monkeypatch.setattr(Study, "best_rival", best)
    moves = Tuned(pd.DataFrame({"stage": ["lr"], "lr": [1.0], "edge": [""]}), {"lr": 1.0})
    monkeypatch.setattr(Study, "tuned", lambda one, method: moves)
    return Study("mini", "", CHANGES)


def over_seeds(after, before):
    """The gain of one level over another, a mean over two trainings."""
    return np.mean([pooled(after, k) - pooled(before, k) for k in (0, 1)])


# ---- what is compared ---------------------------------------------------------------------------
def test_rivals_ribs_and_few_masks_are_compared_with_cam_at_the_held_out_threshold(study):
    table = tables_controls.compared(study)
    assert table["kind"].tolist() == ["rival"] * 3 + ["RIB"] * 4 + ["few masks"]
    titles = [method.title for method in study.methods if method != CAM]
    assert table["method"].tolist() == [*titles, "network from 4"]
    assert set(table["images"]) == {IMAGES}
    assert set(table["trainings"]) == {2}
    rows = table.set_index("method")
    for name, level in ((NORM.title, 0), (RIB.title, 6), ("network from 4", 3)):
        assert rows.loc[name, "gain"] == pytest.approx(over_seeds(level, 0))
        assert rows.loc[name, "miou"] == pytest.approx(np.mean([pooled(level, k) for k in (0, 1)]))
        assert rows.loc[name, "gain_low"] <= rows.loc[name, "gain"] <= rows.loc[name, "gain_high"]
    assert rows.loc[NORM.title, ["gain", "gain_low", "gain_high"]].tolist() == [0, 0, 0]
    assert not table.isna().any(axis=None)
    figures.draw("controls", table)


def test_without_rivals_there_are_the_ribs_and_few_masks(levels, study):
    plain = Study("mini", "", CHANGES | {"norms": (), "smoothings": (0,), "percentiles": (100,)})
    assert set(tables_controls.compared(plain)["kind"]) == {"RIB", "few masks"}


# ---- doses --------------------------------------------------------------------------------------
def test_doses_are_of_the_same_study_on_scenes_of_another_kind(study):
    doses = ablation_runs.doses(study)
    assert list(doses) == [0.0, 0.7, 1.0]
    assert doses[0.7] is study
    for dose, other in doses.items():
        assert other.profile == dataclasses.replace(study.profile, usual_texture=dose)
        assert other.store is study.store
        assert other.scored.source.usual_texture == dose
        assert other.train.source.usual_texture == dose
    alone = Study("mini", "", CHANGES | {"ablations.usual_textures": ()})
    assert ablation_runs.doses(alone) == {0.7: alone}


def test_the_gain_is_told_by_dose(study, levels):
    levels["below"] = {0.0: 1, 0.7: 2, 1.0: 8}
    table = tables_controls.dose_response(study).set_index("usual texture")
    assert table.index.tolist() == [0.0, 0.7, 1.0]
    for dose, below in levels["below"].items():
        assert table.loc[dose, "gain"] == pytest.approx(over_seeds(6, -below))
    assert table["CAM covers"].tolist() == pytest.approx([35] * 3)  # 25 and 45 %
    assert table["RIB covers"].tolist() == pytest.approx([60, 67, 70])
    assert set(table["trainings"]) == {2}
    figures.draw("doses", table.reset_index())


def test_photographs_have_no_doses(study, monkeypatch, tmp_path):
    monkeypatch.setattr(
        study, "profile", dataclasses.replace(study.profile, data="voc", saliency="")
    )
    table = tables_controls.dose_response.__wrapped__(study)
    assert table.empty
    figures.save("doses", table, tmp_path)
    assert figures.read(tmp_path / "doses.csv").empty


def test_pairs_are_by_training_seed(study, levels):
    for rng_seed, (after, before) in enumerate(tables_controls.rib_against(study, CAM)):
        assert (after == counts(confusions(6, rng_seed))).all()
        assert (before == counts(confusions(0, rng_seed))).all()
    levels[NORM], levels[SMOOTHED] = 2, 5  # each training's own rival
    beyond = replicated(gain, tables_controls.rib_against(study))
    expected = pooled(6, 0) - pooled(2, 0) + pooled(6, 1) - pooled(5, 1)
    assert beyond[0] == pytest.approx(expected / 2)


# ---- words --------------------------------------------------------------------------------------
def test_where_no_rival_was_tried_nothing_is_said_of_one(study, monkeypatch):
    assert "rival" in tables_controls.meaning(study)
    monkeypatch.setattr(Study, "rivals", ())
    assert "rival" not in tables_controls.meaning(study)


@pytest.mark.parametrize(("level", "words"), [(0, 0), (6, 1), (12, 2)])
def test_what_rivals_say_follows_from_the_interval(study, levels, level, words):
    levels[NORM] = levels[SMOOTHED] = level
    text = tables_controls.meaning(study)
    beyond = replicated(gain, tables_controls.rib_against(study))
    assert (beyond[1] > 0, beyond[1] <= 0 <= beyond[2], beyond[2] < 0).index(True) == words
    said = [sentence in text for sentence in tables_controls.RIVAL_WORDS]
    assert said == [k == words for k in range(3)]
    assert f"{NORM.title} (1 of 2), {SMOOTHED.title} (1 of 2)" in text
    assert f"RIB's seeds differ from CAM's by {over_seeds(6, 0):+.2f} points" in text


@pytest.mark.parametrize(("level", "words"), [(0, 0), (6, 1), (12, 2)])
def test_what_the_pooling_has_of_the_gain_follows_from_the_interval(study, levels, level, words):
    levels[RIBS[2]] = level
    text = tables_controls.meaning(study)
    said = [sentence in text for sentence in tables_controls.POOLING_WORDS]
    assert said == [k == words for k in range(3)]
    assert f"GNDRP in place of GAP gains {over_seeds(6, level):+.2f} points" in text


@pytest.mark.parametrize(("most", "words"), [(8, 0), (0, 1), (-8, 2)])
def test_what_doses_say_follows_from_the_interval(study, levels, most, words):
    levels["below"] = {0.0: 0, 0.7: 0, 1.0: most}
    text = tables_controls.meaning(study)
    said = [sentence in text for sentence in tables_controls.DOSE_WORDS]
    assert said == [k == words for k in range(3)]
    doses = ablation_runs.doses(study)
    dosed = tables_controls.dose_counts(doses[1.0], doses[0.0])
    more = replicated(intervals.more_gain, dosed)
    assert more[0] == pytest.approx(over_seeds(6, -most) - over_seeds(6, 0))
    assert (more[1] > 0, more[1] <= 0 <= more[2], more[2] < 0).index(True) == words


def test_where_rib_loses_at_the_highest_dose_too_nothing_is_called_a_gain(study, levels):
    levels[RIB], levels["below"] = -20, {0.0: 0, 0.7: 0, 1.0: 8}
    text = tables_controls.meaning(study)
    assert tables_controls.NO_DOSE_GAIN in text
    assert tables_controls.DOSE_WORDS[0] not in text
    assert f"RIB's seeds differ from CAM's by {over_seeds(-20, 0):+.2f} points" in text


@pytest.mark.parametrize(("more", "words"), [(20, 0), (0, 1), (-20, 2)])
def test_whether_a_rival_reaches_as_far_follows_from_the_interval(
    study, levels, monkeypatch, more, words
):
    def coverage(one, method):
        body = np.linspace(0.4, 0.5, IMAGES) + (method == RIB) * more / 100
        return pd.DataFrame({"image": range(IMAGES), "class": "cat", "size": 0.3, "body": body})

    monkeypatch.setattr(Study, "coverage", coverage)
    text = tables_controls.meaning(study)
    said = [sentence in text for sentence in tables_controls.COVER_WORDS]
    assert said == [k == words for k in range(3)]
    assert f"Of bodies RIB covers {more:+.2f} points" in text


def test_a_rib_that_tuning_stilled_is_read_with_care(study, monkeypatch):
    assert not tables_controls.meaning(study).startswith("Read with care")
    monkeypatch.setattr(Study, "stilled", lambda one, method: one.number == 0)
    text = tables_controls.meaning(study)
    assert text.startswith("Read with care: in 1 of 2 trainings tuning left RIB at the lowest")
    assert "Read with care: of both kinds of scenes, in 2 of 4 trainings" in text


def test_one_dose_says_nothing_of_doses(study):
    alone = Study("mini", "", CHANGES | {"ablations.usual_textures": ()})
    text = tables_controls.meaning(alone)
    assert not any(words in text for words in tables_controls.DOSE_WORDS)
    assert "Where bodies tell least" not in text


@pytest.mark.parametrize(("few", "word"), [(3, 2), (6, 1), (12, 0)])
def test_few_masks_are_worth_more_than_rib_only_where_they_gain_more(study, levels, few, word):
    levels["few"] = few
    text = tables_controls.meaning(study)
    assert f"learned from the 4 tuning masks alone gains {over_seeds(few, 6):+.2f}" in text
    assert tables_controls.FEW_WORDS[word] in text


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.1, 2, "above"), (0, 2, "spans"), (-2, 0, "spans"), (0, 0, "spans"), (-2, -0.1, "below")],
)
def test_the_ends_of_an_interval_belong_to_it(low, high, word):
    words = ("above", "spans", "below")
    assert tables_controls._told(((low + high) / 2, low, high), *words) == word
    assert "tells nothing" in tables_controls._told((1.0, np.nan, np.nan), *words)
