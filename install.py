#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install the server of msd_blender on Windows, macOS or Linux: ``python install.py``.

It makes an environment with the PyTorch that fits this machine, and tells Blender's extension where it is. A second run
finishes what a first one began. ``--uninstall`` removes it. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSIONS = ((3, 11), (3, 12), (3, 13))
TORCH = "2.13.0"
INDEX = "https://download.pytorch.org/whl/"
ROCM = "rocm7.2"
# CUDA's major version -> the lowest driver that runs all of it (NVIDIA, CUDA Compatibility); as server/doctor.py.
DRIVERS = {"linux": {13: "580.65.06", 12: "525.60.13"}, "win32": {13: "580", 12: "528.33"}}
CUDA = {13: "cu130", 12: "cu126"}
OLDEST_CARD = {13: (7, 5), 12: (5, 0)}  # compute capability
GB = 10**9
# What bpy links to and a bare Debian lacks.
LIBRARIES = ("libgl1", "libsm6", "libxi6", "libxkbcommon0", "libxrender1", "libxfixes3")


FULL = "The disk is full: make room, then run install.py again, which goes on from here."
MIN_FREE = 4 << 20  # bytes, below which a disk is full


class InstallError(Exception):
    """It cannot go on. The message is one sentence that says what to do."""


class Machine:
    """What decides which PyTorch fits.

    system: as sys.platform. processor: as platform.machine(). driver: NVIDIA's version, "" without one; capability: of
    its lowest card, (0, 0) if unknown. amd, intel: whether there is a card with the driver that PyTorch needs.
    """

    def __init__(
        self,
        system: str,
        processor: str,
        driver: str = "",
        capability: tuple[int, int] = (0, 0),
        amd: bool = False,
        intel: bool = False,
    ):
        self.system, self.processor = system, processor.lower()
        self.driver, self.capability, self.amd, self.intel = driver, capability, amd, intel


class Build:
    """A build of PyTorch.

    requirement: for pip. index: of the packages, "" for pip's own. disk: bytes that everything takes with it.
    """

    def __init__(self, name: str, requirement: str, index: str, disk: int, note: str = ""):
        self.name, self.requirement, self.index, self.disk, self.note = name, requirement, index, disk, note


def choose_torch(machine: Machine, wanted: str = "auto") -> Build:
    """The PyTorch for a machine, or for a device of it: auto, cuda, rocm, xpu, mps or cpu.

    Raises `InstallError` where there is none.
    """
    x86 = machine.processor in ("x86_64", "amd64")
    if machine.system == "darwin":
        if machine.processor != "arm64":
            raise InstallError("PyTorch has no builds for Macs with Intel processors any more: use another machine.")
        if wanted not in ("auto", "mps", "cpu"):
            raise InstallError(f"A Mac has no {wanted}: choose --device auto.")
        return Build("Apple GPUs", f"torch=={TORCH}", "", 3 * GB)
    if machine.system not in ("linux", "win32") or not (x86 or machine.processor in ("aarch64", "arm64")):
        raise InstallError(f"There is no PyTorch for {machine.system} on {machine.processor}: use another machine.")
    note = ""
    if wanted == "cuda" or wanted == "auto" and machine.driver:
        for major in sorted(CUDA, reverse=True):
            old_driver = _numbers(machine.driver) < _numbers(DRIVERS[machine.system][major])
            old_card = (0, 0) < machine.capability < OLDEST_CARD[major]
            if not (old_driver or old_card):
                if machine.system == "linux" and major == 13:  # the one on the package index
                    return Build(f"CUDA {major}", f"torch=={TORCH}", "", 9 * GB)
                return Build(f"CUDA {major}", f"torch=={TORCH}+{CUDA[major]}", INDEX + CUDA[major], 9 * GB)
        lowest = DRIVERS[machine.system][12]
        if machine.driver and (0, 0) < machine.capability < OLDEST_CARD[12]:
            note = "This NVIDIA card is too old for PyTorch, so jobs will run on the processor."
        else:
            note = f"For the NVIDIA card install driver {lowest} or newer first; without it jobs run on the processor."
        if wanted == "cuda":
            raise InstallError(note if machine.driver else f"There is no NVIDIA driver: install {lowest} or newer.")
    if wanted == "rocm" or wanted == "auto" and machine.amd and not note:
        if machine.system == "linux" and x86:
            return Build("ROCm", f"torch=={TORCH}+{ROCM}", INDEX + ROCM, 20 * GB)
        note = "PyTorch uses AMD's cards on Linux only, so jobs will run on the processor."
        if wanted == "rocm":
            raise InstallError("PyTorch uses AMD's cards on Linux only: choose --device cpu.")
    if (wanted == "xpu" or wanted == "auto" and machine.intel and not note) and x86:
        return Build("Intel GPUs", f"torch=={TORCH}+xpu", INDEX + "xpu", 9 * GB)
    if wanted not in ("auto", "cpu"):
        raise InstallError(f"This machine has no {wanted}: choose --device auto.")
    # On Windows the package index has the build for the processor alone.
    if machine.system == "win32":
        return Build("the processor", f"torch=={TORCH}", "", 3 * GB, note)
    return Build("the processor", f"torch=={TORCH}+cpu", INDEX + "cpu", 3 * GB, note)


