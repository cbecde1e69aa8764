# SPDX-License-Identifier: GPL-3.0-or-later
"""Small jobs of every mode and guidance, with what sets them apart on a device."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from msd_blender.protocol import FILES, JobRequest
from server.checkpoint import Checkpoints
from server.geometry.mesh import Mesh
from server.optimize import Paused, Settings, generate
from server.optimize.settings import PLANS


def ball(**arrays):
    shape = trimesh.creation.icosphere(2)
    return Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32), **arrays)


def half_locked():
    locked = (ball().positions[:, 0] < 0).astype(np.uint8)
    x, y, z = ball().positions[ball().faces].transpose(2, 0, 1)
    uvs = np.stack([0.5 + 0.4 * y, 0.5 + 0.4 * z], axis=2).astype(np.float32)  # left and right lie on each other
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return ball(locked=locked, uvs=uvs, textures={"texture.0": picture})


JOBS = {
    "msd": {},
    "sds": {"guidance": "sds"},
    "sdi": {"guidance": "sdi"},
    "vsd": {"guidance": "vsd"},
    "maps": {"maps": ["roughness", "metallic", "normal"]},
    "flat and symmetric": {"flat": True, "symmetry": "x"},
    "texture with maps": {"mode": "texture", "maps": ["roughness", "normal"]},
    "texture, locked": {"mode": "texture", "mesh": half_locked},
    "refine, locked": {"mode": "refine", "mesh": half_locked, "flat": True},
    "refine, limited": {"mode": "refine", "max_displacement": 0.1, "symmetry": "x"},
    "refine, remeshed": {"mode": "refine", "remesh": True},
}


def request_of(job, model, **changes):
    """The request of one of `JOBS`, small, and the mesh that it starts from, if any."""
    wish = {"model": model, "texture_size": 64, **JOBS[job], **changes}
    mesh = wish.pop("mesh", ball)() if "mode" in wish else None
    if wish.get("mode") != "texture":
        wish["target_faces"] = 200
    return JobRequest("a red mushroom", mesh="x" if mesh else "", **wish), mesh


def short(request):
    """Two iterations in every phase."""
    settings = replace(Settings.of(request), snapshots=2)
    return replace(settings, **{name: replace(getattr(settings, name), iterations=2) for name in PLANS[request.mode]})


def stop_and_go_on(request, mesh, folder):
    """Run a job to its last iteration but one, and from its checkpoint to its end; every file is there then."""
    settings, checkpoints, asked = short(request), Checkpoints(folder / "checkpoints"), []

    def run(paused):
        generate(request, folder, lambda message: None, lambda: False, settings, checkpoints, paused, mesh)

    with pytest.raises(Paused):
        run(lambda: asked.append(1) or len(asked) > settings.iterations(request.mode) - 1)
    run(lambda: False)
    files = set(FILES) - ({"texture.png"} if request.mode == "refine" and mesh.uvs is None else set())
    assert {path.name for path in folder.iterdir()} == files | {"checkpoints"}
