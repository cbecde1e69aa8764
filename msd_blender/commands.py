# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: ``python -m msd_blender …`` and ``blender --background --command msd …``.

bpy is imported inside the functions that need it, so that ``--help`` works without it and bad options are refused
without the seconds that it takes to load.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import Any, NoReturn

from .job_session import format_progress, progress_fraction
from .protocol import Progress, ProtocolError, add_options

NO_BPY = (
    "This Python has no bpy, which writes .blend files: use Python 3.11 or 3.13 with msd_blender[blender], or "
    "blender --background --command msd; python -m server writes .glb files without it."
)
OK, FAILURE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def parser(program: str = "python -m msd_blender") -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog=program, description="Text to 3D in Blender.")
    commands = top.add_subparsers(dest="command", required=True)
    written = "Writes FILE.blend, FILE.glb beside it, and turntable.png and job.json in the same folder."
    for mode, effect in (
        ("generate", "make an object from a prompt"),
        ("texture", "paint a mesh, whose vertices and UVs stay"),
        ("refine", "paint and reshape a mesh"),
    ):
        command = commands.add_parser(mode, help=effect, description=written)
        add = command.add_argument
        add("--output", required=True, metavar="FILE.blend")
        add("--overwrite", action="store_true", help="replace files that no earlier run of this command has made")
        if mode != "generate":
            add("--input", required=True, metavar="FILE", help="a .blend, .glb, .gltf, .obj, .ply or .stl file")
            add("--object", default="", metavar="NAME", help="default: the only mesh of the file")
            add("--lock", default="", metavar="GROUP", help="vertex group that must not change")
        add_options(command, mode)
        add("--server", default="", metavar="URL", help="default: find or start one on this machine")
        add("--token", default="", metavar="TEXT", help="of a server on another machine")
    return top


def main(arguments: list[str], program: str = "python -m msd_blender") -> int:
    """Run a command line and return its exit code. A failure is one sentence on stderr."""
    try:
        given = vars(parser(program).parse_args(arguments))
    except SystemExit as stop:  # argparse has printed its message; Blender expects a return value
        return int(stop.code or 0)
    # Blender takes Ctrl-C away from Python. SIGTERM saves the last state too.
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _run(**given)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: a handler of Blender's, which is about to end


def _interrupt(number: int, frame: Any) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second signal must not stop the saving
    raise KeyboardInterrupt


def _run(command: str, input: str = "", object: str = "", **given: Any) -> int:
    line = ProgressLine()
    try:
        import bpy
    except ModuleNotFoundError:
        line.say(f"Error: {NO_BPY}")
        return FAILURE
    from . import api

    try:
        bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
        if command == "generate":
            line.say(f"Making {given['prompt'][:80]!r} …")
            api.generate(**given, progress=line.show, log=line.say)
        else:
            mesh = api.open_mesh(input, object)
            line.say(f"Working on {mesh.name!r} …")
            work = {"texture": api.texture, "refine": api.refine}[command]
            work(mesh, **given, progress=line.show, log=line.say)
    except KeyboardInterrupt:
        line.say("Stopped.")
        return INTERRUPTED
    except (ProtocolError, api.InvalidInputError) as error:
        line.say(f"Error: {error}")
        return BAD_INPUT
    except (api.GenerationError, ValueError, RuntimeError, OSError) as error:
        line.say(f"Error: {error}")
        return FAILURE
    line.say(f"Saved {given['output']}")
    return OK


def run() -> int:
    """The command ``msd``."""
    return main(sys.argv[1:], "msd")


class ProgressLine:
    """A progress bar on stderr: on a terminal one line that is rewritten, elsewhere a line for every tenth."""

    width = 30

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._drawn = False
        self._next = 0.0

    def show(self, progress: Progress) -> None:
        done = progress_fraction(progress)
        if self._is_terminal:
            if time.monotonic() >= self._next or done == 1:
                filled = round(done * self.width)
                bar = "█" * filled + "░" * (self.width - filled)
                sys.stderr.write(f"\r{bar} {done:4.0%}  {format_progress(progress):<40}")
                sys.stderr.flush()
                self._drawn, self._next = True, time.monotonic() + 0.1
        elif done >= self._next:
            print(f"{done:4.0%}  {format_progress(progress)}", file=sys.stderr, flush=True)
            self._next = (int(done * 10 + 1e-9) + 1) / 10

    def say(self, text: str) -> None:
        sys.stderr.write("\n" * self._drawn)
        self._drawn = False
        print(text, file=sys.stderr, flush=True)


_handle: Any = None


def register() -> None:
    import bpy

    global _handle
    _handle = bpy.utils.register_cli_command("msd", lambda arguments: main(arguments, "blender --command msd"))


def unregister() -> None:
    import bpy

    bpy.utils.unregister_cli_command(_handle)
