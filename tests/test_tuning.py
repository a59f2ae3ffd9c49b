"""The rule by which settings are chosen, on curves made for the purpose."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ribkit.evaluation.tuning import MORE, Axis, Tuned, careful, search

PIXELS = 1000


def counts(hits):
    """One class of 1000 pixels in each image, of which so many are hit and no others."""
    hits = np.asarray(hits)
    return np.stack([hits, np.full_like(hits, PIXELS), hits], axis=1)[:, :, None]


def noisy(levels, rng_seed=0, images=40):
    """Candidates around these levels: images differ by 60, and each candidate on each by 30."""
    random = np.random.default_rng(rng_seed)
    own = random.normal(0, 60, images)
    each = [level + own + random.normal(0, 30, images) for level in levels]
    return [counts(np.clip(np.rint(hits), 0, PIXELS).astype(int)) for hits in each]


def chosen(levels, races=12):
    """How often the rule and how often the winner of a noisy race is each of the candidates."""
    found = [careful(noisy(levels, rng_seed)) for rng_seed in range(races)]
    rule, winner = [index for index, _, _ in found], [np.argmin(b) for _, b, _ in found]
    return [np.bincount(each, minlength=len(levels)).tolist() for each in (rule, winner)]


def table_of(levels, axis):
    """What is tried and chosen where a candidate's score is a function of its value."""
    tuned = search([axis], lambda tried: (counts([levels(tried[axis.name])] * 9), 0.3))
    return tuned.table, tuned.chosen[axis.name]


def test_a_flat_curve_gives_the_most_careful_candidate():
    rule, winner = chosen([500, 500, 500, 500])
    assert rule[0] > 6 > winner[0]
    assert rule[3] < winner[3]


def test_next_to_a_cliff_the_winner_of_a_noisy_race_is_not_taken():
    rule, winner = chosen([450, 500, 503, 200])
    assert rule[1] > 8 > winner[1]
    assert rule[0] == rule[3] == 0
    index, behind, error = careful(noisy([450, 500, 503, 200]))
    assert index == 1
    assert behind[0] > error[0]


def test_a_difference_that_the_images_tell_is_taken():
    assert careful(noisy([450, 460, 500]))[0] == 2


def test_of_equals_the_first_is_taken():
    assert careful([counts([400] * 5)] * 3)[0] == 0
    index, behind, error = careful([counts([300] * 5), counts([400] * 5), counts([400] * 5)])
    assert index == 1
    assert behind.tolist() == [pytest.approx(10), 0, 0]
    assert error.tolist() == pytest.approx([0, 0, 0], abs=1e-9)


def test_the_standard_error_is_paired_over_the_images():
    """Images differ by far more than candidates: unpaired, nothing would be told apart."""
    hits = np.random.default_rng(0).integers(100, 900, 50)
    assert careful([counts(hits), counts(hits + 20)])[0] == 1


