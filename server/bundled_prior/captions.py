# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of the bundled prior: captions for the pictures of the corpus, and prompts in the same words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..priors.prompts import DIRECTIONS, VIEWS
from .descriptions import Description, Thing
from .shapes import ALL_NOUNS, COLOURS, COUNTS, FINISHES, LOOKS, NOUNS, SIZES, counted_part, parts_of

_SYNONYMS = {
    "donut": ("doughnut",),
    "car": ("automobile",),
    "sphere": ("ball",),
    "cube": ("box",),
    "mug": ("cup",),
    "bear": ("teddy bear",),
    "airplane": ("plane", "aeroplane"),
    "boat": ("sailboat", "ship"),
    "sofa": ("couch",),
    "gray": ("grey",),
    "purple": ("violet",),
    "striped": ("stripy",),
    "spotted": ("dotted",),
    "checkered": ("checked",),
    "wooden": ("wood",),
}
# Those of words that the model that ships does not know.
_MORE_SYNONYMS = {
    "bookshelf": ("bookcase",),
    "truck": ("lorry",),
    "train": ("locomotive",),
    "dog": ("puppy",),
    "rabbit": ("bunny",),
    "turtle": ("tortoise",),
    "gift": ("present",),
    "metal": ("metallic",),
    "shiny": ("glossy",),
    "short": ("low",),
    "narrow": ("thin",),
}
_SPOKEN = _SYNONYMS | _MORE_SYNONYMS
_NATURAL = {"wooden": "brown", "metal": "gray"}  # a finish's colour, which need not be said
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_RELATIONS = {"on": ("on", "on", "on", "on top of"), "beside": ("beside", "next to", "and")}
_TEMPLATES = (
    "{a} {c} {n}",
    "{a} {c} {n}",
    "{a} {c} {n}",
    "{c} {n}",
    "{b} {n} that is {c}",
    "the {c} {n}",
    "a photo of {a} {c} {n}",
    "a 3d render of {a} {c} {n}",
)
_VIEW_PHRASES = {view: (f", {view} view",) for view in VIEWS} | {
    "front": (", front view",) * 7 + (", seen from the front", ", from the front", ", viewed from the front"),
    "side": (", side view",) * 7 + (", seen from the side", ", from the side", ", viewed from the side"),
    "back": (", back view",) * 7 + (", seen from the back", ", from behind", ", rear view"),
    "overhead": (", overhead view",) * 7 + (", seen from above", ", from above", ", top view"),
}
_VIEW_OF = {"": ""} | {p.strip(", "): view for view, several in _VIEW_PHRASES.items() for p in several}
_SEVERAL_WORDS = {s: word for word, several in _SPOKEN.items() for s in several if " " in s}
_MEANING = {s: word for word, several in _SPOKEN.items() for s in several}
MOST_WORDS = 14  # of a caption: the tokens of the model, less its start and its end
# Less precise words for a direction: "side" for either side, "front" or "side" for the direction between.
BROADER_VIEWS = {
    view: tuple(dict.fromkeys(word.replace("left", "side").replace("right", "side") for word in view.split()))
    for view in DIRECTIONS
}


