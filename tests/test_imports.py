# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may import whom."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDS_NO_BPY = [
    "msd_blender",
    "msd_blender.client",
    "msd_blender.commands",
    "msd_blender.errors",
    "msd_blender.job_session",
    "msd_blender.local_server",
    "msd_blender.pixels",
    "msd_blender.protocol",
    "msd_blender.thumbnails",
]


def imported(path):
    """Absolute names of all that a file imports, wherever in it."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files(folder):
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("path", files("msd_blender"), ids=lambda path: path.name)
def test_the_extension_needs_blenders_own_python_only(path):
    blenders = {"bpy", "bpy_extras", "bl_operators", "bl_ui", "mathutils", "numpy"}
    allowed = set(sys.stdlib_module_names) | blenders | {"msd_blender"}
    assert {name.split(".")[0] for name in imported(path)} <= allowed


@pytest.mark.parametrize("path", files("server"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_server_knows_of_the_extension_only_the_protocol(path):
    names = set(imported(path))
    assert not any(name.split(".")[0] == "bpy" for name in names)
    ours = {name for name in names if name.startswith("msd_blender.")}
    assert all(name.startswith("msd_blender.protocol") or name == "msd_blender.__version__" for name in ours)


LAYERS = {
    "api": {"jobs"},
    "jobs": {"optimize", "geometry", "checkpoint", "logs"},
    "optimize": {"guidance", "rendering", "geometry", "priors", "bundled", "checkpoint"},
    "guidance": {"priors", "checkpoint"},
    "experiments": {"guidance", "priors", "bundled", "paths"},
    "priors": set(),
    "rendering": set(),
    "geometry": set(),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_look_down_only(layer):
    for path in files(f"server/{layer}"):
        below = {name.split(".")[1] for name in imported(path) if name.startswith("server.")}
        assert below <= LAYERS[layer] | {layer}, path


def test_the_extension_has_no_import_circle():
    """Imports inside functions and for type checking count too, and those of the package's own names."""
    paths = {f"msd_blender.{path.stem}".removesuffix(".__init__"): path for path in files("msd_blender")}
    graph = {}
    for module, path in paths.items():
        names = {name for name in imported(path) if name.count(".") == 1 and name.startswith("msd_blender.")}
        graph[module] = {name if name in paths else "msd_blender" for name in names}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize("module", NEEDS_NO_BPY)
def test_importing_it_needs_numpy_at_most(module):
    code = f"import sys\nfor name in ('bpy', 'torch', 'fastapi', 'PIL'): sys.modules[name] = None\nimport {module}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_server_process_starts_without_torch():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['diffusers'] = None\n"
        "import server.__main__, server.api.app, server.jobs.queue, server.jobs.worker, server.doctor\n"
        "from server.priors import BUNDLED_MODEL, check; check(BUNDLED_MODEL)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
