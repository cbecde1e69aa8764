# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs keep an artist's materials, normals and UV maps."""

import json
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from PIL import Image

from msd_blender.protocol import JobRequest, Log, Snapshot
from server.checkpoint import Checkpoints
from server.geometry.colour import srgb_to_linear, tint
from server.geometry.files import load
from server.optimize import Paused, generate
from tests.geometry.gltf import BLUE, GREEN, RED, SQUARE, TWO, UVS, WHITE, File, encoded, image, pixels, quadrants, read

pytestmark = pytest.mark.slow


def run(folder, tiny, mesh, mode="texture", checkpoints=None, paused=lambda: False, **changes):
    """Run a job: (the last snapshot's arrays, the sentences of the log)."""
    messages = []
    folder.mkdir(exist_ok=True)
    request = JobRequest(**{"prompt": "a red cube", "mode": mode, "mesh": "x", "texture_size": 64, **tiny, **changes})
    generate(request, folder, messages.append, lambda: False, mesh=mesh, checkpoints=checkpoints, paused=paused)
    return (
        [each for each in messages if isinstance(each, Snapshot)][-1].arrays,
        [each.message for each in messages if isinstance(each, Log)],
    )


def box(file, material=None, **more):
    """A box of 2 m with hard edges, each side on one cell of a picture of 2 x 3 cells."""
    shape = trimesh.creation.box((2, 2, 2))
    faces, places = np.asarray(shape.faces), np.asarray(shape.vertices)
    side = np.unique(np.round(shape.face_normals), axis=0, return_inverse=True)[1].reshape(-1)
    corners = places[faces].astype(np.float32)
    normals = np.repeat(shape.face_normals, 3, axis=0).astype(np.float32)
    axes = [[1, 2], [0, 2], [0, 1]]
    flat = np.stack([corners[i][:, axes[np.abs(n).argmax()]] for i, n in enumerate(shape.face_normals)])
    cell = np.stack([side % 3 / 3, side // 3 / 2], axis=1)[:, None]
    uvs = cell + (0.02 + (flat + 1) / 2 * 0.9) / np.array([3, 2])
    file.primitive(
        material=material,
        indices=None,
        **{"POSITION": corners.reshape(-1, 3), "NORMAL": normals, "TEXCOORD_0": uvs.reshape(-1, 2).astype(np.float32)}
        | more,
    )
    return file


def opened(file, tmp_path):
    warnings = []
    return load(file.save(tmp_path / "given.glb"), warnings.append), warnings


def leaves():
    """A box whose material has many features, and the files of its emissive and its occlusion picture."""
    file = File(extensionsUsed=["KHR_materials_ior"])
    cut = np.dstack([quadrants(RED, GREEN, BLUE, WHITE), np.indices((8, 8))[0] * 30]).astype(np.uint8)
    glow, shade = encoded(np.full((4, 4, 3), (0, 200, 0), np.uint8), "JPEG"), encoded(np.full((4, 4), 77, np.uint8))
    more = {
        "emissiveTexture": {"index": file.picture(glow)},
        "emissiveFactor": [0.5, 1, 0.5],
        "occlusionTexture": {"index": file.picture(shade), "strength": 0.5, "texCoord": 1},
        "alphaMode": "MASK",
        "alphaCutoff": 0.25,
        "extensions": {"KHR_materials_ior": {"ior": 1.2}},
    }
    surface = {"roughnessFactor": 0.3, "metallicFactor": 0.1, "baseColorFactor": [1, 1, 1, 0.9]}
    material = file.material("Leaves", file.picture(cut), surface=surface, **more)
    uvs = np.random.default_rng(0).random((36, 2)).astype(np.float32)
    return box(file, material, TEXCOORD_1=uvs), cut[..., 3], glow, shade


def check_leaves(folder, alpha, glow, shade):
    document, binary = read(folder / "mesh.glb")
    (material,) = document["materials"]
    surface = material.pop("pbrMetallicRoughness")
    made = pixels(document, binary, surface.pop("baseColorTexture")["index"])
    np.testing.assert_array_equal(made[..., 3], alpha)
    assert surface == {"roughnessFactor": 0.3, "metallicFactor": 0.1, "baseColorFactor": [1, 1, 1, 0.9]}
    assert image(document, binary, material.pop("emissiveTexture")["index"]) == glow
    occlusion = material.pop("occlusionTexture")
    assert image(document, binary, occlusion.pop("index")) == shade and occlusion == {"strength": 0.5, "texCoord": 1}
    assert material == {
        "name": "Leaves",
        "emissiveFactor": [0.5, 1, 0.5],
        "alphaMode": "MASK",
        "alphaCutoff": 0.25,
        "extensions": {"KHR_materials_ior": {"ior": 1.2}},
    }
    assert document["extensionsUsed"] == ["KHR_materials_ior"]
    with Image.open(folder / "texture.png") as opened:
        np.testing.assert_array_equal(np.asarray(opened)[..., 3], alpha)
    return made[..., :3]


def test_texture_paints_the_base_colour_and_keeps_the_rest_of_the_material(tiny, tmp_path):
    file, *kept = leaves()
    mesh, warnings = opened(file, tmp_path)
    arrays, log = run(tmp_path / "out", tiny, mesh)
    made = check_leaves(tmp_path / "out", *kept)
    np.testing.assert_array_equal(made[::-1], arrays["texture.0"])
    assert (arrays["texture.0"] != mesh.textures["texture.0"]).any() and not warnings and not log
    written = load(tmp_path / "out" / "mesh.glb")
    np.testing.assert_allclose(written.uvs, mesh.uvs, atol=1e-6)
    np.testing.assert_allclose(written.more_uvs[0], mesh.more_uvs[0], atol=1e-6)
    np.testing.assert_allclose(written.normals, mesh.normals, atol=1e-6)


def test_a_painted_map_replaces_its_factors(tiny, tmp_path):
    file, *_ = leaves()
    mesh, _ = opened(file, tmp_path)
    arrays, _ = run(tmp_path / "out", tiny | {"iterations": 1}, mesh, maps=["roughness"])
    assert np.abs(arrays["roughness.0"].astype(int) - round(255 * 0.3)).max() < 30  # the initial value
    document, binary = read(tmp_path / "out" / "mesh.glb")
    surface = document["materials"][0]["pbrMetallicRoughness"]
    packed = pixels(document, binary, surface["metallicRoughnessTexture"]["index"])
    np.testing.assert_array_equal(packed[::-1, :, 1], arrays["roughness.0"])
    assert surface["roughnessFactor"] == surface["metallicFactor"] == 1 and (packed[..., 2] == round(25.5)).all()


def test_painting_over_a_picture_on_another_uv_map_warns(tiny, tmp_path):
    file = File()
    bumps = {"index": file.picture(np.full((4, 4, 3), 128, np.uint8)), "texCoord": 1}
    material = file.material("Bark", file.picture(quadrants(RED, GREEN, BLUE, WHITE)), normalTexture=bumps)
    mesh, _ = opened(box(file, material, TEXCOORD_1=np.zeros((36, 2), np.float32)), tmp_path)
    _, log = run(tmp_path / "out", tiny | {"iterations": 1}, mesh, maps=["normal"])
    assert log == ["These pictures lie on another UV map, and the painted ones take their place: normal of 'Bark'."]
    (made,) = read(tmp_path / "out" / "mesh.glb")[0]["materials"]
    assert "texCoord" not in made["normalTexture"]


@pytest.mark.parametrize("mode", ["texture", "refine"])
def test_a_resumed_job_keeps_the_material_too(tiny, tmp_path, mode):
    file, *kept = leaves()
    mesh, _ = opened(file, tmp_path)
    run(tmp_path / "whole", tiny, mesh, mode)
    asked = []
    with pytest.raises(Paused):
        run(
            tmp_path / "out",
            tiny,
            mesh,
            mode,
            Checkpoints(tmp_path / "kept"),
            lambda: asked.append(1) or len(asked) > 2,
        )
    run(tmp_path / "out", tiny, mesh, mode, Checkpoints(tmp_path / "kept"))
    check_leaves(tmp_path / "out", *kept)
    assert (tmp_path / "out" / "mesh.glb").read_bytes() == (tmp_path / "whole" / "mesh.glb").read_bytes()


def hardness(mesh):
    """(F, 3) degrees between a corner's normal and its face's."""
    places = mesh.positions[mesh.faces].astype(float)
    faces = np.cross(places[:, 1] - places[:, 0], places[:, 2] - places[:, 0])
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    return np.degrees(np.arccos(np.clip((mesh.normals * faces[:, None]).sum(axis=2), -1, 1)))


def test_hard_edges_stay_hard_even_where_vertices_move(tiny, tmp_path):
    mesh, _ = opened(box(File()), tmp_path)
    run(tmp_path / "texture", tiny, mesh)
    assert hardness(load(tmp_path / "texture" / "mesh.glb")).max() < 0.1
    arrays, _ = run(tmp_path / "refine", tiny, mesh, "refine")
    assert np.abs(arrays["positions"] - mesh.positions).max() > 1e-3
    made = load(tmp_path / "refine" / "mesh.glb")
    assert hardness(made).max() < 5  # the two triangles of a side share a normal and bend slightly
    run(tmp_path / "flat", tiny, mesh, flat=True)
    assert np.isnan(load(tmp_path / "flat" / "mesh.glb").normals).all()


def test_custom_normals_stay_where_nothing_moves(tiny, tmp_path):
    bent = np.random.default_rng(0).normal(size=(36, 3))
    bent /= np.linalg.norm(bent, axis=1, keepdims=True)
    mesh, _ = opened(box(File(), NORMAL=bent.astype(np.float32)), tmp_path)
    moved = mesh.with_positions(mesh.positions + np.float32([0, 0, 1]) * (mesh.positions[:, :1] > 0))
    still = (mesh.positions[mesh.faces][..., 0] < 0).all(axis=1)
    np.testing.assert_array_equal(moved.normals[still], mesh.normals[still])
    assert (moved.normals[~still] != mesh.normals[~still]).any()
    run(tmp_path / "texture", tiny, mesh)
    np.testing.assert_allclose(load(tmp_path / "texture" / "mesh.glb").normals, mesh.normals, atol=1e-6)


@pytest.mark.parametrize("mode", ["texture", "refine"])
def test_a_job_starts_with_the_base_colour_factor(tiny, tmp_path, mode):
    file = File()
    mesh, _ = opened(box(file, file.material("Red paint", surface={"baseColorFactor": [1, 0, 0, 1]})), tmp_path)
    arrays, _ = run(tmp_path / "out", tiny | {"iterations": 1}, mesh, mode)
    red, green, blue = arrays["texture.0"].reshape(-1, 3).mean(axis=0)
    assert red > 200 and max(green, blue) < 60
    (material,) = read(tmp_path / "out" / "mesh.glb")[0]["materials"]
    assert material["name"] == "Red paint" and "baseColorFactor" not in material["pbrMetallicRoughness"]


def test_vertex_colours_are_multiplied_into_the_picture(tiny, tmp_path):
    file = File()
    texture = file.picture(quadrants(RED, GREEN, WHITE, WHITE))
    colours = np.float32([[0.2, 0.5, 1]] * 36)
    mesh, warnings = opened(box(file, file.material(texture=texture), COLOR_0=colours), tmp_path)
    mesh = replace(mesh, locked=(mesh.positions[:, 2] > 0).astype(np.uint8))
    arrays, _ = run(tmp_path / "out", tiny, mesh)
    shown = tint(mesh.textures["texture.0"], srgb_to_linear(mesh.colours[0] / 255))
    top = (mesh.locked[mesh.faces] > 0).all(axis=1)
    place = (mesh.uvs[top].mean(axis=1) * 8).astype(int)
    np.testing.assert_array_equal(arrays["texture.0"][place[:, 1], place[:, 0]], shown[place[:, 1], place[:, 0]])
    assert "COLOR_0" not in json.dumps(read(tmp_path / "out" / "mesh.glb")[0]) and not warnings


def test_faces_in_other_tiles_of_a_picture_use_the_same_texels(tiny, tmp_path):
    """Moving UVs by whole tiles changes nothing; faces across an edge cause a warning."""
    results = []
    for shift in (0, 3):
        file = File()
        mesh, _ = opened(box(file, file.material(texture=file.picture(quadrants(RED, GREEN, BLUE, WHITE)))), tmp_path)
        mesh.uvs[:] += np.float32([shift, -shift])
        arrays, log = run(tmp_path / "out", tiny, mesh)
        assert not log
        results.append(arrays["texture.0"].astype(int))
        np.testing.assert_array_equal(arrays["uvs"], mesh.uvs)
    assert np.abs(results[0] - results[1]).mean() < 3  # float32 is less precise there
    mesh.uvs[:4] = [[0, 0], [1.5, 0], [0, 1.5]]
    _, log = run(tmp_path / "out", tiny, mesh)
    (sentence,) = log
    assert sentence.startswith("4 of 12 faces have UVs that reach over their picture's edge")


def test_a_palette_becomes_a_texture_with_its_colours(tiny, tmp_path):
    """A palette cannot be painted, because each face covers one texel, as usual for low-polygon models."""
    file = File()
    palette = file.picture(quadrants(RED, GREEN, BLUE, WHITE))
    material = file.material("Palette", palette, normalTexture={"index": palette})
    spots = np.tile(np.repeat(np.float32([[0.2, 0.2], [0.8, 0.2]]), 3, axis=0), (6, 1))
    mesh, _ = opened(box(file, material, TEXCOORD_0=spots), tmp_path)
    mesh = replace(mesh, locked=np.isin(np.arange(8), mesh.faces[:2]).astype(np.uint8))
    arrays, log = run(tmp_path / "out", tiny | {"iterations": 1}, mesh)
    (sentence,) = log
    assert sentence.startswith("The mesh's UVs have no area") and sentence.endswith("left out.")
    assert arrays["texture.0"].shape == (64, 64, 3) and np.ptp(arrays["uvs"], axis=1).min() > 0
    locked = arrays["texture.0"][tuple((arrays["uvs"][:2].mean(axis=1) * 64).astype(int).T[::-1])]
    np.testing.assert_array_equal(locked, [RED, GREEN])
    (made,) = read(tmp_path / "out" / "mesh.glb")[0]["materials"]
    assert made["name"] == "Palette" and "normalTexture" not in made


def test_a_new_topology_warns_of_its_losses(tiny, tmp_path):
    file = File()
    shape = trimesh.creation.icosphere(2)
    places = np.asarray(shape.vertices, np.float32)
    file.primitive(
        POSITION=places,
        NORMAL=places,
        TEXCOORD_0=None,
        indices=np.asarray(shape.faces, np.uint16).ravel(),
        material=file.material("Blue", surface={"baseColorFactor": [0, 0, 1, 1]}),
    )
    mesh, _ = opened(file, tmp_path)
    arrays, log = run(tmp_path / "out", tiny | {"iterations": 1}, mesh, "refine", remesh=True, target_faces=300)
    assert "Remesh makes new faces: the materials of the old ones are left out." in log
    assert arrays["colours"][:, 2].mean() > 180 > 90 > arrays["colours"][:, 0].mean()


def test_two_materials_keep_their_slots(tiny, tmp_path):
    file = File()
    for i, colour in enumerate((RED, BLUE)):
        texture = file.picture(np.full((8 + 8 * i, 8, 3), colour, np.uint8))
        file.primitive(
            POSITION=SQUARE + np.float32([2 * i, 0, 0]),
            material=file.material(f"side {i}", texture),
            TEXCOORD_0=UVS,
            indices=TWO,
        )
    mesh, _ = opened(file, tmp_path)
    run(tmp_path / "out", tiny, mesh)
    made = load(tmp_path / "out" / "mesh.glb")
    assert [made.materials[slot].name for slot in (0, 1)] == ["side 0", "side 1"]
    assert made.textures["texture.0"].shape == (8, 8, 3) and made.textures["texture.1"].shape == (16, 8, 3)
    np.testing.assert_array_equal(made.slots, mesh.slots)
