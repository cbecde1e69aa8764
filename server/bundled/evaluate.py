# SPDX-License-Identifier: GPL-3.0-or-later
"""Text-to-3D, counted: ``python -m server.bundled.evaluate --output DIR [--prompts FILE] [--guidance msd sds …]``.

Generates every prompt with every guidance, at equal wall time, and measures what came out against the procedural
object: what the judge reads from eight views around it, how near the shape is and how near the colour. The table that
DIR holds goes on where it stopped, so a long one can be made in pieces, and on more than one machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from msd_blender.protocol import GUIDANCES, JobRequest

from ..optimize import generate, warm_up
from ..optimize.settings import Settings
from ..paths import expanded
from ..rendering.render import TURNTABLE_BACKGROUND
from . import captions, judge, objects, shapes
from .compare import compare, load

VIEWS = 8
BRIGHT, DARK = 0.98, 0.02  # beyond these a pixel is clipped; no true object's is
EDGE, LABEL = 80, 150  # of a sheet's pictures and its texts, pixels
TRIAL = 20  # iterations that tell how fast a guidance is
ITERATION = ("render forward", "encode", "denoiser", "render backward", "optimizer")  # of what job.json times


def parse(line: str) -> tuple[str, str]:
    """The colour and noun of a prompt. Raises ValueError where it does not name one of each."""
    words = line.lower().replace(",", " ").split()
    colours, nouns = ([word for word in words if word in known] for known in (shapes.COLOURS, shapes.NOUNS))
    if len(colours) != 1 or len(nouns) != 1:
        raise ValueError(
            f"{line!r} must name one colour of {', '.join(shapes.COLOURS)} and one thing of {', '.join(shapes.NOUNS)}."
        )
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
        scenes.append(
            objects.Scene(
                each.parts, eye, eye / np.linalg.norm(eye), 0.45, 0.55, np.full(3, TURNTABLE_BACKGROUND), each.view
            )
        )
    return objects.render(scenes)


def tone(views: Tensor) -> tuple[Tensor, float]:
    """Of the object in views (V, 3, H, W) in [0, 1]: its median colour, (3,) in [0, 1], and the share of its pixels
    that are clipped, a channel burnt out or all of them black."""
    pixels = views.movedim(1, -1).reshape(-1, 3)
    pixels = pixels[(pixels - TURNTABLE_BACKGROUND).abs().amax(dim=1) > 0.01]
    clipped = (pixels.amax(dim=1) > BRIGHT) | (pixels.amax(dim=1) < DARK)
    return pixels.median(dim=0).values, clipped.float().mean().item()


def measure(folder: Path, colour: str, noun: str) -> dict[str, Any]:
    """One row of the table of a finished job's folder. Shares are of the eight views, those of clipped pixels of the
    object's pixels in them; the colour error is the distance of its median colour to the true object's, a mean over
    the channels, in [0, 1]."""
    judged = judge.load()
    views, real = views_of(folder / "turntable.png"), torch.from_numpy(real_views(colour, noun)).movedim(-1, 1) / 255
    read, true = judged.read(views), judged.read(real)
    median, clipped = tone(views)
    record = json.loads((folder / "job.json").read_text())
    likeness = compare(load(folder / "mesh.glb"), noun)

    def share(views: list[dict[str, str]], label: str, word: str) -> float:
        return sum(each[label] == word for each in views) / VIEWS

    return {
        "prompt": f"{colour} {noun}",
        "noun": share(read, "noun", noun),
        "colour": share(read, "colour", colour),
        "front": share(read, "view", "front"),
        "front, truth": share(true, "view", "front"),
        "f_score": likeness.f_score,
        "iou": likeness.iou,
        "chamfer": likeness.chamfer,
        "colour_error": (median - tone(real)[0]).abs().mean().item(),
        "clipped": clipped,
        "seed": record["request"]["seed"],
        "iterations": record["iterations"],
        "seconds": record["seconds_total"],
        "threads": record["threads"],
    }


def make(folder: Path, request: JobRequest) -> None:
    """A job in its folder, unless that one was finished there: job.json is the last file that a job writes."""
    record = folder / "job.json"
    if not record.exists() or JobRequest(**json.loads(record.read_text())["request"]) != request:
        folder.mkdir(parents=True, exist_ok=True)
        generate(request, folder, lambda _: None, lambda: False)


def pace(guidance: str) -> float:
    """Seconds of an iteration on this machine, from a short run."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), JobRequest("a red chair", guidance=guidance, iterations=TRIAL))
        spent = json.loads((Path(folder) / "job.json").read_text())["seconds"]
    return sum(spent[name] for name in ITERATION) / TRIAL


