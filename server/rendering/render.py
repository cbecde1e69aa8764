# SPDX-License-Identifier: GPL-3.0-or-later
"""A mesh with vertex colours or textures, seen by a batch of cameras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import cameras as camera
from .cameras import Cameras
from .rasterize import Rasterizer
from .shading import Lights
from .textured import METALLIC, ROUGHNESS, Textured

GROUND = 0.75  # sRGB grey behind a turntable and a preview
TURNTABLE_VIEWS = 8


def vertex_normals(positions: Tensor, faces: Tensor) -> Tensor:
    """(V, 3) unit normals, each the area-weighted mean of its faces'."""
    index = faces.long()
    corners = positions[index]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = torch.zeros_like(positions).index_add(0, index.T.reshape(-1), normals.repeat(3, 1))
    return F.normalize(total, dim=1, eps=1e-12)


def face_normals(positions: Tensor, faces: Tensor) -> Tensor:
    """(F, 3) unit normals, 0 where a face has no area."""
    corners = positions[faces.long()]
    return F.normalize(
        torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), dim=1, eps=1e-20
    )


def render(
    rasterizer: Rasterizer,
    positions: Tensor,
    faces: Tensor,
    colours: Tensor | Textured,
    cameras: Cameras,
    lights: Lights,
    backgrounds: Tensor,
    resolution: int,
    flat: bool = False,
) -> Tensor:
    """(B, resolution, resolution, 3) sRGB in [0, 1], bottom row first.

    Args:
        positions, faces: (V, 3) metres, (F, 3) int32.
        colours: (V, 3) sRGB in [0, 1], or textures; with more than base colours they are shaded physically.
        backgrounds: (B, 3) sRGB.
        flat: normals of the faces instead of smooth ones.
    """
    clip = cameras.clip(positions)
    rast = rasterizer.rasterize(clip, faces, (resolution, resolution))
    if isinstance(colours, Textured):
        base, roughness, metallic, bumps = colours.sample(rasterizer, rast, clip, faces)
        assert base is not None
        normals = _normals(rasterizer, positions, rast, faces, flat)
        if bumps is not None:
            normals = colours.bend(normals, bumps, rasterizer, positions, rast, faces)
        buffer = GBuffer(base, normals, roughness, metallic, colours.physical)
    elif flat:
        pixels = rasterizer.interpolate(colours[None], rast, faces)
        buffer = GBuffer(pixels, _normals(rasterizer, positions, rast, faces, flat))
    else:
        attributes = torch.cat([colours, vertex_normals(positions, faces)], dim=1)[None]
        pixels = rasterizer.interpolate(attributes, rast, faces)
        buffer = GBuffer(pixels[..., :3], F.normalize(pixels[..., 3:], dim=-1, eps=1e-6))
    return shade(rasterizer, buffer, positions, rast, clip, faces, cameras, lights, backgrounds)


@dataclass(frozen=True)
class GBuffer:
    """The visible surface, pixel by pixel; anything where nothing is visible.

    physical: shaded with roughness and metallic, whose defaults stand where they are None.
    """

    base: Tensor  # (B, H, W, 3) base colour, sRGB in [0, 1]
    normals: Tensor  # (B, H, W, 3) unit
    roughness: Tensor | None = None  # (B, H, W, 1) in [0, 1]
    metallic: Tensor | None = None  # (B, H, W, 1) in [0, 1]
    physical: bool = False


def shade(
    rasterizer: Rasterizer,
    buffer: GBuffer,
    positions: Tensor,
    rast: Tensor,
    clip: Tensor,
    faces: Tensor,
    cameras: Cameras,
    lights: Lights,
    backgrounds: Tensor,
) -> Tensor:
    """(B, H, W, 3) pictures of a rasterized surface: lit, before its backgrounds (B, 3), with smooth edges.

    positions, faces: (V, 3) and (F, 3), those that `rast` and `clip` are of.
    """
    if buffer.physical:
        point = rasterizer.interpolate(positions[None], rast, faces)
        toward = F.normalize(cameras.position[:, None, None] - point, dim=-1)
        default = torch.full_like(buffer.base[..., :1], ROUGHNESS), torch.full_like(buffer.base[..., :1], METALLIC)
        roughness = default[0] if buffer.roughness is None else buffer.roughness
        metallic = default[1] if buffer.metallic is None else buffer.metallic
        lit = lights.shade_physically(buffer.base, buffer.normals, toward, roughness, metallic)
    else:
        lit = lights.shade(buffer.base, buffer.normals)
    return _finish(rasterizer, lit, rast, clip, faces, backgrounds)


def render_normals(
    rasterizer: Rasterizer,
    positions: Tensor,
    faces: Tensor,
    cameras: Cameras,
    backgrounds: Tensor,
    resolution: int,
    flat: bool = False,
) -> Tensor:
    """Shape without colour or light: the normals in the camera's axes as (n + 1) / 2; otherwise as `render`."""
    clip = cameras.clip(positions)
    rast = rasterizer.rasterize(clip, faces, (resolution, resolution))
    normals = _normals(rasterizer, positions, rast, faces, flat)
    seen = torch.einsum("bhwi,bji->bhwj", normals, torch.stack(cameras.axes(), dim=1).to(normals.dtype))
    return _finish(rasterizer, (seen + 1) / 2, rast, clip, faces, backgrounds)


def _normals(rasterizer: Rasterizer, positions: Tensor, rast: Tensor, faces: Tensor, flat: bool) -> Tensor:
    """(B, H, W, 3) unit normals, 0 where nothing is."""
    if flat:
        corners = torch.arange(3 * len(faces), dtype=torch.int32, device=faces.device).view(-1, 3)
        attributes = face_normals(positions, faces).repeat_interleave(3, dim=0)
    else:
        corners, attributes = faces, vertex_normals(positions, faces)
    return F.normalize(rasterizer.interpolate(attributes[None], rast, corners), dim=-1, eps=1e-6)


def _finish(
    rasterizer: Rasterizer, shaded: Tensor, rast: Tensor, clip: Tensor, faces: Tensor, backgrounds: Tensor
) -> Tensor:
    """The picture before its backgrounds, with smooth edges."""
    picture = torch.where(rast[..., 3:] > 0, shaded, backgrounds[:, None, None])
    return rasterizer.antialias(picture, rast, clip, faces)


@torch.no_grad()
def turntable(
    rasterizer: Rasterizer,
    positions: np.ndarray,
    faces: np.ndarray,
    colours: np.ndarray | Textured,
    device: str | torch.device = "cpu",
    views: int = TURNTABLE_VIEWS,
    size: int = 160,
    flat: bool = False,
) -> np.ndarray:
    """(size, views * size, 3) uint8, top row first: the mesh, centred, seen all round.

    colours: (V, 3) uint8 sRGB, or textures on the device.
    """
    place = torch.from_numpy(positions).to(device)
    if len(place):
        place = place - (place.amax(dim=0) + place.amin(dim=0)) / 2
    cams = camera.orbit(views, device=device)
    look = colours if isinstance(colours, Textured) else torch.from_numpy(colours).to(device) / 255
    pictures = render(
        rasterizer,
        place,
        torch.from_numpy(faces).to(device),
        look,
        cams,
        Lights.headlight(cams),
        torch.full((views, 3), GROUND, device=device),
        2 * size,
        flat,
    )
    pictures = F.avg_pool2d(pictures.movedim(-1, 1), 2).flip(2)
    return (255 * torch.cat(list(pictures), dim=2)).round().byte().movedim(0, -1).cpu().numpy()
