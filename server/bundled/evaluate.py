# SPDX-License-Identifier: GPL-3.0-or-later
"""Text-to-3D, counted: ``python -m server.bundled.evaluate --output DIR [--prompts FILE] [--guidance msd sds …]``.

Generates every prompt with every guidance, at equal wall time, and measures what came out against the procedural
object: what the judge reads from eight views around it, and how near the shape is. Prompts that are done already are
not made again, so a long table can be made in pieces.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from msd_blender.protocol import GUIDANCES, JobRequest

from ..optimize import generate, warm_up
from ..optimize.settings import Settings
from . import captions, judge, objects, shapes
from .compare import compare, load

VIEWS = 8
TRIAL = 40                                  # iterations that tell how fast a guidance is


def parse(line: str) -> tuple[str, str]:
    """The colour and noun of a prompt. Raises ValueError where it does not name one of each."""
    words = line.lower().replace(",", " ").split()
    colours, nouns = ([word for word in words if word in known] for known in (shapes.COLOURS, shapes.NOUNS))
    if len(colours) != 1 or len(nouns) != 1:
        raise ValueError(f"{line!r} must name one colour of {', '.join(shapes.COLOURS)} "
                         f"and one thing of {', '.join(shapes.NOUNS)}.")
    return colours[0], nouns[0]


def views_of(picture: Path) -> Tensor:
    """The turntable's views, (8, 3, H, H) in [0, 1], front first and counter-clockwise."""
    pixels = torch.from_numpy(np.array(Image.open(picture).convert("RGB"))).float() / 255
    return torch.stack(pixels.split(len(pixels), dim=1)[:VIEWS]).movedim(-1, 1)


def real_views(colour: str, noun: str) -> np.ndarray:
    """The procedural object as a turntable shows it, uint8 (8, 64, 64, 3)."""
    scenes = []
    for i in range(VIEWS):
        each = objects.scene(colour, noun, np.random.default_rng(0), np.array([360 * i / VIEWS, 20.0]), vary=False)
        eye = objects.camera_position(360 * i / VIEWS, 20)
        scenes.append(objects.Scene(each.parts, eye, eye / np.linalg.norm(eye), 0.45, 0.55, np.full(3, 0.75),
                                    each.view))
    return objects.render(scenes)


def measure(folder: Path, colour: str, noun: str) -> dict[str, Any]:
    """One row of the table of a finished job's folder."""
    read = judge.load().read(views_of(folder / "turntable.png"))
    record = json.loads((folder / "job.json").read_text())
    likeness = compare(load(folder / "mesh.glb"), noun)
    return {"prompt": f"{colour} {noun}", "noun": sum(each["noun"] == noun for each in read) / VIEWS,
            "colour": sum(each["colour"] == colour for each in read) / VIEWS,
            "front": sum(each["view"] == "front" for each in read) / VIEWS,
            "f_score": likeness.f_score, "iou": likeness.iou, "chamfer": likeness.chamfer,
            "seconds": record["seconds_total"], "iterations": record["iterations"]}


def iterations_of(guidance: str, seconds: float) -> int:
    """How many iterations of a guidance take as long as `seconds`, from a short run on this machine."""

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        generate(JobRequest("a red chair", guidance=guidance, iterations=TRIAL), Path(folder), lambda _: None,
                 lambda: False)
        record = json.loads((Path(folder) / "job.json").read_text())
        spent = time.perf_counter() - start - record["seconds"].get("load", 0)
    fixed = sum(record["seconds"].get(name, 0) for name in ("texture", "files"))
    return max(TRIAL, round(TRIAL * (seconds - fixed) / (spent - fixed)))


def summary(name: str, rows: Sequence[dict[str, Any]], truth_front: float) -> str:
    """A line of the table of guidances."""
    def mean(key: str) -> float:
        return statistics.mean(row[key] for row in rows)

    return (f"| {name} | {len(rows)} | {mean('noun'):.1%} | {mean('colour'):.1%} | {mean('front'):.1%} | "
            f"{truth_front:.1%} | {mean('f_score'):.3f} | {mean('iou'):.3f} | {mean('chamfer'):.4f} | "
            f"{statistics.median(row['seconds'] for row in rows):.0f} | "
            f"{statistics.median(row['iterations'] for row in rows):.0f} |")


def failed(row: dict[str, Any]) -> bool:
    """Whether most views do not show what the prompt says, or the shape is far from it."""
    return row["noun"] < 0.75 or row["colour"] < 0.75 or row["f_score"] < 0.5


