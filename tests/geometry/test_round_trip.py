# SPDX-License-Identifier: GPL-3.0-or-later
"""Any mesh through any format: it comes back equal in all that the format holds, and the rest is said."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from msd_blender.protocol import ROUGHNESS, JobRequest
from server.geometry.colour import linear_to_srgb, tint
from server.geometry.files import load, save
from server.geometry.files.common import corner_normals
from server.geometry.files.gltf.materials import alpha_map, pixels, texture_maps
from server.geometry.files.images import encode_png, resize_nearest
from server.geometry.material import Material
from server.geometry.mesh import Mesh
from server.geometry.normals import vertex_normals
from server.geometry.validation import validate
from server.optimize import Settings, generate

pytestmark = pytest.mark.long

LONG = settings.get_current_profile_name() == "long"
GEOMETRY = {"corners", "slots"}
LOOK = {"names", "colour", "pictures", "alpha", "roughness", "metallic", "emission"}
# The only table of what a format holds: of `seen`'s names. The others come back too, or are said.
HOLDS = {
    "glb": GEOMETRY | LOOK | {"uvs", "more_uvs", "normals", "cutoff", "occlusion", "sides"},
    "obj": GEOMETRY | LOOK | {"vertices", "uvs", "normals"},
    "ply": {"corners", "vertices"},
    "usda": GEOMETRY | LOOK | {"vertices", "uvs", "more_uvs", "normals", "cutoff", "occlusion"},
}
HOLDS |= {"gltf": HOLDS["glb"], "usdc": HOLDS["usda"]}
TOLERANCE = {
    "colour": 1.01 / 255,
    "normals": 1e-5,
    "pictures": 0,
    "roughness": 0.51 / 255,
    "metallic": 0.51 / 255,
    "alpha": 1.01 / 255,
    "emission": 1.01 / 255,
    "occlusion": 1.01 / 255,
}
FACTORS = st.sampled_from([0.0, 0.2, 0.5, 0.73, 1.0])
NAMES = st.text(st.characters(exclude_characters="\0"), max_size=8).filter(
    lambda name: not name.startswith("slot")
) | st.sampled_from(["Red paint", "a # b", "wood.001", "back\\", " blanks ", "Möbel", "two\nlines", "-s 1", "#", "木"])
EXAMPLES = settings(
    max_examples=2000 if LONG else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def meshes(draw, unwrapped=False):
    """1 to 30 faces that share vertices, each slot with a material, pictures of its own, both or neither."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vertices, count = draw(st.integers(4, 12)), draw(st.integers(1, 30))
    faces = np.array([rng.permutation(vertices)[:3] for _ in range(count)], np.int32)
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)  # Blender drops double ones
    faces = faces[np.sort(first)]
    slots = draw(st.none() | st.lists(st.integers(0, 5), min_size=1, max_size=4).map(np.array))
    if slots is not None:
        slots = np.sort(rng.choice(slots, len(faces))).astype(np.int32)  # GLB has one slot's faces together
    mesh = Mesh(
        rng.uniform(-1, 1, (vertices, 3)).astype(np.float32),
        faces,
        slots=slots,
        locked=draw(st.none() | st.just(rng.integers(0, 2, vertices, dtype=np.uint8))),
    )
    if draw(st.booleans()):
        mesh = replace(mesh, colours=rng.integers(0, 256, (vertices, 3), dtype=np.uint8))
    if unwrapped or draw(st.booleans()):
        maps_ = [rng.random((len(faces), 3, 2)).astype(np.float32) for _ in range(draw(st.integers(1, 3)))]
        if draw(st.booleans()):
            maps_[0][1:][rng.random(len(faces) - 1) < 0.3] = np.nan
        mesh = replace(mesh, uvs=maps_[0], more_uvs=tuple(maps_[1:]))
    mesh = replace(mesh, normals=draw(st.sampled_from([_no_normals, _any_normals, _smooth, _some_flat]))(mesh, rng))
    for slot in np.unique(mesh.face_slots).tolist():
        if draw(st.booleans()):
            mesh.materials[slot] = draw(materials(rng, mesh.uvs is not None))
            mesh.textures.update(
                {f"{kind}.{slot}": values for kind, values in texture_maps(mesh.materials[slot]).items()}
            )
        if mesh.uvs is not None and draw(st.booleans()):  # painted
            size = mesh.textures.get(f"texture.{slot}", np.zeros((4, 8))).shape[:2]
            for kind in draw(st.sets(st.sampled_from(["texture", "roughness", "metallic", "normal"]))):
                wide = (3,) if kind in ("texture", "normal") else ()
                mesh.textures[f"{kind}.{slot}"] = rng.integers(0, 256, size + wide, dtype=np.uint8)
    return mesh


