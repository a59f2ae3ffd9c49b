"""What README.md and ``docs/`` show of the committed tables: texts between marks, and one figure.

What stands between ``<!-- name -->`` and ``<!-- /name -->`` is one of `TEXTS`.
``python -m ribkit.results.published`` writes all of them anew, and a test holds them to the tables;
first it gives committed claims the texts, the reported numbers and the verdicts of today.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from ribkit.evaluation.intervals import worded
from ribkit.results import claims, figures, reported, tables
from ribkit.results.tables_coverage import BEYOND
from ribkit.runtime.command import command
from ribkit.runtime.errors import InputError
from ribkit.study import profiles
from ribkit.study.inputs import ROOT

RUNS = {"photographs": "voc-lite", "drawn scenes": "mini-large", "digits": "mnist"}  # profiles
COMMANDS = {
    "voc-lite": 'make reproduce PROFILE=voc-lite DATA=path/to/VOC2012 PARAMS="saliency=u2netp"',
    "mini-large": "make reproduce PROFILE=mini-large",
    "mnist": "make reproduce PROFILE=mnist NOTEBOOKS=01",
}
CLAIM_TABLES = {"claims": "", "digits_claims": "01"}  # and of which notebook: "" of all
MARKED = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)


def committed(evidence: str, name: str) -> pd.DataFrame:
    """The table beside a figure of one of `RUNS`."""
    return figures.read(ROOT / "figures" / RUNS[evidence] / f"{name}.csv")


def forest() -> pd.DataFrame:
    """What was measured of the claims, in their order, for the figure of this name."""
    rows = pd.concat([_own(evidence).assign(evidence=evidence) for evidence in RUNS])
    order = {claim.name: number for number, claim in enumerate(claims.CLAIMS)}
    rows = rows.sort_values("name", key=lambda names: names.map(order), kind="stable")
    measured = rows.dropna(subset="low")
    columns = ["evidence", "question", "short", "unit", "difference", "low", "high"]
    return measured[[*columns, "reported", "reported_low", "reported_high"]].reset_index(drop=True)


def _claims(evidence: str) -> pd.DataFrame:
    """The committed claims of a run."""
    return committed(evidence, "digits_claims" if evidence == "digits" else "claims")


def _own(evidence: str) -> pd.DataFrame:
    """The same but for what it measures on digits, which every run has and one run is for."""
    found = _claims(evidence)
    if evidence == "digits":
        return found
    return found[~found["name"].isin(_claims("digits")["name"])]


# ---- the answer ---------------------------------------------------------------------------------
SHORTLY = {  # how a verdict begins -> what it says of its claim
    "holds, smaller": "yes, smaller",
    "holds": "yes",
    "undecided": "open",
    "no effect": "not seen",
    "opposite": "opposite",
}
ANSWER = {  # claim -> its row in the table of answers
    "rib-coverage": "**Do its maps reach further than CAM's?** Points",
    "rib-auc": "... tell it better from what is off the object: AUC",
    "rib-seed": "**Are its seeds better than CAM's?** mIoU",
    "rib-seed-oracle": "... threshold chosen as in the paper",
    "rib-pseudo": "... the labels that IRN makes of them",
    "rib-network": "... the networks that learn from these",
    "rib-over-rivals": "**Does it beat what adapts nothing?** mIoU",
    "rib-auc-over-rivals": "... maps, over all thresholds: AUC",
    "rib-pseudo-rival": "... the labels that IRN makes: mIoU",
    "gndrp-seed": "**Does its pooling, GNDRP, beat GAP?** mIoU",
    "activation-seed-matched": "**Is it the last activation?** Seeds without: mIoU",
    "last-layer-bottleneck": "... the last layer loses more of a shape: HGR",
    "known-shape-drop": "... and more of one that is known: HGR",
}
PARTS = {"photographs": BEYOND["far"], "drawn scenes": BEYOND["body"]}  # where CAM is weak
COMPARED = {  # how a verdict begins -> how two sets of seeds compare
    "holds": "are better than",
    "undecided": "cannot be told from",
    "no effect": "are not seen to be better than",
    "opposite": "are worse than",
    "not measured": "were not compared with",
}
REACH = {  # the same of how much of such a part two methods' maps cover
    "holds": "cover more of {}",
    "undecided": "cannot be told to cover more of {}",
    "no effect": "are not seen to cover more of {}",
    "opposite": "cover less of {}",
    "not measured": "were not held against CAM's",
}
TELL = {  # and of how well they tell it from what is off the object
    "holds": "over all thresholds they tell these better from what is off the object",
    "undecided": "over all thresholds it is open whether they tell these better from all else",
    "no effect": "over all thresholds they are not seen to tell these better from all else",
    "opposite": "over all thresholds they tell these less well from what is off the object",
    "not measured": "nor were they over all thresholds",
}
LOSES = {  # and of what the last layer does on digits
    "holds": "loses more of the gradient on a shape than on the digit",
    "undecided": "cannot be told to lose more of the gradient on a shape than on the digit",
    "no effect": "is not seen to lose more of the gradient on a shape than on the digit",
    "opposite": "loses less of the gradient on a shape than on the digit",
    "not measured": "was not looked at",
}
READ = """\
- In brackets stand 95 % intervals. *Yes* and *opposite*: all of it lies on that side of 0;
  *smaller*: than reported. *Open*: it spans 0. *Not seen*: it spans 0, and ends below what was
  reported (?: not confirmed). *Maybe by chance*: cannot be told from 0 if corrected for the
  number of [claims](docs/claims.md).
