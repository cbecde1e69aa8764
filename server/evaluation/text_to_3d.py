# SPDX-License-Identifier: GPL-3.0-or-later
"""Text-to-3D, measured: ``python -m server.evaluation.text_to_3d --output DIR [--prompts FILE] [--guidance msd …]``.

Generates every prompt with every guidance at equal wall time and compares the results with the procedural objects: the
classifier's predictions for eight views around them, their shapes and their colours. Rows that the table in DIR has
already are not made again, so a long table can be made in pieces and on several machines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from msd_blender.protocol import GUIDANCES, JobRequest

from ..bundled_prior import captions, objects, shapes
from ..optimize import generate, warm_up
from ..optimize.settings import Settings
from ..paths import expanded
from ..rendering.cameras import ORBIT_ELEVATION
from ..rendering.render import TURNTABLE_BACKGROUND, TURNTABLE_VIEWS
from .classifier import load_classifier
from .compare import compare_shapes, load_glb

# The light of the true views, from the camera. A turntable's is brighter and comes from above
# (`rendering.shading.Lights.headlight`); these stay because the colour errors of docs/bundled-prior rest on them.
AMBIENT, DIFFUSE = 0.45, 0.55
BRIGHT, DARK = 0.98, 0.02  # a pixel beyond these is clipped; the true objects have none
EDGE, LABEL = 80, 150  # widths of a sheet's pictures and of its texts, pixels
TRIAL = 20  # iterations over which a guidance's speed is measured
ITERATION = (
    "render forward",
    "encode",
    "denoiser",
    "render backward",
    "optimizer",
)  # the parts of job.json's seconds that recur


Measure = Literal[
    "noun",
    "colour",
    "front",
    "front, truth",
    "f_score",
    "iou",
    "chamfer",
    "colour_error",
    "clipped",
    "iterations",
    "seconds",
    "threads",
]
Row = TypedDict(
    "Row",
    {
        "prompt": str,
        "noun": float,
        "colour": float,
        "front": float,
        "front, truth": float,
        "f_score": float,
        "iou": float,
        "chamfer": float,
        "colour_error": float,
        "clipped": float,
        "seed": int,
        "iterations": int,
        "seconds": float,
        "threads": int,
    },
)


def parse_prompt(line: str) -> tuple[str, str]:
    """The colour and noun of a prompt. Raises ValueError unless it names exactly one of each."""
    words = line.lower().replace(",", " ").split()
    colours, nouns = ([word for word in words if word in known] for known in (shapes.COLOURS, shapes.NOUNS))
    if len(colours) != 1 or len(nouns) != 1:
        raise ValueError(
            f"{line!r} must name one colour of {', '.join(shapes.COLOURS)} and one thing of {', '.join(shapes.NOUNS)}."
        )
    return colours[0], nouns[0]


def load_views(picture: Path) -> Tensor:
    """The views of a turntable, (8, 3, H, H) in [0, 1], front first and counter-clockwise."""
    pixels = torch.from_numpy(np.array(Image.open(picture).convert("RGB"))).float() / 255
    return torch.stack(pixels.split(len(pixels), dim=1)[:TURNTABLE_VIEWS]).movedim(-1, 1)


def true_views(colour: str, noun: str) -> np.ndarray:
    """The procedural object from a turntable's cameras, uint8 (8, 64, 64, 3)."""
    scenes = []
    for i in range(TURNTABLE_VIEWS):
        angles = np.array([360 * i / TURNTABLE_VIEWS, ORBIT_ELEVATION])
        scene = objects.scene(colour, noun, np.random.default_rng(0), angles, vary=False)
        eye = objects.camera_position(*angles)
        scenes.append(
            replace(
                scene,
                eye=eye,
                light=eye / np.linalg.norm(eye),
                ambient=AMBIENT,
                diffuse=DIFFUSE,
                background=np.full(3, TURNTABLE_BACKGROUND),
            )
        )
    return objects.render(scenes)


def object_colours(views: Tensor) -> tuple[Tensor, float]:
    """The median colour (3,) of the object in views (V, 3, H, W), and the share of its pixels that are clipped.

    All values are in [0, 1]. A pixel is clipped where a channel is burnt out or all of them are black.
    """
    pixels = views.movedim(1, -1).reshape(-1, 3)
    pixels = pixels[(pixels - TURNTABLE_BACKGROUND).abs().amax(dim=1) > 0.01]
    clipped = (pixels.amax(dim=1) > BRIGHT) | (pixels.amax(dim=1) < DARK)
    return pixels.median(dim=0).values, clipped.float().mean().item()


