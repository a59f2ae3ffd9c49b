"""The ablations' stage and grid: small, seeded, on an untrained network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fabricated import run_stage, stored, swept_from, trained_classifier

from ribkit.data import scenes
from ribkit.data.digits import REGIONS
from ribkit.evaluation import thresholds
from ribkit.method import adaptation
from ribkit.method.settings import OFFICIAL, PAPER, Settings
from ribkit.networks import classifier
from ribkit.study import ablations, coverage
from ribkit.study import maps as seeds
from ribkit.study.ablation_runs import grid, ledger
from ribkit.study.ablations import measure
from ribkit.study.maps import Adaptation, Sizes
from ribkit.study.profiles import Grid

SMALL = Grid(taus=(0.3,), steps=(3,), lrs=(3.0,), margins=(0.0, 2.0), n_others=(0,))
RIB = Settings(lr=1e-5, n_others=2, steps=2, margin=1e9)
SEEN = {"sizes": Sizes((1.0,))}
PAPERS = replace(RIB, variant=PAPER)


def runs():
    return grid(RIB, unit=5.0, rows=3.0, tried=SMALL, relu6=False)


@pytest.fixture
def model(tmp_path):
    network = classifier.build("small", len(scenes.CLASSES))
    weights = stored(tmp_path, weights=network.state_dict())
    return trained_classifier(weights.tensors("weights"))


@pytest.fixture
def bank(model, tmp_path):
    view = {"long_sides": (64, 64), "side": 64, "rng_seed": 0}
    images = scenes.generate(9, 6)
    made = run_stage(seeds.feature_bank, images, tmp_path / "views", model=model, **view)
    return stored(tmp_path, "bank", **made).tensors("features")


def test_a_run_gives_the_scores_of_the_seeds_stage(model, bank, tmp_path):
    images = scenes.generate(8, 3)
    arguments = SEEN | {"model": model, "adaptation": Adaptation(RIB, bank, rng_seed=1)}
    found = run_stage(measure, images, tmp_path / "one", **arguments)
    maps = run_stage(seeds.rib_seeds, images, tmp_path / "two", **arguments)["maps"]
    kept = stored(tmp_path, "seeds", maps=maps).arrays("maps")
    scored = run_stage(seeds.score, images, tmp_path / "three", maps=kept)
    expected, got = (thresholds.Swept(3, 9, **made["rows"]).total() for made in (scored, found))
    assert (got[:, 1] == expected[:, 1]).all()
    assert got[:, 2].sum() == expected[:, 2].sum()
    assert abs(got - expected).sum() / expected.sum() < 0.01  # seeds are kept in 16 bits
    how = {"maps": kept, "plain": kept, "threshold": 0.5}
    covered = run_stage(coverage.cover, images, tmp_path / "four", **how)
    shares = covered["coverage"].groupby("image", sort=False).mean(numeric_only=True)
    cover = found["measured"]["cover"][:, 50]
    assert cover == pytest.approx(shares[["head", "body", "outside"]].to_numpy(), abs=0.02)
    assert (np.diff(found["measured"]["cover"], axis=1) <= 0).all()
    assert found["images"]["steps"].tolist() == [2, 2, 2]
    assert found["measured"]["hgr"].shape == (3, 3)


def test_an_image_done_before_an_interruption_is_not_done_again(model, tmp_path, monkeypatch):
    images = scenes.generate(8, 2)
    first = run_stage(measure, images, tmp_path, model=model, **SEEN)

    def never(*_):
        raise AssertionError("done again")

    monkeypatch.setattr(adaptation, "cam_maps", never)
    again = run_stage(measure, images, tmp_path, model=model, **SEEN)
    for value in ("measured", "rows"):
        for name, array in first[value].items():
            assert np.array_equal(array, again[value][name], equal_nan=True)


def test_coverage_by_hand():
    maps = np.array([[[0.2, 0.6], [0.9, 0.05]]])
    mask = np.array([[1, 1], [0, 0]])
    found = np.array([[1, 2], [0, 0]])
    cover = ablations._cover(maps, np.array([0]), mask, found)
    assert cover[50].tolist() == [0, 1, 0.5]
    assert cover[10].tolist() == [1, 1, 0.5]
    assert cover[4].tolist() == [1, 1, 1]


def test_the_grid_changes_one_thing_at_a_time():
    every = runs()
    assert every[0].settings is None
    assert every[1].settings == RIB
    for run in every[2:]:
        if run.question not in ("RQ1", "RQ2", "RQ3") or run.settings is None or run.once:
            continue
        changed = {
            name
            for name in RIB.__dataclass_fields__
            if getattr(run.settings, name) != getattr(RIB, name)
        }
        assert len(changed - {"match_first_update"}) <= 1 + (run.factor == "GNDRP paper"), run
        assert len(changed) or run.value in ("none", "each image, summed maps"), run
    questions = [run.question for run in every]
    assert {"RQ1", "RQ2", "RQ3"} <= set(questions)


def test_the_ledger_takes_each_switch_alone_and_then_all():
    every = ledger(PAPERS, unit=5.0, rows=3.0, size=8, scales=(1.0,))
    paper = every[0].settings
    assert paper.variant == PAPER
    assert paper.margin == 15  # three times the mean logit, on each logit
    switched = {}
    for run in every[1:]:
        own = {k for k in PAPER.__dataclass_fields__
               if getattr(run.settings.variant, k) != getattr(PAPER, k)}  # fmt: skip
        switched[run.factor, run.value] = own
    assert switched["all of 1-8", "official"] == {
        "clamp_at_margin", "gndrp", "sum_last_map", "stop_by_area", "momentum"
    }  # fmt: skip
    assert every[-1].settings.variant == OFFICIAL
    alone = [own for (factor, _), own in switched.items() if factor[0].isdigit()]
    assert all(len(own) <= 1 for own in alone)
    union = set.union(*alone)
    assert union == set(PAPER.__dataclass_fields__)  # each switch of a variant is ablated
    first = next(run for run in every if run.factor.startswith("1"))
    assert first.settings.margin == 45  # on the sum over rows and classes


def test_one_adaptation_for_the_set_moves_the_weights_once_per_image(model, bank, monkeypatch):
    images, updates = scenes.generate(8, 3), []
    update = adaptation._update

    def counted(optimiser, loss, factor):
        updates.append(factor)
        update(optimiser, loss, factor)

    monkeypatch.setattr(adaptation, "_update", counted)
    rates = []
    optimiser_of = adaptation._optimiser
    monkeypatch.setattr(
        adaptation, "_optimiser", lambda n, s: rates.append(s.lr) or optimiser_of(n, s)
    )
    found = ablations.adapt_once(model, images, Sizes((1.0,)), Adaptation(RIB, bank))["weights"]
    assert updates == pytest.approx([(1 - k / 3) ** 0.9 for k in range(3)])
    assert rates == pytest.approx([RIB.lr * RIB.steps / 3])  # as far in all as one image's K steps
    before = model.load().state_dict()
    moved = [name for name, value in found.items() if not torch.equal(value, before[name])]
    assert moved
    assert not any(name.startswith("frozen") for name in moved)


def test_the_gradient_is_of_the_image_as_its_maps_see_it(model, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        ablations.information,
        "logit_ratios",
        lambda network, image, parts, long_side: (
            asked.append(long_side) or dict.fromkeys(REGIONS, 0.5)
        ),
    )
    run_stage(measure, scenes.generate(8, 1), tmp_path, model=model, sizes=Sizes((1.0,), 32))
    assert asked == [32]


def test_weights_that_are_not_finite_find_nothing_and_have_no_gradient(model, tmp_path):
    images = scenes.generate(8, 2)
    weights = {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v
               for k, v in model.weights.items()}  # fmt: skip
    diverged = replace(
        model, weights=stored(tmp_path, "diverged", weights=weights).tensors("weights")
    )
    found = run_stage(measure, images, tmp_path / "one", model=diverged, **SEEN)
    rows, measured = found["rows"], found["measured"]
    assert not rows["predicted"][rows["label"] > 0].any()
    assert np.nanmax(measured["cover"]) == 0
    assert np.isnan(measured["hgr"]).all()
    assert set(found["images"]["reason"]) == {"diverged"}


def test_cross_fitted_thresholds_never_see_their_own_image():
    random = np.random.default_rng(0)
    confusions = random.integers(0, 50, (10, 100, 2, 2))
    confusions[..., 0] += 100 - confusions.sum(axis=3)
    chosen = thresholds.cross_fitted(swept_from(confusions))
    changed = confusions.copy()
    changed[3] = random.integers(0, 5000, (100, 2, 2))
    changed[3, ..., 0] += 10_000 - changed[3].sum(axis=2)  # targets are those of the mask
    assert thresholds.cross_fitted(swept_from(changed))[[3, 8]].tolist() == chosen[[3, 8]].tolist()
    rest = swept_from(confusions[np.arange(10) % 5 != 2])
    assert chosen[2] == thresholds.best_threshold(rest.total())
    alone = swept_from(confusions[:1])
    assert thresholds.cross_fitted(alone)[0] == thresholds.best_threshold(alone.total())
