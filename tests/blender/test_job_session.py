# SPDX-License-Identifier: GPL-3.0-or-later
"""`JobSession` against a real server process; no bpy."""

from __future__ import annotations

import socket
import time

from msd_blender.client import Client
from msd_blender.job_session import CONNECTING, JobSession, format_progress, progress_fraction
from msd_blender.local_server import LocalServer
from msd_blender.protocol import CANCELLED, FAILED, FINISHED, JobRequest, Progress, Snapshot


def follow(session: JobSession, applied: list[Snapshot], until: float = 300) -> None:
    deadline = time.monotonic() + until
    while session.process_queue(lambda snapshot: applied.append(snapshot) is None):
        assert time.monotonic() < deadline, session.state
        session.wait(0.1)


def start(server: LocalServer, **settings: object) -> JobSession:
    request = JobRequest("a red mushroom", **settings)  # type: ignore[arg-type]
    return JobSession(request, lambda: Client(server.url, server.token))


def test_a_job_is_followed_and_a_slow_scene_gets_only_the_newest(server: LocalServer) -> None:
    session = start(server, iterations=6)
    assert session.state == CONNECTING
    offered: list[int] = []
    deadline = time.monotonic() + 300
    while session.state != FINISHED:  # a scene that is being edited takes nothing
        assert (
            session.process_queue(lambda snapshot: bool(offered.append(snapshot.version)))
            and time.monotonic() < deadline
        )
        session.wait(0.1)
    assert offered == sorted(offered) and not session.update_milliseconds
    applied: list[Snapshot] = []
    follow(session, applied)
    session.close()
    assert (session.state, session.error) == (FINISHED, "")
    assert len(applied) == len(session.update_milliseconds) <= 2 and applied[-1].iteration == 6
    assert {"positions", "faces", "colours", "uvs", "texture.0"} <= applied[-1].arrays.keys()
    assert session.progress and progress_fraction(session.progress) == 1
    assert not any(thread.is_alive() for thread in session._threads)


def test_cancel_ends_the_job_and_keeps_its_files(server: LocalServer) -> None:
    session = start(server, iterations=2000)
    while not session.progress:
        session.process_queue(lambda snapshot: True)
        session.wait(0.1)
    asked = time.monotonic()
    session.cancel()
    follow(session, [])
    assert time.monotonic() - asked < 10
    assert session.state == CANCELLED and session.job and "mesh.glb" in session.job.files
    session.close()


def test_cancel_before_the_server_answers() -> None:
    def slow() -> Client:
        time.sleep(0.3)
        return Client("http://127.0.0.1:1")

    session = JobSession(JobRequest("a red mushroom"), slow)
    session.cancel()
    follow(session, [])
    assert session.state == CANCELLED and not session.error


def test_an_unreachable_server_is_one_sentence() -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        session = JobSession(JobRequest("a red mushroom"), lambda: Client(url))
        follow(session, [])
    assert session.state == FAILED and url in session.error and "\n" not in session.error


def test_progress_in_words() -> None:
    assert format_progress(Progress("surface", 310, 420, 60.0, 68.4)) == "surface 310/420, 1:08 left"
    assert format_progress(Progress("volume", 1, 420, 0.1)) == "volume 1/420"
