# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompts: view words say which side of the object a camera sees (DreamFusion, section 3.2), and a prompt that is too
long for a model loses nothing in silence."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Counter-clockwise from above, an eighth of a turn each. Finer words than front, side and back, because the pictures
# of a plain "side view" look left as often as right: their mean is symmetric, and turns a chair into a stool.
DIRECTIONS = ("front", "front right", "right side", "back right", "back", "back left", "left side", "front left")
VIEWS = (*DIRECTIONS, "overhead")
_OWN_VIEW = re.compile(
    r"[\s,]*\b(?:(?:seen\s+)?(?:in|from)\s+(?:the|a)\s+)?"
    r"(?:front|back|rear|side|left|right|top|overhead|profile)(?:[\s-]+(?:left|right|side))?[\s-]+view\b(?:\s+of\b\s*)?",
    re.IGNORECASE,
)

_CAMERA = re.compile(f", (?:{'|'.join(sorted(VIEWS, key=len, reverse=True))}) view\\b")  # as `view_prompts` adds it
_TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
_LORA_TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>", re.IGNORECASE)
# How other programs weigh words: (word:1.3), ((word)), [word:other:0.5].
_WEIGHT = re.compile(r"\([^()]+:\s*-?[\d.]+\s*\)|\({2,}[^()]+\){2,}|\[[^\[\]]+:[^\[\]]*\]")
MAX_NAMED = 12  # unknown characters in a sentence


def view_word(azimuth: float, elevation: float) -> str:
    """The one of `VIEWS` of a camera at these angles in degrees.

    Azimuth 0 looks along +Y at the front, 90 stands at +X, the right; it may take any number of turns.
    """
    return "overhead" if elevation > 55 else DIRECTIONS[math.floor(azimuth / 45 + 0.5) % 8]


def without_view(prompt: str) -> str:
    """The prompt without a view of its own, so that it does not contradict a camera's view.

    A prompt that says "front view" for every camera makes a front of every side (Hong et al. 2023, prompt debiasing).
    A prompt that is nothing but a view stays as it is.
    """
    return _OWN_VIEW.sub(" ", prompt).replace(" ,", ",").strip(" ,") or prompt


def view_prompts(prompt: str, azimuth: ArrayLike, elevation: ArrayLike) -> list[str]:
    """The prompt once per camera, with its view in place of one of its own: "a red chair, right side view".

    azimuth, elevation: degrees, numbers or (B,) arrays that broadcast.
    """
    angles = np.broadcast_arrays(np.atleast_1d(azimuth), np.atleast_1d(elevation))
    prompt = without_view(prompt)
    return [f"{prompt}, {view_word(float(a), float(e))} view" for a, e in zip(*angles, strict=True)]


def negative_prompts(prompt: str, elevation: ArrayLike, negative_prompt: str, against_overhead: ArrayLike) -> list[str]:
    """The negative prompt once per camera, preceded by the overhead view of the prompt where `against_overhead` asks.

    For "a red mushroom" and "blurry" that is "a red mushroom, overhead view, blurry"; cameras that are overhead
    themselves keep "blurry". A side's word covers many elevations, and the most likely pictures among them hide parts:
    a mushroom from high up is a ball. With this negative, classifier-free guidance amplifies the difference between
    side and overhead, which is the stem. Perp-Neg (Armandpour et al. 2023, arXiv 2304.04968) evaluates such a negative
    beside the empty one; drawing one of the two at random costs nothing.

    Args:
        elevation: (B,) degrees.
        against_overhead: (B,) bool; both broadcast.
    """
    (overhead,) = view_prompts(prompt, 0, 90)
    against = f"{overhead}, {negative_prompt}" if negative_prompt else overhead
    pairs = np.broadcast_arrays(np.atleast_1d(elevation), np.atleast_1d(against_overhead))
    return [
        against if yes and view_word(0, float(angle)) != "overhead" else negative_prompt
        for angle, yes in zip(*pairs, strict=True)
    ]


