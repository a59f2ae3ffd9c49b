"""The paper's claims, what was measured of each, and the verdict that follows.

A claim says that some difference is positive. It *holds* if the 95 % interval of the measured
difference lies above zero, *does not hold* if it lies below, is *undecided* if it spans zero, and
*not measured* if this run did not measure it.

The claims stand in ``claims.csv``, the numbers that others reported in ``reported.csv``, both
beside this module. In brackets behind a number stands where it comes from, see `PROVENANCE`.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

FILES = tuple(Path(__file__).with_name(f"{name}.csv") for name in ("claims", "reported"))
VERDICTS = ("holds", "does not hold", "undecided", "not measured")
PROVENANCE = {
    "abstract": "the paper's abstract",
    "figure": "read off a figure of the paper",
    "other paper": "a later paper that compares itself with this one",
    "issue": "an issue of the official repository",
    "?": "remembered, and not confirmed",
}


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, or a question that its claim leaves open ("a sceptic's question").

    Attributes:
        name: Short name, unique.
        question: The research question, ``RQ1`` to ``RQ4``.
        text: The claim in a sentence.
        reported: The paper's number, its provenance in brackets.
        notebook: The notebook that decides the claim, without suffix.
        heading: The heading there under which it does.
        figure: The figure there that shows it.
    """

    name: str
    question: str
    text: str
    reported: str
    notebook: str
    heading: str
    figure: str


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


CLAIMS = tuple(Claim(**row) for row in _read(FILES[0]).to_dict("records"))


def reported() -> pd.DataFrame:
    """What was reported on VOC 2012 with 20 classes and a ResNet-50, a row for each method.

    The authors' pseudo ground truth includes a CRF step that their code lacks.
    """
    return _read(FILES[1])


@dataclass(frozen=True)
class Measured:
    """A measured difference with its 95 % interval, the unit of all three, and how it was taken."""

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


def table(measured: dict[str, Measured], notebook: str = "") -> pd.DataFrame:
    """The claims beside what was measured, a row each.

    Args:
        measured: Claim name -> what this run measured; the others count as not measured.
        notebook: Number of a notebook, as in ``"03"``, to have only the claims that it decides.

    Returns:
        One row for each claim, in the order of `CLAIMS`.

    Raises:
        KeyError: A name in ``measured`` is no claim's.
    """
    unknown = set(measured) - {claim.name for claim in CLAIMS}
    if unknown:
        raise KeyError(f"no claim is called {', '.join(sorted(unknown))}")
    rows = [
        {
            "question": claim.question,
            "claim": claim.text,
            "paper": claim.reported,
            "measured here (95 % interval)": _format(measured.get(claim.name)),
            "setting": measured[claim.name].setting if claim.name in measured else "",
            "verdict": verdict(measured.get(claim.name)),
            "decided by": _link(claim),
        }
        for claim in CLAIMS
        if claim.notebook.startswith(notebook)
    ]
    return pd.DataFrame(rows)


def _link(claim: Claim) -> str:
    """Links to the notebook's heading (JupyterLab's kind) and to the figure in the report."""
    place = f"{claim.notebook}.ipynb#{claim.heading.replace(' ', '-')}"
    return f"[{claim.notebook[:2]}]({place}), [{claim.figure}](#{claim.figure})"


def _format(measured: Measured | None) -> str:
    if measured is None:
        return ""
    interval = f"({measured.low:+.2f} to {measured.high:+.2f})"
    return f"{measured.difference:+.2f} {measured.unit} {interval}"


def markdown(table: pd.DataFrame) -> str:
    """Any table as Markdown, for notebooks, the README and the terminal."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + " --- |" * len(table.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def summary(claims: pd.DataFrame) -> str:
    """The claims of `table` by verdict, a paragraph for each verdict that came out."""
    lines = []
    for name in VERDICTS:
        texts = claims.loc[claims["verdict"] == name, "claim"]
        if len(texts):
            lines.append(f"{name.capitalize()} ({len(texts)} of {len(claims)}):")
            lines += [f"- {text}" for text in texts]
    return "\n".join(lines)
