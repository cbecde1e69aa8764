# SPDX-License-Identifier: GPL-3.0-or-later
"""OBJ, PLY and USD files as other programs and people leave them: what is read, and what is said."""

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from server.geometry.files import load, save
from server.geometry.files.common import corner_normals
from server.geometry.files.gltf.materials import alpha_map
from server.geometry.files.polygons import triangulate
from server.geometry.material import Material
from server.geometry.mesh import Mesh
from server.geometry.normals import face_normals, vertex_normals

SQUARE = """mtllib my lib.mtl
v 0 0 0
v 2 0 0
v 2 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl Wood
f 1/1 2/2 3/3 4/4
"""
BLUE, GREEN, GRAY = (10, 20, 200), (10, 200, 20), (128, 128, 128)
U = [(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)]
FRAME = [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)]  # a hole, by a bridge


def read(path):
    """(the mesh, what was said)."""
    said = []
    mesh = load(path, said.append)
    assert all(note.endswith(".") and "\n" not in note for note in said), said
    return mesh, said


def picture(path, colour):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (2, 2), colour).save(path)


def areas(positions, faces):
    a, b, c = (np.asarray(positions, float)[faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a) / 2


def area(mesh):
    return np.linalg.norm(areas(mesh.positions, mesh.faces), axis=1).sum()


# OBJ ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def square(tmp_path):
    """A square of wood, whose library and picture lie beside it."""
    (tmp_path / "my lib.mtl").write_text("newmtl Wood\nmap_Kd my wood.png\n")
    picture(tmp_path / "my wood.png", BLUE)
    (tmp_path / "square.obj").write_text(SQUARE)
    mesh, said = read(tmp_path / "square.obj")
    assert mesh.textures["texture.0"][0, 0].tolist() == list(BLUE) and not said
    return mesh


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


# UDIM -----------------------------------------------------------------------------------------------------------------


def strip(count, first=0, row=0):
    """An OBJ of `count` quads in tiles side by side."""
    lines = []
    for i in range(count):
        lines += [f"v {i + x} {y} 0" for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        lines += [f"vt {first + i + x} {row + y}" for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        lines.append("f " + " ".join(f"{4 * i + k}/{4 * i + k}" for k in (1, 2, 3, 4)))
    return "\n".join(lines) + "\n"


def test_tiles_without_pictures_are_a_slot_each(tmp_path):
    (tmp_path / "a.obj").write_text(strip(6))
    mesh, said = read(tmp_path / "a.obj")
    assert mesh.slots.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5] and not said
    assert mesh.uvs.max() == 6  # they stay as they are


@pytest.mark.parametrize(
    "name",
    [
        "wood.<UDIM>.png",
        "wood.<udim>.png",
        "wood.%(UDIM)d.png",
        "wood.1001.png",
        "wood.1002.png",
        "maps\\wood.<UDIM>.png",
    ],
)
def test_each_tile_has_its_picture(tmp_path, name):
    (tmp_path / "a.mtl").write_text(f"newmtl m\nmap_Kd {name}\nmap_Pr all.png\nnewmtl n\nmap_Kd all.png\n")
    colours = {1001: BLUE, 1002: GREEN, 1012: GRAY}
    for tile, colour in colours.items():
        picture(tmp_path / f"wood.{tile}.png", colour)
    picture(tmp_path / "all.png", (7, 7, 7))
    (tmp_path / "a.obj").write_text(
        "mtllib a.mtl\nusemtl m\n" + strip(2) + "v 0 0 9\nvt 1.5 1.5\nf 1/9 2/9 9/9\nusemtl n\nf 1/1 2/2 9/3\n"
    )
    mesh, said = read(tmp_path / "a.obj")
    shown = [tuple(mesh.textures[f"texture.{slot}"][0, 0]) for slot in mesh.slots]
    assert shown == [BLUE, BLUE, GREEN, GREEN, GRAY, (7, 7, 7)]
    assert sum(name.startswith("roughness") for name in mesh.textures) == 3
    assert not [note for note in said if "is taken for it" not in note]


def test_a_tile_whose_picture_is_missing_is_said(tmp_path):
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd wood.<UDIM>.png\n")
    picture(tmp_path / "wood.1001.png", BLUE)
    (tmp_path / "a.obj").write_text("mtllib a.mtl\nusemtl m\n" + strip(3))
    mesh, said = read(tmp_path / "a.obj")
    assert set(mesh.textures) == {"texture.0"} and mesh.slots.max() == 2
    assert len(said) == 1 and "for the tiles 1002, 1003" in said[0]


@pytest.mark.parametrize("name", ["wood.png", "wood.1001.png"])
def test_one_picture_that_repeats_is_said_to_be_shared(tmp_path, name):
    (tmp_path / "a.mtl").write_text(f"newmtl m\nmap_Kd {name}\n")
    picture(tmp_path / name, BLUE)
    (tmp_path / "a.obj").write_text("mtllib a.mtl\nusemtl m\n" + strip(3))
    mesh, said = read(tmp_path / "a.obj")
    assert mesh.slots is None and list(mesh.textures) == ["texture.0"] and len(said) == 1 and "share" in said[0]


@pytest.mark.parametrize("text", [strip(2, first=-1), strip(70), SQUARE[SQUARE.index("v ") :].replace("vt 1", "vt 3")])
def test_uvs_that_are_no_tiles_are_said_to_share_texels(tmp_path, text):
    (tmp_path / "a.obj").write_text(text.replace("usemtl Wood\n", ""))
    mesh, said = read(tmp_path / "a.obj")
    assert mesh.slots is None and len(said) == 1 and "share" in said[0]


@pytest.mark.parametrize("first, row", [(4, 2), (-3, 0), (0.5, -0.2)])
def test_uvs_no_wider_than_a_picture_are_nothing_to_say(tmp_path, first, row):
    (tmp_path / "a.obj").write_text(strip(1, first=first, row=row))
    mesh, said = read(tmp_path / "a.obj")
    assert mesh.slots is None and not said


def test_triangles_across_tiles_are_said(tmp_path):
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd wood.<UDIM>.png\n")
    for tile in (1001, 1002):
        picture(tmp_path / f"wood.{tile}.png", BLUE)
    (tmp_path / "a.obj").write_text("mtllib a.mtl\nusemtl m\n" + strip(1, first=0.4))
    _, said = read(tmp_path / "a.obj")
    assert len(said) == 1 and "borders of UDIM tiles (2)" in said[0]


def test_a_picture_without_uvs_is_left_out(tmp_path, square):
    (tmp_path / "square.obj").write_text(SQUARE.replace("1/1 2/2 3/3 4/4", "1 2 3 4"))
    mesh, said = read(tmp_path / "square.obj")
    assert mesh.uvs is None and not mesh.textures and "no UVs" in said[0]


# Polygons -------------------------------------------------------------------------------------------------------------


def turned(outline, seed=0):
    """(C, 3) of a (C, 2) outline in another plane."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return np.pad(np.array(outline, float), ((0, 0), (0, 1))) @ turn.T


def cut(outline):
    corners = np.array(outline, float)
    corners = np.pad(corners, ((0, 0), (0, 3 - corners.shape[1])))
    said = []
    triangles, polygons = triangulate(corners, np.array([len(corners)]), "a.obj", said.append)
    assert (polygons == 0).all() and ((triangles >= 0) & (triangles < len(corners))).all()
    return corners, triangles, said


def test_triangles_and_convex_polygons_become_fans():
    counts = [3, 5, 4]
    rings = [
        np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
        for turn in (2 * np.pi * np.arange(count) / count for count in counts)
    ]
    triangles, polygons = triangulate(np.concatenate(rings), np.array(counts), "", None)
    assert triangles.tolist() == [[0, 1, 2], [3, 4, 5], [3, 5, 6], [3, 6, 7], [8, 9, 10], [8, 10, 11]]
    assert polygons.tolist() == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    "outline, whole",
    [
        (U, 7),
        (FRAME, 12),
        ([(0, 0), (2, 1), (0, 2), (0.5, 1)], 1.5),
        ([(0, 0), (0.5, 1), (0, 2), (2, 1)], 1.5),
        ([(0, 0), (1, 0), (2, 0), (2, 2), (0, 2)], 4),
        ([(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2)], 4),
        ([(0, 0), (1, 1e-9), (2, 0), (2, 2), (1, 2 - 1e-9), (0, 2)], 4),
        ([(0, 0), (2, 0), (2, 0), (2, 2), (0, 2)], 4),
        ([(0, 0), (2, 0), (2, 2), (0, 2), (0, 0)], 4),
        ([(0, 0), (2, 0), (3, 0), (2, 0), (2, 2), (0, 2)], 4),
        ([(0, 0), (2, 0), (2, 2), (1, 0), (0, 2)], 2),
    ],
)
def test_a_polygon_is_covered_once(outline, whole):
    for each in (
        np.array(outline, float),
        turned(outline),
        1e-20 * turned(outline, 1),
        1e15 * turned(outline, 2),
        turned(outline)[::-1],
    ):
        corners, triangles, said = cut(each)
        parts, scale = areas(corners, triangles), np.ptp(corners, axis=0).max() / np.ptp(outline, axis=0).max()
        assert np.linalg.norm(parts.sum(axis=0)) == pytest.approx(np.linalg.norm(parts, axis=1).sum(), rel=1e-6)
        assert np.linalg.norm(parts, axis=1).sum() == pytest.approx(whole * scale**2, rel=0.9) and not said
    corners, triangles, _ = cut(outline)
    assert abs(areas(corners, triangles).sum(axis=0)[2]) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    "outline",
    [
        [(0, 0), (1, 0), (2, 0), (3, 0)],
        [(0, 0)] * 4,
        [(0, 0), (1, 0), (np.nan, 1), (0, 1), (0.5, 0.5)],
        [(0, 0), (1e308, 0), (1e308, 1e308), (5e307, 1e307), (3e307, 1e307), (0, 1e308)],
    ],
)
def test_a_polygon_without_an_area_keeps_its_corners(outline):
    _, triangles, said = cut(outline)
    assert set(triangles.reshape(-1)) == set(range(len(outline))) and not said


def test_a_polygon_that_crosses_itself_is_said():
    _, triangles, said = cut([(0, 0), (1, 1), (1, 0), (0, 1.5)])
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3]] and len(said) == 1 and "cross themselves (1)" in said[0]


def test_a_warped_concave_polygon_keeps_its_notch():
    corners = np.array([(x, y, 0.2 * np.sin(3 * x + y)) for x, y in U])
    corners, triangles, said = cut(corners)
    assert np.abs(areas(corners, triangles)[:, 2]).sum() == pytest.approx(7) and not said


@settings(max_examples=150, deadline=None)
@given(st.integers(4, 40), st.integers(0, 2**32 - 1))
def test_any_outline_that_does_not_cross_itself_is_covered_once(count, seed):
    random = np.random.default_rng(seed)
    turn = 2 * np.pi * (np.arange(count) + random.uniform(0, 0.9, count)) / count
    outline = random.uniform(0.1, 1, count)[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    whole = np.cross(outline, np.roll(outline, -1, axis=0)).sum() / 2
    if np.diff(np.append(turn, turn[0] + 2 * np.pi)).max() >= np.pi:
        return  # the middle is outside: it may cross itself
    corners, triangles, said = cut(outline)
    parts = areas(corners, triangles)[:, 2]
    assert len(triangles) == count - 2 and (parts > -1e-12).all() and parts.sum() == pytest.approx(whole) and not said


def usd(path, text):
    path.write_text('#usda 1.0\n(\n    metersPerUnit = 1\n    upAxis = "Z"\n)\n' + text)
    return path


def usd_mesh(points, counts, index, more=""):
    return (
        f'def Mesh "m" {{\n  point3f[] points = {[tuple(map(float, point)) for point in points]}\n'
        f"  int[] faceVertexCounts = {counts}\n  int[] faceVertexIndices = {index}\n{more}\n}}\n"
    )


@pytest.mark.parametrize("suffix", ["obj", "ascii.ply", "binary.ply", "usda"])
def test_a_concave_polygon_beside_others(tmp_path, suffix):
    """Each reader: a U, a triangle and a frame with a hole."""
    outlines = [U, [(9, 0), (10, 0), (9, 2)], FRAME]
    points = [(x, y, 0) for outline in outlines for x, y in outline]
    counts, index = [len(outline) for outline in outlines], list(range(len(points)))
    faces = np.split(np.array(index), np.cumsum(counts)[:-1])
    path = tmp_path / f"a.{suffix}"
    if suffix == "obj":
        path.write_text(
            "".join(f"v {x} {y} {z}\n" for x, y, z in points)
            + "".join("f " + " ".join(str(i + 1) for i in face) + "\n" for face in faces)
        )
    elif suffix == "usda":
        pytest.importorskip("pxr")
        usd(path, usd_mesh(points, counts, index))
    else:
        binary = suffix == "binary.ply"
        path.write_bytes(
            ply(
                f"element vertex {len(points)}",
                *XYZ,
                f"element face {len(faces)}",
                CORNERS,
                form="binary_big_endian" if binary else "ascii",
            )
            + (
                b"".join(struct.pack(">3f", *point) for point in points)
                + b"".join(struct.pack(f">B{len(face)}i", len(face), *face) for face in faces)
                if binary
                else "".join(f"{x} {y} {z}\n" for x, y, z in points).encode()
                + "".join(" ".join(map(str, (len(face), *face))) + "\n" for face in faces).encode()
            )
        )
    mesh, said = read(path)
    assert area(mesh) == pytest.approx(7 + 1 + 12) and not said
    assert np.abs(areas(mesh.positions, mesh.faces).sum(axis=0)).max() == pytest.approx(20)


# PLY ------------------------------------------------------------------------------------------------------------------

XYZ = ("property float x", "property float y", "property float z")
CORNERS = "property list uchar int vertex_indices"
TRIANGLE = b"0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"


def ply(*lines, form="ascii", end="\n"):
    return end.join(["ply", f"format {form} 1.0", *lines, "end_header", ""]).encode()


def plain(*more, end="\n", form="ascii"):
    return ply(*more, "element vertex 3", *XYZ, "element face 1", CORNERS, form=form, end=end)


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


def test_objects_and_groups_of_obj_that_become_one_are_said(tmp_path, square):
    text = (tmp_path / "square.obj").read_text()
    for name, count in (("", 0), ("o one", 2), ("o two", 3), ("g three", 4), ("g three", 4), ("o two", 4)):
        text += f"{name}\nf 1/1 2/2 3/3\n"
        (tmp_path / "more.obj").write_text(text)
        said = read(tmp_path / "more.obj")[1]
        assert [note for note in said if "become one mesh" in note] == (
            [f"more.obj: its {count} objects and groups become one mesh."] if count else []
        ), (name, said)


# USD ------------------------------------------------------------------------------------------------------------------

QUAD = ([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)], [4], [0, 1, 2, 3])


def material(**inputs):
    """A material "a": the surface's input -> (file, the picture's output)."""
    lines = [
        'def Material "a" {',
        "  token outputs:surface.connect = </a/s.outputs:surface>",
        '  def Shader "s" {',
        '    uniform token info:id = "UsdPreviewSurface"',
        "    token outputs:surface",
    ]
    lines += [
        f"    {'color3f' if name == 'diffuseColor' else 'float'} inputs:{name}.connect = </a/{name}.outputs:{output}>"
        for name, (_, output) in inputs.items()
    ] + ["  }"]
    for name, (file, output) in inputs.items():
        lines += [
            f'  def Shader "{name}" {{',
            '    uniform token info:id = "UsdUVTexture"',
            f"    asset inputs:file = @{file}@",
            f"    {'float3' if output == 'rgb' else 'float'} outputs:{output}",
            "  }",
        ]
    return "\n".join([*lines, "}\n"])


BOUND = '  rel material:binding = </a>\n  texCoord2f[] primvars:{} = {} (\n interpolation = "faceVarying"\n )\n'
SQUARE_UVS = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]


@pytest.fixture
def pxr():
    return pytest.importorskip("pxr")


def bound(name="st", uvs=SQUARE_UVS):
    return 'prepend apiSchemas = ["MaterialBindingAPI"]', BOUND.format(name, uvs)


def textured_quad(tmp_path, name="st", **inputs):
    head, more = bound(name)
    text = usd_mesh(*QUAD, more).replace('"m" {', f'"m" (\n  {head}\n) {{')
    return usd(tmp_path / "a.usda", text + material(**inputs))


@pytest.mark.parametrize(
    "name, value",
    [("metersPerUnit", 0.0), ("metersPerUnit", float("nan")), ("metersPerUnit", -1.0), ("upAxis", "X"), ("upAxis", "")],
)
def test_usd_stages_that_say_what_cannot_be(tmp_path, pxr, name, value):
    from pxr import Sdf

    usd(tmp_path / "a.usda", usd_mesh(*QUAD))
    layer = Sdf.Layer.OpenAsAnonymous(str(tmp_path / "a.usda"))
    layer.pseudoRoot.SetInfo(name, value)
    layer.Export(str(tmp_path / "b.usdc"))
    with pytest.raises(ValueError, match=f"says that its {name} is .*: export it again"):
        load(tmp_path / "b.usdc")


def test_metadata_of_another_type_is_a_sentence(tmp_path, pxr):
    """In a binary file a value's type is a byte beside it."""
    from pxr import Sdf

    usd(tmp_path / "a.usda", usd_mesh(*QUAD))
    Sdf.Layer.OpenAsAnonymous(str(tmp_path / "a.usda")).Export(str(tmp_path / "a.usdc"))
    content = (tmp_path / "a.usdc").read_bytes()
    place = content.index(b"\x80\x3f\0\0\x09\x40") + 4  # 1.0, a double
    for kind in (1, 3, 10, 12, 15):  # a truth value, an int, a string, an asset, a matrix
        (tmp_path / f"{kind}.usdc").write_bytes(content[:place] + bytes([kind]) + content[place + 1 :])
        with pytest.raises(ValueError, match="says that its metersPerUnit is [^\n]*, which cannot be: export it again"):
            load(tmp_path / f"{kind}.usdc")


def test_usd_pictures_are_found_like_those_of_others(tmp_path, pxr):
    picture(tmp_path / "wood.png", BLUE)
    picture(tmp_path / "packed.png", (10, 20, 30))
    path = textured_quad(
        tmp_path,
        diffuseColor=("C:/textures/Wood.png", "rgb"),
        roughness=("./packed.png", "g"),
        metallic=("gone.png", "b"),
    )
    mesh, said = read(path)
    assert {name: values[0, 0].tolist() for name, values in mesh.textures.items()} == {
        "texture.0": list(BLUE),
        "roughness.0": 20,
    }
    assert len(said) == 2 and "'wood.png' beside it is taken" in said[0] and "'gone.png', which is not there" in said[1]


def test_usd_tiles_have_their_pictures(tmp_path, pxr):
    picture(tmp_path / "wood.1001.png", BLUE)
    picture(tmp_path / "wood.1002.png", GREEN)
    path = textured_quad(tmp_path, diffuseColor=("./wood.<UDIM>.png", "rgb"))
    uvs = [*SQUARE_UVS[:3], (1.0, 0.0), (2.0, 0.0), (2.0, 1.0)]
    path.write_text(
        path.read_text()
        .replace(str(SQUARE_UVS), str(uvs))
        .replace("[4]", "[3, 3]")
        .replace("[0, 1, 2, 3]", "[0, 1, 2, 0, 2, 3]")
    )
    mesh, said = read(path)
    assert [tuple(mesh.textures[f"texture.{slot}"][0, 0]) for slot in mesh.slots] == [BLUE, GREEN] and not said


def test_usd_uvs_by_any_name(tmp_path, pxr):
    picture(tmp_path / "wood.png", BLUE)
    mesh, said = read(textured_quad(tmp_path, "map1", diffuseColor=("wood.png", "rgb")))
    assert mesh.uvs[0].tolist() == [[0, 0], [1, 0], [1, 1]] and not said
    path = textured_quad(tmp_path, diffuseColor=("wood.png", "rgb"))
    other = BOUND.format("light", [(0.5, 0.5)] * 4).partition("\n")[2]
    path.write_text(path.read_text().replace("  texCoord2f[]", other + "  texCoord2f[]", 1))
    mesh, said = read(path)
    assert mesh.uvs[0].tolist() == [[0, 0], [1, 0], [1, 1]] and mesh.more_uvs[0][0, 0].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "kind, values", [("constant", [(1, 0, 0)]), ("uniform", [(1, 0, 0)]), ("vertex", [(1, 0, 0)] * 4)]
)
def test_usd_colours_of_any_interpolation(tmp_path, pxr, kind, values):
    more = f'  color3f[] primvars:displayColor = {values} (\n interpolation = "{kind}"\n )\n'
    mesh, said = read(usd(tmp_path / "a.usda", usd_mesh(*QUAD, more)))
    assert mesh.colours.tolist() == [[255, 0, 0]] * 4 and not said


