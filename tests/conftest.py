"""What holds for all tests; and what was done to the study, and how often: a soak's figures."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("RIBKIT_DEVICE", "cpu")  # results of a GPU differ from those that stand here
os.environ["RIBKIT_WORKERS"] = "1"  # testers go side by side, each in its own process
settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.load_profile("same")  # the same examples in every run, however slow the machine


def pytest_addoption(parser):
    parser.addoption("--figures", type=Path, help="a JSON file for the counts of what was tried")


def pytest_make_parametrize_id(config, val, argname):
    """An archive holds the second in which it was packed, and all processes need the same names."""
    return argname if isinstance(val, bytes) and len(val) > 50 else None


@pytest.fixture(scope="session")
def figures(request):
    """Words -> numbers, which a test adds to."""
    found, path = {}, request.config.getoption("--figures")
    yield found
    if path:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
