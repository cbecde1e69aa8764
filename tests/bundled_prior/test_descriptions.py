# SPDX-License-Identifier: GPL-3.0-or-later
"""Descriptions, their labels and captions, and the objects that are built of them."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from server.bundled_prior import captions, objects, primitives, scenes, shapes, tokenizer
from server.bundled_prior.descriptions import SIZED, SUPPORTS, Description, Thing, decode, encode, random_description
from server.priors.prompts import VIEWS
from server.rendering.cameras import OBJECT_RADIUS


def described(seed):
    return random_description(np.random.default_rng(seed))


def grid(edge=72):
    axis = np.linspace(-OBJECT_RADIUS, OBJECT_RADIUS, edge)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(VIEWS))
def test_captions_are_read_back(seed, view):
    rng, description = np.random.default_rng(seed), described(seed)
    text = captions.describe(description, view, rng)
    words = text.replace(",", " ,").split()
    assert set(words) <= set(captions.full_vocabulary()) and len(words) <= captions.MOST_WORDS
    read, seen = captions.parse(text)
    assert seen in ("", view, *captions.BROADER_VIEWS.get(view, ()))
    assert read.relation == description.relation
    for said, meant in ((read.thing, description.thing), (read.other, description.other)):
        assert said == meant or replace(said, colour=meant.colour) == meant and said.colour == ""
    assert captions.parse(captions.plainest(description, view)) == (description, view)
    assert decode(encode(description)) == description


def test_prompts_of_the_issue_are_understood():
    expected = {
        "a red chair with a yellow seat": Description(Thing("chair", "red", part="seat", part_colour="yellow")),
        "a tall lamp": Description(Thing("lamp", size="tall")),
        "a table with three legs": Description(Thing("table", count=3)),
        "a black bridge with one arch": Description(Thing("bridge", "black", count=1)),
        "A wooden chair, seen from above": Description(Thing("chair", "brown", "wooden")),
        "a cat on a sofa": Description(Thing("cat"), "on", Thing("sofa")),
        "a red teddy bear next to the blue couch": Description(Thing("bear", "red"), "beside", Thing("sofa", "blue")),
    }
    assert {text: captions.parse(text)[0] for text in expected} == expected
    for text in ("a dragon", "red", "a red chair with wheels", "a chair, someday", "a red blue chair", "a mug with"):
        with pytest.raises(ValueError, match="must|should"):
            captions.parse(text)


def test_words_of_the_shipped_model_stay():
    """The labels of the classifier and of the weights in `model/`: places in these lists, and their captions' words."""
    assert list(shapes.ALL_NOUNS)[:24] == list(shapes.NOUNS) and shapes.LOOKS[:5] == shapes.FINISHES
    assert set(captions.vocabulary()) < set(captions.full_vocabulary())
    text = " ".join([*shapes.NOUNS, *shapes.COLOURS, *shapes.FINISHES, *captions.vocabulary()])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "3c1b512505c7e4f0"


def test_pictures_of_the_shipped_model_stay():
    """Its corpus, from which the classifier learned too: a change of the code changes rounding at most."""
    rng = np.random.default_rng(5)
    picks = objects.sample_labels(24, rng)
    pictures = objects.render([objects.scene(c, n, rng, finish=f) for c, n, f in picks], 16)
    assert picks[:2] == [("cyan", "airplane", "plain"), ("white", "airplane", "plain")]
    means = pictures.reshape(24, -1).mean(1).round(1)
    np.testing.assert_allclose(
        means,
        [
            118.8,
            59.1,
            167.4,
            101.7,
            129.1,
            121.2,
            109.6,
            210.8,
            81.1,
            170.4,
            153.7,
            146.3,
            73.0,
            135.0,
            91.5,
            91.7,
            180.8,
            220.1,
            78.8,
            104.6,
            220.1,
            49.9,
            110.5,
            111.9,
        ],
        atol=0.2,
    )


def test_the_longest_caption_fits_the_tokens(tmp_path):
    words = tokenizer.build_tokenizer(tmp_path, captions.full_vocabulary())
    for seed in range(80):
        rng = np.random.default_rng(seed)
        text = captions.describe(described(seed), "back right", rng)
        assert len(words(text.replace("3d", "")).input_ids) <= tokenizer.TOKENS, text


@pytest.mark.parametrize("seed", range(20))
def test_objects_of_descriptions_fill_the_ball(seed):
    description, points = described(seed), grid(48)
    inside = points[scenes.signed_distance(description, points, seed) < 0]
    assert 0.7 < np.linalg.norm(inside, axis=1).max() < OBJECT_RADIUS
    assert np.abs(inside.max(0) + inside.min(0)).max() < 0.15
    shell = np.random.default_rng(0).normal(size=(2000, 3))
    shell *= OBJECT_RADIUS / np.linalg.norm(shell, axis=1, keepdims=True)
    assert scenes.signed_distance(description, shell, seed).min() > 0
    again = scenes.signed_distance(description, points[::97], seed)
    assert np.array_equal(again, scenes.signed_distance(description, points[::97], seed))


