# SPDX-License-Identifier: GPL-3.0-or-later
import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from server.bundled_prior import captions, shapes
from server.priors.prompts import VIEWS, unknown_words


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(shapes.COLOURS)),
    st.sampled_from(sorted(shapes.NOUNS)),
    st.sampled_from(VIEWS),
    st.sampled_from(shapes.FINISHES),
    st.integers(0, 2**31),
)
def test_captions_hold_only_known_words(colour, noun, view, finish, seed):
    words = captions.caption(colour, noun, view, np.random.default_rng(seed), finish).replace(",", " ,").split()
    assert set(words) <= set(captions.vocabulary())
    for article, following in itertools.pairwise(words):
        if article in ("a", "an"):
            assert (article == "an") == (following[0] in "aeiou")


def test_a_finish_is_named_beside_the_colour():
    rng = np.random.default_rng(0)
    said = {captions.caption("red", "chair", "front", rng, "striped").split(",")[0] for _ in range(200)}
    assert {"a striped red chair", "a red striped chair", "a chair that is red and striped"} <= said
    assert all("red" in text and "strip" in text for text in said)
    wood = [captions.caption("brown", "chair", "front", rng, "wooden") for _ in range(200)]
    assert all("wood" in text for text in wood) and 60 < sum("brown" in text for text in wood) < 140


def test_unknown_words_are_found_whatever_their_case_and_marks():
    assert unknown_words("A Red mushroom, seen from the front!", captions.vocabulary()) == []
    assert unknown_words("a stripy teddy bear", captions.vocabulary()) == []
    assert unknown_words("a red chair <lora:shiny:0.8>", captions.vocabulary()) == []
    found = unknown_words("a dragon, a red dragon with 2 Wings", captions.vocabulary())
    assert found == ["dragon", "with", "2", "wings"]
