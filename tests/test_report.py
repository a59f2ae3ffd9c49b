"""The report: every claim's verdict follows from stored results, and its links lead somewhere."""

import dataclasses
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from fabricated import IMAGES, confusions, pooled, swept_from

from ribkit.evaluation import power
from ribkit.evaluation.miou import counts
from ribkit.evaluation.tuning import Tuned
from ribkit.results import claims, report, reported, tables_rq4, tables_toy
from ribkit.results.claims import CLAIMS
from ribkit.study import ablation_runs, pipeline
from ribkit.study.ablation_runs import RunResult
from ribkit.study.pipeline import Refined
from ribkit.study.study import CAM, RIB, RIBS, RIVALS, Seed, Study

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
NEVER = {"rib-seed-coco", "rib-network-coco", "saturation-inside"}  # no COCO, no ReLU6 here


def toy_hgr(sign):
    """HGR of three toy networks in which the claims of RQ1 hold (1) or the opposite does (-1)."""
    rows = []
    for condition in ("trained", "random shapes"):
        for rng_seed in range(3):
            networks = ((5, "after", "sum"), *product((6,), ("after", "before"), ("sum", "target")))
            for layer, reading, output in networks:
                for region in ("discriminative", "non-discriminative", "irrelevant"):
                    hgr = 0.8 + 0.01 * rng_seed
                    if layer == 6:
                        lost = 0.3 + 0.2 * sign * (region == "non-discriminative")
                        hgr -= lost if reading == "after" else 0.3
                        if condition == "random shapes":
                            hgr = 0.5
                    rows.append(
                        {"activation": "sigmoid", "condition": condition, "seed": rng_seed}
                        | {"layer": layer, "reading": reading, "output": output, "scale": "image"}
                        | {"threshold": 0.3, "region": region, "hgr": hgr, "magnitude": hgr}
                    )
    return pd.DataFrame(rows)


def toy_result(sign, knows=1.0):
    """A result of the toy experiment: `toy_hgr`, and networks that know the shape that means
    something, or are right from it so often.
    """
    hgr = toy_hgr(sign)
    networks = hgr[["activation", "condition", "seed"]].drop_duplicates()
    right = np.where(networks["condition"] == "trained", knows, 0.5)
    networks = networks.assign(shape_only=right)
    tables = {"hgr": hgr, "networks": networks}
    return SimpleNamespace(table=tables.__getitem__)


def toy_masking(sign):
    """Accuracies after blanking: by G6 at the first share for the claim (1), else against it."""
    rows = []
    for share, layer in product((0.25, 0.5), ("G5", "G6")):
        side = sign if (share, layer) == (0.25, "G6") else -sign
        lost = {"high": 0.2 + 0.1 * side, "low": 0.2 - 0.1 * side, "random": 0.2}
        for rng_seed, (kind, fall) in product(range(3), lost.items()):
            made = {"share": share, "layer": layer, "blanked": kind, "seed": rng_seed, "ink": share}
            fall += 0.01 * rng_seed * (kind == "high")
            rows.append(made | {"accuracy": 0.9 - fall, "whole": 0.9})
    return pd.DataFrame(rows)


