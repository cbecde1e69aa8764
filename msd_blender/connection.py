# SPDX-License-Identifier: GPL-3.0-or-later
"""Which server to talk to: the one the user names, or a local one that is found or started."""

from __future__ import annotations

import ipaddress
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bpy

from .client import Client, ClientError
from .local_server import PYTHON, LocalServer, find, find_or_start, installations, start, stop, user_data
from .protocol import Health


def is_here(url: str) -> bool:
    """Whether a server's address is one of this machine; "" is."""
    host = _host(url)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


def _host(url: str) -> str:
    return urlsplit(url if "//" in url else f"//{url}").hostname or ""


def check_online(url: str) -> None:
    """Raise ValueError unless Blender may talk to this host; its own machine is always allowed."""
    host = _host(url)
    outside = not bpy.app.binary_path  # bpy as a module has no such preference
    if not (host and is_here(url) or bpy.app.online_access or outside):
        raise ValueError(
            f"Blender may not go online to reach {host}: allow it in Preferences > System > "
            "Network, or start Blender with --online-mode."
        )


def typed(path: str, server: str = "") -> str:
    """A path as a person types it, with // for the .blend's folder and ~ for home; server: whose home that is."""
    path = str(bpy.path.abspath(path))
    return os.path.expanduser(path) if is_here(server) else path


def preferences() -> Any:
    """The add-on's preferences; None where it is not installed as one."""
    addon = bpy.context.preferences.addons.get(__package__)
    return addon.preferences if addon else None


def data_folder() -> Path:
    """Where a local server keeps its jobs: as in the preferences, else the extension's own folder, and
    outside Blender the user's data, where ``python -m server serve`` looks too."""
    chosen = preferences()
    if chosen and chosen.data:
        return Path(typed(chosen.data))
    if (__package__ or "").startswith("bl_ext."):
        return Path(bpy.utils.extension_path_user(__package__, path="server", create=True))
    return user_data()


def where() -> str:
    """The server of the preferences, as the file's record of a job names it: an address or a data folder."""
    chosen = preferences()
    return chosen.url if chosen and chosen.place == "URL" else str(data_folder())


def installation() -> tuple[str, str]:
    """The (python, folder) of the server: as in the preferences, else found. Raises `ClientError`."""
    chosen = preferences()
    if not chosen:
        return sys.executable, ""  # run from the project's own folder
    folder, python = typed(chosen.folder), typed(chosen.python)
    if not folder:
        found = installations()
        if not found:
            raise ClientError("Set the server folder in the extension's preferences, or the address of a server.")
        folder = str(found[0])
    python = python or str(Path(folder) / PYTHON)
    if not Path(python).is_file():
        raise ClientError(
            f"There is no {python}: run `make setup` in the server folder, or set another Python "
            "in the extension's preferences."
        )
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
    """The local server of this Blender session: kept from job to job, stopped with the extension unless the
    preferences say that it goes on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: LocalServer | None = None

    def client(self, data: Path, python: str, folder: str, keep: bool = False) -> Client:
        with self._lock:
            server = find_or_start(data, python, folder, keep)
            if server.process is not None:
                self._server = None if keep else server
            return Client(server.url, server.token)

    def close(self) -> None:
        with self._lock:
            if self._server is not None:
                self._server.stop()
                self._server = None

    def stop(self, data: Path) -> None:
        """End the server of a data folder, whoever started it."""
        self.close()
        if (server := find(data)) is not None:
            stop(server)


session = Session()


def connector() -> Callable[[], Client]:
    """What connects as the preferences say, and starts a local server that does not run; it touches no bpy, so
    a thread may call it. Raises ValueError and `ClientError`."""
    chosen = preferences()
    if chosen and chosen.place == "URL":
        url, token = chosen.url, chosen.token
        check_online(url)
        return lambda: Client(url, token)
    data, keep = data_folder(), bool(chosen and chosen.keep)
    try:
        python, folder = installation()
    except ClientError:
        if find(data) is None:
            raise
        return lambda: _running(data)
    return lambda: session.client(data, python, folder, keep)


def _running(data: Path) -> Client:
    """Of a server that somebody else started, and that this Blender would not know how to."""
    server = find(data)
    if server is None:
        raise ClientError("It runs no more: start it again, or set its folder in the extension's preferences.")
    return Client(server.url, server.token)


class Watch:
    """What the panel says of the server; asked in a thread, so that drawing never waits."""

    interval = 3.0  # seconds

    def __init__(self) -> None:
        self.health: Health | None = None
        self.problem = ""
        self._asked = -self.interval
        self._thread: threading.Thread | None = None

    @property
    def asking(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def look(self) -> bool:
        """Ask again if the last answer is old; whether somebody is asking now. On the main thread."""
        if not self.asking and time.monotonic() - self._asked > self.interval:
            self._asked = time.monotonic()
            chosen = preferences()
            remote = (chosen.url, chosen.token) if chosen and chosen.place == "URL" else None
            self._thread = threading.Thread(
                target=self._ask, args=(remote, data_folder()), daemon=True, name="msd-watch"
            )
            self._thread.start()
        return self.asking

    def run(self, connect: Callable[[], Client]) -> None:
        """Start the server, in the thread that also asks it."""

        def start() -> None:
            try:
                with connect() as client:
                    self.health, self.problem = client.health(), ""
            except ClientError as error:
                self.problem = str(error)

        if not self.asking:
            self._thread = threading.Thread(target=start, daemon=True, name="msd-watch")
            self._thread.start()

    def again(self) -> None:
        """Let the next `look` ask at once."""
        self._asked = -self.interval

    def _ask(self, remote: tuple[str, str] | None, data: Path) -> None:
        try:
            server = LocalServer(*remote) if remote else find(data)
            if server is None:
                self.health, self.problem = None, ""
                return
            with Client(server.url, server.token, timeout=3) as client:
                self.health, self.problem = client.health(), ""
        except ClientError as error:
            self.health, self.problem = None, str(error)

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join(5)


watch = Watch()
