# SPDX-License-Identifier: GPL-3.0-or-later
"""The three modes, before and after: docs/modes.png and docs/modes.md.

    python scripts/modes.py [--output docs] [--work out/modes] [--prompts N] [--seed 0]

generate: the field's surface against the cleaned and textured mesh, with what is counted about either. texture and
refine: Blender's monkey; its right half is locked in one row of each. Jobs that are done already are not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from msd_blender.protocol import JobRequest, Progress, Snapshot
from server.bundled_prior import captions
from server.evaluation.compare import compare_shapes
from server.geometry.mesh import Mesh
from server.geometry.mesh_quality import quality_report
from server.optimize import generate, warm_up
from server.optimize.output import turntable
from server.rendering import rasterize

PICTURED = 3  # prompts of generate that are shown, of those that are measured
LABEL = 190  # pixels


def run(folder: Path, request: JobRequest, mesh: Mesh | None = None) -> tuple[Mesh, Mesh]:
    """(the mesh as it was given, or before it was cleaned; the mesh at the end) of a job in a folder."""
    if not (folder / "after.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        seen: dict[str, Mesh] = {"before": mesh} if mesh else {}
        phase = [""]

        def hear(message: object) -> None:
            if isinstance(message, Progress):
                phase[0] = message.phase
            if isinstance(message, Snapshot):
                here = Mesh.from_arrays(message.arrays)
                seen["after"] = here
                if mesh is None and phase[0] in ("volume", "surface"):
                    seen["before"] = here

        generate(request, folder, hear, lambda: False, mesh=mesh)
        for name, each in seen.items():
            np.savez(folder / f"{name}.npz", **each.arrays())  # type: ignore[arg-type]
    before, after = (Mesh.from_arrays(dict(np.load(folder / f"{name}.npz"))) for name in ("before", "after"))
    return before, after


def measured(mesh: Mesh, noun: str) -> dict[str, Any]:
    shape = trimesh.Trimesh(mesh.positions, mesh.faces, process=False)
    return {**quality_report(mesh), "f_score": compare_shapes(shape, noun).f_score}


def line(prompt: str, before: dict[str, Any], after: dict[str, Any], seconds: float) -> str:
    cells = [
        prompt,
        f"{seconds:.0f}",
        f"{before['faces']} → {after['faces']}",
        after["degenerate_faces"],
        after["duplicate_vertices"],
        after["non_manifold_edges"],
        f"{before['components']} → {after['components']}",
        f"{after['self_intersecting_share']:.4f}",
        f"{after['uv_overlap_share']:g}",
        f"{before['f_score']:.3f} → {after['f_score']:.3f}",
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs"))
    parser.add_argument("--work", type=Path, default=Path("out/modes"))
    parser.add_argument("--prompts", type=int, default=24, help="of generate, that are measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int)
    given = parser.parse_args()
    warm_up()
    given.work.mkdir(parents=True, exist_ok=True)
    given.output.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, Mesh, bool]] = []
    lines: list[str] = []
    wish = {"seed": given.seed, "iterations": given.iterations}

    path = given.work / "monkey.npz"
    if not path.exists():
        script = Path(__file__).with_name("suzanne.py")
        subprocess.run([sys.executable, script, path, "1"], check=True, capture_output=True)
    monkey = Mesh.from_arrays(dict(np.load(path)))
    rows.append(("given", monkey, True))
    half = replace(monkey, locked=(monkey.positions[:, 0] < 0).astype(np.uint8))
    for mode, prompt in (("texture", "a red apple"), ("refine", "a red apple")):
        for name, mesh in ((mode, monkey), (f"{mode}, half locked", half)):
            request = JobRequest(prompt, mode=mode, mesh="monkey", **wish)
            _, after = run(given.work / name.replace(", ", "-").replace(" ", "-"), request, mesh)
            rows.append((f"{name}:\n{prompt}", after, True))
            write(given.output, rows, lines, given.seed)
    for i, (colour, noun) in enumerate(captions.balanced_prompts(given.prompts)):
        prompt = captions.prompt(colour, noun)
        folder = given.work / prompt.replace(" ", "-")
        before, after = run(folder, JobRequest(prompt, **wish))
        seconds = json.loads((folder / "job.json").read_text())["seconds_total"]
        lines.append(line(prompt, measured(before, noun), measured(after, noun), seconds))
        print(lines[-1], flush=True)
        if i < PICTURED:
            rows += [(f"generate, before clean-up:\n{prompt}", before, False), ("after", after, False)]
        write(given.output, rows, lines, given.seed)


def write(folder: Path, rows: list[tuple[str, Mesh, bool]], lines: list[str], seed: int) -> None:
    """modes.png and modes.md of what there is so far."""
    rasterizer = rasterize.create("cpu", "cpu")
    sheet = []
    for text, mesh, scaled in rows:
        picture = turntable(rasterizer, mesh, "cpu", scaled=scaled)
        row = Image.new("RGB", (LABEL + picture.shape[1], len(picture)), (191, 191, 191))
        row.paste(Image.fromarray(picture), (LABEL, 0))
        ImageDraw.Draw(row).text((12, len(picture) // 2 - 12), text, (20, 20, 20))
        sheet.append(np.array(row))
    Image.fromarray(np.concatenate(sheet)).save(folder / "modes.png", optimize=True)
    (folder / "modes.md").write_text(
        "# Three modes\n\n![before and after, from eight sides](modes.png)\n\n"
        f"Made by `python scripts/modes.py --seed {seed}` on the CPU, threads: {torch.get_num_threads()}. "
        "Texture leaves vertices and UVs as they are, refine moves the vertices; what is locked is the same "
        "bit for bit.\n\n"
        "Generate, before → after its clean-up, texture and unwrap:\n\n"
        "| prompt | seconds | faces | degenerate faces | duplicate vertices | non-manifold edges | components | "
        "share of faces that cross another | share of faces that overlap in UVs | F-score |\n"
        + "|---" * 10
        + "|\n"
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    main()
