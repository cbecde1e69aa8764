# SPDX-License-Identifier: GPL-3.0-or-later
"""Hash the results of short jobs on the CPU and the steps of every guidance, to hold a change to the same bytes.

Run it in the root of each of two checkouts, on one machine (five minutes each):

    .venv/bin/python scripts/same_bytes.py --output before.json
    .venv/bin/python scripts/same_bytes.py --output after.json --against before.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, os.getcwd())  # the checkout's own server, wherever this file is

import numpy as np  # noqa: E402
import torch  # noqa: E402
import trimesh  # noqa: E402
from PIL import Image  # noqa: E402

from server.__main__ import main as server  # noqa: E402
from server.guidance import Adaptive, create  # noqa: E402

PROMPTS = (
    "a pink bear",
    "a blue chair",
    "a red mushroom",
    "a striped green mug",
    "a wooden table",
    "a yellow rocket",
    "a purple castle",
    "a white donut",
)
GUIDANCES: list[tuple[str, dict[str, object]]] = [
    ("msd", {}),
    *(("msd", {"estimator": name}) for name in ("tweedie", "paper", "added")),
    ("msd", {"bandwidth": Adaptive(1.0, 0.1)}),
    ("sds", {}),
    ("sds", {"anneal": True}),
    ("sdi", {}),
    ("sdi", {"anneal": False}),
    ("vsd", {"updates": 2}),
]


def jobs(work: Path) -> dict[str, list[str]]:
    """Command lines by name, of every mode and guidance; their meshes are made in `work`."""
    trimesh.creation.icosphere(3, 0.7).export(work / "ball.obj")
    box = trimesh.creation.box((1, 0.6, 0.8)).subdivide().subdivide()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
    box.visual = trimesh.visual.TextureVisuals(box.vertices[:, :2] * 0.4 + 0.5, material=material)
    box.export(work / "box.glb")
    ball, crate = ["--input", str(work / "ball.obj")], ["--input", str(work / "box.glb")]
    short, maps = ["--iterations", "24"], ["--maps", "roughness", "metallic", "normal"]
    made = {
        f"generate {i}": ["generate", prompt, "--iterations", "30", "--seed", str(i)]
        for i, prompt in enumerate(PROMPTS)
    }
    made |= {name: ["generate", "a blue chair", *short, "--guidance", name] for name in ("sds", "sdi", "vsd")}
    made |= {
        "maps": ["generate", "a red car", *short, *maps, "--flat", "--symmetry", "x", "--target-faces", "500"],
        "texture ball": ["texture", "a striped ball", *ball, *short, "--texture-size", "128"],
        "texture box": ["texture", "a wooden crate", *crate, *short, *maps, "--negative-prompt", "metal"],
        "refine ball": ["refine", "an old apple", *ball, *short, "--max-displacement", "0.1", "--symmetry", "x"],
        "refine box": ["refine", "a castle", *crate, *short, "--guidance", "sds"],
        "refine, remeshed": ["refine", "a castle", *crate, *short, "--remesh", "--target-faces", "400", *maps],
    }
    return made


class TwoModes:
    """A density of two modes, through a denoiser in closed form."""

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, condition: object = None) -> torch.Tensor:
        level = sigma.view(-1, *[1] * (x.ndim - 1))
        return torch.tanh(x / (1 + level * level)) * 1.3


def steps(name: str, settings: dict[str, object]) -> str:
    """The hash of six steps of a guidance."""
    guidance, generator = create(name, **settings), torch.Generator().manual_seed(1)
    x, digest = torch.randn(3, 4, 5, generator=generator), hashlib.sha256()
    for i in range(6):
        step = guidance.step(TwoModes(), x, None, i / 6, generator)
        x = x - 0.2 * step.gradient
        digest.update(x.numpy().tobytes() + str((step.denoiser_calls, step.bandwidth)).encode())
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--against", type=Path, metavar="FILE.json")
    given = parser.parse_args()
    hashes: dict[str, object] = {f"steps {i} {name}": steps(name, each) for i, (name, each) in enumerate(GUIDANCES)}
    with tempfile.TemporaryDirectory() as work:
        for name, arguments in jobs(Path(work)).items():
            folder = Path(work) / name
            code = server([*arguments, "--output", str(folder), "--device", "cpu", "--rasterizer", "cpu"])
            assert code == 0, name
            files = [path for path in sorted(folder.iterdir()) if path.name != "job.json"]  # which has times
            hashes[name] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    given.output.write_text(json.dumps(hashes, indent=1) + "\n")
    if given.against is None:
        return 0
    before = json.loads(given.against.read_text())
    different = [name for name in hashes if before.get(name) != hashes[name]]
    print(f"{len(hashes)} results compared, {len(different)} differ: {', '.join(different) or 'none'}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
