# SPDX-License-Identifier: GPL-3.0-or-later
"""UDIM tiles, with and without textures."""

import pytest

from tests.geometry.foreign import BLUE, GRAY, GREEN, SQUARE, picture, read, strip


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
