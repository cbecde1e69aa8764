# SPDX-License-Identifier: GPL-3.0-or-later
"""The wheel: everything is in it, and it runs from an environment of its own, in another folder, offline."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from msd_blender import local_server
from msd_blender.client import Client

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An empty environment into which the wheel was installed from its folder, without an index. The packages that it
    needs are those of this environment."""
    pytest.importorskip("torch")
    extras = "server,blender" if sys.version_info[:2] != (3, 12) else "server"
    return installed(tmp_path_factory.mktemp("Umgebung für MSD") / "env", wheel, f"msd_blender[{extras}]")


def installed(folder, wheel, requirement):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob(local_server.PACKAGES)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", folder / local_server.PYTHON]
    subprocess.run([*pip, "install", "-q", "--no-index", "--find-links", wheel.parent, requirement], check=True)
    return folder


def run(environment, folder, command, *arguments):
    """Run a console command of the environment in a folder that has nothing of the project."""
    return subprocess.run(
        [(environment / local_server.PYTHON).parent / command, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_DATA_HOME": str(folder / "data")},
    )


@pytest.mark.slow
def test_the_wheel_has_every_module_and_data_file_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "msd_blender", "server"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert held == {name for name in listed if not name.endswith(".md") and (ROOT / name).is_file()}


def test_the_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").lower()
    for requirement in project["optional-dependencies"]["server"]:
        name = requirement.split(">")[0]
        assert name == "torch" or f"\n{name.replace('-', '_')}==" in lock or f"\n{name}==" in lock, name
    assert project["requires-python"] == ">=3.11,<3.14"


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.long
def test_the_commands_of_the_wheel_work_in_another_folder(environment, tmp_path, request):
    if not request.config.getoption("--long"):
        pytest.skip("takes two minutes: only with --long")
    for command in ("msd", "msd-server"):
        told = run(environment, tmp_path, command, "--help")
        assert told.returncode == 0 and f"usage: {command} " in told.stdout, told.stderr
    examined = run(environment, tmp_path, "msd-server", "doctor", "--port", 0)
    assert examined.returncode == 0 and "bundled model" in examined.stdout, examined.stdout
    made = run(environment, tmp_path, "msd-server", "generate", "a red mushroom", "--output", "out", "--iterations", 3)
    assert made.returncode == 0, made.stderr
    assert json.loads((tmp_path / "out" / "job.json").read_text(encoding="utf-8"))["state"] == "finished"


@pytest.mark.process
@pytest.mark.slow
def test_the_extension_starts_the_server_of_the_wheel(environment, tmp_path):
    found = local_server.installation(environment)
    assert found is not None and found.folder.is_relative_to(environment)
    started = local_server.start(tmp_path, str(found.python), found.folder)
    try:
        with Client(started.url, started.token) as client:
            assert client.models()[0].name
        for name in ("", "page.js", "page.css"):
            with urllib.request.urlopen(f"{started.url}/{name}") as answer:
                assert answer.status == 200 and len(answer.read()) > 100
    finally:
        started.stop()


@pytest.mark.process
@pytest.mark.slow
def test_the_classifier_and_the_headless_client_are_in_the_wheel(environment, tmp_path):
    code = "from server.evaluation.classifier import load_classifier; load_classifier()"
    subprocess.run([environment / local_server.PYTHON, "-c", code], cwd=tmp_path, check=True)
    if sys.version_info[:2] != (3, 12):
        made = run(environment, tmp_path, "msd", "generate", "a cube", "--output", "x.blend", "--iterations", 3)
        assert made.returncode == 0 and (tmp_path / "x.blend").is_file(), made.stderr


def test_the_headless_client_alone_needs_numpy_only(wheel, tmp_path):
    environment = installed(tmp_path / "env", wheel, "msd_blender")
    told = run(environment, tmp_path, "msd", "generate", "--help")
    assert told.returncode == 0 and "usage: msd generate" in told.stdout, told.stderr
    hidden = (
        "import sys; sys.modules['bpy'] = None; from msd_blender.commands import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [environment / local_server.PYTHON, "-c", hidden, "generate", "a red mushroom", "--output", "x.blend"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    assert "This Python has no bpy, which writes .blend files: use Python 3.11 or 3.13" in refused.stderr


@pytest.mark.long
def test_a_wheel_is_installed_whole_from_a_folder_of_wheels(wheel, tmp_path, request):
    """A studio's case, with nothing of this environment: downloads 1 GB into the folder, then cuts the network."""
    if not request.config.getoption("--long"):
        pytest.skip("downloads a gigabyte: with --long")
    shutil.copy(wheel, tmp_path)
    torch = f"torch=={version('torch')}"
    lock = ROOT / "requirements.lock"
    command = [sys.executable, "-m", "pip", "download", "-q", "-d", tmp_path, "-c", lock, torch, f"{wheel}[server]"]
    subprocess.run(command, check=True)
    folder = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / local_server.PYTHON
    install = [python, "-m", "pip", "install", "-q", "--no-index", "--find-links", tmp_path, "msd_blender[server]"]
    subprocess.run(["unshare", "--map-root-user", "--net", *install], check=True)
    (tmp_path / "elsewhere").mkdir()
    made = run(folder, tmp_path / "elsewhere", "msd-server", "generate", "a cube", "--output", "out", "--iterations", 3)
    assert made.returncode == 0, made.stderr
