"""The public face: what `import ribkit` offers, and that it loads nothing before it is used."""

import subprocess
import sys
from types import ModuleType

import pytest

import ribkit


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_public_names_are_those_of_the_modules():
    from ribkit.method import adaptation, losses, pooling, settings
    from ribkit.study import study

    assert ribkit.adapt is adaptation.adapt
    assert (ribkit.gap, ribkit.gndrp) == (pooling.gap, pooling.gndrp)
    assert ribkit.rib_loss is losses.rib_loss
    assert ribkit.Settings is settings.Settings
    assert ribkit.Study is study.Study
    modules = {"compare", "label"}
    names = {"Settings", "Study", "adapt", "gap", "gndrp", "rib_loss"}
    assert names | modules == set(ribkit.__all__)
    assert set(ribkit.__all__) <= set(dir(ribkit))


# A submodule's import binds its name in the package, so a function of this name would come and go.
def test_a_door_is_the_module_whatever_was_imported_before():
    code = "import sys\n"
    for before in ("", "import ribkit.{0}", "from ribkit.{0} import {0}"):
        code += (
            "for name in [*sys.modules]:\n    if name.startswith('ribkit'): del sys.modules[name]\n"
        )
        code += f"{before}\nimport ribkit\nfrom ribkit import {{0}}\n"
        code += "print({0} is ribkit.{0} is sys.modules['ribkit.{0}'], callable({0}.{0}))\n"
    for name in ("compare", "label"):
        assert run(code.format(name)) == ["True", "True"] * 3


def test_the_function_compare_is_imported_from_its_module():
    from ribkit.compare import compare

    assert not isinstance(compare, ModuleType)
    assert compare is ribkit.compare.compare


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ribkit' has no attribute 'other'"):
        _ = ribkit.other
    with pytest.raises(ImportError):
        from ribkit import other  # noqa: F401


def test_importing_the_package_loads_no_heavy_library():
    loaded = run("import sys, ribkit, ribkit.runtime.store; print(*sys.modules)")
    assert "ribkit.runtime.store" in loaded
    assert not {"torchvision", "matplotlib", "ribkit.method.adaptation"} & set(loaded)


def test_the_small_network_needs_no_torchvision():
    code = "import sys; from ribkit.networks import classifier; classifier.build('small', 3); "
    loaded = run(code + "print(*sys.modules)")
    assert "ribkit.networks.classifier" in loaded
    assert "torchvision" not in loaded