- RIB follows the authors' code ([variants](docs/variants.md)), with GNDRP, pooling of the
  non-discriminative region. What adapts nothing is the best of CAM as tuned, smoothed, divided
  by a percentile, or with its features' norm.
- Thresholds are chosen with masks of other images; in the paper, of the same.
- Maps reach where CAM is weak: on photographs over the half of an object far from its peak, on
  scenes over bodies, which unlike heads tell little of the class. AUC was added as one threshold
  left that open.
- The last activation is the paper's bottleneck. HGR is the share of a region's pixels, of a shape
  or of a digit, with a high gradient ([digits](docs/digits.md))."""


def answer() -> str:
    """The answer: in a point for each kind of images and for why; then by claim, with numbers."""
    runs = {evidence: _marked(evidence).set_index("name") for evidence in RUNS}
    seeds = {evidence: rows for evidence, rows in runs.items() if "rib-seed" in rows.index}
    said = [
        f"- **On {evidence}** RIB's seeds {_word_for(COMPARED, rows.loc['rib-seed'])} CAM's, and "
        f"{_word_for(COMPARED, rows.loc['rib-over-rivals'])} those of the best-tuned rival, which "
        f"adapts nothing. At one threshold RIB's maps "
        f"{_word_for(REACH, rows.loc['rib-coverage']).format(PARTS[evidence])}; "
        f"{_word_for(TELL, rows.loc['rib-auc'])}.{_noted(rows.loc['rib-seed'])}"
        for evidence, rows in seeds.items()
    ]
    mnist = runs["digits"].loc["last-layer-bottleneck"]
    bundled = _claims("drawn scenes").set_index("name").loc["last-layer-bottleneck"]
    without = (
        f"{_word_for(COMPARED, rows.loc['activation-seed-matched'])} those with it on {evidence}"
        for evidence, rows in seeds.items()
    )
    said.append(
        "- **Is the last activation the bottleneck?** On MNIST the last layer "
        f"{_word_for(LOSES, mnist)} (on the smaller digits of the other runs {_shortly(bundled)}; "
        "see [digits](docs/digits.md)). RIB's seeds without it, at matched rates, "
        f"{', and '.join(without)}."
    )
    photographs, *others = runs.values()
    others = pd.concat(others)  # what is of digits is of no scenes
    columns = {"on photographs of five animals": photographs, "on drawn scenes, or digits": others}
    table = pd.DataFrame({"": ANSWER})  # of claims, which the columns are matched to
    for title, rows in columns.items():
        table[title] = rows.apply(_shortly, axis=1)
    table["reported"] = others.apply(_reported, axis=1)
    return "\n\n".join(("\n".join(said), claims.markdown(table.fillna("")), READ))


def _shortly(row: pd.Series) -> str:
    """A claim's verdict in a word, and what was measured."""
    if row["verdict"] == "not measured":
        return "not yet"
    chance = ", maybe by chance" if row.get("by_chance") else ""
    return f"{_word_for(SHORTLY, row)}{chance}: {worded(row[['difference', 'low', 'high']])}"


