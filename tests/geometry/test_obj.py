# SPDX-License-Identifier: GPL-3.0-or-later
"""OBJ and MTL files as other programs and people leave them: what is read, and what is warned of."""

import numpy as np
import pytest
from PIL import Image

from server.geometry.files.gltf.materials import alpha_map
from tests.geometry.foreign import BLUE, GRAY, GREEN, SQUARE, picture, read, unit

SAME = {
    "tabs": SQUARE.replace(" ", "\t").replace("my\tlib", "my lib"),
    "blanks": "\n".join(f"  {line} \t" for line in SQUARE.splitlines()),
    "carriage returns and line feeds": SQUARE.replace("\n", "\r\n"),
    "carriage returns": SQUARE.replace("\n", "\r"),
    "a line that goes on": SQUARE.replace("f 1/1 ", "f 1/1\\\n").replace("3/3 ", "3/3 \\\r\n  "),
    "a path in a comment": "# from C:\\assets\\\n" + SQUARE,
    "comments": SQUARE.replace("4/4", "4/4 # the only face").replace("v 2 0 0", "v 2 0 0#corner"),
    "a comment behind a material": SQUARE.replace("usemtl Wood", "usemtl Wood # oak"),
    "numbers from the end": SQUARE.replace("1/1 2/2 3/3 4/4", "-4/-4 -3/-3 -2/-2 -1/-1"),
    "normals": SQUARE.replace("usemtl", "vn 0 0 1\nusemtl").replace("1/1 2/2 3/3 4/4", "1/1/1 2/2/1 3/3/1 4/4/-1"),
    "the old word": SQUARE.replace("f 1", "fo 1"),
    "a face before its vertices": "usemtl Wood\nf 1/1 2/2 3/3 4/4\n" + SQUARE[: SQUARE.index("usemtl")],
    "depth of a UV": SQUARE.replace("vt 1 0", "vt 1 0 0.5"),
    "no line feed at the end": SQUARE.rstrip(),
    "quotes": SQUARE.replace("my lib.mtl", '"my lib.mtl"'),
}


@pytest.mark.parametrize("how", SAME)
def test_obj_is_written_in_many_ways(tmp_path, square, how):
    (tmp_path / "other.obj").write_bytes(SAME[how].encode())
    mesh, said = read(tmp_path / "other.obj")
    assert not said
    for name, array in square.arrays().items():
        np.testing.assert_array_equal(mesh.arrays()[name], array)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_text_in_other_encodings(tmp_path, encoding):
    picture(tmp_path / "Gehölz.png", BLUE)
    (tmp_path / "lib.mtl").write_bytes("newmtl Möbel\nmap_Kd Gehölz.png\n".encode(encoding))
    (tmp_path / "a.obj").write_bytes(SQUARE.replace("my lib", "lib").replace("Wood", "Möbel").encode(encoding))
    mesh, said = read(tmp_path / "a.obj")
    assert len(mesh.faces) == 2 and mesh.textures["texture.0"][0, 0].tolist() == list(BLUE) and not said


@pytest.mark.parametrize(
    "line, guessed",
    [
        ("map_Kd my wood.png", False),
        ("map_Kd\tmy wood.png", False),
        ("  MAP_KD my wood.png  ", False),
        ("map_Kd maps/my wood.png", True),
        (r"map_Kd maps\my wood.png", True),
        ("map_Kd MY WOOD.PNG", True),
        (r"map_Kd C:\Users\artist\maps\my wood.png", True),
        ("map_Kd /Users/artist/my wood.png", True),
        ("map_Kd ../my wood.png", True),
        ('map_Kd "my wood.png"', True),
        ("map_Kd -bm 1.0 my wood.png", False),
        ("map_Kd -s 1 1 1 -o 0 0 0 -clamp on -imfchan l -type sphere my wood.png", None),
        ("map_Kd my wood.png -bm 0.3", False),
        ("map_Kd my wood.png # oak", False),
    ],
)
def test_a_picture_is_found_by_the_names_that_people_leave(tmp_path, square, line, guessed):
    (tmp_path / "my lib.mtl").write_text(f"newmtl Wood\n{line}\n")
    mesh, said = read(tmp_path / "square.obj")
    assert mesh.textures["texture.0"][0, 0].tolist() == list(BLUE)
    if guessed is not None:
        assert bool(said) == guessed and all("'my wood.png' beside it is taken" in note for note in said), said