def _no_normals(mesh, rng):
    return None


def _any_normals(mesh, rng):
    normals = rng.normal(size=(len(mesh.faces), 3, 3))
    return (normals / np.linalg.norm(normals, axis=2, keepdims=True)).astype(np.float32)


def _smooth(mesh, rng):
    return vertex_normals(mesh.positions, mesh.faces)[mesh.faces]


def _some_flat(mesh, rng):
    normals = _any_normals(mesh, rng)
    normals[rng.random(len(normals)) < 0.5] = np.nan
    return normals


@st.composite
def materials(draw, rng, pictured):
    """One of glTF's, with all that any format has a word for."""
    surface = {
        "roughnessFactor": draw(FACTORS),
        "metallicFactor": draw(FACTORS),
        "baseColorFactor": [*(draw(FACTORS) for _ in range(4))],
    }
    gltf = {
        "name": draw(NAMES),
        "pbrMetallicRoughness": surface,
        "doubleSided": draw(st.booleans()),
        "alphaMode": draw(st.sampled_from(["OPAQUE", "MASK", "BLEND"])),
        "alphaCutoff": draw(FACTORS),
        "emissiveFactor": [draw(FACTORS) for _ in range(3)],
    }
    pictures = []

    def texture(*shape):
        pictures.append((encode_png(rng.integers(0, 256, shape, dtype=np.uint8)), {}))
        return {"index": len(pictures) - 1}

    if pictured and draw(st.booleans()):
        surface["baseColorTexture"] = texture(4, 8, draw(st.sampled_from([3, 4])))
    if pictured and draw(st.booleans()):
        surface["metallicRoughnessTexture"] = texture(4, 8, 3)
    if pictured and draw(st.booleans()):
        gltf["emissiveTexture"] = texture(4, 8, 3)
    if pictured and draw(st.booleans()):
        gltf["occlusionTexture"] = texture(4, 8, 3) | {"strength": draw(FACTORS)}
    return Material(gltf, tuple(pictures))


def seen(mesh):
    """How a viewer of glTF shows a mesh: each of its features as an array, or a list of them for its slots."""
    used, slots = np.unique(mesh.face_slots, return_inverse=True)
    found = {
        "corners": mesh.positions[mesh.faces],
        "vertices": mesh.positions,
        "slots": slots.reshape(-1),
        "normals": corner_normals(mesh),
        "uvs": _numbers(mesh.uvs, mesh),
        "more_uvs": np.array([_numbers(uvs, mesh) for uvs in mesh.more_uvs if np.nan_to_num(uvs).any()]),
        "colour": np.ones((len(mesh.faces), 3, 3)),
    }
    found |= {
        name: []
        for name in ("names", "pictures", "alpha", "cutoff", "roughness", "metallic", "emission", "occlusion", "sides")
    }
    for slot in used.tolist():
        own = mesh.materials.get(
            slot,
            Material(
                {"pbrMetallicRoughness": {"roughnessFactor": ROUGHNESS, "metallicFactor": 0}, "doubleSided": True}
            ),
        )
        pictures = {
            kind: mesh.textures.get(f"{kind}.{slot}") for kind in ("texture", "roughness", "metallic", "normal")
        }
        faces = mesh.face_slots == slot
        painted = slot not in mesh.materials or not np.array_equal(
            pictures["texture"], texture_maps(own).get("texture")
        )
        if mesh.colours is not None and (pictures["texture"] is None or not painted):
            found["colour"][faces] = mesh.colours[mesh.faces[faces]] / 255
        elif pictures["texture"] is None:
            found["colour"][faces] = linear_to_srgb(own.base_factor[:3])
        for kind in ("roughness", "metallic"):
            value = own.metallic_roughness.get(f"{kind}Factor", 1) if pictures[kind] is None else pictures[kind] / 255
            found[kind].append(np.asarray(value, float))
            pictures[kind] = None
        found["pictures"].append([None if values is None else values for values in pictures.values()])
        found["names"].append("" if own.name.startswith("slot") else own.name)
        mode, cutoff = own.gltf.get("alphaMode", "OPAQUE"), own.gltf.get("alphaCutoff", 0.5)
        shown = np.ones((1, 1))
        if mode == "BLEND" or (mode == "MASK" and cutoff > 0):
            picture = alpha_map(own)
            shown = own.base_factor[3] * (np.ones((1, 1)) if picture is None else picture / 255)
        if pictures["texture"] is not None:
            shown = resize_nearest(shown, *pictures["texture"].shape[:2])
        found["alpha"].append(shown)
        found["cutoff"].append(cutoff if mode == "MASK" else 0.0)
        glow = pixels(own, own.gltf.get("emissiveTexture"), "RGB")
        light = np.array(own.gltf.get("emissiveFactor", (0, 0, 0)), float)
        found["emission"].append(
            linear_to_srgb(light) if glow is None else tint(glow, light) / 255 if light.any() else np.zeros(3)
        )
        shade = pixels(own, info := own.gltf.get("occlusionTexture"), "RGB")
        found["occlusion"].append(
            np.ones(1) if shade is None else 1 + info.get("strength", 1) * (shade[..., 0] / 255 - 1)
        )
        found["sides"].append(own.gltf.get("doubleSided", False))
    return found


