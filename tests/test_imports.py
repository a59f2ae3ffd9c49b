"""Imports run one way through ribkit: doors -> results -> study -> ... -> runtime."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ribkit"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}
BELOW = {  # room -> the rooms that it may import, besides itself; a door is a room of its own
    "runtime": set(),
    "evaluation": set(),
    "data": {"runtime"},
    "networks": {"data", "runtime"},
    "method": {"networks", "data", "runtime"},
    "refinement": {"networks", "data", "runtime", "evaluation"},
    "study": {"method", "refinement", "networks", "data", "runtime", "evaluation"},
}
BELOW["results"] = BELOW["study"] | {"study"}
BELOW["doors"] = BELOW["results"] | {"results"}
LONGEST = 12  # files in a chain of imports


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else "doors"


@cache
def imported(module):
    """The modules of ribkit that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


@cache
def chain(module):
    """The longest chain of imports that begins here."""
    return (module, *max(map(chain, imported(module)), key=len, default=()))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_its_room_and_those_below(module):
    own = room(module)
    wrong = {name for name in imported(module) if room(name) not in BELOW[own] | {own}}
    assert not wrong


def test_the_method_knows_of_networks_only_the_backbone():
    found = set().union(*(imported(name) for name in MODULES if room(name) == "method"))
    assert {name for name in found if room(name) == "networks"} == {"ribkit.networks.backbone"}


def test_the_longest_chain_of_imports_is_short():
    longest = max(map(chain, MODULES), key=len)
    assert len(longest) <= LONGEST, " -> ".join(longest)
