# SPDX-License-Identifier: GPL-3.0-or-later
"""Texture and refine on an artist's mesh: protected parts stay the same bit for bit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from msd_blender.protocol import FILES, JobRequest, Log, Progress, Snapshot
from server.checkpoint import Checkpoints
from server.geometry.files import load
from server.geometry.mesh import Mesh
from server.geometry.normals import face_normals
from server.optimize import Paused, generate
from tests.optimize.meshes import rainbow, sample, seam_and_interior, suzanne

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def monkey(tmp_path_factory):
    return suzanne(tmp_path_factory.mktemp("suzanne"))


@pytest.fixture(scope="module")
def ball():
    """A closed ball without UVs, off the origin and of unusual size."""
    shape = trimesh.creation.icosphere(3, 25.0)
    positions = np.asarray(shape.vertices, np.float32) + np.array([40, 0, -3], np.float32)
    return Mesh(positions, np.asarray(shape.faces, np.int32))


def run(
    folder,
    tiny,
    mesh,
    mode="texture",
    cancelled=lambda: False,
    checkpoints=None,
    paused=lambda: False,
    edit=None,
    **changes,
):
    """Run a job: (the last snapshot's arrays, all messages)."""
    messages = []
    folder.mkdir(exist_ok=True)
    request = JobRequest(
        **{
            "prompt": "a red mushroom",
            "mode": mode,
            "mesh": "x" if mesh else "",
            "texture_size": 128,
            **tiny,
            **changes,
        }
    )
    generate(request, folder, messages.append, cancelled, checkpoints=checkpoints, paused=paused, mesh=mesh, edit=edit)
    return [message for message in messages if isinstance(message, Snapshot)][-1].arrays, messages


def after(count):
    """A function that returns False `count` times, then True."""
    asked = []
    return lambda: asked.append(1) or len(asked) > count


def same(arrays, mesh, *names):
    for name in names:
        assert arrays[name].tobytes() == getattr(mesh, name).tobytes(), name
        assert arrays[name].dtype == getattr(mesh, name).dtype


@pytest.mark.parametrize("name", ["", "generic-hand", "meta-quest-touch-plus", "oculus-touch-v3"])
def test_texture_keeps_vertices_and_uvs_and_shows_no_seam(tiny, tmp_path, monkey, capsys, name):
    mesh = sample(name) if name else monkey
    arrays, messages = run(tmp_path, tiny, mesh, texture_size=1024)
    same(arrays, mesh, "positions", "faces", "uvs", "colours")
    seam, interior = seam_and_interior(Mesh.from_arrays(arrays))
    with capsys.disabled():
        print(
            f"\n{name or 'Suzanne'}, {len(mesh.faces):,} faces: the colour jumps {seam:.2f} across seams, "
            f"{interior:.2f} elsewhere"
        )
    assert seam <= interior + 2 and interior > 0.05
    assert arrays["texture.0"].shape == (1024, 1024, 3)
    texels = arrays["texture.0"].reshape(-1, 3)[::97].astype(int)
    assert texels.std(axis=0).max() > 40  # from the vertex colours
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    assert {message.phase for message in messages if isinstance(message, Progress)} == {"texture", "files"}
    assert arrays["preview"].shape == (128, 128, 3) and arrays["preview"].std() > 5


def test_the_file_has_the_artists_values(tiny, tmp_path, monkey):
    run(tmp_path, tiny, monkey)
    made = trimesh.load_mesh(tmp_path / "mesh.glb", process=False)
    turned = np.stack([monkey.positions[:, 0], monkey.positions[:, 2], -monkey.positions[:, 1]], axis=1)
    corner = np.concatenate([turned[monkey.faces].reshape(-1, 3), monkey.uvs.reshape(-1, 2)], axis=1)
    uv = np.asarray(made.visual.uv, np.float32)
    written = np.concatenate([np.asarray(made.vertices, np.float32), uv], axis=1)[made.faces.reshape(-1)]
    np.testing.assert_array_equal(written[:, :3], corner[:, :3])
    np.testing.assert_allclose(written[:, 3:], corner[:, 3:], atol=1e-7)  # v starts at the top in the file


def test_a_mesh_without_uvs_is_only_unwrapped(tiny, tmp_path, ball):
    arrays, _ = run(tmp_path, tiny, ball)
    same(arrays, ball, "positions", "faces")
    assert arrays["uvs"].shape == (len(ball.faces), 3, 2) and arrays["texture.0"].shape == (128, 128, 3)
    assert "colours" not in arrays


def test_unwrapping_a_large_mesh_tells_how_far_it_is(tiny, tmp_path):
    sphere = trimesh.creation.icosphere(5)
    mesh = Mesh(np.asarray(sphere.vertices, np.float32), sphere.faces.astype(np.int32))
    _, messages = run(tmp_path, tiny, mesh, iterations=1)
    shares = [each.share for each in messages if isinstance(each, Progress) and each.phase == "unwrap"]
    assert shares[0] is None and len(shares) > 1 and sorted(shares[1:]) == shares[1:] and shares[-1] <= 1


def test_faces_without_uvs_are_named(tiny, tmp_path, monkey):
    uvs = monkey.uvs.copy()
    uvs[:7] = 0.5
    arrays, messages = run(tmp_path, tiny, replace(monkey, uvs=uvs))
    assert arrays["uvs"].tobytes() == uvs.tobytes()
    (warning,) = (message.message for message in messages if isinstance(message, Log))
    assert warning.startswith("7 of 968 faces") and "unwrap" in warning


def test_each_slot_keeps_its_size_and_frozen_texels(tiny, tmp_path, monkey):
    rng = np.random.default_rng(0)
    slots = (monkey.positions[monkey.faces].mean(axis=1)[:, 2] > 0).astype(np.int32) * 3
    pictures = {
        "texture.0": rng.integers(0, 256, (64, 32, 3), np.uint8),
        "texture.3": rng.integers(0, 256, (96, 96, 3), np.uint8),
        "frozen.3": (np.arange(96 * 96).reshape(96, 96) % 96 < 48).astype(np.uint8),
    }
    mesh = replace(monkey, slots=slots, textures=pictures)
    arrays, _ = run(tmp_path, tiny, mesh)
    same(arrays, mesh, "positions", "faces", "uvs", "slots")
    assert arrays["texture.0"].shape == (64, 32, 3) and arrays["texture.3"].shape == (96, 96, 3)
    frozen = pictures["frozen.3"] > 0
    np.testing.assert_array_equal(arrays["texture.3"][frozen], pictures["texture.3"][frozen])
    assert (arrays["texture.3"][~frozen] != pictures["texture.3"][~frozen]).any()
    assert (arrays["texture.0"] != pictures["texture.0"]).any()
    written = load(tmp_path / "mesh.glb")
    assert sorted(np.bincount(written.slots)) == sorted(np.bincount(slots)[[0, 3]])
    for made, slot in (("texture.0", 0), ("texture.1", 3)):
        np.testing.assert_array_equal(written.textures[made], arrays[f"texture.{slot}"])


def test_mirrored_halves_share_their_texels_without_a_seam(tiny, tmp_path, ball):
    """On a ball whose halves share UVs, the texels have the mean of both sides' colours."""
    x, y, z = ((ball.positions[ball.faces] - [40, 0, -3]) / 25).transpose(2, 0, 1)
    uvs = np.stack([0.5 + 0.4 * y, 0.5 + 0.4 * z], axis=2).astype(np.float32)
    mesh = replace(ball, uvs=uvs, colours=rainbow(ball.positions / 25))
    arrays, _ = run(tmp_path, tiny, mesh, iterations=1)
    texel = (arrays["uvs"] * 128).astype(int)
    seen = arrays["texture.0"][texel[..., 1], texel[..., 0]].astype(float)
    mirrored = mesh.positions * [-1, 1, 1] + [80, 0, 0]
    both = (rainbow(mesh.positions / 25).astype(float) + rainbow(mirrored / 25)) / 2
    facing = np.abs(x) > 0.5  # without the rim, where texels are stretched
    assert np.abs(seen - both[mesh.faces])[facing].mean() < 12
    assert np.abs(rainbow(mesh.positions / 25) - both)[:, 0].mean() > 15
    # Locking one side also locks the shared texels of the other, with a warning.
    half = replace(mesh, locked=(mesh.positions[:, 0] < 40).astype(np.uint8))
    locked, messages = run(tmp_path, tiny, half, iterations=1)
    assert any("free faces share texels" in log.message for log in messages if isinstance(log, Log)), messages


def test_maps_are_painted_on_request(tiny, tmp_path, monkey):
    arrays, _ = run(tmp_path, tiny, monkey, maps=["roughness", "metallic", "normal"])
    for name in ("roughness.0", "metallic.0"):
        assert arrays[name].shape == (128, 128) and len(np.unique(arrays[name])) > 3
    normals = arrays["normal.0"].astype(float) / 127.5 - 1
    assert np.abs(np.linalg.norm(normals, axis=2) - 1).max() < 0.02 and normals[..., 2].min() > 0
    assert normals[..., :2].std() > 1e-3


def owned(mesh, size=128):
    """(size, size) bool: texels whose centres lie in faces with three locked corners."""
    mask = np.zeros((size, size), bool)
    column, row = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2)
    for a, b, c in mesh.uvs[(mesh.locked[mesh.faces] > 0).all(axis=1)].astype(float):
        (ux, uy), (vx, vy) = b - a, c - a
        area = ux * vy - uy * vx
        if area:
            s = ((column - a[0]) * vy - (row - a[1]) * vx) / area
            t = ((row - a[1]) * ux - (column - a[0]) * uy) / area
            mask |= (s > 0) & (t > 0) & (s + t < 1)
    return mask


