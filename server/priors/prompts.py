# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompts: view words say which side of the object a camera sees (DreamFusion, section 3.2), words have weights, and a
prompt that is too long for a model loses nothing in silence."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .files.layouts import Words

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
# Weights, (word:1.3), ((word)), [word:0.5], for models that do not heed them; and words that change with a picture's
# steps, [word:other:0.5], [word|other], for those that do.
_WEIGHT = re.compile(r"\([^()]+:\s*-?[\d.]+\s*\)|\({2,}[^()]+\){2,}|\[[^\[\]]+:[^\[\]]*\]")
_CHANGE = re.compile(r"\[[^\[\]]*[:|][^\[\]]*\]")
_MARKS = re.compile(
    r"\\(?P<escaped>[()\[\]\\])|(?P<open>[(\[])|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)|(?P<close>[)\]])"
    r"|(?P<text>[^\\()\[\]:]+|[\\:])"
)
_BRACKET = re.compile(r"[()\[\]\\]")
EMPHASIS = 1.1  # weight of (word); that of [word] is its inverse
MAX_WINDOWS = 8  # of a long text: more than `MAX_PROMPT` characters of English have
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


def view_prompts(prompt: str | Sequence[str], azimuth: ArrayLike, elevation: ArrayLike) -> list[str]:
    """The prompt once per camera, with its view in place of one of its own: "a red chair, right side view".

    Args:
        prompt: one for all cameras, or one for each.
        azimuth, elevation: degrees, numbers or (B,) arrays that broadcast.
    """
    angles = np.broadcast_arrays(np.atleast_1d(azimuth), np.atleast_1d(elevation))
    words = [view_word(float(a), float(e)) for a, e in zip(*angles, strict=True)]
    texts = [prompt] * len(words) if isinstance(prompt, str) else prompt
    return [f"{without_view(text)}, {word} view" for text, word in zip(texts, words, strict=True)]


def negative_prompts(
    prompt: str | Sequence[str], elevation: ArrayLike, negative_prompt: str, against_overhead: ArrayLike
) -> list[str]:
    """The negative prompt once per camera, preceded by the overhead view of the prompt where `against_overhead` asks.

    For "a red mushroom" and "blurry" that is "a red mushroom, overhead view, blurry"; cameras that are overhead
    themselves keep "blurry". A side's word covers many elevations, and the most likely pictures among them hide parts:
    a mushroom from high up is a ball. With this negative, classifier-free guidance amplifies the difference between
    side and overhead, which is the stem. Perp-Neg (Armandpour et al. 2023, arXiv 2304.04968) evaluates such a negative
    beside the empty one; drawing one of the two at random costs nothing.

    Args:
        prompt: one for all cameras, or one for each.
        elevation: (B,) degrees.
        against_overhead: (B,) bool; both broadcast.
    """
    pairs = np.broadcast_arrays(np.atleast_1d(elevation), np.atleast_1d(against_overhead))
    overhead = view_prompts(prompt, np.zeros(pairs[0].shape), 90)
    against = [f"{text}, {negative_prompt}" if negative_prompt else text for text in overhead]
    return [
        text if yes and view_word(0, float(angle)) != "overhead" else negative_prompt
        for text, angle, yes in zip(against, *pairs, strict=True)
    ]


def weighted_parts(text: str) -> list[tuple[str, float]]:
    """A text as parts and their weights, by the rules of A1111's web UI.

    (word:1.3) has the weight 1.3, (word) 1.1, [word] 1 / 1.1; nested weights multiply; a bracket that is not closed
    reaches to the end, and one that closes nothing is text. A backslash makes a bracket text.
    https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis
    """
    parts: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, weight: float) -> None:
        start = opened[bracket].pop()
        parts[start:] = [(part, weight * of) for part, of in parts[start:]]

    for mark in _MARKS.finditer(text):
        if mark["open"]:
            opened[mark["open"]].append(len(parts))
        elif mark["weight"] and opened["("]:
            close("(", float(mark["weight"]))
        elif mark["close"] == ")" and opened["("]:
            close("(", EMPHASIS)
        elif mark["close"] == "]" and opened["["]:
            close("[", 1 / EMPHASIS)
        else:
            parts.append((mark["escaped"] or mark[0], 1.0))
    for bracket, weight in (("(", EMPHASIS), ("[", 1 / EMPHASIS)):
        while opened[bracket]:
            close(bracket, weight)
    return [
        ("".join(part for part, _ in same), weight) for weight, same in itertools.groupby(parts, lambda each: each[1])
    ]


def unweighted(text: str) -> str:
    """The text without the marks of weights."""
    return "".join(part for part, _ in weighted_parts(text))


