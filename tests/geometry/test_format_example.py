# SPDX-License-Identifier: GPL-3.0-or-later
"""A file format is added by one module and one line of the registry: here OFF, by `off_format`."""

import numpy as np
import pytest
import trimesh

from server.geometry.files import FORMATS, MeshFileError, load, normalize_suffix, save
from server.geometry.mesh import Mesh
from tests.geometry import off_format


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(FORMATS, ".off", off_format)


def test_a_saved_mesh_is_read_again_with_the_same_bytes(tmp_path):
    shape = trimesh.creation.icosphere(2, 0.7)
    mesh = Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32))
    said = []
    assert save(mesh, tmp_path / "ball.off", warn=said.append) == [tmp_path / "ball.off"]
    read = load(tmp_path / "ball.off", said.append)
    assert not said and normalize_suffix("OFF") == ".off"
    assert read.positions.tobytes() == mesh.positions.tobytes() and read.faces.tobytes() == mesh.faces.tobytes()
    theirs = trimesh.load(tmp_path / "ball.off", process=False)
    np.testing.assert_allclose(theirs.vertices, mesh.positions)
    np.testing.assert_array_equal(theirs.faces, mesh.faces)


def test_it_shares_what_all_formats_do(tmp_path):
    """Polygons become triangles, damage an error of one sentence, and lost features a warning."""
    path = tmp_path / "quad.off"
    path.write_text("OFF # a square\n4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n")
    mesh = load(path)
    assert len(mesh.faces) == 2
    for damaged in ("FFO\n", "OFF\n4 1\n", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n"):
        path.write_text(damaged)
        with pytest.raises(MeshFileError, match=r"^quad\.off .*export"):
            load(path)
    said = []
    save(Mesh(mesh.positions, mesh.faces, uvs=np.zeros((2, 3, 2), np.float32)), path, warn=said.append)
    assert said == ["quad.off has no place for UV maps, which it is written without: GLB keeps them."]
