"""The paper's claims, what was measured of each, and the verdict that follows.

A claim says that some difference is positive. It *holds* if the 95 % interval of the measured
difference lies above zero, *does not hold* if it lies below, is *undecided* if it spans zero, and
*not measured* if this run did not measure it.
"""

import math
from dataclasses import dataclass

import pandas as pd

VERDICTS = ("holds", "does not hold", "undecided", "not measured")


@dataclass(frozen=True)
class Claim:
    """A claim of the paper. reported: its number, its provenance in brackets."""

    name: str
    question: str
    text: str
    reported: str


CLAIMS = (
    Claim(
        "last-layer-bottleneck",
        "RQ1",
        "In the last layer the non-discriminative region loses more of its gradient than the "
        "discriminative one",
        "HGR falls by .76 against .23 [figure]",
    ),
    Claim(
        "activation-removed",
        "RQ1",
        "Without the last activation the non-discriminative region keeps more gradient",
        "stated, no number",
    ),
    Claim(
        "gndrp-coverage",
        "RQ2",
        "GNDRP covers more of the non-discriminative parts than GAP does",
        "stated, no number",
    ),
    Claim(
        "gndrp-seed",
        "RQ2",
        "GNDRP gives better seeds than GAP",
        "stated, no number",
    ),
    Claim(
        "rib-coverage",
        "RQ3",
        "RIB covers more of the non-discriminative parts than CAM does",
        "stated, no number",
    ),
    Claim(
        "rib-seed",
        "RQ3",
        "RIB gives better seeds than CAM, threshold held out",
        "not reported",
    ),
    Claim(
        "rib-seed-oracle",
        "RQ3",
        "RIB gives better seeds than CAM, threshold chosen on the images scored",
        "48.8 to 56.5, +7.7 mIoU on VOC train [abstract]",
    ),
    Claim(
        "rib-seed-coco",
        "RQ3",
        "RIB gives better seeds than CAM on MS COCO",
        "+2.7 to +3.0 mIoU [abstract]",
    ),
    Claim("crf-seed", "RQ4", "The CRF makes RIB's seeds better", "56.5 to 62.9 on VOC train [?]"),
    Claim("psa-seed", "RQ4", "PSA makes RIB's seeds better", "56.5 to 68.6 on VOC train [?]"),
    Claim("irn-seed", "RQ4", "IRN makes RIB's seeds better", "56.5 to 70.6 on VOC train [?]"),
    Claim(
        "rib-pseudo",
        "RQ4",
        "After IRN, RIB's pseudo ground truth is better than CAM's",
        "66.5 [other paper] to 70.6 [?] on VOC train",
    ),
    Claim(
        "rib-network",
        "RQ4",
        "A network trained on RIB's pseudo ground truth is better than one trained on CAM's",
        "63.5 [other paper] to 68.3 [abstract] on VOC val",
    ),
    Claim(
        "saliency-network",
        "RQ4",
        "With saliency, the network trained on RIB's pseudo ground truth is better still",
        "68.3 [abstract] to 70.2 [other paper] on VOC val",
    ),
    Claim(
        "rib-network-coco",
        "RQ4",
        "The same on MS COCO",
        "42.0 [other paper] to 43.8 [abstract], read as val without or as test with saliency",
    ),
)


@dataclass(frozen=True)
class Measured:
    """A measured difference with its 95 % interval. unit: of all three. setting: how measured."""

    difference: float
    low: float
    high: float
    unit: str
    setting: str


def verdict(measured: Measured | None) -> str:
    """One of `VERDICTS`: where the interval lies. Not a number counts as not measured."""
    if measured is None or math.isnan(measured.low) or math.isnan(measured.high):
        return "not measured"
    if measured.low > 0:
        return "holds"
    return "does not hold" if measured.high < 0 else "undecided"


def table(measured: dict[str, Measured]) -> pd.DataFrame:
    """All claims, a row each. measured: claim name -> what this run measured; others were not."""
    unknown = set(measured) - {claim.name for claim in CLAIMS}
    if unknown:
        raise KeyError(f"no claim is called {', '.join(sorted(unknown))}")
    rows = []
    for claim in CLAIMS:
        found = measured.get(claim.name)
        words = "" if found is None else _words(found)
        setting = "" if found is None else found.setting
        rows.append(
            {
                "question": claim.question,
                "claim": claim.text,
                "paper": claim.reported,
                "measured here (95 % interval)": words,
                "setting": setting,
                "verdict": verdict(found),
            }
        )
    return pd.DataFrame(rows)


def _words(found: Measured) -> str:
    return f"{found.difference:+.2f} {found.unit} ({found.low:+.2f} to {found.high:+.2f})"


def markdown(claims: pd.DataFrame) -> str:
    """The table as Markdown, for the README and the terminal."""
    lines = ["| " + " | ".join(claims.columns) + " |", "|" + " --- |" * len(claims.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in claims.itertuples(index=False)]
    return "\n".join(lines)
