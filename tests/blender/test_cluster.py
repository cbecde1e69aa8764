# SPDX-License-Identifier: GPL-3.0-or-later
"""What an artist sees when a cluster's head dies and comes back, and then the server: one line each, and the job goes
on. It takes a minute and a half: `make cluster`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msd_blender import job_panels, server_jobs
from msd_blender.protocol import FINISHED, RUNNING
from tests.blender.helpers import finish_jobs, start_job, update_until
from tests.blender.test_panel import drawn, records
from tests.jobs.ray_machines import LEASE, Head, free_port

pytest.importorskip("ray", reason="the package ray is not installed (Linux only)")
pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.long]


def lines() -> list[str]:
    """The panel's list of what runs, as it is once the server's answer is there."""
    server_jobs.refresh()
    server_jobs._take_answer()
    return [call.kwargs["text"] for call in drawn(job_panels.MSD_PT_jobs).label.call_args_list if "text" in call.kwargs]


def test_one_line_says_what_the_job_waits_for(
    addon: Any, tiny: dict[str, Any], start_server: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if not request.config.getoption("--long"):
        pytest.skip("runs with make cluster")
    monkeypatch.setenv("MSD_LEASE_SECONDS", str(LEASE))
    monkeypatch.setenv("MSD_CHECKPOINT_SECONDS", "1")
    head, port = Head(free_port()), str(free_port())
    head.start()
    cluster = "--executor", "ray", "--ray-address", head.address, "--cpus-per-job", "1"
    server = start_server(tmp_path, "--port", port, *cluster)
    addon.place, addon.url = "URL", server.url
    try:
        job = start_job({**tiny, "iterations": 200})
        session = job.session
        update_until(lambda: session.progress and session.progress.iteration >= 20)
        update_until(lambda: any(line.startswith("On ") for line in lines()))

        head.kill()
        update_until(lambda: any("Ray cluster" in line for line in lines()))
        shown = lines()
        (line,) = [line for line in shown if "Ray cluster" in line or "Waiting for the server" in line]
        assert line.startswith("Place 1 in the queue. ") and "wait" in line, shown
        head.start()
        update_until(lambda: session.state == RUNNING)
        assert not any("Ray cluster" in line for line in lines())

        server.process.kill()
        server.process.wait()
        (tmp_path / "server.json").unlink()
        update_until(lambda: session.connection_error)
        shown = lines()
        (line,) = [line for line in shown if "Ray cluster" in line or "Waiting for the server" in line]
        assert line.startswith("Waiting for the server. "), shown
        start_server(tmp_path, "--port", port, *cluster)
        update_until(lambda: session.state == RUNNING and not session.connection_error)
        before = session.progress.iteration if session.progress else 0
        assert before >= 20 and not any("Waiting" in line for line in lines())
        finish_jobs()
        (record,) = records()
        assert record.state == FINISHED
    finally:
        head.kill()
