"""The paper's claims, what was measured of each, and the verdict that follows.

A claim says that some difference is positive. Its verdict has two halves: is the difference above
zero, and is it as large as was reported? `verdict` says which of `VERDICTS` a 95 % interval gives.
``claims.csv``, beside this module, names for each claim the two reported numbers, before and after,
or the one reported gain (see `ribkit.results.reported`), or says why there is none; and what
decides it: the notebook, and the heading and the figure there.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ribkit.results.reported import Effect, effect

VERDICTS = (
    "holds, larger than reported",
    "holds, as large as reported",
    "holds",
    "holds, smaller than reported",
    "undecided",
    "no effect of the reported size",
    "opposite",
    "not measured",
)
"""From the best for a claim to the worst. *holds* alone: no number was reported."""
COULD_BE_FOUND = ("undecided", "no effect of the reported size")


@dataclass(frozen=True)
class Claim:
    """A row of ``claims.csv``."""

    name: str
    question: str
    text: str
    before: str
    after: str
    no_number: str
    notebook: str
    heading: str
    figure: str

    @property
    def reported(self) -> Effect | None:
        """What was reported, if a number was."""
        return effect(self.after, self.before) if self.after else None


_ROWS = pd.read_csv(Path(__file__).with_suffix(".csv"), dtype=str, keep_default_na=False)
CLAIMS = tuple(Claim(**row) for row in _ROWS.to_dict("records"))


@dataclass(frozen=True)
class Measured:
    """A measured difference with its 95 % interval, all in one unit, and how it was taken."""

    difference: float
    low: float
    high: float
    detectable: float  # a true gain of so much would have been found 8 times in 10
    unit: str
    setting: str
    on: str  # what it was measured on: "scenes", "photographs" or "digits"

    def __str__(self) -> str:
        return f"{self.difference:+.2f} {self.unit} ({self.low:+.2f} to {self.high:+.2f})"


def verdict(low: float, high: float, reported: tuple[float, float] | None = None) -> str:
    """One of `VERDICTS`, from where a 95 % interval lies; not a number counts as not measured.

    reported: the reported gain, low and high end, above zero; None: no number was. Ends of an
    interval belong to it, and one contains a reported range that it overlaps.

    Example:
        >>> verdict(0.4, 2.0), verdict(0.4, 2.0, (7.7, 7.7)), verdict(-0.4, 2.0, (7.7, 7.7))
        ('holds', 'holds, smaller than reported', 'no effect of the reported size')
    """
    if math.isnan(low) or math.isnan(high):
        return "not measured"
    if low > high or (reported and not 0 < reported[0] <= reported[1]):
        raise ValueError(f"{low} to {high} is no interval, or {reported} no positive gain.")
    if high < 0:
        return "opposite"
    if not reported:
        return "holds" if low > 0 else "undecided"
    if low <= 0:
        return "undecided" if high >= reported[0] else "no effect of the reported size"
    if high < reported[0]:
        return "holds, smaller than reported"
    return "holds, larger than reported" if low > reported[1] else "holds, as large as reported"


def _in_words(claim: Claim, value: Measured | None) -> str:
    """The verdict: on what, and where no effect was found, what gain would have been."""
    if value is None:
        return "not measured"
    found = claim.reported
    if found and found.unit != value.unit:
        raise ValueError(f"{claim.name}: reported in {found.unit}, measured in {value.unit}.")
    word = verdict(value.low, value.high, (found.low, found.high) if found else None)
    if word == "not measured":
        return word
    against_zero, comma, against_reported = word.partition(",")
    words = f"{against_zero} on {value.on}{comma}{against_reported}"
    if word in COULD_BE_FOUND:
        gain = np.format_float_positional(value.detectable, 2, fractional=False, trim="-")
        words += f"; a gain of {gain} would have been found 8 times in 10"
    return words


def plain(words: str) -> str:
    """Which of `VERDICTS` the words in the table of claims say."""
    return re.sub(r" on \w+", "", words.split(";")[0])


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
            row = {"question": claim.question, "claim": claim.text}
            row["reported"] = claim.reported.text if claim.reported else claim.no_number
            row["measured here (95 % interval)"] = str(value or "")
            row["setting"] = value.setting if value else ""
            row["verdict"] = _in_words(claim, value)
            # JupyterLab's kind of link to a heading, and the figure in the report
            link = f"[{claim.notebook[:2]}]({heading}), [{claim.figure}](#{claim.figure})"
            rows.append(row | {"decided by": link})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """Any table as Markdown, for notebooks, the README and the terminal."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + " --- |" * len(table.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)
