# SPDX-License-Identifier: GPL-3.0-or-later
import re

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from server.priors import BUNDLED_MODEL, load
from server.priors.prompts import (
    DIRECTIONS,
    VIEWS,
    negative_prompts,
    prompt_warnings,
    tokenize,
    view_prompts,
    view_word,
    without_tags,
    without_view,
)

LONG = "a red mushroom with many small white dots on its cap, a thick stem, moss at its foot and a snail"


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(BUNDLED_MODEL / "tokenizer", local_files_only=True)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "word"),
    [
        (0, 0, "front"),
        (-22, 10, "front"),
        (350, 55, "front"),
        (30, 0, "front right"),
        (90, -10, "right side"),
        (112, 30, "right side"),
        (135, 0, "back right"),
        (180, 0, "back"),
        (-180, 0, "back"),
        (225, 0, "back left"),
        (-90, 0, "left side"),
        (315, 0, "front left"),
        (0, 56, "overhead"),
        (90, 90, "overhead"),
    ],
)
def test_view_words(azimuth, elevation, word):
    assert view_word(azimuth, elevation) == word


def test_view_prompts():
    assert view_prompts("a red chair", [0, 90, 180], 70) == ["a red chair, overhead view"] * 3
    assert view_prompts("a red chair", torch.tensor([-100.0]), torch.tensor([20.0])) == ["a red chair, left side view"]


@pytest.mark.parametrize(
    ("prompt", "bare"),
    [
        ("a red chair, front view", "a red chair"),
        ("Front view of a red chair", "a red chair"),
        ("a red chair in a left side view", "a red chair"),
        ("a cat, seen from the back view, knitted", "a cat, knitted"),
        ("side-view, a car", "a car"),
        ("a chair with a view", "a chair with a view"),
        ("a left hand", "a left hand"),
        ("a front door", "a front door"),
        ("front view", "front view"),
        ("", ""),
    ],
)
def test_a_prompts_own_view_gives_way_to_the_cameras(prompt, bare):
    assert without_view(prompt) == bare
    assert view_prompts(prompt, 180, 0) == [f"{bare}, back view"]


def test_sides_are_told_from_overhead_where_asked_and_overhead_is_not():
    assert negative_prompts("a red chair, front view", [10, 10, 70], "", [True, False, True]) == [
        "a red chair, overhead view",
        "",
        "",
    ]
    assert negative_prompts("a red chair", [10, 70], "blurry", torch.tensor([True, True])) == [
        "a red chair, overhead view, blurry",
        "blurry",
    ]


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


@given(text=st.one_of(st.text(max_size=40), st.lists(st.sampled_from(LONG.split()), max_size=20).map(" ".join)))
def test_a_text_without_a_camera_is_what_the_tokenizer_makes_of_it(tokenizer, text):
    assume(without_tags(text) == text)
    tokens, own = tokenize(tokenizer, text, 16), tokenizer(text, padding="max_length", max_length=16, truncation=True)
    assert (tokens.ids, tokens.mask) == (own.input_ids, own.attention_mask)


def test_a_text_that_fits_is_what_the_tokenizer_makes_of_it(tokenizer):
    (text,) = view_prompts("a spotted red mushroom", 45, 0)
    assert tokenize(tokenizer, text, 16).ids == tokenizer(text, padding="max_length", max_length=16).input_ids
    assert not tokenize(tokenizer, text, 16).cut and not prompt_warnings(tokenizer, 16, "a spotted red mushroom")


@pytest.mark.parametrize("prompt", [LONG, "x" * 1000, "赤いキノコ" * 200, f"front view of {LONG}", f"({LONG}:1.3)"])
def test_the_cameras_view_stays_however_long_the_prompt(tokenizer, prompt):
    own = {}
    for angle in range(0, 360, 45):
        (text,) = view_prompts(prompt, angle, 0)
        tokens = tokenize(tokenizer, text, 16)
        assert len(tokens.ids) == 16 and all(tokens.mask) and tokens.cut
        said = tokenizer.decode(tokens.ids, skip_special_tokens=True)
        assert said.endswith(f"{view_word(angle, 0)} view"), said
        own[tuple(tokens.ids)] = angle
    assert len(own) == 8


def test_a_negative_prompt_gives_way_before_the_view_that_it_is_about(tokenizer):
    (text,) = negative_prompts(LONG, 0, "blurry " * 20, True)
    said = tokenizer.decode(tokenize(tokenizer, text, 16).ids, skip_special_tokens=True)
    assert said.startswith(", overhead view") or said.startswith("a red mushroom, overhead view"), said


def test_sides_differ_for_the_network_too():
    prior = load(None, "cpu")
    for prompt in ("a red mushroom", LONG):
        embedded = prior.text_condition(view_prompts(prompt, range(0, 360, 45), 0), guidance_scale=1).embeddings
        assert len({tuple(each.flatten().tolist()) for each in embedded}) == 8


@pytest.mark.parametrize(
    ("length", "given", "words"),
    [
        (40, [LONG], [r"reads 38 tokens.*get '.*at its foot and a snail': shorten the prompt"]),
        (16, ["赤いキノコ" * 9], [r"does not get '.*キノコ': shorten the prompt", "does not know 赤, い, キ, ノ, コ:"]),
        (40, ["a red chair", LONG], ["negative prompt.*and a snail': shorten the negative prompt"]),
        (
            16,
            ["a red wooden chair", "a blue cone and a striped car", True],
            ["views from overhead.*'chair' there: short"],
        ),
        (16, ["a red wooden chair", "a blue cone and a striped car"], []),
        (60, ["a red 椅子 🦄, très chic"], ["does not know 椅, 子, 🦄, è: .*English"]),
        (60, ["a “red” chair – 3d…"], []),
        (60, ["a (red:1.3) chair"], [r"\(red:1.3\) .*no weight.*text"]),
        (60, ["a ((red)) chair"], [r"\(\(red\)\) .*no weight"]),
        (60, ["a [red:blue:0.5] chair"], [r"\[red:blue:0.5\] .*no weight"]),
        (60, ["a red chair (wooden), front: 3"], []),
        (60, ["a red chair <lora:shiny:0.8>", "<lyco:bad>"], ["<lora:shiny:0.8>, <lyco:bad> .*left out.*no LoRA"]),
    ],
)
def test_what_the_model_does_not_get_is_said(tokenizer, length, given, words):
    said = prompt_warnings(tokenizer, length, *given)
    assert len(said) == len(words), said
    for sentence, pattern in zip(said, words):
        assert re.search(pattern, sentence) and not set("\n\ufffd") & set(sentence), sentence


@pytest.mark.parametrize(
    "text",
    [
        "a red chair <lora:shiny:0.8>, front view",
        "a <lora:a:1> red chair, front view",
        "<lora:a:1>, a red chair, <hypernet:b:.5>, front view",
    ],
)
def test_tags_are_no_text(tokenizer, text):
    assert without_tags(text) == "a red chair, front view"
    assert tokenize(tokenizer, text, 16).ids == tokenize(tokenizer, "a red chair, front view", 16).ids
