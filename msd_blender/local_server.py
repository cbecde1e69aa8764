# SPDX-License-Identifier: GPL-3.0-or-later
"""Find, start and stop a server on this machine. Standard library only; no bpy."""

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

from .client import Client, ClientError

ADDRESS = "server.json"  # written by the server into its data folder, mode 0600
LOG = "server.log"
PYTHON = Path(".venv", "Scripts" if os.name == "nt" else "bin", "python")  # as `make setup` makes it


@dataclass
class LocalServer:
    """A server on this machine. `process` is None where somebody else started it."""

    url: str
    token: str
    process: subprocess.Popen[bytes] | None = None
    pid: int = 0

    def stop(self) -> None:
        """End the server if it was started here; it takes its worker with it."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def find(data: Path) -> LocalServer | None:
    """The server of a data folder, if one answers and speaks our protocol."""
    try:
        known = json.loads((data / ADDRESS).read_text())
        server = LocalServer(known["url"], known["token"], pid=known["pid"])
        health = Client(server.url, server.token, timeout=3).health()
    except (OSError, ValueError, KeyError, TypeError, ClientError):
        return None
    return server if health.pid == server.pid else None  # another took the port of one that died


def start(
    data: Path,
    python: str = sys.executable,
    folder: str | os.PathLike[str] = "",
    timeout: float = 60,
    keep: bool = False,
) -> LocalServer:
    """Start a server on any free port; it ends when this process ends, unless it is to be kept.

    Args:
        data: where it keeps its jobs.
        python, folder: the interpreter with the server's packages, and the folder that holds `server`
            ("" is the one that this package was loaded from).
    Raises `ClientError` where it does not come up; the sentence repeats the last line of its log.
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
            if server is not None:  # another was faster with this data folder: take that one
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
    """The server of a data folder, started if none answers."""
    return find(data) or start(data, python, folder, keep=keep)


def stop(server: LocalServer) -> None:
    """End a server of this user, whoever started it; its jobs wait at a checkpoint."""
    if server.process is not None:
        server.stop()
    elif server.pid:
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGTERM)


def log_tail(data: Path, size: int = 1 << 16) -> str:
    """The end of the log of a data folder's server."""
    try:
        with open(data / LOG, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def installations() -> list[Path]:
    """Folders of this machine that hold the server with its environment: the one this package lies in, the one
    that `make setup` wrote down last, and where people put such things."""
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
    """Where ``python -m server serve`` keeps its jobs, and `make setup` writes down where it was run."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "msd_blender"
