"""What README.md and ``docs/`` show of the committed tables: texts between marks, and one figure.

What stands between ``<!-- name -->`` and ``<!-- /name -->`` is one of `TEXTS`.
``python -m ribkit.results.published`` writes all of them anew, and a test holds them to the tables;
first it gives committed claims the texts, the reported numbers and the verdicts of today.
"""

import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from ribkit.evaluation.intervals import number, worded
from ribkit.results import claims, figures, reported, tables
from ribkit.runtime.command import command
from ribkit.runtime.errors import InputError
from ribkit.study import profiles
from ribkit.study.inputs import ROOT

DECIDE = {"photographs": "voc-lite", "drawn scenes": "mini-large"}  # profiles, by evidence
RUNS = dict(DECIDE)
if not (ROOT / "figures" / DECIDE["drawn scenes"] / "claims.csv").is_file():
    RUNS["drawn scenes"] = "mini"
"""The runs that are shown; the embedded default stands for the other scenes until they are."""
COMMANDS = {
    "voc-lite": 'make reproduce PROFILE=voc-lite DATA=path/to/VOC2012 PARAMS="saliency=u2netp"',
    "mini-large": "make reproduce PROFILE=mini-large",
    "mini": "make reproduce",
}
MARKED = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)


def committed(evidence: str, name: str) -> pd.DataFrame:
    """The table beside a figure of one of `RUNS`."""
    return figures.read(ROOT / "figures" / RUNS[evidence] / f"{name}.csv")


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
        short = "; ".join(
            _word_for(words, rows.loc[name]) + _point(rows.loc[name])
            for name, words in SHORT.items()
        )
        said.append(f"- **In short**, on photographs: {short}.")
    for evidence, rows in runs.items():
        own, oracle, rival = (rows.loc[name] for name in SEEDS)
        as_in_paper = f" scored as in the paper, which reports {oracle['reported_low']:+.1f}"
        said.append(
            f"- **On {evidence}** RIB's seeds {_word_for(COMPARED, own)} CAM's"
            f"{_by(': ', own, ' mIoU')}{_by('; ', oracle, as_in_paper)}. They "
            f"{_word_for(COMPARED, rival)} those of the best-tuned rival that adapts nothing"
            f"{_by(': ', rival)}.{_noted(own)}"
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
        "holds": "its seeds are better than those of a rival that adapts nothing",
        "undecided": "whether its seeds are better than a rival's that adapts nothing is open",
        "no effect": "its seeds are not seen to be better than a rival's that adapts nothing",
        "opposite": "the seeds of a rival that adapts nothing are better",
        "not measured": "its seeds were not compared with a rival's that adapts nothing",
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


def _word_for(words: Mapping[str, str], row: pd.Series) -> str:
    """The words for a claim's verdict."""
    return next(said for start, said in words.items() if row["verdict"].startswith(start))


def _point(row: pd.Series) -> str:
    return "" if pd.isna(row["difference"]) else f" ({number(row['difference'])})"


def _by(before: str, row: pd.Series, after: str = "") -> str:
    """What was measured of a claim, between two texts; nothing if it was not."""
    found = row[["difference", "low", "high"]]
    return "" if found.isna().all() else f"{before}{worded(found)}{after}"


def _noted(row: pd.Series) -> str:
    note = row.get("note", "")
    return f" {note[0].upper()}{note[1:]}." if isinstance(note, str) and note else ""


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


# ---- at a glance --------------------------------------------------------------------------------
NETWORKS = {
    "small": "small ResNet",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "resnet50": "ResNet-50",
}
MINUTES = {"mini": "15 min"}  # on two cores; others take hours
SHORTLY = ("holds", "undecided", "no effect", "opposite")  # how the verdicts begin


def glance() -> str:
    """A row for each evidence: what the run had that is shown, and what became of the claims."""
    rows, counted = [], verdict_counts()
    for evidence, name in RUNS.items():
        kind, (images, trainings) = evidence.split()[-1], size(evidence)
        profile, verdicts = profiles.load(name), counted[evidence]
        tuned = f" ({profile.tune_images})" if trainings == profile.replicas else ""
        counts = {word: verdicts.filter(regex=f"^{word}").sum() for word in SHORTLY}
        row = {
            "evidence": f"[{kind}](docs/{kind}.md), `{name}`",
            "images (tuning)": f"{images}{tuned}",
            "trainings": trainings,
            "network": NETWORKS[profile.backbone],
            "takes": MINUTES.get(name, "hours"),
            "[claims](docs/claims.md)": ", ".join(
                f"{count} {word}" for word, count in counts.items() if count
            ),
        }
        rows.append(row)
    voc = profiles.load("voc")
    paper = ("[paper scale](docs/paper_scale.md), `voc`", f"1,464 ({voc.tune_images})")
    paper += (voc.replicas, NETWORKS[voc.backbone], "a GPU", "not run")
    rows.append(dict(zip(rows[0], paper, strict=True)))
    return "\n\n".join(filter(None, (claims.markdown(pd.DataFrame(rows)), to_come())))


def to_come() -> str:
    """In place of which runs an earlier or smaller one is shown; nothing if of none."""
    runs = []
    for evidence, name in DECIDE.items():
        profile = profiles.load(name)
        whole = (profile.score_images or size(evidence)[0], profile.replicas)
        if RUNS[evidence] != name or size(evidence) != whole:
            shown = "an earlier run" if RUNS[evidence] == name else "the small default"
            images = f"{profile.score_images or 'all'} images, {profile.replicas} trainings"
            runs.append(f"`{name}`, {images} (shown until then: {shown})")
    return f"To come: {'; '.join(runs)}." if runs else ""


def size(evidence: str) -> tuple[int, int]:
    """Of how many images and trainings the seeds' scores are; an early run does not say: one."""
    of_cam = committed(evidence, "seed_scores").iloc[0]
    return int(of_cam["images"]), int(of_cam.get("seeds", 1))


# ---- tables -------------------------------------------------------------------------------------
def scores(evidence: str, name: str) -> str:
    """A table of scores as Markdown, if the run that is shown has it."""
    if not (ROOT / "figures" / RUNS[evidence] / f"{name}.csv").is_file():
        return "To come."
    return claims.markdown(tables.readable(committed(evidence, name)))


TOLD = {"where": "Where RIB's gain comes from", "meaning": "What the controls say"}


def told(evidence: str) -> str:
    """The paragraphs of `TOLD` that a run of one of `RUNS` kept beside its figures."""
    folder = ROOT / "figures" / RUNS[evidence]
    kept = {title: folder / f"{name}.md" for name, title in TOLD.items()}
    texts = {title: path.read_text().strip() for title, path in kept.items() if path.is_file()}
    return "\n\n".join(f"**{title}.** {text}" for title, text in texts.items())


def both_claims() -> str:
    """Each claim, and what photographs and scenes say of it; above, what the columns are.

    Below, where sources disagree. A copy of the code without ``figures/`` has none to show.
    """
    kept = [ROOT / "figures" / run / "claims.csv" for run in RUNS.values()]
    if not all(path.is_file() for path in kept):
        return f"{', '.join(map(str, kept))}: not all are there."
    made = [f"On {on}: profile `{run}`, by `{COMMANDS[run]}`." for on, run in RUNS.items()]
    made += ["In brackets: a 95 % interval, and the images and trainings that it counts."]
    table = claims.evidence(*(committed(each, "claims") for each in RUNS))
    above = " ".join(filter(None, (*made, to_come())))
    return "\n\n".join((above, claims.markdown(table), two_readings()))


def two_readings() -> str:
    """What else is said of RIB on COCO than the claims take."""
    numbers = reported.NUMBERS["value"]
    return (
        f"COCO's {numbers['rib-coco']} is read as of image labels alone, as Papers with Code and "
        "the authors have it; another summary of the paper gives it to RIB with saliency, and "
        f"LPCAM's table has {numbers['rib-coco-lpcam']} for RIB."
    )


def today() -> str:
    """RIB among the others, when it appeared and now."""
    numbers = reported.NUMBERS["value"]
    return (
        f"RIB's {numbers['rib-test']} mIoU on VOC test was among the best with image labels in "
        f"2021. WeCLIP+ reports {numbers['weclip-test']} (2025), with features that were learned "
        "from image and text."
    )


TEXTS: dict[str, Callable[[], str]] = {
    "answer": answer,
    "glance": glance,
    "today": today,
    "verdicts": verdicts,
    "claims": both_claims,
    "ledger": partial(scores, "drawn scenes", "ledger"),
    "photographs-told": partial(told, "photographs"),
    "scenes-told": partial(told, "drawn scenes"),
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
    """Write all texts anew, and the figures of claims: with today's texts and verdicts."""
    for path in sorted((ROOT / "figures").glob("*/claims.csv")):
        figures.save("claims", claims.again(figures.read(path)), path.parent)
    figures.save("forest", forest(), ROOT / "figures" / "both")
    for path in files():
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    sys.exit(main())
