# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples run, and do what their first lines say."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from msd_blender.protocol import JobRequest
from server.assets import ASSETS
from server.checkpoint import Checkpoints
from server.geometry.files import load
from server.guidance import GUIDANCES
from server.optimize import Paused, generate
from server.priors import PIPELINES

EXAMPLES = Path(__file__).parents[2] / "examples"


REGISTRIES = (ASSETS, GUIDANCES, PIPELINES)


@pytest.fixture
def example(monkeypatch):
    """Import an example by name; its registry line is gone after the test."""

    def load_example(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    before = [set(registry) for registry in REGISTRIES]
    yield load_example
    for registry, known in zip(REGISTRIES, before):
        for key in registry.keys() - known:
            del registry[key]


def test_a_prior_of_your_own_makes_its_colour(example, tmp_path):
    example("prior_of_your_own").main(["--output", str(tmp_path), "--iterations", "16"])
    mesh = load(tmp_path / "mesh.glb")
    picture = mesh.textures["texture.0"].reshape(-1, 3).mean(axis=0)
    assert picture[0] > picture[1] + 10 and picture[0] > picture[2] + 10  # red


def test_a_guidance_of_your_own_finds_the_density(example):
    assert example("guidance_of_your_own").main() < 1e-2


def test_an_asset_of_your_own_is_optimized_and_resumed(example, tmp_path, tiny):
    module = example("asset_of_your_own")
    request = JobRequest("a red sphere", iterations=4, model=tiny["model"])
    checkpoints, asked = Checkpoints(tmp_path / "checkpoints"), []

    def run(paused):
        settings = module.settings_of(request)
        generate(request, tmp_path, lambda message: None, lambda: False, settings, checkpoints, paused)

    with pytest.raises(Paused):
        run(lambda: asked.append(1) or len(asked) > 2)
    assert checkpoints.step == 2
    run(lambda: False)
    assert json.loads((tmp_path / "job.json").read_text())["iterations"] == 4
    assert len(load(tmp_path / "mesh.glb").faces) == len(module.SPHERE.faces)