def sheet(entries: Sequence[tuple[str, np.ndarray]], path: Path, edge: int = 80, label: int = 150) -> None:
    """A contact sheet: a line of eight views (8, H, H, 3) for each text."""
    page = Image.new("RGB", (label + VIEWS * edge, max(1, len(entries)) * edge), (191, 191, 191))
    draw = ImageDraw.Draw(page)
    for i, (text, views) in enumerate(entries):
        draw.text((8, i * edge + edge // 2 - 6), text, (20, 20, 20))
        for j, view in enumerate(views):
            page.paste(Image.fromarray(view).resize((edge, edge), Image.Resampling.BOX), (label + j * edge, i * edge))
    page.save(path, optimize=True)


def write(output: Path, found: dict[str, list[dict[str, Any]]]) -> None:
    """table.md, table.json, a sheet of all results per guidance and failures.png, each under its true object."""
    judged = judge.load()
    pairs = {row["prompt"]: tuple(row["prompt"].split()) for rows in found.values() for row in rows}
    fronts = {}
    for text, (colour, noun) in pairs.items():
        pictures = torch.from_numpy(real_views(colour, noun)).movedim(-1, 1) / 255
        fronts[text] = sum(each["view"] == "front" for each in judged.read(pictures)) / VIEWS
    lines = ["# Text-to-3D, measured", "",
             "| guidance | prompts | noun | colour | front | front, truth | F-score | IoU | Chamfer | seconds | "
             "iterations |", "|---" * 11 + "|"]
    lines += [summary(name, rows, statistics.mean(fronts[row["prompt"]] for row in rows))
              for name, rows in found.items()]
    failures = []
    for name, rows in found.items():
        lines += ["", f"## {name}", "", "| prompt | noun | colour | front | F-score | IoU | Chamfer | seconds |",
                  "|---" * 8 + "|"]
        lines += [f"| {row['prompt']} | {row['noun']:.0%} | {row['colour']:.0%} | {row['front']:.0%} | "
                  f"{row['f_score']:.3f} | {row['iou']:.3f} | {row['chamfer']:.4f} | {row['seconds']:.0f} |"
                  for row in rows]
        shown = [(row["prompt"], _views(output / name / row["prompt"].replace(" ", "-"))) for row in rows]
        sheet(shown, output / f"{name}.png")
        for row, (text, views) in zip(rows, shown):
            if failed(row):
                failures += [(f"{name}: {text}", views), ("the true one", real_views(*pairs[text]))]
    sheet(failures, output / "failures.png")
    (output / "table.md").write_text("\n".join(lines) + "\n")
    (output / "table.json").write_text(json.dumps(found, indent=1) + "\n")


def _views(folder: Path) -> np.ndarray:
    return (255 * views_of(folder / "turntable.png")).round().byte().movedim(1, -1).numpy()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m server.bundled.evaluate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--prompts", type=Path, metavar="FILE",
                        help='one "red mushroom" a line; 48 that go through all nouns and colours otherwise')
    parser.add_argument("--guidance", nargs="+", choices=GUIDANCES, default=["msd"],
                        help="the first one's time is what the others get")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, help="of the first guidance; its default otherwise")
    given = parser.parse_args(arguments)
    try:
        pairs = [parse(line) for line in given.prompts.read_text().splitlines() if line.strip()] \
            if given.prompts else captions.pairs()
        given.output.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not pairs:
        parser.error(f"{given.prompts} has no prompts.")
    warm_up()
    default = Settings()
    found: dict[str, list[dict[str, Any]]] = {}
    for name in given.guidance:
        if name == given.guidance[0]:
            iterations = given.iterations or default.iterations("generate")
        else:
            iterations = iterations_of(name, statistics.median(row["seconds"] for row in found[given.guidance[0]]))
        for colour, noun in pairs:
            folder = given.output / name / f"{colour}-{noun}"
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "job.json").exists():      # the last file that a job writes
                prompt = f"{captions.article(colour)} {colour} {noun}"
                generate(JobRequest(prompt, seed=given.seed, guidance=name, iterations=iterations), folder,
                         lambda _: None, lambda: False)
            row = measure(folder, colour, noun)
            found.setdefault(name, []).append(row)
            print(f"{name} {row['prompt']}: noun {row['noun']:.0%}, colour {row['colour']:.0%}, "
                  f"F-score {row['f_score']:.3f}, {row['seconds']:.0f} s", flush=True)
            write(given.output, found)
    print(f"{given.output / 'table.md'} and pictures beside it")


if __name__ == "__main__":
    main()
