"""Notebooks: what a reader and `pytest --nbval` may rely on."""

import copy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from ribkit.runtime import notebooks

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IGNORED = "nbval-ignore-output"

pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks")


def code_cells(path):
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def checked(cells):
    return [c for c in cells if c.outputs and IGNORED not in c.metadata.get("tags", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_title_is_a_question_and_functions_live_in_ribkit(path):
    notebook = nbformat.read(path, as_version=4)
    title = notebook.cells[0].source.splitlines()[0]
    assert title.startswith("# ")
    assert not title.startswith("# #")
    assert title.endswith("?")
    for cell in code_cells(path):
        assert not any(line.startswith(("def ", "class ")) for line in cell.source.splitlines())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_was_run_in_order_and_has_a_checked_cell(path):
    cells = [c for c in code_cells(path) if notebooks.SKIPPED not in c.metadata.get("tags", [])]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert checked(cells)
    assert not any(
        o.output_type == "error" or o.get("name") == "stderr" for c in cells for o in c.outputs
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters_are_those_of_every_notebook(path):
    cells = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    assert [cell.source for cell in cells] == [
        'profile = "mini"  # mini, mini-large, mnist, voc-lite, voc, coco\n'
        'data = ""  # the folder with the images, for the profiles that need one\n'
        "overrides = {}  # any setting of the profile, by name"
    ]


def run_nbval(folder, cells):
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(notebook, folder / "copy.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", "copy.ipynb"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_changed_value_in_a_checked_cell_fails(tmp_path):
    cells = code_cells(ROOT / "notebooks" / "03_rib_adaptation.ipynb")
    (demonstration,) = [c for c in cells if "adaptation.trajectory(" in c.source]
    (imports,) = [c for c in cells if "from ribkit import Study" in c.source]
    imports.source = imports.source.replace("study = Study(profile, data, overrides)", "")
    assert run_nbval(tmp_path, [imports, demonstration]).returncode == 0

    changed = copy.deepcopy(demonstration)
    text = changed.outputs[0].data["text/plain"]
    assert "0.147" in text
    changed.outputs[0].data["text/plain"] = text.replace("0.147", "0.148")
    if "text/html" in changed.outputs[0].data:
        html = changed.outputs[0].data["text/html"]
        changed.outputs[0].data["text/html"] = html.replace("0.147", "0.148")
    found = run_nbval(tmp_path, [imports, changed])
    assert found.returncode == 1
    assert "1 failed" in found.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_cell_for_the_reader_to_run_is_passed_by_by_papermill_and_nbval(path):
    for cell in code_cells(path):
        tags = set(cell.metadata.get("tags", [])) & {notebooks.SKIPPED, "nbval-skip"}
        assert len(tags) != 1