@pytest.fixture(params=[1, -1], ids=["for", "against"])
def fabricated(request, monkeypatch):
    """A study whose stored results are made up, all for the claims or all against them."""
    sign = request.param
    rival = RIVALS["norm"]
    ranks = {CAM: -4 * sign, rival: 2 * sign, RIBS[2]: 0, RIB: 4 * sign}
    below = {0.0: 1, 0.7: 4, 1.0: 8}  # usual texture -> how far CAM is

    def seed(self, method):
        far = below[self.profile.usual_texture]
        rank = -far * sign if method == CAM else ranks[method]
        made = swept_from(np.repeat(confusions(rank, self.number)[:, None], 100, axis=1))
        return Seed(None, made, {"oracle": 20, "held-out": 30, "mask-free": 40})

    def coverage(study, method):
        body = 0.5 + 0.01 * ranks[method] + 0.001 * np.arange(IMAGES)
        named = {"image": np.arange(IMAGES), "class": "cat", "size": 0.3}
        return pd.DataFrame(named | {"body": body, "auc body": 2 * body})

    def refinement(level):
        levels = {"seed": 0, "+ IRN + saliency": 9}

        def stage(name):
            made = counts(confusions(level + sign * levels.get(name, 5)))
            return Refined(None, made, made, None)

        return SimpleNamespace(stage=stage)

    sources = {"CAM": -4, "RIB": 0, "CAM + saliency": 0, "RIB + saliency": 4}
    sources |= {"ground truth": 8}

    def networks(study, source, crf):
        return [counts(confusions(sign * sources[source], r.number)) for r in study.replicas]

    def run_result(study, run):
        harmed = run.value.startswith(("sigmoid", "once", "each image, last"))
        return RunResult(counts(confusions(-4 * sign if harmed else 0)), None, None, None, 10.0)

    def stored(self, stage, **parameters):
        assert stage.stage == "layers"
        rows = [
            {"image": str(i), "layer": layer, "discriminative": 0.5}
            | {"non-discriminative": 0.5 - 0.2 * sign * (layer == "sigmoid") + 0.001 * i}
            for i in range(IMAGES)
            for layer in ("level 4", "logits", "sigmoid", "own logits", "own sigmoid")
        ]
        return SimpleNamespace(table=lambda value: pd.DataFrame(rows))

    monkeypatch.setattr(Study, "seed", seed)
    monkeypatch.setattr(Study, "best_rival", rival)
    monkeypatch.setattr(Study, "toy", lambda self: toy_result(sign))
    # the highest decides at which the network knows the shape
    doses = {0.1: toy_result(-sign), 0.5: toy_result(sign), 1.0: toy_result(-sign, knows=0.5)}
    monkeypatch.setattr(Study, "toy_doses", lambda self: doses)
    monkeypatch.setattr(Study, "toy_masking", lambda self: toy_masking(sign))
    monkeypatch.setattr(Study, "model", None)
    monkeypatch.setattr(Study, "coverage", coverage)
    levels = zip(pipeline.STARTS, (-4 * sign, -2 * sign, 0), strict=True)
    refined = {title: refinement(level) for title, level in levels}
    monkeypatch.setattr(pipeline, "refinement", lambda study, title: refined[title])
    monkeypatch.setattr(pipeline, "train", lambda *_: None)
    monkeypatch.setattr(pipeline, "network_counts", networks)
    monkeypatch.setattr(ablation_runs, "run_result", run_result)
    settings = ablation_runs.Settings()
    monkeypatch.setattr(Study, "settings", lambda self, method: settings)
    monkeypatch.setattr(Study, "margin_unit", lambda self, method: 5.0)
    monkeypatch.setattr(Study, "scales", (1.0,))
    nothing = Tuned(pd.DataFrame({"stage": [""], "lr": [1.0]}), {})
    monkeypatch.setattr(Study, "tuned", lambda self, method: nothing)
    monkeypatch.setattr("ribkit.runtime.store.Store.run", stored)
    changes = {"score_images": IMAGES, "tune_images": 4, "ablations.usual_textures": "0,1"}
    changes |= {"toy_train": 24, "toy_test": 12}
    return Study("mini", "", changes), sign


