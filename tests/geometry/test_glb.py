# SPDX-License-Identifier: GPL-3.0-or-later
"""What artists' glTF files have in them: read, kept, said or refused. The files are made here."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.geometry.files import load, save
from server.geometry.validation import validate
from tests.geometry.gltf import (
    BLUE,
    GREEN,
    RED,
    SQUARE,
    TWO,
    UVS,
    WHITE,
    File,
    encoded,
    image,
    pixels,
    quadrants,
    read,
    values,
)


def opened(file, tmp_path, name="mesh.glb"):
    """(the mesh, what was said)."""
    said = []
    return validate(load(file.save(tmp_path / name), said.append)), said


def seen(mesh, name="texture.0"):
    """(F, 3) the colour in the middle of each face, of a picture that repeats."""
    picture = mesh.textures[name]
    place = mesh.uvs.mean(axis=1) % 1
    return picture[(place[:, 1] * len(picture)).astype(int), (place[:, 0] * picture.shape[1]).astype(int)]


def corners(mesh):
    """The corners in the file's axes."""
    return mesh.positions[mesh.faces] @ np.float32([[1, 0, 0], [0, 0, -1], [0, 1, 0]])


# UV maps


@pytest.mark.parametrize(
    "transform, colour",
    [
        ({}, None),
        ({"offset": [0.5, 0], "scale": [0.5, 0.5]}, GREEN),
        ({"offset": [0, 0.5], "scale": [0.5, 0.5]}, BLUE),
        # Turned to the left about the picture's top left corner, in which the square then no longer lies.
        ({"rotation": np.pi / 2, "scale": [0.5, 0.5]}, BLUE),
        ({"rotation": -np.pi / 2, "scale": [0.5, 0.5]}, GREEN),
        ({"rotation": np.pi / 2, "scale": [0.5, 0.5], "offset": [0.5, 0]}, WHITE),
    ],
)
def test_a_texture_transform_moves_the_uvs(tmp_path, transform, colour):
    file = File(extensionsUsed=["KHR_texture_transform"], extensionsRequired=["KHR_texture_transform"])
    picture = file.picture(quadrants(RED, GREEN, BLUE, WHITE))
    file.primitive(material=file.material(texture=picture, info={"extensions": {"KHR_texture_transform": transform}}))
    mesh, said = opened(file, tmp_path)
    assert not said
    if colour:
        assert (seen(mesh) == colour).all()
    else:
        np.testing.assert_array_equal(mesh.uvs, (UVS * (1, -1) + (0, 1))[TWO].reshape(2, 3, 2))
    made = tmp_path / "made.glb"
    save(mesh, made)
    assert "extensionsUsed" not in read(made)[0]  # it is in the UVs
    np.testing.assert_allclose(load(made).uvs, mesh.uvs, atol=1e-6)


def test_a_rotated_texture_lies_as_blender_lays_it(tmp_path):
    turn = {"rotation": 0.7, "scale": [0.5, 0.3], "offset": [0.2, 0.1]}
    file = File(extensionsUsed=["KHR_texture_transform"])
    picture = file.picture(quadrants(RED, GREEN, BLUE, WHITE))
    file.primitive(material=file.material(texture=picture, info={"extensions": {"KHR_texture_transform": turn}}))
    mesh, _ = opened(file, tmp_path)
    subprocess.run(
        [sys.executable, Path(__file__).with_name("in_blender.py"), tmp_path / "read.npz", tmp_path / "mesh.glb"],
        check=True,
        capture_output=True,
    )
    with np.load(tmp_path / "read.npz") as found:
        uvs, (move, angle, scale) = found["0/uvs"].reshape(-1, 2), found["0/paint/mapping"]
    cos, sin = np.cos(angle[2]), np.sin(angle[2])
    uvs = (uvs * scale[:2]) @ np.array([[cos, sin], [-sin, cos]]) + move[:2]
    np.testing.assert_allclose(mesh.uvs.reshape(-1, 2), uvs, atol=1e-5)