def test_by_hand_on_two_images():
    """The gains of the two images are 20 and 40 points: their mean's error is 20 / 2 / sqrt 2."""
    _, behind, error = careful([counts([400, 200]), counts([600, 600])])
    assert behind[0] == pytest.approx(30)
    assert error[0] == pytest.approx(10 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("rising", [True, False])
def test_a_grid_goes_on_while_the_best_is_at_its_edge_and_no_further_than_told(rising):
    sign = 1 if rising else -1
    rates = (1e-5, 3e-5, 1e-4)
    table, chosen = table_of(
        lambda rate: round(500 + sign * 50 * np.log10(rate)), Axis("lr", rates, goes_on=True)
    )
    assert len(table) == len(rates) + MORE
    assert table["lr"].is_monotonic_increasing
    assert table["edge"].tolist().count("") == len(table) - 1
    assert table.loc[table["chosen"], "edge"].item() == ("highest lr" if rising else "lowest lr")
    assert chosen == (table["lr"].max() if rising else table["lr"].min())
    beyond = [3.3e-4, 1.1e-3, 3.7e-3] if rising else [3.3e-6, 1.1e-6, 3.7e-7]
    assert sorted(set(table["lr"]) - set(rates)) == pytest.approx(sorted(beyond))


def test_a_grid_stops_where_the_best_lies_inside():
    table, chosen = table_of(
        lambda rate: {1: 100, 10: 300, 100: 400, 1000: 350}.get(rate, 0),
        Axis("lr", (1, 10, 100), goes_on=True),
    )
    assert table["lr"].tolist() == [1, 10, 100, 1000]
    assert chosen == 100
    assert not table["edge"].any()


@pytest.mark.parametrize("rates", [(0.0, 1e-5), (1e-5,)])
def test_a_grid_with_a_rate_of_zero_or_of_one_rate_has_no_next(rates):
    table, _ = table_of(lambda rate: 500 if rate else 100, Axis("lr", rates, goes_on=True))
    assert table["lr"].tolist() == list(rates)


def test_a_careful_choice_at_the_low_end_of_a_flat_curve_is_told():
    table, chosen = table_of(lambda rate: 400, Axis("lr", (1.0, 10.0, 100.0), goes_on=True))
    assert chosen == table["lr"].min() < 1
    assert table.loc[table["chosen"], "edge"].item() == "lowest lr"


def test_a_careful_choice_below_a_best_one_inside_is_no_edge():
    """The grid did not go on: what lies below it is more careful, not better."""
    levels = dict(zip((1, 10, 100), noisy([496, 500, 300], rng_seed=4), strict=True))
    axis = Axis("lr", (1, 10, 100), goes_on=True)
    tuned = search([axis], lambda tried: (levels[tried["lr"]], 0.3))
    assert tuned.chosen == {"lr": 1}
    assert tuned.table["miou"].idxmax() == 1
    assert tuned.least("lr")
    assert not Tuned(pd.DataFrame(), tuned.chosen).least("lr")  # nothing was tried
    assert tuned.table["edge"].tolist() == [""] * 3


def test_settings_are_chosen_in_turn_and_nothing_is_tried_twice():
    asked = []

    def score(tried):
        asked.append(dict(tried))
        return counts([100 * tried["rate"] + 10 * tried["others"]] * 4), 0.2

    tuned = search([Axis("rate", (1, 2)), Axis("margin", (0,)), Axis("others", (4, 8))], score)
    assert asked == [
        {"rate": 1, "margin": 0, "others": 4},
        {"rate": 2, "margin": 0, "others": 4},
        {"rate": 2, "margin": 0, "others": 8},
    ]
    assert tuned.chosen == {"rate": 2, "margin": 0, "others": 8}
    assert tuned.trials == 3
    assert tuned.table["stage"].tolist() == ["rate", "rate", "others", "others"]
    assert tuned.table["chosen"].tolist() == [False, True, False, True]
    assert tuned.table["miou"].tolist() == pytest.approx([14, 24, 24, 28])
    assert tuned.table["edge"].tolist() == ["", "highest rate", "", "highest others"]
    assert tuned.edges == "highest rate, highest others"


@pytest.mark.parametrize(
    ("values", "best", "edge"),
    [
        ((16, 8, 4, 32), 4, "lowest alpha"),  # wherever it stands in the row
        ((16, 8, 4, 32), 32, "highest alpha"),
        ((16, 8, 4, 32), 8, ""),
        ((0, 1, 2), 0, ""),  # there is none below
        ((100, 90, 80), 100, ""),  # nor above
        (((1,), (1, 2)), (1, 2), "last alpha"),
        (((1,), (1, 2)), (1,), ""),
    ],
)
def test_the_best_at_either_end_of_a_grid_is_told_if_there_may_be_one_beyond(values, best, edge):
    limit = 100 if 100 in values else 0
    table, chosen = table_of(
        lambda value: 500 - 400 * (value != best), Axis("alpha", values, limit=limit)
    )
    assert chosen == best
    assert table.loc[table["chosen"], "edge"].item() == edge


def test_one_candidate_of_each_is_tried_once():
    tuned = search([Axis("a", (1,)), Axis("b", (2,))], lambda tried: (counts([5, 6]), 0.5))
    assert (tuned.chosen, tuned.trials, len(tuned.table)) == ({"a": 1, "b": 2}, 1, 1)
    assert tuned.table["edge"].tolist() == [""]
    assert tuned.edges == ""


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, PIXELS), min_size=6, max_size=6), min_size=1, max_size=5))
def test_the_choice_is_never_bolder_than_the_winner_nor_more_than_an_error_worse(every):
    candidates = [counts(hits) for hits in every]
    index, behind, error = careful(candidates)
    assert index <= int(np.argmin(behind))
    assert behind[index] <= error[index] or behind[index] == 0
    assert (behind >= 0).all()
    assert all(behind[:index] > error[:index])


def test_the_rule_needs_no_class_in_all_images():
    first = np.zeros((3, 3, 4), int)
    first[:, :, 0] = 5
    assert careful([first, first])[0] == 0


def test_a_grid_whose_steps_two_digits_do_not_tell_does_not_go_on_inwards():
    table, _ = table_of(lambda rate: 100 + rate, Axis("lr", (100.0, 101.0), goes_on=True))
    assert table["lr"].tolist() == [100, 101]  # 102.01 is 100 in two digits


def test_nothing_lies_beyond_a_grid_that_begins_at_0():
    counts = np.tile([[8], [10], [10]], (9, 1, 1))
    tuned = search([Axis("smoothing", (0.0, 0.1, 0.2), goes_on=True)], lambda tried: (counts, 0.5))
    assert tuned.chosen == {"smoothing": 0.0}
    assert tuned.table["edge"].tolist() == [""] * 3
