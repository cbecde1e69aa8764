# SPDX-License-Identifier: GPL-3.0-or-later
import re
from itertools import groupby

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from server.priors import BUNDLED_MODEL, load, reading
from server.priors.prompts import (
    DIRECTIONS,
    VIEWS,
    Reading,
    negative_prompts,
    tokenize,
    unread_loras,
    unweighted,
    view_prompts,
    view_word,
    weighted_parts,
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
def test_the_cameras_view_replaces_the_prompts(prompt, bare):
    assert without_view(prompt) == bare
    assert view_prompts(prompt, 180, 0) == [f"{bare}, back view"]


def test_overhead_is_the_negative_prompt_of_chosen_side_views_only():
    assert negative_prompts("a red chair, front view", [10, 10, 70], "", [True, False, True]) == [
        "a red chair, overhead view",
        "",
        "",
    ]
    assert negative_prompts("a red chair", [10, 70], "blurry", torch.tensor([True, True])) == [
        "a red chair, overhead view, blurry",
        "blurry",
    ]


def test_each_camera_may_have_a_prompt_of_its_own():
    own = ["a red chair, front view", "a door", "a red chair"]
    assert view_prompts(own, [0, 180, 90], [0, 0, 80]) == [
        "a red chair, front view",
        "a door, back view",
        "a red chair, overhead view",
    ]
    assert negative_prompts(own, [0, 0, 80], "ugly", [True, True, True]) == [
        "a red chair, overhead view, ugly",
        "a door, overhead view, ugly",
        "ugly",
    ]
    assert negative_prompts(own, 0, "", [False, True, False]) == ["", "a door, overhead view", ""]


def test_tags_of_cameras_load_nothing():
    job, tag, other = "a chair <lora:shiny:1>", "<lora:old>", "<lora:shiny:1>"
    assert unread_loras([job]) == unread_loras([job, f"a door {other}", "a <hypernet:x>"]) == []
    assert unread_loras(["a chair", f"a {tag} door {other}", tag]) == [
        f"{tag}, {other} in a camera's prompt loads nothing: write it in the job's prompt."
    ]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_word_is_recognized(view):
    assert without_view(f"a red chair, {view} view") == "a red chair"


@given(azimuth=st.integers(-180, 180), turns=st.integers(-3, 3), elevation=st.floats(-90, 90))
def test_view_words_are_periodic_and_mirror_left_and_right(azimuth, turns, elevation):
    word = view_word(azimuth, elevation)
    assert view_word(azimuth + 360 * turns, elevation) == word
    other = {"left": "right", "right": "left"}
    if (azimuth - 22.5) % 45:
        assert view_word(-azimuth, elevation) == " ".join(other.get(w, w) for w in word.split())


def test_every_direction_covers_an_eighth_of_a_turn():
    words = [view_word(azimuth, 0) for azimuth in range(360)]
    assert {d: words.count(d) for d in DIRECTIONS} == dict.fromkeys(DIRECTIONS, 45)


@given(text=st.one_of(st.text(max_size=40), st.lists(st.sampled_from(LONG.split()), max_size=20).map(" ".join)))
def test_a_text_without_view_is_tokenized_as_is(tokenizer, text):
    assume(without_tags(text) == text and not set(r"()[]\\") & set(text))
    tokens, own = tokenize(tokenizer, text, 16), tokenizer(text, padding="max_length", max_length=16, truncation=True)
    assert (tokens.ids, tokens.mask) == ([own.input_ids], [own.attention_mask]) and not tokens.are_weighted


def test_a_text_that_fits_is_tokenized_as_is(tokenizer):
    (text,) = view_prompts("a spotted red mushroom", 45, 0)
    assert tokenize(tokenizer, text, 16).ids == [tokenizer(text, padding="max_length", max_length=16).input_ids]
    assert not tokenize(tokenizer, text, 16).cut and not Reading(tokenizer, 16).warnings("a spotted red mushroom")


@pytest.mark.parametrize("prompt", [LONG, "x" * 1000, "赤いキノコ" * 200, f"front view of {LONG}", f"({LONG}:1.3)"])
def test_a_long_prompt_is_cut_before_the_view(tokenizer, prompt):
    own = {}
    for angle in range(0, 360, 45):
        (text,) = view_prompts(prompt, angle, 0)
        tokens = tokenize(tokenizer, text, 16)
        ((ids,), (mask,)) = tokens.ids, tokens.mask
        assert len(ids) == 16 and all(mask) and tokens.cut
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        assert decoded.endswith(f"{view_word(angle, 0)} view"), decoded
        own[tuple(ids)] = angle
    assert len(own) == 8


def test_a_long_negative_prompt_is_cut_before_its_view(tokenizer):
    (text,) = negative_prompts(LONG, 0, "blurry " * 20, True)
    decoded = tokenizer.decode(tokenize(tokenizer, text, 16).ids[0], skip_special_tokens=True)
    assert decoded.startswith(", overhead view") or decoded.startswith("a red mushroom, overhead view"), decoded


def test_the_embeddings_of_eight_sides_differ():
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
        (60, ["a (red:1.3) chair, ((wooden)) [or] not"], []),
        (60, ["a [red:blue:0.5] chair [on|off]"], [r"\[red:blue:0.5\], \[on\|off\] .*less weight"]),
        (60, ["a red chair (wooden), front: 3"], []),
        (60, ["a chair <lora:shiny:0.8> <hypernet:x>", "<lyco:bad>"], ["^<hypernet:x>, <lyco:bad> is left out"]),
    ],
)
def test_prompt_warnings(tokenizer, length, given, words):
    warnings = Reading(tokenizer, length, weighs=True).warnings(*given)
    assert len(warnings) == len(words), warnings
    for sentence, pattern in zip(warnings, words):
        assert re.search(pattern, sentence) and not set("\n\ufffd") & set(sentence), sentence


