"""What README.md and ``docs/`` show of the committed tables: texts between marks, and one figure.

What stands between ``<!-- name -->`` and ``<!-- /name -->`` is one of `TEXTS`.
``python -m ribkit.results.published`` writes all of them anew, and a test holds them to the tables.
"""

import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from ribkit.results import claims, figures, reported, tables
from ribkit.runtime.command import command
from ribkit.runtime.errors import InputError
from ribkit.study.inputs import ROOT

RUNS = {"photographs": "voc-lite", "drawn scenes": "mini"}  # the runs that decide, by evidence
COMMANDS = {
    "voc-lite": 'make reproduce PROFILE=voc-lite DATA=path/to/VOC2012 PARAMS="saliency=u2netp"',
    "mini-large": "make reproduce PROFILE=mini-large",
    "mini": "make reproduce",
}
MARKED = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)


def committed(evidence: str, name: str) -> pd.DataFrame:
    """The table beside a figure of one of `RUNS`; claims with today's texts and verdicts."""
    table = figures.read(ROOT / "figures" / RUNS[evidence] / f"{name}.csv")
    return claims.again(table) if name == "claims" else table


def forest() -> pd.DataFrame:
    """What was measured of the claims, in their order, for the figure of this name.

    Digits, which both runs have, are those of the run of drawn scenes.
    """
    runs = {evidence: committed(evidence, "claims") for evidence in RUNS}
    runs["photographs"] = runs["photographs"].query("on != 'digits'")
    both = pd.concat([rows.assign(evidence=evidence) for evidence, rows in runs.items()])
    both["evidence"] = both["evidence"].mask(both["on"] == "digits", "digits")
    columns = ["evidence", "question", "short", "unit", "difference", "low", "high"]
    measured = both.dropna(subset="difference").sort_index(kind="stable")
    return measured[[*columns, "reported_low", "reported_high"]].reset_index(drop=True)


# ---- texts --------------------------------------------------------------------------------------
def answer() -> str:
    """The answer in a few sentences, whose words follow from the verdicts."""
    runs = {evidence: committed(evidence, "claims").set_index("name") for evidence in RUNS}
    rows, said = runs["photographs"].loc[[*SHORT]], []
    if (rows["verdict"] != "not measured").any():
        short = "; ".join(_worded(words, rows.loc[name]) for name, words in SHORT.items())
        said.append(f"- **In short**, on photographs: {short}.")
    for evidence, rows in runs.items():
        own, oracle, rival = (rows.loc[name] for name in SEEDS)
        said.append(
            f"- **On {evidence}** RIB's seeds {_worded(COMPARED, own)} CAM's{_by(own)}, in points "
            f"of mIoU; {_points(oracle)} with thresholds chosen on the scored images, as in the "
            f"paper, which reports {oracle['reported_low']:+.1f}. They {_worded(COMPARED, rival)} "
            f"those of the best rival that adapts nothing{_by(rival)}.{_noted(own)}"
        )
    without, covers = (
        " and ".join(f"{_points(rows.loc[name])} on {on}" for on, rows in runs.items())
        for name in ("activation-seed", "rib-coverage")
    )
    said.append(
        f"- **Is it the bottleneck?** To adapt without the last activation gains {without} over "
        f"the sigmoid. Beyond CAM, in points of what the classifier had no need of, RIB covers "
        f"{covers}."
    )
    return "\n".join(said)


