"""What README says follows from the verdicts, whatever they are."""

import pandas as pd
import pytest

from ribkit.results import claims, published
from ribkit.results.claims import Measured


@pytest.fixture
def made(monkeypatch):
    """Claims of the runs, made up: evidence -> name -> low and high end."""
    ends = {evidence: {} for evidence in published.RUNS}

    def committed(evidence, name):
        if name == "seed_scores":
            return pd.DataFrame({"images": [437], "trainings": [3]})
        if name == "toy_hgr":
            return pd.DataFrame({"n": [10]})
        notebook = published.CLAIM_TABLES[name]
        found = {
            claim: Measured((low + high) / 2, low, high, 1.0, unit, "", "mini", *(on or [evidence]))
            for claim, (low, high, unit, *on) in ends[evidence].items()
        }
        return claims.table(found, notebook)

    monkeypatch.setattr(published, "committed", committed)
    return ends


@pytest.mark.parametrize(
    ("low", "high", "words", "word"),
    [
        (1, 3, "are better than", "yes"),
        (-1, 3, "cannot be told from", "open"),
        (-3, -1, "are worse than", "opposite"),
    ],
)
def test_the_answer_follows_from_the_verdicts(made, low, high, words, word):
    made["photographs"] = {"rib-seed": (low, high, "mIoU"), "rib-coverage": (low, high, "points")}
    made["photographs"] |= {"rib-seed-oracle": (1, 2, "mIoU"), "rib-over-rivals": (1, 2, "mIoU")}
    made["photographs"] |= {"rib-auc": (-1, 1, "points of AUC")}
    first, table, _ = published.answer().split("\n\n")
    reach = {"yes": "cover more", "open": "cannot be told to cover more"}.get(word, "cover less")
    photographs, scenes, _ = first.splitlines()
    assert photographs == (
        f"- **On photographs** RIB's seeds {words} CAM's, and are better than those of the "
        f"best-tuned rival, which adapts nothing. At one threshold RIB's maps {reach} of objects' "
        "halves far from CAM's peak; over all thresholds it is open whether they tell "
        "these better from all else."
    )
    assert scenes == (
        "- **On drawn scenes** RIB's seeds were not compared with CAM's, and were not compared "
        "with those of the best-tuned rival, which adapts nothing. At one threshold RIB's maps "
        "were not held against CAM's; nor were they over all thresholds."
    )
    header, _, *rows = table.splitlines()
    assert header == "|  | on photographs of five animals | on drawn scenes, or digits | reported |"
    found = f"{word}: {(low + high) / 2:+.2f} ({low:+.2f} to {high:+.2f})"
    assert f"**Are its seeds better than CAM's?** mIoU | {found} | not yet |  |" in rows[2]
    assert rows[3].endswith("| yes, smaller: +1.50 (+1.00 to +2.00) | not yet | +7.7 |")
    assert rows[4].endswith("| not yet | not yet | +4.1? |")  # from memory
    assert rows[-1].endswith("|  | not yet |  |")  # of digits alone
    assert len(rows) == len(published.ANSWER)


def test_the_answer_says_what_digits_say_of_the_last_layer(made):
    made["digits"] = {"last-layer-bottleneck": (-0.02, 0.04, "HGR")}
    made["digits"]["known-shape-drop"] = (-0.07, -0.004, "HGR")
    made["drawn scenes"] = {"activation-seed-matched": (0.1, 2, "mIoU")}
    made["drawn scenes"]["last-layer-bottleneck"] = (0.02, 0.12, "HGR")
    first, table, _ = published.answer().split("\n\n")
    assert first.splitlines()[-1] == (
        "- **Is the last activation the bottleneck?** On MNIST the last layer is not seen to lose "
        "more of the gradient on a shape than on the digit (on the smaller digits of the other "
        "runs yes, smaller: +0.07 (+0.02 to +0.12); see [digits](docs/digits.md)). RIB's seeds "
        "without it, at matched rates, were not compared with those with it on photographs, and "
        "are better than those with it on drawn scenes."
    )
    *_, last, known = table.splitlines()
    assert last.endswith("|  | not seen: +0.01 (-0.02 to +0.04) | +0.53 |")
    assert known.endswith("|  | opposite: -0.037 (-0.070 to -0.004) |  |")


