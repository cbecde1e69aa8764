# SPDX-License-Identifier: GPL-3.0-or-later
"""A mesh with vertex colours, seen by a batch of cameras."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import cameras as camera
from .cameras import Cameras
from .rasterize import Rasterizer
from .shading import Lights


def vertex_normals(positions: Tensor, faces: Tensor) -> Tensor:
    """(V, 3) unit normals, each the area-weighted mean of its faces'."""
    index = faces.long()
    corners = positions[index]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = torch.zeros_like(positions).index_add(0, index.T.reshape(-1), normals.repeat(3, 1))
    return F.normalize(total, dim=1, eps=1e-12)


def render(rasterizer: Rasterizer, positions: Tensor, faces: Tensor, colours: Tensor, cameras: Cameras,
           lights: Lights, backgrounds: Tensor, resolution: int) -> Tensor:
    """(B, resolution, resolution, 3) sRGB in [0, 1], bottom row first.

    Args:
        positions, faces, colours: (V, 3) metres, (F, 3) int32, (V, 3) sRGB in [0, 1].
        backgrounds: (B, 3) sRGB.
    """
    size = resolution * rasterizer.supersample
    clip = cameras.clip(positions).contiguous()
    rast = rasterizer.rasterize(clip, faces, (size, size))
    attributes = torch.cat([colours, vertex_normals(positions, faces)], dim=1)[None].contiguous()
    pixels = rasterizer.interpolate(attributes, rast, faces)
    shaded = lights.shade(pixels[..., :3], F.normalize(pixels[..., 3:], dim=-1, eps=1e-6))
    picture = torch.where(rast[..., 3:] > 0, shaded, backgrounds[:, None, None])
    picture = rasterizer.antialias(picture.contiguous(), rast, clip, faces)
    if rasterizer.supersample > 1:
        picture = F.avg_pool2d(picture.movedim(-1, 1), rasterizer.supersample).movedim(1, -1)
    return picture


@torch.no_grad()
def turntable(rasterizer: Rasterizer, positions: np.ndarray, faces: np.ndarray, colours: np.ndarray,
              device: str | torch.device = "cpu", views: int = 8, size: int = 160) -> np.ndarray:
    """(size, views * size, 3) uint8, top row first: the mesh (colours uint8 sRGB), centred, seen all round."""
    place = torch.from_numpy(positions).to(device)
    if len(place):
        place = place - (place.amax(dim=0) + place.amin(dim=0)) / 2
    cams = camera.orbit(views, device=device)
    pictures = render(rasterizer, place, torch.from_numpy(faces).to(device),
                      torch.from_numpy(colours).to(device) / 255, cams, Lights.headlight(cams),
                      torch.full((views, 3), 0.75, device=device), 2 * size)
    pictures = F.avg_pool2d(pictures.movedim(-1, 1), 2).flip(2)
    return (255 * torch.cat(list(pictures), dim=2)).round().byte().movedim(0, -1).cpu().numpy()
