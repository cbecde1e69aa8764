# SPDX-License-Identifier: GPL-3.0-or-later
"""What artists once met in the panel, replayed in a window: each replay ends in an AssertionError where it comes back.

Each takes a window with a new file: a cube with the material Wood, and a prompt for a red mushroom.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from msd_blender.client import Client
from msd_blender.errors import ClientError
from msd_blender.local_server import find
from scripts.window_driver import State, Window

HOLDS = 10  # seconds for which a stopped server must stay so: a client tries to reach a lost one every two
GENERATE, KEEP = r"msd\.generate\(", r"msd\.stop\("
SHOW_COLOURS, RESTORE_BEFORE = r"msd\.show_colours\(", r"msd\.restore\(.*before=True"
START, STOP = r"msd\.server_start\(", r"msd\.server_stop\("


def new_file(window: Window) -> None:
    """Open a new file, without jobs on the server."""
    loads = window.state()["loads"]
    window.hover()
    window.key("Escape")
    window.press("new")
    deadline = time.monotonic() + 60
    while not ((state := window.state())["loads"] > loads and state["sidebar"]):
        assert time.monotonic() < deadline, f"no new file after a minute: {state}"
    with Client(window.server.url, window.server.token) as client:
        for job in client.jobs(active=True):
            try:
                client.cancel(job.id)
            except ClientError:  # it has ended meanwhile
                pass


def check(state: State) -> None:
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


def grown(state: State) -> bool:
    return any(job["updates"] > 1 for job in state["jobs"]) and bool(made(state))


def made(state: State) -> list[str]:
    """Names of the objects of jobs."""
    return [name for name, object in state["objects"].items() if object["key"] and object["vertices"]]


def finished(state: State) -> bool:
    return not state["jobs"] and bool(state["records"]) and state["records"][-1]["state"] == "finished"


def undo(window: Window) -> None:
    """Undo and redo while a job runs: it once lost its record and its object."""
    window.press_button(GENERATE, lambda s: s["jobs"])
    state = window.wait("Generate: a mushroom grows", grown)
    window.click(state["objects"]["Cube"]["pixel"])
    window.wait("a click: the cube is selected", lambda s: s["selected"] == ["Cube"])
    window.key("Delete")
    window.wait("Delete: the cube is gone", lambda s: "Cube" not in s["objects"])
    window.key("ctrl+z")
    check(window.wait("Ctrl+Z: the cube is back, the job goes on", lambda s: "Cube" in s["objects"] and grown(s)))
    window.picture("1-undo")
    window.key("ctrl+shift+z")
    check(window.wait("redo: the cube is gone, the job goes on", lambda s: "Cube" not in s["objects"] and grown(s)))
    window.key("ctrl+z", "ctrl+z", "ctrl+z")
    check(window.wait("Ctrl+Z beyond the start: record and object are back", lambda s: s["records"] and grown(s)))
    window.picture("1-undo-start")
    window.key("ctrl+shift+z", "ctrl+shift+z")
    state = window.wait("redo: still one of each", lambda s: s["records"] and grown(s))
    check(state)
    (name,) = made(state)
    window.key("a", "Delete")
    window.wait("all deleted: the job waits", lambda s: name not in s["objects"] and s["jobs"][0]["state"] == "paused")
    window.picture("1-deleted")
    window.key("ctrl+z")
    state = window.wait(
        "Ctrl+Z: the object is back, the job goes on",
        lambda s: name in s["objects"] and s["jobs"][0]["state"] == "running",
    )
    check(state)
    window.press("discard")
    window.wait("Discard: nothing is left of it", lambda s: not s["jobs"] and not s["records"] and not made(s))


def local_server(window: Window) -> None:
    """A server that Blender starts: the panel once said "Starting…" until the mouse came by, and a server that was
    stopped while a job ran was started again by that job."""
    window.press("local")
    try:
        window.press_button(START, lambda s: s["worker"] == "starting", last=True, seconds=60)
        window.leave()
        time.sleep(1)
        starting = window.picture("3-starting")
        window.wait("and is ready", lambda s: s["worker"] == "idle")
        time.sleep(3)
        ready = window.picture("3-ready")
        area = window.state()["sidebar"]
        assert differing(starting, ready, area), "the panel has not been drawn anew since the server is ready"
        window.press_button(GENERATE, lambda s: s["jobs"])
        window.wait("Generate: a mushroom grows", grown)
        window.press_button(STOP, lambda s: s["jobs"][0]["connection"], last=True, seconds=60)
        window.leave()
        window.wait("Stop: the job waits", lambda s: "was stopped" in s["jobs"][0]["connection"])
        until = time.monotonic() + HOLDS
        while time.monotonic() < until:
            assert find(window.jobs) is None, "the server runs again, although it was stopped"
            time.sleep(0.5)
        window.picture("2-stopped")
        updates = window.state()["jobs"][0]["updates"]
        window.press_button(START, lambda s: not s["jobs"][0]["connection"], last=True, seconds=60)
        window.wait("Start: the job goes on", lambda s: s["jobs"][0]["updates"] > updates)
        window.leave()
        window.picture("2-started-again")
        window.press("discard")
        window.wait("Discard: no job is left", lambda s: not s["jobs"])
        window.press_button(STOP, lambda s: find(window.jobs) is None, last=True)
    finally:
        window.press("url")


def solid_view(window: Window) -> None:
    """A finished object stayed grey in Solid view, because its material's active node was not the image; and a node
    for the vertices' colours was left in it."""
    window.press("few")
    window.press_button(GENERATE, lambda s: s["jobs"])
    window.wait("Generate: the job ends", finished, 400)
    window.leave()
    grey = window.picture("5-grey")
    state = window.press_button(SHOW_COLOURS, lambda s: s["shading"] == "TEXTURE")
    window.leave()
    red = window.picture("5-colours")
    (name,) = made(state)
    material = state["objects"][name]["material"]
    assert material["image"] == material["name"], f"the active node shows {material['image']}, not the base colour"
    assert "VERTEX_COLOR" not in material["nodes"], f"nodes {material['nodes']}"
    before, after = coloured(grey, state["sidebar"]), coloured(red, state["sidebar"])
    assert after > before + 1000, f"{after} coloured pixels, {before} before"


