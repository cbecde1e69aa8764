# SPDX-License-Identifier: GPL-3.0-or-later
"""install.py: which PyTorch it picks, and that each way in which it can fail ends in one sentence."""

import functools
import http.server
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import threading
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("install", ROOT / "install.py")
install = importlib.util.module_from_spec(spec)
spec.loader.exec_module(install)
Machine = install.Machine
GPU = "https://download.pytorch.org/whl/"
ADA, PASCAL, KEPLER = (8, 9), (6, 1), (3, 5)


@pytest.mark.parametrize(
    ("machine", "wanted", "requirement", "index"),
    [
        (Machine("linux", "x86_64"), "auto", "torch==2.13.0+cpu", GPU + "cpu"),
        (Machine("linux", "aarch64"), "auto", "torch==2.13.0+cpu", GPU + "cpu"),
        (Machine("linux", "x86_64", "580.95.05", ADA), "auto", "torch==2.13.0", ""),
        (Machine("linux", "x86_64", "580.65.06"), "auto", "torch==2.13.0", ""),
        (Machine("linux", "x86_64", "580.65.05", ADA), "auto", "torch==2.13.0+cu126", GPU + "cu126"),
        (Machine("linux", "x86_64", "535.183.01", ADA), "auto", "torch==2.13.0+cu126", GPU + "cu126"),
        (Machine("linux", "x86_64", "580.95.05", PASCAL), "auto", "torch==2.13.0+cu126", GPU + "cu126"),
        (Machine("linux", "x86_64", "470.82.01", ADA), "auto", "torch==2.13.0+cpu", GPU + "cpu"),
        (Machine("linux", "x86_64", "470.82.01", KEPLER), "auto", "torch==2.13.0+cpu", GPU + "cpu"),
        (Machine("linux", "x86_64", "580.95.05", ADA), "cpu", "torch==2.13.0+cpu", GPU + "cpu"),
        (Machine("linux", "x86_64", amd=True), "auto", f"torch==2.13.0+{install.ROCM}", GPU + install.ROCM),
        (
            Machine("linux", "x86_64", "580.95.05", ADA, amd=True),
            "rocm",
            f"torch==2.13.0+{install.ROCM}",
            GPU + install.ROCM,
        ),
        (Machine("linux", "x86_64", intel=True), "auto", "torch==2.13.0+xpu", GPU + "xpu"),
        (Machine("win32", "AMD64"), "auto", "torch==2.13.0", ""),
        (Machine("win32", "AMD64", "581.29", ADA), "auto", "torch==2.13.0+cu130", GPU + "cu130"),
        (Machine("win32", "AMD64", "546.33", ADA), "auto", "torch==2.13.0+cu126", GPU + "cu126"),
        (Machine("win32", "AMD64", "462.31", ADA), "auto", "torch==2.13.0", ""),
        (Machine("win32", "AMD64", amd=True), "auto", "torch==2.13.0", ""),
        (Machine("win32", "AMD64", intel=True), "auto", "torch==2.13.0+xpu", GPU + "xpu"),
        (Machine("darwin", "arm64"), "auto", "torch==2.13.0", ""),
        (Machine("darwin", "arm64"), "mps", "torch==2.13.0", ""),
    ],
)
def test_the_pytorch_of_a_machine(machine, wanted, requirement, index):
    build = install.choose_torch(machine, wanted)
    assert (build.requirement, build.index) == (requirement, index)
    assert build.note == "" or "processor" in build.note and build.requirement.endswith(("+cpu", "2.13.0"))


@pytest.mark.parametrize(
    ("machine", "wanted", "says"),
    [
        (Machine("darwin", "x86_64"), "auto", "no builds for Macs with Intel processors"),
        (Machine("darwin", "arm64"), "cuda", "has no cuda"),
        (Machine("linux", "x86_64"), "cuda", "no NVIDIA driver: install 525.60.13 or newer"),
        (Machine("linux", "x86_64", "470.82.01", ADA), "cuda", "install driver 525.60.13 or newer"),
        (Machine("linux", "x86_64", "580.95.05", KEPLER), "cuda", "too old for PyTorch"),
        (Machine("win32", "AMD64", amd=True), "rocm", "on Linux only"),
        (Machine("linux", "x86_64"), "mps", "has no mps"),
        (Machine("freebsd14", "amd64"), "auto", "no PyTorch for freebsd14"),
        (Machine("linux", "riscv64"), "auto", "no PyTorch for linux on riscv64"),
    ],
)
def test_a_machine_without_the_pytorch_that_is_wanted(machine, wanted, says):
    with pytest.raises(install.InstallError, match=says):
        install.choose_torch(machine, wanted)


def test_the_tables_agree_with_the_doctors():
    doctor = pytest.importorskip("server.doctor")
    assert {major: install.DRIVERS["linux"][major] for major in install.CUDA} == {
        major: doctor.DRIVERS[major] for major in install.CUDA
    }


SAYINGS = {
    "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device": "The disk is full",
    "OSError: [Errno 122] Disk quota exceeded": "The disk is full",
    "[Errno 13] Permission denied: '/opt/x'": "cannot be written",
    "PermissionError: [WinError 5] Access is denied": "cannot be written",
    "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution": "The download broke off",
    "ERROR: No matching distribution found for torch==2.13.0": "There is no torch==2.13.0 here",
    "The virtual environment was not created successfully because ensurepip is not available": "venv module is missing",
    "error: a step\n\n": "An installation step failed (error: a step)",
}