def _numbers(uvs, mesh):
    return np.zeros((len(mesh.faces), 3, 2)) if uvs is None else np.nan_to_num(uvs)


def same(one, other, within):
    if isinstance(one, list):
        return len(one) == len(other) and all(same(a, b, within) for a, b in zip(one, other))
    if one is None or other is None or isinstance(one, str):
        return one is other or (isinstance(one, str) and one == other)
    one, other = np.asarray(one, float), np.asarray(other, float)
    try:
        return bool((np.abs(one - other) <= within).all())  # one texel stands for a picture of that colour
    except ValueError:
        return False


def differing(one, other):
    return {name for name in one if not same(one[name], other[name], TOLERANCE.get(name, 1e-6))}


# A binary USD file is read in a process of its own first, which takes a second each.
@pytest.mark.parametrize("suffix", [suffix for suffix in HOLDS if LONG or suffix != "usdc"])
@EXAMPLES
@given(mesh=meshes())
def test_a_mesh_comes_back_equal_in_all_that_its_format_holds(tmp_path, suffix, mesh):
    if suffix.startswith("usd"):
        pytest.importorskip("pxr")
    lost, said = [], []
    save(mesh, tmp_path / f"mesh.{suffix}", warn=lost.append)
    back = load(tmp_path / f"mesh.{suffix}", said.append)
    other = differing(seen(mesh), seen(back))
    if suffix == "obj" and any("has other names" in note for note in lost):
        other.discard("names")
    if any("vertex colours over pictures" in note for note in lost):
        said = [note for note in said if "has vertex colours where" not in note]
        other.discard("colour")
    assert not said, said
    assert not other & HOLDS[suffix], other
    if other - {"vertices"}:  # GLB leaves those out that no face has
        assert any("has no place for" in note for note in lost), other


def frozen(mesh):
    """The mesh with nothing to paint: masks all over, and locks on all vertices but one."""
    masks = {
        f"frozen.{slot}": np.ones(
            mesh.textures[name].shape[:2] if (name := f"texture.{slot}") in mesh.textures else (64, 64), np.uint8
        )
        for slot in np.unique(mesh.face_slots).tolist()
    }
    locked = np.ones(len(mesh.positions), np.uint8)
    locked[0] = 0
    return replace(mesh, textures=mesh.textures | masks, locked=locked)


