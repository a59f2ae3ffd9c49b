"""What was reported: each number once, with a source in words, and what is made of them."""

import pytest

from ribkit.results import reported
from ribkit.results.claims import CLAIMS
from ribkit.results.reported import FROM_MEMORY, NUMBERS, effect, pivot
from ribkit.study.toy import PAPER_HGR


def test_each_number_stands_once_and_says_in_words_where_it_comes_from():
    assert NUMBERS.index.is_unique
    what = NUMBERS.drop(columns=["value", "source"])
    several = NUMBERS[what.duplicated(keep=False)].index  # two readings of the same
    assert set(several) == {"rib-others-pseudo", "rib-others-pseudo-later"}
    assert (NUMBERS.drop(columns="split") != "").all(axis=None)
    assert not NUMBERS["source"].str.contains(r"[\[\]?()|]").any()
    begin = ("the paper, by ", "a later paper", "another paper", "an issue of the official",
             "read off the paper's Figure 1", FROM_MEMORY)  # fmt: skip
    assert NUMBERS["source"].str.startswith(begin).all()


def test_a_difference_of_two_numbers_is_exact_and_keeps_their_sources():
    found = effect("rib-seed", "cam-seed")
    assert (found.low, found.high, found.unit) == (7.7, 7.7, "mIoU")
    assert found.text == (
        "48.8 (a later paper: LPCAM, table 1) to 56.5 (the paper, by a summary of it) on VOC train:"
        " +7.7 mIoU"
    )


def test_what_is_from_memory_has_a_question_mark_and_so_has_what_is_made_of_it():
    found = effect("rib-pseudo", "cam-pseudo")
    assert found.low == 4.1
    assert "66.5 (another paper's table) to 70.6? (from memory, not confirmed)" in found.text
    assert found.text.endswith("+4.1? mIoU")


def test_a_source_of_both_numbers_is_named_once():
    text = effect("rib-pseudo", "rib-crf").text
    assert text == "62.9? to 70.6? (from memory, not confirmed) on VOC train: +7.7? mIoU"


def test_a_gain_reported_as_such_may_be_a_range():
    found = effect("rib-gain-coco")
    assert (found.low, found.high) == (2.7, 3.0)
    assert found.text == (
        "+2.7 to +3.0 mIoU on COCO train (the paper, by a summary of it: one range for seeds and "
        "pseudo ground truth)"
    )


def test_a_range_less_a_number_is_a_range(monkeypatch):
    made = NUMBERS.copy()
    made.loc["rib-seed", "value"] = "56.5 to 57.0"
    monkeypatch.setattr(reported, "NUMBERS", made)
    found = effect("rib-seed", "cam-seed")
    assert (found.low, found.high) == (7.7, 8.2)
    assert found.text.endswith(": +7.7 to +8.2 mIoU")


@pytest.mark.parametrize("pair", [("rib-val", "cam-seed"), ("rib-coco", "cam-val")])
def test_numbers_of_different_images_are_not_subtracted(pair):
    with pytest.raises(ValueError, match="are of different images or units"):
        effect(*pair)


def test_a_number_that_does_not_exist_is_refused():
    with pytest.raises(KeyError):
        effect("rib-sead")


def test_the_toys_gain_is_that_of_the_curves_read_off_the_figure():
    drops = {region: hgr[4] - hgr[5] for region, hgr in PAPER_HGR.items()}
    found = effect("toy-drop")
    shape, digit = drops["non-discriminative"], drops["discriminative"]
    assert found.low == pytest.approx(shape - digit)
    assert f"the shape loses {shape:.2f}, the digit {digit:.2f}".replace("0.", ".") in found.text


def test_coco_has_one_reading_and_its_discrepancy_a_row():
    (claim,) = (claim for claim in CLAIMS if claim.name == "rib-network-coco")
    assert claim.reported.low == 1.8
    assert "no saliency" in claim.reported.text
    cells = pivot("COCO").set_index("method")["network, val"]
    assert cells["RIB + IRN"].startswith("43.8 (the paper, by Papers with Code")
    assert cells["RIB + IRN, as a later paper has it"] == "44.2 (a later paper: LPCAM)"


def test_the_table_beside_ours_has_methods_as_rows_and_stages_as_columns():
    table = pivot("VOC").set_index("method")
    assert list(table)[:4] == [
        "seed, train", "+ CRF, train", "pseudo ground truth, train", "network, val",
    ]  # fmt: skip
    assert table.loc["RIB + IRN", "seed, train"] == "56.5 (the paper, by a summary of it)"
    assert table.loc["RIB + PSA", "pseudo ground truth, train"] == f"68.6? ({FROM_MEMORY})"
    assert table.loc["RIB + PSA", "network, val"] == ""
    shown = table.map(lambda text: len([t for t in text.split("); ") if t])).sum().sum()
    numbers = NUMBERS.query("data == 'VOC' and unit == 'mIoU'")
    assert shown == len(numbers)
