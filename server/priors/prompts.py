# SPDX-License-Identifier: GPL-3.0-or-later
"""View words: telling the prior which side of the object a camera sees (DreamFusion, section 3.2); and prompts as
tokens, of which none is lost in silence."""

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# Counter-clockwise from above, an eighth of a turn each. Finer words than front, side and back, because the mean
# of all that "side view" can mean is symmetric, and so is then the object: a stool for a chair.
DIRECTIONS = ("front", "front right", "right side", "back right", "back", "back left", "left side", "front left")
VIEWS = (*DIRECTIONS, "overhead")
_OWN_VIEW = re.compile(
    r"[\s,]*\b(?:(?:seen\s+)?(?:in|from)\s+(?:the|a)\s+)?"
    r"(?:front|back|rear|side|left|right|top|overhead|profile)(?:[\s-]+(?:left|right|side))?[\s-]+view\b(?:\s+of\b\s*)?",
    re.IGNORECASE,
)

_CAMERA = re.compile(f", (?:{'|'.join(sorted(VIEWS, key=len, reverse=True))}) view\\b")  # as `view_prompts` adds it
_TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
# How other programs weigh words: (word:1.3), ((word)), [word:other:0.5].
_WEIGHT = re.compile(r"\([^()]+:\s*-?[\d.]+\s*\)|\({2,}[^()]+\){2,}|\[[^\[\]]+:[^\[\]]*\]")
NAMED = 12  # unknown characters in a sentence


def view_word(azimuth: float, elevation: float) -> str:
    """The one of `VIEWS` of a camera at these angles in degrees.

    Azimuth 0 looks along +Y at the front, 90 stands at +X, the right; it may take any number of turns.
    """
    return "overhead" if elevation > 55 else DIRECTIONS[math.floor(azimuth / 45 + 0.5) % 8]


def without_view(prompt: str) -> str:
    """The prompt without a view of its own, which would contradict a camera's: a prompt that says "front view" for
    all sides makes fronts of them (Hong et al. 2023, prompt debiasing). A prompt of nothing else stays."""
    return _OWN_VIEW.sub(" ", prompt).replace(" ,", ",").strip(" ,") or prompt


def view_prompts(prompt: str, azimuth: ArrayLike, elevation: ArrayLike) -> list[str]:
    """The prompt once per camera, with its view in place of one of its own: "a red chair, right side view".

    azimuth, elevation: degrees, numbers or (B,) arrays that broadcast.
    """
    angles = np.broadcast_arrays(np.atleast_1d(azimuth), np.atleast_1d(elevation))
    prompt = without_view(prompt)
    return [f"{prompt}, {view_word(float(a), float(e))} view" for a, e in zip(*angles, strict=True)]


def negative_prompts(prompt: str, elevation: ArrayLike, negative: str, contrast: ArrayLike) -> list[str]:
    """`negative` once per camera; with the prompt's view from overhead where `contrast` says so, unless that is the
    camera's own: "a red mushroom, overhead view, blurry".

    A side's word means many elevations, and the mode among them hides most: a mushroom from high up is a ball. What
    the guidance scale multiplies is then what tells the side from overhead, the stem. Perp-Neg (Armandpour et al.
    2023, arXiv 2304.04968) has such negatives beside the empty one; where chance picks either, none costs more.

    elevation: degrees; contrast: truths; (B,) arrays that broadcast.
    """
    (overhead,) = view_prompts(prompt, 0, 90)
    against = f"{overhead}, {negative}" if negative else overhead
    pairs = np.broadcast_arrays(np.atleast_1d(elevation), np.atleast_1d(contrast))
    return [
        against if yes and view_word(0, float(angle)) != "overhead" else negative
        for angle, yes in zip(*pairs, strict=True)
    ]


@dataclass(frozen=True)
class Tokens:
    """A text as a text encoder reads it."""

    ids: list[int]  # as many as it reads, with start, end and padding
    mask: list[int]  # 1 for a token, 0 for padding
    cut: str  # of the text, in the tokenizer's spelling, for which there was no room


def tokenize(tokenizer: Any, text: str, length: int) -> Tokens:
    """A text as `length` tokens. Where it is longer, a camera's view stays, and the words before it lose their end.

    Without a camera's view it loses its end, as with the tokenizer alone.
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
    cut = [tokenizer.decode(rest).strip("\ufffd ") for rest in (before[len(kept) :], after[len(end) :]) if rest]
    return Tokens([ids[0], *kept, *end, ids[-1]], [1] * length, " … ".join(cut) or "…")


def without_tags(text: str) -> str:
    """The text without the tags by which other programs load networks, such as <lora:name:0.8>."""
    return re.sub(rf"[\s,]*{_TAG.pattern}", "", text, flags=re.IGNORECASE).lstrip(" ,") if _TAG.search(text) else text


def remarks(tokenizer: Any, length: int, prompt: str, negative: str = "", contrast: bool = False) -> list[str]:
    """One sentence for each way in which a model of `length` tokens does not get a job's prompts as they were meant.

    contrast: views from overhead get into negative prompts, see `negative_prompts`.
    """

    def cut(*texts: str) -> str:
        return max((tokenize(tokenizer, text, length).cut for text in texts), key=len)

    said = []
    words = f"The model reads {length - 2} tokens"
    lost = cut(*view_prompts(prompt, range(0, 360, 45), 0), *view_prompts(prompt, 0, 90))
    if lost:
        said.append(f"{words}, the view's words among them, and does not get {lost!r}: shorten the prompt.")
    if lost_too := cut(negative):
        said.append(f"{words} of a negative prompt and does not get {lost_too!r}: shorten the negative prompt.")
    if contrast and negative and (both := cut(*negative_prompts(prompt, 0, negative, True))) not in (lost, lost_too):
        said.append(
            f"{words} of prompt and negative prompt together, where they stand against views from overhead, "
            f"and does not get {both!r} there: shorten one of them."
        )
    together = f"{prompt} {negative}"
    if unknown := _unknown_characters(tokenizer, without_tags(together)):
        more = ", …" if len(unknown) > NAMED else ""
        said.append(
            f"The model does not know {', '.join(unknown[:NAMED])}{more}: what they mean is lost. Write the "
            "prompt in English words."
        )
    if weights := _WEIGHT.findall(together):
        said.append(f"{', '.join(weights)} gets no weight, but is read as text: write the words alone.")
    if tags := _TAG.findall(together):
        said.append(f"{', '.join(tags)} is left out, as no LoRA is loaded by a prompt.")
    return said


def _unknown_characters(tokenizer: Any, text: str) -> list[str]:
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