def restore(window: Window) -> None:
    """Restore From Before once gave one of two linked duplicates a mesh of its own, and materials came back as
    Wood.002."""
    window.hover()
    window.key("alt+d", "x", "3", "Return")
    before = window.wait("Alt+D: two cubes with one mesh", lambda s: "Cube.001" in s["objects"])
    window.press("few")
    window.press("texture")
    window.wait("Texture: the job ends", finished, 400)
    window.press_button(SHOW_COLOURS, lambda s: s["shading"] == "TEXTURE")
    window.leave()
    window.picture("6-painted")
    for turn in ("once", "twice"):
        window.click(window.find(RESTORE_BEFORE))
        window.leave()
        time.sleep(1)
        state = window.wait(f"Restore From Before, {turn}", lambda s: s["materials"] == before["materials"], 20)
        for name in ("Cube", "Cube.001"):
            now, then = state["objects"][name], before["objects"][name]
            assert now["mesh"] == then["mesh"] == "Cube", f"{name} has the mesh {now['mesh']}"
            assert now["material"] == then["material"], f"{name} has {now['material']}, before {then['material']}"
    window.picture("6-restored")


def presets(window: Window) -> None:
    """The menu of presets once said "* Missing Paths *"."""
    window.find(r"\.msd\.mode")  # which scrolls to the panel's top
    _, top, right, _ = window.state()["sidebar"]
    menu, below = (right - 68, top + 16), range(top + 40, top + 200, 8)  # the menu is in the panel's head
    for _ in range(3):
        window.click(menu)
        time.sleep(1)
        if game_prop := window.follow(r"execute_preset\(.*Game_Prop", menu[0] - 30, below):
            break
    window.picture("7-presets")
    assert game_prop, "the menu has no preset Game Prop"
    window.click((menu[0] - 30, game_prop))
    window.wait(
        "Presets: Game Prop is taken",
        lambda s: s["settings"] == {"faces": 5000, "texture": 1024, "maps": ["normal", "roughness"]},
        20,
    )
    window.hover()
    window.key("Escape")


def keep(window: Window) -> None:
    """Keep once ended as "Cancelled", and after Ctrl+Z the record said "Paused"; a changed prompt left the old name."""
    window.press_button(GENERATE, lambda s: s["jobs"])
    window.wait("Generate: a mushroom grows", grown)
    window.click(window.find(r"msd_jobs\[0\]\.prompt"), times=2)
    window.key("ctrl+a")
    window.type("a blue mushroom")
    window.key("Return")
    state = window.wait(
        "a new prompt: object and record have its name",
        lambda s: made(s) == ["a blue mushroom"] and s["records"][0]["name"] == "a blue mushroom",
        20,
    )
    check(state)
    window.leave()
    window.picture("7-prompt")
    window.press_button(KEEP, lambda s: not s["jobs"] or s["jobs"][0]["pending"] == "stop", across=0.75)
    window.leave()
    state = window.wait("Keep: the job has ended", lambda s: not s["jobs"])
    assert [(each["state"], each["kept"]) for each in state["records"]] == [("cancelled", True)], state["records"]
    window.picture("7-kept")
    window.hover()
    window.key("ctrl+z")
    time.sleep(1)
    state = window.state()
    check(state)
    assert [(each["state"], each["kept"]) for each in state["records"]] == [("cancelled", True)], state["records"]
    window.leave()
    window.picture("7-kept-undo")


REPLAYS: dict[str, Callable[[Window], None]] = {
    "undo": undo,
    "local server": local_server,
    "solid view": solid_view,
    "restore": restore,
    "presets": presets,
    "keep": keep,
}


def pixels(picture: Path) -> np.ndarray:
    """(H, W, 3) int."""
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def differing(first: Path, second: Path, area: list[int]) -> int:
    """The number of pixels in an area, left, top, right and bottom, that differ from one picture to the other."""
    left, top, right, bottom = area
    return int((pixels(first) != pixels(second))[top:bottom, left:right].any(-1).sum())


def coloured(picture: Path, sidebar: list[int]) -> int:
    """The number of saturated pixels in the middle of the viewport, between its tools and the sidebar."""
    shown = pixels(picture)[200:850, 200 : sidebar[0] - 150]
    return int((np.ptp(shown, -1) > 100).sum())
