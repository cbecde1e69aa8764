# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples of the bundled prior, classified: ``python -m server.evaluation.samples --output DIR``.

Draws every noun by DDIM, in every colour in four views and in every finish in two, and counts how often the classifier
sees what the prompt says. Writes table.md, table.json, sheet.png (nouns by colours) and finishes.png (nouns by
finishes).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..bundled_prior import shapes
from ..bundled_prior.captions import BROADER_VIEWS, prompt
from ..bundled_prior.pipeline import MODEL, draw, load_pipeline
from ..paths import expanded
from .classifier import NOUNS_WITH_FRONT, load_classifier

VIEW_WORDS = ("front", "side", "back", "overhead")


class Labels(TypedDict):
    """The words of a picture's prompt."""

    noun: str
    colour: str
    view: str
    finish: NotRequired[str]


class Row(Labels):
    """A picture's labels; `right` says by their names whether the classifier predicts them."""

    right: dict[str, bool]


def classify(labels: Sequence[Labels], pictures: np.ndarray) -> list[Row]:
    """The labels of each picture (N, H, W, 3), with an entry `right`: whether the classifier predicts each of them.

    A view word is right where captions of the predicted view may use it: "side" for either side and for the
    directions beside them. It is checked for `NOUNS_WITH_FRONT` and for pictures from overhead only.
    """
    predictions = load_classifier().predict(torch.from_numpy(pictures).movedim(-1, 1).float())
    rows: list[Row] = []
    for label, predicted in zip(labels, predictions, strict=True):
        right = {name: predicted[name] == word for name, word in label.items() if name != "view"}
        if label["noun"] in NOUNS_WITH_FRONT or label["view"] == "overhead":
            right["view"] = label["view"] in BROADER_VIEWS.get(predicted["view"], (predicted["view"],))
        rows.append({**label, "right": right})
    return rows


def share(rows: Sequence[Row], name: str) -> str:
    """The share of rows in which the label of this name is right, of those that have it."""
    known = [row["right"][name] for row in rows if name in row["right"]]
    return f"{np.mean(known):.1%}" if known else "–"


def sheet(
    pictures: np.ndarray, lines: Sequence[str], columns: Sequence[str], path: Path, left: int = 72, top: int = 18
) -> None:
    """Save a contact sheet of pictures (len(lines) * len(columns), H, H, 3), each line and column named."""
    edge = pictures.shape[1]
    page = Image.new("RGB", (left + len(columns) * edge, top + len(lines) * edge), "white")
    pen = ImageDraw.Draw(page)
    for j, word in enumerate(columns):
        pen.text((left + j * edge + edge // 2, top // 2), word, "black", anchor="mm")
    for i, word in enumerate(lines):
        pen.text((left - 6, top + i * edge + edge // 2), word, "black", anchor="rm")
    for k, picture in enumerate(pictures):
        at = (left + k % len(columns) * edge, top + k // len(columns) * edge)
        page.paste(Image.fromarray((255 * picture + 0.5).astype(np.uint8)), at)
    page.save(path, optimize=True)


def run(
    output: Path,
    model: Path = MODEL,
    nouns: Sequence[str] = tuple(shapes.NOUNS),
    colours: Sequence[str] = tuple(shapes.COLOURS),
    steps: int = 25,
    scale: float = 4.0,
) -> str:
    """Draw and classify the samples of a diffusers folder; returns table.md, which `output` gets with the others."""
    pipe, finishes = load_pipeline(model), shapes.FINISHES[1:]
    rows: list[Row] = []
    finished: list[Row] = []
    shown: list[np.ndarray] = []
    covered: list[np.ndarray] = []
    for k, noun in enumerate(nouns):
        labels: list[Labels] = [
            {"noun": noun, "colour": colour, "view": view} for colour in colours for view in VIEW_WORDS
        ]
        patterned: list[Labels] = [
            {"noun": noun, "colour": colours[(k + i) % len(colours)], "view": view, "finish": finish}
            for i, finish in enumerate(finishes)
            for view in ("front", "back")
        ]
        pictures = draw(pipe, [prompt(**each) for each in labels + patterned], steps, scale)
        own = classify(labels, pictures[: len(labels)])
        rows, finished = rows + own, finished + classify(patterned, pictures[len(labels) :])
        shown += [pictures[len(VIEW_WORDS) * i + i % len(VIEW_WORDS)] for i in range(len(colours))]
        covered += list(pictures[len(labels) :: 2])
        print(noun, *(f"{name} {share(own, name)}" for name in ("noun", "colour", "view")), sep=", ", flush=True)
    output.mkdir(parents=True, exist_ok=True)
    sheet(np.stack(shown), nouns, colours, output / "sheet.png")
    sheet(np.stack(covered), nouns, finishes, output / "finishes.png")
    lines = [
        "# Samples of the bundled prior",
        "",
        f"{len(rows)} pictures by DDIM, {steps} steps, guidance {scale:g}. Classified right:",
        "",
        "| | noun | colour | view |",
        "|---" * 4 + "|",
    ]
    groups = [("all", rows)]
    groups += [(f"{view} view", [row for row in rows if row["view"] == view]) for view in VIEW_WORDS]
    groups += [(noun, [row for row in rows if row["noun"] == noun]) for noun in nouns]
    lines += [
        f"| {name} | " + " | ".join(share(group, each) for each in ("noun", "colour", "view")) + " |"
        for name, group in groups
    ]
    lines += [
        "",
        f"{len(finished)} more with a finish, from front and back:",
        "",
        "| | noun | colour | finish |",
        "|---" * 4 + "|",
    ]
    lines += [
        f"| {name} | " + " | ".join(share(group, each) for each in ("noun", "colour", "finish")) + " |"
        for name in finishes
        for group in [[row for row in finished if row["finish"] == name]]
    ]
    text = "\n".join(lines) + "\n"
    (output / "table.md").write_text(text)
    (output / "table.json").write_text(json.dumps(rows + finished, indent=1) + "\n")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m server.evaluation.samples",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=expanded, required=True, metavar="DIR")
    parser.add_argument("--model", type=expanded, default=MODEL, metavar="DIR", help="another diffusers folder")
    given = parser.parse_args()
    print(run(given.output, given.model))


if __name__ == "__main__":
    main()