def test_each_verdict_has_its_words():
    for verdict in claims.VERDICTS:
        row = pd.Series({"verdict": verdict})
        assert published._word_for(published.COMPARED, row)
        assert published._word_for(published.REACH, row)
        assert published._word_for(published.TELL, row)
        assert published._word_for(published.LOSES, row)
        assert verdict == "not measured" or published._word_for(published.SHORTLY, row)
    assert {claim.name for claim in claims.CLAIMS} >= published.ANSWER.keys()


def test_the_answer_has_the_note_of_its_claim(made, monkeypatch):
    made["photographs"] = {"rib-seed": (1, 2, "mIoU")}
    plain = published.answer()
    tables = {evidence: published._claims(evidence) for evidence in published.RUNS}
    tables["photographs"].loc[lambda t: t["name"] == "rib-seed", "note"] = "in 1 of 2 it is still"
    monkeypatch.setattr(published, "size", lambda evidence: (437, 3))
    monkeypatch.setattr(published, "committed", lambda evidence, name: tables[evidence])
    noted, *_ = published.answer().splitlines()
    assert noted.endswith("nor were they over all thresholds. In 1 of 2 it is still.")
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
    made["drawn scenes"] |= {"activation-removed": (-2, -1, "HGR", "digits")}
    made["digits"] = {"activation-removed": (1, 2, "HGR")}
    of_digits = sum(claim.notebook.startswith("01") for claim in claims.CLAIMS)
    rest = len(claims.CLAIMS) - of_digits - 2  # what is of digits is no photograph's
    photographs, scenes, digits = published.verdicts().splitlines()
    assert photographs == (
        "- **On photographs** 0 of 2 measured claims are undecided: "
        f"1 *holds*; 1 *opposite*; {rest} *not measured*."
    )
    assert scenes.endswith(f"undecided: 2 *holds*; {rest} *not measured*.")
    words = f"undecided: 1 *holds*; {of_digits - 1} *not measured*."
    assert digits == f"- **On digits** 0 of 1 measured claims are {words}"
    made["drawn scenes"] |= {"rib-seed": (-1, 2, "mIoU")}
    assert "drawn scenes** 1 of 2 measured claims is undecided: 1 *holds*; 1 *undecided*;" in (
        published.verdicts()
    )


def test_what_would_not_hold_is_named_where_the_number_of_claims_counts(made, monkeypatch):
    made["photographs"] = {"rib-seed": (1, 2, "mIoU"), "gndrp-seed": (-2, -1, "mIoU")}
    assert "Corrected" not in published.verdicts()  # an earlier run's, without p
    committed, p_values = published.committed, {"rib-seed": 0.01, "gndrp-seed": 0.04}

    def with_p(*of):
        found = committed(*of)
        return found.assign(p_value=found["name"].map(p_values)) if "name" in found else found

    monkeypatch.setattr(published, "committed", with_p)
    (said, *_) = published.verdicts().splitlines()
    all_stand = "all that hold or are the opposite can still be told from 0"
    assert "by chance: " not in published.answer()
    assert said.endswith(f" Corrected for their number (Benjamini and Hochberg, 5 %) {all_stand}.")
    p_values["gndrp-seed"] = 0.051
    (said, *_) = published.verdicts().splitlines()
    assert said.endswith("5 %) these could not be told from 0: GNDRP over GAP.")
    assert "| opposite, maybe by chance: -1.50 (-2.00 to -1.00) |" in published.answer()
    made["photographs"]["activation-removed"] = (-1, 1, "HGR", "digits")  # which MNIST decides
    made["digits"]["activation-removed"] = (-1, 1, "HGR")
    p_values |= {"gndrp-seed": 0.04, "activation-removed": 0.9}  # of three it would be too large
    same = said.replace("these could not be told from 0: GNDRP over GAP", all_stand)
    assert published.verdicts().splitlines()[0] == same


