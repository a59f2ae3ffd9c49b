"""The paper's claims, what was measured of each, and the verdict that follows.

A claim says that some difference is positive. Its verdict has two halves: is the difference above
zero, and is it as large as was reported? `verdict` says which of `VERDICTS` a 95 % interval gives.
``claims.csv``, beside this module, names for each claim the two reported numbers, before and after,
or the one reported gain (see `ribkit.results.reported`), or says why there is none; and what
decides it: the notebook, and the heading and the figure there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ribkit.evaluation.intervals import numbers
from ribkit.results.reported import Effect, effect

VERDICTS = (
    "holds, larger than reported",
    "holds, reported size in its interval",
    "holds",
    "holds, smaller than reported",
    "undecided",
    "no effect of the reported size",
    "opposite",
    "not measured",
)
"""From the best for a claim to the worst. *holds* alone: no number was reported."""
TEXTS = ("unit", "counts", "setting", "on", "note")  # columns of `table` that may be empty
COULD_BE_FOUND = ("undecided", "no effect of the reported size")


@dataclass(frozen=True)
class Claim:
    """A row of ``claims.csv``."""

    name: str
    question: str
    short: str
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
    counts: str  # what its interval is over, as in "48 images, 2 trainings"
    setting: str
    on: str  # what it was measured on: "scenes", "photographs", "MNIST" or "bundled digits"
    note: str = ""  # what the number alone would hide
    p_value: float = math.nan  # see `ribkit.evaluation.intervals.p_value`


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
    if low > reported[1]:
        return "holds, larger than reported"
    return "holds, reported size in its interval"


def table(measured: dict[str, Measured], notebook: str = "") -> pd.DataFrame:
    """The claims, or those of the notebook ``"03"``, and what was measured, in numbers.

    ``measured`` maps names of claims; a name that is no claim's raises KeyError. `readable` shows
    it.
    """
    if unknown := measured.keys() - {claim.name for claim in CLAIMS}:
        raise KeyError(f"no claim is called {', '.join(sorted(unknown))}")
    chosen = [claim for claim in CLAIMS if claim.notebook.startswith(notebook)]
    return pd.DataFrame([_row(claim, measured.get(claim.name)) for claim in chosen])


def _row(claim: Claim, value: Measured | None) -> dict:
    """One claim's row of `table`."""
    effect, shown = claim.reported, ("name", "question", "short", "text")
    shown += ("notebook", "heading", "figure")
    row = {column: getattr(claim, column) for column in shown}
    row["reported"] = effect.text if effect else claim.no_number
    row |= {"reported_low": math.nan, "reported_high": math.nan, "verdict": "not measured"}
    if effect:
        row |= {"reported_low": effect.low, "reported_high": effect.high}
    if value is None:
        numbers = dict.fromkeys(("difference", "low", "high", "detectable"), math.nan)
        return row | numbers | dict.fromkeys(TEXTS, "") | {"p_value": math.nan}
    if effect and effect.unit != value.unit:
        raise ValueError(f"{claim.name}: reported in {effect.unit}, measured in {value.unit}.")
    word = verdict(value.low, value.high, (effect.low, effect.high) if effect else None)
    return row | vars(value) | {"verdict": word}


def again(stored: pd.DataFrame, notebook: str = "") -> pd.DataFrame:
    """A `table` that was stored, as it is today: of what is stored what was measured is taken.

    Texts and reported numbers may have changed since, and a verdict with them.
    """
    names = [field.name for field in fields(Measured)]
    rows = filled(stored).query("unit != ''").set_index("name")[names]
    found = {name: Measured(**row) for name, row in rows.to_dict("index").items()}
    return table(found, notebook)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A `table` as text, a row for each claim."""
    rows = filled(table).to_dict("records")
    shown = []
    for row in rows:
        # JupyterLab's kind of link to a heading, and the figure in the report
        heading = f"{row['notebook']}.ipynb#{row['heading'].replace(' ', '-')}"
        link = f"[{row['notebook'][:2]}]({heading}), [{row['figure']}](#{row['figure']})"
        text = {"question": row["question"], "claim": row["text"], "reported": row["reported"]}
        setting = "; ".join(filter(None, (row["setting"], row["note"])))
        text |= {"measured here (95 % interval)": interval(row), "setting": setting}
        shown.append(text | {"verdict": in_words(row), "decided by": link})
    return pd.DataFrame(shown)


def evidence(photographs: pd.DataFrame, scenes: pd.DataFrame, digits: pd.DataFrame) -> pd.DataFrame:
    """Three `table`, of photographs and of drawn scenes or digits, side by side as text."""
    scenes, digits = (filled(table).set_index("name") for table in (scenes, digits))
    shown = []
    for row in filled(photographs).to_dict("records"):
        of_digits = row["name"] in digits.index
        other = (digits if of_digits else scenes).loc[row["name"]]
        text = {"question": row["question"], "claim": row["text"], "reported": row["reported"]}
        text["on photographs"] = "" if of_digits else found(row)
        shown.append(text | {"on scenes, or digits": found(other)})
    return pd.DataFrame(shown)


def by_chance(table: pd.DataFrame) -> pd.DataFrame:
    """Which claims hold or are the opposite, but not if corrected for how many there are.

    Their rows. By the false discovery rate of 5 % (Benjamini and Hochberg 1995): of those
    that are left at most one in twenty is an error, on average, where tests are independent or
    lean the same way. ValueError: something measured has no p.
    """
    told = table[table["verdict"] != "not measured"]
    corrected = stats.false_discovery_control(told["p_value"])
    away = told["verdict"].str.match("holds|opposite")
    return told[away & (corrected > 0.05)]


def filled(table: pd.DataFrame) -> pd.DataFrame:
    """A table as it was before it was a file, which has no empty texts."""
    return table.assign(**{name: table[name].astype(object).fillna("") for name in TEXTS})


def found(row: Mapping[str, Any]) -> str:
    """What was measured of a claim, on how much, the verdict, and the note."""
    words = ": ".join(filter(None, (interval(row), in_words(row))))
    return "; ".join(filter(None, (words, row["note"])))


def interval(row: Mapping[str, Any]) -> str:
    """What was measured of a claim, in words, with what it counts; nothing if nothing was.

    A difference that has no interval, as of one network, tells nothing either.
    """
    if pd.isna(row["low"]):
        return ""
    point, low, high = numbers([row[name] for name in ("difference", "low", "high")])
    return f"{point} {row['unit']} ({'; '.join(filter(None, (f'{low} to {high}', row['counts'])))})"


def in_words(row: Mapping[str, Any]) -> str:
    """The verdict of a row: on what, and where no effect was found, what gain would have been."""
    word = row["verdict"]
    if word == "not measured":
        return word
    against_zero, comma, against_reported = word.partition(",")
    words = f"{against_zero} on {row['on']}{comma}{against_reported}"
    if word in COULD_BE_FOUND and row["detectable"] > 0:
        gain = np.format_float_positional(row["detectable"], 2, fractional=False, trim="-")
        words += f"; a gain of {gain} would have been found 8 times in 10"
    return words


def markdown(table: pd.DataFrame) -> str:
    """Any table as Markdown, for notebooks, the README and the terminal."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + " --- |" * len(table.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)
