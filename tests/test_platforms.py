# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows and macOS, as far as Linux can show them."""

import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from msd_blender import local_server
from msd_blender.client import Client
from msd_blender.protocol import FINISHED, JobRequest, join_lora, split_lora
from msd_blender.protocol.places import user_data_folder
from server import system
from server.jobs import local_process

ROOT = Path(__file__).parents[1]


@pytest.fixture
def without_posix(tmp_path, monkeypatch):
    """Python processes that start from now on have no POSIX modules."""
    (tmp_path / "hook").mkdir()
    shutil.copy(ROOT / "tests" / "without_posix.py", tmp_path / "hook" / "sitecustomize.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook"))


def python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    "statement", ["import fcntl", "from os import fork", "import os; os.killpg", "import resource"]
)
def test_posix_is_hidden_from_our_modules_only(without_posix, statement):
    ours = python(f"exec({statement!r}, {{'__package__': 'server.jobs'}})")
    assert ours.returncode == 1 and any(word in ours.stderr for word in ("No module", "no attribute", "cannot import"))
    assert python(statement).returncode == 0


@pytest.mark.slow
def test_every_module_can_be_imported_without_posix(without_posix):
    done = python(
        "import importlib, pkgutil, server, msd_blender.commands, msd_blender.job_session, msd_blender.local_server\n"
        "for each in pkgutil.walk_packages(server.__path__, 'server.'):\n"
        "    if not each.name.endswith('__main__') or each.name == 'server.__main__':\n"
        "        importlib.import_module(each.name)"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.process
@pytest.mark.slow
def test_the_server_runs_a_job_without_posix(without_posix, tiny, tmp_path):
    data = tmp_path / "Jürgen Müller" / "данные"
    started = local_server.start(data)
    try:
        second = python(
            f"import sys; from server.__main__ import main; sys.exit(main(['serve', '--data', {str(data)!r}]))"
        )
        assert second.returncode == 1 and "Another server uses the data folder" in second.stderr
        with Client(started.url, started.token) as client:
            job = client.submit(JobRequest("a red mushroom", **tiny))
            for _ in client.events(job.id):
                pass
            ended = client.job(job.id)
            assert ended.state == FINISHED and "mesh.glb" in ended.files, ended.error
        with urllib.request.urlopen(f"{started.url}/v1/metrics") as answer:
            assert b"msd_server_peak_bytes" in answer.read()
    finally:
        started.stop()
    assert str(data) in (data / "server.log").read_text(encoding="utf-8") and not (data / "server.json").exists()


@pytest.mark.slow
def test_the_server_ends_with_its_parent_also_as_a_zombie(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    watcher = subprocess.Popen(
        [sys.executable, "-c", f"from server.system import wait_for_end; wait_for_end({parent.pid})"], cwd=ROOT
    )
    with pytest.raises(subprocess.TimeoutExpired):
        watcher.wait(2)
    parent.stdin.close()
    watcher.wait(30)  # the parent has ended, and is reaped only now
    parent.wait()
    system.wait_for_end(parent.pid)


WINDOWS = {"LOCALAPPDATA": "C:\\Users\\Jürgen Müller\\AppData\\Local"}


@pytest.mark.parametrize(
    ("platform", "environment", "home", "expected"),
    [
        ("linux", {}, "/home/ada", PurePosixPath("/home/ada/.local/share/msd_blender")),
        ("linux", {"XDG_DATA_HOME": "/data of all"}, "/home/ada", PurePosixPath("/data of all/msd_blender")),
        ("linux", {"XDG_DATA_HOME": ""}, "/home/ada", PurePosixPath("/home/ada/.local/share/msd_blender")),
        ("darwin", {}, "/Users/Zoë", PurePosixPath("/Users/Zoë/Library/Application Support/msd_blender")),
        ("win32", WINDOWS, "C:\\Users\\x", PureWindowsPath(r"C:\Users\Jürgen Müller\AppData\Local\msd_blender")),
        ("win32", {}, "D:\\Иван", PureWindowsPath(r"D:\Иван\AppData\Local\msd_blender")),
        ("win32", {}, r"\\server\home\ada", PureWindowsPath(r"\\server\home\ada\AppData\Local\msd_blender")),
    ],
)
def test_the_data_folder_follows_each_platforms_rules(platform, environment, home, expected):
    assert user_data_folder(platform, environment, home) == expected


@pytest.mark.parametrize(
    "file",
    [
        r"C:\Users\Jürgen Müller\LoRAs\shiny gold.safetensors",
        r"\\studio\models\Ölfarbe.safetensors",
        "C:shiny.safetensors",
        "D:/models/x.safetensors",
        r"\\?\C:\very long\x.safetensors",
    ],
)
@pytest.mark.parametrize("weight", [1.0, 0.8, -2.0])
def test_a_lora_on_a_drive_or_a_share_keeps_its_weight(file, weight):
    assert split_lora(join_lora(file, weight)) == (file, weight)
    assert split_lora(file) == (file, 1.0)


def test_a_file_that_another_program_has_open_is_replaced_when_it_is_closed(tmp_path, monkeypatch):
    (tmp_path / "part").write_text("new")
    (tmp_path / "file").write_text("old")
    refusals, rename = [13, 13, 13], os.replace

    def refuse(source, target):
        if refusals:
            raise PermissionError(refusals.pop(), "The process cannot access the file")
        rename(source, target)

    monkeypatch.setattr(system.os, "replace", refuse)
    with pytest.raises(PermissionError):  # elsewhere it means that the user may not
        system.replace(tmp_path / "part", tmp_path / "file")
    monkeypatch.setattr(system, "WINDOWS", True)
    system.replace(tmp_path / "part", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "new" and not refusals
    monkeypatch.setattr(system, "PATIENCE", 0.0)
    refusals[:] = [13] * 100
    with pytest.raises(PermissionError):
        system.replace(tmp_path / "file", tmp_path / "part")


def test_a_private_file_is_the_owners_alone(tmp_path):
    system.write_private(tmp_path / "server.json", "Größe")
    assert (tmp_path / "server.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "server.json").read_text(encoding="utf-8") == "Größe" and len(list(tmp_path.iterdir())) == 1
    # Windows: no inherited rights, and all rights to the owner (a well-known identity, in any language).
    path = PureWindowsPath(r"C:\Users\Jürgen Müller\.server.json")
    assert system.owner_only(path) == ["icacls", str(path), "/inheritance:r", "/grant:r", "*S-1-3-4:F"]


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="the driver itself lists the cards here")
def test_cards_are_counted_where_the_driver_has_no_files(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-1)'\necho 'GPU 1: x'"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert local_process.devices() == ["0", "1"]
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho failed\nexit 9")
    assert local_process.devices() == [""]


def make(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_a_server_is_found_in_a_project_and_in_an_environment(tmp_path, monkeypatch):
    project, environment = tmp_path / "the project", tmp_path / "Umgebung für MSD"
    assert local_server.installation(project) is None
    make(project / "server" / "__main__.py")
    assert local_server.installation(project) is None  # no set-up yet
    make(project / ".venv" / local_server.PYTHON)
    assert local_server.installation(project) == local_server.Installation(
        project, project / ".venv" / local_server.PYTHON
    )
    packages = environment / local_server.PACKAGES.replace("*", ".13")
    make(environment / local_server.PYTHON, packages / "server" / "__main__.py")
    found = local_server.Installation(packages, environment / local_server.PYTHON)
    assert local_server.installation(environment) == found
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    make(local_server.data_folder() / local_server.INSTALLATION)
    (local_server.data_folder() / local_server.INSTALLATION).write_text(f"{environment}\n", encoding="utf-8")
    assert found in local_server.installations()


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_a_device_that_is_not_here_is_refused_in_one_sentence(device):
    from server.optimize.device import choose_device

    with pytest.raises(
        ValueError, match=r"There is no (Apple|Intel) device here: choose the device (cuda or )?cpu, or auto\."
    ):
        choose_device(device)


def test_auto_takes_the_first_device_that_is_here(monkeypatch):
    from server.optimize.device import choose_device

    here = {"cuda": False, "mps": True, "xpu": True}
    for name in here:
        place = "torch.backends.mps" if name == "mps" else f"torch.{name}"
        monkeypatch.setattr(f"{place}.is_available", lambda name=name: here[name])
    assert choose_device("auto").type == "mps" and choose_device("cpu").type == "cpu"
    here["mps"] = False
    assert choose_device("auto").type == "xpu" and choose_device("xpu").type == "xpu"
    here["cuda"] = True
    assert choose_device("auto").type == "cuda"


def test_a_terminal_is_opened_on_each_platform(tmp_path):
    command = [r"C:\Müller & Sohn\python.exe", "-m", "server", "serve", "--data", r"D:\my jobs"]
    nothing = {}.get
    line = local_server.in_terminal(command, Path("x"), "win32", nothing)
    assert line == r'cmd /s /k ""C:\Müller & Sohn\python.exe" -m server serve --data "D:\my jobs""'
    folder, program = tmp_path / 'it\'s "here"', [sys.executable, "-c", "print('a & b  c')"]
    apples = local_server.in_terminal(program, folder, "darwin", nothing)
    assert apples[:2] == ["osascript", "-e"] and apples[2].startswith('tell application "Terminal" to do script "cd ')
    folder.mkdir()
    name, option, *rest = local_server.in_terminal(program, folder, "linux", {"konsole": "/usr/bin/konsole"}.get)
    assert (name, option) == ("konsole", "-e")
    done = subprocess.run([*rest[:-1], rest[-1].replace("; exec sh", "; pwd")], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["a & b  c", str(folder)]
    with pytest.raises(local_server.ClientError, match="no terminal program here; run this in one: cd "):
        local_server.in_terminal(program, folder, "linux", nothing)
