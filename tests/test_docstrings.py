"""What a reader who presses Shift+Tab finds: every argument, and of each formula its source."""

import inspect
import re
from importlib import import_module

import pytest

FORMULAS = {
    "method.cam": ("flip_sum", "normalise", "multi_scale"),
    "method.pooling": ("gap", "gmp", "gndrp", "region"),
    "method.losses": ("rib_loss",),
    "method.others": ("OtherImageSampler",),
    "method.adaptation": ("adapt", "adapt_set", "trajectory"),
    "method.aggregation": ("aggregate", "covered"),
    "evaluation.miou": ("confusion", "iou", "miou"),
    "evaluation.thresholds": ("sweep", "otsu", "own_best"),
    "evaluation.regions": ("halves", "band"),
    "evaluation.measures": ("precision", "recall", "over_images", "worst_tenth", "pxap"),
    "refinement.random_walk": ("edge_affinity", "walk", "propagate"),
    "refinement.crf": ("refine_labels", "refine_scores"),
    "refinement.saliency": ("combine",),
}
STATISTICS = ("bootstrap", "combined", "p_value", "p_by_t", "simultaneous", "images_needed")
POWER = ("detectable_once", "detectable_by_t")
COLOURS = ("green",)
EXPLAINED = {
    f"{module}.{name}": getattr(import_module(f"ribkit.{module}"), name)
    for module, names in (
        *FORMULAS.items(),
        ("evaluation.intervals", STATISTICS),
        ("evaluation.power", POWER),
        ("evaluation.regions", COLOURS),
    )
    for name in names
}


def documented(docstring):
    """The names in the section of arguments."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", inspect.cleandoc(docstring) + "\n", re.M)
    return set(re.findall(r"^    \*{0,2}(\w+):", section[1], re.M)) if section else set()


@pytest.mark.parametrize("name", EXPLAINED)
def test_the_args_section_names_every_argument(name):
    formula = EXPLAINED[name]
    assert documented(formula.__doc__) == set(inspect.signature(formula).parameters)


@pytest.mark.parametrize("name", [f"{m}.{n}" for m, names in FORMULAS.items() for n in names])
def test_a_formula_has_its_source_its_latex_and_an_example(name):
    docstring = EXPLAINED[name].__doc__
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", docstring)
    assert ".. math::" in docstring
    assert ">>> " in docstring


@pytest.mark.parametrize(
    "name", [name for name in EXPLAINED if name.rpartition(".")[2] in STATISTICS + POWER + COLOURS]
)
def test_a_statistic_has_its_latex_and_an_example(name):
    docstring = EXPLAINED[name].__doc__
    assert ".. math::" in docstring
    assert ">>> " in docstring


def test_the_settings_name_their_units():
    from ribkit.method.settings import Settings, Variant
    from ribkit.refinement.crf import Kernels

    for kind in (Settings, Variant, Kernels):
        commented = set(re.findall(r"^    (\w+): .*  # \w", inspect.getsource(kind), re.M))
        assert commented == set(inspect.signature(kind).parameters)