@pytest.mark.parametrize(
    "info", [{"texCoord": 1}, {"texCoord": 0, "extensions": {"KHR_texture_transform": {"texCoord": 1}}}]
)
def test_each_material_uses_its_own_uv_map(tmp_path, info):
    file = File()
    picture = file.picture(quadrants(RED, GREEN, BLUE, WHITE))
    other = np.float32(UVS * 0.5 + (0.5, 0))
    file.primitive(material=file.material(texture=picture, info=info), TEXCOORD_1=other)
    file.primitive(
        material=file.material("other", picture),
        POSITION=SQUARE + np.float32([2, 0, 0]),
        TEXCOORD_0=UVS * np.float32(0.5),
    )
    mesh, said = opened(file, tmp_path)
    assert not said and mesh.slots.tolist() == [0, 0, 1, 1]
    assert (seen(mesh)[:2] == GREEN).all() and (seen(mesh, "texture.1")[2:] == RED).all()
    np.testing.assert_allclose(mesh.more_uvs[0][:2], (UVS * (1, -1) + (0, 1))[TWO].reshape(2, 3, 2))  # none is lost
    assert np.isnan(mesh.more_uvs[0][2:]).all()


def test_a_texture_on_another_uv_map_keeps_it(tmp_path):
    file = File()
    shade = encoded(np.full((4, 4), 90, np.uint8))
    occlusion = {
        "index": file.picture(shade),
        "texCoord": 1,
        "strength": 0.5,
        "extensions": {"KHR_texture_transform": {"scale": [0.5, 0.5]}},
    }
    material = file.material(texture=file.picture(quadrants(RED, GREEN, BLUE, WHITE)), occlusionTexture=occlusion)
    file.primitive(material=material, TEXCOORD_1=np.float32(UVS * 0.8))
    mesh, said = opened(file, tmp_path)
    assert not said
    save(mesh, tmp_path / "made.glb")
    document, binary = read(tmp_path / "made.glb")
    info = document["materials"][0]["occlusionTexture"]
    assert info["texCoord"] == 1 and info["strength"] == 0.5 and image(document, binary, info["index"]) == shade
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    found = np.concatenate([values(document, binary, attributes[f"TEXCOORD_{i}"]) for i in (0, 1)], axis=1)
    expected = np.concatenate([UVS, UVS * 0.4], axis=1)
    np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)], atol=1e-6)


def test_a_picture_without_a_uv_map_is_said(tmp_path):
    file = File()
    file.primitive(material=file.material(texture=file.picture(quadrants(RED)), info={"texCoord": 3}))
    mesh, said = opened(file, tmp_path)
    assert not mesh.textures and mesh.uvs is not None
    assert said == ["The baseColorTexture of the material 'paint' is left out, because its faces have no UV map 3."]


