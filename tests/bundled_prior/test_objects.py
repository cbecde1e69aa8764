# SPDX-License-Identifier: GPL-3.0-or-later
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.bundled_prior import objects, shapes
from server.priors.prompts import VIEWS
from server.rendering.cameras import OBJECT_RADIUS

ALL = sorted(shapes.ALL_NOUNS)
# Beside the edge of a flat ellipsoid its distance is under-estimated, and so changes faster than the place.
FLAT = ("elephant", "fish", "flower", "penguin", "pumpkin", "turtle")


@pytest.mark.parametrize("noun", ALL)
def test_distance_is_nearly_lipschitz_and_fits_the_ball(noun):
    rng = np.random.default_rng(0)
    for seed in (None, 1, 2, 3):
        a = rng.uniform(-1, 1, (4000, 3))
        b = a + rng.normal(0, 0.02, a.shape)
        near, far = objects.signed_distance(noun, a, seed), objects.signed_distance(noun, b, seed)
        slope = np.abs(far - near) / np.linalg.norm(b - a, axis=1)
        assert np.quantile(slope, 0.9 if noun in FLAT else 0.99) <= 1.02
        outside = near > 0
        # The tracer must not step through the surface: no over-estimate of the distance to any inside point.
        inside = a[near < -1e-6]
        gaps = np.linalg.norm(a[outside][:400, None] - inside[None], axis=-1).min(1)
        assert (near[outside][:400] <= gaps + 1e-9).mean() > 0.995
        shell = rng.normal(size=(4000, 3))
        shell *= OBJECT_RADIUS / np.linalg.norm(shell, axis=1, keepdims=True)
        assert objects.signed_distance(noun, shell, seed).min() > 0


@pytest.mark.parametrize("noun", ALL)
def test_objects_fill_the_ball(noun):
    axis = np.linspace(-OBJECT_RADIUS, OBJECT_RADIUS, 60)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    inside = grid[objects.signed_distance(noun, grid) < 0]
    extent = inside.max(0) - inside.min(0)
    assert 0.9 < extent.max() < 1.7
    assert np.abs(inside.max(0) + inside.min(0)).max() < 0.15
    assert np.linalg.norm(inside, axis=1).max() > 0.75


def test_known_distances():
    origin = np.zeros((1, 3))
    assert objects.signed_distance("sphere", origin)[0] == pytest.approx(-shapes.RADIUS, abs=1e-6)
    assert objects.signed_distance("sphere", origin + (1, 0, 0))[0] == pytest.approx(1 - shapes.RADIUS, abs=1e-6)
    assert objects.signed_distance("donut", origin)[0] > 0.1  # the hole
    chair = objects.signed_distance("chair", np.array([(0, 0.2, -0.5), (0, 0.0, 0.6)]))
    assert (chair > 0.1).all()  # between the legs; above the seat


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_rendering_is_deterministic_and_shows_the_object(seed):
    def draw():
        rng = np.random.default_rng(seed)
        scenes = [objects.scene(c, n, rng, finish=f) for c, n, f in objects.sample_labels(3, rng)]
        return objects.render(scenes), {each.view for each in scenes}

    first, views = draw()
    second, _ = draw()
    assert np.array_equal(first, second)
    assert first.shape == (3, 64, 64, 3) and first.dtype == np.uint8
    assert views <= set(VIEWS)
    for picture in first:
        share = (np.abs(picture.astype(int) - picture[0, 0]).max(-1) > 8).mean()
        assert 0.02 < share < 0.8


def test_the_colour_goes_where_it_should():
    rng = np.random.default_rng(0)
    scenes = [objects.scene("red", "mushroom", rng, np.array([0, up]), vary=False) for up in (10, 75)]
    assert [each.view for each in scenes] == ["front", "overhead"]
    pictures = objects.render(scenes)
    cap, stem = pictures[0, 20, 32].astype(int), pictures[0, 48, 32].astype(int)
    assert cap[0] > 2 * cap[1] and stem.min() > 90


@pytest.mark.slow
@pytest.mark.parametrize("finish", shapes.FINISHES[1:])
@pytest.mark.parametrize("noun", sorted(shapes.NOUNS))
def test_a_finish_shows_both_its_colours_from_every_side(noun, finish):
    for angles in ((20, 20), (110, 10), (200, 20), (290, 30), (40, 60)):
        plain, covered = (
            objects.render(
                [objects.scene("red", noun, np.random.default_rng(0), np.array(angles), vary=False, finish=each)]
            )[0].astype(int)
            for each in ("plain", finish)
        )
        behind, changed = (plain == plain[0, 0]).all(-1), np.abs(plain - covered).max(-1) > 20
        painted = (plain[..., 0] > 60) & (plain[..., 0] > 3 * plain[..., 1]) & ~behind
        assert 0.05 < changed[painted].mean() < 0.85, angles
        assert not changed[behind].any()


def test_camera_stands_where_the_conventions_say():
    assert objects.camera_position(0, 0) == pytest.approx([0, -3, 0])
    assert objects.camera_position(90, 0) == pytest.approx([3, 0, 0])
    assert objects.camera_position(0, 90) == pytest.approx([0, 0, 3])


def test_bad_input_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="Unknown noun 'dragon'; choose one of: mushroom"):
        objects.signed_distance("dragon", np.zeros((1, 3)))
    with pytest.raises(ValueError, match="shape"):
        objects.signed_distance("mug", np.zeros(3))


def test_depths_are_those_of_a_ball():
    from dataclasses import replace

    rng = np.random.default_rng(0)
    scene = replace(objects.scene("red", "sphere", rng, vary=False), eye=np.array([0.0, -3.0, 0.0]))
    (depth,) = objects.render_depth([scene], 65)  # the middle pixel looks through the centre
    assert depth[32, 32] == pytest.approx(3 - shapes.RADIUS, abs=2e-3)
    column = np.flatnonzero(np.isfinite(depth[32]))
    slope = np.tan(np.radians(objects.FIELD_OF_VIEW / 2)) * (2 * (column + 0.5) / 65 - 1)
    # of a point (x, y): x = slope * y along the view, on the ball (y - 3)^2 + x^2 = r^2
    a, c = 1 + slope**2, 9 - shapes.RADIUS**2
    inside = 9 - a * c > 1e-2
    assert np.allclose(depth[32, column][inside], ((3 - np.sqrt(9 - a * c)) / a)[inside], atol=5e-3)
    assert np.isinf(depth[0]).all()


def test_a_point_of_the_surface_belongs_to_its_primitive():
    parts = shapes.Shape.build("mushroom").parts
    (top,), (bottom,) = (objects.nearest_part(parts, np.array([[0, 0, z]])) for z in (0.8, -0.8))
    assert (parts[top, 1:4] < 0).all() and (parts[bottom, 1:4] > 0).all()  # the cap is of the captioned colour
