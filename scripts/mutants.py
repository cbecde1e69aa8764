# SPDX-License-Identifier: GPL-3.0-or-later
"""Put one wrong sign or factor into each formula, in a copy, and check that the tests fail.

python scripts/mutants.py          # a line for each; exit 1 if one survives
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MUTANTS = [  # formula, file, right, wrong, tests
    (
        "product posterior: mean",
        "server/guidance/product.py",
        "sharper * x + blunter * z if",
        "sharper * x - blunter * z if",
        "guidance",
    ),
    ("product posterior: level", "server/guidance/product.py", "low * math.sqrt(sharper)", "low * sharper", "guidance"),
    ("kernel's force, integrated", "server/guidance/product.py", "(high + low) / 2)", "(high + low))", "guidance"),
    (
        "kernel, diffused",
        "server/guidance/product.py",
        "force / (1 + ratio * ratio)",
        "force / (1 + ratio)",
        "guidance",
    ),
    (
        "mean shift: the reverse process",
        "server/guidance/msd.py",
        "z = target + (z - target) * (levels[i + 1] / sigma)",
        "z = target + (z - target) * (sigma / levels[i + 1])",
        "guidance",
    ),
    ("mean shift: sign", "server/guidance/msd.py", "gradient=(x - target)", "gradient=(target - x)", "guidance"),
    ("mean shift: default stop", "server/guidance/msd.py", "STOP = 4.0", "STOP = 1.0", "guidance"),
    ("SDS", "server/guidance/sds.py", "gradient=(x - target)", "gradient=(target - x)", "guidance"),
    (
        "SDI: DDIM inversion",
        "server/guidance/sdi.py",
        "append_dims(higher / level, z)",
        "append_dims(level / higher, z)",
        "guidance",
    ),
    (
        "SDI: inversion without guidance",
        "server/guidance/sdi.py",
        "flow = without_cfg(condition)",
        "flow = condition",
        "guidance",
    ),
    (
        "VSD: sign",
        "server/guidance/vsd.py",
        "gradient = student.denoise(noisy, sigma, condition) - prior.denoise(noisy, sigma, condition)",
        "gradient = prior.denoise(noisy, sigma, condition) - student.denoise(noisy, sigma, condition)",
        "guidance",
    ),
    (
        "VSD: the student's data",
        "server/guidance/vsd.py",
        "sigma.flatten(), condition) - x",
        "sigma.flatten(), condition) - noisy",
        "guidance",
    ),
    (
        "geometric schedule",
        "server/guidance/bandwidth.py",
        "self.start ** (1 - t) * self.end**t",
        "self.start**t * self.end ** (1 - t)",
        "guidance",
    ),
    (
        "Karras's noise levels",
        "server/priors/base.py",
        "sigma_max ** (1 / rho), sigma_min ** (1 / rho)",
        "sigma_max ** (1 / 5), sigma_min ** (1 / 5)",
        "priors guidance",
    ),
    (
        "DDIM",
        "server/priors/sampling.py",
        "clean + (x - clean) * (lower / sigma)",
        "clean + (x - clean) * (lower / sigma) ** 2",
        "priors",
    ),
    (
        "variance preserving to exploding: input",
        "server/priors/noise_models.py",
        "return (1 + sigma**2).rsqrt()",
        "return (1 + sigma).rsqrt()",
        "priors",
    ),
    (
        "variance preserving to exploding: levels",
        "server/priors/noise_models.py",
        "((1 - abar) / abar).log() / 2",
        "((1 - abar) / abar).log()",
        "priors",
    ),
    (
        "epsilon prediction",
        "server/priors/noise_models.py",
        "return x - sigma * output",
        "return x + sigma * output",
        "priors",
    ),
    (
        "v prediction",
        "server/priors/noise_models.py",
        "x * scale**2 - sigma * scale * output",
        "x * scale - sigma * scale * output",
        "priors",
    ),
    (
        "rectified flow",
        "server/priors/noise_models.py",
        "(x - sigma * output) / (1 + sigma)",
        "(x - sigma * output) / (1 + sigma**2)",
        "priors",
    ),
    (
        "classifier-free guidance",
        "server/priors/families/diffusers_prior.py",
        "negative + condition.guidance_scale * (positive - negative)",
        "positive + condition.guidance_scale * (positive - negative)",
        "priors",
    ),
    (
        "a mixture's denoiser",
        "server/experiments/densities.py",
        "share @ ((1 - keep).T * means)",
        "share @ (keep.T * means)",
        "experiments/test_densities.py",
    ),
    (
        "a mixture's smoothed density",
        "server/experiments/densities.py",
        "+ bandwidth**2",
        "+ bandwidth",
        "experiments/test_densities.py",
    ),
    (
        "SDS's landscape",
        "server/experiments/landscapes.py",
        "total -= sigma**2 *",
        "total -= sigma *",
        "experiments/test_experiments.py::test_the_landscape_of_sds_is_what_it_descends",
    ),
    (
        "MSD's landscape",
        "server/experiments/landscapes.py",
        "return -(bandwidth**2) *",
        "return -bandwidth *",
        "experiments/test_experiments.py::test_the_landscape_of_sds_is_what_it_descends",
    ),
    (
        "barycentrics: gradient",
        "server/rendering/rasterize/kernels.py",
        "mean = gu * u + gv * v",
        "mean = gu * v + gv * u",
        "rendering/test_gradients.py rendering/test_rasterize.py",
    ),
    (
        "interpolation: gradient",
        "server/rendering/rasterize/kernels.py",
        "grad_attributes[s, k, c] += g * (1 - u - v)",
        "grad_attributes[s, k, c] += g * (1 - u + v)",
        "rendering/test_gradients.py rendering/test_rasterize.py",
    ),
    (
        "antialiasing: gradient",
        "server/rendering/rasterize/kernels.py",
        "gsi, gsj = g * slope * (1 - r), g * slope * r",
        "gsi, gsj = g * slope * r, g * slope * (1 - r)",
        "rendering/test_gradients.py rendering/test_rasterize.py",
    ),
    (
        "footprint: quotient rule",
        "server/rendering/rasterize/texture.py",
        "(e0[0] - u * sx) * px",
        "(e0[0] + u * sx) * px",
        "rendering/test_texture_sampling.py",
    ),
    (
        "footprint: pixels",
        "server/rendering/rasterize/texture.py",
        "2 / (height * total)",
        "2 / (width * total)",
        "rendering/test_texture_sampling.py",
    ),
    (
        "mipmaps: level",
        "server/rendering/rasterize/texture.py",
        "0.5 * math.log2(longest)",
        "math.log2(longest)",
        "rendering/test_texture_sampling.py",
    ),
    (
        "mipmaps: gradient",
        "server/rendering/rasterize/texture.py",
        "g = 0.25 * grad",
        "g = 0.5 * grad",
        "rendering/test_texture_sampling.py",
    ),
    (
        "texture: texel centres",
        "server/rendering/rasterize/texture.py",
        "place = coordinate * edge - 0.5",
        "place = coordinate * edge",
        "rendering/test_texture_sampling.py",
    ),
    (
        "texture: gradient to uv",
        "server/rendering/rasterize/texture.py",
        "gx * columns * slope_x",
        "gx * rows * slope_x",
        "rendering/test_texture_sampling.py",
    ),
    (
        "Warp: gradient of barycentrics",
        "server/rendering/rasterize/warp_kernels.py",
        "mean = gu * n0 / total + gv * n1 / total",
        "mean = gu * n1 / total + gv * n0 / total",
        "rendering/test_warp.py",
    ),
    (
        "Warp: gradient of antialiasing",
        "server/rendering/rasterize/warp_kernels.py",
        "gi * ((ONE - r) / pi[2])",
        "gi * (r / pi[2])",
        "rendering/test_warp.py",
    ),
    (
        "Warp: gradient of mipmaps",
        "server/rendering/rasterize/warp_kernels.py",
        "g = real(0.25) * grad",
        "g = real(0.5) * grad",
        "rendering/test_warp.py",
    ),
    (
        "Warp: tiles of a large triangle",
        "server/rendering/rasterize/warp_kernels.py",
        "place // columns * TILE",
        "place % columns * TILE",
        "rendering/test_warp.py",
    ),
    (
        "GGX: width",
        "server/rendering/shading.py",
        "alpha, k = roughness.square(), ",
        "alpha, k = roughness, ",
        "rendering/test_textures.py",
    ),
    (
        "GGX: shadowing",
        "server/rendering/shading.py",
        "roughness.square() / 2",
        "roughness.square() / 8",
        "rendering/test_textures.py",
    ),
    (
        "sky: Lambert",
        "server/rendering/shading.py",
        "sky.view(*shape, 3)).sum(dim=-1) * (2 / 3)",
        "sky.view(*shape, 3)).sum(dim=-1) * (1 / 3)",
        "rendering/test_textures.py",
    ),
    (
        "tangents",
        "server/rendering/textures.py",
        "p[:, 0] * t[:, 1, 1:] - p[:, 1]",
        "p[:, 0] * t[:, 1, 1:] + p[:, 1]",
        "rendering/test_textures.py",
    ),
    (
        "bitangents of mirrored UVs",
        "server/rendering/textures.py",
        "bitangent = handedness * ",
        "bitangent = 1 * ",
        "rendering/test_textures.py",
    ),
    (
        "distance by field of view",
        "server/rendering/cameras.py",
        "/ math.sin(math.radians(field_of_view / 2))",
        "/ math.tan(math.radians(field_of_view / 2))",
        "rendering/test_textures.py",
    ),
    (
        "turns of placed views",
        "server/rendering/cameras.py",
        "turn = (begin + order // 2) % len(placed)",
        "turn = (order // 2) % len(placed)",
        "rendering/test_placed_cameras.py",
    ),
    (
        "prompts of placed cameras",
        "server/optimize/loop.py",
        "[texts[number] for number in drawn.placed.tolist()]",
        "[texts[number + 1 - len(texts)] for number in drawn.placed.tolist()]",
        "optimize/test_placed_cameras.py",
    ),
]


def caught(root: Path, tests: str) -> bool:
    paths = [f"tests/{name}" for name in tests.split()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", *paths],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1):
        sys.exit(done.stdout + done.stderr)
    return done.returncode == 1


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "copy"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".*", "out", "dist", "docs"))
        alive = []
        for formula, name, right, wrong, tests in MUTANTS:
            path = root / name
            text = path.read_text()
            if text.count(right) != 1:
                sys.exit(f"{name} contains {right!r} {text.count(right)} times instead of once: correct this list.")
            path.write_text(text.replace(right, wrong))
            noticed = caught(root, tests)
            path.write_text(text)
            print(f"{'caught' if noticed else 'SURVIVED':9} {formula}", flush=True)
            alive += [] if noticed else [formula]
    if alive:
        sys.exit(f"No test noticed: {', '.join(alive)}.")


if __name__ == "__main__":
    main()
