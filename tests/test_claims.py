"""Claims: a verdict for every way an interval can lie, and the table that shows it."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ribkit.results import claims
from ribkit.results.claims import (
    CLAIMS,
    VERDICTS,
    Measured,
    by_chance,
    readable,
    table,
    verdict,
)

RANGE = (2.7, 3.0)  # COCO's
FOUND = [  # low, high, reported, verdict
    (0.1, 3.0, None, "holds"),
    (1.0, 3.5, (2.0, 2.0), "holds, reported size in its interval"),
    (1.0, 2.0, (2.0, 2.0), "holds, reported size in its interval"),
    (2.0, 3.0, (2.0, 2.0), "holds, reported size in its interval"),
    (1.0, 1.9, (2.0, 2.0), "holds, smaller than reported"),
    (2.1, 3.0, (2.0, 2.0), "holds, larger than reported"),
    (-1.0, 1.9, (2.0, 2.0), "no effect of the reported size"),
    (0.0, 0.0, (2.0, 2.0), "no effect of the reported size"),
    (-1.0, 2.0, (2.0, 2.0), "undecided"),
    (0.0, 9.0, (2.0, 2.0), "undecided"),
    (-math.inf, math.inf, (2.0, 2.0), "undecided"),
    (-1.0, 2.0, None, "undecided"),
    (0.0, 2.0, None, "undecided"),
    (-2.0, 0.0, None, "undecided"),
    (0.0, 0.0, None, "undecided"),
    (-3.0, -0.1, None, "opposite"),
    (-3.0, -0.1, (2.0, 2.0), "opposite"),
    (math.nan, math.nan, None, "not measured"),
    (math.nan, 1.0, (2.0, 2.0), "not measured"),
    (1.0, math.nan, (2.0, 2.0), "not measured"),
    # a range is contained as soon as it is touched
    (0.1, 2.7, RANGE, "holds, reported size in its interval"),
    (2.8, 2.9, RANGE, "holds, reported size in its interval"),
    (3.0, 9.0, RANGE, "holds, reported size in its interval"),
    (0.1, 2.6, RANGE, "holds, smaller than reported"),
    (3.1, 3.2, RANGE, "holds, larger than reported"),
    (-0.1, 2.6, RANGE, "no effect of the reported size"),
    (-0.1, 2.7, RANGE, "undecided"),
]


@pytest.mark.parametrize(("low", "high", "reported", "expected"), FOUND)
def test_the_verdict_follows_from_where_the_interval_lies(low, high, reported, expected):
    assert verdict(low, high, reported) == expected


def test_every_word_is_given_above():
    assert {row[-1] for row in FOUND} == set(VERDICTS)


ENDS = st.floats(-100, 100)


@settings(max_examples=300)
@given(st.tuples(ENDS, ENDS).map(sorted), st.floats(0.01, 100), st.floats(0, 5))
def test_one_verdict_at_a_time_and_it_is_what_the_rule_says(ends, start, width):
    (low, high), reported = ends, (start, start + width)
    contains = {0: low <= 0 <= high, "it": low <= reported[1] and high >= reported[0]}
    rule = {
        "holds, reported size in its interval": low > 0 and contains["it"],
        "holds, smaller than reported": low > 0 and high < reported[0],
        "holds, larger than reported": low > reported[1],
        "no effect of the reported size": contains[0] and high < reported[0],
        "undecided": contains[0] and contains["it"],
        "opposite": high < 0,
    }
    assert [word for word, so in rule.items() if so] == [verdict(low, high, reported)]
    # what was reported changes the second half alone
    assert verdict(low, high, reported).startswith("holds") == (verdict(low, high) == "holds")


@pytest.mark.parametrize("wrong", [(2, 1), (1, 2, (0, 1)), (1, 2, (-3, -1)), (1, 2, (3, 2))])
def test_what_is_no_interval_or_no_positive_gain_is_refused(wrong):
    with pytest.raises(ValueError, match=r"is no interval, or .* no positive gain"):
        verdict(*wrong)


def measured(low, high, detectable=1.3, on="scenes"):
    return Measured((low + high) / 2, low, high, detectable, "mIoU", "200 images", "mini", on)


def words(name, value):
    """What the table says of a claim."""
    shown = readable(table({name: value}))["verdict"]
    return dict(zip([claim.name for claim in CLAIMS], shown, strict=True))[name]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rib-seed", measured(1, 2), "holds on scenes"),
        ("rib-seed", measured(1, 2, on="photographs"), "holds on photographs"),
        ("rib-seed-oracle", measured(1, 2), "holds on scenes, smaller than reported"),
        ("rib-seed-oracle", measured(7, 9), "holds on scenes, reported size in its interval"),
        ("rib-seed-oracle", measured(8, 9), "holds on scenes, larger than reported"),
        ("rib-seed-oracle", measured(-2, -1), "opposite on scenes"),
        ("rib-seed-oracle", measured(math.nan, math.nan), "not measured"),
        ("rib-seed-coco", measured(0.1, 2.8), "holds on scenes, reported size in its interval"),
    ],
)
def test_the_table_says_on_what(name, value, expected):
    assert words(name, value) == expected


@pytest.mark.parametrize(
    ("detectable", "shown"),
    [(1.3, "1.3"), (0.0531, "0.053"), (12.34, "12"), (2, "2"), (123, "120")],
)
def test_where_no_effect_was_found_it_says_what_could_have_been(detectable, shown):
    found = f"; a gain of {shown} would have been found 8 times in 10"
    undecided = words("rib-seed-oracle", measured(-2, 9, detectable))
    assert undecided == f"undecided on scenes{found}"
    none = words("rib-seed-oracle", measured(-2, 3, detectable))
    assert none == f"no effect of the reported size on scenes{found}"


def test_a_number_in_another_unit_is_not_compared():
    with pytest.raises(ValueError, match="rib-seed-oracle: reported in mIoU, measured in HGR"):
        table({"rib-seed-oracle": replace(measured(1, 2), unit="HGR")})


def test_a_claim_stands_beside_what_was_reported_and_how_it_was_measured():
    value = Measured(1.234, -0.5, 3.0, 2.5, "mIoU", "200 images", "mini", "scenes")
    found = readable(table({"rib-seed-oracle": value}))
    row = found[found["reported"].str.contains("48.8 .* to 56.5")].iloc[0]
    assert row["question"] == "RQ3"
    assert row["measured here (95 % interval)"] == "+1.23 mIoU (-0.50 to +3.00; 200 images)"
    assert row["setting"] == "mini"


def test_what_was_not_measured_shows_no_number():
    found = readable(table({}))
    assert set(found["verdict"]) == {"not measured"}
    assert set(found["measured here (95 % interval)"]) == set(found["setting"]) == {""}


def test_a_measurement_of_no_claim_is_refused():
    with pytest.raises(KeyError, match="rib-sead"):
        table({"rib-sead": measured(0, 1)})


def test_claims_have_names_of_their_own_and_cover_all_questions():
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)
    assert {"RQ1", "RQ2", "RQ3", "RQ4"} == {claim.question for claim in CLAIMS}
    assert all(claim.text and bool(claim.after) != bool(claim.no_number) for claim in CLAIMS)


def test_what_is_claimed_in_numbers_is_a_gain():
    effects = [claim.reported for claim in CLAIMS if claim.reported]
    assert len(effects) == 10
    assert all(0 < effect.low <= effect.high for effect in effects)


def test_the_table_as_markdown_has_a_line_for_each_claim():
    lines = claims.markdown(readable(table({"rib-seed": measured(1, 2)}))).splitlines()
    assert len(lines) == 2 + len(CLAIMS)
    assert lines[0].startswith("| question | claim | reported |")
    columns = lines[0].count("|")
    assert {line.count("|") for line in lines} == {columns}
    (line,) = (line for line in lines if "| holds on scenes |" in line)
    assert "+1.50 mIoU (+1.00 to +2.00; 200 images)" in line


def test_a_stored_table_reads_back_as_it_was(tmp_path):
    made = table({"rib-seed": measured(1, 2), "rib-seed-oracle": measured(-2, 9)})
    made.to_csv(tmp_path / "claims.csv", index=False)
    read = pd.read_csv(tmp_path / "claims.csv")
    assert readable(read).equals(readable(made))


@pytest.mark.parametrize("counts", ["437 images, one training", ""])
def test_how_many_images_and_trainings_a_number_counts_stands_beside_it(counts):
    both = table({"rib-seed": replace(measured(1, 2), counts=counts)})
    shown = claims.evidence(both, both, table({}, "01"))
    shown = shown[shown["claim"].str.startswith("RIB gives better seeds than")]
    inside = "; ".join(filter(None, ("+1.00 to +2.00", counts)))
    assert shown["on photographs"].iloc[0] == f"+1.50 mIoU ({inside}): holds on scenes"


def test_of_a_stored_table_only_what_was_measured_is_taken(tmp_path):
    nothing = Measured(*[math.nan] * 4, "mIoU", "", "mini", "scenes", "it stood still")
    made = table({"rib-seed": measured(1, 2), "crf-seed": measured(7, 9), "gndrp-seed": nothing})
    old = made.assign(text="old", reported="old", reported_low=1.0, verdict="holds")
    old.iloc[:-1].to_csv(tmp_path / "claims.csv", index=False)
    again = claims.again(pd.read_csv(tmp_path / "claims.csv"))
    pd.testing.assert_frame_equal(again, made)
    with pytest.raises(KeyError, match="rib-sead"):
        claims.again(made.replace({"name": {"rib-seed": "rib-sead"}}))


def test_by_chance_some_claims_hold_as_benjamini_and_hochberg_count():
    # three of four: 0.01 <= 0.05 / 4, 0.02 <= 2 * 0.05 / 4, 0.045 > 3 * 0.05 / 4, 0.5
    names = ("rib-seed", "gndrp-seed", "rib-coverage", "rib-auc")
    ends = ((1, 3), (-3, -1), (0.1, 3), (-1, 3))
    made = {}
    for name, low_high, p in zip(names, ends, (0.01, 0.02, 0.045, 0.5), strict=True):
        made[name] = replace(measured(*low_high), p_value=p)
    found = table(made)
    assert [*by_chance(found)["short"]] == ["RIB covers more than CAM"]
    alone = found[found["name"].isin(["rib-coverage", "rib-seed-coco"])]  # one is not measured
    assert by_chance(alone).empty
    with pytest.raises(ValueError, match="must include only"):
        by_chance(table({"rib-seed": measured(1, 2)}))
