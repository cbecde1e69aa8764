# SPDX-License-Identifier: GPL-3.0-or-later
"""Which server to use: one that the user names, or a local one that is found or started."""

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
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import bpy

from .client import Client
from .errors import ClientError
from .local_server import LocalServer, find, find_or_start, installation, installations, start, stop
from .protocol import data_folder as default_data_folder

T = TypeVar("T")


def is_local(url: str) -> bool:
    """Whether a server's address is on this machine; "" counts as local."""
    host = _host(url)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


def _host(url: str) -> str:
    return urlsplit(url if "//" in url else f"//{url}").hostname or ""


def check_online(url: str) -> None:
    """Raise ValueError unless Blender's preferences allow a connection to this host. This machine is always
    allowed."""
    host = _host(url)
    is_module = not bpy.app.binary_path  # bpy as a module has no such preference
    if not (host and is_local(url) or bpy.app.online_access or is_module):
        raise ValueError(
            f"Blender may not go online to reach {host}: allow it in Preferences > System > "
            "Network, or start Blender with --online-mode."
        )


def expand_path(path: str, server: str = "") -> str:
    """An absolute path of one that a user typed: // is the .blend's folder, ~ the home folder.

    server: the address of the server that will read the path. A remote server expands ~ itself.
    """
    path = str(bpy.path.abspath(path))
    return os.path.expanduser(path) if is_local(server) else path


def preferences() -> bpy.types.AddonPreferences | None:
    """The add-on's preferences; None where the package is used without being an add-on."""
    addon = bpy.context.preferences.addons.get(__package__)
    return addon.preferences if addon else None


def data_folder() -> Path:
    """The folder in which a local server keeps its jobs: the one in the preferences, else the extension's own
    folder, and outside of Blender the default of ``python -m server serve``."""
    prefs = preferences()
    if prefs and prefs.data:
        return Path(expand_path(prefs.data))
    if (__package__ or "").startswith("bl_ext."):
        return Path(bpy.utils.extension_path_user(__package__, path="server", create=True))
    return default_data_folder()


def server_location() -> str:
    """The server of the preferences as a job's record names it: its address, or its data folder."""
    prefs = preferences()
    return prefs.url if prefs and prefs.place == "URL" else str(data_folder())


def server_installation() -> tuple[str, str]:
    """The (python, folder) that a local server is started with: those of the preferences, else the first that is
    found. Raises `ClientError`."""
    prefs = preferences()
    if not prefs:
        return sys.executable, ""  # run from the project's own folder
    folder, python = expand_path(prefs.folder), expand_path(prefs.python)
    found = installation(Path(folder)) if folder else next(iter(installations()), None)
    if found is None and not (folder and python):
        raise ClientError(
            f"There is no server in {folder}: run `make setup` or install.py there, or set another folder in the "
            "extension's preferences."
            if folder
            else "There is no server on this machine: run install.py, or set the server folder, or the address of a "
            "server, in the extension's preferences."
        )
    if python and not Path(python).is_file():
        raise ClientError(f"There is no {python}: set another Python in the extension's preferences.")
    return (python or str(found.python), str(found.folder)) if found else (python, folder)


def chosen_cores() -> int:
    """The threads that the preferences give a local server, 0 where they leave it open."""
    prefs = preferences()
    return prefs.cores if prefs and prefs.limits_cores else 0


def terminal_command() -> tuple[list[str], Path]:
    """The command that runs the server of the preferences, or install.py where its folder has only that, and the folder
    to run it in. Raises `ClientError`."""
    prefs = preferences()
    if prefs and prefs.folder:
        given = Path(expand_path(prefs.folder))
        if (given / "install.py").is_file() and installation(given) is None:
            python = expand_path(prefs.python) or ("py" if os.name == "nt" else "python3")
            return [python, str(given / "install.py")], given
    python, folder = server_installation()
    command = [python, "-m", "server", "serve", "--port", "0", "--data", str(data_folder())]
    command += ["--cores", str(cores)] if (cores := chosen_cores()) else []
    return command, Path(folder or Path(__file__).resolve().parents[1])


@contextmanager
def connected_client(url: str, token: str = "") -> Iterator[Client]:
    """A client for the length of one job without a window.

    url: "" finds a local server, or starts one. A server that is started here has a temporary data folder and ends
    with the context, so that no other job comes to depend on it.
    """
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
            own = start(Path(data), *server_installation())
            try:
                with Client(own.url, own.token) as client:
                    yield client
            finally:
                own.stop()


