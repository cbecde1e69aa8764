# SPDX-License-Identifier: GPL-3.0-or-later
"""What a picture of the corpus shows: one thing with a look, a size, a number or a coloured part, or two things.

A `Description` and a random generator give one object (`scenes`); captions are drawn from it, and read back as one
(`captions`). Labels are rows of numbers, the places of its words in `FIELDS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from .primitives import PARTS
from .shapes import ALL_NOUNS, COLOURS, COUNTS, FREQUENCY, LOOKS, SIZES, parts_of


@dataclass(frozen=True)
class Thing:
    """A noun of `ALL_NOUNS` and its colour, one of `COLOURS`; an empty word is not said, as is a count of 0.

    finish: one of `LOOKS`. size: one of `SIZES`. count: of `shapes.counted_part`. part: one of `shapes.parts_of`, which
    has `part_colour`.
    """

    noun: str
    colour: str = ""
    finish: str = "plain"
    size: str = ""
    count: int = 0
    part: str = ""
    part_colour: str = ""


@dataclass(frozen=True)
class Description:
    """One thing, or two: `relation`, one of `RELATIONS`, says where `thing` is, seen from `other`."""

    thing: Thing
    relation: str = ""
    other: Thing | None = None


RELATIONS = ("on", "beside")
# The values of a label's columns: those of a thing, then relation and the other thing's. Add new ones at the end.
_THING: tuple[Sequence[str | int], ...] = (
    tuple(ALL_NOUNS),
    ("", *COLOURS),
    LOOKS,
    ("", *SIZES),
    range(10),
    ("", *PARTS),
    ("", *COLOURS),
)
FIELDS: tuple[Sequence[str | int], ...] = (*_THING, ("", *RELATIONS), *_THING)

SIZED = {
    "tall": "chair table tree house cylinder cone snowman lamp mug robot cactus castle bookshelf lighthouse windmill "
    "penguin bottle lantern gift pumpkin cake",
    "short": "chair table tree cylinder cone lamp mug cactus castle bookshelf lighthouse bottle lantern gift cake",
    "wide": "chair table house sofa bed bookshelf piano barn cube gift",
    "narrow": "table house sofa bed bookshelf piano barn cube",
    "long": "car boat airplane bus train truck dog fish",
}
# Where another thing stands on one: its place along y, and how large it is there, both in the object's radii.
SUPPORTS = {
    "table": (0.0, 0.62),
    "sofa": (-0.12, 0.55),
    "chair": (-0.08, 0.48),
    "bed": (-0.22, 0.5),
    "cube": (0.0, 0.65),
    "piano": (0.03, 0.42),
    "car": (0.12, 0.45),
    "elephant": (0.08, 0.42),
}
_SMALL = (
    "mushroom apple lamp mug robot bear duck cactus snowman cat dog rabbit penguin turtle teapot bottle lantern gift "
    "pumpkin cake"
).split()
_LIVING = "snowman robot bear duck cat dog horse rabbit penguin elephant turtle".split()
_PLACES = (
    "chair tree car house table castle lamp barn windmill lighthouse truck bus flower gift piano bookshelf".split()
)
KINDS = {"plain": 0.30, "look": 0.16, "size": 0.11, "count": 0.09, "part": 0.18, "on": 0.10, "beside": 0.06}


def random_description(rng: np.random.Generator) -> Description:
    """A kind by `KINDS`, nouns by `FREQUENCY` among those that can have it, everything else uniformly."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    colour, second = (str(each) for each in rng.choice(list(COLOURS), 2, replace=False))
    if kind == "size":
        size = str(rng.choice(list(SIZED)))
        return Description(Thing(_noun(SIZED[size].split(), rng), colour, size=size))
    if kind == "count":
        noun = _noun(COUNTS, rng)
        return Description(Thing(noun, colour, count=int(rng.choice(COUNTS[noun]))))
    if kind == "part":
        noun = _noun([each for each in ALL_NOUNS if parts_of(each)], rng)
        return Description(Thing(noun, colour, part=str(rng.choice(parts_of(noun))), part_colour=second))
    if kind == "on":
        return Description(Thing(_noun(_SMALL, rng), colour), kind, Thing(_noun(SUPPORTS, rng), second))
    if kind == "beside":
        first = _noun(_LIVING, rng)
        other = _noun([each for each in (*_PLACES, *_LIVING) if each != first], rng)
        return Description(Thing(first, colour), kind, Thing(other, second))
    finish = str(rng.choice(LOOKS[1:])) if kind == "look" else "plain"
    if finish == "metal" and rng.random() < 0.3:
        colour = "gray"
    return Description(Thing(_noun(ALL_NOUNS, rng), colour, finish))


def encode(description: Description) -> list[int]:
    """The label of a description, a column for each of `FIELDS`. Raises ValueError for an unknown word."""
    other = description.other
    values = (
        *astuple(description.thing),
        description.relation,
        *(astuple(other) if other else [column[0] for column in _THING]),
    )
    return [column.index(value) for column, value in zip(FIELDS, values)]


def decode(label: Iterable[int]) -> Description:
    """The description of a label."""
    values: list = [column[i] for column, i in zip(FIELDS, label)]
    width = len(_THING)
    relation = values[width]
    return Description(Thing(*values[:width]), relation, Thing(*values[width + 1 :]) if relation else None)


def _noun(among: Iterable[str], rng: np.random.Generator) -> str:
    nouns = list(among)
    weight = np.array([FREQUENCY[each] for each in nouns])
    return str(rng.choice(nouns, p=weight / weight.sum()))