@pytest.mark.slow
@settings(EXAMPLES, max_examples=200 if LONG else 6)
@given(mesh=meshes(unwrapped=True))
def test_texture_with_nothing_to_paint_gives_the_mesh_back(tiny, tmp_path, mesh):
    request = JobRequest(
        **tiny | {"prompt": "a red cube", "mode": "texture", "mesh": "x", "texture_size": 64, "iterations": 1}
    )
    quick = replace(Settings.of(request), colour_levels=(5,), views=1, snapshot_seconds=1e9)
    generate(request, tmp_path, lambda report: None, lambda: False, quick, mesh=validate(frozen(mesh)))
    back = load(tmp_path / "mesh.glb")
    before, after = seen(mesh), seen(back)
    begun = {slot: mesh.textures.get(f"texture.{slot}") for slot in np.unique(mesh.face_slots).tolist()}
    for i, (slot, picture) in enumerate(begun.items()):
        made = after["pictures"][i].pop(0)
        before["pictures"][i].pop(0)
        if mesh.colours is None or (picture is not None and slot not in mesh.materials):
            own = mesh.materials.get(slot, Material()).colour
            given_ = picture if picture is not None else np.uint8([204] * 3) if own is None else own
            np.testing.assert_array_equal(made, np.broadcast_to(given_, made.shape))
        before["alpha"][i] = resize_nearest(before["alpha"][i], *made.shape[:2])
    del before["colour"]  # which is in the pictures now
    assert not differing(before, after) - {"vertices"}


@pytest.fixture(scope="module")
def blender(tmp_path_factory, needs_bpy):
    """A handful of meshes, and what Blender's importers make of them: (the mesh, its suffix, what was found)."""
    folder, made = tmp_path_factory.mktemp("blender"), []

    @settings(EXAMPLES, max_examples=200 if LONG else 8, phases=[Phase.generate], derandomize=True)
    @given(meshes())
    def collect(mesh):
        made.append(mesh)

    collect()
    files = [(mesh, suffix, folder / f"{i}.{suffix}") for i, mesh in enumerate(made) for suffix in ("glb", "obj")]
    for mesh, _, path in files:
        save(mesh, path, warn=lambda note: None)
    subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("in_blender.py"),
            folder / "read.npz",
            *(path for _, _, path in files),
        ],
        check=True,
        capture_output=True,
    )
    with np.load(folder / "read.npz") as archive:
        return [
            (
                mesh,
                suffix,
                {name.partition("/")[2]: archive[name] for name in archive.files if name.startswith(f"{i}/")},
            )
            for i, (mesh, suffix, _) in enumerate(files)
        ]


def test_blender_sees_the_same(blender):
    for mesh, suffix, found in blender:
        shown = seen(mesh)
        np.testing.assert_allclose(found["corners"], shown["corners"], atol=1e-6)
        np.testing.assert_allclose(found["normals"], shown["normals"], atol=3e-2)  # Blender's have 16 bits an angle
        if mesh.uvs is not None:
            np.testing.assert_allclose(found["uvs"], shown["uvs"], atol=1e-6)
            further = mesh.more_uvs if suffix == "glb" else ()
            for i, uvs in enumerate(further, 1):
                np.testing.assert_allclose(found[f"uvs {i}"], np.nan_to_num(uvs), atol=1e-6)
        for i, slot in enumerate(np.unique(mesh.face_slots).tolist()):
            (name,) = np.unique(found["materials"][shown["slots"] == i])
            if given_ := mesh.materials.get(slot):
                for kind in ("roughness", "metallic"):
                    if f"{kind}.{slot}" not in mesh.textures:
                        assert found[f"{name}/{kind.title()}"] == pytest.approx(
                            given_.metallic_roughness[f"{kind}Factor"], abs=0.51 / 255
                        ), (suffix, kind)
            picture = mesh.textures.get(f"texture.{slot}")
            if picture is not None:  # GLB's own have their factor in a node behind them
                if suffix == "glb" and given_ and not (given_.base_factor[:3] == 1).all():
                    continue
                np.testing.assert_allclose(255 * found[f"{name}/Base Color"], picture, atol=0.01)
            elif mesh.colours is None:
                np.testing.assert_allclose(
                    found[f"{name}/Base Color"][:3], given_.base_factor[:3] if given_ else [1] * 3, atol=1e-6
                )
            if suffix == "obj":
                seen_ = found[f"{name}/Alpha"]
                seen_ = seen_[..., 0] if seen_.ndim == 3 else seen_
                np.testing.assert_allclose(seen_ - shown["alpha"][i], 0, atol=1.01 / 255)