def test_a_clamped_picture_whose_uvs_go_beyond_it_is_said_and_stays_clamped(tmp_path):
    file = File()
    sampler = {"wrapS": 33071, "wrapT": 33648, "magFilter": 9728}
    file.add("samplers", **sampler)
    picture = file.picture(quadrants(RED, GREEN, BLUE, WHITE), sampler=0)
    file.primitive(material=file.material(texture=picture), TEXCOORD_0=np.float32(UVS * 3))
    mesh, said = opened(file, tmp_path)
    assert any("'paint' is clamped or mirrored" in sentence for sentence in said)
    mesh.textures["texture.0"] = mesh.textures["texture.0"] // 2  # painted
    save(mesh, tmp_path / "made.glb")
    document, _ = read(tmp_path / "made.glb")
    info = document["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
    assert document["samplers"][document["textures"][info["index"]]["sampler"]] == sampler


# Geometry


def test_strips_and_fans_are_triangles(tmp_path):
    file = File()
    ladder = np.float32([[x, y, 0] for x in range(4) for y in (0, 1)])
    wheel = np.float32([[0, 0, 0], *([np.cos(a), np.sin(a), 0] for a in np.linspace(0, 2 * np.pi, 7))])
    file.primitive(POSITION=ladder[[1, 0, 3, 2, 5, 4, 7, 6]], indices=None, mode=5, TEXCOORD_0=None)
    file.primitive(
        POSITION=ladder[[1, 0, 3, 2, 5, 4, 7, 6]],
        indices=np.uint8([0, 1, 2, 3, 3, 4, 4, 5, 6, 7]),
        mode=5,
        TEXCOORD_0=None,
    )  # two strips, joined by triangles without an area
    file.primitive(POSITION=wheel, indices=None, mode=6, TEXCOORD_0=None)
    mesh, said = opened(file, tmp_path)
    assert not said
    places = corners(mesh)
    areas = np.cross(places[:, 1] - places[:, 0], places[:, 2] - places[:, 0]) / 2
    assert (areas[:, 2] > 0).all() and np.allclose(areas[:, :2], 0)  # all face the same way
    assert [len(places[:6]), len(places[6:-6]), len(places[-6:])] == [6, 4, 6]
    np.testing.assert_allclose(
        [areas[:6, 2].sum(), areas[6:-6, 2].sum(), areas[-6:, 2].sum()], [3, 2, 3 * np.sqrt(3) / 2], rtol=1e-5
    )


def test_points_and_lines_are_said(tmp_path):
    file = File()
    file.primitive()
    for mode in (0, 1, 3):
        file.primitive(mode=mode)
    mesh, said = opened(file, tmp_path)
    assert len(mesh.faces) == 2
    assert said == ["mesh.glb has 3 primitives of points or lines, which are left out: only faces have a surface."]


def test_instances_are_copies(tmp_path):
    file = File(extensionsUsed=["EXT_mesh_gpu_instancing"], extensionsRequired=["EXT_mesh_gpu_instancing"])
    file.primitive()
    half = np.float32([0, 0, np.sqrt(0.5), np.sqrt(0.5)])
    given = {
        "TRANSLATION": file.array(np.float32([[0, 0, 0], [5, 0, 0], [0, 7, 0]])),
        "ROTATION": file.array(
            np.round(32767 * np.stack([[0, 0, 0, 1], half, [0, 0, 0, 1]])).astype(np.int16), normalized=True
        ),
        "SCALE": file.array(np.float32([[1, 1, 1], [1, 1, 1], [2, 2, -2]])),
    }
    file.document["nodes"] = [
        {"children": [1], "translation": [0, 0, 1]},
        {"mesh": 0, "scale": [2, 2, 2], "extensions": {"EXT_mesh_gpu_instancing": {"attributes": given}}},
    ]
    mesh, said = opened(file, tmp_path)
    places = corners(mesh)
    np.testing.assert_allclose(
        [places[i : i + 2].reshape(-1, 3).min(axis=0) for i in (0, 2, 4)], [[0, 0, 1], [8, 0, 1], [0, 14, 1]], atol=1e-3
    )
    np.testing.assert_allclose(
        [places[i : i + 2].reshape(-1, 3).max(axis=0) for i in (0, 2, 4)],
        [[2, 2, 1], [10, 2, 1], [4, 18, 1]],
        atol=1e-3,
    )
    assert said == ["mesh.glb: its 3 objects become one mesh."]
    normal = np.cross(places[:, 1] - places[:, 0], places[:, 2] - places[:, 0])[:, 2]
    assert (normal[:4] > 0).all() and (normal[4:] < 0).all()  # the last one is mirrored


def test_instances_beyond_all_bounds_are_refused(tmp_path):
    file = File()
    file.primitive()
    zeros = file.add("accessors", componentType=5126, count=2_000_000, type="VEC3")
    file.document["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": zeros}}}
    with pytest.raises(ValueError, match="has 2,000,000 copies of one object: leave at most 65,536."):
        load(file.save(tmp_path / "mesh.glb"))
    many = file.array(np.tile(TWO, 20_000))
    file.document["accessors"][zeros]["count"] = 60
    file.document["meshes"][0]["primitives"][0]["indices"] = many
    with pytest.raises(ValueError, match="more than 2,000,000 triangles: decimate it"):
        load(file.save(tmp_path / "mesh.glb"))


def skinned(nodes, joints, weights=None, bind=None, **more):
    file = File(nodes=nodes, scenes=[{"nodes": [0, 1]}])
    skin = {"joints": joints}
    if bind is not None:
        skin["inverseBindMatrices"] = file.array(np.float32([each.T.reshape(-1) for each in bind]))
    file.add("skins", **skin)
    file.primitive(
        JOINTS_0=np.uint8([[0, 1, 0, 0]] * 4),
        WEIGHTS_0=np.float32([[1, 0, 0, 0]] * 4 if weights is None else weights),
        **more,
    )
    return file


def test_a_skinned_mesh_is_where_its_bones_are_and_not_its_node(tmp_path):
    away = {"mesh": 0, "skin": 0, "scale": [100, 100, 100], "translation": [500, 0, 0]}
    mesh, said = opened(skinned([away, {"children": [2]}, {}], [1, 2]), tmp_path)
    np.testing.assert_array_equal(corners(mesh).reshape(-1, 3), SQUARE[TWO])
    assert said == ["mesh.glb is taken as it stands, and left out are 1 skin."]
    # Bound where the bones are: as it was made. The second bone then moves what hangs on it.
    lift = np.eye(4)
    lift[:3, 3] = 0, 0, -1
    bones = [away, {"translation": [0, 0, 1], "children": [2]}, {"translation": [0, 3, 0]}]
    weights = [[1, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 1, 0, 0]]
    mesh, _ = opened(skinned(bones, [1, 2], weights, [lift, lift], NORMAL=np.float32([[0, 0, 1]] * 4)), tmp_path)
    np.testing.assert_allclose(
        corners(mesh).reshape(-1, 3), (SQUARE + [[0], [0], [1.5], [3]] * np.eye(3)[1])[TWO], atol=1e-6
    )
    np.testing.assert_allclose(mesh.normals, np.broadcast_to([0, -1, 0], (2, 3, 3)), atol=1e-6)