def test_usd_instances_are_read_and_what_is_no_mesh_is_said(tmp_path, pxr):
    text = (
        'class "c" {\n' + usd_mesh(*QUAD) + '}\ndef Xform "one" (\n instanceable = true\n inherits = </c>\n) {}\n'
        'def Xform "two" (\n instanceable = true\n inherits = </c>\n) {\n double3 xformOp:translate = (5, 0, 0)\n'
        ' uniform token[] xformOpOrder = ["xformOp:translate"]\n}\n'
        'def Sphere "ball" {}\ndef BasisCurves "hair" {}\n'
        + usd_mesh(*QUAD, ' token visibility = "invisible"')
        + usd_mesh(*QUAD, ' uniform token purpose = "guide"').replace('"m"', '"g"')
    )
    mesh, said = read(usd(tmp_path / "a.usda", text))
    assert mesh.positions[:, 0].max() == 6 and len(mesh.faces) == 4
    assert len(said) == 3 and "(2), which are left out" in said[0] and "BasisCurves, Sphere prims" in said[2]
    assert "its 2 objects become one mesh" in said[1]


def test_usd_subdivision_and_holes(tmp_path, pxr):
    mesh, said = read(
        usd(
            tmp_path / "a.usda",
            usd_mesh(
                [*QUAD[0], (2, 0, 0)],
                [4, 3],
                [0, 1, 2, 3, 1, 4, 2],
                '  uniform token subdivisionScheme = "catmullClark"\n  int[] holeIndices = [1]',
            ),
        )
    )
    assert len(mesh.faces) == 2 and len(said) == 1 and "subdivision" in said[0]


