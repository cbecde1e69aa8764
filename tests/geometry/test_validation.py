# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad meshes in: each is taken as it is, or refused in one sentence."""

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_blender.protocol import MAX_FACES
from server.geometry.mesh import Mesh
from server.geometry.validation import validate


def ball(subdivisions=1):
    shape = trimesh.creation.icosphere(subdivisions)
    faces = np.asarray(shape.faces, np.int32)
    uvs = np.random.default_rng(0).random((len(faces), 3, 2), np.float32)
    return Mesh(
        np.asarray(shape.vertices, np.float32),
        faces,
        uvs=uvs,
        slots=np.zeros(len(faces), np.int32),
        locked=(np.asarray(shape.vertices)[:, 2] < 0).astype(np.uint8),
        textures={"texture.0": np.zeros((8, 4, 3), np.uint8), "frozen.0": np.zeros((8, 4), np.uint8)},
    )


def digest(mesh):
    return {
        name: (array.dtype, array.shape, hashlib.sha256(array.tobytes()).digest())
        for name, array in mesh.arrays().items()
    }


def with_faces(mesh, faces):
    return Mesh(mesh.positions, np.asarray(faces, np.int32))


def moved(mesh, change):
    return replace(mesh, positions=change(mesh.positions).astype(np.float32))


def some_bad_uvs():
    uvs = ball().uvs.copy()
    uvs[0], uvs[1] = 0.5, np.nan
    return replace(ball(), uvs=uvs)


KEPT = {
    "sound": ball,
    "open": lambda: with_faces(ball(), ball().faces[5:]),
    "non-manifold": lambda: with_faces(ball(), [*ball().faces, [ball().faces[0, 0], ball().faces[0, 1], 40]]),
    "double faces": lambda: with_faces(ball(), np.concatenate([ball().faces] * 2)),
    "inside out": lambda: with_faces(ball(), ball().faces[:, ::-1]),
    "degenerate faces": lambda: with_faces(ball(), [*ball().faces, [0, 0, 1], [2, 2, 2]]),
    "double and unused vertices": lambda: replace(
        with_faces(ball(), ball().faces), positions=np.tile(ball().positions, (2, 1))
    ),
    "two components": lambda: Mesh(
        np.concatenate([ball().positions, ball().positions + 5]),
        np.concatenate([ball().faces, ball().faces + len(ball().positions)]),
    ),
    "no UVs": lambda: replace(ball(), uvs=None),
    "bad UVs": some_bad_uvs,
    "flat": lambda: moved(ball(), lambda p: p * (1, 1, 0)),
    "a mountain": lambda: moved(ball(), lambda p: p * 4e5),
    "a grain": lambda: moved(ball(), lambda p: p * 1e-6),
    "far away": lambda: moved(ball(), lambda p: p + 1000),
}

REFUSED = {
    "no vertices": (lambda: Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)), "no faces"),
    "no faces": (lambda: with_faces(ball(), np.zeros((0, 3))), "no faces"),
    "NaN": (lambda: moved(ball(), lambda p: np.where(p > 0.9, np.nan, p)), "not a number"),
    "infinite": (lambda: moved(ball(), lambda p: np.where(p > 0.9, -np.inf, p)), "not a number"),
    "a corner too high": (lambda: with_faces(ball(), [[0, 1, 42]]), "not among its 42 vertices"),
    "a corner below zero": (lambda: with_faces(ball(), [[0, 1, -1]]), "not among"),
    "too many": (lambda: with_faces(ball(), np.zeros((MAX_FACES + 1, 3))), "decimate it to at most 2,000,000"),
    "too large": (lambda: moved(ball(), lambda p: p * 1e30), "scale it"),
    "too small": (lambda: moved(ball(), lambda p: p * 1e-30), "scale it"),
    "a point": (lambda: moved(ball(), lambda p: p * 0 + 1), "scale it"),
    "lost in space": (lambda: moved(ball(), lambda p: p + 1e6), "move it nearer"),
    "a line": (lambda: moved(ball(), lambda p: p * (1, 0, 0)), "has an area"),
    "degenerate only": (lambda: with_faces(ball(), [[0, 0, 1], [2, 3, 3]]), "has an area"),
    "all locked": (lambda: replace(ball(), locked=np.ones(42, np.uint8)), "locked group"),
    "slots below zero": (lambda: replace(ball(), slots=np.full(80, -1, np.int32)), "64 textures"),
    "many slots": (lambda: replace(ball(), slots=np.arange(80, dtype=np.int32)), "64 textures"),
    "UVs of another mesh": (lambda: replace(ball(), uvs=ball(2).uvs), "80 faces but UVs for 320"),
    "colours of another mesh": (lambda: replace(ball(), colours=np.zeros((3, 3), np.uint8)), "colours for 3"),
    "an empty image": (lambda: replace(ball(), textures={"texture.1": np.zeros((0, 4, 3), np.uint8)}), "no pixels"),
    "another mask": (
        lambda: replace(ball(), textures=ball().textures | {"frozen.0": np.zeros((8, 8), np.uint8)}),
        "frozen.0 is 8 x 8 and its texture 4 x 8",
    ),
}


@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT)
def test_what_can_be_worked_on_comes_through_byte_by_byte(make):
    mesh = make()
    before = digest(mesh)
    assert digest(validate(mesh)) == before == digest(mesh)


@pytest.mark.parametrize(("make", "part"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_is_refused_in_one_sentence(make, part):
    with pytest.raises(ValueError, match=re.escape(part)) as error:
        validate(make())
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text and len(text) < 200


def test_two_million_faces_are_taken():
    points = np.random.default_rng(0).random((1000, 3)).astype(np.float32)
    faces = np.random.default_rng(1).integers(0, 1000, (MAX_FACES, 3)).astype(np.int32)
    mesh = Mesh(points, faces)
    assert validate(mesh) is mesh


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(0, 5))
def test_any_bytes_are_taken_or_refused(seed, vertices, faces):
    rng = np.random.default_rng(seed)
    positions = np.frombuffer(rng.bytes(12 * vertices), np.float32).reshape(-1, 3)
    corners = rng.integers(-1, vertices + 1, (faces, 3)).astype(np.int32)
    uvs = np.frombuffer(rng.bytes(24 * faces), np.float32).reshape(-1, 3, 2)
    mesh = Mesh(positions, corners, uvs=uvs)
    try:
        assert validate(mesh) is mesh
    except ValueError as error:
        assert str(error).endswith(".")
