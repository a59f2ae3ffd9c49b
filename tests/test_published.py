"""What README says follows from the verdicts, whatever they are."""

import pandas as pd
import pytest

from ribkit.results import claims, published
from ribkit.results.claims import Measured


@pytest.fixture
def made(monkeypatch):
    """Claims of both runs, made up: evidence -> name -> low and high end."""
    ends = {evidence: {} for evidence in published.RUNS}

    def committed(evidence, name):
        if name == "seed_scores":
            return pd.DataFrame({"images": [437], "seeds": [3]})
        found = {
            claim: Measured((low + high) / 2, low, high, 1.0, unit, "made up", *(on or [evidence]))
            for claim, (low, high, unit, *on) in ends[evidence].items()
        }
        return claims.table(found)

    monkeypatch.setattr(published, "committed", committed)
    return ends


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (1, 3, "are better than"),
        (-1, 3, "cannot be told from"),
        (-3, -1, "are worse than"),
    ],
)
def test_the_answer_follows_from_the_verdicts(made, low, high, words):
    made["photographs"] = {"rib-seed": (low, high, "mIoU")}
    made["photographs"] |= {"rib-seed-oracle": (1, 2, "mIoU"), "rib-over-rivals": (1, 2, "mIoU")}
    text = published.answer().splitlines()
    numbers = f"{(low + high) / 2:+.2f} ({low:+.2f} to {high:+.2f}) mIoU"
    as_in_the_paper = "; +1.50 (+1.00 to +2.00) scored as in the paper"
    assert f"- **On photographs** RIB's seeds {words} CAM's: {numbers}{as_in_the_paper}" in text[1]
    assert "which reports +7.7. They are better than those of the best-tuned rival" in text[1]
    assert text[2] == (
        "- **On drawn scenes** RIB's seeds were not compared with CAM's. They were not compared "
        "with those of the best-tuned rival that adapts nothing."
    )


def test_the_answer_begins_with_what_photographs_say_of_the_question(made):
    made["photographs"] = {"rib-coverage": (1, 2, "points"), "rib-over-rivals": (-1, 2, "mIoU")}
    made["photographs"]["activation-seed-matched"] = (-2, -1, "mIoU")
    made["drawn scenes"] = {"rib-over-rivals": (1, 2, "mIoU")}
    assert published.answer().startswith(
        "- **In short**, on photographs: RIB's maps cover more of what the classifier had no need "
        "of (+1.50); whether its seeds are better than a rival's that adapts nothing is open "
        "(+0.50); it would help to leave the last activation in (-1.50).\n- **On photographs**"
    )
    made["photographs"] = {}
    assert published.answer().startswith("- **On photographs**")
    for words in published.SHORT.values():
        for verdict in claims.VERDICTS:
            assert published._word_for(words, pd.Series({"verdict": verdict}))


def test_the_answer_has_the_note_of_its_claim(made, monkeypatch):
    made["photographs"] = {"rib-seed": (1, 2, "mIoU")}
    plain = published.answer()
    tables = {evidence: published.committed(evidence, "claims") for evidence in published.RUNS}
    tables["photographs"].loc[lambda t: t["name"] == "rib-seed", "note"] = "in 1 of 2 it is still"
    monkeypatch.setattr(published, "size", lambda evidence: (437, 3))
    monkeypatch.setattr(published, "committed", lambda evidence, name: tables[evidence])
    assert "adapts nothing. In 1 of 2 it is still.\n" in published.answer()
    assert "still" not in plain
    both = published.both_claims()
    assert "+1.50 mIoU (+1.00 to +2.00): holds on photographs; in 1 of 2 it is still |" in both


def test_what_is_no_effect_of_the_reported_size_is_not_called_better(made):
    assert claims.verdict(-1, 2, (7.7, 7.7)) == "no effect of the reported size"
    row = pd.Series({"verdict": "no effect of the reported size"})
    assert published._word_for(published.COMPARED, row) == "are not seen to be better than"
    assert {v for v in claims.VERDICTS if not any(map(v.startswith, published.COMPARED))} == set()


