"""The figures of a soak: what was done to the study, and how often."""

import json
from pathlib import Path

import pytest

FIGURES = Path(__file__).parents[1] / "build" / "soak.json"


@pytest.fixture(scope="session")
def figures(request):
    """Words -> numbers, which a test adds to; `make soak` keeps them in build/soak.json."""
    found = {}
    yield found
    if "soak" in request.config.getoption("-m").split() and found:
        FIGURES.parent.mkdir(exist_ok=True)
        FIGURES.write_text(json.dumps(found, indent=1) + "\n")
