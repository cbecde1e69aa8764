# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.priors.prompts import DIRECTIONS, VIEWS, negative_prompts, view_prompts, view_word, without_view


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


@pytest.mark.parametrize(("prompt", "bare"), [
    ("a red chair, front view", "a red chair"), ("Front view of a red chair", "a red chair"),
    ("a red chair in a left side view", "a red chair"), ("a cat, seen from the back view, knitted", "a cat, knitted"),
    ("side-view, a car", "a car"), ("a chair with a view", "a chair with a view"),
    ("a left hand", "a left hand"), ("a front door", "a front door"), ("front view", "front view"), ("", "")])
def test_a_prompts_own_view_gives_way_to_the_cameras(prompt, bare):
    assert without_view(prompt) == bare
    assert view_prompts(prompt, 180, 0) == [f"{bare}, back view"]


def test_sides_are_told_from_overhead_where_asked_and_overhead_is_not():
    assert negative_prompts("a red chair, front view", [10, 10, 70], "", [True, False, True]) == [
        "a red chair, overhead view", "", ""]
    assert negative_prompts("a red chair", [10, 70], "blurry", torch.tensor([True, True])) == [
        "a red chair, overhead view, blurry", "blurry"]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_word_is_known_as_one(view):
    assert without_view(f"a red chair, {view} view") == "a red chair"


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
