import math

import pytest

from ribkit.results import claims
from ribkit.results.claims import CLAIMS, VERDICTS, Measured, table, verdict


def measured(low, high):
    return Measured((low + high) / 2, low, high, "points", "mini, 200 images")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (measured(0.1, 3.0), "holds"),
        (measured(-3.0, -0.1), "does not hold"),
        (measured(-1.0, 2.0), "undecided"),
        (measured(0.0, 2.0), "undecided"),
        (measured(-2.0, 0.0), "undecided"),
        (measured(0.0, 0.0), "undecided"),
        (measured(math.nan, math.nan), "not measured"),
        (None, "not measured"),
    ],
)
def test_the_verdict_follows_from_where_the_interval_lies(found, expected):
    assert verdict(found) == expected


def test_all_four_verdicts_can_come_out_of_one_run():
    found = table(
        {
            "last-layer-bottleneck": measured(0.1, 0.3),
            "gndrp-seed": measured(-2.0, -1.0),
            "rib-seed": measured(-1.0, 1.0),
        }
    )
    assert set(found["verdict"]) == set(VERDICTS)
    assert len(found) == len(CLAIMS)
    given = dict(zip([c.name for c in CLAIMS], found["verdict"], strict=True))
    assert given["last-layer-bottleneck"] == "holds"
    assert given["gndrp-seed"] == "does not hold"
    assert given["rib-seed"] == "undecided"
    assert given["rib-seed-oracle"] == "not measured"


def test_a_claim_stands_beside_what_the_paper_reports_and_how_it_was_measured():
    found = table({"rib-seed-oracle": Measured(1.234, -0.5, 3.0, "points", "mini, 200 images")})
    row = found[found["paper"].str.contains("48.8 to 56.5")].iloc[0]
    assert row["question"] == "RQ3"
    assert row["measured here (95 % interval)"] == "+1.23 points (-0.50 to +3.00)"
    assert row["setting"] == "mini, 200 images"


def test_what_was_not_measured_shows_no_number():
    found = table({})
    assert set(found["verdict"]) == {"not measured"}
    assert set(found["measured here (95 % interval)"]) == set(found["setting"]) == {""}


def test_a_measurement_of_no_claim_is_refused():
    with pytest.raises(KeyError, match="rib-sead"):
        table({"rib-sead": measured(0, 1)})


def test_claims_have_names_of_their_own_and_cover_the_first_three_questions():
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)
    assert {"RQ1", "RQ2", "RQ3"} <= {claim.question for claim in CLAIMS}
    assert all(claim.text and claim.reported for claim in CLAIMS)


def test_the_table_as_markdown_has_a_line_for_each_claim():
    lines = claims.markdown(table({"rib-seed": measured(1, 2)})).splitlines()
    assert len(lines) == 2 + len(CLAIMS)
    assert lines[0].startswith("| question | claim | paper |")
    columns = lines[0].count("|")
    assert {line.count("|") for line in lines} == {columns}
    assert any("+1.50 points (+1.00 to +2.00)" in line and "| holds |" in line for line in lines)
