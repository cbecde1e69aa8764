# SPDX-License-Identifier: GPL-3.0-or-later
"""PLY files as other programs and people leave them: what is read, and what is warned of."""

import struct

import numpy as np
import pytest

from tests.geometry.foreign import BLUE, CORNERS, GREEN, TRIANGLE, XYZ, picture, plain, ply, read


@pytest.mark.parametrize(
    "content",
    [
        plain("comment gemacht mit Müh", "obj_info größer") + TRIANGLE,
        plain("comment gemacht mit Müh").decode().encode("latin-1") + TRIANGLE,
        plain("comment end_header follows") + TRIANGLE,
        plain(end="\r\n") + TRIANGLE.replace(b"\n", b"\r\n"),
        plain(end="\r") + TRIANGLE.replace(b"\n", b"\r"),
        b"\xef\xbb\xbf" + plain() + TRIANGLE,
        (plain() + TRIANGLE).decode().encode("utf-16"),
        plain() + TRIANGLE.replace(b"3 0 1 2", b"3.0 0.0 1.0 2.0"),
        plain() + TRIANGLE.replace(b"\n", b" \n\n"),
    ],
)
def test_ply_is_written_in_many_ways(tmp_path, content):
    (tmp_path / "a.ply").write_bytes(content)
    mesh, said = read(tmp_path / "a.ply")
    assert mesh.positions.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]] and mesh.faces.tolist() == [[0, 1, 2]]
    assert not said


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_feed_behind_the_header_can_be_data(tmp_path, end):
    first = struct.unpack("<f", b"\n\0\0\0")[0]
    (tmp_path / "a.ply").write_bytes(
        plain(end=end, form="binary_little_endian") + struct.pack("<9fB3i", first, 0, 0, 1, 0, 0, 0, 1, 0, 3, 0, 1, 2)
    )
    assert read(tmp_path / "a.ply")[0].positions[0, 0] == np.float32(first)


@pytest.mark.parametrize(
    "kind, values, expected",
    [
        ("uchar", "128.0 0 255", [128, 0, 255]),
        ("uchar", "127.6 0 255", [128, 0, 255]),
        ("uchar", "0.5 0 1", [128, 0, 255]),
        ("float", "0.5 0 1", [128, 0, 255]),
        ("float", "128.0 0 255", [128, 0, 255]),
        ("int", "128 0 255", [128, 0, 255]),
        ("ushort", "32896 0 65535", [128, 0, 255]),
        ("ushort", "128 0 255", [128, 0, 255]),
        ("uint", "2155905152 0 4294967295", [128, 0, 255]),
    ],
)
def test_colours_are_scaled_by_what_they_hold(tmp_path, kind, values, expected):
    columns = [f"property {kind} {name}" for name in ("red", "green", "blue")]
    header = ("element vertex 3", *XYZ, *columns, "element face 1", CORNERS)
    rows = f"0 0 0 {values}\n1 0 0 {values}\n0 1 0 {values}\n3 0 1 2\n"
    (tmp_path / "a.ply").write_bytes(ply(*header) + rows.encode())
    assert read(tmp_path / "a.ply")[0].colours.tolist() == [expected] * 3
    if "." in values and kind != "float":
        return
    code = {"uchar": "B", "int": "i", "ushort": "H", "uint": "I", "float": "f"}[kind]
    row = [float(value) if kind == "float" else int(value) for value in values.split()]
    (tmp_path / "b.ply").write_bytes(
        ply(*header, form="binary_little_endian")
        + b"".join(struct.pack(f"<3f3{code}", *place, *row) for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0)))
        + struct.pack("<B3i", 3, 0, 1, 2)
    )
    assert read(tmp_path / "b.ply")[0].colours.tolist() == [expected] * 3


