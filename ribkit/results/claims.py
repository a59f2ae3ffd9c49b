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
    """A claim of the paper, or a question that its claim leaves open ("not the paper's").

    reported: the paper's number, its provenance in brackets. decided: the notebook, the heading in
    it and the figure that decide the claim.
    """

    name: str
    question: str
    text: str
    reported: str
    decided: tuple[str, str, str]


TOY = ("01_information_bottleneck", "Measured")
REAL = ("06_ablations", "RQ1. Where the real classifier loses it")
ACTIVATION = ("06_ablations", "RQ1. Is it the activation?")
COVERAGE = ("03_rib_adaptation", "Does it cover the part that the classifier had no need of?")
SEED = ("03_rib_adaptation", "Is the seed better?")
ONCE = ("06_ablations", "RQ3. Each image on its own?")
STAGES = ("04_seed_refinement", "What each stage adds")
NETWORKS = ("05_segmentation", "Scores")
OURS = "not claimed in numbers; a sceptic's question"

CLAIMS = (
    Claim(
        "last-layer-bottleneck",
        "RQ1",
        "In the last layer the non-discriminative region loses more of its gradient than the "
        "discriminative one",
        "HGR falls by .76 against .23 [figure]",
        (*TOY, "toy_hgr"),
    ),
    Claim(
        "real-bottleneck",
        "RQ1",
        "The same in the classifier that makes the seeds, from its last level to its outputs",
        OURS,
        (*REAL, "layers"),
    ),
    Claim(
        "activation-removed",
        "RQ1",
        "Without the last activation the non-discriminative region keeps more gradient",
        "stated, no number",
        (*TOY, "toy_last_drop"),
    ),
    Claim(
        "activation-seed",
        "RQ1",
        "Adapting without the last activation gives better seeds than with the sigmoid, at the "
        "same rate",
        "stated, no number",
        (*ACTIVATION, "activations"),
    ),
    Claim(
        "activation-seed-matched",
        "RQ1",
        "It does so too when the rate makes up for the sigmoid's smaller gradient",
        OURS,
        (*ACTIVATION, "activations"),
    ),
    Claim(
        "gndrp-coverage",
        "RQ2",
        "GNDRP covers more of the non-discriminative parts than GAP does",
        "stated, no number",
        (*COVERAGE, "coverage"),
    ),
    Claim(
        "gndrp-seed",
        "RQ2",
        "GNDRP gives better seeds than GAP",
        "stated, no number",
        (*SEED, "replicas"),
    ),
    Claim(
        "rib-coverage",
        "RQ3",
        "RIB covers more of the non-discriminative parts than CAM does",
        "stated, no number",
        (*COVERAGE, "coverage"),
    ),
    Claim(
        "rib-seed",
        "RQ3",
        "RIB gives better seeds than CAM, threshold held out",
        "not reported",
        (*SEED, "replicas"),
    ),
    Claim(
        "rib-seed-oracle",
        "RQ3",
        "RIB gives better seeds than CAM, threshold chosen on the images scored",
        "48.8 to 56.5, +7.7 mIoU on VOC train [abstract]",
        (*SEED, "replicas"),
    ),
    Claim(
        "rib-seed-coco",
        "RQ3",
        "RIB gives better seeds than CAM on MS COCO",
        "+2.7 to +3.0 mIoU [abstract]",
        (*SEED, "replicas"),
    ),
    Claim(
        "per-image",
        "RQ3",
        "An adaptation for each image gives better seeds than one for the whole set",
        "stated, no number",
        (*ONCE, "adaptations"),
    ),
    Claim(
        "summed-maps",
        "RQ3",
        "The maps summed over the steps give better seeds than the last step's map",
        "stated, no number",
        (*ONCE, "adaptations"),
    ),
    Claim(
        "crf-seed",
        "RQ4",
        "The CRF makes RIB's seeds better",
        "56.5 to 62.9 on VOC train [?]",
        (*STAGES, "refinement"),
    ),
    Claim(
        "psa-seed",
        "RQ4",
        "PSA makes RIB's seeds better",
        "56.5 to 68.6 on VOC train [?]",
        (*STAGES, "refinement"),
    ),
    Claim(
        "irn-seed",
        "RQ4",
        "IRN makes RIB's seeds better",
        "56.5 to 70.6 on VOC train [?]",
        (*STAGES, "refinement"),
    ),
    Claim(
        "rib-pseudo",
        "RQ4",
        "After IRN, RIB's pseudo ground truth is better than CAM's",
        "66.5 [other paper] to 70.6 [?] on VOC train",
        (*STAGES, "refinement"),
    ),
    Claim(
        "rib-network",
        "RQ4",
        "A network trained on RIB's pseudo ground truth is better than one trained on CAM's",
        "63.5 [other paper] to 68.3 [abstract] on VOC val",
        (*NETWORKS, "network"),
    ),
    Claim(
        "saliency-network",
        "RQ4",
        "With saliency, the network trained on RIB's pseudo ground truth is better still",
        "68.3 [abstract] to 70.2 [other paper] on VOC val",
        (*NETWORKS, "network"),
    ),
    Claim(
        "rib-network-coco",
        "RQ4",
        "The same on MS COCO",
        "42.0 [other paper] to 43.8 [abstract], read as val without or as test with saliency",
        (*NETWORKS, "network"),
    ),
)