def test_morph_targets_count_as_much_as_the_file_says(tmp_path):
    for where in ("mesh", "node"):
        file = File()
        targets = [
            {"POSITION": file.array(np.float32([[0, 0, 2]] * 4))},
            {"POSITION": file.array(np.float32([[0, 5, 0]] * 4))},
        ]
        file.primitive(more={"targets": targets})
        file.document["meshes"][0]["weights"] = [0, 1] if where == "node" else [0.5, 0]
        if where == "node":
            file.document["nodes"][0]["weights"] = [0.5, 0]
        mesh, said = opened(file, tmp_path)
        np.testing.assert_allclose(corners(mesh).reshape(-1, 3), (SQUARE + [0, 0, 1])[TWO])
        assert said == ["mesh.glb is taken as it stands, and left out are 2 shape keys."]


@pytest.mark.parametrize(
    "kind, scale, normalized",
    [
        ("i1", 127, True),
        ("u1", 255, True),
        ("i2", 32767, True),
        ("u2", 65535, True),
        ("i1", 1, False),
        ("i2", 1, False),
        ("u1", 1, False),
        ("u2", 1, False),
    ],
)
def test_quantized_meshes_are_read(tmp_path, kind, scale, normalized):
    file = File(extensionsUsed=["KHR_mesh_quantization"], extensionsRequired=["KHR_mesh_quantization"])
    file.document["nodes"][0] |= {"scale": [3, 3, 3], "translation": [1, 0, 0]}
    file.primitive(
        POSITION=file.array((SQUARE * scale).astype(kind), normalized=normalized),
        TEXCOORD_0=file.array((UVS * scale).astype(kind), normalized=normalized),
        NORMAL=file.array(np.int8([[0, 0, 127]] * 4), normalized=True),
    )
    mesh, said = opened(file, tmp_path)
    np.testing.assert_allclose(corners(mesh).reshape(-1, 3), (SQUARE * 3 + [1, 0, 0])[TWO], atol=1e-6)
    np.testing.assert_allclose(mesh.uvs.reshape(-1, 2), (UVS * (1, -1) + (0, 1))[TWO], atol=1e-6)
    assert not said


@pytest.mark.parametrize("base", [True, False])
def test_sparse_values_are_read(tmp_path, base):
    file = File()
    places = file.array(SQUARE)
    sparse = {
        "count": 2,
        "indices": {"bufferView": file.view(np.uint16([1, 2]).tobytes()), "componentType": 5123},
        "values": {"bufferView": file.view(np.float32([[9, 0, 0], [0, 9, 0]]).tobytes())},
    }
    file.document["accessors"][places]["sparse"] = sparse
    expected = SQUARE.copy()
    if not base:
        del file.document["accessors"][places]["bufferView"]
        expected[:] = 0
    expected[[1, 2]] = [[9, 0, 0], [0, 9, 0]]
    file.primitive(POSITION=places)
    mesh, _ = opened(file, tmp_path)
    np.testing.assert_array_equal(corners(mesh).reshape(-1, 3), expected[TWO])


def test_normals_stay_as_they_are_or_flat_where_there_are_none(tmp_path):
    bent = np.float32([[0.6, 0, 0.8], [0, 0, 1], [0, 0.6, 0.8], [0, 0, 1]])
    file = File()
    file.document["nodes"][0] |= {"scale": [1, 1, 2]}
    file.primitive(NORMAL=bent)
    file.primitive(POSITION=SQUARE + np.float32([5, 0, 0]))
    mesh, _ = opened(file, tmp_path)
    turned = bent * [1, 1, 0.5]
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    expected = np.stack([turned[:, 0], -turned[:, 2], turned[:, 1]], axis=1)[TWO]
    np.testing.assert_allclose(mesh.normals[:2].reshape(-1, 3), expected, atol=1e-6)
    assert np.isnan(mesh.normals[2:]).all()
    save(mesh, tmp_path / "made.glb")
    again = load(tmp_path / "made.glb")
    np.testing.assert_allclose(again.normals[:2], mesh.normals[:2], atol=1e-6)
    np.testing.assert_allclose(again.normals[2:], np.broadcast_to([0, -1, 0], (2, 3, 3)), atol=1e-6)
    save(mesh, tmp_path / "flat.glb", flat=True)
    assert "NORMAL" not in json.dumps(read(tmp_path / "flat.glb")[0])


