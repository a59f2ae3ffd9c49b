"""Tables of what maps cover, and where RIB's gain comes from, from made-up coverage."""

import numpy as np
import pandas as pd
import pytest

from ribkit.results import figures, tables_coverage, tables_measures
from ribkit.study.study import CAM, RIB, RIBS, RIVALS, Study

IMAGES = 30
NORM = RIVALS["norm"]
SHARES = {  # of CAM
    "object": 0.5, "near": 0.8, "far": 0.2, "inside": 0.6, "edge": 0.4, "outside": 0.1,
    "around": 0.2, "away": 0.05, "green": 0.1, "other": 0.1, "auc near": 0.9, "auc far": 0.8,
}  # fmt: skip
MORE = {RIB: {"object": 0.1, "far": 0.2, "outside": 0.05, "green": 0.3}, NORM: {"away": 0.02}}
PLACES = ["where", "region", "method"]


@pytest.fixture(params=["photographs", "scenes"])
def study(request, monkeypatch):
    """Two trainings, the second of which has 0.1 more of everything that is more."""
    shares = dict(SHARES)
    if request.param == "scenes":
        shares |= {"head": 0.9, "body": 0.4, "auc body": 0.7}

    def coverage(one, method):
        names = np.repeat(np.arange(IMAGES), 2)  # each shows a cat and a dog
        table = {"image": names, "class": ["cat", "dog"] * IMAGES}
        table = pd.DataFrame(table | {"size": np.linspace(0.01, 0.6, 2 * IMAGES)} | shares)
        for part, value in MORE.get(method, {}).items():
            table[part] += value + 0.1 * one.number
        if method == RIB:  # large objects gain, small ones do not
            table.loc[: IMAGES // 3 * 2 - 1, "object"] = shares["object"]
        table.loc[table["class"] == "dog", "green"] = np.nan
        return table

    monkeypatch.setattr(Study, "coverage", coverage)
    monkeypatch.setattr(Study, "best_rival", property(lambda one: NORM))
    changes = {"score_images": IMAGES, "tune_images": 4, "replicas": 2}
    made = Study("mini", "", changes)
    made.scored = type(made.scored)(made.scored.ids, ("cat", "dog"), *_rest(made.scored))
    return made


def _rest(images):
    return images.labels[:, :2], images.source


def test_changes_are_means_over_images_and_trainings_in_points(study):
    table = tables_coverage.changes(study).set_index(PLACES)["change"]
    assert table["on the object", "far from CAM's peak", "RIB"] == pytest.approx(25)
    assert table["on the object", "near CAM's peak", "RIB"] == pytest.approx(0)
    assert table["off the object", "away from it", "best rival"] == pytest.approx(7)
    assert table["on objects", "small", "RIB"] == pytest.approx(0)
    assert table["on objects", "large", "RIB"] == pytest.approx(15)
    size = np.linspace(0.01, 0.6, 2 * IMAGES)
    grown = np.where(np.arange(2 * IMAGES) < IMAGES // 3 * 2, 0, 15) * size
    assert table["of all pixels", "more of the object", "RIB"] == pytest.approx(grown.mean())
    assert table["of all pixels", "more off it", "RIB"] == pytest.approx((10 * (1 - size)).mean())
    figures.draw("changes", tables_coverage.changes(study))


def test_grass_is_told_of_by_class_where_there_are_photographs(study):
    places = tables_coverage.changes(study).query("where == 'green background'")["region"]
    photographs = "body" not in study.coverage(CAM)
    table = tables_coverage.changes(study).set_index(PLACES)["change"]
    if photographs:
        assert table["off the object", "green background", "RIB"] == pytest.approx(35)
    assert set(places) == ({"cat"} if photographs else set())  # no dog has green background


def test_what_stands_for_the_non_discriminative_part_is_told(study):
    text = tables_coverage.where(study)
    photographs = "body" not in study.coverage(CAM)
    part = "far from CAM's peak" if photographs else "+0.0 (+0.0 to +0.0) body"
    assert part in text
    assert "nan" not in text
    assert "By size it covers, in points, +0.0 (+0.0 to +0.0) of small, " in text
    assert ("Of green background it covers +35.0" in text) == photographs
    assert "The best rival covers +0.0 (+0.0 to +0.0) points more" in text


def test_of_one_object_there_is_no_size_to_tell_of_and_of_no_rival_nothing(study, monkeypatch):
    whole = Study.coverage
    monkeypatch.setattr(Study, "coverage", lambda one, method: whole(one, method).iloc[:1])
    told = tables_coverage.where(study)
    assert "By size" not in told
    assert "Beyond CAM" in told
    assert "best rival" in told
    monkeypatch.setattr(Study, "rivals", ())
    assert "best rival" not in tables_coverage.where(study)
    tables_coverage.changes.cache_clear()
    assert set(tables_coverage.changes(study)["method"]) == {"RIB"}


def test_an_object_that_fills_its_image_leaves_nothing_to_cover_off_it(study, monkeypatch):
    whole = Study.coverage

    def filled(one, method):
        table = whole(one, method)
        table.loc[:3, ["size", "outside"]] = 1, np.nan
        return table

    monkeypatch.setattr(Study, "coverage", filled)
    rows = tables_coverage.changes(study).set_index(PLACES)
    assert rows.loc[("of all pixels", "more off it", "RIB"), "images"] == IMAGES
    size = study.coverage(CAM)["size"]
    more = (10 * (1 - size)).mean()
    assert rows.loc[("of all pixels", "more off it", "RIB"), "change"] == pytest.approx(more)


def test_one_training_says_that_its_own_cam_halves_objects(study, monkeypatch):
    score = {"method": "CAM", "threshold chosen": ["held-out", "oracle"], "miou": 44.0}
    score |= {"miou_low": 40.0, "miou_high": 47.0}
    monkeypatch.setattr(tables_measures, "seed_scores", lambda *_: pd.DataFrame(score))
    photographs = "body" not in study.coverage(CAM)
    said = "Objects are halved by this training's own CAM, which favours every other map."
    for told in (tables_coverage.where, tables_measures.seed_to_beat):
        assert said not in told(study)
    one = Study("mini", "", study.overrides | {"replicas": 1})
    one.scored = study.scored
    for told in (tables_coverage.where, tables_measures.seed_to_beat):
        assert told(one).endswith(said) == photographs


def test_coverage_shows_levels_in_percent_over_all_methods(study):
    table = tables_coverage.coverage(study)
    part = table.set_index(["method", "part"])["covered"]
    assert part["CAM", "far"] == pytest.approx(20)
    told = table.set_index(["method", "part"])["auc"]
    assert told["CAM", "far"] == pytest.approx(80)
    assert np.isnan(told["CAM", "outside"])
    assert part[RIBS[-1].title, "far"] == pytest.approx(45)
    assert "inside" not in set(table["part"])
    assert set(table["trainings"]) == {2}


def test_what_cam_covers_is_told_before_any_rib_is_made(study, monkeypatch):
    score = {"method": "CAM", "threshold chosen": ["held-out", "oracle"], "miou": [44.0, 45.5]}
    score |= {"miou_low": 40.0, "miou_high": 47.0}
    monkeypatch.setattr(tables_measures, "seed_scores", lambda *_: pd.DataFrame(score))
    text = tables_measures.seed_to_beat(study)
    assert "CAM has 44.0 (40.0 to 47.0) mIoU" in text
    assert "worth +1.5" in text
    assert ("90 % of heads, 40 % of bodies" in text) == ("body" in study.coverage(CAM))
    assert "10 % of what is off the object" in text


def test_an_image_counts_where_every_training_has_a_value():
    one = pd.Series({"a": 1.0, "b": 2.0, "c": np.nan})
    other = pd.Series({"c": 5.0, "b": 4.0, "a": 3.0})  # in another order
    ((first,), (second,)) = tables_coverage.aligned([one, other])
    assert first.tolist() == [[1, 1], [2, 1]]
    assert second.tolist() == [[3, 1], [4, 1]]
