# SPDX-License-Identifier: GPL-3.0-or-later
"""Contact sheets of the corpus: ``python -m server.bundled_prior.sheets`` draws them anew for docs/bundled-prior.md.

Every noun, every part that can have a colour, every size, every number, and scenes of two things, from four sides each.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..paths import expanded
from . import objects
from .captions import plainest
from .descriptions import SIZED, Description, Thing, random_description
from .scenes import build
from .shapes import ALL_NOUNS, COLOURS, COUNTS, LOOKS, parts_of

EDGE, LINE = 56, 11  # of a picture, and the height of its text, pixels
ELEVATION, BACKGROUND, AMBIENT, DIFFUSE = 20.0, 0.75, 0.45, 0.55


def entries() -> dict[str, list[Description]]:
    """The descriptions of each sheet; the colours take turns."""
    turns = itertools.cycle([list(COLOURS)[5 * i % len(COLOURS)] for i in range(len(COLOURS))])
    rng = np.random.default_rng(3)
    pairs = (each for each in iter(lambda: random_description(rng), None) if each.other)
    return {
        "nouns": [Description(Thing(noun, next(turns))) for noun in ALL_NOUNS],
        "looks": [
            Description(Thing(noun, next(turns), look))
            for look in LOOKS[1:]
            for noun in ("chair", "car", "teapot", "robot", "lighthouse")
        ],
        "parts": [
            Description(Thing(noun, next(turns), part=part, part_colour=next(turns)))
            for noun in ALL_NOUNS
            for part in parts_of(noun)
        ],
        "sizes": [
            Description(Thing(noun, next(turns), size=size)) for size, nouns in SIZED.items() for noun in nouns.split()
        ],
        "counts": [Description(Thing(noun, next(turns), count=n)) for noun, counts in COUNTS.items() for n in counts],
        "scenes": list(itertools.islice(pairs, 40)),
    }


def four_sides(description: Description, rng: np.random.Generator, size: int = EDGE) -> np.ndarray:
    """A random object of a description from four sides, uint8 (4, size, size, 3), the front first."""
    parts, sides = build(description, rng), []
    for azimuth in (20, 110, 200, 290):
        eye = objects.camera_position(azimuth, ELEVATION)
        light = objects.random_light(rng, eye)
        sides.append(objects.Scene(parts, eye, light, AMBIENT, DIFFUSE, np.full(3, BACKGROUND), ""))
    return objects.render(sides, size)


def draw_sheet(descriptions: Sequence[Description], columns: int = 4) -> Image.Image:
    """Each description's plainest prompt above its four sides."""
    lines = -(-len(descriptions) // columns)
    page = Image.new("RGB", (columns * 4 * EDGE, lines * (EDGE + LINE)), "white")
    draw = ImageDraw.Draw(page)
    for i, each in enumerate(descriptions):
        x, y = i % columns * 4 * EDGE, i // columns * (EDGE + LINE)
        draw.text((x + 2, y - 1), plainest(each), fill="black")
        page.paste(Image.fromarray(np.concatenate(list(four_sides(each, np.random.default_rng(i))), 1)), (x, y + LINE))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m server.bundled_prior.sheets", description=__doc__)
    parser.add_argument("--output", type=expanded, default=Path("docs/bundled-prior"))
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for name, descriptions in entries().items():
        page = draw_sheet(descriptions).quantize(256, dither=Image.Dither.NONE)
        page.save(folder / f"corpus-{name}.png", optimize=True)


if __name__ == "__main__":
    main()
