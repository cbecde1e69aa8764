# SPDX-License-Identifier: GPL-3.0-or-later
import numpy as np
import pytest
import trimesh

from server.bundled_prior import objects, shapes
from server.bundled_prior.descriptions import Description, Thing
from server.bundled_prior.scenes import truth_at
from server.evaluation import compare


def moved(mesh, yaw=1.1, scale=0.7, offset=(0.1, 0.2, -0.1)):
    turned = mesh.copy().apply_transform(trimesh.transformations.rotation_matrix(yaw, [0, 0, 1]))
    turned.apply_scale(scale)
    return turned.apply_translation(offset)


@pytest.mark.slow
@pytest.mark.parametrize("noun", ["mushroom", "chair", "mug"])
def test_a_yaw_a_scale_and_an_offset_do_not_matter(noun):
    real = compare.ground_truth(noun)
    assert np.abs(objects.signed_distance(noun, real.vertices)).max() < 0.02 and real.is_watertight
    scores = compare.compare_shapes(moved(real), noun)
    assert scores.iou > 0.98 and scores.f_score > 0.995 and scores.chamfer < 0.01


@pytest.mark.slow
def test_a_tilt_does_matter():
    tilted = compare.ground_truth("chair").apply_transform(trimesh.transformations.rotation_matrix(0.8, [1, 0, 0]))
    assert compare.compare_shapes(tilted, "chair").f_score < 0.8


@pytest.mark.slow
def test_unlike_things_are_far_apart():
    scores = compare.compare_shapes(compare.ground_truth("table"), "snowman")
    assert scores.iou < 0.5 and scores.f_score < 0.5 and scores.chamfer > 0.05


@pytest.mark.slow
def test_a_ball_of_another_size():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.3)
    scores = compare.compare_shapes(ball, "sphere")
    assert scores.iou > 0.97 and scores.f_score == 1


def test_glb_comes_back_in_our_axes(tmp_path):
    from server.geometry import files
    from server.geometry.mesh import Mesh

    real = compare.ground_truth("car", edge=40)
    positions = real.vertices.astype(np.float32)
    files.save(
        Mesh(positions, real.faces.astype(np.int32), np.full((len(positions), 3), 128, np.uint8)), tmp_path / "car.glb"
    )
    back = compare.load_glb(tmp_path / "car.glb")
    np.testing.assert_allclose(back.bounds, real.bounds, atol=1e-5)
    assert back.volume == pytest.approx(real.volume, rel=1e-4)


def test_nothing_can_not_be_compared():
    with pytest.raises(ValueError, match="no faces"):
        compare.compare_shapes(trimesh.Trimesh(), "mug")


@pytest.mark.slow
def test_a_description_has_its_own_truth():
    """Its mesh, and the names and colours of its parts on it."""
    three, four = (Description(Thing("table", "red", count=n, part="legs", part_colour="blue")) for n in (3, 4))
    mesh = compare.ground_truth(three, 64)
    assert mesh.is_watertight
    scores = compare.compare_shapes(mesh, three)
    assert scores.f_score > 0.999 and scores.iou > 0.9
    assert compare.compare_shapes(mesh, four).chamfer > 2 * scores.chamfer
    names, colours = truth_at(three, mesh.vertices)
    assert set(names) == {"top", "legs"}
    blue, red = (np.array(shapes.COLOURS[each]) for each in ("blue", "red"))
    np.testing.assert_allclose(colours, np.where((names == "legs")[:, None], blue, red), atol=1e-6)
    assert (mesh.vertices[names == "legs", 2] < mesh.vertices[:, 2].max() - 0.1).all()