@pytest.mark.parametrize(("said", "expected"), SAYINGS.items())
def test_a_failure_is_told_in_one_sentence(said, expected):
    sentence = install.reason(said)
    assert expected in sentence and "\n" not in sentence and sentence.endswith(".")


def installer(*arguments, before=(), **environment):
    """Run install.py with nothing of the user's pip settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    own |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    return subprocess.run(
        [*before, sys.executable, ROOT / "install.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=own | environment,
    )


def sentence(done):
    """The one line on stderr of a run that failed."""
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr.removeprefix("install.py: ").strip()


OWN_MOUNTS = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
needs_mounts = pytest.mark.skipif(
    subprocess.run([*OWN_MOUNTS, "mount -t tmpfs none /mnt"], capture_output=True).returncode,
    reason="no disk of one's own can be mounted here",
)


@needs_mounts
def test_a_disk_without_room_is_noticed_before_the_download(tmp_path):
    command = f'mount -t tmpfs -o size=50m none \'{tmp_path}\' && exec "$0" "$@"'
    done = installer("--folder", tmp_path / "env", before=[*OWN_MOUNTS, command])
    assert re.match(r"The installation needs 3 GB, and .* has 0\.1 GB free: make room there, or", sentence(done))


@needs_mounts
def test_a_disk_that_fills_up_on_the_way(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import install, pathlib\n"
        f"install.Installer.check_disk = lambda *_: None\n"
        f"sys.exit(install.main(['--folder', {str(tmp_path / 'env')!r}]))"
    )
    mount = f'mount -t tmpfs -o size=2m none \'{tmp_path}\' && exec "$0" "$@"'
    done = subprocess.run([*OWN_MOUNTS, mount, sys.executable, "-c", code], capture_output=True, text=True)
    assert sentence(done) == "The disk is full: make room, then run install.py again, which goes on from here."


def test_a_folder_without_rights(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    # The superuser may write anywhere, unless that is taken away.
    drop = "-dac_override,-dac_read_search,-fowner"
    before = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"] if os.geteuid() == 0 else []
    done = installer("--folder", tmp_path / "locked" / "env", before=before)
    assert "cannot be made (Permission denied): choose another with --folder." in sentence(done)


def test_nothing_to_uninstall(tmp_path):
    assert "no installation" in sentence(installer("--uninstall", "--folder", tmp_path))


@pytest.mark.slow
@pytest.mark.long
def test_it_installs_twice_in_a_folder_with_spaces_and_letters_and_is_removed(wheel, tmp_path, request):
    """Offline, from a folder with the wheel; the packages that it needs are those of this environment."""
    if not request.config.getoption("--long"):
        pytest.skip("takes two minutes: only with --long")
    pytest.importorskip("torch")
    folder, data = tmp_path / "Ordner für Блендер", tmp_path / "data"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    pip = [folder / "bin" / "python", "-m", "pip"]
    subprocess.run([*pip, "uninstall", "-q", "-y", "setuptools"], check=False)  # it hides the newer one
    for _ in range(2):
        done = installer("--folder", folder, "--wheels", wheel.parent, XDG_DATA_HOME=str(data))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Ready" in done.stdout
    known = data / "msd_blender" / "installation"
    assert known.read_text(encoding="utf-8").strip() == str(folder)
    assert (folder / "bin" / "msd-server").is_file()
    (data / "msd_blender" / "jobs.sqlite").touch()
    removed = installer("--uninstall", "--folder", folder, XDG_DATA_HOME=str(data))
    assert removed.returncode == 0 and not folder.exists() and not known.exists()
    assert str(data / "msd_blender") in removed.stdout and (data / "msd_blender" / "jobs.sqlite").exists()


class Index(http.server.SimpleHTTPRequestHandler):
    """A package index whose connection breaks after `limit` bytes of a file."""

    limit = 1 << 20
    breaks = 1 << 30
    requests: list[str] = []

    def do_GET(self):
        self.requests.append(f"{self.path} {self.headers.get('Range', '')}".strip())
        if not self.path.endswith(".whl"):
            return super().do_GET()
        data = Path(self.translate_path(self.path)).read_bytes()
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"one"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if type(self).breaks > 0:
            type(self).breaks -= 1
            data = data[: self.limit]  # nor does any more come when pip, from 25.1 on, resumes the download
        self.wfile.write(data[start:])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def index(tmp_path):
    """The address of an index with one package of 3 MB."""
    place = tmp_path / "index" / "large"
    place.mkdir(parents=True)
    with zipfile.ZipFile(place / "large-1.0-py3-none-any.whl", "w") as made:
        made.writestr("large.bin", os.urandom(3 << 20))
        made.writestr("large-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: large\nVersion: 1.0\n")
        made.writestr("large-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr("large-1.0.dist-info/RECORD", "")
    handler = type("Handler", (Index,), {"requests": []})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path / "index"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()


@pytest.mark.slow
def test_a_network_that_is_cut_is_told_and_a_second_run_goes_on(index, tmp_path, monkeypatch):
    url, handler = index
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", url)
    monkeypatch.setenv("PIP_RETRIES", "0")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    made = install.Installer(tmp_path / "env")
    with pytest.raises(install.InstallError, match="The download broke off: check the network, then run install.py"):
        made.pip("install", "large")
    handler.breaks = 0
    made.pip("install", "large")
    made.pip("install", "large")  # a second time there is nothing to do
    assert sum(".whl" in each for each in handler.requests) >= 2
