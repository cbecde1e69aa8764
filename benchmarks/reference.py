# SPDX-License-Identifier: GPL-3.0-or-later
"""Images and gradients of each rasterizer operation on a small scene, to compare rasterizers.

On a machine with CUDA and nvdiffrast this stores nvdiffrast's arrays, as test data for machines without:

    python -m benchmarks.reference --output tests/rendering/nvdiffrast.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from server.rendering import rasterize
from server.rendering.rasterize import Rasterizer

SIZE = 64


def record(rasterizer: Rasterizer, device: str) -> dict[str, np.ndarray]:
    """Outputs by name, and the gradient of each to each of its inputs, all float32.

    Two large triangles in perspective, one before the other, with UVs that magnify and minify a texture of 32 texels.
    """
    generator = torch.Generator().manual_seed(0)
    clip = torch.tensor(
        [
            [-0.83, -0.71, 0.1, 1.0],
            [0.87, -0.62, 0.2, 1.0],
            [0.05, 0.79, 0.15, 1.0],
            [-0.41, -0.93, 0.5, 1.0],
            [0.96, 0.11, 0.6, 1.0],
            [-0.67, 0.83, 0.55, 1.0],
        ]
    )
    clip = clip[None] * (1 + torch.rand(1, 6, 1, generator=generator))
    uvs = 3 * torch.rand(1, 6, 2, generator=generator)
    texture, weight = torch.rand(1, 32, 32, 3, generator=generator), torch.rand(1, SIZE, SIZE, 3, generator=generator)
    clip, uvs, texture, weight = (each.to(device) for each in (clip, uvs, texture, weight))
    faces = torch.arange(6, dtype=torch.int32, device=device).view(2, 3)
    leaves = {"clip": clip.requires_grad_(), "uvs": uvs.requires_grad_(), "texture": texture.requires_grad_()}

    rast = rasterizer.rasterize(clip, faces, (SIZE, SIZE))
    uv = rasterizer.interpolate(uvs, rast, faces)
    footprint = rasterizer.footprint(uvs, rast, faces, clip, faces)
    pictures = {
        "uv": uv,
        "wrapped": rasterizer.texture(texture, uv),
        "clamped": rasterizer.texture(texture, uv, boundary="clamp"),
        "mipmapped": rasterizer.texture(texture, uv, footprint),
    }
    seen = (pictures["mipmapped"] * (rast[..., 3:] > 0)).detach()
    pictures["antialiased"] = rasterizer.antialias(seen.contiguous(), rast, clip, faces)
    arrays = {"rast": rast, "footprint": footprint, **pictures}
    for name, picture in pictures.items():
        loss = (picture * weight[..., : picture.shape[-1]]).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
        arrays |= {f"{name} to {leaf}": each for leaf, each in zip(leaves, gradients) if each is not None}
    return {name: each.detach().cpu().numpy() for name, each in arrays.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    np.savez_compressed(output, **record(rasterize.create("nvdiffrast", "cuda"), "cuda"))


if __name__ == "__main__":
    main()