SHORT = {  # claim -> how its verdict begins -> what that means
    "rib-coverage": {
        "holds": "RIB's maps cover more of what the classifier had no need of",
        "undecided": "whether RIB's maps cover more of what the classifier had no need of is open",
        "no effect": "RIB's maps are not seen to cover more of what the classifier had no need of",
        "opposite": "RIB's maps cover less of what the classifier had no need of",
        "not measured": "what RIB's maps cover was not measured",
    },
    "rib-over-rivals": {
        "holds": "its seeds are better than any that need no adaptation",
        "undecided": "whether its seeds are better than any that need no adaptation is open",
        "no effect": "its seeds are not seen to be better than any that need no adaptation",
        "opposite": "some seeds that need no adaptation are better",
        "not measured": "its seeds were not compared with others that need no adaptation",
    },
    "activation-seed-matched": {
        "holds": "it helps that the last activation is taken away",
        "undecided": "whether it helps that the last activation is taken away is open",
        "no effect": "it is not seen to help that the last activation is taken away",
        "opposite": "it would help to leave the last activation in",
        "not measured": "whether it helps that the last activation is taken away was not measured",
    },
}
SEEDS = ("rib-seed", "rib-seed-oracle", "rib-over-rivals")
COMPARED = {  # how a verdict begins -> how two sets of seeds compare
    "holds": "are better than",
    "undecided": "cannot be told from",
    "no effect": "are not seen to be better than",
    "opposite": "are worse than",
    "not measured": "were not compared with",
}


def _worded(words: Mapping[str, str], row: pd.Series) -> str:
    """The words for a claim's verdict."""
    return next(said for start, said in words.items() if row["verdict"].startswith(start))


def _by(row: pd.Series) -> str:
    return "" if pd.isna(row["difference"]) else f": {_points(row)}"


def _noted(row: pd.Series) -> str:
    note = row.get("note", "")
    return f" {note[0].upper()}{note[1:]}." if isinstance(note, str) and note else ""


def _points(row: pd.Series) -> str:
    if pd.isna(row["difference"]):
        return "(not measured)"
    return "{difference:+.2f} ({low:+.2f} to {high:+.2f})".format(**row)


def verdicts() -> str:
    """How many claims have which verdict, by evidence."""
    said = []
    for evidence, counts in verdict_counts().items():
        measured, undecided = counts.drop("not measured").sum(), counts["undecided"]
        each = "; ".join(f"{count} *{name}*" for name, count in counts[counts > 0].items())
        said.append(
            f"- **On {evidence}** {undecided} of {measured} measured claims "
            f"{'is' if undecided == 1 else 'are'} undecided: {each}."
        )
    return "\n".join(said)


def verdict_counts() -> dict[str, pd.Series]:
    """How many claims have which of all verdicts, by evidence; digits are of the scenes' run."""
    runs = {evidence: committed(evidence, "claims").set_index("name") for evidence in RUNS}
    on_digits = runs["drawn scenes"]["on"] == "digits"
    parts = {evidence: rows[~on_digits] for evidence, rows in runs.items()}
    parts["digits"] = runs["drawn scenes"][on_digits]
    return {
        evidence: rows["verdict"].value_counts().reindex(claims.VERDICTS, fill_value=0)
        for evidence, rows in parts.items()
    }


def scores(evidence: str, name: str) -> str:
    """A table of scores as Markdown."""
    return claims.markdown(tables.readable(committed(evidence, name)))


def both_claims() -> str:
    """Each claim, and what photographs and scenes say of it; above, what the columns are.

    Below, where sources disagree.
    """
    made = [f"on {on} of profile `{run}`, by `{COMMANDS[run]}`" for on, run in RUNS.items()]
    table = claims.evidence(*(committed(each, "claims") for each in RUNS))
    return (
        f"Measured {'; '.join(made)}. In brackets: a 95 % interval, and the images and trainings "
        f"that it counts.\n\n{claims.markdown(table)}\n\n{two_readings()}"
    )


def two_readings() -> str:
    """What else is said of RIB on COCO than the claims take."""
    numbers = reported.NUMBERS["value"]
    return (
        f"COCO's {numbers['rib-coco']} is read as of image labels alone, as Papers with Code and "
        "the authors have it; another summary of the paper gives it to RIB with saliency, and "
        f"LPCAM's table has {numbers['rib-coco-lpcam']} for RIB."
    )


TEXTS: dict[str, Callable[[], str]] = {
    "answer": answer,
    "verdicts": verdicts,
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


@command("README and docs")
def main(argv: list[str] | None = None) -> None:
    """Write all texts anew, and the figure."""
    figures.save("forest", forest(), ROOT / "figures" / "both")
    for path in files():
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    sys.exit(main())