@pytest.mark.parametrize("mode", ["texture", "refine"])
def test_locked_parts_stay_the_same_bit_for_bit(tiny, tmp_path, monkey, mode):
    picture = np.random.default_rng(1).integers(0, 256, (128, 128, 3), np.uint8)
    locked = (monkey.positions[:, 0] < 0).astype(np.uint8)
    mesh = replace(monkey, locked=locked, textures={"texture.0": picture})
    arrays, _ = run(tmp_path, tiny, mesh, mode, iterations=6)
    assert arrays["positions"][locked > 0].tobytes() == mesh.positions[locked > 0].tobytes()
    still = owned(mesh)
    assert still.mean() > 0.2
    np.testing.assert_array_equal(arrays["texture.0"][still], picture[still])
    assert (arrays["texture.0"][~still] != picture[~still]).mean() > 0.1
    moved = arrays["positions"][locked == 0] != mesh.positions[locked == 0]
    assert moved.any() == (mode == "refine")


def test_refine_moves_within_its_limits(tiny, tmp_path, ball):
    arrays, _ = run(tmp_path, tiny, ball, "refine", iterations=6, max_displacement=0.5)
    far = np.linalg.norm(arrays["positions"].astype(float) - ball.positions, axis=1)
    assert 0.05 < far.max() <= 0.5 + 1e-5
    same(arrays, ball, "faces")
    assert arrays["colours"].shape == ball.positions.shape and "uvs" not in arrays


