# SPDX-License-Identifier: GPL-3.0-or-later
"""An empty Blender scene for each test, and one server for all that need one."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator

import pytest

from msd_blender import local_server
from msd_blender.client import Client
from msd_blender.local_server import LocalServer

# Away from the developer's own settings and jobs. Blender reads it when bpy is imported, so before the tests are.
_folder = tempfile.TemporaryDirectory()
os.environ["BLENDER_USER_RESOURCES"] = os.path.join(_folder.name, "blender")
os.environ["XDG_DATA_HOME"] = os.path.join(_folder.name, "data")


@pytest.fixture
def empty_scene() -> None:
    import bpy

    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    python = os.environ.get("MSD_SERVER_PYTHON", sys.executable)  # see scripts/blender_versions.sh
    started = local_server.start(tmp_path_factory.mktemp("server"), python)
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def no_job_goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Blender leaves the jobs of a closed file running; after the test they only cost time."""
    server = request.getfixturevalue("server") if "server" in request.fixturenames else None
    yield
    if server:
        with Client(server.url, server.token) as client:
            for job in client.jobs():
                if not job.ended:
                    client.cancel(job.id)
