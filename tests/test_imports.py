# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may import whom."""

import ast
import functools
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
    """Absolute names of all that a file imports, in functions and for type checkers too."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
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


# Each package and module of the server, with those that it may import.
LAYERS = {
    "__main__": {
        "api",
        "checkpoint",
        "cli",
        "cores",
        "doctor",
        "geometry",
        "jobs",
        "logs",
        "optimize",
        "paths",
        "pictures",
        "priors",
        "system",
    },
    "cli": {"jobs", "paths"},
    "doctor": {"priors", "rendering"},
    "api": {"jobs", "priors", "system"},
    "jobs": {"checkpoint", "geometry", "logs", "optimize", "pictures", "priors", "system"},
    "optimize": {"assets", "checkpoint", "geometry", "guidance", "priors", "rendering", "system"},
    "assets": {"geometry", "rendering"},
    "guidance": {"checkpoint", "precision", "priors"},
    "bundled_prior": {"geometry", "paths", "priors", "rendering"},
    "evaluation": {"assets", "bundled_prior", "geometry", "optimize", "paths", "priors", "rendering"},
    "experiments": {"bundled_prior", "evaluation", "guidance", "paths", "priors"},
    "priors": set(),
    "rendering": {"precision"},
    "geometry": set(),
    "checkpoint": {"system"},
    "cores": set(),
    "logs": set(),
    "paths": {"system"},
    "pictures": set(),
    "precision": set(),
    "system": set(),
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def module_graph():
    """For each module of both programs the modules that it imports, as `imported` finds them.

    That a package is imported before its modules is left out: otherwise each package that exports would be a circle.
    """
    paths = {module_name(path): path for path in [*files("msd_blender"), *files("server")]}

    def resolve(name):
        while name and name not in paths:
            name = name.rpartition(".")[0]
        return name

    graph = {}
    for module, path in paths.items():
        graph[module] = {found for name in imported(path) if (found := resolve(name))} - {module}
    return graph


def layer_of(module):
    """The part of the server that a module belongs to: "optimize" of "server.optimize.generate"."""
    return (module.split(".") + [""])[1]


def circles(graph):
    """The groups of nodes that import each other, each as the sorted imports within it."""

    def reachable(start):
        found, pending = set(), [start]
        while pending:
            new = graph[pending.pop()] - found
            found |= new
            pending += new
        return found

    reach = {node: reachable(node) for node in graph}
    groups = {
        frozenset(other for other in reach[node] if node in reach[other]) for node in graph if node in reach[node]
    }
    return [
        sorted(f"{node} -> {other}" for node in group for other in graph[node] & group)
        for group in sorted(groups, key=min)
    ]


def test_every_part_of_the_server_has_a_layer():
    parts = {layer_of(module) for module in module_graph() if module.startswith("server.")}
    assert parts <= LAYERS.keys()


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_look_down_only(layer):
    upward = [
        f"{module} -> {other}"
        for module, others in module_graph().items()
        for other in sorted(others)
        if module.startswith("server.") and layer_of(module) == layer
        if other.startswith("server.") and layer_of(other) not in LAYERS[layer] | {layer}
    ]
    assert not upward, "\n".join(upward)


CONTRACT = {f"server.priors.{name}" for name in ("base", "conditions", "mlp")}  # mlp: a student where a prior has none


def test_guidances_know_the_contract_of_a_prior_only():
    for module, others in module_graph().items():
        if layer_of(module) == "guidance":
            assert {other for other in others if layer_of(other) == "priors"} <= CONTRACT, module


def test_no_module_imports_itself_in_a_circle():
    found = circles(module_graph())
    assert not found, "\n\n".join("\n".join(each) for each in found)


def test_no_package_imports_itself_in_a_circle():
    graph = {}
    for module, others in module_graph().items():
        if module.startswith("server."):
            targets = {layer_of(other) for other in others if other.startswith("server.")}
            graph.setdefault(layer_of(module), set()).update(targets - {layer_of(module)})
    found = circles(graph)
    assert not found, "\n\n".join("\n".join(each) for each in found)


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set()}
    assert circles(graph) == [["a -> b", "b -> c", "c -> a"]]
    assert circles({**graph, "c": {"d"}}) == []


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