def test_refine_keeps_a_symmetric_mesh_symmetric(tiny, tmp_path):
    shape = trimesh.creation.icosphere(3)
    ball = Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32))
    arrays, _ = run(tmp_path, tiny, ball, "refine", iterations=6, symmetry="x")
    mirrored = arrays["positions"] * [-1, 1, 1]
    distance = np.linalg.norm(arrays["positions"][:, None] - mirrored[None], axis=2).min(axis=1)
    assert distance.max() < 1e-4 < np.abs(arrays["positions"] - ball.positions).max()


def test_refine_can_remesh(tiny, tmp_path, ball):
    arrays, messages = run(
        tmp_path, tiny, replace(ball, colours=rainbow(ball.positions)), "refine", remesh=True, target_faces=400
    )
    assert abs(len(arrays["faces"]) / 400 - 1) < 0.1
    assert not [message for message in messages if isinstance(message, Log)]


def test_remeshing_turns_the_texture_into_vertex_colours_with_a_warning(tiny, tmp_path, monkey):
    red = np.zeros((8, 8, 3), np.uint8) + np.array([250, 9, 9], np.uint8)
    arrays, messages = run(
        tmp_path, {**tiny, "iterations": 1}, replace(monkey, textures={"texture.0": red}), "refine", remesh=True
    )
    assert "uvs" not in arrays and arrays["colours"][:, 0].min() > 150 > arrays["colours"][:, 1:].max()
    assert ["texture becomes" in message.message for message in messages if isinstance(message, Log)] == [True]


