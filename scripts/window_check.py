# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension in a real Blender window, with real keys and clicks: whatever the artist undoes, each job has one
record and one object.

    python scripts/window_check.py [--sequences 5] [--pictures FOLDER]

It needs Blender, Xvfb, xdotool and ImageMagick's import, and ends with a sentence about what is missing. BLENDER names
the program (default blender); BLENDER_ROOT is the root of a system that has them all, which then run in a chroot. The
server is this repository's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from msd_blender import local_server  # noqa: E402

SYSTEM, BLENDER = os.environ.get("BLENDER_ROOT", ""), os.environ.get("BLENDER", "blender")
DISPLAY = os.environ.get("WINDOW_DISPLAY", ":96")
PROGRAMS = (BLENDER, "Xvfb", "xdotool", "import")
KEYS = ("generate", "texture", "pause", "resume", "keep", "discard", "reopen", "new")
SIZE = 1600, 1000


class Window:
    """The window, by what a person can do in it and what `in_window.py` says of the scene."""

    def __init__(self, folder: Path, inside: Path) -> None:
        self.folder, self.inside = folder, inside

    def key(self, *names: str) -> None:
        self._xdotool("key", "--delay", "60", *names)

    def press(self, what: str) -> None:
        """One of the keys of in_window.py."""
        self.key(f"ctrl+shift+F{5 + KEYS.index(what)}")

    def click(self, pixel: list[int]) -> None:
        self._xdotool("mousemove", str(pixel[0]), str(pixel[1]), "sleep", "0.2", "click", "1", "sleep", "0.2")

    def hover(self) -> None:
        """Move the mouse over an empty corner of the viewport, so that its keys are the viewport's."""
        self._xdotool("mousemove", "200", "700", "sleep", "0.1")

    def _xdotool(self, *arguments: str) -> None:
        subprocess.run(command("xdotool", *arguments), env=environment(), check=True)

    def state(self) -> dict[str, Any]:
        """The scene as it is now."""
        seen = (self.folder / "state.json").stat().st_mtime_ns
        deadline = time.monotonic() + 60
        while (self.folder / "state.json").stat().st_mtime_ns <= seen:
            if time.monotonic() > deadline:
                raise SystemExit("window-check: Blender has said nothing for a minute.\n" + self.log()[-2000:])
            time.sleep(0.05)
        return json.loads((self.folder / "state.json").read_text())

    def wait(self, what: str, condition: Callable[[dict[str, Any]], object], seconds: float = 180) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not condition(state := self.state()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not after {seconds:.0f} s: {json.dumps(state)}")
        print(f"  {what}", flush=True)
        return state

    def picture(self, path: Path) -> None:
        """A picture of the whole window."""
        subprocess.run(command("import", "-window", "root", str(self.inside / "it.png")), env=environment(), check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / "it.png", path)

    def log(self) -> str:
        return (self.folder / "blender.log").read_text(errors="replace")


def command(*arguments: str) -> list[str]:
    return ["chroot", SYSTEM, *arguments] if SYSTEM else list(arguments)


def environment() -> dict[str, str]:
    own = {"DISPLAY": DISPLAY, "LIBGL_ALWAYS_SOFTWARE": "1"}
    return {**os.environ, **own, **({"HOME": "/root"} if SYSTEM else {})}


def missing() -> list[str]:
    if not SYSTEM:
        return [name for name in PROGRAMS if shutil.which(name) is None]
    folders = [Path(SYSTEM, each) for each in ("usr/local/bin", "usr/bin", "bin")]
    return [name for name in PROGRAMS if not any(os.path.lexists(folder / name) for folder in folders)]


@contextmanager
def window(url: str, token: str) -> Iterator[Window]:
    with tempfile.TemporaryDirectory(prefix="window-check-", dir=f"{SYSTEM}/tmp" if SYSTEM else None) as name:
        folder = Path(name)
        inside = Path("/", folder.relative_to(SYSTEM)) if SYSTEM else folder
        made = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "extension.py"), name], check=True, capture_output=True, text=True
        )
        zipped = made.stdout.split()[-1]
        shutil.copy(ROOT / "scripts" / "in_window.py", folder)
        shown = [BLENDER, "--background", "--command", "extension", "install-file", "-r", "user_default", "-e"]
        profile = {**environment(), "BLENDER_USER_RESOURCES": str(inside / "profile")}
        subprocess.run(
            command(*shown, str(inside / Path(zipped).name)), env=profile, check=True, stdout=subprocess.DEVNULL
        )
        processes = [subprocess.Popen(command("Xvfb", DISPLAY, "-screen", "0", "{}x{}x24".format(*SIZE)))]
        try:
            time.sleep(2)
            with (folder / "blender.log").open("w") as log:
                start = [
                    BLENDER,
                    "--window-geometry",
                    "0",
                    "0",
                    *map(str, SIZE),
                    "--python",
                    str(inside / "in_window.py"),
                ]
                blender = command(*start, "--", str(inside), url, token)
                processes.append(subprocess.Popen(blender, env=profile, stdout=log, stderr=subprocess.STDOUT))
            shown_window = Window(folder, inside)
            deadline = time.monotonic() + 120
            while not (folder / "state.json").exists():
                if processes[-1].poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("window-check: Blender does not open its window:\n" + shown_window.log()[-2000:])
                time.sleep(0.2)
            yield shown_window
        finally:
            for process in reversed(processes):
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()


