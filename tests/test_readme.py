"""The README shows what the committed tables say."""

import re
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from ribkit.results import claims, figures, tables

ROOT = Path(__file__).parent.parent
TEXTS = "\n".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
PIPELINE = (ROOT / "docs" / "pipeline.md").read_text()


def between(name):
    """The text of the documentation between the two marks of that name."""
    return TEXTS.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0].strip()


def test_claims_are_those_of_the_committed_run():
    table = claims.readable(pd.read_csv(ROOT / "figures" / "mini" / "claims.csv"))
    assert between("claims") == claims.markdown(table.drop(columns="decided by"))


def test_voc_scores_are_those_of_the_committed_run():
    table = pd.read_csv(ROOT / "figures" / "voc-lite" / "seed_scores.csv")
    assert claims.markdown(tables.readable(table)) in between("voc-lite")


@pytest.mark.parametrize("name", ["refinement", "network"])
def test_the_chain_on_photographs_is_that_of_the_committed_run(name):
    table = pd.read_csv(ROOT / "figures" / "voc-lite" / f"{name}.csv")
    assert claims.markdown(tables.readable(table)) in between("voc-chain")


def test_the_ledger_is_that_of_the_committed_run():
    table = pd.read_csv(ROOT / "figures" / "mini" / "ledger.csv")
    assert between("ledger") == claims.markdown(tables.readable(table))


@pytest.mark.parametrize("path", sorted((ROOT / "figures").glob("*/*.png")), ids=str)
def test_every_figure_has_its_table(path):
    assert path.name.split(".")[0] in figures.FIGURES
    assert (path.parent / path.name.split(".")[0]).with_suffix(".csv").is_file()


def test_no_figure_shows_a_voc_photograph():
    names = {path.name.split(".")[0] for path in (ROOT / "figures" / "voc-lite").glob("*")}
    assert not names & figures.UNPUBLISHED["voc-lite"]


STAGES = re.findall(r"^\| `([\w-]+)` \|.*\| (\d\d) \| `([\w.]+)` \|", PIPELINE, re.MULTILINE)


@pytest.mark.parametrize(("stage", "notebook", "function"), STAGES)
def test_the_pipelines_table_names_stages_and_notebooks_that_exist(stage, notebook, function):
    module, name = function.rsplit(".", 1)
    assert getattr(import_module(module), name).stage == stage
    assert list((ROOT / "notebooks").glob(f"{notebook}_*.ipynb"))


def test_the_pipelines_table_has_every_step_from_the_classifier_to_the_network():
    names = [stage for stage, _, _ in STAGES]
    steps = ["classifier", "cam", "rib", "irn-labels", "irn", "irn-walk", "network", "predictions"]
    assert [name for name in names if name in steps] == steps
