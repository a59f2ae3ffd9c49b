"""What was reported: in ``reported.csv``, beside this module, a row for each number and its source.

A number that nobody has confirmed is shown with a question mark, and so is what is made of it.
"""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pandas as pd

NUMBERS = pd.read_csv(
    Path(__file__).with_suffix(".csv"), dtype=str, keep_default_na=False, index_col="name"
)
"""By name: method, data set, split, stage, the value or a range of it (``2.7 to 3.0``), source."""
FROM_MEMORY = "from memory, not confirmed"
MARK = "?"  # of such a number in a text


@dataclass(frozen=True)
class Effect:
    """A reported difference, ``low`` and ``high`` alike unless a range was reported."""

    low: float
    high: float
    unit: str
    text: str  # with the numbers that it is made of, and their sources


def effect(after: str, before: str = "") -> Effect:
    """How much larger one number is than another, by their names; or the one, if it is a gain.

    Raises:
        KeyError: There is no number of that name.
        ValueError: They are of different images or units.
    """
    rows = [NUMBERS.loc[name] for name in (before, after) if name]
    places = {(row["data"], row["split"], row["unit"]) for row in rows}
    if len(places) > 1:
        raise ValueError(f"{before} and {after} are of different images or units.")
    ((data, split, unit),) = places
    ranges = [list(map(Decimal, row["value"].split(" to "))) for row in rows]
    low, high = ranges[-1][0], ranges[-1][-1]
    if before:
        low, high = low - ranges[0][-1], high - ranges[0][0]
    gain = " to ".join(f"{end:+}" for end in dict.fromkeys((low, high)))
    gain += MARK * any(row["source"] == FROM_MEMORY for row in rows) + f" {unit}"
    where = f"on {data} {split}".strip()
    if before:
        text = f"{_sourced(rows)} {where}: {gain}"
    else:
        text = f"{gain} {where} ({rows[0]['source']})"
    return Effect(float(low), float(high), unit, text)


def _sourced(rows: list[pd.Series]) -> str:
    """From one number to another, the source once if it is the same."""
    sources = [f" ({row['source']})" for row in rows]
    if sources[0] == sources[1]:
        sources[0] = ""
    return " to ".join(_shown(row) + source for row, source in zip(rows, sources, strict=True))


def _shown(row: pd.Series) -> str:
    """A number, with its question mark."""
    return row["value"] + MARK * (row["source"] == FROM_MEMORY)


def is_confirmed(text: str) -> bool:
    """Whether what a text reports, as `Effect.text` does, is of confirmed numbers."""
    return MARK not in text


def pivot(data: str) -> pd.DataFrame:
    """All mIoUs on a data set, with their sources: a row for each method, a column for a stage."""
    rows = NUMBERS[(NUMBERS["data"] == data) & (NUMBERS["unit"] == "mIoU")]
    shown = rows.apply(_shown, axis=1) + " (" + rows["source"] + ")"
    table = rows.assign(shown=shown, stage=rows["stage"] + ", " + rows["split"])
    table = table.pivot_table("shown", "method", "stage", "; ".join, fill_value="", sort=False)
    return table.rename_axis(columns=None).reset_index()
