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

DECIDE = {"photographs": "voc-lite", "drawn scenes": "mini-large", "digits": "mnist"}  # profiles
RUNS = dict(DECIDE)
if not (ROOT / "figures" / DECIDE["drawn scenes"] / "claims.csv").is_file():
    RUNS["drawn scenes"] = "mini"
"""The runs that are shown; the embedded default stands for the other scenes until they are."""
COMMANDS = {
    "voc-lite": 'make reproduce PROFILE=voc-lite DATA=path/to/VOC2012 PARAMS="saliency=u2netp"',
    # an earlier run than the profile asks for: see `to_come`
    "mini-large": 'make reproduce PROFILE=mini-large PARAMS="replicas=4 score_images=160 '
    "tune_images=80 val_images=160 toy_seeds=5 toy_dose_seeds=3 toy_doses=1 toy_masks=0.25 "
    'ablations.images=80 ablations.margins=0,2 ablations.n_others=0,2,8"',
    "mini": "make reproduce",
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
    measured = rows.dropna(subset="difference")
    columns = ["evidence", "question", "short", "unit", "difference", "low", "high"]
    return measured[[*columns, "reported_low", "reported_high"]].reset_index(drop=True)


def _claims(evidence: str) -> pd.DataFrame:
    """The committed claims of a run."""
    return committed(evidence, "digits_claims" if evidence == "digits" else "claims")


def _own(evidence: str) -> pd.DataFrame:
    """The same but for what it measures on digits, which every run has and one run is for."""
    found = _claims(evidence)
    if evidence == "digits":
        return found
    return found[~found["name"].isin(_claims("digits")["name"])]


# ---- texts --------------------------------------------------------------------------------------
def answer() -> str:
    """The answer in a few sentences, whose words follow from the verdicts."""
    runs = {evidence: _claims(evidence).set_index("name") for evidence in RUNS}
    digits, rows, said = runs.pop("digits"), runs["photographs"].loc[[*SHORT]], []
    rows = rows[rows["verdict"] != "not measured"]
    if len(rows):
        short = "; ".join(
            f"{_word_for(SHORT[name], row)} ({number(row['difference'])})"
            for name, row in rows.iterrows()
        )
        said.append(f"- **In short**, on photographs, in points: {short}.")
    for evidence, rows in runs.items():
        own, oracle, rival = (rows.loc[name] for name in SEEDS)
        as_in_paper = f" scored as in the paper, which reports {oracle['reported_low']:+.1f}"
        of_paper = _by("; ", oracle, as_in_paper) if evidence == "photographs" else ""
        said.append(
            f"- **On {evidence}** RIB's seeds {_word_for(COMPARED, own)} CAM's"
            f"{_by(': ', own, ' mIoU')}{of_paper}. They "
            f"{_word_for(COMPARED, rival)} those of the best-tuned rival that adapts nothing"
            f"{_by(': ', rival)}.{_noted(own)}"
        )
    last, known = digits.loc["last-layer-bottleneck"], digits.loc["known-shape-drop"]
    as_in_paper = f" HGR, where the paper's figure has {last['reported_low']:+.2f}"
    said.append(
        f"- **On MNIST's digits** {_word_for(SQUEEZED, last)}{_by(': ', last, as_in_paper)}. A "
        f"shape that the network knows {_word_for(KNOWN, known)} one that says nothing"
        f"{_by(': ', known)}. [What notebook 01's few digits say](docs/digits.md)."
    )
    return "\n".join(said)


SHORT = {  # claim -> how its verdict begins -> what that means, where it was measured
    "rib-coverage": {
        "holds": "RIB's maps cover more of objects' far halves",
        "undecided": "whether RIB's maps cover more of objects' far halves is open",
        "no effect": "RIB's maps are not seen to cover more of objects' far halves",
        "opposite": "RIB's maps cover less of objects' far halves",
    },
    "rib-auc": {
        "holds": "over all thresholds they tell these better from what is off the object",
        "undecided": "whether they tell these better from what is off the object is open",
        "no effect": "they are not seen to tell these better from what is off the object",
        "opposite": "over all thresholds they tell these less well from what is off the object",
    },
    "rib-auc-over-rivals": {
        "holds": "and better than the maps of a rival that adapts nothing",
        "undecided": "whether better than the maps of a rival that adapts nothing is open",
        "no effect": "not seen to be better than the maps of a rival that adapts nothing",
        "opposite": "less well than the maps of a rival that adapts nothing",
    },
    "activation-seed-matched": {
        "holds": "it helps that the last activation is taken away",
        "undecided": "whether it helps that the last activation is taken away is open",
        "no effect": "it is not seen to help that the last activation is taken away",
        "opposite": "it would help to leave the last activation in",
    },
}
SQUEEZED = {
    "holds": "a shape beside the digit loses more gradient in the last layer than the digit",
    "undecided": "whether a shape beside the digit loses more gradient in the last layer is open",
    "no effect": "a shape beside the digit is not seen to lose more gradient in the last layer",
    "opposite": "a shape beside the digit loses less gradient in the last layer than the digit",
    "not measured": "what the last layer loses was not measured",
}
KNOWN = {
    "holds": "loses more, beyond what the digit loses, than",
    "undecided": "cannot be told, beyond what the digit loses, from",
    "no effect": "is not seen to lose more, beyond what the digit loses, than",
    "opposite": "loses less, beyond what the digit loses, than",
    "not measured": "was not compared with",
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
MINUTES = {
    "mini": "25 min",
    "mini-large": "3 h",
    "mnist": "30 min",
    "voc-lite": "about 22 h",
}  # on two cores
SHORTLY = ("holds", "undecided", "no effect", "opposite")  # how the verdicts begin


def glance() -> str:
    """A row for each evidence: what the run had that is shown, and what became of the claims."""
    rows, counted = [], verdict_counts()
    for evidence, name in RUNS.items():
        kind, (images, trainings) = evidence.split()[-1], size(evidence)
        profile, verdicts = profiles.load(name), counted[evidence]
        counts = {word: verdicts.filter(regex=f"^{word}").sum() for word in SHORTLY}
        row = {
            "evidence": f"[{kind}](docs/{kind}.md), `{name}`",
            "images": images,
            "trainings": trainings,
            "network": "5 convolutions" if kind == "digits" else NETWORKS[profile.backbone],
            "takes": MINUTES.get(name, "hours"),
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
    """In place of which runs an earlier or smaller one is shown; nothing if of none."""
    runs = []
    for evidence, name in DECIDE.items():
        profile = profiles.load(name)
        images, trainings = profile.score_images, profile.replicas
        if evidence == "digits":
            images, trainings = profile.toy_test, profile.toy_seeds
        whole = (images or size(evidence)[0], trainings)
        if RUNS[evidence] != name or size(evidence) != whole:
            shown = "an earlier run" if RUNS[evidence] == name else "the small default"
            has = f"{images or 'all'} images, {trainings} trainings"
            runs.append(f"`{name}`, {has} (shown until then: {shown})")
    return f"To come: {'; '.join(runs)}." if runs else ""


def size(evidence: str) -> tuple[int, int]:
    """Of how many images and trainings the scores are; an early run does not say: one."""
    if evidence == "digits":
        tested = profiles.load(RUNS[evidence]).toy_test
        return tested, int(committed(evidence, "toy_hgr")["n"].iloc[0])
    of_cam = committed(evidence, "seed_scores").iloc[0]
    return int(of_cam["images"]), int(of_cam.get("seeds", 1))


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
    made += ["In brackets: a 95 % interval, and the images and trainings that it counts."]
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
    for name, notebook in CLAIM_TABLES.items():
        for path in sorted((ROOT / "figures").glob(f"*/{name}.csv")):
            figures.save(name, claims.again(figures.read(path), notebook), path.parent)
    figures.save("forest", forest(), ROOT / "figures" / "both")
    for path in files():
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    sys.exit(main())
