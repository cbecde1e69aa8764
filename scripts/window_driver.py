# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's window on a virtual screen, driven by real keys and clicks (xdotool), for scripts/window_check.py.

BLENDER names the program (default blender). BLENDER_ROOT is the root of a system that has Blender, Xvfb, xdotool and
ImageMagick, which then run in a chroot; without it they are this system's. WINDOW_DISPLAY is the virtual screen.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msd_blender.local_server import LocalServer

ROOT = Path(__file__).resolve().parents[1]
SYSTEM, BLENDER = os.environ.get("BLENDER_ROOT", ""), os.environ.get("BLENDER", "blender")
DISPLAY = os.environ.get("WINDOW_DISPLAY", ":96")
PROGRAMS = (BLENDER, "Xvfb", "xdotool", "import")
SIZE = 1600, 1000
FEW = 40  # iterations of a job that is to end by itself
PLACE = "preferences.addons['bl_ext.user_default.msd_blender'].preferences.place"
# What a key does with Ctrl and Shift: the operator and its properties. For steps that the check repeats many times, or
# that are no button's.
KEYS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "local": ("F1", "wm.context_set_enum", {"data_path": PLACE, "value": "LOCAL"}),
    "url": ("F2", "wm.context_set_enum", {"data_path": PLACE, "value": "URL"}),
    "few": ("F3", "wm.context_set_int", {"data_path": "scene.msd.iterations", "value": FEW}),
    "generate": ("F5", "msd.generate", {"mode": "generate"}),
    "texture": ("F6", "msd.generate", {"mode": "texture"}),
    "pause": ("F7", "msd.pause", {}),
    "resume": ("F8", "msd.resume", {}),
    "keep": ("F9", "msd.stop", {}),
    "discard": ("F10", "msd.discard", {}),
    "reopen": ("F11", "wm.open_mainfile", {"filepath": "check.blend", "display_file_selector": False}),
    "new": ("F12", "wm.read_homefile", {"use_factory_startup": True}),
}
MARGIN = 60  # pixels of the sidebar's width that its buttons leave free, the tabs among them
STEP = 16  # pixels: less than a button's height

State = dict[str, Any]


class Gone(Exception):
    """Blender or its screen has ended, or has said nothing for a minute."""


