# SPDX-License-Identifier: GPL-3.0-or-later
"""Build a mesh in Python, paint it from a prompt and save it as a .blend.

python -m examples.headless_texture "a wooden crate" --output crate.blend
"""

from __future__ import annotations

import argparse
from pathlib import Path

import bpy

from msd_blender import api
from msd_blender.job_session import format_progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default="a wooden crate", metavar="PROMPT")
    parser.add_argument("--output", type=Path, default=Path("crate.blend"), metavar="FILE.blend")
    parser.add_argument("--iterations", type=int, metavar="N", help="fewer are faster and coarser")
    parser.add_argument(
        "--model", default="", metavar="DIR", help="a Stable Diffusion pipeline; default: the bundled one"
    )
    parser.add_argument("--server", default="", metavar="URL", help="default: find or start one on this machine")
    options = parser.parse_args()

    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    bpy.ops.mesh.primitive_cube_add(size=1)  # Blender's cube has UVs; another mesh must be unwrapped first
    crate = bpy.context.object
    crate.name = "Crate"

    # The vertices and UVs stay as they are. The images are packed into the .blend; beside it are a .glb, a turntable
    # and job.json. The file is replaced when this command is run again.
    api.texture(
        crate,
        options.prompt,
        options.output,
        maps=["roughness"],  # beside base colour
        texture_size=256,
        iterations=options.iterations,
        model=options.model,
        server=options.server,
        progress=lambda progress: print(format_progress(progress)),
        log=print,
    )


if __name__ == "__main__":
    main()