def balanced_prompts(count: int = 48) -> list[tuple[str, str]]:
    """`count` pairs (colour, noun) in which all nouns, and all colours, are about equally frequent."""
    nouns, colours = list(NOUNS), list(COLOURS)
    return [(colours[(i + i // len(nouns)) % len(colours)], nouns[i % len(nouns)]) for i in range(count)]


def article(word: str) -> str:
    """The indefinite article of a word."""
    return "an" if word[0] in "aeiou" else "a"


def prompt(colour: str, noun: str, view: str = "", finish: str = "plain") -> str:
    """The plainest prompt for a thing: "a striped red mushroom, front view"."""
    look = colour if finish == "plain" else f"{finish} {colour}"
    return f"{article(look)} {look} {noun}" + (f", {view} view" if view else "")


def caption(colour: str, noun: str, view: str, rng: np.random.Generator, finish: str = "plain") -> str:
    """A random caption of a picture.

    Nine in ten name the view, some of them by a word of `BROADER_VIEWS`. A finish stands before or after the colour;
    half of the brown wooden things are called wooden only, and of the gray metal ones metal.
    """
    look, n = [colour], noun
    if _NATURAL.get(finish) == colour and rng.random() < 0.5:
        look = [finish]
    elif finish != "plain":
        look = [finish, colour] if rng.random() < 0.5 else [colour, finish]
    *look, n = (_spoken(w, rng) for w in (*look, n))
    template = str(rng.choice(_TEMPLATES))
    c = (" and " if template.endswith("{c}") else " ").join(look)
    return template.format(a=article(c), b=article(n), c=c, n=n) + _view_phrase(view, rng)


def _spoken(word: str, rng: np.random.Generator) -> str:
    return str(rng.choice(_SPOKEN[word])) if word in _SPOKEN and rng.random() < 0.15 else word


def _view_phrase(view: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.1:
        return ""
    if view in BROADER_VIEWS and rng.random() < 0.25:
        view = str(rng.choice(BROADER_VIEWS[view]))
    return str(rng.choice(_VIEW_PHRASES[view]))


def describe(description: Description, view: str, rng: np.random.Generator) -> str:
    """A random caption of a description, which `parse` reads back.

    Those of one thing with a colour and a finish only are as `caption`. One in five of the others leaves the colours
    out, if no part has one, and none has more than `MOST_WORDS`.
    """
    thing, other = description.thing, description.other
    if not (other or thing.size or thing.count or thing.part):
        return caption(thing.colour, thing.noun, view, rng, thing.finish)
    silent = not thing.part and rng.random() < 0.2
    text = _phrase(thing, rng, silent, ("a", "a", "a", "the", ""))
    if other:
        relation = str(rng.choice(_RELATIONS[description.relation]))
        text += f" {relation} {_phrase(other, rng, silent, ('a', 'a', 'the'))}"
    if text.startswith("a") and rng.random() < 0.2:
        text = f"a photo of {text}"
    phrase = _view_phrase(view, rng)
    for shorter in (text + phrase, text.removeprefix("a photo of ") + phrase):
        if len(shorter.replace(",", " ,").split()) <= MOST_WORDS:
            return shorter
    return f"{text.removeprefix('a photo of ')}, {view} view"


def plainest(description: Description, view: str = "") -> str:
    """The plainest prompt of a description: "a red chair with a yellow seat, front view"."""
    thing, other = description.thing, description.other
    text = _words(thing, [thing.size, "" if thing.finish == "plain" else thing.finish, thing.colour], thing.noun, "a")
    if other:
        text += f" {description.relation} {_words(other, [other.colour], other.noun, 'a')}"
    return text + (f", {view} view" if view else "")


def _phrase(thing: Thing, rng: np.random.Generator, silent: bool, articles: tuple[str, ...]) -> str:
    look = [thing.size, "" if silent else thing.colour]
    return _words(thing, [_spoken(w, rng) for w in look], _spoken(thing.noun, rng), str(rng.choice(articles)))


def _words(thing: Thing, look: list[str], noun: str, determiner: str) -> str:
    words = [each for each in (*look, noun) if each]
    text = " ".join([article(words[0]) if determiner == "a" else determiner, *words]).strip()
    if thing.count:
        part = counted_part(thing.noun)
        return f"{text} with {_NUMBERS[thing.count]} {_singular(part) if thing.count == 1 else part}"
    if thing.part:
        plural = thing.part.endswith("s")
        return f"{text} with {'' if plural else article(thing.part_colour) + ' '}{thing.part_colour} {thing.part}"
    return text


def _singular(part: str) -> str:
    return "arch" if part == "arches" else part.removesuffix("s")


def parse(text: str) -> tuple[Description, str]:
    """The description of a caption or prompt in its words, and its view.

    An unsaid colour or view is empty; a view's word may be a broader one of `BROADER_VIEWS`. Raises ValueError for
    a text that is no such caption.
    """
    head, _, phrase = text.lower().partition(",")
    if phrase.strip() not in _VIEW_OF:
        raise ValueError(f"{text!r} must name a view after its comma.")
    head = " ".join(head.split())
    for prefix in ("a photo of ", "a 3d render of "):
        head = head.removeprefix(prefix)
    for relation, phrases in _RELATIONS.items():
        for spoken in sorted(phrases, key=len, reverse=True):
            first, found, second = head.partition(f" {spoken} ")
            if found and second.split()[0] in ("a", "an", "the"):
                return Description(_read(first, text), relation, _read(second, text)), _VIEW_OF[phrase.strip()]
    return Description(_read(head, text)), _VIEW_OF[phrase.strip()]


def _read(phrase: str, text: str) -> Thing:
    phrase, _, extra = phrase.partition(" with ")
    noun, _, look = phrase.partition(" that is ")
    for several, one in _SEVERAL_WORDS.items():
        noun = noun.replace(several, one)
    said: dict[str, str] = {}
    for word in f"{look} {noun}".split():
        word = _MEANING.get(word, word)
        kinds = {"noun": ALL_NOUNS, "colour": COLOURS, "finish": LOOKS[1:], "size": SIZES}
        kind = next((kind for kind, words in kinds.items() if word in words), None)
        if kind and kind not in said:
            said[kind] = word
        elif word not in ("a", "an", "the", "and"):
            raise ValueError(f"{text!r} has {word!r} where it should have a colour, a finish, a size or a thing.")
    if "noun" not in said:
        raise ValueError(f"{text!r} must name a thing of {', '.join(ALL_NOUNS)}.")
    colour = said.get("colour", _NATURAL.get(said.get("finish", ""), ""))
    thing = Thing(said["noun"], colour, said.get("finish", "plain"), said.get("size", ""))
    words = [_MEANING.get(word, word) for word in extra.split() if word not in ("a", "an")]
    if not words:
        return thing
    first, part = words if len(words) == 2 else ("", "")
    if first in COLOURS and part in parts_of(thing.noun):
        return replace(thing, part=part, part_colour=first)
    counted = counted_part(thing.noun) if thing.noun in COUNTS else ""
    if first in _NUMBERS and part and part in (counted, _singular(counted)):
        return replace(thing, count=_NUMBERS.index(first))
    raise ValueError(f"{text!r} must name a colour or a number of a part that a {thing.noun} has after 'with'.")


def full_vocabulary() -> list[str]:
    """Every word and punctuation mark of the captions of descriptions, sorted."""
    names = [*ALL_NOUNS, *LOOKS[1:], *SIZES, "with", *_NUMBERS[1:], *(p for n in ALL_NOUNS for p in parts_of(n))]
    phrases = [s for several in (*_MORE_SYNONYMS.values(), *_RELATIONS.values()) for s in several]
    counted = [_singular(counted_part(n)) for n in COUNTS if 1 in COUNTS[n]]
    return sorted({*vocabulary(), *names, *" ".join(phrases).split(), *counted, *map(counted_part, COUNTS)})


def vocabulary() -> list[str]:
    """Every word and punctuation mark of the captions of the model that ships, sorted."""
    names = [*NOUNS, *COLOURS, *FINISHES[1:], *(s for several in _SYNONYMS.values() for s in several)]
    phrases = [*_TEMPLATES, *(p for several in _VIEW_PHRASES.values() for p in several)]
    words = " ".join([*names, *phrases]).replace(",", " , ").split() + ["an", "and"]
    return sorted({w for w in words if "{" not in w})
