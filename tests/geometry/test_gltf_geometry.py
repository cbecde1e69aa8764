# SPDX-License-Identifier: GPL-3.0-or-later
"""The geometry of artists' glTF files: primitives, instances, skins, morph targets, accessors, normals."""

import json

import numpy as np
import pytest

from server.geometry.files import load, save
from tests.geometry.gltf import SQUARE, TWO, UVS, File, corners, opened, read


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