@dataclass(frozen=True)
class Tokens:
    """A text as a text encoder reads it."""

    ids: list[int]  # of the encoder's full length, with start, end and padding
    mask: list[int]  # 1 for a token, 0 for padding
    cut: str  # the part without room, in the tokenizer's spelling


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> Tokens:
    """A text as `length` tokens. In a longer text the camera's view stays, and the words before it lose their end.

    A longer text without a camera's view loses its end, as with the tokenizer alone.
    """
    text = without_tags(text)
    ids = tokenizer(text, verbose=False).input_ids
    if len(ids) <= length:
        padded = tokenizer(text, padding="max_length", max_length=length, truncation=True)
        return Tokens(padded.input_ids, padded.attention_mask, "")
    camera = _CAMERA.search(text)
    at = camera.start() if camera else len(text)
    before, after = (
        tokenizer(part, add_special_tokens=False, verbose=False).input_ids for part in (text[:at], text[at:])
    )
    room = length - 2
    kept, end = before[: max(0, room - len(after))], after[:room]
    cut = [str(tokenizer.decode(rest)).strip("\ufffd ") for rest in (before[len(kept) :], after[len(end) :]) if rest]
    return Tokens([ids[0], *kept, *end, ids[-1]], [1] * length, " … ".join(cut) or "…")


def lora_tags(prompt: str) -> list[tuple[str, str]]:
    """The tags of a prompt that name LoRAs, each whole and its content: ("<lora:shiny:0.8>", "shiny:0.8")."""
    return [(match[0], match[1]) for match in _LORA_TAG.finditer(prompt)]


def without_tags(text: str) -> str:
    """The text without the tags that load networks in other programs, such as <lora:name:0.8>."""
    return re.sub(rf"[\s,]*{_TAG.pattern}", "", text, flags=re.IGNORECASE).lstrip(" ,") if _TAG.search(text) else text


def unknown_words(prompt: str, known: Collection[str]) -> list[str]:
    """The words of a prompt that are not among the known ones, in order."""
    found = re.findall(r"[a-z0-9']+", without_tags(prompt).lower())
    return [word for word in dict.fromkeys(found) if word not in known]


def prompt_warnings(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    prompt: str,
    negative_prompt: str = "",
    against_overhead: bool = False,
) -> list[str]:
    """One sentence for each part of a job's prompts that does not reach a model of `length` tokens.

    against_overhead: views from overhead get into negative prompts, see `negative_prompts`.
    """

    def longest_cut(*texts: str) -> str:
        return max((tokenize(tokenizer, text, length).cut for text in texts), key=len)

    warnings = []
    reads = f"The model reads {length - 2} tokens"
    cut = longest_cut(*view_prompts(prompt, range(0, 360, 45), 0), *view_prompts(prompt, 0, 90))
    if cut:
        warnings.append(f"{reads}, the view's words among them, and does not get {cut!r}: shorten the prompt.")
    if negative_cut := longest_cut(negative_prompt):
        warnings.append(f"{reads} of a negative prompt and does not get {negative_cut!r}: shorten the negative prompt.")
    if against_overhead and negative_prompt:
        both_cut = longest_cut(*negative_prompts(prompt, 0, negative_prompt, True))
        if both_cut and both_cut not in (cut, negative_cut):
            warnings.append(
                f"{reads} of prompt and negative prompt together, where they stand against views from overhead, "
                f"and does not get {both_cut!r} there: shorten one of them."
            )
    together = f"{prompt} {negative_prompt}"
    if unknown := _unknown_characters(tokenizer, without_tags(together)):
        more = ", …" if len(unknown) > MAX_NAMED else ""
        warnings.append(
            f"The model does not know {', '.join(unknown[:MAX_NAMED])}{more}: what they mean is lost. Write the "
            "prompt in English words."
        )
    if weights := _WEIGHT.findall(together):
        warnings.append(f"{', '.join(weights)} gets no weight, but is read as text: write the words alone.")
    if tags := [tag for tag in _TAG.findall(prompt) if not _LORA_TAG.fullmatch(tag)] + _TAG.findall(negative_prompt):
        warnings.append(f"{', '.join(tags)} is left out: of tags, only those of LoRAs in the prompt are read.")
    return warnings


def _unknown_characters(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Letters, digits and pictures for which the tokenizer has single bytes, or nothing; in order."""

    def known(character: str) -> bool:
        for text, most in ((character, 1), (character + "a", 2)):  # it may be known within a word only
            ids = tokenizer(text, add_special_tokens=False).input_ids
            if 0 < len(ids) <= most and not set(ids) & set(tokenizer.all_special_ids):
                return True
        return False

    characters = dict.fromkeys(unicodedata.normalize("NFC", text).lower())
    return [
        each
        for each in characters
        if (unicodedata.category(each)[0] in "LN" or unicodedata.category(each) == "So") and not known(each)
    ]
