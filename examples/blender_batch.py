# SPDX-License-Identifier: GPL-3.0-or-later
"""Make an object from each of several prompts, side by side, and save them in one .blend.

python -m examples.blender_batch "a red mushroom" "a blue chair" --output batch.blend
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bpy

from msd_blender import api

SPACING = 2.5  # metres between two objects, which are at most about 2 metres wide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="+", metavar="PROMPT")
    parser.add_argument("--output", type=Path, default=Path("batch.blend"), metavar="FILE.blend")
    parser.add_argument("--iterations", type=int, metavar="N", help="fewer are faster and coarser")
    parser.add_argument(
        "--model", default="", metavar="DIR", help="a Stable Diffusion pipeline; default: the bundled one"
    )
    # With a running server (`python -m server serve`) the model is loaded once. Else each job starts its own server.
    parser.add_argument("--server", default="", metavar="URL", help="default: find or start one on this machine")
    options = parser.parse_args()

    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    for number, prompt in enumerate(options.prompts):
        try:
            object = api.generate(
                prompt, seed=number, iterations=options.iterations, model=options.model, server=options.server
            )
        except api.GenerationError as error:  # one failure is not to end the batch
            print(f"{prompt}: {error}", file=sys.stderr)
            continue
        object.location.x = SPACING * number
    bpy.ops.wm.save_as_mainfile(filepath=str(options.output.absolute()))


if __name__ == "__main__":
    main()
