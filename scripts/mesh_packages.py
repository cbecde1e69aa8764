# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch the packages on npm and PyPI whose sample files `scripts/meshes.py` reads."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".usd", ".usda", ".usdc")
LIMIT = 220_000  # bytes of a file
# (npm or pip, package, version, its files to use)
PACKAGES = (
    (
        "npm",
        "@webxr-input-profiles/assets",
        "1.0.20",
        [
            f"package/dist/profiles/{name}.glb"
            for name in (
                "generic-hand/left",
                "generic-fixed-hand/right",
                "pico-neo3/left",
                "pico-neo2/right",
                "pico-4u/left",
                "meta-quest-touch-plus/left",
                "meta-quest-touch-pro/left",
                "oculus-go/none",
                "logitech-mx-ink/none",
                "pico-g2/none",
                "oculus-touch-v2/left",
                "htc-vive-focus-3/left",
                "magicleap-one/none",
                "samsung-gearvr/none",
            )
        ],
    ),
    ("npm", "threebox-plugin", "2.2.7", ["package/examples/models/**/*"]),
    ("npm", "assimpjs", "0.0.10", ["package/examples/testfiles/*"]),
    (
        "pip",
        "newton",
        "1.8.0",
        [
            "newton/examples/assets/*",
            "newton/tests/assets/negative_scale_*",
            "newton/tests/assets/mpm_*",
            "newton/tests/assets/tetmesh_multi*",
            "newton/tests/assets/cube_*",
            "newton/tests/assets/simple_*",
            "newton/tests/assets/deformables_*",
            "newton/tests/assets/kamino/testing/geoms/*_box*",
        ],
    ),
    (
        "pip",
        "genesis-world",
        "1.4.5",
        [
            "genesis/assets/meshes/**/*",
            "genesis/assets/tower/b*",
            "genesis/assets/tower/ring_01*",
            "genesis/assets/urdf/3763/point_sample/*",
            "genesis/assets/urdf/3763/textured_objs/*",
            "genesis/assets/urdf/drones/propeller0*",
            "genesis/assets/urdf/kuka_iiwa/meshes/link_0*",
            "genesis/assets/urdf/panda_bullet/meshes/*/[fh]*",
            "genesis/assets/urdf/plane/*",
            "genesis/assets/urdf/wheel/*",
            "genesis/assets/xml/*.obj",
            "genesis/assets/xml/franka_emika_panda/assets/hand_*",
        ],
    ),
    ("pip", "pyvista", "0.49.1", ["pyvista/examples/*"]),
    ("pip sources", "meshio", "5.3.5", ["meshio-5.3.5/tests/meshes/**/*"]),
)


def fetch(kind: str, name: str, version: str, top: Path) -> Path:
    """The folder below `top` with a package's files; fetches and unpacks it if it is missing."""
    folder = top / re.sub(r"\W+", "-", f"{name}-{version}").strip("-")
    if folder.exists():
        return folder
    print(f"fetching {name} {version}", flush=True)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if kind == "npm":
        subprocess.run(
            ["npm", "pack", "--silent", f"{name}@{version}"], cwd=part, check=True, stdout=subprocess.DEVNULL
        )
    else:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                *(["--no-binary", ":all:"] if kind == "pip sources" else []),
                f"{name}=={version}",
            ],
            cwd=part,
            check=True,
        )
    (archive,) = part.iterdir()
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(part)
    else:
        with tarfile.open(archive) as packed:
            packed.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
            packed.extractall(part)
    archive.unlink()
    part.rename(folder)
    return folder


def chosen(top: Path) -> Iterator[tuple[str, Path, Path]]:
    """(package and version, its folder below `top`, the file) of all sample files."""
    for kind, name, version, patterns in PACKAGES:
        folder = fetch(kind, name, version, top)
        files = {
            path
            for pattern in patterns
            for path in folder.glob(pattern)
            if path.suffix.lower() in SUFFIXES and path.stat().st_size <= LIMIT
        }
        for path in sorted(files):
            yield f"{name} {version}", folder, path
