# SPDX-License-Identifier: GPL-3.0-or-later
"""Differentiable images of a mesh with vertex colours or textures, seen by a batch of cameras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from msd_blender.protocol import METALLIC, ROUGHNESS

from .cameras import Cameras, orbit
from .normals import face_normals, vertex_normals
from .rasterize import Rasterizer
from .shading import Lights
from .textures import UVTextures

TURNTABLE_BACKGROUND = 0.75  # sRGB grey, behind previews too
TURNTABLE_VIEWS = 8


def render(
    rasterizer: Rasterizer,
    positions: Tensor,
    faces: Tensor,
    colours: Tensor | UVTextures,
    cameras: Cameras,
    lights: Lights,
    backgrounds: Tensor,
    resolution: int,
    flat: bool = False,
) -> Tensor:
    """(B, resolution, resolution, 3) sRGB in [0, 1], bottom row first.

    Args:
        positions, faces: (V, 3) metres, (F, 3) int32.
        colours: (V, 3) sRGB in [0, 1], or textures. Textures with any map besides base colour are shaded by
            `Lights.shade_physically`, all else by `Lights.shade`.
        backgrounds: (B, 3) sRGB.
        flat: shade with the faces' normals instead of smooth ones.
    """
    clip = cameras.clip(positions)
    rast = rasterizer.rasterize(clip, faces, (resolution, resolution))
    if isinstance(colours, UVTextures):
        base, roughness, metallic, normal_map = colours.sample(rasterizer, rast, clip, faces)
        assert base is not None
        normals = _normals(rasterizer, positions, rast, faces, flat)
        if normal_map is not None:
            normals = colours.apply_normal_map(normals, normal_map, rasterizer, positions, rast, faces)
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
    composed = torch.where(rast[..., 3:] > 0, lit, backgrounds[:, None, None])
    return rasterizer.antialias(composed, rast, clip, faces)


def _normals(rasterizer: Rasterizer, positions: Tensor, rast: Tensor, faces: Tensor, flat: bool) -> Tensor:
    """(B, H, W, 3) unit normals, 0 where nothing is."""
    if flat:
        corners = torch.arange(3 * len(faces), dtype=torch.int32, device=faces.device).view(-1, 3)
        attributes = face_normals(positions, faces).repeat_interleave(3, dim=0)
    else:
        corners, attributes = faces, vertex_normals(positions, faces)
    return F.normalize(rasterizer.interpolate(attributes[None], rast, corners), dim=-1, eps=1e-6)


@torch.no_grad()
def depth_and_normals(
    rasterizer: Rasterizer, positions: Tensor, faces: Tensor, cameras: Cameras, resolution: int, flat: bool = False
) -> tuple[Tensor, Tensor]:
    """The visible surface at the pixels' centres, bottom row first.

    Returns:
        Depths (B, H, W), metres along the view, inf where nothing is; unit normals (B, H, W, 3) in the cameras' axes
        (right, up, backward), on the side that is seen, 0 where nothing is. positions, faces: (V, 3) metres, (F, 3).
    """
    clip = cameras.clip(positions)
    rast = rasterizer.rasterize(clip, faces, (resolution, resolution))
    depth = rasterizer.interpolate(clip[..., 3:].contiguous(), rast, faces)[..., 0]
    normals = _normals(rasterizer, positions, rast, faces, flat)
    corners = clip[:, faces.long()][..., [0, 1, 3]]  # their determinant's sign is the winding (Olano & Greer 1997)
    face = (rast[..., 3].long() - 1).clamp(min=0)
    side = torch.linalg.det(corners).sign()[torch.arange(len(clip), device=clip.device)[:, None, None], face]
    rotation = torch.stack(cameras.axes(), dim=1).to(normals.dtype)
    normals = torch.einsum("bij,bhwj->bhwi", rotation, normals * side[..., None])
    return torch.where(rast[..., 3] > 0, depth, torch.inf), normals


@torch.no_grad()
def turntable(
    rasterizer: Rasterizer,
    positions: np.ndarray,
    faces: np.ndarray,
    colours: np.ndarray | UVTextures,
    device: str | torch.device = "cpu",
    views: int = TURNTABLE_VIEWS,
    size: int = 160,
    flat: bool = False,
) -> np.ndarray:
    """(size, views * size, 3) uint8 sRGB, top row first: the mesh, centred, from evenly spaced views side by side.

    Args:
        positions, faces: (V, 3) float32 metres, (F, 3) int32.
        colours: (V, 3) uint8 sRGB, or textures on the device.
        size: edge of a view in pixels; it is drawn at twice that and averaged.
    """
    centred = torch.from_numpy(positions).to(device)
    if len(centred):
        centred = centred - (centred.amax(dim=0) + centred.amin(dim=0)) / 2
    cameras = orbit(views, device=device)
    appearance = colours if isinstance(colours, UVTextures) else torch.from_numpy(colours).to(device) / 255
    images = render(
        rasterizer,
        centred,
        torch.from_numpy(faces).to(device),
        appearance,
        cameras,
        Lights.headlight(cameras),
        torch.full((views, 3), TURNTABLE_BACKGROUND, device=device),
        2 * size,
        flat,
    )
    images = F.avg_pool2d(images.movedim(-1, 1), 2).flip(2)
    return (255 * torch.cat(list(images), dim=2)).round().byte().movedim(0, -1).cpu().numpy()
