# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of the bundled prior: captions for the pictures of `objects`, and prompts in the same words."""

from __future__ import annotations

import numpy as np

from ..priors.prompts import DIRECTIONS, VIEWS
from .shapes import COLOURS, FINISHES, NOUNS

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
    half of the brown wooden things are called wooden only.
    """
    look, n = [colour], noun
    if finish == "wooden" and colour == "brown" and rng.random() < 0.5:
        look = [finish]
    elif finish != "plain":
        look = [finish, colour] if rng.random() < 0.5 else [colour, finish]
    *look, n = (str(rng.choice(_SYNONYMS[w])) if w in _SYNONYMS and rng.random() < 0.15 else w for w in (*look, n))
    template = str(rng.choice(_TEMPLATES))
    c = (" and " if template.endswith("{c}") else " ").join(look)
    text = template.format(a=article(c), b=article(n), c=c, n=n)
    if rng.random() < 0.1:
        return text
    if view in BROADER_VIEWS and rng.random() < 0.25:
        view = str(rng.choice(BROADER_VIEWS[view]))
    return text + str(rng.choice(_VIEW_PHRASES[view]))


def vocabulary() -> list[str]:
    """Every word and punctuation mark that captions use, sorted."""
    names = [*NOUNS, *COLOURS, *FINISHES[1:], *(s for several in _SYNONYMS.values() for s in several)]
    phrases = [*_TEMPLATES, *(p for several in _VIEW_PHRASES.values() for p in several)]
    words = " ".join([*names, *phrases]).replace(",", " , ").split() + ["an", "and"]
    return sorted({w for w in words if "{" not in w})