def prepare(threads: int) -> None:
    """A worker process, for jobs of so many threads."""
    torch.set_num_threads(threads)
    warm_up()


def summary(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """A line of the table of guidances."""

    def mean(key: str) -> float:
        return statistics.mean(row[key] for row in rows)

    def median(key: str) -> float:
        return statistics.median(row[key] for row in rows)

    return (
        f"| {name} | {len(rows)} | {mean('noun'):.1%} | {mean('colour'):.1%} | {mean('front'):.1%} | "
        f"{mean('front, truth'):.1%} | {mean('f_score'):.3f} | {mean('iou'):.3f} | {mean('chamfer'):.4f} | "
        f"{mean('colour_error'):.3f} | {mean('clipped'):.1%} | {median('iterations'):.0f} | "
        f"{median('seconds'):.0f} | {median('threads'):.0f} |"
    )


def failed(row: dict[str, Any]) -> bool:
    """Whether most views do not show what the prompt says, or the shape is far from it."""
    return row["noun"] < 0.75 or row["colour"] < 0.75 or row["f_score"] < 0.5


def sheet(entries: Sequence[tuple[str, np.ndarray]], path: Path) -> None:
    """A contact sheet: a line of eight views (8, EDGE, EDGE, 3) for each text."""
    page = Image.new("RGB", (LABEL + VIEWS * EDGE, max(1, len(entries)) * EDGE), (191, 191, 191))
    draw = ImageDraw.Draw(page)
    for i, (text, views) in enumerate(entries):
        draw.text((8, i * EDGE + EDGE // 2 - 6), text, (20, 20, 20))
        page.paste(Image.fromarray(np.concatenate(list(views), axis=1)), (LABEL, i * EDGE))
    page.save(path, optimize=True)


def small(views: np.ndarray) -> np.ndarray:
    """uint8 (8, H, H, 3) as a sheet shows them, (8, EDGE, EDGE, 3)."""
    return np.stack([np.array(Image.fromarray(view).resize((EDGE, EDGE), Image.Resampling.BOX)) for view in views])


class Table:
    """What is measured so far, and its pictures. A folder holds both: text-to-3d.json and a sheet a guidance.

    rows: of each guidance, as `measure`. views: uint8 (8, EDGE, EDGE, 3) of each row.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / "text-to-3d.json"
        self.rows: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}
        self.views: dict[str, list[np.ndarray]] = {}
        for name, rows in self.rows.items():
            page = np.array(Image.open(folder / f"{name}.png").convert("RGB"))[: EDGE * len(rows), LABEL:]
            self.views[name] = list(page.reshape(-1, EDGE, VIEWS, EDGE, 3).swapaxes(1, 2))

    def lacks(self, name: str, pair: tuple[str, str], seed: int) -> bool:
        return all((row["prompt"], row["seed"]) != (" ".join(pair), seed) for row in self.rows.get(name, []))

    def iterations(self, name: str) -> int | None:
        """How many a guidance's rows were made with."""
        return self.rows[name][0]["iterations"] if name in self.rows else None

    def add(self, name: str, job: Path, pair: tuple[str, str]) -> dict[str, Any]:
        """Measure a finished job, and write the table with it."""
        row = measure(job, *pair)
        self.rows.setdefault(name, []).append(row)
        views = (255 * views_of(job / "turntable.png")).round().byte().movedim(1, -1).numpy()
        self.views.setdefault(name, []).append(small(views))
        self.write()
        return row

    def write(self) -> None:
        """text-to-3d.md and .json, a sheet of each guidance, and failures.png, each above its true object."""
        lines = [
            "# Text-to-3D, measured",
            "",
            "| guidance | prompts | noun | colour | front | front, truth | F-score | IoU | Chamfer | "
            "colour error | clipped | iterations | seconds | threads |",
            "|---" * 14 + "|",
        ]
        lines += [summary(name, rows) for name, rows in self.rows.items()]
        failures: list[tuple[str, np.ndarray]] = []
        for name, rows in self.rows.items():
            lines += [
                "",
                f"## {name}",
                "",
                "| prompt | noun | colour | front | F-score | IoU | Chamfer | colour error | clipped | seconds |",
                "|---" * 10 + "|",
            ]
            lines += [
                f"| {row['prompt']} | {row['noun']:.0%} | {row['colour']:.0%} | {row['front']:.0%} | "
                f"{row['f_score']:.3f} | {row['iou']:.3f} | {row['chamfer']:.4f} | "
                f"{row['colour_error']:.3f} | {row['clipped']:.0%} | {row['seconds']:.0f} |"
                for row in rows
            ]
            shown = list(zip((row["prompt"] for row in rows), self.views[name]))
            sheet(shown, self.folder / f"{name}.png")
            for row, (text, views) in zip(rows, shown):
                if failed(row):
                    failures += [(f"{name}: {text}", views), ("the true one", small(real_views(*parse(text))))]
        sheet(failures, self.folder / "failures.png")
        (self.folder / "text-to-3d.md").write_text("\n".join(lines) + "\n")
        (self.folder / "text-to-3d.json").write_text(json.dumps(self.rows, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m server.bundled.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=expanded, required=True, metavar="DIR", help="of the table and its pictures")
    parser.add_argument("--work", type=expanded, default=Path("out/evaluate"), metavar="DIR", help="of the jobs' files")
    parser.add_argument(
        "--prompts",
        type=expanded,
        metavar="FILE",
        help='one "red mushroom" a line; 48 that go through all nouns and colours otherwise',
    )
    parser.add_argument(
        "--guidance",
        nargs="+",
        choices=GUIDANCES,
        default=["msd"],
        help="the others get as much time as the first one takes",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, help="of the first guidance; its default otherwise")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="prompts at once, each on its share of the cores"
    )
    given = parser.parse_args(arguments)
    try:
        pairs = (
            [parse(line) for line in given.prompts.read_text().splitlines() if line.strip()]
            if given.prompts
            else captions.pairs()
        )
        given.output.mkdir(parents=True, exist_ok=True)
        table = Table(given.output)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not pairs:
        parser.error(f"{given.prompts} has no prompts.")
    if given.workers < 1:
        parser.error("--workers must be at least 1.")
    first = given.guidance[0]
    made = table.iterations(first)
    if given.iterations and made and given.iterations != made:
        parser.error(f"The table in {given.output} was made with {made} iterations: name another --output.")
    threads = max(1, torch.get_num_threads() // given.workers)
    with ProcessPoolExecutor(given.workers, get_context("spawn"), prepare, (threads,)) as pool:

        def seconds(name: str) -> float:
            return statistics.mean(pool.map(pace, [name] * given.workers))

        for name in given.guidance:
            left = [pair for pair in pairs if table.lacks(name, pair, given.seed)]
            iterations = table.iterations(name)
            if left and iterations is None:
                iterations = table.iterations(first) or given.iterations or Settings().iterations("generate")
                if name != first:
                    iterations = round(iterations * seconds(first) / seconds(name))
            jobs = [given.work / name / "-".join(pair) for pair in left]
            wishes = [
                JobRequest(
                    f"{captions.article(colour)} {colour} {noun}", seed=given.seed, guidance=name, iterations=iterations
                )
                for colour, noun in left
            ]
            for pair, job, _ in zip(left, jobs, pool.map(make, jobs, wishes)):
                row = table.add(name, job, pair)
                print(
                    f"{name} {row['prompt']}: noun {row['noun']:.0%}, colour {row['colour']:.0%}, "
                    f"F-score {row['f_score']:.3f}, {row['seconds']:.0f} s",
                    flush=True,
                )
    print(f"{given.output / 'text-to-3d.md'} and pictures beside it")


if __name__ == "__main__":
    main()
