# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds and validates the extension's zip with Blender's own builder: ``python scripts/extension.py dist``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import bpy

ROOT = Path(__file__).resolve().parents[1]
BUILDER = Path(bpy.utils.system_resource("SCRIPTS"), "addons_core", "bl_pkg", "cli", "blender_ext.py")


def build(folder: Path) -> Path:
    """The zip, made in `folder`. Raises `subprocess.CalledProcessError` where the builder finds a fault."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as stage:
        # The builder wants the manifest beside __init__.py; from there the package could not be imported by
        # its name in the repository, so the two meet in a folder of their own.
        shutil.copytree(ROOT / "msd_blender", stage, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        for name in ("blender_manifest.toml", "LICENSE"):
            shutil.copy(ROOT / name, stage)
        _run("build", "--source-dir", stage, "--output-dir", str(folder))
    made = max(folder.glob("msd_blender-*.zip"), key=lambda path: path.stat().st_mtime)
    _run("validate", str(made))
    return made


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, str(BUILDER), *arguments], check=True)


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