def _reported(row: pd.Series) -> str:
    """The difference that was reported, with a question mark where that is not confirmed."""
    if pd.isna(row["reported_low"]):
        return ""
    mark = "" if reported.is_confirmed(row["reported"]) else reported.MARK
    return f"{row['reported_low']:+g}{mark}"


def _word_for(words: Mapping[str, str], row: pd.Series) -> str:
    """The words for a claim's verdict."""
    return next(said for start, said in words.items() if row["verdict"].startswith(start))


def _noted(row: pd.Series) -> str:
    note = row.get("note", "")
    return f" {note[0].upper()}{note[1:]}." if isinstance(note, str) and note else ""


# ---- texts --------------------------------------------------------------------------------------
def verdicts() -> str:
    """How many claims have which verdict, by evidence; and which of them may be chance."""
    said = []
    for evidence, counts in verdict_counts().items():
        measured, undecided = counts.drop("not measured").sum(), counts["undecided"]
        each = "; ".join(f"{count} *{name}*" for name, count in counts[counts > 0].items())
        said.append(
            f"- **On {evidence}** {undecided} of {measured} measured claims "
            f"{'is' if undecided == 1 else 'are'} undecided: {each}.{_corrected(evidence)}"
        )
    return "\n".join(said)


def _corrected(evidence: str) -> str:
    """What becomes of a run's verdicts where their number counts; nothing of runs without p."""
    doubtful = _doubtful(evidence)
    if doubtful is None:
        return ""
    of_all = "all that hold or are the opposite can still be told from 0"
    names = "; ".join(doubtful["short"])
    said = f"these could not be told from 0: {names}" if names else of_all
    return f" Corrected for their number (Benjamini and Hochberg, 5 %) {said}."


def _marked(evidence: str) -> pd.DataFrame:
    """What a run has measured itself, and which of it may be so ``by_chance``."""
    rows, doubtful = _own(evidence), _doubtful(evidence)
    return rows.assign(by_chance=False if doubtful is None else rows.index.isin(doubtful.index))


def _doubtful(evidence: str) -> pd.DataFrame | None:
    """What `claims.by_chance` finds in a run; None: nothing is measured, or it has no p."""
    found = _own(evidence).query("verdict != 'not measured'")
    return None if found.empty or found["p_value"].isna().any() else claims.by_chance(found)


def verdict_counts() -> dict[str, pd.Series]:
    """How many claims have which of all verdicts, by evidence."""
    return {
        evidence: _own(evidence)["verdict"].value_counts().reindex(claims.VERDICTS, fill_value=0)
        for evidence in RUNS
    }


# ---- at a glance --------------------------------------------------------------------------------
NETWORKS = {
    "small": "small ResNet",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "resnet50": "ResNet-50",
}
MINUTES = {"mini-large": "4 h", "mnist": "30 min", "voc-lite": "22 h, estimated"}


def glance() -> str:
    """A row for each evidence: what the run had that is shown, and what became of the claims."""
    rows, counted = [], verdict_counts()
    for evidence, name in RUNS.items():
        kind, (images, trainings) = evidence.split()[-1], size(evidence)
        profile, verdicts = profiles.load(name), counted[evidence].drop("not measured")
        counts = {word: verdicts.filter(regex=f"^{word}").sum() for word in COMPARED}
        row = {
            "evidence": f"[{kind}](docs/{kind}.md), `{name}`",
            "images": images,
            "trainings": trainings,
            "network": "5 convolutions" if kind == "digits" else NETWORKS[profile.backbone],
            "on two cores": MINUTES[name],
            "[claims](docs/claims.md)": ", ".join(
                f"{count} {word}" for word, count in counts.items() if count
            ),
        }
        rows.append(row)
    voc = profiles.load("voc")
    paper = ("[paper scale](docs/paper_scale.md), `voc`", "1,464")
    paper += (voc.replicas, NETWORKS[voc.backbone], "a GPU", "not run")
    rows.append(dict(zip(rows[0], paper, strict=True)))
    return claims.markdown(pd.DataFrame(rows))


