# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel shows no number that is not the one used: every number, in every mode, for every family of models, against
the run that the server would make of the panel's request. Every guidance with the bundled model, and with --long with
all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bpy
import pytest

import msd_blender
from msd_blender.properties import FIRST_VALUES
from msd_blender.protocol import GUIDANCES, MODES, OPTIONS
from server.optimize import Optimization, Settings
from server.priors import load
from tests.blender.test_options import drawn
from tests.optimize.jobs import ball
from tests.priors import pipelines, test_multi_view

FAMILIES: dict[str, Callable[[dict[str, Path], Path], object]] = {
    "SD": lambda folders, path: shutil.copytree(folders["epsilon"], path),
    "SD, distilled": lambda folders, path: shutil.copytree(folders["epsilon"], path / "sd-turbo"),
    "SD3": pipelines.save_stable_diffusion_3,
    "Flux": pipelines.save_flux,
    "PixArt-Sigma": pipelines.save_pixart_sigma,
    "Sana": lambda folders, path: pipelines.save_sana(path),
    "multi-view": lambda folders, path: test_multi_view.make_folder(folders["epsilon"], path, view_words=True),
}


@pytest.fixture(params=["bundled", *FAMILIES])
def place(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> str:
    """A model of a family, as the panel names it."""
    if request.param == "bundled":
        return ""
    FAMILIES[request.param](folders, tmp_path / "model")
    return str(next(tmp_path.rglob("model_index.json")).parent)


@pytest.fixture(autouse=True)
def extension() -> Iterator[None]:
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    msd_blender.register()
    bpy.ops.mesh.primitive_cube_add()
    yield
    msd_blender.unregister()


def used(run: Optimization) -> dict[str, Any]:
    """The numbers of a run, by the panel's names."""
    settings, context = run.settings, run._context(run.plan[0])
    first, last = run.plan[0], run.plan[-1]
    usual = list(Settings().phases(run.request.mode).values())[0]
    return {
        "iterations": run.iterations,
        "guidance_scale": settings.guidance_scale,
        "texture_size": context.options.texture_size,
        "max_displacement": context.options.max_displacement,
        "target_faces": context.target_faces,
        "field_of_view": settings.field_of_view,
        "diversity": first.bandwidth.start,
        "sharpness": last.bandwidth.end,
        "regularization": first.penalty / usual.penalty,
        "memory_limit": run.memory._limit,
        "elevation": settings.elevation,
        "view": [(each.azimuth, each.elevation) for each in settings.placed],
        "seed": run.generator.initial_seed(),
    }


@pytest.mark.long
def test_a_number_that_is_shown_is_the_one_used(place: str, request: pytest.FixtureRequest) -> None:
    settings = bpy.context.scene.msd
    prior = load(place or None, "cpu")
    assert set(FIRST_VALUES) == {
        name
        for name, option in OPTIONS.items()
        if option.default is None and not option.many and option.type is not str
    }
    for mode in MODES:
        for guidance in ("msd",) if place and not request.config.getoption("--long") else GUIDANCES:
            settings.mode, settings.guidance, settings.prompt, settings.seed = mode, guidance, "a chair", 7
            settings.model, settings.remesh = place, mode == "refine"
            for switch in (*FIRST_VALUES, "elevation"):
                setattr(settings, f"sets_{switch}", True)
            settings.sets_view, settings.view = True, (30, 20)
            run = Optimization(
                settings.request(),
                lambda _: None,
                lambda: False,
                mesh=None if mode == "generate" else ball(),
                prior=prior,
            )
            shown, values = drawn(), used(run)
            for name in FIRST_VALUES:
                if name in shown:
                    assert values[name] == pytest.approx(getattr(settings, name)), (mode, guidance, name)
            assert values["view"] == [tuple(settings.view)]
            assert values["elevation"] == (settings.elevation_min, settings.elevation_max)
            assert values["seed"] == settings.seed
            hidden = {name for name in FIRST_VALUES if name not in shown}
            expected = set() if guidance == "msd" else {"diversity", "sharpness"}
            assert hidden == expected | ({"max_displacement"} if mode != "refine" else set()) | (
                {"target_faces"} if mode == "texture" else set()
            )
