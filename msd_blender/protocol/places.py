# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the server keeps its data, which is where a client looks for its address."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath


def data_folder() -> Path:
    """The default data folder of ``msd-server serve``."""
    return Path(user_data_folder(sys.platform, os.environ, str(Path.home())))


def user_data_folder(platform: str, environment: Mapping[str, str], home: str) -> PurePath:
    """The folder for a program's data by the rules of a platform: the XDG base directories on Linux, Apple's file
    system guide, Windows' known folders. platform: as `sys.platform`."""
    if platform == "win32":
        local = environment.get("LOCALAPPDATA")
        return (PureWindowsPath(local) if local else PureWindowsPath(home, "AppData", "Local")) / "msd_blender"
    if platform == "darwin":
        return PurePosixPath(home, "Library", "Application Support", "msd_blender")
    return PurePosixPath(environment.get("XDG_DATA_HOME") or PurePosixPath(home, ".local", "share"), "msd_blender")