def to_come() -> str:
    """In place of which runs an earlier one is shown; nothing if of none."""
    runs = []
    for evidence, name in RUNS.items():
        profile = profiles.load(name)
        images, trainings = profile.score_images, profile.replicas
        if evidence == "digits":
            images, trainings = profile.toy_test, profile.toy_seeds
        whole = (images or size(evidence)[0], trainings)
        if size(evidence) != whole:
            has = f"{images or 'all'} images, {trainings} trainings"
            runs.append(f"`{name}`, {has} (shown until then: an earlier run)")
    return f"To come: {'; '.join(runs)}." if runs else ""


def size(evidence: str) -> tuple[int, int]:
    """Of how many images and trainings the scores are."""
    if evidence == "digits":
        tested = profiles.load(RUNS[evidence]).toy_test
        return tested, int(committed(evidence, "toy_hgr")["n"].iloc[0])
    of_cam = committed(evidence, "seed_scores").iloc[0]
    return int(of_cam["images"]), int(of_cam["trainings"])


# ---- tables -------------------------------------------------------------------------------------
def scores(evidence: str, name: str) -> str:
    """A table of scores as Markdown, if the run that is shown has it."""
    if not (ROOT / "figures" / RUNS[evidence] / f"{name}.csv").is_file():
        return "To come."
    return claims.markdown(tables.readable(committed(evidence, name)))


TOLD = {
    "where": "Where RIB's gain comes from.",
    "meaning": "What the controls say.",
    "known_shape": "Does it know the shape?",
    "masked": "Is a high gradient what the network uses?",
}


def told(evidence: str, *names: str) -> str:
    """The paragraphs, of these names in `TOLD`, that a run kept beside its figures."""
    folder = ROOT / "figures" / RUNS[evidence]
    kept = [(TOLD[name], folder / f"{name}.md") for name in names]
    texts = [(title, path.read_text().strip()) for title, path in kept if path.is_file()]
    return "\n\n".join(f"**{title}** {text}" for title, text in texts)


def both_claims() -> str:
    """Each claim, and what photographs, scenes or digits say of it; above, what the columns are.

    Below, where sources disagree. A copy of the code without ``figures/`` has none to show.
    """
    if not all((ROOT / "figures" / run).is_dir() for run in RUNS.values()):
        return f"{ROOT / 'figures'} has not all of {', '.join(RUNS.values())}."
    made = [f"On {on}: profile `{run}`, by `{COMMANDS[run]}`." for on, run in RUNS.items()]
    made += [
        "Photographs are of five animals in VOC 2012.",
        "In brackets: a 95 % interval, and the images and trainings that it counts.",
    ]
    table = claims.evidence(*map(_claims, RUNS))
    above = " ".join(filter(None, (*made, to_come())))
    return "\n\n".join((above, claims.markdown(table), two_readings()))


def digit_claims() -> str:
    """The claims that digits decide, on MNIST and on the bundled digits of the scenes' run."""
    decided = _claims("digits").set_index("name")
    columns = {"claim": decided["text"], "reported": decided["reported"]}
    for title, evidence in {"on MNIST": "digits", "on bundled digits": "drawn scenes"}.items():
        rows = claims.filled(_claims(evidence)).set_index("name").loc[decided.index]
        columns[title] = [claims.found(row) for row in rows.to_dict("records")]
    return claims.markdown(pd.DataFrame(columns))


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
    "photographs-told": partial(told, "photographs", "where", "meaning"),
    "scenes-told": partial(told, "drawn scenes", "where", "meaning"),
    "digits-told": partial(told, "digits", "known_shape", "masked"),
    "digits-claims": digit_claims,
    "seeds": partial(scores, "photographs", "seed_scores"),
    "scenes-seeds": partial(scores, "drawn scenes", "seed_scores"),
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
    argparse.ArgumentParser("ribkit.results.published", description=main.__doc__).parse_args(argv)
    for name, notebook in CLAIM_TABLES.items():
        for path in sorted((ROOT / "figures").glob(f"*/{name}.csv")):
            figures.save(name, claims.again(figures.read(path), notebook), path.parent)
    figures.save("forest", forest(), ROOT / "figures" / "both")
    for path in files():
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    sys.exit(main())