# Pictures


@pytest.mark.parametrize(
    "pixels, expected",
    [
        (np.linspace(0, 65535, 8).astype(np.uint16)[None].repeat(4, 0), np.linspace(0, 255, 8)),
        (np.linspace(0, 255, 8).astype(np.uint8)[None].repeat(4, 0), np.linspace(0, 255, 8)),
    ],
)
def test_gray_pictures_of_8_and_16_bits_show_the_same(tmp_path, pixels, expected):
    file = File()
    texture = file.picture(pixels)
    surface = {"metallicRoughnessTexture": {"index": texture}, "metallicFactor": 1}
    file.primitive(material=file.material(texture=texture, surface=surface))
    mesh, _ = opened(file, tmp_path)
    for name in ("texture.0", "roughness.0", "metallic.0"):
        row = mesh.textures[name][0].reshape(8, -1)
        np.testing.assert_allclose(row, expected[:, None].repeat(row.shape[1], 1), atol=1)


@pytest.mark.parametrize("extension, format", [("EXT_texture_webp", "WEBP"), ("EXT_texture_avif", "AVIF")])
def test_pictures_of_newer_kinds_are_read_and_written_as_png(tmp_path, extension, format):
    file = File(extensionsUsed=[extension], extensionsRequired=[extension])
    file.picture(quadrants(RED, GREEN, BLUE, WHITE), format)
    (texture,) = file.document["textures"]
    texture["extensions"] = {extension: {"source": texture.pop("source")}}
    file.primitive(material=file.material(texture=0), TEXCOORD_0=UVS * np.float32(0.45))
    mesh, said = opened(file, tmp_path)
    assert np.abs(seen(mesh).astype(int) - RED).max() < 20 and not said
    save(mesh, tmp_path / "made.glb")
    document, binary = read(tmp_path / "made.glb")
    assert document["images"][0]["mimeType"] == "image/png" and pixels(document, binary, 0).shape == (8, 8, 3)
    assert "extensionsUsed" not in document


def damage(file, kind):
    """Take a texture's picture away, in some way."""
    texture, picture = file.document["textures"][0], file.document["images"][0]
    if kind == "no source":
        del texture["source"]
    elif kind == "basis":
        texture["extensions"] = {"KHR_texture_basisu": {"source": texture.pop("source")}}
    elif kind == "damaged":
        file.document["bufferViews"][picture["bufferView"]]["byteLength"] = 40
    else:
        del picture["bufferView"]
        picture["uri"] = kind


@pytest.mark.parametrize(
    "kind, part",
    [
        ("no source", "without a picture"),
        ("basis", "KHR_texture_basisu"),
        ("damaged", "save it as PNG or JPEG"),
        ("wood.png", "'wood.png', which is not there: put it beside the mesh"),
        ("../secret", "not in its folder"),
        ("data:image/png;base64,!", "save it as PNG or JPEG"),
    ],
)
def test_a_missing_picture_is_said_and_nothing_else_is_lost(tmp_path, kind, part):
    file = File()
    texture = file.picture(quadrants(RED, GREEN, BLUE, WHITE))
    green = {"baseColorFactor": [0, 1, 0, 0.5]}
    file.primitive(material=file.material("Wood", texture, surface=green, alphaMode="BLEND"))
    damage(file, kind)
    (tmp_path / "inner").mkdir()
    mesh, said = opened(file, tmp_path / "inner")
    (sentence,) = said
    assert part in sentence and sentence.endswith(".") and "left out" in sentence
    assert not mesh.textures and mesh.materials[0].name == "Wood"
    assert (mesh.shown_colours == GREEN).all()


