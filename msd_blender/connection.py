# SPDX-License-Identifier: GPL-3.0-or-later
"""Which server to talk to: the one the user names, or a local one that is found or started."""

from __future__ import annotations

import ipaddress
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bpy

from .client import Client, ClientError
from .local_server import LocalServer, find, find_or_start, start

SERVER_PYTHON = Path(".venv", "Scripts" if os.name == "nt" else "bin", "python")    # as `make setup` makes it


def check_online(url: str) -> None:
    """Raise ValueError unless Blender may talk to this host; its own machine is always allowed."""
    host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    outside = not bpy.app.binary_path       # bpy as a module has no such preference
    if not (loopback or bpy.app.online_access or outside):
        raise ValueError(f"Blender may not go online to reach {host}: allow it in Preferences > System > "
                         "Network, or start Blender with --online-mode.")


def preferences() -> Any:
    """The add-on's preferences; None where it is not installed as one."""
    addon = bpy.context.preferences.addons.get(__package__)
    return addon.preferences if addon else None


def data_folder() -> Path:
    """Where a local server keeps its jobs: as in the preferences, else the extension's own folder, and
    outside Blender the user's data, where ``python -m server serve`` looks too."""
    chosen = preferences()
    if chosen and chosen.data:
        return Path(bpy.path.abspath(chosen.data))
    if (__package__ or "").startswith("bl_ext."):
        return Path(bpy.utils.extension_path_user(__package__, path="server", create=True))
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "msd_blender"


def installation() -> tuple[str, str]:
    """The (python, folder) of the server as in the preferences. Raises `ClientError` where there is none."""
    chosen = preferences()
    if not chosen:
        return sys.executable, ""           # run from the project's own folder
    folder, python = bpy.path.abspath(chosen.folder), bpy.path.abspath(chosen.python)
    if not folder:
        raise ClientError("Set the server folder in the extension's preferences, or the address of a server.")
    python = python or str(Path(folder) / SERVER_PYTHON)
    if not Path(python).is_file():
        raise ClientError(f"There is no {python}: run `make setup` in the server folder, or set another Python "
                          "in the extension's preferences.")
    return python, folder


@contextmanager
def connected(url: str, token: str = "") -> Iterator[Client]:
    """A client for the length of one job. A local server that is started for it has a data folder of its own,
    so that no other job depends on it, and ends with it."""
    if url:
        check_online(url)
        with Client(url, token) as client:
            client.health()
            yield client
    elif running := find(data_folder()):
        with Client(running.url, running.token) as client:
            yield client
    else:
        with tempfile.TemporaryDirectory(prefix="msd_blender-", ignore_cleanup_errors=True) as data:
            own = start(Path(data), *installation())
            try:
                with Client(own.url, own.token) as client:
                    yield client
            finally:
                own.stop()


class Session:
    """The local server of this Blender session: kept from job to job, stopped with the extension."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: LocalServer | None = None

    def client(self, data: Path, python: str, folder: str) -> Client:
        with self._lock:
            server = find_or_start(data, python, folder)
            if server.process is not None:
                self._server = server
            return Client(server.url, server.token)

    def close(self) -> None:
        with self._lock:
            if self._server is not None:
                self._server.stop()
                self._server = None


session = Session()


def connector() -> Callable[[], Client]:
    """What connects as the preferences say; it touches no bpy, so a thread may call it. Raises ValueError
    and `ClientError`."""
    chosen = preferences()
    if chosen and chosen.place == "URL":
        url, token = chosen.url, chosen.token
        check_online(url)
        return lambda: Client(url, token)
    data = data_folder()
    running = find(data)
    if running is not None:
        return lambda: Client(running.url, running.token)
    python, folder = installation()
    return lambda: session.client(data, python, folder)