def measure_job(folder: Path, colour: str, noun: str) -> Row:
    """The table's row of a finished job's folder.

    noun, colour, front: shares of the eight views with this prediction; "front, truth": that of the true object.
    f_score, iou, chamfer: as `ShapeScores`. clipped: share of the object's pixels.
    colour_error: distance between the median colours of object and true object, mean over the channels, in [0, 1].
    """
    classifier = load_classifier()
    views, true = load_views(folder / "turntable.png"), torch.from_numpy(true_views(colour, noun)).movedim(-1, 1) / 255
    predicted, predicted_true = classifier.predict(views), classifier.predict(true)
    median, clipped = object_colours(views)
    record = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    scores = compare_shapes(load_glb(folder / "mesh.glb"), noun)

    def share(predictions: list[dict[str, str]], label: str, word: str) -> float:
        return sum(each[label] == word for each in predictions) / TURNTABLE_VIEWS

    return {
        "prompt": f"{colour} {noun}",
        "noun": share(predicted, "noun", noun),
        "colour": share(predicted, "colour", colour),
        "front": share(predicted, "view", "front"),
        "front, truth": share(predicted_true, "view", "front"),
        "f_score": scores.f_score,
        "iou": scores.iou,
        "chamfer": scores.chamfer,
        "colour_error": (median - object_colours(true)[0]).abs().mean().item(),
        "clipped": clipped,
        "seed": record["request"]["seed"],
        "iterations": record["iterations"],
        "seconds": record["seconds_total"],
        "threads": record["threads"],
    }


def run_job(folder: Path, request: JobRequest) -> None:
    """Run a job in its folder, unless it has finished there: job.json is the last file that a job writes."""
    record = folder / "job.json"
    if not record.exists() or JobRequest(**json.loads(record.read_text(encoding="utf-8"))["request"]) != request:
        folder.mkdir(parents=True, exist_ok=True)
        generate(request, folder, lambda _: None, lambda: False)


def seconds_per_iteration(guidance: str) -> float:
    """The duration of an iteration on this machine, from a short run."""
    with tempfile.TemporaryDirectory() as folder:
        run_job(Path(folder), JobRequest("a red chair", guidance=guidance, iterations=TRIAL))
        spent = json.loads((Path(folder) / "job.json").read_text(encoding="utf-8"))["seconds"]
    return sum(spent[name] for name in ITERATION) / TRIAL


def init_worker(threads: int) -> None:
    """Prepare a worker process whose jobs use this number of threads."""
    torch.set_num_threads(threads)
    warm_up()


def summary_line(name: str, rows: Sequence[Row]) -> str:
    """The line of a guidance in the summary table."""

    def mean(key: Measure) -> float:
        return statistics.mean(row[key] for row in rows)

    def median(key: Measure) -> float:
        return statistics.median(row[key] for row in rows)

    return (
        f"| {name} | {len(rows)} | {mean('noun'):.1%} | {mean('colour'):.1%} | {mean('front'):.1%} | "
        f"{mean('front, truth'):.1%} | {mean('f_score'):.3f} | {mean('iou'):.3f} | {mean('chamfer'):.4f} | "
        f"{mean('colour_error'):.3f} | {mean('clipped'):.1%} | {median('iterations'):.0f} | "
        f"{median('seconds'):.0f} | {median('threads'):.0f} |"
    )


def has_failed(row: Row) -> bool:
    """Whether more than a quarter of the views show another noun or colour, or the shape is far from the true one."""
    return row["noun"] < 0.75 or row["colour"] < 0.75 or row["f_score"] < 0.5


