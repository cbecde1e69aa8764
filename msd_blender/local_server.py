# SPDX-License-Identifier: GPL-3.0-or-later
"""Find, start and stop a server process on this machine. Needs no bpy."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .client import Client
from .errors import ClientError
from .protocol import data_folder

ADDRESS = "server.json"  # written by the server into its data folder, mode 0600
LOG = "server.log"
INSTALLATION = "installation"  # in the default data folder: where `make setup` or install.py ran last
# Of an environment: its interpreter, and where its packages lie.
PYTHON = Path("Scripts", "python.exe") if os.name == "nt" else Path("bin", "python")
PACKAGES = "Lib/site-packages" if os.name == "nt" else "lib/python3*/site-packages"


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
            _kill(self.process)
            self.process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process with its children, whatever they do."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], check=False, capture_output=True)
    else:
        os.killpg(process.pid, signal.SIGKILL)  # `start` made it the leader of a group


def find(data: Path) -> LocalServer | None:
    """The running server of a data folder; None where none answers, or its protocol has another version."""
    try:
        known = json.loads((data / ADDRESS).read_text(encoding="utf-8"))
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
    cores: int = 0,
) -> LocalServer:
    """Start a server on a free port.

    Args:
        data: the folder of its jobs, made if missing.
        python: the interpreter with the server's packages.
        folder: contains the package `server`; "" is the folder that this package was loaded from.
        timeout: seconds until it must answer.
        keep: it goes on after this process has ended; else it ends too.
        cores: threads of its work on the CPU; 0: one for each core.

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
                    *(["--cores", str(cores)] if cores else []),
                ],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUTF8": "1"},
                **_APART,
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


# A server does not get the signals of this process's terminal, and opens no window.
_APART: dict[str, Any] = {"start_new_session": True}
_OWN_WINDOW: dict[str, Any] = {"start_new_session": True}
if sys.platform == "win32":
    _APART = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    _OWN_WINDOW = {"creationflags": subprocess.CREATE_NEW_CONSOLE}


def find_or_start(
    data: Path, python: str = sys.executable, folder: str | os.PathLike[str] = "", keep: bool = False, cores: int = 0
) -> LocalServer:
    """The server of a data folder, started if none answers. The arguments are those of `start`."""
    return find(data) or start(data, python, folder, keep=keep, cores=cores)


def stop(server: LocalServer) -> None:
    """Stop a server of this user, whichever process started it. Its jobs wait at their checkpoints."""
    if server.process is not None:
        server.stop()
    elif server.pid:
        with suppress(OSError):  # it has ended; Windows calls that a wrong parameter
            os.kill(server.pid, signal.SIGTERM)


def open_terminal(command: list[str], folder: Path) -> None:
    """Run a command in a terminal window of its own, which goes on after this process. Raises `ClientError`."""
    try:
        subprocess.Popen(
            in_terminal(command, folder, sys.platform, shutil.which),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            **_OWN_WINDOW,
        )
    except OSError as error:
        raise ClientError(f"The terminal cannot be opened: {error}.") from None


# Programs that show a terminal window, with their argument before the command.
TERMINALS = {
    "x-terminal-emulator": "-e",
    "gnome-terminal": "--",
    "konsole": "-e",
    "xfce4-terminal": "-x",
    "kitty": "--",
    "alacritty": "-e",
    "xterm": "-e",
}


def in_terminal(command: list[str], folder: Path, platform: str, which: Callable[[str], str | None]) -> list[str] | str:
    """A command that runs another one in a terminal window, which stays open after it.

    platform: as `sys.platform`. which: as `shutil.which`. Raises `ClientError` where there is no terminal.
    """
    if platform == "win32":
        return f'cmd /s /k "{subprocess.list2cmdline(command)}"'  # /s: cmd takes only the outer quotes away
    line = f"cd {shlex.quote(str(folder))} && {shlex.join(command)}"
    if platform == "darwin":
        quoted = line.replace("\\", "\\\\").replace('"', '\\"')
        return ["osascript", "-e", f'tell application "Terminal" to do script "{quoted}"']
    for name, option in TERMINALS.items():
        if which(name):
            return [name, option, "sh", "-c", f"{line}; exec sh"]
    raise ClientError(f"There is no terminal program here; run this in one: {line}")


def log_tail(data: Path, size: int = 1 << 16) -> str:
    """The last `size` bytes of the log of a data folder's server, "" without one."""
    try:
        with open(data / LOG, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True)
class Installation:
    """A server that can be started. folder: contains the package `server`. python: its interpreter."""

    folder: Path
    python: Path


def installation(folder: Path) -> Installation | None:
    """The server in a folder: a copy of this project after `make setup`, or the environment that install.py made."""
    if (folder / "server" / "__main__.py").is_file() and (folder / ".venv" / PYTHON).is_file():
        return Installation(folder, folder / ".venv" / PYTHON)
    if (folder / PYTHON).is_file():
        for packages in folder.glob(PACKAGES):
            if (packages / "server" / "__main__.py").is_file():
                return Installation(packages, folder / PYTHON)
    return None


def installations() -> list[Installation]:
    """The servers of this machine, the likeliest first: that of this package, the one that was installed last, and
    those in usual places."""
    home = Path.home()
    places = [Path(__file__).resolve().parents[1]]
    with suppress(OSError, ValueError):
        places.append(Path((data_folder() / INSTALLATION).read_text(encoding="utf-8").strip()))
    places += [home / "msd_blender", home / "src" / "msd_blender", home / "Documents" / "msd_blender"]
    return [found for place in dict.fromkeys(places) if (found := installation(place))]