@pytest.mark.parametrize(("flat", "words"), [(False, []), (True, ["the hard edges of the old ones are left out"])])
def test_remeshing_says_that_hard_edges_go_where_there_are_some(tiny, tmp_path, ball, flat, words):
    # The ball's faces meet at less than 20 degrees; the coarse one's do not.
    coarse = trimesh.creation.icosphere(1)
    mesh = Mesh(np.asarray(coarse.vertices, np.float32), coarse.faces.astype(np.int32)) if flat else ball
    normals = face_normals(mesh.positions, mesh.faces)[:, None].repeat(3, axis=1)
    _, messages = run(
        tmp_path, {**tiny, "iterations": 1}, replace(mesh, normals=normals), "refine", remesh=True, target_faces=300
    )
    assert [message.message.split(": ")[1].rstrip(".") for message in messages if isinstance(message, Log)] == words


@pytest.mark.parametrize("mode", ["texture", "refine"])
def test_a_resumed_run_ends_in_the_same_bytes(tiny, tmp_path, monkey, mode):
    mesh = replace(monkey, locked=(monkey.positions[:, 2] > 0.5).astype(np.uint8))
    whole, _ = run(tmp_path / "whole", tiny, mesh, mode)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(Paused):
        run(tmp_path / "part", tiny, mesh, mode, checkpoints=checkpoints, paused=after(2))
    again, _ = run(tmp_path / "part", tiny, mesh, mode, checkpoints=checkpoints)
    assert sorted(again) == sorted(whole)
    for name, array in whole.items():
        assert again[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("stop", [1, 6, 9])  # in the volume, surface and mesh phase
def test_a_job_resumes_from_an_artists_edit(tiny, tmp_path, monkey, stop):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    options = {**tiny, "iterations": 10}

    with pytest.raises(Paused):
        run(tmp_path / "out", options, None, "generate", checkpoints=checkpoints, paused=after(stop))
    locked = (monkey.positions[:, 0] < 0).astype(np.uint8)
    edited = Mesh(monkey.positions, monkey.faces, monkey.colours, locked=locked)
    with pytest.raises(Paused):
        run(tmp_path / "out", options, None, "generate", checkpoints=checkpoints, edit=("e1", edited), paused=after(0))
    later = Checkpoints(tmp_path / "checkpoints").newest()[1]
    assert later["edit"] == "e1" and later["iteration"] == stop
    arrays, messages = run(tmp_path / "out", options, None, "generate", checkpoints=checkpoints, edit=("e1", edited))
    same(arrays, edited, "faces")
    assert arrays["positions"][locked > 0].tobytes() == edited.positions[locked > 0].tobytes()
    assert (arrays["positions"] != edited.positions).any() == (stop < 9)
    assert arrays["colours"][locked > 0].tobytes() == edited.colours[locked > 0].tobytes()
    assert "texture.0" in arrays and "uvs" in arrays
    record = json.loads((tmp_path / "out" / "job.json").read_text())
    assert record["edit"] == "e1" and record["iterations"] == 10


def test_an_edited_prompt_is_warned_of_like_the_first(tiny, tmp_path, monkey):
    checkpoints = Checkpoints(tmp_path / "checkpoints")

    def warnings(prompt, paused):
        """Of a run up to its pause."""
        messages = []
        request = JobRequest(prompt, mode="texture", mesh="x", texture_size=64, **tiny)
        with pytest.raises(Paused):
            generate(
                request, tmp_path, messages.append, lambda: False, checkpoints=checkpoints, paused=paused, mesh=monkey
            )
        return [each.message for each in messages if isinstance(each, Log) and "does not know" in each.message]

    assert not warnings("a red mushroom", after(1))
    assert not warnings("a red mushroom", after(0))
    assert len(warnings("a red 狐", after(0))) == 1
    assert not warnings("a red 狐", after(0))


def test_a_cancelled_job_keeps_its_texture(tiny, tmp_path, monkey):
    run(tmp_path, {**tiny, "iterations": 100}, monkey, cancelled=after(2))
    assert json.loads((tmp_path / "job.json").read_text())["state"] == "cancelled"
    assert (tmp_path / "texture.png").exists()


def test_texture_without_its_mesh_is_an_error(tiny, tmp_path, ball):
    with pytest.raises(ValueError, match="give the mesh"):
        generate(JobRequest("a mug", mode="texture", mesh="x", **tiny), tmp_path, print, lambda: False)