# Colours and materials


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("factor", [(1, 1, 1), (0.5, 1, 0)])
def test_vertex_colours_are_linear_and_multiplied_by_the_factor(tmp_path, kind, factor):
    linear = np.float32([[1, 1, 1, 1], [0.2, 0.4, 0.6, 1], [0, 0, 0, 1], [0.214, 0.214, 0.214, 1]])
    file = File()
    scale = 1 if kind == "f4" else np.iinfo(kind).max
    colours = file.array(np.round(linear * scale).astype(kind) if scale > 1 else linear, normalized=scale > 1)
    file.primitive(material=file.material(surface={"baseColorFactor": [*factor, 1]}), COLOR_0=colours)
    mesh, said = opened(file, tmp_path)
    value = linear[:, :3] * factor
    srgb = np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)
    shown = mesh.colours[mesh.faces].reshape(-1, 3)
    np.testing.assert_allclose(shown, 255 * srgb[TWO], atol=1.5 if kind == "u1" else 0.6)
    save(mesh, tmp_path / "made.glb")
    again, _ = load(tmp_path / "made.glb"), said
    np.testing.assert_array_equal(again.colours[again.faces], mesh.colours[mesh.faces])  # once, not twice
    assert not said


def test_a_factor_is_the_colour_of_what_has_no_picture_and_multiplies_one(tmp_path):
    file = File()
    file.primitive(material=file.material("Red paint", surface={"baseColorFactor": [1, 0, 0, 1]}))
    texture = file.picture(np.full((2, 2, 3), 255, np.uint8))
    file.primitive(
        POSITION=SQUARE + np.float32([2, 0, 0]),
        material=file.material("Dark", texture, surface={"baseColorFactor": [0.214, 0.214, 1, 1]}),
    )
    file.primitive(POSITION=SQUARE + np.float32([4, 0, 0]), material=file.material("Plain"))
    mesh, said = opened(file, tmp_path)
    assert (mesh.shown_colours[mesh.faces[mesh.slots == 0]] == RED).all()
    assert np.abs(mesh.textures["texture.1"] - np.float64([127, 127, 255])).max() <= 1
    assert [each.name for each in mesh.materials.values()] == ["Red paint", "Dark", "Plain"] and not said
    save(mesh, tmp_path / "made.glb")
    assert read(tmp_path / "made.glb")[0]["materials"] == file.document["materials"]


def test_a_specular_glossiness_material_becomes_metallic_roughness(tmp_path):
    file = File(extensionsUsed=["KHR_materials_pbrSpecularGlossiness"])
    old = {
        "diffuseTexture": {"index": file.picture(quadrants(RED, RED, RED, RED))},
        "diffuseFactor": [1, 1, 1, 0.5],
        "glossinessFactor": 0.75,
        "specularFactor": [1, 0, 0],
    }
    file.add("materials", name="old", extensions={"KHR_materials_pbrSpecularGlossiness": old})
    file.primitive(material=0)
    mesh, said = opened(file, tmp_path)
    assert (seen(mesh) == RED).all() and mesh.materials[0].constants()["roughness"] == 64
    (sentence,) = said
    assert "'old'" in sentence and "specular" in sentence
    save(mesh, tmp_path / "made.glb")
    assert "extensionsUsed" not in read(tmp_path / "made.glb")[0]


def test_what_is_left_out_is_said(tmp_path):
    file = File(
        animations=[{}, {}],
        cameras=[{}],
        extensionsUsed=["KHR_lights_punctual", "ACME_bricks", "KHR_materials_variants"],
        extensionsRequired=["KHR_materials_variants"],
        extensions={"KHR_lights_punctual": {"lights": [{}]}},
        scenes=[{"nodes": [0]}, {"nodes": []}],
    )
    normal = file.picture(np.full((2, 2, 3), 128, np.uint8))
    material = file.material(normalTexture={"index": normal}, alphaMode="BLEND")
    file.material("unused")
    file.primitive(
        material=material,
        TANGENT=np.float32([[1, 0, 0, 1]] * 4),
        _TEMPERATURE=np.float32([1] * 4),
        COLOR_0=np.float32([[1, 1, 1, 0.5]] * 4),
    )
    _, said = opened(file, tmp_path)
    assert said == [
        "mesh.glb has vertex colours with transparency, which is left out.",
        "mesh.glb has values of vertices that are left out: TANGENT, _TEMPERATURE.",
        "mesh.glb is taken as it stands, and left out are 2 animations, 1 camera, 1 light, 1 other scene, "
        "1 unused material.",
        "mesh.glb uses ACME_bricks, KHR_materials_variants, which is left out.",
    ]


# Files


