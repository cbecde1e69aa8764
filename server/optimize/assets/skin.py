# SPDX-License-Identifier: GPL-3.0-or-later
"""What carries a mesh's colours: its textures, or its vertices."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...geometry.mesh import Mesh
from ...rendering.rasterize import Rasterizer
from .atlas import Atlas, slots_of
from .paint import Paint

if TYPE_CHECKING:
    from .explicit import Manner

GRAY = np.full(3, 204, np.uint8)
# Where a mesh brings no picture of a map. A normal of 128, 128, 255 is the surface's own.
STARTS = {"roughness": np.array(180, np.uint8), "metallic": np.array(8, np.uint8)}
SAMPLES = 1 << 14                           # points of a picture at which its roughness is measured


def logit(values: Tensor) -> Tensor:
    """uint8 as logits, finite, such that `byte(logit(v)) == v`."""
    unit = (values.float() / 255).clamp(1 / 1024, 1 - 1 / 1024)
    return (unit / (1 - unit)).log()


def byte(logits: Tensor) -> Tensor:
    return (255 * logits.sigmoid()).round().byte()


class Texture:
    """Textures: a pixel shows the texel that it sees, so that what is optimized is what is baked.

    Where UVs overlap, both places show one texel, and both pull at it.
    """

    def __init__(self, mesh: Mesh, corners: Tensor, manner: Manner, rasterizer: Rasterizer,
                 device: torch.device | str):
        self.rasterizer, self.manner = rasterizer, manner
        self.corners, self.mesh_faces = corners, torch.from_numpy(mesh.faces).to(device).contiguous()
        sizes = {slot: _size(mesh, slot, manner.texture_size) for slot in np.unique(slots_of(mesh)).tolist()}
        self.atlas = atlas = Atlas(mesh, sizes, rasterizer, torch.device(device))
        self.split = torch.arange(3 * len(mesh.faces), device=device, dtype=torch.int32).view(-1, 3)
        self.places = atlas.spread(corners, self.mesh_faces)                # (N, 3)
        base = atlas.given(mesh, "texture", GRAY)
        pictured = torch.cat([torch.full((tile.height * tile.width,), f"texture.{tile.slot}" in mesh.textures)
                              for tile in atlas.tiles]).to(device)
        self.coloured = bool(pictured.any()) or mesh.colours is not None
        if mesh.colours is not None:
            spread = atlas.spread(torch.from_numpy(mesh.colours).to(device).float(), self.mesh_faces)
            base = torch.where(pictured[:, None], base, spread.round().byte()[atlas.nearest])
        self.given = {"texture": base, **{name: atlas.given(mesh, name, STARTS[name])[:, None]
                                          for name in manner.maps if name in STARTS}}
        keep = atlas.given(mesh, "frozen", np.array(0, np.uint8)) > 0
        if mesh.locked is not None:
            still = torch.from_numpy((mesh.locked[mesh.faces] > 0).all(axis=1)).to(device)
            keep = keep | still[atlas.triangle][atlas.nearest]
        self.keep = keep if bool(keep.any()) else None
        self.detail = None
        if manner.details or len(self.given) > 1:
            details = [logit(given) for given in self.given.values()]
            self.detail = torch.cat([details[0] if manner.details else torch.zeros_like(details[0]), *details[1:]],
                                    dim=1)

    def samples(self) -> tuple[Tensor, Tensor]:
        """Points of the surface (N, 3) and what the given pictures have there, as logits."""
        logits = logit(self.given["texture"][self.atlas.own]).clamp(-4, 4)
        maps = sum(given.shape[1] for given in self.given.values()) - 3
        return self.places, torch.nn.functional.pad(logits, (0, maps))

    def at(self, paint: Paint, rast: Tensor, hit: Tensor, face: Tensor,
           generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(values (P, C) in [0, 1] of the pixels that show the surface, how rough the paint is there)."""
        uv = self.rasterizer.interpolate(self.atlas.uvs[None].contiguous(), rast, self.split)[hit]
        texel = self.atlas.at(uv, face)
        points = self.places[self.atlas.nearest[texel]]
        logits = paint(points)
        roughness = paint.roughness(points[:SAMPLES], logits[:SAMPLES], generator)
        if self.detail is not None:
            logits = logits + self.detail[texel]
        values = logits.sigmoid()
        if self.keep is not None:
            given = torch.cat([picture[texel] for picture in self.given.values()], dim=1).float() / 255
            values = torch.where(self.keep[texel][:, None], given, values)
        return values, roughness

    @torch.no_grad()
    def painted(self, mesh: Mesh, paint: Paint) -> Mesh:
        """The mesh with its textures baked."""
        atlas = self.atlas
        logits = torch.cat([paint(points) for points in self.places.split(1 << 18)])[atlas.nearest]
        values = byte(logits if self.detail is None else logits + self.detail)
        write = atlas.written if self.keep is None else atlas.written & ~self.keep
        textures = dict(mesh.textures)
        channel = 0
        for kind, given in self.given.items():
            width = given.shape[1]
            pictures = torch.where(write[:, None], values[:, channel:channel + width], given)
            channel += width
            for tile in atlas.tiles:
                picture = tile.image(pictures)
                textures[f"{kind}.{tile.slot}"] = picture if kind == "texture" else picture[..., 0]
        mesh = replace(mesh, textures=textures)
        return replace(mesh, colours=_repainted(mesh, paint, self.corners)) if self.manner.own else mesh


class Colours:
    """Vertex colours, where a mesh has no texture."""

    def __init__(self, mesh: Mesh, corners: Tensor, manner: Manner, rasterizer: Rasterizer,
                 device: torch.device | str):
        self.rasterizer, self.manner, self.corners = rasterizer, manner, corners
        self.faces = torch.from_numpy(mesh.faces).to(device).contiguous()
        self.coloured = mesh.colours is not None
        self.given = torch.from_numpy(mesh.shown_colours).to(device)
        self.detail = logit(self.given) if manner.details else None
        self.keep = None if mesh.locked is None else torch.from_numpy(mesh.locked > 0).to(device)

    def samples(self) -> tuple[Tensor, Tensor]:
        return self.corners, logit(self.given).clamp(-4, 4)

    def at(self, paint: Paint, rast: Tensor, hit: Tensor, face: Tensor,
           generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As `Texture.at`."""
        logits = paint(self.corners)
        roughness = paint.roughness(self.corners, logits, generator)
        values = logits[:, :3] if self.detail is None else logits[:, :3] + self.detail
        values = values.sigmoid()
        if self.keep is not None:
            values = torch.where(self.keep[:, None], self.given.float() / 255, values)
        return self.rasterizer.interpolate(values[None].contiguous(), rast, self.faces)[hit], roughness

    @torch.no_grad()
    def painted(self, mesh: Mesh, paint: Paint) -> Mesh:
        return replace(mesh, colours=_repainted(mesh, paint, self.corners, self.detail))


def _repainted(mesh: Mesh, paint: Paint, corners: Tensor, detail: Tensor | None = None) -> np.ndarray:
    """(V, 3) uint8 of the paint at the vertices; locked ones keep what they have."""
    logits = paint(corners)[:, :3]
    colours = byte(logits if detail is None else logits + detail).cpu().numpy()
    return colours if mesh.locked is None else np.where(mesh.locked[:, None] > 0, mesh.shown_colours, colours)


def _size(mesh: Mesh, slot: int, size: int) -> tuple[int, int]:
    for kind in ("texture", "roughness", "metallic", "normal"):
        if (picture := mesh.textures.get(f"{kind}.{slot}")) is not None:
            return picture.shape[0], picture.shape[1]
    return size, size
