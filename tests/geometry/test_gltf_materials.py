# SPDX-License-Identifier: GPL-3.0-or-later
"""The materials of artists' glTF files: UV maps, textures, colours, and all that must stay as it came."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.geometry.files import load, save
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
    opened,
    pixels,
    quadrants,
    read,
    seen,
    values,
)


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


def test_a_rotated_texture_lies_as_blender_lays_it(tmp_path, needs_bpy):
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