def test_the_longest_end_of_a_name_is_taken(tmp_path, square):
    picture(tmp_path / "maps" / "my wood.png", GREEN)
    (tmp_path / "my lib.mtl").write_text("newmtl Wood\nmap_Kd D:/art/maps/my wood.png\n")
    assert read(tmp_path / "square.obj")[0].textures["texture.0"][0, 0].tolist() == list(GREEN)


def test_a_library_in_a_folder_names_pictures_beside_it(tmp_path, square):
    (tmp_path / "lib").mkdir()
    picture(tmp_path / "lib" / "oak.png", GREEN)
    (tmp_path / "lib" / "a.mtl").write_text("newmtl Wood\nmap_Kd oak.png\n")
    (tmp_path / "square.obj").write_text(SQUARE.replace("my lib.mtl", "lib/a.mtl"))
    mesh, said = read(tmp_path / "square.obj")
    assert mesh.textures["texture.0"][0, 0].tolist() == list(GREEN) and not said


@pytest.mark.parametrize(
    "names",
    [
        "a.mtl my lib.mtl",
        "my lib.mtl a.mtl",
        "my lib.mtl\nmtllib a.mtl",
        "A.MTL\tmy lib.mtl",
        "a.mtl a.mtl my lib.mtl",
        "a.mtl my lib.mtl # both",
    ],
)
def test_several_libraries(tmp_path, square, names):
    (tmp_path / "a.mtl").write_text("newmtl Stone\nmap_Kd stone.png\n")
    picture(tmp_path / "stone.png", GREEN)
    (tmp_path / "square.obj").write_text(SQUARE.replace("my lib.mtl", names) + "usemtl Stone\nf 1/1 2/2 3/3\n")
    mesh, said = read(tmp_path / "square.obj")
    shown = [mesh.textures[f"texture.{slot}"][0, 0].tolist() for slot in mesh.slots]
    assert shown == [list(BLUE), list(BLUE), list(GREEN)] and not said


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda folder: (folder / "my lib.mtl").unlink(), "'my lib.mtl', which is not there"),
        (lambda folder: (folder / "my wood.png").unlink(), "'my wood.png', which is not there"),
        (lambda folder: (folder / "my wood.png").write_bytes(b"no picture"), "without the picture 'my wood.png'"),
        (
            lambda folder: (folder / "my wood.png").write_bytes((folder / "my wood.png").read_bytes()[:45]),
            "without the",
        ),
        (lambda folder: (folder / "my lib.mtl").write_text("newmtl Oak\n"), "in none of its libraries"),
        (lambda folder: (folder / "my lib.mtl").write_text("newmtl Wood\nmap_Kd C:\\x\\other.png\n"), "not there"),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_read(tmp_path, square, change, says):
    change(tmp_path)
    mesh, said = read(tmp_path / "square.obj")
    np.testing.assert_array_equal(mesh.positions, square.positions)
    np.testing.assert_array_equal(mesh.uvs, square.uvs)
    assert not mesh.textures and len(said) == 1 and says in said[0]


def test_links_in_a_ring_are_no_picture(tmp_path, square):
    (tmp_path / "my wood.png").unlink()
    (tmp_path / "my wood.png").symlink_to(tmp_path / "my wood.png")
    mesh, said = read(tmp_path / "square.obj")
    assert not mesh.textures and len(said) == 1 and "not there" in said[0]


@pytest.mark.parametrize(
    "lines, kept, says",
    [
        ("map_Bump flat.png", {"normal.0"}, None),
        ("bump gray.png", set(), "of heights"),
        ("norm gray.png", {"normal.0"}, None),
        ("map_d gray.png\nmap_Ks flat.png", {"texture.0"}, "map_Ks"),
        ("map_Pr -s 2 2 2 gray.png", {"roughness.0"}, "-s"),
        ("map_Pr -imfchan g flat.png", {"roughness.0"}, "-imfchan"),
    ],
)
def test_maps_that_are_not_read_are_said(tmp_path, square, lines, kept, says):
    picture(tmp_path / "gray.png", GRAY)
    picture(tmp_path / "flat.png", (128, 128, 255))
    (tmp_path / "my lib.mtl").write_text(f"newmtl Wood\n{lines}\n")
    mesh, said = read(tmp_path / "square.obj")
    assert set(mesh.textures) == kept and (len(said) == 1 and says in said[0] if says else not said), said