def test_where_tuning_stills_rib_its_parts_are_not_measured_and_the_rest_says_so(
    fabricated, monkeypatch
):
    study, _ = fabricated
    stilled = [True, False]
    monkeypatch.setattr(Study, "stilled", lambda self, method: stilled[self.number])
    some = report.measured(study)
    noted = "in 1 of 2 trainings tuning left RIB at the lowest rate, without a gain on the tuning "
    noted += "images"
    of_rib = {"gndrp-seed", "gndrp-coverage", "rib-seed", "rib-seed-oracle", "rib-coverage"}
    of_rib |= {"gndrp-auc", "rib-auc", "rib-auc-over-rivals"}
    of_rib |= {"rib-over-rivals", "crf-seed", "psa-seed", "irn-seed"}
    of_rib |= {
        "rib-pseudo",
        "rib-pseudo-rival",
        "rib-network",
        "saliency-network",
        "rib-network-saliency",
    }
    assert {name for name, value in some.items() if value.note.startswith(noted)} == of_rib
    of_both = f"of both kinds of scenes, {noted}".replace("1 of 2", "2 of 4")
    assert some["dose-response"].note == of_both
    assert some["rib-network"].counts == f"{IMAGES} val images, 2 trainings"
    grid = study.profile.lrs
    rate = f"rate {study.settings(RIB).lr:g} (grid: {min(grid):g} to {max(grid):g})"
    for name in ablation_runs.COMPARED:  # of the training that moves
        assert some[name].note == f"left out: tuned for the ablations' maps, {noted}"
        assert some[name].counts == "40 images, one training"
        assert some[name].setting.startswith(f"mini, scale 1, {rate}, RIB official, GNDRP, ")
    assert not [name for name, value in some.items() if np.isnan(value.difference)]
    # what stands still has not the spread of a RIB that moves
    blind = {name for name, value in some.items() if np.isnan(value.detectable)}
    assert blind == of_rib | {"dose-response"}
    stilled[1] = True
    every = claims.table(report.measured(study)).set_index("name")
    blind = every["detectable"].isna() & (every["verdict"] != "not measured")
    assert set(every.index[blind]) == of_rib | {"dose-response"}
    assert "8 times in 10" not in claims.in_words({**every.loc["rib-seed"], "verdict": "undecided"})
    gone = every.loc[[*ablation_runs.COMPARED]]
    assert set(gone["verdict"]) == {"not measured"}
    assert set(gone["note"]) == {noted.replace("1 of", "2 of")}
    assert every.loc["rib-seed", "verdict"] != "not measured"
    row = claims.readable(every.reset_index()).query("verdict == 'not measured'").iloc[0]
    assert row["setting"] == "mini, scale 1; " + noted.replace("1 of", "2 of")


def against_zero(table):
    """The first half of each verdict."""
    return [words.split(" on ")[0].split(",")[0] for words in table["verdict"]]


def test_every_verdict_is_computed_from_stored_results_and_can_be_either(fabricated):
    study, sign = fabricated
    table = claims.table(report.measured(study))
    verdicts = dict(zip([claim.name for claim in CLAIMS], against_zero(table), strict=True))
    expected = "holds" if sign > 0 else "opposite"
    wrong = {
        name: (verdict, claims.interval(table.iloc[i]))
        for i, (name, verdict) in enumerate(verdicts.items())
        if verdict != ("not measured" if name in NEVER else expected)
    }
    assert not wrong


def test_every_verdict_says_on_what_and_knows_what_could_have_been_found(fabricated):
    study, _ = fabricated
    found = report.measured(study)
    digits = {claim.name for claim in CLAIMS if claim.notebook.startswith("01")}
    assert {name: value.on for name, value in found.items()} == {
        name: "bundled digits" if name in digits else "scenes" for name in found
    }
    for name, value in found.items():
        assert 0 <= value.detectable < np.inf, name
        # more than the interval reaches below its point: that much is found every other time
        assert value.detectable >= value.difference - value.low - 1e-9, name


def test_rib_is_held_against_the_rival_that_each_training_seed_chose(fabricated, monkeypatch):
    study, sign = fabricated
    chosen = (RIVALS["norm"], CAM)
    monkeypatch.setattr(Study, "best_rival", property(lambda self: chosen[self.number]))
    told = report.measured(study, "03")["rib-auc-over-rivals"]
    assert told.difference == pytest.approx(2 * sign * np.mean([4 - 2, 4 + 4]))
    assert (told.unit, told.setting.split(", ")[-1]) == ("points of AUC", "no threshold")
    found = report.measured(study, "06")["rib-over-rivals"]
    # two points beyond the norm's in one replica, eight beyond CAM's in the other
    gains = [pooled(4 * sign, 0) - pooled(2 * sign, 0), pooled(4 * sign, 1) - pooled(-4 * sign, 1)]
    assert found.difference == pytest.approx(np.mean(gains))
    assert found.setting.startswith("mini, RIB official, GNDRP, thresholds held out")
    assert found.counts == "40 images, 2 trainings"


