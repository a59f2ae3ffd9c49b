"""The README shows what the committed tables say."""

import re
from importlib import import_module
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from fabricated import registered

from ribkit.results import figures, published
from ribkit.runtime.errors import InputError
from ribkit.study import profiles

ROOT = Path(__file__).parent.parent
TEXTS = "\n".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
PIPELINE = (ROOT / "docs" / "pipeline.md").read_text()
PICTURE = (ROOT / "docs" / "pipeline.svg").read_text()


@pytest.mark.parametrize("path", published.files(), ids=lambda path: path.name)
def test_texts_between_marks_are_those_of_the_committed_tables(path):
    assert published.filled(path.read_text()) == path.read_text()


def test_every_text_is_shown_and_every_mark_is_closed():
    assert set(re.findall(r"<!-- ([\w-]+) -->", TEXTS)) == set(published.TEXTS)
    assert set(re.findall(r"<!-- /([\w-]+) -->", TEXTS)) == set(published.TEXTS)


def test_an_unknown_mark_is_told():
    with pytest.raises(InputError, match="<!-- other --> marks none of"):
        published.filled("<!-- other -->\n<!-- /other -->")


def test_the_forest_is_of_the_committed_claims():
    shown = figures.read(ROOT / "figures" / "both" / "forest.csv")
    pd.testing.assert_frame_equal(shown, published.forest(), rtol=1e-5, check_dtype=False)


ROW = r"^\| `([\w-]+)` \|[^|]+\|[^|]+\| ([^|]+) \| `([\w.]+)` \|"  # stage, notebook, function
STAGES = re.findall(ROW, PIPELINE, re.MULTILINE)


def test_the_pipelines_tables_have_every_stage_once():
    every = sorted((f.stage, f"{f.__module__}.{f.__name__}") for f in registered())
    assert sorted((stage, function) for stage, _, function in STAGES) == every


@pytest.mark.parametrize("notebook", sorted({notebook for _, notebook, _ in STAGES}))
def test_the_pipelines_tables_name_notebooks_that_exist(notebook):
    page = re.fullmatch(r"\[\w+\]\((\w+\.md)\)", notebook)  # of what no notebook does
    places = (ROOT / "docs").glob(page[1]) if page else (ROOT / "notebooks").glob(f"{notebook}_*")
    assert list(places)


def test_the_pipelines_picture_names_stages_that_exist():
    shown = re.findall(r'<text class="stage"[^>]*>([^<]+)<', PICTURE)
    assert {name for text in shown for name in text.split()} <= {name for name, *_ in STAGES}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(ribkit(?:\.\w+)+)`", TEXTS))))
def test_what_the_docs_name_exists(name):
    module, attribute = name.rsplit(".", 1)
    try:
        import_module(name)
    except ModuleNotFoundError:
        assert hasattr(import_module(module), attribute)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_readme_has_every_notebook_with_its_question(path):
    title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].removeprefix("# ")
    assert f"[{path.stem[:2]}](notebooks/{path.name}) | {title} |" in TEXTS


@pytest.mark.parametrize("profile", ["voc", "coco"])
def test_as_many_processes_as_the_docs_say_share_the_batches_of_what_they_train(profile):
    command = r"--nproc-per-node=(\d+) -m ribkit.train .*VOC2012 ([a-z ]*[a-z])"
    commands = re.findall(command, TEXTS)
    trained = [name for _, names in commands for name in names.split()]
    assert trained == ["classifier", "irn", "psa", "network"]
    for processes, names in commands:
        for name in names.split():
            assert getattr(profiles.load(profile), name).batch % int(processes) == 0