def test_what_is_no_surface_is_said(tmp_path):
    (tmp_path / "a.obj").write_text(
        SQUARE.replace("mtllib my lib.mtl", "") + "p 1\np 2 3\nl 1 2\nf 1 2\ncurv 0 1 1 2\n"
    )
    mesh, said = read(tmp_path / "a.obj")
    assert len(mesh.faces) == 2
    assert sorted(said) == sorted(
        [
            "a.obj has points (2), which are left out: only faces have a surface.",
            "a.obj has lines (1), which are left out: only faces have a surface.",
            "a.obj has curves (1), which are left out: only faces have a surface.",
            "a.obj has faces with fewer than three corners (1), which are left out.",
        ]
    )


def test_uvs_that_are_not_there_are_none(tmp_path):
    (tmp_path / "a.obj").write_text(SQUARE[SQUARE.index("v ") :].replace("4/4", "4/9") + "f 1/1 2/2 3/3\n")
    mesh, said = read(tmp_path / "a.obj")
    assert np.isnan(mesh.uvs).any(axis=(1, 2)).tolist() == [False, True, False] and len(said) == 1 and "(1)" in said[0]


@pytest.mark.parametrize(
    "values, colours, says",
    [
        (["1 0 0.5"] * 4, [[255, 0, 128]] * 4, ""),
        (["255 0 128"] * 4, [[255, 0, 128]] * 4, "of 255"),
        (["1.01 0 0.5"] * 4, [[255, 0, 128]] * 4, ""),
        (["1 0 0", "", "0 0 0", ""], [[255, 0, 0], [255] * 3, [0] * 3, [255] * 3], "they are white"),
    ],
)
def test_colours_of_obj(tmp_path, values, colours, says):
    lines = [f"v {i % 2} {i // 2} 0 {value}" for i, value in enumerate(values)]
    (tmp_path / "a.obj").write_text("\n".join([*lines, "f 1 2 4 3"]))
    mesh, said = read(tmp_path / "a.obj")
    assert mesh.colours.tolist() == colours and (says in said[0] if says else not said)


def test_a_picture_without_uvs_is_left_out(tmp_path, square):
    (tmp_path / "square.obj").write_text(SQUARE.replace("1/1 2/2 3/3 4/4", "1 2 3 4"))
    mesh, said = read(tmp_path / "square.obj")
    assert mesh.uvs is None and not mesh.textures and "no UVs" in said[0]


def test_objects_and_groups_of_obj_that_become_one_are_said(tmp_path, square):
    text = (tmp_path / "square.obj").read_text()
    for name, count in (("", 0), ("o one", 2), ("o two", 3), ("g three", 4), ("g three", 4), ("o two", 4)):
        text += f"{name}\nf 1/1 2/2 3/3\n"
        (tmp_path / "more.obj").write_text(text)
        said = read(tmp_path / "more.obj")[1]
        assert [note for note in said if "become one mesh" in note] == (
            [f"more.obj: its {count} objects and groups become one mesh."] if count else []
        ), (name, said)


BENT = """v 0 0 0
v 1 0 0
v 1 1 0
v 0 0 1
"""


@pytest.mark.parametrize(
    "faces, normals",
    [
        ("f 1 2 3\nf 1 3 4\n", None),
        ("s 1\nf 1 2 3\nf 1 3 4\n", None),
        ("s off\nf 1 2 3\nf 1 3 4\n", [[np.nan] * 3] * 2),
        ("s 0\nf 1 2 3\nf 1 3 4\n", [[np.nan] * 3] * 2),
        ("s 1\nf 1 2 3\ns 2\nf 1 3 4\n", [[0, -1, 0], unit(1, 0, -1)]),  # hard between groups; in our axes
        ("vn 0 0 2\nvn 1 0 0\nf 1//1 2//1 3//1\nf 1//2 3//2 4//2\n", [[0, -1, 0], [1, 0, 0]]),
        ("vn 0 0 1\ns off\nf 1//-1 2//-1 3//-1\nf 1 3 4\n", [[0, -1, 0], [np.nan] * 3]),
        ("vn 0 0 0\nf 1//1 2//1 3//1\n", None),
    ],
)
def test_normals_of_obj(tmp_path, faces, normals):
    (tmp_path / "a.obj").write_text(BENT + faces)
    mesh, said = read(tmp_path / "a.obj")
    assert not said
    if normals is None:
        assert mesh.normals is None or "vn" in faces
    else:
        for face, expected in zip(mesh.normals, np.array(normals)):
            expected = expected if np.isnan(expected).any() or "vn" in faces else np.abs(expected)
            seen = face if np.isnan(expected).any() or "vn" in faces else np.abs(face)
            np.testing.assert_allclose(seen, [expected] * 3, atol=1e-6)