# Damage ---------------------------------------------------------------------------------------------------------------

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


# Normals, names, numbers of materials ---------------------------------------------------------------------------------

BENT = """v 0 0 0
v 1 0 0
v 1 1 0
v 0 0 1
"""


def unit(*vector):
    return np.array(vector) / np.linalg.norm(vector)


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


@pytest.mark.parametrize(
    "kind, values",
    [
        ("vertex", [(0, 0, 2)] * 4),
        ("faceVarying", [(0, 0, 1)] * 4),
        ("uniform", [(0, 0, 1)]),
        ("constant", [(0, 0, 1)]),
    ],
)
def test_normals_of_usd_turn_with_their_mesh(tmp_path, pxr, kind, values):
    path = textured_quad(tmp_path, diffuseColor=("wood.png", "rgb"))
    picture(tmp_path / "wood.png", BLUE)
    stage = pxr.Usd.Stage.Open(str(path))
    shape = next(pxr.UsdGeom.Mesh(prim) for prim in stage.Traverse() if prim.IsA(pxr.UsdGeom.Mesh))
    shape.CreateNormalsAttr(values)
    shape.SetNormalsInterpolation(kind)
    pxr.UsdGeom.Xformable(shape).AddRotateXOp().Set(90.0)
    pxr.UsdGeom.Xformable(shape).AddScaleOp().Set((1, 1, -3))
    stage.GetRootLayer().Save()
    mesh, said = read(path)
    a, b, c = mesh.positions[mesh.faces[0]].astype(float)
    turned = np.cross(b - a, c - a)  # a mirrored face looks the other way, and so do its normals
    np.testing.assert_allclose(np.abs(mesh.normals[0]), [np.abs(turned / np.linalg.norm(turned))] * 3, atol=1e-6)
    assert not said