def test_verdicts_are_counted_by_evidence_and_the_best_come_first(made):
    made["photographs"] = {"rib-seed": (1, 2, "mIoU"), "gndrp-seed": (-2, -1, "mIoU")}
    made["drawn scenes"] = {"rib-seed": (1, 2, "mIoU"), "gndrp-seed": (1, 2, "mIoU")}
    made["drawn scenes"] |= {"activation-removed": (1, 2, "HGR", "digits")}
    rest = len(claims.CLAIMS) - 3  # what is of digits is no photograph's
    photographs, scenes, digits = published.verdicts().splitlines()
    assert photographs == (
        "- **On photographs** 0 of 2 measured claims are undecided: "
        f"1 *holds*; 1 *opposite*; {rest} *not measured*."
    )
    assert scenes.endswith(f"undecided: 2 *holds*; {rest} *not measured*.")
    assert digits == "- **On digits** 0 of 1 measured claims are undecided: 1 *holds*."
    made["drawn scenes"] |= {"rib-seed": (-1, 2, "mIoU")}
    assert "drawn scenes** 1 of 2 measured claims is undecided: 1 *holds*; 1 *undecided*;" in (
        published.verdicts()
    )


def test_at_a_glance_stands_what_each_run_had_and_what_became_of_the_claims(made, monkeypatch):
    monkeypatch.setattr(published, "RUNS", published.DECIDE)
    made["photographs"] = {"rib-seed": (1, 2, "mIoU"), "rib-seed-oracle": (1, 2, "mIoU")}
    made["photographs"] |= {"gndrp-seed": (-2, 1, "mIoU"), "psa-seed": (-2, 1, "mIoU")}
    table, _, to_come = published.glance().partition("\n\n")
    assert (
        "| [photographs](docs/photographs.md), `voc-lite` | 437 (64) | 3 | EfficientNet-Lite0 "
        "| hours | 2 holds, 1 undecided, 1 no effect |"
    ) in table
    assert "| [scenes](docs/scenes.md), `mini-large` | 437 | 3 | small ResNet |" in table
    assert to_come == (  # three trainings, where the profile has six
        "To come: `mini-large`, 480 images, 6 trainings (shown until then: an earlier run)."
    )


def test_what_is_to_come_is_told_until_it_is_published(made, monkeypatch):
    whole = {"photographs": (437, 3), "drawn scenes": (480, 6)}
    monkeypatch.setattr(published, "size", whole.get)
    monkeypatch.setattr(published, "RUNS", published.DECIDE)
    assert published.to_come() == ""
    assert "To come" not in published.glance() + published.both_claims()
    monkeypatch.setattr(published, "RUNS", published.DECIDE | {"drawn scenes": "mini"})
    said = "To come: `mini-large`, 480 images, 6 trainings (shown until then: the small default)."
    assert published.glance().endswith(f"\n\n{said}")
    assert said in published.both_claims()
    monkeypatch.setattr(published, "RUNS", published.DECIDE)
    whole["drawn scenes"] = (48, 6)  # all trainings, but of few images
    assert "`mini-large`" in published.to_come()


@pytest.mark.parametrize("evidence", published.RUNS)
def test_committed_claims_say_what_was_reported_as_the_claims_themselves_do(evidence):
    shown = published.committed(evidence, "claims").set_index("name")
    pd.testing.assert_frame_equal(
        shown[["text", "reported", "reported_low", "reported_high"]],
        claims.table({}).set_index("name")[["text", "reported", "reported_low", "reported_high"]],
    )


def test_the_forest_has_what_was_measured_in_the_claims_order_and_digits_once(made):
    made["photographs"] = {
        "rib-seed": (1, 2, "mIoU"),
        "activation-removed": (1, 2, "HGR", "digits"),
    }
    made["drawn scenes"] = made["photographs"] | {"gndrp-seed": (1, 2, "mIoU")}
    shown = published.forest()
    assert [*zip(shown["short"], shown["evidence"], strict=True)] == [
        ("without the last activation: more gradient", "digits"),
        ("GNDRP over GAP", "drawn scenes"),
        ("RIB over CAM", "photographs"),
        ("RIB over CAM", "drawn scenes"),
    ]


def test_a_copy_without_figures_shows_no_claims(monkeypatch, tmp_path):
    monkeypatch.setattr(published, "ROOT", tmp_path)
    assert published.both_claims().endswith("claims.csv: not all are there.")