def this_machine() -> Machine:
    rows = [
        row.split(", ")
        for row in _output("nvidia-smi", "--query-gpu=driver_version,compute_cap", "--format=csv,noheader").splitlines()
    ]
    capabilities = [tuple(map(int, row[1].split("."))) for row in rows if re.fullmatch(r"\d+\.\d+", row[-1])]
    lowest = min(capabilities, default=(0, 0))
    return Machine(
        sys.platform,
        platform.machine(),
        rows[0][0] if rows and re.match(r"\d", rows[0][0]) else "",
        (lowest[0], lowest[1]),
        amd=Path("/dev/kfd").exists(),
        intel=bool(_output("xpu-smi", "discovery")),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _output(*command: str) -> str:
    """A program's output; "" if it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def reason(said: str) -> str:
    """One sentence for the output of pip or venv that failed."""
    low = said.lower()
    if "no space left" in low or "errno 28" in low or "disk quota" in low:
        return FULL
    if "permission denied" in low or "errno 13" in low or "winerror 5" in low or "read-only file system" in low:
        return "The folder cannot be written: choose another with --folder."
    network = "newconnectionerror|connectionerror|connection broken|incompleteread|name resolution|max retries"
    network += "|timed out|protocolerror|connection reset|getaddrinfo|network is unreachable|incomplete-download"
    # A part of a file: older versions of pip do not notice that the rest is missing.
    network += "|wheel .* is invalid|do not match the hashes"
    if re.search(network, low):
        return "The download broke off: check the network, then run install.py again, which goes on from here."
    if "ensurepip" in low or "python3-venv" in low:
        return "Python's venv module is missing; on Debian and Ubuntu: sudo apt-get install python3-venv."
    if "no matching distribution" in low or "could not find a version" in low:
        line = next((line for line in said.splitlines() if "no matching distribution" in line.lower()), "")
        what = re.sub(r"(?i)^.*found for ", "", line).strip() or "a package"
        return (
            f"There is no {what} here: check the network, try another of Python 3.11 to 3.13, or name PyTorch's index "
            "with --torch-index (pytorch.org/get-started lists them)."
        )
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "no reason was given")
    return f"An installation step failed ({last.strip()[:200]}): run install.py again, and ask for help if it repeats."


class Installer:
    """Makes an environment in `folder`."""

    def __init__(self, folder: Path, wheels: Path | None = None):
        self.folder, self.wheels = folder, wheels
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def check_disk(self, needed: int) -> None:
        """Raise `InstallError` where an installation of so many bytes has no room."""
        place = self.folder
        while not place.exists() and place != place.parent:
            place = place.parent
        held = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())
        try:
            free = shutil.disk_usage(place).free
        except OSError as error:
            raise InstallError(f"{place} cannot be used ({error.strerror}): choose another with --folder.") from None
        if free < needed - held:
            raise InstallError(
                f"The installation needs {(needed - held) / GB:.0f} GB, and {place} has {free / GB:.1f} GB free: make "
                "room there, or choose another folder with --folder."
            )

    def make(self) -> None:
        """Make the environment, or mend one that was begun."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InstallError(
                f"{self.folder} cannot be made ({error.strerror}): choose another with --folder."
            ) from None
        if not _output(str(self.python), "-m", "pip", "--version"):
            say("Making the environment …")
            self.run([sys.executable, "-m", "venv", str(self.folder)])
        if self.pip_version() < (25, 1) and not self.wheels:  # resumes broken downloads
            with suppress(InstallError):  # it works without
                self.pip("install", "pip>=25.1")

    def pip_version(self) -> tuple[int, ...]:
        return _numbers(_output(str(self.python), "-m", "pip", "--version").partition(" from ")[0])

    def pip(self, *arguments: str) -> None:
        """Run pip. Raises `InstallError`."""
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
        if self.pip_version() >= (24, 1):
            command += ["--progress-bar", "raw"]
        if self.pip_version() >= (25, 1):
            command += ["--resume-retries", "20"]
        if self.wheels:
            command += ["--no-index", "--find-links", str(self.wheels)]
        self.run(command)

    def run(self, command: list[str]) -> None:
        """Run a command, with its progress in one line. Raises `InstallError`."""
        environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
        environment.pop("PYTHONHOME", None)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
            )
        except OSError as error:
            raise InstallError(reason(str(error))) from None
        said: list[str] = []
        assert process.stdout
        try:
            for line in process.stdout:
                said.append(line)
                show(line.rstrip())
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        clear()
        if code and shutil.disk_usage(self.folder).free < MIN_FREE:  # which not every step says
            raise InstallError(FULL)
        if code:
            raise InstallError(reason("".join(said)))

    def install(self, build: Build, index: str = "") -> None:
        """Install PyTorch and the server."""
        say(f"Installing PyTorch for {index or build.name} …")
        if self.wheels:
            self.pip("install", "torch")
        elif index:
            self.pip("install", "torch>=2.6", "--index-url", index)
        else:
            self.torch(build)
        say("Installing the server …")
        lock = HERE / "requirements.lock"
        constraints = ["--constraint", str(lock)] if lock.is_file() and not self.wheels else []
        # Warp is the rasterizer for CUDA: 149 MB to load, 392 MB installed.
        extras = "server,warp" if build.name.startswith("CUDA") and not self.wheels else "server"
        self.pip("install", f"{self.source()}[{extras}]", *constraints)

    def torch(self, build: Build) -> None:
        """Install a PyTorch: from the sources that pip knows, else from PyTorch's own."""
        attempts = [[build.requirement]]
        if build.index:
            attempts.append([build.requirement, "--extra-index-url", build.index])
        if build.requirement.endswith("+cpu"):  # the one with CUDA works there, too, and is larger
            attempts.append([f"torch=={TORCH}"])
        for attempt in attempts:
            if len(attempts) == 3 and attempt is attempts[-1]:
                self.check_disk(9 * GB)
            try:
                return self.pip("install", *attempt)
            except InstallError:
                if attempt is attempts[-1]:
                    raise

    def source(self) -> str:
        """The server's package: this folder, or a wheel that lies here or among the wheels."""
        for place in (self.wheels, HERE):
            if place and (found := sorted(place.glob("msd_blender-*.whl"))):
                return str(found[-1])
        if (HERE / "pyproject.toml").is_file():
            return str(HERE)
        raise InstallError("install.py must lie in the project's folder, or beside its .whl file: download it anew.")

    def finish(self) -> Path:
        """Compile the kernels, and tell the extension where the server is. Returns the file that says so."""
        say("Compiling the kernels (once, about half a minute) …")
        self.run([str(self.python), "-c", WARM_UP])
        return record(self.python, self.folder)


