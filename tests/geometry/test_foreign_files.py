# SPDX-License-Identifier: GPL-3.0-or-later
"""All formats: damaged files, flat normals, and features that a format has no place for."""

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.geometry.files import load, save
from server.geometry.files.common import corner_normals
from server.geometry.material import Material
from server.geometry.mesh import Mesh
from server.geometry.normals import face_normals, vertex_normals
from tests.geometry.foreign import BLUE, CORNERS, SQUARE, XYZ, picture, plain, ply, read, strip

SEEDS = {
    "a.obj": SQUARE.encode() + strip(3).encode() + b"l 1 2\nf 1 2 3 4 5 6 7 8\\\n 9\n",
    "a.mtl": b"newmtl Wood\nmap_Kd -s 1 1 1 my wood.png\nbump -bm 1 maps\\x.<UDIM>.png\nnewmtl b\nmap_Pr a.1001.png\n",
    "ascii.ply": ply(
        "comment TextureFile my wood.png",
        "element vertex 3",
        *XYZ,
        "property uchar red",
        "property uchar green",
        "property uchar blue",
        "element face 2",
        CORNERS,
        "property list uchar float texcoord",
        "property int texnumber",
    )
    + b"0 0 0 1 2 3.0\n1 0 0 1 2 3\n0 1 0 1 2 3\n3 0 1 2 6 0 0 1 0 1 1 0\n3 0 1 2 0 1\n",
    "binary.ply": plain("element tristrips 1", CORNERS, form="binary_big_endian")
    + struct.pack(">B5i9fB3i", 5, 0, 1, 2, -1, 0, *range(9), 3, 0, 1, 2),
}


@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_a_mesh_or_a_sentence(tmp_path, name, data):
    content = bytearray(SEEDS[name])
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255) | st.sampled_from(list(b"\\/ \n\r#-.<>0123456789")))
    content = content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))]
    for file, whole in SEEDS.items():
        (tmp_path / file).write_bytes(content if file == name else whole)
    picture(tmp_path / "my wood.png", BLUE)
    (tmp_path / "a.obj").write_bytes((tmp_path / "a.obj").read_bytes().replace(b"my lib.mtl", b"a.mtl"))
    try:
        mesh, _ = read(tmp_path / ("a.obj" if name == "a.mtl" else name))
    except ValueError as error:
        assert str(error).endswith(".") and "\n" not in str(error) and name != "a.mtl"
    else:
        assert isinstance(mesh, Mesh) and np.isfinite(mesh.positions).all()


@pytest.mark.parametrize("suffix, flat", [("obj", True), ("usda", True), ("obj", False)])
def test_flat_meshes_come_back_flat(tmp_path, suffix, flat):
    if suffix == "usda":
        pytest.importorskip("pxr")
    places = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    mesh = Mesh(places, np.int32([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))
    save(mesh, tmp_path / f"a.{suffix}", flat)
    back = load(tmp_path / f"a.{suffix}")
    positions, faces = mesh.positions, mesh.faces
    expected = (
        face_normals(positions, faces)[:, None].repeat(3, axis=1) if flat else vertex_normals(positions, faces)[faces]
    )
    np.testing.assert_allclose(corner_normals(back), expected, atol=1e-6)


def test_one_sentence_says_what_a_format_has_no_place_for(tmp_path):
    mesh = Mesh(
        np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0]]),
        np.int32([[0, 1, 2]]),
        uvs=np.zeros((1, 3, 2), np.float32),
        more_uvs=(np.zeros((1, 3, 2), np.float32),),
        materials={
            0: Material(
                {
                    "name": "a\nb",
                    "alphaMode": "MASK",
                    "doubleSided": True,
                    "extensions": {"KHR_materials_ior": {"ior": 1.2}},
                }
            )
        },
    )
    said = {}
    for suffix in ("glb", "obj", "ply"):
        said[suffix] = []
        save(mesh, tmp_path / f"a.{suffix}", warn=said[suffix].append)
    assert said == {
        "glb": [],
        "obj": [
            "a.obj has no place for further UV maps, where alpha is cut off, extensions of materials, which it is "
            "written without: GLB keeps them.",
            "a.obj has other names for materials, which there need one each on one line: 'a\\nb' is 'a_b'.",
        ],
        "ply": [
            "a.ply has no place for UV maps, further UV maps, names of materials, roughness and metallic, where "
            "alpha is cut off, extensions of materials, which it is written without: GLB keeps them."
        ],
    }
