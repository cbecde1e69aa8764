# SPDX-License-Identifier: GPL-3.0-or-later
"""Find, start and stop a server process on this machine. Needs no bpy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .client import Client
from .errors import ClientError

ADDRESS = "server.json"  # written by the server into its data folder, mode 0600
LOG = "server.log"
PYTHON = Path(".venv", "Scripts" if os.name == "nt" else "bin", "python")  # made by `make setup`


@dataclass
class LocalServer:
    """A server on this machine. process: None where another program started it."""

    url: str
    token: str
    process: subprocess.Popen[bytes] | None = None
    pid: int = 0

    def stop(self) -> None:
        """Stop the server, and with it its workers, if this process started it."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def find(data: Path) -> LocalServer | None:
    """The running server of a data folder; None where none answers, or its protocol has another version."""
    try:
        known = json.loads((data / ADDRESS).read_text())
        server = LocalServer(known["url"], known["token"], pid=known["pid"])
        health = Client(server.url, server.token, timeout=3).health()
    except (OSError, ValueError, KeyError, TypeError, ClientError):
        return None
    return server if health.pid == server.pid else None  # else another server has the port of one that died


def start(
    data: Path,
    python: str = sys.executable,
    folder: str | os.PathLike[str] = "",
    timeout: float = 60,
    keep: bool = False,
) -> LocalServer:
    """Start a server on a free port.

    Args:
        data: the folder of its jobs, made if missing.
        python: the interpreter with the server's packages.
        folder: contains the package `server`; "" is the folder that this package was loaded from.
        timeout: seconds until it must answer.
        keep: it goes on after this process has ended; else it ends too.

    Raises `ClientError` where it does not start; the sentence repeats the last line of its log.
    """
    folder = Path(folder or Path(__file__).resolve().parents[1])
    if not (folder / "server" / "__main__.py").is_file():
        raise ClientError(f"There is no server in {folder}: set its folder in the preferences.")
    try:
        data.mkdir(parents=True, exist_ok=True)
        with open(data / LOG, "ab") as log:
            process = subprocess.Popen(
                [
                    python,
                    "-m",
                    "server",
                    "serve",
                    "--port",
                    "0",
                    "--data",
                    str(data.absolute()),
                    *([] if keep else ["--parent", str(os.getpid())]),
                ],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    except OSError as error:
        raise ClientError(f"The server cannot be started: {error}.") from None
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        server = find(data)
        if server is not None and server.pid == process.pid:
            server.process = process
            return server
        if process.poll() is not None:
            if server is not None:  # another process started one for this data folder first
                return server
            break
        time.sleep(0.1)
    LocalServer("", "", process).stop()
    lines = (data / LOG).read_text(errors="replace").strip().splitlines()
    reason = lines[-1].removeprefix("Error: ") if lines else "it said nothing"
    raise ClientError(f"The server did not start: {reason}")


def find_or_start(
    data: Path, python: str = sys.executable, folder: str | os.PathLike[str] = "", keep: bool = False
) -> LocalServer:
    """The server of a data folder, started if none answers. The arguments are those of `start`."""
    return find(data) or start(data, python, folder, keep=keep)


def stop(server: LocalServer) -> None:
    """Stop a server of this user, whichever process started it. Its jobs wait at their checkpoints."""
    if server.process is not None:
        server.stop()
    elif server.pid:
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGTERM)


def log_tail(data: Path, size: int = 1 << 16) -> str:
    """The last `size` bytes of the log of a data folder's server, "" without one."""
    try:
        with open(data / LOG, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def installations() -> list[Path]:
    """Folders of this machine that contain the server and its environment, the likeliest first: that of this package,
    the one where `make setup` ran last, and usual places."""
    home = Path.home()
    found = [Path(__file__).resolve().parents[1]]
    with suppress(OSError):
        found.append(Path((user_data() / "installation").read_text().strip()))
    found += [home / "msd_blender", home / "src" / "msd_blender", home / "Documents" / "msd_blender"]
    return [
        each
        for each in dict.fromkeys(found)
        if (each / "server" / "__main__.py").is_file() and (each / PYTHON).is_file()
    ]


def user_data() -> Path:
    """The default data folder of ``python -m server serve``, in which `make setup` records the folder it ran in."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "msd_blender"