WARM_UP = "from server import logs; logs.set_up(); from server.optimize import warm_up; warm_up()"


def record(python: Path, folder: Path) -> Path:
    """Write an installation's folder to where the extension looks for it."""
    place = _output(str(python), "-c", "from msd_blender.protocol import data_folder; print(ascii(str(data_folder())))")
    if not place:
        raise InstallError("The server was installed but does not start: run install.py again.")
    import ast

    known = Path(ast.literal_eval(place.strip())) / "installation"
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(f"{folder}\n", encoding="utf-8")
    except OSError:
        print(f"Set the server folder in the extension's preferences: {folder}")
    return known


def develop() -> None:
    """Everything for work on the project into .venv: the locked versions, bpy, the tools. Nothing the second time."""
    stamp = HERE / ".venv" / "setup-stamp"
    build = choose_torch(this_machine())
    contents = (HERE / "requirements.lock").read_bytes() + Path(__file__).read_bytes()
    wanted = f"{hashlib.sha256(contents).hexdigest()[:16]}-{build.name}"
    if _text(stamp) == wanted:
        return
    installer = Installer(HERE / ".venv")
    there = re.search(r"^version *= *(\d+\.\d+)", _text(HERE / ".venv" / "pyvenv.cfg"), re.MULTILINE)
    if there and there[1] != f"{sys.version_info[0]}.{sys.version_info[1]}":
        raise InstallError(f".venv has Python {there[1]}: remove it first, or run this with that version.")
    installer.check_disk(build.disk + GB)
    installer.make()
    say(f"Installing PyTorch {TORCH} for {build.name} …")
    installer.torch(build)
    say("Installing the other packages (Warp, the rasterizer for CUDA, is 149 MB to load and 392 MB installed) …")
    installer.pip("install", "-r", str(HERE / "requirements.lock"))
    if sys.version_info[:2] == (3, 12):
        say("There is no bpy for Python 3.12: everything works but writing a .blend, for which 3.11 or 3.13 is needed.")
    elif subprocess.run([str(installer.python), "-c", "import bpy"], capture_output=True, check=False).returncode:
        system_libraries(installer)
    say("Compiling the kernels (once, about half a minute) …")
    installer.run([str(installer.python), "-c", WARM_UP])
    record(installer.python, HERE)
    stamp.write_text(wanted, encoding="utf-8")
    say("Ready.")


