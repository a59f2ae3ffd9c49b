"""What was done to the study, and how often: the figures of a soak."""

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("RIBKIT_DEVICE", "cpu")  # results of a GPU differ from those that stand here


def pytest_addoption(parser):
    parser.addoption("--figures", type=Path, help="a JSON file for the counts of what was tried")


@pytest.fixture(scope="session")
def figures(request):
    """Words -> numbers, which a test adds to."""
    found, path = {}, request.config.getoption("--figures")
    yield found
    if path:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
