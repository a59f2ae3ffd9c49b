"""What README.md and ``docs/`` show of the committed tables: texts between marks, and one figure.

What stands between ``<!-- name -->`` and ``<!-- /name -->`` is one of `TEXTS`.
``python -m ribkit.results.published`` writes all of them anew, and a test holds them to the tables.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from ribkit.results import claims, figures, tables
from ribkit.runtime.errors import InputError
from ribkit.study.inputs import ROOT

RUNS = {"photographs": "voc-lite", "drawn scenes": "mini"}  # the runs that decide, by evidence
MARKED = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)


def committed(evidence: str, name: str) -> pd.DataFrame:
    """The table beside a figure of one of `RUNS`."""
    return pd.read_csv(ROOT / "figures" / RUNS[evidence] / f"{name}.csv")


def forest() -> pd.DataFrame:
    """All runs' claims, for the figure of this name."""
    both = [committed(evidence, "claims").assign(evidence=evidence) for evidence in RUNS]
    return pd.concat(both, ignore_index=True)


# ---- texts --------------------------------------------------------------------------------------
def scores(evidence: str, name: str) -> str:
    """A table of scores as Markdown."""
    return claims.markdown(tables.readable(committed(evidence, name)))


def both_claims() -> str:
    """Each claim, and what photographs and scenes say of it."""
    return claims.markdown(claims.evidence(*(committed(each, "claims") for each in RUNS)))


TEXTS: dict[str, Callable[[], str]] = {
    "claims": both_claims,
    "ledger": partial(scores, "drawn scenes", "ledger"),
    "seeds": partial(scores, "photographs", "seed_scores"),
    "refinement": partial(scores, "photographs", "refinement"),
    "network": partial(scores, "photographs", "network"),
}


def filled(text: str) -> str:
    """A text, with what is between marks as the tables have it. InputError: an unknown mark."""

    def written(found: re.Match) -> str:
        name = found["name"]
        if name not in TEXTS:
            raise InputError(f"<!-- {name} --> marks none of {', '.join(TEXTS)}; correct it.")
        return f"<!-- {name} -->\n{TEXTS[name]()}\n<!-- /{name} -->"

    return MARKED.sub(written, text)


def files() -> list[Path]:
    """README.md and the pages of ``docs/``."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


if __name__ == "__main__":
    figures.save("forest", forest(), ROOT / "figures" / "both")
    for path in files():
        path.write_text(filled(path.read_text()))