@dataclass(frozen=True)
class Tokens:
    """A text as a text encoder reads it, in windows of the encoder's full length."""

    ids: list[list[int]]  # with start, end and padding
    mask: list[list[int]]  # 1 for a token, 0 for padding
    weights: list[list[float]]  # 1 for start, end and padding
    cut: str  # the part without room, in the tokenizer's spelling

    @property
    def are_weighted(self) -> bool:
        return any(weight != 1 for window in self.weights for weight in window)


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str, length: int, windows: int = 1) -> Tokens:
    """A text as up to `windows` times `length` tokens, each window with start and end, as in A1111's web UI.

    A window ends with a word, and the camera's view stays in one. In a text that is longer still the camera's view
    stays, and the words before it lose their end; without a camera's view it loses its end.
    """
    text = without_tags(text)
    camera = _CAMERA.search(text)
    at, end = camera.span() if camera else (len(text), len(text))
    before, after = weighted_parts(text[:at]), weighted_parts(text[end:])
    parts = [*before, (text[at:end], 1.0), *after]
    if all(weight == 1 for _, weight in parts):
        plain = "".join(part for part, _ in parts)
        if len(tokenizer(plain, verbose=False).input_ids) <= length:
            padded = tokenizer(plain, padding="max_length", max_length=length, truncation=True)
            return Tokens([padded.input_ids], [padded.attention_mask], [[1.0] * length], "")
    first = _marked(tokenizer, before)
    view = [replace(token, ends_word=False) for token in _marked(tokenizer, [(text[at:end], 1.0)])]
    rest = [*view[:-1], *(replace(token, ends_word=True) for token in view[-1:]), *_marked(tokenizer, after)]
    room = length - 2
    kept, fitting = max(0, min(len(first), windows * room - len(rest))), rest[: windows * room]
    while len(packed := _packed([*first[:kept], *fitting], room)) > windows:
        kept -= 1
    lost = [[token.id for token in each] for each in (first[kept:], rest[len(fitting) :])]
    cut = [str(tokenizer.decode(ids)).strip("\ufffd ") for ids in lost if ids]
    start, *_, stop = tokenizer(text, verbose=False).input_ids
    padding = [room - len(window) for window in packed]
    return Tokens(
        [
            [start, *(token.id for token in window), stop, *[tokenizer.pad_token_id] * more]
            for window, more in zip(packed, padding)
        ],
        [[1] * (length - more) + [0] * more for more in padding],
        [[1.0, *(token.weight for token in window), *[1.0] * (more + 1)] for window, more in zip(packed, padding)],
        (" … ".join(cut) or "…") if any(lost) else "",
    )


@dataclass(frozen=True)
class _Token:
    id: int
    weight: float
    ends_word: bool


def _marked(tokenizer: PreTrainedTokenizerBase, parts: Iterable[tuple[str, float]]) -> list[_Token]:
    found = []
    for text, weight in parts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        names = tokenizer.convert_ids_to_tokens(ids)
        found += [_Token(id, weight, name.endswith("</w>")) for id, name in zip(ids, names)]
    return found


def _packed(tokens: Sequence[_Token], room: int) -> list[list[_Token]]:
    """Tokens in windows of at most `room`, each of which ends with a word unless a word is longer than a window."""
    windows: list[list[_Token]] = [[]]
    word: list[_Token] = []
    for number, token in enumerate(tokens, 1):
        word.append(token)
        if token.ends_word or len(word) == room or number == len(tokens):
            if len(windows[-1]) + len(word) > room:
                windows.append([])
            windows[-1] += word
            word = []
    return windows


def lora_tags(prompt: str) -> list[tuple[str, str]]:
    """The tags of a prompt that name LoRAs, each whole and its content: ("<lora:shiny:0.8>", "shiny:0.8")."""
    return [(match[0], match[1]) for match in _LORA_TAG.finditer(prompt)]


def unread_loras(prompts: Sequence[str]) -> list[str]:
    """A sentence on the tags of LoRAs that only prompts of cameras have, if there are any.

    prompts: the job's, and then those of its cameras.
    """
    read, *others = ([tag for tag, _ in lora_tags(prompt)] for prompt in prompts)
    tags = dict.fromkeys(tag for tags in others for tag in tags if tag not in read)
    return [f"{', '.join(tags)} in a camera's prompt loads nothing: write it in the job's prompt."] if tags else []