def test_at_a_glance_stands_what_each_run_had_and_what_became_of_the_claims(made):
    made["photographs"] = {"rib-seed": (1, 2, "mIoU"), "rib-seed-oracle": (1, 2, "mIoU")}
    made["photographs"] |= {"gndrp-seed": (-2, 1, "mIoU"), "psa-seed": (-2, 1, "mIoU")}
    table = published.glance()
    assert (
        "| [photographs](docs/photographs.md), `voc-lite` | 437 | 3 | EfficientNet-Lite0 "
        "| 22 h, estimated | 2 holds, 1 undecided, 1 no effect |"
    ) in table
    assert "| [scenes](docs/scenes.md), `mini-large` | 437 | 3 | small ResNet |" in table
    assert "| [digits](docs/digits.md), `mnist` | 200 | 10 | 5 convolutions | 30 min |" in table
    assert published.to_come() == (  # three trainings, where the profile has six
        "To come: `mini-large`, 480 images, 6 trainings (shown until then: an earlier run)."
    )


def test_what_is_to_come_is_told_until_it_is_published(made, monkeypatch):
    whole = {"photographs": (437, 3), "drawn scenes": (480, 6), "digits": (200, 10)}
    monkeypatch.setattr(published, "size", whole.get)
    assert published.to_come() == ""
    assert "To come" not in published.both_claims()
    whole["drawn scenes"] = (48, 6)  # all trainings, but of few images
    assert "`mini-large`" in published.to_come()


@pytest.mark.parametrize("evidence", published.RUNS)
def test_committed_claims_say_what_was_reported_as_the_claims_themselves_do(evidence):
    shown = published._claims(evidence).set_index("name")
    own = claims.table({}, "01" if evidence == "digits" else "").set_index("name")
    said = ["text", "reported", "reported_low", "reported_high"]
    pd.testing.assert_frame_equal(shown[said], own[said])


def test_the_forest_has_what_was_measured_in_the_claims_order_and_digits_once(made):
    made["digits"] = {"activation-removed": (3, 4, "HGR")}
    bundled = {"activation-removed": (1, 2, "HGR", "digits")}
    made["photographs"] = {"rib-seed": (1, 2, "mIoU")} | bundled
    made["drawn scenes"] = made["photographs"] | {"gndrp-seed": (1, 2, "mIoU")}
    shown = published.forest()
    assert [*zip(shown["short"], shown["evidence"], strict=True)] == [
        ("without the last activation: more gradient", "digits"),
        ("GNDRP over GAP", "drawn scenes"),
        ("RIB over CAM", "photographs"),
        ("RIB over CAM", "drawn scenes"),
    ]
    assert shown["difference"].iloc[0] == 3.5


def test_digits_of_two_kinds_stand_side_by_side(made):
    made["digits"] = {"activation-removed": (1, 2, "HGR")}
    made["drawn scenes"] = {"activation-removed": (-2, 1, "HGR", "digits")}
    header, _, *rows = published.digit_claims().splitlines()
    assert header == "| claim | reported | on MNIST | on bundled digits |"
    (row,) = (row for row in rows if "holds" in row)
    assert row.startswith("| Without the last activation the non-discriminative region keeps more")
    assert "| +1.50 HGR (+1.00 to +2.00): holds on digits | -0.50 HGR (-2.00 to +1.00): und" in row


def test_a_copy_without_figures_shows_no_claims(monkeypatch, tmp_path):
    monkeypatch.setattr(published, "ROOT", tmp_path)
    runs = ", ".join(published.RUNS.values())
    assert published.both_claims().endswith(f"has not all of {runs}.")