def save_sheet(entries: Sequence[tuple[str, np.ndarray]], path: Path) -> None:
    """Save a contact sheet: a line of eight views, uint8 (8, EDGE, EDGE, 3), for each text."""
    page = Image.new("RGB", (LABEL + TURNTABLE_VIEWS * EDGE, max(1, len(entries)) * EDGE), (191, 191, 191))
    draw = ImageDraw.Draw(page)
    for i, (text, views) in enumerate(entries):
        draw.text((8, i * EDGE + EDGE // 2 - 6), text, (20, 20, 20))
        page.paste(Image.fromarray(np.concatenate(list(views), axis=1)), (LABEL, i * EDGE))
    page.save(path, optimize=True)


def thumbnails(views: np.ndarray) -> np.ndarray:
    """uint8 (8, H, H, 3) -> (8, EDGE, EDGE, 3), as a sheet shows them."""
    return np.stack([np.array(Image.fromarray(view).resize((EDGE, EDGE), Image.Resampling.BOX)) for view in views])


class ResultTable:
    """The rows and pictures of a folder, which holds them as text-to-3d.json and a contact sheet for each guidance.

    rows: for each guidance, as `measure_job`. views: uint8 (8, EDGE, EDGE, 3) for each row.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / "text-to-3d.json"
        self.rows: dict[str, list[Row]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.views: dict[str, list[np.ndarray]] = {}
        for name, rows in self.rows.items():
            page = np.array(Image.open(folder / f"{name}.png").convert("RGB"))[: EDGE * len(rows), LABEL:]
            self.views[name] = list(page.reshape(-1, EDGE, TURNTABLE_VIEWS, EDGE, 3).swapaxes(1, 2))

    def is_missing(self, name: str, labels: tuple[str, str], seed: int) -> bool:
        """Whether a guidance has no row of this (colour, noun) and seed."""
        return all((row["prompt"], row["seed"]) != (" ".join(labels), seed) for row in self.rows.get(name, []))

    def iterations(self, name: str) -> int | None:
        """The number of iterations of a guidance's rows; None without rows."""
        return self.rows[name][0]["iterations"] if name in self.rows else None

    def add(self, name: str, job: Path, labels: tuple[str, str]) -> Row:
        """Measure a finished job and write the table with its row."""
        row = measure_job(job, *labels)
        self.rows.setdefault(name, []).append(row)
        views = (255 * load_views(job / "turntable.png")).round().byte().movedim(1, -1).numpy()
        self.views.setdefault(name, []).append(thumbnails(views))
        self.write()
        return row

    def write(self) -> None:
        """Write text-to-3d.md, text-to-3d.json, a contact sheet for each guidance, and failures.png.

        The latter shows each failed object above its true one.
        """
        lines = [
            "# Text-to-3D, measured",
            "",
            "| guidance | prompts | noun | colour | front | front, truth | F-score | IoU | Chamfer | "
            "colour error | clipped | iterations | seconds | threads |",
            "|---" * 14 + "|",
        ]
        lines += [summary_line(name, rows) for name, rows in self.rows.items()]
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
            save_sheet(shown, self.folder / f"{name}.png")
            for row, (text, views) in zip(rows, shown):
                if has_failed(row):
                    failures += [
                        (f"{name}: {text}", views),
                        ("the true one", thumbnails(true_views(*parse_prompt(text)))),
                    ]
        save_sheet(failures, self.folder / "failures.png")
        (self.folder / "text-to-3d.md").write_text("\n".join(lines) + "\n")
        (self.folder / "text-to-3d.json").write_text(json.dumps(self.rows, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m server.evaluation.text_to_3d",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=expanded, required=True, metavar="DIR", help="folder of the table and its pictures"
    )
    parser.add_argument(
        "--work", type=expanded, default=Path("out/evaluate"), metavar="DIR", help="folder of the jobs' files"
    )
    parser.add_argument(
        "--prompts",
        type=expanded,
        metavar="FILE",
        help='one prompt such as "red mushroom" a line; default: 48 with all nouns and colours',
    )
    parser.add_argument(
        "--guidance",
        nargs="+",
        choices=GUIDANCES,
        default=["msd"],
        help="the others get as much wall time as the first",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, help="of the first guidance (default: its own)")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="jobs at once, each on its share of the cores"
    )
    given = parser.parse_args(arguments)
    try:
        prompts = (
            [parse_prompt(line) for line in given.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
            if given.prompts
            else captions.balanced_prompts()
        )
        given.output.mkdir(parents=True, exist_ok=True)
        table = ResultTable(given.output)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not prompts:
        parser.error(f"{given.prompts} has no prompts.")
    if given.workers < 1:
        parser.error("--workers must be at least 1.")
    first = given.guidance[0]
    made = table.iterations(first)
    if given.iterations and made and given.iterations != made:
        parser.error(f"The table in {given.output} was made with {made} iterations: name another --output.")
    threads = max(1, torch.get_num_threads() // given.workers)
    with ProcessPoolExecutor(given.workers, get_context("spawn"), init_worker, (threads,)) as pool:

        def seconds(name: str) -> float:
            return statistics.mean(pool.map(seconds_per_iteration, [name] * given.workers))

        for name in given.guidance:
            missing = [labels for labels in prompts if table.is_missing(name, labels, given.seed)]
            iterations = table.iterations(name)
            if missing and iterations is None:
                iterations = table.iterations(first) or given.iterations or Settings().iterations("generate")
                if name != first:
                    iterations = round(iterations * seconds(first) / seconds(name))
            folders = [given.work / name / "-".join(labels) for labels in missing]
            requests = [
                JobRequest(captions.prompt(*labels), seed=given.seed, guidance=name, iterations=iterations)
                for labels in missing
            ]
            for labels, folder, _ in zip(missing, folders, pool.map(run_job, folders, requests)):
                row = table.add(name, folder, labels)
                print(
                    f"{name} {row['prompt']}: noun {row['noun']:.0%}, colour {row['colour']:.0%}, "
                    f"F-score {row['f_score']:.3f}, {row['seconds']:.0f} s",
                    flush=True,
                )
    print(f"{given.output / 'text-to-3d.md'} and pictures beside it")


if __name__ == "__main__":
    main()
