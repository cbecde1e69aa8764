# SPDX-License-Identifier: GPL-3.0-or-later
"""Public names: the modules that scripts import from list them in `__all__`, and the packages publish their types."""

import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["msd_blender", "server"]
PUBLIC = ["msd_blender.api", "server.assets", "server.guidance", "server.optimize", "server.priors"]


def modules_with_all():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "\n__all__ = " in path.read_text():
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(name):
    if name == "msd_blender.api":
        pytest.importorskip("bpy")
    return importlib.import_module(name)


@pytest.mark.parametrize("name", list(modules_with_all()))
def test_each_name_in_all_exists_and_is_no_module(name):
    module = imported(name)
    assert len(module.__all__) == len(set(module.__all__))
    members = vars(module)
    for each in module.__all__:
        assert each in members and not inspect.ismodule(members[each]), each


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_lists_all_that_it_defines(name):
    module = imported(name)
    defined = inspect.getmembers(
        module, lambda value: (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == name
    )
    assert {each for each, _ in defined if not each.startswith("_")} <= set(module.__all__)


def test_former_names_of_two_exceptions_stay_for_one_release():
    from msd_blender import __version__

    api = imported("msd_blender.api")
    assert __version__ == "0.1.0", "remove BadInput and Unfit from msd_blender.api, and this test"
    assert (api.BadInput, api.Unfit) == (api.InvalidInputError, api.InvalidMeshError)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_publishes_its_types(package):
    assert (ROOT / package / "py.typed").is_file()