def test_usd_materials_keep_names_and_numbers(tmp_path, pxr):
    picture(tmp_path / "wood.png", BLUE)
    path = textured_quad(tmp_path, roughness=("wood.png", "r"))
    stage = pxr.Usd.Stage.Open(str(path))
    prim = next(prim for prim in stage.Traverse() if prim.IsA(pxr.UsdShade.Material))
    prim.SetDisplayName("Möbel aus Holz")
    surface = pxr.UsdShade.Material(prim).ComputeSurfaceSource("")[0]
    for name, kind, value in (
        ("diffuseColor", "Color3f", (1, 0, 0)),
        ("opacity", "Float", 0.5),
        ("opacityThreshold", "Float", 0.25),
        ("metallic", "Float", 1.0),
    ):
        surface.CreateInput(name, getattr(pxr.Sdf.ValueTypeNames, kind)).Set(value)
    stage.GetRootLayer().Save()
    mesh, said = read(path)
    material = mesh.materials[0]
    assert material.name == "Möbel aus Holz" and not said
    assert (
        material.metallic_roughness["baseColorFactor"] == [1, 0, 0, 0.5]
        and material.metallic_roughness["metallicFactor"] == 1
    )
    assert material.gltf["alphaMode"] == "MASK" and material.gltf["alphaCutoff"] == 0.25


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
