# SPDX-License-Identifier: GPL-3.0-or-later
"""Every pair of a job's options, or in short every value: the job finishes, with all files and finite numbers."""

import json
import random
from dataclasses import fields, replace
from itertools import combinations

import numpy as np
import pytest
import trimesh

from msd_blender.protocol import AXES, BACKGROUNDS, FILES, GUIDANCES, MAPS, JobRequest
from server.geometry.files import load
from server.geometry.mesh import Mesh
from server.optimize import Settings, generate

UVS, LOCKED, COLOURS, PICTURE = "UVs", "locked", "colours", "picture"
COMMON = {
    "guidance": list(GUIDANCES),
    "maps": [[], ["roughness"], ["normal"], ["metallic", "normal"], list(MAPS)],
    "flat": [False, True],
    "symmetry": list(AXES),
    "background": list(BACKGROUNDS),
    "negative_prompt": ["", "blurry"],
    "guidance_scale": [None, 0, 1, 20.0],
    "diversity": [None, 0.5],
    "sharpness": [None, 2.0],
    "regularization": [None, 0, 3.0],
    "elevation": [None, [0, 0], [-90.0, 90]],
    "view": [None, [30, 20.5], [-180, 90]],
    "cameras": [[], ["-30,10"], ["0,90:a blue ball", "180,-90", "30,10:a face"]],
    "field_of_view": [None, 5, 120],
    "texture_size": [64, 65],
    "iterations": [1, 3],
    "rasterizer": ["auto", "cpu", "warp"],
    "device": ["auto", "cpu"],
    "memory_limit": [None, 100.0],
    "seed": [0, 2**53 - 1],
}
MESHES = {"mesh": [(), (UVS,), (UVS, PICTURE), (COLOURS,), (LOCKED, COLOURS), (UVS, LOCKED, PICTURE)]}
REFINE = {"max_displacement": [None, 0, 0.1], "remesh": [False, True], "target_faces": [None, 100, 500]}
TABLES = {
    "generate": COMMON | {"target_faces": [100, 500]},
    "texture": COMMON | MESHES,
    "refine": COMMON | MESHES | REFINE,
}


def pairwise(options, seed):
    """Rows {name: value} with each pair of values of two options, chosen greedily from random rows."""
    rng, names = random.Random(seed), list(options)
    place = {name: {repr(value): value for value in values} for name, values in options.items()}
    left = {((a, x), (b, y)) for a, b in combinations(names, 2) for x in place[a] for y in place[b]}

    def pairs(row):
        return {((a, row[a]), (b, row[b])) for a, b in combinations(names, 2)}

    while left:
        tries = []
        for first in rng.sample(sorted(left), min(len(left), 6)):
            row = {name: rng.choice(list(place[name])) for name in names} | dict(first)
            for name in rng.sample(names, len(names)):
                if name not in dict(first):
                    row[name] = max(
                        place[name],
                        key=lambda value, name=name: len(
                            left & {pair for pair in pairs(row | {name: value}) if name in (pair[0][0], pair[1][0])}
                        ),
                    )
            tries.append(row)
        best = max(tries, key=lambda row: len(pairs(row) & left))
        left -= pairs(best)
        yield {name: place[name][value] for name, value in best.items()}


def artists(parts):
    shape = trimesh.creation.icosphere(2)
    positions, faces = np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32)
    _, y, z = positions[faces].transpose(2, 0, 1)
    return Mesh(
        positions,
        faces,
        colours=np.round(127 + 127 * positions).astype(np.uint8) if COLOURS in parts else None,
        uvs=np.stack([0.5 + 0.4 * y, 0.5 + 0.4 * z], axis=2).astype(np.float32) if UVS in parts else None,
        locked=(positions[:, 0] < 0).astype(np.uint8) if LOCKED in parts else None,
        textures={"texture.0": np.full((32, 48, 3), 90, np.uint8)} if PICTURE in parts else {},
    )


def test_the_tables_have_every_option_of_a_job():
    named = set().union(*TABLES.values())
    outside = {"prompt", "mode", "client_key", "priority"}  # required, or for the queue
    outside |= {"model", "loras", "control", "control_model", "control_strength"}
    outside |= {"image_prompt", "image_prompt_strength", "ip_adapter"}  # of the model, tested with it
    assert named | outside == {field.name for field in fields(JobRequest)}


def test_pairs_are_complete():
    rows = list(pairwise(COMMON, 0))
    for a, b in combinations(COMMON, 2):
        assert {(repr(row[a]), repr(row[b])) for row in rows} == {
            (repr(x), repr(y)) for x in COMMON[a] for y in COMMON[b]
        }
    assert len(rows) < 40


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("mode", TABLES)
def test_every_pair_of_options_works(tiny, tmp_path, mode, request):
    """Every pair with --long; else every value."""
    long = request.config.getoption("--long")
    tried: set[str] = set()
    for number, row in enumerate(pairwise(TABLES[mode], 0)):
        values = {f"{name} {value}" for name, value in row.items()}
        if values <= tried and not long:
            continue
        tried |= values
        folder = tmp_path / str(number)
        folder.mkdir()
        parts = row.pop("mesh", None)
        mesh = None if parts is None else artists(parts)
        asked = JobRequest("a red mushroom", mode=mode, model=tiny["model"], mesh="x" if mesh else "", **row)
        try:
            settings = replace(Settings.of(asked), colour_levels=(5, 9))  # finer grids would be slow
            generate(asked, folder, lambda message: None, lambda: False, settings, mesh=mesh)
        except Exception as error:
            raise AssertionError(f"{mode} with {row} and a mesh of {parts}") from error
        lacking = set(FILES) - {path.name for path in folder.iterdir()}
        assert lacking <= ({"texture.png"} if mode == "refine" else set()), row
        assert json.loads((folder / "job.json").read_text())["state"] == "finished"
        made = load(folder / "mesh.glb")
        assert len(made.faces) and np.isfinite(made.positions).all(), row