class Window:
    """The window, by what a person can do in it and what `in_window.py` says of the scene.

    Args:
        folder: where both leave their files, as this program sees it. inside: as Blender sees it.
        server: the one that the preferences name.
        pictures: the folder for pictures.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], folder: Path, inside: Path, server: LocalServer, pictures: Path
    ) -> None:
        self.process, self.folder, self.inside = process, folder, inside
        self.server, self.pictures = server, pictures
        self.jobs = folder / "jobs"  # the data folder of a server that Blender starts
        self._places: dict[str, int] = {}  # the height at which the sidebar showed a button last
        self._read = 0  # bytes of the log

    # A person's hands.

    def key(self, *names: str) -> None:
        self._xdotool("key", "--delay", "60", *names)

    def type(self, text: str) -> None:
        self._xdotool("type", "--delay", "30", text)

    def press(self, what: str) -> None:
        """One of `KEYS`."""
        self.key(f"ctrl+shift+{KEYS[what][0]}")

    def move(self, x: int, y: int) -> None:
        self._xdotool("mousemove", str(x), str(y))

    def click(self, pixel: tuple[int, int] | list[int], times: int = 1) -> None:
        repeat = ["--repeat", str(times), "--delay", "100"] if times > 1 else []
        self.move(*pixel)
        self.settle()  # else Blender presses a button before it has seen that the mouse is over it
        self._xdotool("click", *repeat, "1", "sleep", "0.2")

    def settle(self) -> None:
        """Wait until Blender has seen the mouse where it is."""
        for _ in range(3):
            self.state()

    def hover(self) -> None:
        """Move the mouse over an empty corner of the viewport, so that its keys are the viewport's."""
        self._xdotool("mousemove", "200", "700", "sleep", "0.1")

    def leave(self) -> None:
        """Move the mouse away from the viewport and its sidebar, into the timeline."""
        self.move(1000, 960)

    def press_button(
        self,
        button: str,
        until: Callable[[State], object],
        across: float = 0.25,
        last: bool = False,
        seconds: float = 20,
    ) -> State:
        """Click a button of the sidebar, see `find`, as a person does: once more where nothing has happened.

        until: what the click brings about, within these seconds. Raises AssertionError where it does not.
        """
        for _ in range(3):
            self.click(self.find(button, across, last))
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if until(state := self.state()):
                    return state
        raise AssertionError(f"clicks on {button} have no effect: {json.dumps(state)}")

    def find(self, button: str, across: float = 0.25, last: bool = False) -> tuple[int, int]:
        """The pixel of a button in the sidebar. The mouse goes down the panels while Blender says what it is over.

        button: a pattern of its Python command, or of its property's path, as Ctrl+C over it copies them. across: where
        in its row, 0 to 1. last: it is in the last panel, so the mouse goes up from there. Raises AssertionError where
        there is none.
        """
        left, top, right, bottom = self.state()["sidebar"]
        x = left + 12 + round(across * (right - left - MARGIN))
        if known := self._places.get(button):
            heights = range(max(top, known - 4 * STEP), min(bottom - 2 * STEP, known + 4 * STEP), STEP)
            if y := self.follow(button, x, heights):
                return x, y
        up, down = "4", "5"  # the mouse wheel
        for turns, wheel in [("40", down if last else up), *3 * [("8", up if last else down)]]:
            self.move(left + 4, top + 60)
            self._xdotool("click", "--repeat", turns, "--delay", "20", wheel)
            heights = range(top + 4, bottom - 2 * STEP, STEP)  # not where a button is cut off
            if y := self.follow(button, x, heights[::-1] if last else heights):
                self._places[button] = y
                return x, y
        raise AssertionError(f"the sidebar has no button {button}")

    def follow(self, button: str, x: int, heights: range) -> int:
        """The height at which the mouse comes over a button of the sidebar, or of a menu that it has opened; 0 where it
        is over none.

        Between buttons Blender names the last one still, so a button counts only after something else was named.
        """
        was_elsewhere, asking = False, self.folder / "ask"
        asking.touch()
        try:
            for y in heights:
                self.move(x, y)
                self.settle()
                if not re.search(button, self.state()["under"]):
                    was_elsewhere = True
                elif was_elsewhere:
                    return y + (2 if heights.step > 0 else -2)
        finally:
            asking.unlink()
        return 0

    def _xdotool(self, *arguments: str) -> None:
        _run("xdotool", *arguments)

    # A person's eyes.

    def state(self) -> State:
        """The scene as it is now. Raises `Gone`."""
        file = self.folder / "state.json"
        seen, deadline = file.stat().st_mtime_ns, time.monotonic() + 60
        while file.stat().st_mtime_ns <= seen:
            if time.monotonic() > deadline:
                raise Gone("Blender has said nothing for a minute: " + self.log()[-2000:])
            if self.process.poll() is not None:
                raise Gone(f"Blender has ended with {self.process.returncode}: " + self.log()[-2000:])
            time.sleep(0.02)
        return json.loads(file.read_text())

    def wait(self, what: str, condition: Callable[[State], object], seconds: float = 180) -> State:
        """The first state that fulfils a condition, which is printed. Raises AssertionError after some seconds."""
        deadline = time.monotonic() + seconds
        while not condition(state := self.state()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not after {seconds:.0f} s: {json.dumps(state)}")
        print(f"  {what}", flush=True)
        return state

    def picture(self, name: str) -> Path:
        """A picture of the whole window in the folder for them."""
        time.sleep(1.5)  # in which Blender draws the state that was seen
        made, path = self.folder / "it.png", self.pictures / f"{name}.png"
        _run("import", "-window", "root", str(self.inside / made.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made, path)
        return path

    def log(self) -> str:
        return (self.folder / "blender.log").read_text(errors="replace")

    def new_log(self) -> str:
        """What Blender has said since the last call."""
        text = self.log()[self._read :]
        self._read += len(text)
        return text


def command(*arguments: str) -> list[str]:
    return ["chroot", SYSTEM, *arguments] if SYSTEM else list(arguments)


def _run(*arguments: str) -> None:
    try:
        subprocess.run(command(*arguments), env=environment(), check=True, timeout=60)
    except subprocess.SubprocessError as error:
        raise Gone(f"The screen {DISPLAY} does not answer: {error}") from error


def environment() -> dict[str, str]:
    own = {"DISPLAY": DISPLAY, "LIBGL_ALWAYS_SOFTWARE": "1"}
    return {**os.environ, **own, **({"HOME": "/root"} if SYSTEM else {})}


def missing() -> list[str]:
    """What the check needs and this machine lacks."""
    if not SYSTEM:
        return [name for name in PROGRAMS if shutil.which(name) is None]
    folders = [Path(SYSTEM, each) for each in ("usr/local/bin", "usr/bin", "bin")]
    needed = [name for name in PROGRAMS if not any(os.path.lexists(folder / name) for folder in folders)]
    return needed + ([] if Path(SYSTEM, "proc", "self").exists() else ["/proc (mount -t proc proc $BLENDER_ROOT/proc)"])


@contextmanager
def window(server: LocalServer, pictures: Path) -> Iterator[Window]:
    """A window with the extension, which works with the server. Raises `Gone` where it does not open."""
    place = f"{SYSTEM}/tmp" if SYSTEM else None
    # A server that Blender started may still write while it ends.
    with tempfile.TemporaryDirectory(prefix="window-check-", dir=place, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        inside = Path("/", folder.relative_to(SYSTEM)) if SYSTEM else folder
        made = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "extension.py"), name], check=True, capture_output=True, text=True
        )
        zipped = inside / Path(made.stdout.split()[-1]).name
        shutil.copy(ROOT / "scripts" / "in_window.py", folder)
        where = _local_installation(folder, inside)
        about = {"url": server.url, "token": server.token, **where, "data": str(inside / "jobs"), "keys": KEYS}
        (folder / "about.json").write_text(json.dumps(about))
        install = [BLENDER, "--background", "--command", "extension", "install-file", "-r", "user_default", "-e"]
        profile = {**environment(), "BLENDER_USER_RESOURCES": str(inside / "profile")}
        subprocess.run(command(*install, str(zipped)), env=profile, check=True, stdout=subprocess.DEVNULL)
        processes = [subprocess.Popen(command("Xvfb", DISPLAY, "-screen", "0", "{}x{}x24".format(*SIZE)))]
        try:
            time.sleep(2)
            start = [BLENDER, "--window-geometry", "0", "0", *map(str, SIZE), "--python", str(inside / "in_window.py")]
            with (folder / "blender.log").open("w") as log:
                blender = command(*start, "--", str(inside))
                processes.append(subprocess.Popen(blender, env=profile, stdout=log, stderr=subprocess.STDOUT))
            shown = Window(processes[-1], folder, inside, server, pictures)
            deadline = time.monotonic() + 120
            while not (folder / "state.json").exists():
                if processes[-1].poll() is not None or time.monotonic() > deadline:
                    raise Gone("Blender does not open its window: " + shown.log()[-2000:])
                time.sleep(0.2)
            time.sleep(2)
            shown.click((200, 700))  # the first event of a new window is its own
            yield shown
        finally:
            for process in reversed(processes):
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()


def _local_installation(folder: Path, inside: Path) -> dict[str, str]:
    """The folder and the Python of a server that Blender starts, for the preferences.

    A Blender in a chroot sees neither the repository nor its Python. It gets a program that leaves the chroot by this
    process' root in /proc and becomes the server there, with the process id that Blender knows.
    """
    if not SYSTEM:
        return {"folder": str(ROOT), "python": sys.executable}
    (folder / "server").mkdir()
    (folder / "server" / "__main__.py").touch()  # the extension looks for it
    program = folder / "python"
    program.write_text(
        f"""#!/bin/sh
for each do
    shift
    case $each in {inside}/*) each={SYSTEM}$each ;; esac
    set -- "$@" "$each"
done
exec chroot /proc/{os.getpid()}/root sh -c 'cd {ROOT} && exec {sys.executable} "$@"' sh "$@"
"""
    )
    program.chmod(0o755)
    return {"folder": str(inside), "python": str(inside / program.name)}