def client_factory() -> Callable[[], Client]:
    """A function that connects to the server of the preferences, and starts a local one that does not run.

    The function uses no bpy, so a thread may call it; it raises `ClientError`. Raises ValueError and `ClientError`
    where the preferences are wrong.
    """
    prefs = preferences()
    if prefs and prefs.place == "URL":
        url, token = prefs.url, prefs.token
        check_online(url)
        return lambda: Client(url, token)
    data, keep, cores = data_folder(), bool(prefs and prefs.keep), chosen_cores()
    try:
        python, folder = server_installation()
    except ClientError:
        if find(data) is None:
            raise
        return lambda: _client_of_running_server(data)
    return lambda: shared_server.client(data, python, folder, keep, cores)


def _client_of_running_server(data: Path) -> Client:
    """A client of a server that runs, but that this Blender could not start."""
    server = find(data)
    if server is None:
        raise ClientError("It runs no more: start it again, or set its folder in the extension's preferences.")
    return Client(server.url, server.token)


class SharedServer:
    """The local server that all jobs of this Blender share. It ends with the extension, unless the preferences keep
    it running. Methods may be called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: LocalServer | None = None  # only where it is to be stopped in `close`
        self._may_start = True

    def client(self, data: Path, python: str, folder: str, keep: bool = False, cores: int = 0) -> Client:
        """A client of the data folder's server, which is started if it does not run, unless the artist has stopped it.

        Raises `ClientError`.
        """
        with self._lock:
            server = find_or_start(data, python, folder, keep, cores) if self._may_start else find(data)
            if server is None:
                raise ClientError("The server was stopped: start it in the panel, and its jobs go on.")
            if server.process is not None:
                self._server = None if keep else server
            return Client(server.url, server.token)

    def close(self) -> None:
        """Stop the server if this Blender started it and it is not to be kept."""
        with self._lock:
            if self._server is not None:
                self._server.stop()
                self._server = None

    def allow_start(self) -> None:
        """Let clients start the server again after `stop`."""
        self._may_start = True

    def stop(self, data: Path) -> None:
        """Stop the server of a data folder, whoever started it; running jobs do not start it again."""
        self._may_start = False
        self.close()
        if (server := find(data)) is not None:
            stop(server)


shared_server = SharedServer()


class Monitor(Generic[T]):
    """The server's answer to one question, as the panel shows it, asked for in a thread so that drawing never waits.

    answer: the last one, None where no server answered. problem: why not, "" where none runs.

    Args:
        ask: the question.
        max_age: seconds after which an answer is old.
    """

    def __init__(self, ask: Callable[[Client], T], max_age: float) -> None:
        self.answer: T | None = None
        self.problem = ""
        self.max_age = max_age
        self._ask = ask
        self._requested_at = -max_age
        self._thread: threading.Thread | None = None
        self._client: Client | None = None

    @property
    def is_requesting(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def refresh(self) -> bool:
        """Ask anew if the last request is older than `max_age`; whether one is under way now. On the main thread."""
        if not self.is_requesting and time.monotonic() - self._requested_at > self.max_age:
            self._requested_at = time.monotonic()
            prefs = preferences()
            remote = (prefs.url, prefs.token) if prefs and prefs.place == "URL" else None
            self._start_thread(self._request, remote, data_folder())
        return self.is_requesting

    def connect(self, connect: Callable[[], Client]) -> None:
        """Connect, which may start the server, and ask; nothing while a request is under way."""
        if not self.is_requesting:
            self._start_thread(self._ask_client, connect)

    def expire(self) -> None:
        """Let the next `refresh` make a request at once."""
        self._requested_at = -self.max_age

    def close(self) -> None:
        """Abort the request that is under way, and forget the answer: the next server may be another one."""
        if self._client is not None:
            self._client.close()
        if self._thread is not None:
            self._thread.join(5)
        self.answer, self.problem = None, ""
        self.expire()

    def _start_thread(self, target: Callable[..., object], *arguments: object) -> None:
        self._thread = threading.Thread(target=target, args=arguments, daemon=True, name="msd-monitor")
        self._thread.start()

    def _request(self, remote: tuple[str, str] | None, data: Path) -> None:
        try:
            server = LocalServer(*remote) if remote else find(data)
        except ClientError as error:
            self.answer, self.problem = None, str(error)
            return
        if server is None:
            self.answer, self.problem = None, ""
            return
        if not self._ask_client(lambda: Client(server.url, server.token, timeout=3)):
            self.answer = None

    def _ask_client(self, connect: Callable[[], Client]) -> bool:
        """Whether there is an answer."""
        try:
            with connect() as self._client:
                self.answer, self.problem = self._ask(self._client), ""
        except ClientError as error:
            self.problem = str(error)
            return False
        return True


health_monitor = Monitor(Client.health, max_age=3)