def system_libraries(installer: Installer) -> None:
    """Install what bpy links to. Raises `InstallError`, with the command, where this user may not."""
    command = ["apt-get", "install", "-y", "--no-install-recommends", *LIBRARIES]
    root = [] if not hasattr(os, "geteuid") or os.geteuid() == 0 else ["sudo", "-n"]
    allowed = not root or subprocess.run([*root, "true"], capture_output=True, check=False).returncode == 0
    if not shutil.which("apt-get") or root and not shutil.which("sudo") or not allowed:
        raise InstallError(f"bpy needs system libraries; run this, then again what you ran: sudo {' '.join(command)}")
    say("Installing the system libraries that bpy needs …")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for each in (["apt-get", "update", "-q"], command):
        subprocess.run([*root, *each], stdin=subprocess.DEVNULL, env=environment, check=False)
    installer.run([str(installer.python), "-c", "import bpy"])


def uninstall(folder: Path) -> None:
    """Remove the environment, and say what stays."""
    python = Installer(folder).python
    if not (folder / "pyvenv.cfg").is_file():
        raise InstallError(f"There is no installation in {folder}: name its folder with --folder.")
    data = _output(str(python), "-c", "from msd_blender.protocol import data_folder; print(ascii(str(data_folder())))")
    cache = _output(str(python), "-m", "pip", "cache", "dir").strip()
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise InstallError(f"{error.filename} cannot be removed ({error.strerror}): end the server first.") from None
    say(f"Removed {folder}.")
    print("These stay; delete them yourself if you want to:")
    if data:
        import ast

        known = Path(ast.literal_eval(data.strip()))
        (known / "installation").unlink(missing_ok=True)
        print(f"  {known}    jobs of servers that were started by hand")
    print("  the extension in Blender (Preferences > Add-ons > MSD > Uninstall), with the jobs in its own folder")
    if cache:
        print(f"  {cache}    pip's downloads, which other programs use, too")
    print("  models that you downloaded, and the files that you made")


_shown = False


def say(text: str) -> None:
    clear()
    print(text, flush=True)


def show(line: str) -> None:
    """Show progress in one line of a terminal; elsewhere only what pip collects."""
    global _shown
    if match := re.fullmatch(r"Progress (\d+) of (\d+)", line):
        done, total = int(match[1]), int(match[2])
        line = f"  {done / 1e6:.0f} of {total / 1e6:.0f} MB, {done / max(total, 1):.0%}"
    elif not sys.stdout.isatty() and not line.startswith(("Collecting", "Downloading", "Installing", "WARNING: Conn")):
        return
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]:<{width}}", end="", flush=True)
        _shown = True
    elif not match:
        print(f"  {line}", flush=True)


def clear() -> None:
    global _shown
    if _shown:
        print("\r" + " " * (shutil.get_terminal_size().columns - 1), end="\r", flush=True)
        _shown = False


def default_folder() -> Path:
    """Beside other programs' data."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "msd_blender" / "environment"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "msd_blender" / "environment"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "msd_blender" / "environment"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="install.py", description="Install the server of msd_blender.")
    parser.add_argument("--folder", type=Path, metavar="DIR", help=f"where; default {default_folder()}")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "rocm", "xpu", "mps", "cpu"))
    parser.add_argument("--torch-index", default="", metavar="URL", help="package index of another PyTorch")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="install from this folder of wheels, offline")
    parser.add_argument("--uninstall", action="store_true", help="remove the installation, and list what stays")
    parser.add_argument("--develop", action="store_true", help="as `make setup`: everything for work on the project")
    given = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        if sys.version_info[:2] not in VERSIONS:
            raise InstallError(
                f"This is Python {platform.python_version()}, and 3.11, 3.12 or 3.13 is needed: run it with that."
            )
        folder = (given.folder or default_folder()).expanduser().absolute()
        if given.develop:
            develop()
        elif given.uninstall:
            uninstall(folder)
        else:
            build = choose_torch(this_machine(), given.device)
            if build.note:
                say(build.note)
            installer = Installer(folder, given.wheels and given.wheels.expanduser().absolute())
            installer.source()
            installer.check_disk(build.disk)
            installer.make()
            installer.install(build, given.torch_index)
            known = installer.finish()
            say(f"Ready. The server is in {folder}, and Blender's extension finds it by {known}.")
            print("Start it from the extension's panel, or by hand:")
            print(f'  "{installer.python.parent / "msd-server"}" serve')
    except InstallError as error:
        clear()
        print(f"install.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        clear()
        print(f"install.py: {reason(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        clear()
        print("install.py: Interrupted: run it again, and it goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