def test_gltf_is_read_with_its_data_in_it_or_beside_it(tmp_path):
    file = File()
    file.primitive(material=file.material(texture=file.picture(quadrants(RED, RED, RED, RED))))
    mesh, said = opened(file, tmp_path, "inside.gltf")
    file.save(tmp_path / "beside.gltf", uri="my%20data.bin")
    (tmp_path / "my data.bin").write_bytes(file.data)
    again = load(tmp_path / "beside.gltf", said.append)
    assert again.positions.tobytes() == mesh.positions.tobytes() and (seen(again) == RED).all() and not said
    (tmp_path / "my data.bin").unlink()
    with pytest.raises(ValueError, match="'my data.bin', which is not there: put it beside the mesh"):
        load(tmp_path / "beside.gltf")


@pytest.mark.parametrize(
    "extension, remedy",
    [
        ("KHR_draco_mesh_compression", "export it without compression"),
        ("EXT_meshopt_compression", "export it without compression"),
        ("KHR_texture_basisu", "export it with PNG or JPEG pictures"),
        ("ACME_bricks", "export it without this extension"),
    ],
)
def test_an_extension_that_is_needed_and_not_read_is_named(tmp_path, extension, remedy):
    file = File(extensionsUsed=[extension], extensionsRequired=["KHR_texture_transform", extension])
    file.primitive()
    with pytest.raises(ValueError) as error:
        load(file.save(tmp_path / "mesh.glb"))
    assert str(error.value) == f"mesh.glb needs {extension}: {remedy}."


def test_compression_that_is_not_required_but_all_there_is_is_named(tmp_path):
    file = File()
    primitive = file.primitive(more={"extensions": {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {}}}})
    assert len(load(file.save(tmp_path / "mesh.glb")).faces) == 2  # what is beside it is read
    del file.document["accessors"][primitive["attributes"]["POSITION"]]["bufferView"]
    with pytest.raises(ValueError, match="needs KHR_draco_mesh_compression"):
        load(file.save(tmp_path / "mesh.glb"))


def rich():
    """Something of everything."""
    file = File()
    file.document["nodes"] = [
        {"children": [1], "matrix": np.eye(4).reshape(-1).tolist()},
        {
            "mesh": 0,
            "skin": 0,
            "rotation": [0, 0, 0, 1],
            "extensions": {
                "EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": file.array(np.float32([[1, 2, 3]]))}}
            },
        },
    ]
    file.add("skins", joints=[0, 1])
    file.add("samplers", wrapS=33071)
    picture = file.picture(quadrants(RED, GREEN, BLUE, WHITE), sampler=0)
    info = {"index": picture, "extensions": {"KHR_texture_transform": {"offset": [0.1, 0], "rotation": 1.0}}}
    more = {
        "normalTexture": {"index": picture, "scale": 0.5},
        "occlusionTexture": {"index": picture, "texCoord": 1},
        "extensions": {"KHR_materials_clearcoat": {"clearcoatTexture": {"index": picture}}},
    }
    material = file.material(
        texture=picture,
        info=info,
        surface={"baseColorFactor": [1, 0.5, 0, 1], "metallicRoughnessTexture": {"index": picture}},
        **more,
    )
    places = file.array(SQUARE)
    file.document["accessors"][places]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": file.view(np.uint16([1]).tobytes()), "componentType": 5123},
        "values": {"bufferView": file.view(np.float32([[2, 0, 0]]).tobytes())},
    }
    file.primitive(
        POSITION=places,
        material=material,
        TEXCOORD_1=UVS,
        COLOR_0=np.float32([[1, 0, 1]] * 4),
        NORMAL=np.float32([[0, 0, 1]] * 4),
        JOINTS_0=np.uint8([[0, 1, 0, 0]] * 4),
        WEIGHTS_0=np.float32([[0.5, 0.5, 0, 0]] * 4),
        more={"targets": [{"POSITION": places}]},
    )
    file.document["meshes"][0]["weights"] = [0.5]
    return file


