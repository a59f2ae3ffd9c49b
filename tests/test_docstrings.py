"""What a reader who presses Shift+Tab finds: every argument, and of each formula its source."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ribkit"
ROOMS = ("method", "evaluation")
MODULES = [
    *(f"{room}.{p.stem}" for room in ROOMS for p in sorted((PACKAGE / room).glob("[!_]*.py"))),
    *(f"refinement.{name}" for name in ("random_walk", "crf", "saliency")),
]
FORMULAS = {
    "method.cam": ("flip_sum", "normalise", "multi_scale"),
    "method.pooling": ("gap", "gmp", "gndrp", "region"),
    "method.losses": ("rib_loss",),
    "method.others": ("OtherImageSampler",),
    "method.adaptation": ("adapt", "adapt_set", "trajectory"),
    "method.aggregation": ("aggregate", "covered"),
    "evaluation.miou": ("confusion", "iou", "miou"),
    "evaluation.thresholds": ("sweep",),
    "refinement.random_walk": ("edge_affinity", "walk", "propagate"),
    "refinement.crf": ("refine_labels", "refine_scores"),
    "refinement.saliency": ("combine",),
}
STATISTICS = ("bootstrap", "combined", "simultaneous", "images_needed")


def public():
    """Every public function, and every public method of a public class."""
    for name in MODULES:
        module = import_module(f"ribkit.{name}")
        for key, value in vars(module).items():
            if key.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value):
                yield f"{name}.{key}", value
            elif inspect.isclass(value):
                methods = inspect.getmembers(value, inspect.isfunction)
                yield from ((f"{name}.{key}.{k}", m) for k, m in methods if not k.startswith("_"))


PUBLIC = dict(public())


def documented(docstring, heading="Args"):
    """The names in a section of a docstring."""
    section = re.search(
        rf"^{heading}:\n((?:    .*\n|\n)+)", inspect.cleandoc(docstring) + "\n", re.M
    )
    return set(re.findall(r"^    \*{0,2}(\w+):", section[1], re.M)) if section else set()


def test_all_rooms_are_looked_at():
    assert len(PUBLIC) > 50
    assert {"method.pooling.gndrp", "evaluation.thresholds.Swept.at"} <= PUBLIC.keys()


@pytest.mark.parametrize("name", PUBLIC)
def test_the_args_section_names_every_argument(name):
    arguments = set(inspect.signature(PUBLIC[name]).parameters) - {"self"}
    assert documented(PUBLIC[name].__doc__) == arguments


@pytest.mark.parametrize(
    "name", [f"{module}.{name}" for module, names in FORMULAS.items() for name in names]
)
def test_a_formula_has_its_source_its_latex_and_an_example(name):
    module, function = name.rsplit(".", 1)
    docstring = getattr(import_module(f"ribkit.{module}"), function).__doc__
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", docstring)
    assert ".. math::" in docstring
    assert ">>> " in docstring


@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_has_its_latex_and_an_example(name):
    docstring = PUBLIC[f"evaluation.intervals.{name}"].__doc__
    assert ".. math::" in docstring
    assert ">>> " in docstring


def test_the_settings_name_their_units():
    from ribkit.method.settings import Settings, Variant
    from ribkit.refinement.crf import Kernels

    for kind in (Settings, Variant, Kernels):
        assert documented(kind.__doc__, "Attributes") == set(inspect.signature(kind).parameters)