def fitting(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> str:
    """The text for an encoder of `length` tokens, where a library cuts what is longer at its end.

    As in `tokenize`, the camera's view stays, and whole words before it go.
    """
    text = without_tags(text)
    camera = _CAMERA.search(text)
    if camera is None:
        return text
    words, after = text[: camera.start()].split(), text[camera.start() :]
    while words and len(tokenizer(text, verbose=False).input_ids) > length:
        words.pop()
        text = " ".join(words) + after
    return text


def without_tags(text: str) -> str:
    """The text without the tags that load networks in other programs, such as <lora:name:0.8>."""
    return re.sub(rf"[\s,]*{_TAG.pattern}", "", text, flags=re.IGNORECASE).lstrip(" ,") if _TAG.search(text) else text


def unknown_words(prompt: str, known: Collection[str]) -> list[str]:
    """The words of a prompt that are not among the known ones, in order."""
    found = re.findall(r"[a-z0-9']+", unweighted(without_tags(prompt)).lower())
    return [word for word in dict.fromkeys(found) if word not in known]


@dataclass(frozen=True)
class Reading:
    """How a model reads texts.

    Args:
        length: tokens of one of the `windows` of its text encoder, start and end among them.
        weighs: words get their weights.
        view_words: prompts get the words of their views, see `view_prompts`.
        words: of a small model, which knows no others.
    """

    tokenizer: PreTrainedTokenizerBase
    length: int
    windows: int = 1
    weighs: bool = False
    view_words: bool = True
    words: Words | None = None

    @classmethod
    def of_clip(cls, tokenizer: PreTrainedTokenizerBase, positions: int, words: Words | None) -> Reading:
        """Of a text encoder of CLIP's with so many positions. A small model learned one window of words."""
        windows = 1 if words else MAX_WINDOWS
        return cls(tokenizer, min(tokenizer.model_max_length, positions), windows, weighs=True, words=words)

    def unknown(self, prompt: str) -> list[str]:
        """The words that a small model does not know, or the characters that the tokenizer has no token for."""
        if self.words and (words := unknown_words(prompt, self.words.words)):
            return words
        return _unknown_characters(self.tokenizer, unweighted(without_tags(prompt)))

    def warnings(self, prompt: str, negative_prompt: str = "", against_overhead: bool = False) -> list[str]:
        """One sentence for each part of a job's prompts that does not reach the model.

        against_overhead: views from overhead get into negative prompts, see `negative_prompts`.
        """
        warnings = []
        if self.words and (unknown := unknown_words(prompt, self.words.words)):
            warnings.append(
                f"The bundled model does not know {', '.join(unknown)}; it knows {', '.join(self.words.things)}. "
                "For anything else, name a folder of Stable Diffusion as the model."
            )
        warnings += self.cuts(prompt, negative_prompt, against_overhead)
        together = f"{prompt} {negative_prompt}"
        if characters := _unknown_characters(self.tokenizer, unweighted(without_tags(together))):
            more = ", …" if len(characters) > MAX_NAMED else ""
            warnings.append(
                f"The model does not know {', '.join(characters[:MAX_NAMED])}{more}: what they mean is lost. Write the "
                "prompt in English words."
            )
        return warnings + self.unheeded(prompt, negative_prompt)

    def cuts(self, prompt: str, negative_prompt: str = "", against_overhead: bool = False) -> list[str]:
        """The `warnings` of words for which there is no room."""

        def longest_cut(*texts: str) -> str:
            read = texts if self.weighs else [_BRACKET.sub(r"\\\g<0>", text) for text in texts]
            return max((tokenize(self.tokenizer, text, self.length, self.windows).cut for text in read), key=len)

        warnings = []
        reads = f"The model reads {self.windows * (self.length - 2)} tokens"
        every = [*view_prompts(prompt, range(0, 360, 45), 0), *view_prompts(prompt, 0, 90)]
        if cut := longest_cut(*(every if self.view_words else [without_view(prompt)])):
            among = ", the view's words among them," if self.view_words else ""
            warnings.append(f"{reads}{among} and does not get {cut!r}: shorten the prompt.")
        if negative_cut := longest_cut(negative_prompt):
            warnings.append(
                f"{reads} of a negative prompt and does not get {negative_cut!r}: shorten the negative prompt."
            )
        if against_overhead and negative_prompt:
            both_cut = longest_cut(*negative_prompts(prompt, 0, negative_prompt, True))
            if both_cut and both_cut not in (cut, negative_cut):
                warnings.append(
                    f"{reads} of prompt and negative prompt together, where they stand against views from overhead, "
                    f"and does not get {both_cut!r} there: shorten one of them."
                )
        return warnings

    def unheeded(self, prompt: str, negative_prompt: str = "") -> list[str]:
        """The `warnings` of marks that do not mean here what they mean elsewhere."""
        warnings = []
        together = f"{prompt} {negative_prompt}"
        if self.weighs and (changes := _CHANGE.findall(together)):
            warnings.append(
                f"{', '.join(changes)} is read as text of less weight, as no words change while an object is made: "
                "write the words alone, or (word:0.7) for a weight."
            )
        if not self.weighs and (weights := _WEIGHT.findall(together)):
            warnings.append(f"{', '.join(weights)} gets no weight, but is read as text: write the words alone.")
        tags = [tag for tag in _TAG.findall(prompt) if not _LORA_TAG.fullmatch(tag)] + _TAG.findall(negative_prompt)
        if tags:
            warnings.append(f"{', '.join(tags)} is left out: of tags, only those of LoRAs in the prompt are read.")
        return warnings


def _unknown_characters(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Letters, digits and pictures for which the tokenizer has single bytes, or nothing; in order."""

    def known(character: str) -> bool:
        if tokenizer.unk_token_id not in (None, tokenizer.bos_token_id, tokenizer.eos_token_id):  # T5's, Gemma's
            return tokenizer.unk_token_id not in tokenizer(character, add_special_tokens=False).input_ids
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