REPORTED = (
    ("CAM + IRN", "48.8 [other paper]", "54.3 [?]", "66.5 [other paper]", "63.5 [other paper]"),
    ("AdvCAM + IRN", "55.6 [issue]", "62.1 [?]", "69.9 [issue]", "68.1 [other paper]"),
    ("RIB + PSA", "56.5 [abstract]", "62.9 [?]", "68.6 [?]", ""),
    ("RIB + IRN", "56.5 [abstract]", "62.9 [?]", "70.6 [?]", "68.3 [abstract]"),
    ("RIB + IRN, by others who ran its code", "", "", "67.1, later 69.x [issue]", "65.3 [issue]"),
    ("RIB + saliency", "", "", "", "70.2 [other paper]"),
)
"""What was reported on VOC 2012: method, seed, + CRF, pseudo ground truth (train), network (val).

Provenance in brackets; [?] is remembered and not confirmed. The authors' pseudo ground truth
includes a CRF step that their code lacks.
"""


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
                "decided by": _decided(claim),
            }
        )
    return pd.DataFrame(rows)


def _decided(claim: Claim) -> str:
    """Links to the notebook's heading (JupyterLab's kind) and to the figure in the report."""
    notebook, heading, figure = claim.decided
    place = heading.replace(" ", "-")
    return f"[{notebook[:2]}]({notebook}.ipynb#{place}), [{figure}](#{figure})"


def _words(found: Measured) -> str:
    return f"{found.difference:+.2f} {found.unit} ({found.low:+.2f} to {found.high:+.2f})"


def markdown(claims: pd.DataFrame) -> str:
    """The table as Markdown, for the README and the terminal."""
    lines = ["| " + " | ".join(claims.columns) + " |", "|" + " --- |" * len(claims.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in claims.itertuples(index=False)]
    return "\n".join(lines)


def summary(claims: pd.DataFrame) -> str:
    """The claims of `table` by verdict, a paragraph for each verdict that came out."""
    paragraphs = []
    for name in VERDICTS:
        own = claims.loc[claims["verdict"] == name, "claim"]
        if len(own):
            paragraphs.append(f"{name.capitalize()} ({len(own)} of {len(claims)}):")
            paragraphs += [f"- {claim}" for claim in own]
    return "\n".join(paragraphs)


def reported() -> pd.DataFrame:
    """`REPORTED`, a row for each method, all on VOC 2012 with 20 classes and a ResNet-50."""
    columns = (
        "method",
        "seed, train",
        "+ CRF, train",
        "pseudo ground truth, train",
        "network, val",
    )
    return pd.DataFrame(REPORTED, columns=columns)