@pytest.mark.parametrize("kind", range(8, 12))
def test_a_distance_is_a_distance(kind):
    """Zero on a closed surface and never too large: a ray would step through the object."""
    sizes = {
        primitives.LIMB: (0.3, 0.15, 0.4),
        primitives.ARC: (0.5, 0.15, 0.6),
        primitives.TAPER: (0.5, 0.3, 0.4, 0.2),
    }
    row = primitives.part(kind, (0.1, 0, 0), sizes.get(kind, (0.5, 0.3, 0.4, 0.3)), turn=primitives.rotation("y", 30))
    points = grid(40)
    distance = objects.distances(row[None], points)
    inside, outside = points[distance < 0], points[distance > 0]
    gap = np.linalg.norm(outside[::61, None] - inside[None], axis=-1).min(1)
    assert (distance[distance > 0][::61] <= gap + 1e-9).all()
    assert ndimage.label(distance.reshape(40, 40, 40) < 0)[1] == 1
    hull = primitives.hull_points(row)
    assert (inside >= hull.min(0) - 1e-6).all() and (inside <= hull.max(0) + 1e-6).all()
    step = 2 * OBJECT_RADIUS / 39
    assert (inside.min(0) <= hull.min(0) + 1.5 * step).all() and (inside.max(0) >= hull.max(0) - 1.5 * step).all()


def pieces(noun, count, height, size=72):
    """How many pieces a horizontal slice of the middle object has; height: share of its own, from below."""
    axis = np.linspace(-0.9, 0.9, size)
    z = primitives.bounds(scenes.build(Description(Thing(noun, count=count))))
    level = z[0][2] + height * (z[1][2] - z[0][2])
    points = np.stack([*(each.ravel() for each in np.meshgrid(axis, axis, indexing="ij")), np.full(size**2, level)], 1)
    distance = scenes.signed_distance(Description(Thing(noun, count=count)), points)
    return ndimage.label(distance.reshape(size, size) < 0)[1]


@pytest.mark.parametrize(
    "noun, count, height, ends", [("table", 3, 0.2, 0), ("table", 4, 0.2, 0), ("table", 6, 0.2, 0)]
)
def test_a_count_is_that_of_the_shape(noun, count, height, ends):
    assert pieces(noun, count, height) == count + ends


@pytest.mark.parametrize("count", shapes.COUNTS["castle"])
def test_towers_are_counted_above_the_keep(count):
    assert pieces("castle", count, 0.93) == count


@pytest.mark.parametrize("count", shapes.COUNTS["bridge"])
def test_arches_are_counted_between_piers(count):
    assert pieces("bridge", count, 0.04) == count + 1


@pytest.mark.parametrize("noun", shapes.ALL_NOUNS)
def test_a_part_has_its_colour_and_leaves_the_object_its_own(noun):
    for part in shapes.parts_of(noun):
        rows = scenes.build(Description(Thing(noun, "red", part=part, part_colour="blue")))
        blue, red = (rows[:, 3] > 0.5) & (rows[:, 1] < 0.05), (rows[:, 1] > 0.6) & (rows[:, 2] < 0.05)
        assert (blue == (rows[:, primitives.NAME] == primitives.PARTS.index(part) + 1)).all()
        points = grid(40)
        distance = objects.distances(rows, points)
        owner = objects.nearest_part(rows, points[np.abs(distance) < 0.03])
        assert blue[owner].mean() > 0.004 and red[owner].mean() > 0.03, part
    assert {each for each in shapes.parts_of(noun)} <= set(primitives.PARTS)


@pytest.mark.parametrize("size", SIZED)
def test_sizes_are_those_of_the_shape(size):
    axis, low, _ = shapes.SIZES[size]
    for noun in SIZED[size].split():

        def share(thing):
            least, most = primitives.bounds(scenes.build(Description(thing)))
            extent = most - least
            return extent[axis] / np.delete(extent, axis).max()

        changed = share(Thing(noun, size=size)) / share(Thing(noun))
        assert changed > 1.15 if low > 1 else changed < 0.85, (noun, changed)


@pytest.mark.parametrize("noun", SUPPORTS)
def test_a_thing_on_another_touches_it(noun):
    for seed in range(2):
        rows = scenes.build(Description(Thing("cake", "red"), "on", Thing(noun, "blue")), np.random.default_rng(seed))
        number = len(shapes.Shape.build("cake").parts)
        inside = objects.distances(rows, grid(48)) < 0.02  # a thin leg may lie between the grid's points
        assert ndimage.label(inside.reshape(48, 48, 48))[1] == 1
        (low, _), (_, top) = primitives.bounds(rows[:number]), primitives.bounds(rows[number:])
        assert low[2] < top[2] + 0.02


def test_things_side_by_side_stand_on_one_floor_apart():
    sides = set()
    for seed in range(8):
        rows = scenes.build(
            Description(Thing("cat", "red"), "beside", Thing("barn", "blue")), np.random.default_rng(seed)
        )
        number = len(shapes.Shape.build("cat").parts)
        (low, high), (floor, far) = primitives.bounds(rows[:number]), primitives.bounds(rows[number:])
        assert low[2] == pytest.approx(floor[2], abs=1e-9)
        assert low[0] > far[0] or high[0] < floor[0]
        sides.add(bool(low[0] > far[0]))
    assert sides == {True, False}


def test_metal_and_shine_are_seen():
    for look in ("metal", "shiny"):
        plain, changed = (
            objects.render([scenes.scene(Description(Thing("teapot", "red", each)), rng, np.array((20, 20)), False)])[0]
            for each in ("plain", look)
            for rng in [np.random.default_rng(0)]
        )
        behind = (plain == plain[0, 0]).all(-1)
        difference = np.abs(plain.astype(int) - changed).max(-1)
        assert (difference[~behind] > 40).mean() > 0.03 and not difference[behind].any()
