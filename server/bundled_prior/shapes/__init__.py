# SPDX-License-Identifier: GPL-3.0-or-later
"""The things that the bundled prior knows, built of signed-distance primitives (`objects` draws them).

Right-handed, Z up, metres, front towards -Y; every object is centred at the origin inside the ball of radius
`rendering.cameras.OBJECT_RADIUS`. To add a noun, write one function in the module of its theme, that returns its
primitives with proportions drawn from ranges, and list it in `ALL_NOUNS`; to make it more frequent in the corpus, name
it in `FREQUENCY`. `primitives.named` marks the parts that a caption can colour. A function with a second argument can
have a captioned number of a part: its name is the part's, `COUNTS` has the numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from ...geometry.colour import srgb_to_linear
from .. import primitives as sdf
from . import animals, buildings, classic, furniture, garden, household, vehicles
from .palette import COLOURS as COLOURS
from .palette import DARK, WHITE
from .palette import Uniform as Uniform

# Patterns of the captioned colour and a second one, fixed to the object.
FINISHES = ("plain", "striped", "spotted", "checkered", "wooden")
METAL = len(FINISHES)  # the first of the materials, which shine
LOOKS = (*FINISHES, "metal", "shiny")
RADIUS, RADII = 0.83, (0.79, 0.84)  # metres, from the origin to the farthest point: by default, and in the corpus
# What a size's word multiplies: an axis, and a range of factors.
SIZES = {
    "tall": (2, 1.4, 1.7),
    "short": (2, 0.5, 0.65),
    "wide": (0, 1.4, 1.7),
    "narrow": (0, 0.5, 0.65),
    "long": (1, 1.35, 1.6),
}

# The things of the model that ships, and the labels of the classifier.
NOUNS: dict[str, Callable[..., list[np.ndarray]]] = {
    f.__name__: f
    for f in (
        classic.mushroom,
        classic.chair,
        classic.tree,
        classic.rocket,
        classic.donut,
        classic.car,
        classic.house,
        classic.table,
        classic.sphere,
        classic.cube,
        classic.cylinder,
        classic.cone,
        classic.snowman,
        classic.apple,
        classic.lamp,
        classic.mug,
        classic.robot,
        classic.bear,
        classic.duck,
        classic.boat,
        classic.airplane,
        classic.cactus,
        classic.castle,
        classic.sofa,
    )
}
ALL_NOUNS = NOUNS | {
    f.__name__: f
    for f in (
        furniture.bed,
        furniture.bookshelf,
        furniture.piano,
        buildings.barn,
        buildings.lighthouse,
        buildings.bridge,
        buildings.windmill,
        vehicles.train,
        vehicles.truck,
        vehicles.bus,
        vehicles.helicopter,
        animals.cat,
        animals.dog,
        animals.horse,
        animals.rabbit,
        animals.penguin,
        animals.fish,
        animals.elephant,
        animals.turtle,
        household.teapot,
        household.bottle,
        household.lantern,
        household.guitar,
        household.hammer,
        household.sword,
        household.umbrella,
        household.gift,
        garden.flower,
        garden.pumpkin,
        garden.banana,
        garden.cake,
    )
}
# Weights in the corpus: intricate things come most often, plain solids seldom.
FREQUENCY = (
    dict.fromkeys(NOUNS, 2.0)
    | dict.fromkeys(("sphere", "cube", "cylinder", "cone"), 1.0)
    | dict.fromkeys(("table", "rocket", "robot", "bear", "duck", "boat", "castle", "sofa"), 3.0)
    | dict.fromkeys(("chair", "house", "car", "airplane"), 4.0)
)


FREQUENCY |= dict.fromkeys(ALL_NOUNS.keys() - NOUNS.keys(), 3.0)
# Numbers of a part that captions name.
COUNTS = {
    "table": (3, 4, 6),
    "castle": (2, 3, 4, 5),
    "cactus": (1, 2),
    "bed": (1, 2),
    "bookshelf": (2, 3, 4),
    "bridge": (1, 2, 3),
    "windmill": (3, 4, 6),
    "cake": (1, 2, 3, 4),
    "flower": (4, 5, 6),
}


def counted_part(noun: str) -> str:
    """The part of which a noun can have a captioned number."""
    return list(inspect.signature(ALL_NOUNS[noun]).parameters)[1]


@cache
def parts_of(noun: str) -> tuple[str, ...]:
    """The parts of a noun that can have a captioned colour, in the order of `primitives.PARTS`."""
    named = {int(row[sdf.NAME]) for row in ALL_NOUNS[noun](middle)} - {0}
    return tuple(sdf.PARTS[i - 1] for i in sorted(named))


def middle(low: float, high: float) -> float:
    """A range's middle, in the place of a random number from it."""
    return 0.5 * (low + high)


@dataclass(frozen=True)
class Shape:
    """One object, normalized: its bounding box is centred at the origin, its farthest point lies `RADIUS` from there.

    parts: (P, `primitives.WIDTH`), a primitive each.
    """

    parts: np.ndarray

    @staticmethod
    def build(noun: str, rng: np.random.Generator | None = None, size: str = "", count: int = 0) -> Shape:
        """A noun with random proportions, or with the middle ones and `RADIUS` without a generator.

        size: one of `SIZES`, or none. count: of `counted_part`; 0 is the usual number.

        Raises ValueError for an unknown noun.
        """
        if noun not in ALL_NOUNS:
            raise ValueError(f"Unknown noun {noun!r}; choose one of: {', '.join(ALL_NOUNS)}.")
        uniform = rng.uniform if rng else middle
        rows = np.stack(ALL_NOUNS[noun](uniform, *([count] if count else [])))
        if size:
            axis, low, high = SIZES[size]
            rows = sdf.stretched(rows, np.where(np.arange(3) == axis, uniform(low, high), 1.0))
        return Shape(sdf.normalized(rows, RADIUS if rng is None else rng.uniform(*RADII)))

    def painted(
        self, colour: np.ndarray, finish: str = "plain", part: str = "", part_colour: np.ndarray | None = None
    ) -> np.ndarray:
        """`parts` with linear albedo, the main ones in an sRGB colour (3,) and finish, a named part in its own colour.

        Dark trim becomes light on a dark object, so that the two still differ.

        A finish's second colour is a darker shade of wood, and otherwise nearly white, or dark on a bright object.
        """
        rows = self.parts.copy()
        own = rows[:, sdf.NAME] == sdf.PARTS.index(part) + 1 if part else np.zeros(len(rows), bool)
        main = (rows[:, 1] < 0) & ~own
        rows[main, 1:4] = colour
        if finish == "wooden":
            second = 0.5 * np.asarray(colour)
        else:
            second = np.array(WHITE if colour @ (0.3, 0.6, 0.1) < 0.65 else DARK)
        rows[main, 20], rows[main, 21:24] = LOOKS.index(finish), srgb_to_linear(second)
        if np.mean(colour) < 0.3:
            rows[(rows[:, 1:4] == DARK).all(1), 1:4] = (0.62, 0.62, 0.64)
        if part_colour is not None:
            rows[own, 1:4] = part_colour
        rows[:, 1:4] = srgb_to_linear(rows[:, 1:4])
        return rows