@pytest.mark.parametrize("binary", [False, True])
def test_uvs_and_pictures_of_ply_corners(tmp_path, binary):
    """As MeshLab writes them."""
    for name, colour in (("a b.png", BLUE), ("c.png", GREEN)):
        picture(tmp_path / name, colour)
    header = (
        "comment TextureFile a b.png",
        "comment TextureFile c.png",
        "element vertex 4",
        *XYZ,
        "element face 3",
        CORNERS,
        "property list uchar float texcoord",
        "property int texnumber",
    )
    places = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
    faces = [
        ((0, 1, 2, 3), (0, 0, 1, 0, 1, 1, 0, 1), 1),
        ((0, 1, 2), (0.25, 0, 0.5, 0, 0.5, 1), 0),
        ((0, 1, 3), (), -1),
    ]
    if binary:
        content = b"".join(struct.pack("<3f", *place) for place in places) + b"".join(
            struct.pack(f"<B{len(face)}iB{len(uvs)}fi", len(face), *face, len(uvs), *uvs, number)
            for face, uvs, number in faces
        )
    else:
        content = "\n".join(
            " ".join(map(str, row))
            for row in [*places, *((len(face), *face, len(uvs), *uvs, number) for face, uvs, number in faces)]
        ).encode()
    (tmp_path / "a.ply").write_bytes(ply(*header, form="binary_little_endian" if binary else "ascii") + content)
    mesh, said = read(tmp_path / "a.ply")
    assert len(mesh.positions) == 4 and not said
    assert mesh.uvs[:3].tolist() == [
        [[0, 0], [1, 0], [1, 1]],
        [[0, 0], [1, 1], [0, 1]],
        [[0.25, 0], [0.5, 0], [0.5, 1]],
    ]
    assert np.isnan(mesh.uvs[3]).all() and mesh.slots.tolist() == [1, 1, 0, 2]
    shown = {name: tuple(values[0, 0]) for name, values in mesh.textures.items()}
    assert shown == {"texture.0": BLUE, "texture.1": GREEN}


def test_strips_of_ply(tmp_path):
    (tmp_path / "a.ply").write_bytes(
        ply("element vertex 5", *XYZ, "element tristrips 1", "property list int int vertex_indices")
        + b"0 0 0\n1 0 0\n0 1 0\n1 1 0\n0 2 0\n9 0 1 2 3 4 -1 1 3 2\n"
    )
    mesh, _ = read(tmp_path / "a.ply")
    assert mesh.faces.tolist() == [[0, 1, 2], [2, 1, 3], [2, 3, 4], [1, 3, 2]]


def test_what_ply_has_beside_its_surface_is_said(tmp_path):
    (tmp_path / "a.ply").write_bytes(
        ply(
            "comment TextureFile gone.png",
            "element vertex 3",
            *XYZ,
            "property float s",
            "property float t",
            "property uchar red",
            "property uchar green",
            "property uchar blue",
            "property uchar alpha",
            "element face 1",
            CORNERS,
            "property uchar red",
            "element edge 1",
            "property int vertex1",
            "property int vertex2",
        )
        + b"0 0 0 0 0 1 2 3 255\n1 0 0 1 0 1 2 3 0\n0 1 0 0 1 1 2 3 255\n3 0 1 2 9\n0 1\n"
    )
    mesh, said = read(tmp_path / "a.ply")
    assert mesh.uvs[0].tolist() == [[0, 0], [1, 0], [0, 1]] and mesh.colours[0].tolist() == [1, 2, 3]
    assert [any(part in note for note in said) for part in ("edge", "gone.png", "colours of faces", "transparent")] == [
        True
    ] * 4 and len(said) == 4


@pytest.mark.parametrize(
    "alphas, expected, says",
    [((128, 128, 128), 128 / 255, False), ((255, 255, 255), 1, False), ((0, 0, 0), 1, True), ((0, 9, 9), 1, True)],
)
def test_normals_and_alpha_of_ply(tmp_path, alphas, expected, says):
    names = ("x", "y", "z", "nx", "ny", "nz")
    rows = "".join(f"{place} 0 0 2 1 2 3 {a}\n" for place, a in zip(("0 0 0", "1 0 0", "0 1 0"), alphas))
    (tmp_path / "a.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 3\n"
        + "".join(f"property float {name}\n" for name in names)
        + "".join(f"property uchar {name}\n" for name in ("red", "green", "blue", "alpha"))
        + f"element face 1\nproperty list uchar int vertex_indices\nend_header\n{rows}3 0 1 2\n"
    )
    mesh, said = read(tmp_path / "a.ply")
    np.testing.assert_array_equal(mesh.normals, [[[0, 0, 1]] * 3])
    assert mesh.colours.tolist() == [[1, 2, 3]] * 3 and bool(said) == says
    factor = mesh.materials[0].base_factor[3] if mesh.materials else 1
    assert factor == pytest.approx(expected) and (factor == 1 or mesh.materials[0].gltf["alphaMode"] == "BLEND")
