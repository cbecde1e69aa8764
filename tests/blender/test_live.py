# SPDX-License-Identifier: GPL-3.0-or-later
"""`Live` against a real server process; no bpy."""

from __future__ import annotations

import socket
import time

from msd_blender.client import Client
from msd_blender.live import CONNECTING, Live, describe, fraction
from msd_blender.local_server import LocalServer
from msd_blender.protocol import CANCELLED, FAILED, FINISHED, JobRequest, Progress, Snapshot


def follow(live: Live, applied: list[Snapshot], until: float = 60) -> None:
    deadline = time.monotonic() + until
    while live.pump(lambda snapshot: applied.append(snapshot) is None):
        assert time.monotonic() < deadline, live.state
        live.wait(0.1)


def start(server: LocalServer, **settings: object) -> Live:
    request = JobRequest("a red mushroom", **settings)  # type: ignore[arg-type]
    return Live(request, lambda: Client(server.url, server.token))


def test_a_job_is_followed_and_a_slow_scene_gets_only_the_newest(server: LocalServer) -> None:
    live = start(server, iterations=6)
    assert live.state == CONNECTING
    offered: list[int] = []
    deadline = time.monotonic() + 60
    while live.state != FINISHED:  # a scene that is being edited takes nothing
        assert live.pump(lambda snapshot: bool(offered.append(snapshot.version))) and time.monotonic() < deadline
        live.wait(0.1)
    assert offered == sorted(offered) and not live.milliseconds
    applied: list[Snapshot] = []
    follow(live, applied)
    live.close()
    assert (live.state, live.error) == (FINISHED, "")
    assert len(applied) == len(live.milliseconds) <= 2 and applied[-1].iteration == 6
    assert {"positions", "faces", "colours", "uvs", "texture.0"} <= applied[-1].arrays.keys()
    assert live.progress and fraction(live.progress) == 1
    assert not any(thread.is_alive() for thread in live._threads)


def test_cancel_ends_the_job_and_keeps_its_files(server: LocalServer) -> None:
    live = start(server, iterations=2000)
    while not live.progress:
        live.pump(lambda snapshot: True)
        live.wait(0.1)
    asked = time.monotonic()
    live.cancel()
    follow(live, [])
    assert time.monotonic() - asked < 30
    assert live.state == CANCELLED and live.job and "mesh.glb" in live.job.files
    live.close()


def test_cancel_before_the_server_answers() -> None:
    def slow() -> Client:
        time.sleep(0.3)
        return Client("http://127.0.0.1:1")

    live = Live(JobRequest("a red mushroom"), slow)
    live.cancel()
    follow(live, [])
    assert live.state == CANCELLED and not live.error


def test_an_unreachable_server_is_one_sentence() -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        live = Live(JobRequest("a red mushroom"), lambda: Client(url))
        follow(live, [])
    assert live.state == FAILED and url in live.error and "\n" not in live.error


def test_progress_in_words() -> None:
    assert describe(Progress("surface", 310, 420, 60.0, 68.4)) == "surface 310/420, 1:08 left"
    assert describe(Progress("volume", 1, 420, 0.1)) == "volume 1/420"
