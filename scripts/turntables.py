# SPDX-License-Identifier: GPL-3.0-or-later
"""Generate the eight prompts of the README and render turntables: docs/turntables.png and docs/turntables.md.

python scripts/turntables.py [--output docs] [--seed 0] [--work out/turntables] [PROMPT …]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from msd_blender.protocol import JobRequest
from server.optimize import generate, warm_up

PROMPTS = [
    "a red mushroom",
    "a blue chair",
    "a green tree",
    "a yellow rocket",
    "a purple donut",
    "an orange car",
    "a pink house",
    "a brown table",
]
LABEL = 150  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--output", type=Path, default=Path("docs"))
    parser.add_argument("--work", type=Path, default=Path("out/turntables"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int)
    given = parser.parse_args()
    warm_up()
    rows, lines = [], []
    for prompt in given.prompts:
        folder = given.work / prompt.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        generate(
            JobRequest(prompt, seed=given.seed, iterations=given.iterations), folder, lambda _: None, lambda: False
        )
        seconds = time.perf_counter() - start
        record = json.loads((folder / "job.json").read_text())
        mesh = record["mesh"]
        lines.append(
            f"| {prompt} | {seconds:.0f} | {record['iterations']} | {record['denoiser_calls']} | "
            f"{mesh['vertices']} | {mesh['faces']} | {mesh['non_manifold_edges']} |"
        )
        print(lines[-1], flush=True)
        picture = Image.open(folder / "turntable.png")
        row = Image.new("RGB", (LABEL + picture.width, picture.height), (191, 191, 191))
        row.paste(picture, (LABEL, 0))
        ImageDraw.Draw(row).text((12, picture.height // 2 - 6), prompt, (20, 20, 20))
        rows.append(row)
        sheet = Image.new("RGB", (rows[0].width, sum(r.height for r in rows)))
        for i, each in enumerate(rows):
            sheet.paste(each, (0, i * each.height))
        given.output.mkdir(parents=True, exist_ok=True)
        sheet.save(given.output / "turntables.png", optimize=True)
    (given.output / "turntables.md").write_text(
        "# Eight prompts\n\n![eight prompts from eight sides](turntables.png)\n\n"
        f"Made by `python scripts/turntables.py --seed {given.seed}` on the CPU.\n\n"
        "| prompt | seconds | iterations | denoiser calls | vertices | faces | non-manifold edges |\n"
        "|---|---|---|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