def test_rib_gains_at_the_highest_dose_less_at_the_lowest(fabricated):
    study, sign = fabricated
    found = report.measured(study, "06")["dose-response"]

    more = [pooled(-sign, k) - pooled(-8 * sign, k) for k in (0, 1)]
    assert found.difference == pytest.approx(np.mean(more))
    assert found.setting.endswith("bodies' usual texture 1 against 0")


def test_blanking_the_high_must_cost_more_than_blanking_random_pixels_too(fabricated, monkeypatch):
    study, _ = fabricated
    rows = toy_masking(1)
    shown = rows["blanked"].eq("high")
    rows.loc[shown, "accuracy"] = 0.9 - np.array([0.2, 0.3, 0.1] * 4)  # as random ones, on average
    monkeypatch.setattr(Study, "toy_masking", lambda self: rows)
    found = report.measured(study, "01")["high-gradient-used"]
    assert found.setting.endswith("blanked by G6: 25 %, against random")
    assert found.low < 0 < found.high
    first, *others = found.note.split("; ")
    assert first == "blanked: 25 %, against random"
    # at the other share it is the low that cost more
    begin = (
        "25 %, against low +10.0 (",
        "50 %, against low -10.0 (",
        "50 %, against random +0.0 (",
    )
    assert all(map(str.startswith, others, begin))
    assert len(others) == 3


def test_the_half_that_is_refuted_decides_before_one_that_is_open(fabricated, monkeypatch):
    study, _ = fabricated
    ends = {"low": [-8.0, -3.0], "high": [8.0, -1.0]}
    gaps = pd.DataFrame(ends | {"mean": [0.0, -2.0], "others": ["random", "low"]})
    gaps = gaps.assign(layer="G6", share=0.25, n=3)
    monkeypatch.setattr(tables_toy, "masking_gaps", lambda rows: gaps)
    assert report._masked(study).setting.endswith("25 %, against low")


def test_what_one_number_of_digits_would_hide_stands_beside_it(fabricated):
    study, sign = fabricated
    found = report.measured(study, "01")
    # a shape loses .2 more than the digit; one that says nothing as much as the digit
    assert found["last-layer-bottleneck"].note == (
        f"a shape that says nothing: +0.00 (+0.00 to +0.00); at the image's own class: "
        f"{0.2 * sign:+.2f} ({0.2 * sign:+.2f} to {0.2 * sign:+.2f}) and +0.00 (+0.00 to +0.00)"
    )
    assert found["activation-removed"].difference == pytest.approx(0.2 * sign)
    assert found["removed-beyond-nothing"].difference == pytest.approx(0.2 * sign)
    known = found["known-shape-drop"]
    assert known.difference == pytest.approx(0.2 * sign)
    other = f"{-0.2 * sign:+.2f}"  # at the smaller dose, known too, and at one above the smallest
    other = f"{other} ({other} to {other})"
    assert known.note == f"50 % of the images with their shape, at 10 % {other}, at 100 % {other}"


def test_what_a_region_has_to_lose_stands_beside_what_it_loses(fabricated):
    study, sign = fabricated
    first, rest = report.measured(study, "06")["real-bottleneck"].note.split("; ")
    assert first == "it has 0.52 to lose, the discriminative one 0.50"
    lost = f"{0.2 * sign:+.2f}"  # all of it in the activation, but not at the image's own classes
    nothing = "at the image's own classes +0.00 (+0.00 to +0.00)"
    assert rest == f"from the logits on {lost} ({lost} to {lost}), {nothing}"


