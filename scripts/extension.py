# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds and validates the extension's zip with Blender's own builder, and the listing that makes the folder a
repository of extensions: ``python scripts/extension.py dist``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import bpy

ROOT = Path(__file__).resolve().parents[1]
BUILDER = Path(bpy.utils.system_resource("SCRIPTS"), "addons_core", "bl_pkg", "cli", "blender_ext.py")


def build(folder: Path) -> Path:
    """Build and validate the zip in `folder`, in place of earlier ones, and list it in index.json.

    The same sources give the same bytes. Raises `subprocess.CalledProcessError` if the builder finds a fault.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as stage:
        # The builder needs the manifest beside __init__.py, so both are copied to a temporary folder.
        source, made = Path(stage, "source"), Path(stage, "made")
        shutil.copytree(ROOT / "msd_blender", source, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("blender_manifest.toml", "LICENSE"):
            shutil.copy(ROOT / name, source)
        made.mkdir()
        _run("build", "--source-dir", str(source), "--output-dir", str(made))
        (built,) = made.glob("msd_blender-*.zip")
        for old in folder.glob("msd_blender-*.zip"):
            old.unlink()
        _repack(built, folder / built.name)
    _run("validate", str(folder / built.name))
    _run("server-generate", "--repo-dir", str(folder))
    return folder / built.name


def _repack(built: Path, target: Path) -> None:
    """Write a zip without what differs from one build to the next: times, rights, order and zlib's version."""
    with zipfile.ZipFile(built) as source, zipfile.ZipFile(target, "w") as out:
        for name in sorted(source.namelist()):
            entry = zipfile.ZipInfo(name)  # of 1980, uncompressed
            entry.create_system = 3  # its default is the builder's platform
            entry.external_attr = 0o40755 << 16 | 0x10 if name.endswith("/") else 0o100644 << 16
            out.writestr(entry, source.read(name))


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, str(BUILDER), *arguments], check=True)


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
