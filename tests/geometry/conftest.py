# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of mesh files."""

import pytest

from tests.geometry.foreign import BLUE, SQUARE, picture, read


@pytest.fixture
def square(tmp_path):
    """A square of wood, whose library and picture lie beside it."""
    (tmp_path / "my lib.mtl").write_text("newmtl Wood\nmap_Kd my wood.png\n")
    picture(tmp_path / "my wood.png", BLUE)
    (tmp_path / "square.obj").write_text(SQUARE)
    mesh, said = read(tmp_path / "square.obj")
    assert mesh.textures["texture.0"][0, 0].tolist() == list(BLUE) and not said
    return mesh


@pytest.fixture
def pxr():
    return pytest.importorskip("pxr")
