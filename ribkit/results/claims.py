"""The paper's claims, what was measured of each, and the verdict that follows.

A claim says that some difference is positive. It *holds* if the 95 % interval of the measured
difference lies above zero, *does not hold* if it lies below, is *undecided* if it spans zero, and
*not measured* if this run did not measure it. In ``claims.csv`` and ``reported.csv``, both beside
this module, stands in brackets where the paper's number comes from: see the README.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

VERDICTS = ("holds", "does not hold", "undecided", "not measured")


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name(name), dtype=str, keep_default_na=False)


CLAIMS = tuple(_read("claims.csv").itertuples(index=False, name="Claim"))
"""Each with its name, question, text and the paper's number, and what decides it: the notebook,
and the heading and the figure there."""
REPORTED = _read("reported.csv")
"""What was reported on VOC 2012 with 20 classes and a ResNet-50. The authors' pseudo ground truth
includes a CRF step that their code lacks."""


@dataclass(frozen=True)
class Measured:
    """A measured difference with its 95 % interval, the unit of all three, and how it was taken."""

    difference: float
    low: float
    high: float
    unit: str
    setting: str

    def __str__(self) -> str:
        return f"{self.difference:+.2f} {self.unit} ({self.low:+.2f} to {self.high:+.2f})"


def verdict(measured: Measured | None) -> str:
    """One of `VERDICTS`: where the interval lies. Not a number counts as not measured."""
    if measured is None or math.isnan(measured.low) or math.isnan(measured.high):
        return "not measured"
    if measured.low > 0:
        return "holds"
    return "does not hold" if measured.high < 0 else "undecided"


def table(measured: dict[str, Measured], notebook: str = "") -> pd.DataFrame:
    """The claims, or those of the notebook ``"03"``, beside what was measured, a row each.

    ``measured`` maps names of claims; a name that is no claim's raises KeyError.
    """
    if unknown := measured.keys() - {claim.name for claim in CLAIMS}:
        raise KeyError(f"no claim is called {', '.join(sorted(unknown))}")
    rows = []
    for claim in CLAIMS:
        if claim.notebook.startswith(notebook):
            value = measured.get(claim.name)
            heading = f"{claim.notebook}.ipynb#{claim.heading.replace(' ', '-')}"
            row = {"question": claim.question, "claim": claim.text, "paper": claim.reported}
            row["measured here (95 % interval)"] = str(value or "")
            row["setting"] = value.setting if value else ""
            row["verdict"] = verdict(value)
            # JupyterLab's kind of link to a heading, and the figure in the report
            link = f"[{claim.notebook[:2]}]({heading}), [{claim.figure}](#{claim.figure})"
            rows.append(row | {"decided by": link})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """Any table as Markdown, for notebooks, the README and the terminal."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + " --- |" * len(table.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)