def check(state: dict[str, Any]) -> None:
    """One record for each job, and one object unless it was deleted; no object has a job without a record."""
    keys = [record["key"] for record in state["records"]]
    assert len(set(keys)) == len(keys), f"two records of a job: {state}"
    assert {job["key"] for job in state["jobs"]} <= set(keys), f"a job without a record: {state}"
    for record in state["records"]:
        names = [name for name, object in state["objects"].items() if object["key"] == record["key"]]
        assert names in ([], [record["object"]]), f"objects {names} of one job: {state}"
    for job in state["jobs"]:
        owned = [object for object in state["objects"].values() if object["key"] == job["key"]]
        assert owned or job["waits"] or not job["updates"], f"a job without an object: {state}"


def grown(state: dict[str, Any]) -> bool:
    return any(job["updates"] > 1 for job in state["jobs"]) and any(
        object["key"] and object["vertices"] for object in state["objects"].values()
    )


def replay(window: Window, pictures: Path | None) -> None:
    """The sequences of an artist that once lost records and objects."""

    def shot(name: str) -> None:
        if pictures:
            window.picture(pictures / f"{name}.png")

    time.sleep(2)
    window.click([200, 700])  # an empty corner: the first event of a new window is its own
    window.press("generate")
    window.wait("Generate: a mushroom grows", grown)
    window.key("Delete")
    window.wait("Delete: the cube is gone", lambda state: "Cube" not in state["objects"])
    window.key("ctrl+z")
    check(window.wait("Ctrl+Z: the cube is back, the job goes on", lambda s: "Cube" in s["objects"] and grown(s)))
    shot("undo")
    window.key("ctrl+shift+z")
    check(window.wait("redo: the cube is gone, the job goes on", lambda s: "Cube" not in s["objects"] and grown(s)))
    shot("redo")
    window.key("ctrl+z", "ctrl+z", "ctrl+z")
    check(window.wait("Ctrl+Z beyond the start: record and object are back", lambda s: s["records"] and grown(s)))
    shot("undo-start")
    window.key("ctrl+shift+z", "ctrl+shift+z")
    check(window.wait("redo: still one of each", lambda s: s["records"] and grown(s)))
    state = window.state()
    (name,) = [name for name, object in state["objects"].items() if object["key"]]
    window.key("a", "Delete")
    window.wait("all deleted: the job waits", lambda s: name not in s["objects"] and s["jobs"][0]["state"] == "paused")
    shot("deleted")
    window.key("ctrl+z")
    state = window.wait(
        "Ctrl+Z: the object is back, the job goes on",
        lambda s: name in s["objects"] and s["jobs"][0]["state"] == "running",
    )
    check(state)
    shot("deleted-undo")
    window.press("keep")
    window.wait("Keep: the job has ended", lambda state: not state["jobs"])
    window.key("ctrl+z")
    state = window.wait("Ctrl+Z after it", lambda state: True)
    check(state)
    assert all(record["state"] == "cancelled" for record in state["records"]), state
    shot("kept-undo")
    assert "Traceback" not in window.log(), window.log()[-3000:]


def pick(window: Window, draw: random.Random) -> None:
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
    draw, done = random.Random(seed), ["generate"]
    window.hover()
    window.press("new")
    window.press("generate")
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
            time.sleep(draw.choice([0.1, 1.0]))
            window.state()
            check(window.state())
        assert "Traceback" not in window.log(), window.log()[-3000:]
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {', '.join(done)}: {error}") from error
    if window.state()["mode"] != "OBJECT":
        window.key("Tab")
    print(f"  sequence {seed}: {', '.join(done)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=5, help="random sequences after the replay")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the replay")
    options = parser.parse_args()
    if missing_programs := missing():
        parser.exit(
            2,
            f"window-check: {', '.join(missing_programs)} not found. Install Blender, Xvfb, xdotool and "
            "ImageMagick, or set BLENDER to the program, or BLENDER_ROOT to the root of a system that has them.\n",
        )
    with tempfile.TemporaryDirectory() as data:
        server = local_server.start(Path(data))
        try:
            with window(server.url, server.token) as shown:
                replay(shown, options.pictures)
                for seed in range(options.first, options.first + options.sequences):
                    random_sequence(shown, seed)
        finally:
            server.stop()
    print(f"window-check: the replay and {options.sequences} random sequences are as they should be.")


if __name__ == "__main__":
    main()