def test_what_saturates_inside_is_asked_by_the_difference_of_two_gains(fabricated, monkeypatch):
    study, sign = fabricated
    lite = dataclasses.replace(study.profile, backbone="efficientnet_lite0")
    for one in study.replicas:
        monkeypatch.setattr(one, "profile", lite)
    levels = {("RIB", True): 6, ("CAM", True): 0, ("RIB", False): 3, ("CAM", False): 1}

    def run_result(one, run):
        level = levels.get((run.value, run.saturates), 0)
        return RunResult(counts(confusions(sign * level, one.number)), None, None, None, 10.0)

    monkeypatch.setattr(ablation_runs, "run_result", run_result)
    ablation_runs.runs.cache_clear()
    found = report._ablations(study)["saturation-inside"]
    ablation_runs.runs.cache_clear()
    four = {
        key: np.mean([pooled(sign * level, k) for k in (0, 1)]) for key, level in levels.items()
    }
    with_relu6 = four["RIB", True] - four["CAM", True]
    assert found.difference == pytest.approx(with_relu6 - four["RIB", False] + four["CAM", False])
    assert (found.low > 0) == (sign > 0)


def test_what_adapts_nothing_is_no_rival_where_no_rival_was_tried(fabricated, monkeypatch):
    study, _ = fabricated
    every = set(report.measured(study))
    monkeypatch.setattr(Study, "rivals", ())
    of_rivals = {"rib-over-rivals", "rib-auc-over-rivals", "rib-pseudo-rival"}
    assert every - set(report.measured(study)) == of_rivals


def test_on_coco_nothing_is_held_against_numbers_of_voc(fabricated, monkeypatch):
    study, _ = fabricated
    of_voc = report.measured(study)
    coco = dataclasses.replace(study.profile, data="coco", saliency="")
    for one in study.replicas:
        monkeypatch.setattr(one, "profile", coco)
    found = report.measured(study, "03") | report.measured(study, "05")
    assert found["rib-seed-coco"].difference == of_voc["rib-seed-oracle"].difference
    assert found["rib-network-coco"].difference == of_voc["rib-network"].difference
    held = {claim.name for claim in CLAIMS if claim.reported and claim.name in found}
    assert held == {"rib-seed-coco", "rib-network-coco"}
    of_digits = {claim.name for claim in CLAIMS if claim.notebook.startswith("01")}
    assert report.measured(study, "01").keys() == of_digits  # MNIST's number is of digits here too
    assert "rib-seed" in found


def test_far_from_its_own_peak_any_other_map_covers_more_and_one_training_says_so(
    fabricated, monkeypatch
):
    study, _ = fabricated
    named = {"image": range(IMAGES), "class": "cat", "size": 0.3}
    halves = pd.DataFrame(named | {"far": 0.5, "auc far": 0.8})
    monkeypatch.setattr(Study, "coverage", lambda *_: halves)
    note = "halved by this training's own CAM, which favours every other map"
    some = report.measured(study, "03")
    assert some["rib-coverage"].note == ""
    halves.loc[0, "auc far"] = np.nan  # nothing lies off the object
    less = report.measured(study, "03")
    for name, count in (("rib-coverage", IMAGES), ("rib-auc", IMAGES - 1), ("rib-seed", IMAGES)):
        assert some[name].counts == f"{IMAGES} images, 2 trainings"
        assert less[name].counts == f"{count} images, 2 trainings"
    one = Study("mini", "", study.overrides | {"replicas": 1})
    assert report.measured(one, "03")["rib-coverage"].note == note


def test_one_dose_alone_measures_no_dose_response(fabricated, monkeypatch):
    study, sign = fabricated
    one = Study("mini", "", {"score_images": IMAGES, "ablations.usual_textures": ()})
    monkeypatch.setattr(Study, "toy_doses", lambda self: {0.1: toy_result(sign, knows=0.5)})
    assert "dose-response" in report.measured(study, "06")
    assert report._controls(one).keys() == {"rib-over-rivals"}
    assert "known-shape-drop" not in report.measured(one, "01")
    row = report.answer(one, "01").set_index("claim")["verdict"]
    (claim,) = (claim for claim in CLAIMS if claim.name == "known-shape-drop")
    assert row[claim.text] == "not measured"


