# SPDX-License-Identifier: GPL-3.0-or-later
"""Half of the cameras stand near the placed views, each of which gets its turn."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.rendering import cameras

ANGLES = st.tuples(st.floats(-180, 180), st.floats(-90, 90))
APART = 1.5 * cameras.NEAR  # degrees: both angles differ by `NEAR` at most


def drawn(batch, seed=3, **given):
    return cameras.sample(batch, torch.Generator().manual_seed(seed), **given)


def degrees_apart(views, placed):
    """From each of B cameras to each of P placed views: (B, P)."""
    azimuth, elevation = torch.tensor(placed, dtype=torch.float64).deg2rad().unbind(dim=1)
    flat = elevation.cos()
    wanted = torch.stack([azimuth.sin() * flat, -azimuth.cos() * flat, elevation.sin()])
    return (torch.nn.functional.normalize(views.position.double(), dim=1) @ wanted).clamp(-1, 1).acos().rad2deg()


@settings(deadline=None)
@given(
    placed=st.lists(ANGLES, max_size=6),
    groups=st.integers(1, 9),
    together=st.sampled_from([1, 4]),
    seed=st.integers(0, 2**31 - 1),
)
def test_each_second_one_stands_near_the_view_whose_turn_it_is(placed, groups, together, seed):
    views = drawn(groups * together, seed, together=together, placed=placed)
    plain = drawn(groups * together, seed, together=together)
    assert len(views) == groups * together and views.elevation.abs().max() <= math.pi / 2
    if not placed:
        assert views.placed is None and torch.equal(views.position, plain.position)
        return
    number = torch.arange(groups * together)
    near = number % (2 * together) == 0
    assert torch.equal(views.placed >= 0, near)
    turns = views.placed[near]
    assert torch.equal(turns, (turns[0] + torch.arange(len(turns))) % len(placed))
    assert (degrees_apart(views, placed)[near].gather(1, turns[:, None]) < APART).all()
    others = number // together % 2 == 1
    for name in ("azimuth", "elevation"):
        assert torch.equal(getattr(views, name)[others], getattr(plain, name)[others])
    for name in ("azimuth", "elevation", "distance", "fov"):  # of a group, but for the azimuth
        each = getattr(views, name).view(groups, together)
        turned = each - (2 * math.pi / together * torch.arange(together) if name == "azimuth" else 0)
        torch.testing.assert_close(turned, turned[:, :1].expand_as(turned), atol=1e-5, rtol=0)


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("view", [(150, 40), (-170.5, -20), (0, 80)])
def test_one_placed_view_draws_the_numbers_that_it_always_drew(view, together):
    """Bit for bit, and in this order: jobs of earlier versions are made anew by their seeds."""
    groups, generator = 8, torch.Generator().manual_seed(3)
    views = cameras.sample(groups * together, generator, together=together, placed=[view])
    other = torch.Generator().manual_seed(3)
    start = torch.rand(1, generator=other)
    jitter, low, high, overhead, beside, above, away = (torch.rand(groups, generator=other) for _ in range(7))
    assert torch.equal(generator.get_state(), other.get_state())
    spread = -cameras.NEAR + 2 * cameras.NEAR * torch.stack([beside, above])
    beside, above = (math.radians(angle) + torch.deg2rad(each) for angle, each in zip(view, spread))
    beside, above = beside + math.pi * (above.cos() < 0), torch.asin(above.sin())
    first = views.azimuth[::together], views.elevation[::together]
    assert torch.equal(first[0][::2], beside[::2]) and torch.equal(first[1][::2], above[::2])
    plain = 2 * math.pi / together * ((torch.arange(groups) + (jitter - 0.5)) / groups + start)
    torch.testing.assert_close(first[0][1::2], plain[1::2], atol=1e-5, rtol=0)
    assert set(views.placed.tolist()) == {0, -1}


@pytest.mark.parametrize("view", [(20, 90), (-60, -90), (0, 80)])
def test_beyond_a_pole_is_the_other_side(view):
    views = drawn(400, placed=[view])
    near = views.placed == 0
    assert views.elevation[near].abs().max() <= math.pi / 2
    assert (degrees_apart(views, [view])[near] < APART).all()
    turned = ((views.azimuth[near].rad2deg() - view[0]) % 360 - 180).abs()
    assert (turned < 90).any() and (turned > 90).any()


@pytest.mark.parametrize("batch, together", [(4, 1), (2, 1), (1, 1), (4, 4), (8, 4)])
@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_every_placed_view_gets_its_share(batch, together, count):
    """Over iterations as a job has them, each with few cameras."""
    placed, generator = [(50.0 * i - 180, 5.0) for i in range(count)], torch.Generator().manual_seed(5)
    seen = torch.cat([cameras.sample(batch, generator, together=together, placed=placed).placed for _ in range(1000)])
    counts = torch.bincount(seen[seen >= 0], minlength=count)
    total = 1000 * math.ceil(batch / together / 2)
    assert counts.sum() == total
    share = 1 / count
    assert (counts - total * share).abs().max() < 4 * math.sqrt(total * share * (1 - share))


def test_the_cameras_of_one_view_cover_all_of_its_surroundings():
    views = drawn(4000, placed=[(30, 10)])
    near = views.placed == 0
    for angles, middle in ((views.azimuth, 30), (views.elevation, 10)):
        away = angles[near].rad2deg() - middle
        assert away.min() < -0.98 * cameras.NEAR and away.max() > 0.98 * cameras.NEAR and away.mean().abs() < 1
    assert degrees_apart(views, [(30, 10)])[~near].max() > 120


def test_placed_views_move_to_a_device_with_the_cameras():
    views = drawn(4, placed=[(0, 0), (90, 0)]).to("meta")
    assert {part.device.type for part in vars(views).values()} == {"meta"} and len(vars(views)) == 5
    assert drawn(4).to("meta").placed is None