@pytest.mark.parametrize("model", ["", "epsilon"])
def test_a_model_is_told_to_read_as_it_does_without_its_weights(folders, model):
    place = str(folders[model]) if model else ""
    known, distilled = reading(place)
    prior = load(place or None, "cpu")
    assert not distilled
    for texts in (["a red mushroom"], [LONG, LONG, True], ["a red 椅子 [a:b:0.5]", "<lyco:x>"], [LONG * 9, "", True]):
        assert known.warnings(*texts) == prior.prompt_warnings(*texts)


def test_what_is_unknown():
    known, _ = reading()
    assert known.unknown("a red dragon on a 椅子") == ["dragon", "on"]
    assert known.unknown("a red mushroom") == []


@pytest.mark.parametrize("text", ["a (red:1.3) chair", "a ((red)) chair", "a [red:blue:0.5] chair"])
def test_a_model_that_weighs_no_words_says_so(tokenizer, text):
    (warning,) = Reading(tokenizer, 60).warnings(text)
    assert "gets no weight, but is read as text" in warning


@pytest.mark.parametrize(
    ("text", "parts"),
    [  # the examples of A1111's documentation
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
        ("", []),
        ("a (:1.3) b: c) [d:1.5)", [("a ", 1), (" b: c) ", 1), ("d:1.5)", 1 / 1.1)]),
        (r"a \\(b: 2 ) c\d", [("a \\", 1), ("b", 2), (r" c\d", 1)]),
    ],
)
def test_weights_are_read_as_in_a1111(text, parts):
    got = weighted_parts(text)
    joined = [("".join(part for part, _ in same), weight) for weight, same in groupby(parts, lambda each: each[1])]
    assert [part for part, _ in got] == [part for part, _ in joined]
    assert [weight for _, weight in got] == pytest.approx([weight for _, weight in joined])


@given(st.text(alphabet="ab ()[]:.\\123", max_size=30))
def test_any_text_has_parts(text):
    parts = weighted_parts(text)
    assert all(part for part, _ in parts)
    assert len(unweighted(text)) <= len(text)
    assert unweighted(re.sub(r"[()\[\]\\]", r"\\\g<0>", text)) == text


def test_weights_do_not_reach_the_cameras_view(tokenizer):
    (text,) = view_prompts("a (red [wooden (chair", 90, 0)
    tokens = tokenize(tokenizer, text, 16)
    weighed = {tokenizer.decode(id): weight for id, weight in zip(tokens.ids[0], tokens.weights[0])}
    assert [weighed[word] for word in ("a", "red", "wooden", "chair")] == pytest.approx([1, 1.1, 1, 1.1])
    assert weighed["right"] == weighed["side"] == weighed["view"] == 1
    assert tokens.ids == tokenize(tokenizer, "a red wooden chair, right side view", 16).ids


@given(
    words=st.lists(st.sampled_from([*LONG.split(), "(thick:1.3)", "椅子"]), max_size=90),
    windows=st.integers(1, 4),
    length=st.sampled_from([16, 20, 77]),
)
def test_windows_lose_no_word_before_they_are_full(tokenizer, words, windows, length):
    (text,) = view_prompts(" ".join(words) or "a chair", 225, 0)
    tokens = tokenize(tokenizer, text, length, windows)
    assert len(tokens.ids) == len(tokens.mask) == len(tokens.weights) <= windows
    assert {len(each) for row in (tokens.ids, tokens.mask, tokens.weights) for each in row} == {length}
    plain = unweighted(text)
    read = [tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens.ids]
    assert read[-1].endswith(", back left view")
    if not tokens.cut:
        assert "".join(read).replace(" ", "") == plain.replace(" ", "")
    else:
        used = sum(sum(mask) - 2 for mask in tokens.mask)
        assert len(tokens.ids) == windows and used > windows * (length - 2) - 4 * windows - 6


def test_a_long_prompts_words_stay_whole(tokenizer):
    (text,) = view_prompts(" ".join([LONG] * 9), 90, 0)
    tokens = tokenize(tokenizer, text, 77, 8)
    assert len(tokens.ids) > 2 and not tokens.cut
    read = [tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens.ids]
    assert " ".join(read).split() == text.replace(",", " ,").split()
    assert "right side view" in read[-1]


@pytest.mark.parametrize(
    "text",
    [
        "a red chair <lora:shiny:0.8>, front view",
        "a <lora:a:1> red chair, front view",
        "<lora:a:1>, a red chair, <hypernet:b:.5>, front view",
    ],
)
def test_tags_are_left_out(tokenizer, text):
    assert without_tags(text) == "a red chair, front view"
    assert tokenize(tokenizer, text, 16).ids == tokenize(tokenizer, "a red chair, front view", 16).ids
