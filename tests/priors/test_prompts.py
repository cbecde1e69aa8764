# SPDX-License-Identifier: GPL-3.0-or-later
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.priors.prompts import view_prompts, view_words


def test_view_words():
    azimuth = torch.tensor([0.0, 45, -45, 46, 90, -134, 135, 180, -180, 225, 300, 315, 360, 0, 90])
    elevation = torch.tensor([0.0, 55, -20, 10, 30, 0, 0, 0, 0, 0, 0, 0, 0, 56, 90])
    assert view_words(azimuth, elevation) == [
        *["front"] * 3, *["side"] * 3, *["back"] * 4, "side", *["front"] * 2, *["overhead"] * 2,
    ]  # fmt: skip


def test_view_prompts():
    assert view_prompts("a red chair", [0, 90, 180], 70) == ["a red chair, overhead view"] * 3
    assert view_prompts("a red chair", -100, 20) == ["a red chair, side view"]


@given(azimuth=st.floats(-180, 180), turns=st.integers(-3, 3), elevation=st.floats(-90, 90))
def test_a_whole_turn_changes_nothing(azimuth, turns, elevation):
    azimuth = round(azimuth)  # so that adding turns is exact
    assert view_words(azimuth, elevation) == view_words(azimuth + 360 * turns, elevation)
    assert view_words(azimuth, elevation) == view_words(-azimuth, elevation)
