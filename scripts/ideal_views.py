# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the experiment of ideal views on Blender's monkey and on meshes that packages ship: what texture mode keeps.

``python scripts/ideal_views.py OUT [--resolution 256] [--texture-size 1024] [--iterations N] [WORD…]`` fetches the
packages into out/meshes, as `scripts/meshes.py` does, and prints a table, with the meshes whose names have a WORD.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from mesh_packages import fetch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from server.geometry.files import save  # noqa: E402
from server.geometry.mesh import Mesh  # noqa: E402

THREEBOX, PYVISTA = ("npm", "threebox-plugin", "2.2.7"), ("pip", "pyvista", "0.49.1")
MODELS = "package/examples/models/"
MESHES = {
    "elephant": (THREEBOX, MODELS + "history/elephant.glb"),
    "space needle": (THREEBOX, MODELS + "landmarks/spaceneedle.glb"),
    "truck": (THREEBOX, MODELS + "vehicles/truck.glb"),
    "ant": (PYVISTA, "pyvista/examples/ant.ply"),
    "nut": (PYVISTA, "pyvista/examples/nut.ply"),
    "airplane": (PYVISTA, "pyvista/examples/airplane.ply"),
}


def mesh_file(name: str, folder: Path) -> Path:
    """The file of a mesh, fetched or made if it is missing."""
    if name != "Suzanne":
        package, path = MESHES[name]
        return fetch(*package, ROOT / "out" / "meshes") / path
    path = folder / "suzanne.glb"
    if not path.exists():
        arrays = folder / "suzanne.npz"
        subprocess.run([sys.executable, ROOT / "scripts" / "suzanne.py", arrays], check=True)
        read = np.load(arrays)
        save(Mesh(read["positions"], read["faces"], uvs=read["uvs"]), path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--resolution", default="256")
    parser.add_argument("--texture-size", default="1024")
    parser.add_argument("--iterations")
    given = parser.parse_intermixed_args()
    given.output.mkdir(parents=True, exist_ok=True)
    (ROOT / "out" / "meshes").mkdir(parents=True, exist_ok=True)
    rows = []
    for name in ("Suzanne", *MESHES):
        if given.words and not any(word in name for word in given.words):
            continue
        folder = given.output / name
        options = ["--resolution", given.resolution, "--texture-size", given.texture_size]
        options += ["--iterations", given.iterations] if given.iterations else []
        options += [] if name == "Suzanne" else ["--new-uvs"]
        if not (folder / "table.json").exists():
            command = [sys.executable, "-m", "server.experiments", "ideal-views", "--output", str(folder)]
            mesh = str(mesh_file(name, given.output))
            subprocess.run([*command, "--mesh", mesh, *options], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        result, *true = json.loads((folder / "table.json").read_text())["Views"]
        cells = [f"{each['PSNR, dB']:.1f}, {each['SSIM']:.3f}" for each in (result, *true)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    print("\n| | result: PSNR in dB, SSIM | the true texture at 1/2 | at 1/4 | at 1/8 |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
