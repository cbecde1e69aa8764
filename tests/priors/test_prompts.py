# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.priors.prompts import DIRECTIONS, view_prompts, view_word


@pytest.mark.parametrize(("azimuth", "elevation", "word"), [
    (0, 0, "front"), (-22, 10, "front"), (350, 55, "front"), (30, 0, "front right"), (90, -10, "right side"),
    (112, 30, "right side"), (135, 0, "back right"), (180, 0, "back"), (-180, 0, "back"), (225, 0, "back left"),
    (-90, 0, "left side"), (315, 0, "front left"), (0, 56, "overhead"), (90, 90, "overhead")])
def test_view_words(azimuth, elevation, word):
    assert view_word(azimuth, elevation) == word


def test_view_prompts():
    assert view_prompts("a red chair", [0, 90, 180], 70) == ["a red chair, overhead view"] * 3
    assert view_prompts("a red chair", torch.tensor([-100.0]), torch.tensor([20.0])) == [
        "a red chair, left side view"]


@given(azimuth=st.integers(-180, 180), turns=st.integers(-3, 3), elevation=st.floats(-90, 90))
def test_a_whole_turn_changes_nothing_and_the_mirror_swaps_left_and_right(azimuth, turns, elevation):
    word = view_word(azimuth, elevation)
    assert view_word(azimuth + 360 * turns, elevation) == word
    other = {"left": "right", "right": "left"}
    if (azimuth - 22.5) % 45:
        assert view_word(-azimuth, elevation) == " ".join(other.get(w, w) for w in word.split())


def test_every_direction_is_an_eighth_of_a_turn():
    words = [view_word(azimuth, 0) for azimuth in range(360)]
    assert {d: words.count(d) for d in DIRECTIONS} == dict.fromkeys(DIRECTIONS, 45)