def test_normals_that_are_not_there_are_said(tmp_path):
    (tmp_path / "a.obj").write_text(BENT + "vn 0 0 1\nf 1//1 2//1 3//7\n")
    mesh, (note,) = read(tmp_path / "a.obj")
    assert "normals that are not there (1)" in note and np.isfinite(mesh.normals).all()


@pytest.mark.parametrize(
    "lines, expected",
    [
        ("Kd 1 0 0", {"baseColorFactor": [1, 0, 0, 1]}),
        ("Kd 0.5", {"baseColorFactor": [0.5, 0.5, 0.5, 1]}),
        ("d 0.25", {"baseColorFactor": [1, 1, 1, 0.25]}),
        ("Tr 0.25", {"baseColorFactor": [1, 1, 1, 0.75]}),
        ("d 0.5\nTr 0.9", {"baseColorFactor": [1, 1, 1, 0.5]}),
        ("Pr 0.3\nNs 10", {"roughnessFactor": 0.3}),
        ("Ns 250", {"roughnessFactor": 0.5}),
        ("Pm 1", {"metallicFactor": 1}),
        ("Pm 7", {"metallicFactor": 1}),
        ("Kd 1 0 0 # red", {"baseColorFactor": [1, 0, 0, 1]}),
    ],
)
def test_numbers_of_obj_materials(tmp_path, lines, expected):
    (tmp_path / "my lib.mtl").write_text(f"newmtl Wood\n{lines}\n")
    (tmp_path / "square.obj").write_text(SQUARE)
    mesh, said = read(tmp_path / "square.obj")
    material = mesh.materials[0]
    assert not said and material.name == "Wood" and material.gltf["doubleSided"]
    for key, value in expected.items():
        assert material.metallic_roughness[key] == pytest.approx(value)
    assert ("alphaMode" in material.gltf) == (material.base_factor[3] < 1)


@pytest.mark.parametrize(
    "lines, says",
    [
        ("Kd spectral oak.rfl", "no number"),
        ("Kd nan 0 0", "no number"),
        ("Kd 1 0 0\nmap_Kd my wood.png", "tints the picture"),
        ("Kd 0.8 0.8 0.8\nmap_Kd my wood.png", None),
    ],
)
def test_numbers_that_do_not_count_are_said(tmp_path, square, lines, says):
    (tmp_path / "my lib.mtl").write_text(f"newmtl Wood\n{lines}\n")
    mesh, said = read(tmp_path / "square.obj")
    assert len(said) == 1 and says in said[0] if says else not said
    assert "baseColorFactor" not in mesh.materials[0].metallic_roughness


def test_a_picture_of_alpha_joins_that_of_base_colour(tmp_path, square):
    Image.fromarray(np.uint8([[0, 255], [100, 200]])).save(tmp_path / "cut.png")
    (tmp_path / "my lib.mtl").write_text("newmtl Wood\nmap_Kd my wood.png\nmap_d cut.png\nKe 2 1 0\n")
    mesh, said = read(tmp_path / "square.obj")
    material = mesh.materials[0]
    assert not said and material.gltf["alphaMode"] == "BLEND" and material.gltf["emissiveFactor"] == [1, 0.5, 0]
    assert alpha_map(material).tolist() == [[100, 200], [0, 255]]
    assert mesh.textures["texture.0"][0, 0].tolist() == list(BLUE)


def test_vertex_colours_count_before_kd_where_there_are_some(tmp_path):
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\nnewmtl gray\nKd 0.8 0.8 0.8\n")
    (tmp_path / "a.obj").write_text(
        "mtllib a.mtl\nv 0 0 0 0 1 0\nv 1 0 0 0 1 0\nv 0 1 0 0 1 0\nv 0 0 1\nv 1 0 1\nv 0 1 1\n"
        "usemtl gray\nf 1 2 3\nusemtl red\nf 4 5 6\n"
    )
    mesh, said = read(tmp_path / "a.obj")
    assert mesh.colours.tolist() == [[0, 255, 0]] * 3 + [[255, 0, 0]] * 3
    assert len(said) == 1 and "without a colour" in said[0]
    (tmp_path / "b.obj").write_text("mtllib a.mtl\nv 0 0 0 0 1 0\nv 1 0 0 0 1 0\nv 0 1 0 0 1 0\nusemtl red\nf 1 2 3\n")
    mesh, (note,) = read(tmp_path / "b.obj")
    assert mesh.colours.tolist() == [[0, 255, 0]] * 3 and "count before the colours of its materials" in note
