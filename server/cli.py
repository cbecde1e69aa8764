# SPDX-License-Identifier: GPL-3.0-or-later
"""The arguments of ``python -m server``."""

from __future__ import annotations

import argparse

from msd_blender.protocol import DEFAULT_HOST, DEFAULT_PORT, add_options, data_folder

from .jobs import EXECUTORS
from .paths import expanded, expanded_text

WITHOUT = ("priority",)  # the job runs in this process at once: none waits for another


def parser(program: str = "python -m server") -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog=program, description="The msd_blender server.")
    commands = top.add_subparsers(dest="command", required=True)

    serve = commands.add_parser("serve", help="answer Blender's panel and other clients")
    serve.add_argument(
        "--host",
        default=DEFAULT_HOST,
        help="where to listen; beyond this machine, clients need the token in server.json",
    )
    serve.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes any free one")
    serve.add_argument("--data", type=expanded, default=data_folder(), metavar="DIR", help="jobs and their files")
    serve.add_argument(
        "--models",
        type=expanded,
        action="append",
        metavar="DIR",
        help="open and list models only below this folder, also ComfyUI's or AUTOMATIC1111's own; may be given again. "
        "Without it: any on this machine's own address, none but the bundled one beyond it",
    )
    _add_cores(serve)
    serve.add_argument(
        "--executor",
        default="local",
        choices=EXECUTORS,
        help="where jobs run: here, or on the machines of a Ray cluster",
    )
    serve.add_argument(
        "--ray-address", default="auto", metavar="HOST:PORT", help="of the Ray cluster; auto: that of this machine"
    )
    serve.add_argument(
        "--cpus-per-job", type=int, default=0, metavar="N", help="run Ray's jobs on so many CPUs each; 0: on a GPU each"
    )
    serve.add_argument(
        "--jobs-per-client", type=int, default=0, metavar="N", help="run at most so many jobs of one address; 0: any"
    )
    serve.add_argument("--parent", type=int, metavar="PID", help="end when this process has ended")

    doctor = commands.add_parser("doctor", help="say what this machine has and what is missing")
    doctor.add_argument("--host", default=DEFAULT_HOST)
    doctor.add_argument("--port", type=int, default=DEFAULT_PORT)
    doctor.add_argument("--data", type=expanded, default=data_folder(), metavar="DIR")
    doctor.add_argument(
        "--models",
        type=expanded,
        action="append",
        metavar="DIR",
        help="a model, or a folder of models, to look at; may be given again. Without it: ComfyUI's, AUTOMATIC1111's "
        "and those in the Hugging Face cache",
    )

    for mode, effect in (
        ("generate", "make an asset here and now, without Blender"),
        ("texture", "paint a mesh, whose vertices and UVs stay as they are"),
        ("refine", "paint a mesh and move its vertices"),
    ):
        command = commands.add_parser(mode, help=effect)
        add = command.add_argument
        add("--output", type=expanded, required=True, metavar="DIR", help="gets mesh.glb, texture.png, …")
        add("--overwrite", action="store_true", help="replace files there that are no result of this command")
        add("--format", nargs="+", default=[], metavar="SUFFIX", help="further files of the mesh: obj, ply, usda, …")
        if mode != "generate":
            add("--input", type=expanded, required=True, metavar="FILE", help="a .glb, .gltf, .obj, .ply or .usd file")
        _add_cores(command)
        add_options(command, mode, expanded_text, WITHOUT)
    return top


def _add_cores(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--cores",
        type=_cores,
        metavar="N",
        help="threads for work on the CPU, 1 to 1024; with other numbers the same seed gives other bytes. Without it: "
        "OMP_NUM_THREADS, else all cores",
    )


def _cores(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1024")
    return int(text)
