# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension in a real Blender window, by real keys and clicks: replays of what artists once met, and random
sequences of their steps. Whatever they undo, each job has one record and one object.

    python scripts/window_check.py [--sequences 5] [--first 0] [--replays undo keep …] [--pictures FOLDER]

It needs Blender, Xvfb, xdotool and ImageMagick's import, see scripts/window_driver.py. The server is this repository's.
A replay or sequence that fails is printed with its seed and steps, its picture is kept, and the others go on; the exit
code is then 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from msd_blender import local_server  # noqa: E402
from scripts.window_driver import ROOT, Gone, Window, missing, window  # noqa: E402
from scripts.window_replays import REPLAYS, check, new_file  # noqa: E402


def pick(window: Window, draw: random.Random) -> None:
    """Click an object."""
    state = window.state()
    places = [object["pixel"] for object in state["objects"].values() if object["pixel"] and object["vertices"]]
    inside = [place for place in places if 20 < place[0] < 900 and 100 < place[1] < 800]
    if inside:
        window.click(draw.choice(inside))
    window.hover()


ACTIONS: dict[str, Callable[[Window], None]] = {
    "generate": lambda window: window.press("generate"),
    "texture": lambda window: window.press("texture"),
    "undo": lambda window: window.key("ctrl+z"),
    "redo": lambda window: window.key("ctrl+shift+z"),
    "delete": lambda window: window.key("Delete"),
    "duplicate": lambda window: window.key("shift+d", "Escape"),
    "edit": lambda window: window.key("Tab", "a", "g", "x", "1", "Return", "Tab"),
    "rename": lambda window: window.key("F2", "m", "i", "n", "e", "Return"),
    "pause": lambda window: window.press("pause"),
    "resume": lambda window: window.press("resume"),
    "keep": lambda window: window.press("keep"),
    "discard": lambda window: window.press("discard"),
    "save": lambda window: window.key("ctrl+s"),
    "reopen": lambda window: window.press("reopen"),
}
WEIGHTS = {"undo": 4, "redo": 2, "delete": 2, "generate": 2, "texture": 2}


def random_sequence(window: Window, seed: int) -> None:
    """Ten steps that are drawn at random after a first Generate. Raises AssertionError."""
    draw, done = random.Random(seed), ["generate"]
    window.press("generate")
    time.sleep(draw.choice([0, 2, 5]))  # nothing, a little or more has grown
    names = draw.choices(list(ACTIONS), [WEIGHTS.get(name, 1) for name in ACTIONS], k=10)
    try:
        for name in names:
            if name in ("generate", "texture") and len(window.state()["jobs"]) > 1:
                continue
            if name in ("texture", "delete", "duplicate", "edit", "rename"):
                pick(window, draw)
            if name == "edit" and not window.state()["selected"]:
                continue
            done.append(name)
            ACTIONS[name](window)
            time.sleep(draw.choice([0.1, 0.2, 0.6]))
            for _ in range(3):  # until the extension's timer has seen an undo
                state = window.state()
            check(state)
    except (AssertionError, Gone) as error:
        raise type(error)(f"after {', '.join(done)}: {error}") from error
    print(f"  {', '.join(done)}", flush=True)


def attempt(window: Window, name: str, run: Callable[[Window], None]) -> str:
    """What is wrong after a replay or sequence in a new file, "" where nothing is. Raises `Gone`."""
    began = time.monotonic()
    print(f"{name}:", flush=True)
    problem = ""
    try:
        new_file(window)
        run(window)
    except AssertionError as error:
        problem = str(error) or "an assertion failed"
        window.picture(f"failed-{name.replace(' ', '-')}")
    if "Traceback" in (said := window.new_log()):
        problem += said[said.index("Traceback") :][:3000]
    print(f"  {'FAILED: ' + problem if problem else 'as it should be'} ({time.monotonic() - began:.0f} s)", flush=True)
    return problem


def attempt_all(
    runs: dict[str, Callable[[Window], None]], server: local_server.LocalServer, pictures: Path
) -> dict[str, str]:
    """What is wrong after each run that failed. A Blender that has ended is started again for the next one."""
    failed, todo = {}, list(runs)
    while todo:
        name = ""
        try:
            with window(server, pictures) as shown:
                while todo:
                    name = todo.pop(0)
                    if problem := attempt(shown, name, runs[name]):
                        failed[name] = problem
        except Gone as error:
            if not name:
                raise SystemExit(f"window-check: {error}") from None
            failed[name] = str(error)
            print(f"  FAILED: {error}", flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=5, help="random sequences after the replays")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--replays", nargs="*", choices=list(REPLAYS), default=list(REPLAYS), help="those to run")
    parser.add_argument("--pictures", type=Path, default=ROOT / "out" / "window", help="folder for pictures")
    options = parser.parse_args()
    if missing_programs := missing():
        parser.exit(
            2,
            f"window-check: {', '.join(missing_programs)} not found. Install Blender, Xvfb, xdotool and "
            "ImageMagick, or set BLENDER to the program, or BLENDER_ROOT to the root of a system that has them.\n",
        )
    runs = {name: REPLAYS[name] for name in options.replays}
    for seed in range(options.first, options.first + options.sequences):
        runs[f"sequence {seed}"] = partial(random_sequence, seed=seed)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as data:
        server = local_server.start(Path(data))
        try:
            failed = attempt_all(runs, server, options.pictures)
        finally:
            server.stop()
    print(f"window-check: {len(runs) - len(failed)} of {len(runs)} replays and sequences are as they should be.")
    for name, problem in failed.items():
        print(f"{name}: {problem[:1000]}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