def places(value, path=()):
    """The paths of everything in a document."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(each, (dict, list)):
            yield from places(each, (*path, key))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_document_with_anything_wrong_gives_a_mesh_or_a_sentence(tmp_path, data):
    file = rich()
    document = copy.deepcopy(file.document)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(list(places(document))))
        value = document
        for key in path:
            value = value[key]
        if data.draw(st.booleans()):
            del value[last]
        else:
            value[last] = data.draw(st.sampled_from([None, -1, 0, 1, 1e9, 2**40, "", "x", [], {}, [1], {"index": 7}]))
    file.document = document
    path = file.save(tmp_path / "mesh.glb")
    try:
        mesh = validate(load(path, lambda note: None))
    except ValueError as error:
        assert str(error).endswith(".") and "\n" not in str(error) and "Error" not in str(error), error
        return
    save(mesh, tmp_path / "made.glb")
    load(tmp_path / "made.glb")


@pytest.mark.parametrize(
    "name, values",
    [
        ("POSITION", None),
        ("COLOR_0", np.float32([[1, 1]] * 4)),
        ("COLOR_0", np.float32([[1, 1, 1]] * 5)),
        ("TEXCOORD_0", np.float32([1] * 4)),
        ("NORMAL", np.float32([[0, 0, 1]] * 3)),
    ],
)
def test_where_a_file_is_damaged_is_said(tmp_path, name, values):
    file = rich()
    attributes = file.document["meshes"][0]["primitives"][0]["attributes"]
    del attributes[name]
    if values is not None:
        attributes[name] = file.array(values)
    with pytest.raises(ValueError, match="^mesh.glb is damaged in mesh 0: export it again.$"):
        load(file.save(tmp_path / "mesh.glb"))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_materials_come_back_as_they_were(tmp_path, seed):
    """Random materials, UV maps, normals and colours, written by another and by us."""
    rng = np.random.default_rng(seed)
    file = File()
    maps = int(rng.integers(1, 4))
    for i in range(rng.integers(1, 4)):

        def info():
            shape = rng.integers(1, 9, 2)
            pixels = rng.integers(0, 256, (*shape, rng.choice([3, 4])), dtype=np.uint8)
            made = {"index": file.picture(pixels, rng.choice(["PNG", "JPEG"]) if pixels.shape[2] == 3 else "PNG")}
            number = int(rng.integers(maps))
            return made | ({"texCoord": number} if number else {})

        material = {
            "name": f"Müller {i}",
            "doubleSided": bool(rng.integers(2)),
            "alphaMode": "MASK",
            "alphaCutoff": 0.3,
            "emissiveFactor": rng.random(3).tolist(),
            "extras": {"mine": [1, {"aTexture": {"index": 5}}]},
            "extensions": {"KHR_materials_ior": {"ior": 1.3}, "KHR_materials_sheen": {}},
            "pbrMetallicRoughness": {
                "metallicFactor": rng.random(),
                "roughnessFactor": rng.random(),
                "baseColorFactor": rng.random(4).tolist(),
            },
        }
        for parent, key in (
            (material["pbrMetallicRoughness"], "baseColorTexture"),
            (material, "normalTexture"),
            (material["pbrMetallicRoughness"], "metallicRoughnessTexture"),
            (material, "occlusionTexture"),
            (material, "emissiveTexture"),
            (material["extensions"]["KHR_materials_sheen"], "sheenColorTexture"),
        ):
            if rng.integers(2):
                parent[key] = info()
        normals = rng.normal(size=(4, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        file.primitive(
            material=file.add("materials", **material),
            POSITION=SQUARE + np.float32([2 * i, 0, 0]),
            NORMAL=normals.astype(np.float32),
            **{f"TEXCOORD_{k}": rng.random((4, 2)).astype(np.float32) for k in range(maps)},
        )
    mesh, said = opened(file, tmp_path)
    save(mesh, tmp_path / "made.glb")
    again = load(tmp_path / "made.glb", said.append)
    assert not said
    assert again.positions[again.faces].tobytes() == mesh.positions[mesh.faces].tobytes()
    assert again.materials == mesh.materials and again.textures.keys() == mesh.textures.keys()
    for name, picture in mesh.textures.items():
        np.testing.assert_array_equal(again.textures[name], picture)
    np.testing.assert_allclose(again.normals, mesh.normals, atol=1e-6)
    for one, other in zip((mesh.uvs, *mesh.more_uvs), (again.uvs, *again.more_uvs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    document, binary = read(tmp_path / "made.glb")
    before, data = read(tmp_path / "mesh.glb")
    for slot, material in enumerate(before["materials"]):
        assert without_indices(document["materials"][slot]) == without_indices(material)
        for (_, one), (_, other) in zip(textures_of(document["materials"][slot]), textures_of(material), strict=True):
            assert image(document, binary, one["index"]) == image(before, data, other["index"])


def textures_of(value):
    """(key, texture) of all in a material, in the keys' order."""
    for key, each in sorted(value.items()):
        if isinstance(each, dict) and key != "extras":
            if "index" in each:
                yield key, each
            else:
                yield from textures_of(each)


def without_indices(material):
    material = copy.deepcopy(material)
    for _, texture in textures_of(material):
        texture.pop("index")
        texture.pop("texCoord", None)
    return material
