# SPDX-License-Identifier: GPL-3.0-or-later
"""An empty Blender scene for each test, the extension with a server for its jobs, and one server that tests share.

bpy is imported inside the fixtures: Blender reads the environment below when bpy is imported first.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msd_blender import local_server
from msd_blender.client import Client
from msd_blender.local_server import LocalServer

# Away from the developer's own settings and jobs.
_folder = tempfile.TemporaryDirectory()
os.environ["BLENDER_USER_RESOURCES"] = os.path.join(_folder.name, "blender")
os.environ["XDG_DATA_HOME"] = os.path.join(_folder.name, "data")

# There is no bpy for Python 3.12.
collect_ignore_glob = [] if importlib.util.find_spec("bpy") else ["test_*.py"]

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def addon(empty_scene: None) -> Iterator[Any]:
    """The preferences of the extension, which is enabled in an empty file. All its threads end with it."""
    import bpy

    import msd_blender

    entry = bpy.context.preferences.addons.new()
    entry.module = "msd_blender"
    msd_blender.register()
    yield entry.preferences
    msd_blender.unregister()
    bpy.context.preferences.addons.remove(entry)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("msd-")]


@pytest.fixture
def remote(addon: Any, server: LocalServer) -> LocalServer:
    """The shared server, to which the extension's preferences point by its address."""
    addon.place, addon.url = "URL", server.url
    return server


@pytest.fixture
def data(addon: Any, tmp_path: Path) -> Iterator[Path]:
    """The data folder of a local server, which jobs start themselves."""
    addon.place, addon.data, addon.keep = "LOCAL", str(tmp_path / "data"), True
    addon.folder, addon.python = str(ROOT), sys.executable
    yield tmp_path / "data"
    if (running := local_server.find(tmp_path / "data")) is not None:
        local_server.stop(running)