def test_one_toy_network_has_no_interval_and_no_verdict(fabricated):
    one = pd.Series({"mean": 0.1, "low": np.nan, "high": np.nan, "n": 1.0})
    found = report._over_seeds(fabricated[0], one, "bundled digits, 1 seed")
    assert np.isnan([found.detectable, found.p_value]).all()
    table = claims.table({"activation-removed": found}, "01")
    assert {claims.found(row) for row in table.to_dict("records")} == {"not measured"}


def test_a_toys_interval_gives_its_error(fabricated):
    # three seeds with error 1: the t quantile of 2 degrees of freedom either way
    three = pd.Series({"mean": 0.0, "low": -4.302653, "high": 4.302653, "n": 3.0})
    found = report._over_seeds(fabricated[0], three, "").detectable
    away = three + 4.302653 * (three.index != "n")
    assert report._over_seeds(fabricated[0], away, "").p_value == pytest.approx(0.05)
    assert found == pytest.approx(power.detectable_by_t(np.array([1.0]), np.array([2])), rel=1e-6)


def test_photographs_are_called_so():
    made = SimpleNamespace(profile=SimpleNamespace(data="voc"))
    assert report._on(made) == "photographs"


@pytest.mark.parametrize("number", ["01", "03", "04", "05", "06"])
def test_a_notebook_answers_with_its_own_claims_and_measures_no_others(
    fabricated, number, monkeypatch
):
    study, sign = fabricated

    def other(study):
        raise AssertionError("measured for another notebook")

    parts = [(n, part if n == number else other) for n, part in report.MEASURED]
    monkeypatch.setattr(report, "MEASURED", parts)
    table = report.answer(study, number)
    decided = [claim for claim in CLAIMS if claim.notebook[:2] == number]
    assert table["claim"].tolist() == [claim.text for claim in decided]
    verdicts = [v for v, c in zip(against_zero(table), decided, strict=True) if c.name not in NEVER]
    assert set(verdicts) == {"holds" if sign > 0 else "opposite"}


def test_each_claim_is_decided_by_a_heading_and_a_figure_that_exist():
    for claim in CLAIMS:
        notebook = nbformat.read(NOTEBOOKS / f"{claim.notebook}.ipynb", as_version=4)
        lines = [line for c in notebook.cells for line in c.source.splitlines()]
        where = [i for i, line in enumerate(lines) if line.lstrip("# ") == claim.heading]
        assert where, claim.name
        rest = lines[where[0] + 1 :]
        section = "\n".join(rest[: next((i for i, x in enumerate(rest) if x[:3] == "## "), None)])
        assert f'show(study, "{claim.figure}"' in section, claim.name
    assert list(report.CLAIM_FIGURES) == list(dict.fromkeys(claim.figure for claim in CLAIMS))


def test_our_row_names_its_setting(monkeypatch):
    stages = [
        {"method": m, "stage": s, "miou": 50.04}
        for m in ("CAM", "RIB")
        for s in ("seed", "+ CRF", "+ IRN")
    ]
    sources = pipeline.sources(Study("mini"))
    nets = [{"trained on": s, "CRF": "with CRF", "miou": 60.0} for s in sources]
    monkeypatch.setattr(tables_rq4, "refinement_scores", lambda study: pd.DataFrame(stages))
    monkeypatch.setattr(tables_rq4, "network_scores", lambda study: pd.DataFrame(nets))
    table = report.headline(Study("mini", "", {"score_images": 4}))
    assert list(table.columns) == list(reported.pivot("VOC").columns[:5])
    assert not table.isna().any(axis=None)
    assert table["method"].str.contains("mini, 4 images, 60 val, 8 classes").all()
    assert table.loc[1, "seed, train"] == "50.0"
