# SPDX-License-Identifier: GPL-3.0-or-later
"""What carries a mesh's colours: its textures, or its vertices."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from msd_blender.protocol import BASE_COLOUR, ROUGHNESS

from ...geometry.colour import srgb_to_linear, tint
from ...geometry.mesh import Mesh
from ...rendering.normals import face_normals, vertex_normals
from ...rendering.rasterize import Rasterizer
from ...rendering.textures import UVCharts
from .atlas import Atlas
from .paint import Paint

if TYPE_CHECKING:
    from .explicit import Manner

GRAY = np.full(3, round(255 * BASE_COLOUR), np.uint8)
# Where a mesh brings no picture. A metallic of 0 would have no finite logit.
STARTS = {"roughness": np.array(round(255 * ROUGHNESS), np.uint8), "metallic": np.array(8, np.uint8)}
LEVEL = np.array([128, 128, 255], np.uint8)  # a normal map's own normal
HEIGHT = 0.02  # metres that the surface seems raised by a logit of height
CHUNK = 1 << 18  # texels that are painted at once
SAMPLES = 1 << 14  # points of a picture at which its roughness is measured


def logit(values: Tensor) -> Tensor:
    """uint8 as logits, finite, such that `byte(logit(v)) == v`; or numbers in [0, 1]."""
    unit = values.float() / 255 if values.dtype == torch.uint8 else values
    unit = unit.clamp(1 / 1024, 1 - 1 / 1024)
    return (unit / (1 - unit)).log()


def byte(logits: Tensor) -> Tensor:
    return (255 * logits.sigmoid()).round().byte()


def bumped(normals: Tensor, slope: Tensor) -> Tensor:
    """(P, 3) unit normals of a surface raised by a height of that slope (Mikkelsen 2010)."""
    along = slope - (slope * normals).sum(dim=1, keepdim=True) * normals
    return F.normalize(normals - along, dim=1, eps=1e-6)


class Texture:
    """Textures: a pixel shows the texel that it sees, so that what is optimized is what is baked.

    Where UVs overlap, two places show one texel, which has the mean of their paint, or stays if one of them is locked.

    blocked: the share of what is free to change that does not, because a locked face shows it too.
    """

    def __init__(self, mesh: Mesh, corners: Tensor, manner: Manner, rasterizer: Rasterizer, device: torch.device | str):
        self.rasterizer, self.manner = rasterizer, manner
        self.corners, self.mesh_faces = corners, torch.from_numpy(mesh.faces).to(device)
        sizes = {slot: _size(mesh, slot, manner.texture_size) for slot in np.unique(mesh.face_slots).tolist()}
        self.atlas = atlas = Atlas(mesh, sizes, torch.device(device))
        self.split = torch.arange(3 * len(mesh.faces), device=device, dtype=torch.int32).view(-1, 3)
        self.places = atlas.spread(corners, self.mesh_faces)  # (N, 3)
        self.others = atlas.spread_second(corners, self.mesh_faces)  # (M, 3)
        constants = {
            f"{kind}.{slot}": values
            for slot, material in mesh.materials.items()
            for kind, values in material.constants().items()
        }
        filled = replace(mesh, textures=constants | mesh.textures)
        base = atlas.given(filled, "texture", GRAY)
        pictured = torch.cat(
            [torch.full((tile.height * tile.width,), f"texture.{tile.slot}" in mesh.textures) for tile in atlas.tiles]
        ).to(device)
        self.coloured = mesh.colours is not None or any(f"texture.{slot}" in filled.textures for slot in sizes)
        if mesh.colours is not None:
            colours = torch.from_numpy(mesh.colours).to(device).float()
            spread, shared = atlas.spread(colours, self.mesh_faces), atlas.second >= 0
            spread[shared] = (spread[shared] + atlas.spread_second(colours, self.mesh_faces)) / 2
            spread = spread.round().byte()[atlas.nearest.long()]
            base = torch.where(pictured[:, None], self._under(mesh, base, spread), spread)
        self.given = {
            "texture": base,
            **{name: atlas.given(filled, name, STARTS[name])[:, None] for name in manner.maps if name in STARTS},
        }
        self.blocked = 0.0
        keep = atlas.given(mesh, "frozen", np.array(0, np.uint8)) > 0
        if mesh.locked is not None:
            still = torch.from_numpy((mesh.locked[mesh.faces] > 0).all(axis=1)).to(device)
            covered = still[atlas.triangle]
            held = covered.clone()
            held[atlas.second >= 0] |= still[atlas.second_triangle]
            both = covered.clone()
            both[atlas.second >= 0] &= still[atlas.second_triangle]
            self.blocked = float((held & ~both).sum() / (~both).sum().clamp(min=1))
            covered = held
            keep = keep | covered[atlas.nearest.long()]
        self.keep = keep if bool(keep.any()) else None
        self.maps = [name for name in self.given if name != "texture"]
        self.bumps = "normal" in manner.maps
        self.physical = bool(manner.maps)
        if self.bumps:
            self._normals, self._tangents = self._frames(mesh, corners)
            self._level = atlas.given(mesh, "normal", LEVEL)

    def _under(self, mesh: Mesh, base: Tensor, colours: Tensor) -> Tensor:
        """(T, 3) uint8 pictures times the vertex colours, where a slot has a material, whose colours they are."""
        for tile in self.atlas.tiles:
            own = colours[tile.texels]
            if tile.slot in mesh.materials and bool((own < 255).any()):
                made = tint(base[tile.texels].cpu().numpy(), srgb_to_linear(own.cpu().numpy() / 255))
                base = base.clone()
                base[tile.texels] = torch.from_numpy(made).to(base.device)
        return base

    def samples(self) -> tuple[Tensor, Tensor]:
        """Points of the surface (N, 3) and what the given pictures have there, as logits."""
        logits = logit(self.given["texture"][self.atlas.own]).clamp(-4, 4)
        logits = torch.cat([logits, logits[self.atlas.second >= 0]])
        return torch.cat([self.places, self.others]), F.pad(logits, (0, len(self.manner.maps)))

    def at(
        self, paint: Paint, rast: Tensor, hit: Tensor, clip: Tensor, faces: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """At the pixels that show the surface: values (P, C) in [0, 1], colour first and then `maps`; the slope (P, 3)
        of the height that a normal map shows; how rough the paint is there ().

        hit: (P,) those pixels, numbered through all views.
        rast: of `clip` and `faces`, whose vertices may be others than the mesh's.
        """
        uvs = self.atlas.uvs[None]
        uv = self.rasterizer.interpolate(uvs, rast, self.split)
        texel = self.atlas.at(uv.view(-1, 2)[hit], rast[..., 3].flatten()[hit].long() - 1)
        covered = self.atlas.nearest[texel].long()
        points, logits = self.places[covered], self._logits(paint, covered)
        roughness = paint.roughness(points[:SAMPLES], logits[:SAMPLES], generator)
        slope = self._slope(paint, points) if self.bumps else None
        given = torch.cat([picture[texel] for picture in self.given.values()], dim=1)
        details = self._details(given)
        if self.manner.details:  # finer than a pixel, perhaps
            footprint = self.rasterizer.footprint(uvs, rast, self.split, clip, faces)
            details[:, :3] = logit(self._seen(uv, footprint, hit, texel))
        values = (logits[:, : 3 + len(self.maps)] + details).sigmoid()
        if self.keep is not None:
            values = torch.where(self.keep[texel][:, None], given.float() / 255, values)
            slope = None if slope is None else slope.masked_fill(self.keep[texel][:, None], 0)
        return values, slope, roughness

    def _seen(self, uv: Tensor, footprint: Tensor, hit: Tensor, texel: Tensor) -> Tensor:
        """(P, 3) in [0, 1] of the given base colours, from mipmaps."""
        total = uv.new_zeros(len(texel), 3)
        here = [(texel >= tile.texels.start) & (texel < tile.texels.stop) for tile in self.atlas.tiles]
        for tile, shown, any in zip(self.atlas.tiles, here, torch.stack(here).any(dim=1).tolist()):
            if any:
                picture = self.given["texture"][tile.texels].view(1, tile.height, tile.width, 3).float() / 255
                seen = self.rasterizer.texture(picture, uv, footprint, "clamp").view(-1, 3)[hit]
                total = torch.where(shown[:, None], seen, total)
        return total

    def _details(self, given: Tensor) -> Tensor:
        """(P, C) logits under the paint, of the given pictures' (P, C) uint8: a map always begins with them."""
        details = logit(given)
        return details if self.manner.details else F.pad(details[:, 3:], (3, 0))

    def _logits(self, paint: Paint, covered: Tensor) -> Tensor:
        """(P, C) of the paint that some covered texels show."""
        logits = paint(self.places[covered])
        second = self.atlas.second[covered]
        if len(self.others) and len(shared := (second >= 0).nonzero()[:, 0]):
            both = (logits[shared] + paint(self.others[second[shared]])) / 2
            logits = logits.index_copy(0, shared, both)
        return logits

    def _slope(self, paint: Paint, points: Tensor) -> Tensor:
        """(P, 3) of the height, a number, at points."""
        step = 1 / (paint.levels[-1] - 1)  # half a finest cell
        heights = paint(points)[:, -1]
        ahead = [paint(points + step * axis)[:, -1] for axis in torch.eye(3, device=points.device)]
        return (torch.stack(ahead, dim=1) - heights[:, None]) * (HEIGHT / step)

    def _frames(self, mesh: Mesh, corners: Tensor) -> tuple[Tensor, Tensor]:
        """Normals (N, 3) and tangents with their side (N, 4) at the covered texels."""
        charts = UVCharts.from_faces(self.mesh_faces, self.atlas.uvs.view(-1, 3, 2))
        if self.manner.flat:
            normals = face_normals(corners, self.mesh_faces)[self.atlas.triangle]
        else:
            normals = F.normalize(self.atlas.spread(vertex_normals(corners, self.mesh_faces), self.mesh_faces), dim=1)
        return normals, self.atlas.spread(charts.tangents(corners, self.mesh_faces), charts.faces)

    def _normal_maps(self, paint: Paint) -> Tensor:
        """(T, 3) uint8: the painted height as tangent-space normals, over those of the given pictures."""
        normals, tangents = self._normals, F.normalize(self._tangents[:, :3], dim=1)
        tangents = F.normalize(tangents - (tangents * normals).sum(dim=1, keepdim=True) * normals, dim=1)
        sides = torch.where(self._tangents[:, 3:] < 0, -1.0, 1.0)
        axes = torch.stack([tangents, sides * torch.linalg.cross(normals, tangents), normals], dim=1)
        slopes = torch.cat([self._slope(paint, points) for points in self.places.split(CHUNK)])
        bent = torch.einsum("nij,nj->ni", axes, bumped(normals, slopes))
        bent = torch.where((tangents.square().sum(dim=1, keepdim=True) > 0.5), bent, bent.new_tensor([0, 0, 1.0]))
        level = 2 * self._level.float() / 255 - 1
        bent = bent[self.atlas.nearest.long()]
        # Slopes add up: the given map's details stay.
        slope = bent[:, :2] / bent[:, 2:].clamp(min=0.1) + level[:, :2] / level[:, 2:].clamp(min=0.1)
        total = F.normalize(F.pad(slope, (0, 1), value=1.0), dim=1)
        return (255 * (total + 1) / 2).round().byte()

    @torch.no_grad()
    def painted(self, mesh: Mesh, paint: Paint) -> Mesh:
        """The mesh with its textures baked."""
        atlas = self.atlas
        every = torch.arange(len(self.places), device=self.places.device)
        logits = torch.cat([self._logits(paint, part) for part in every.split(CHUNK)])[:, : 3 + len(self.maps)]
        pictures = torch.cat(list(self.given.values()), dim=1)
        values = torch.cat(
            [
                byte(logits[near.long()] + self._details(given))
                for near, given in zip(atlas.nearest.split(CHUNK), pictures.split(CHUNK))
            ]
        )
        write = atlas.written if self.keep is None else atlas.written & ~self.keep
        textures = dict(mesh.textures)
        channel = 0
        for kind, given in self.given.items():
            width = given.shape[1]
            pictures = torch.where(write[:, None], values[:, channel : channel + width], given)
            channel += width
            for tile in atlas.tiles:
                picture = tile.image(pictures)
                textures[f"{kind}.{tile.slot}"] = picture if kind == "texture" else picture[..., 0]
        if self.bumps:
            pictures = torch.where(write[:, None], self._normal_maps(paint), self._level)
            textures |= {f"normal.{tile.slot}": tile.image(pictures) for tile in atlas.tiles}
        mesh = replace(mesh, textures=textures)
        return replace(mesh, colours=_repainted(mesh, paint, self.corners)) if self.manner.own else mesh


class Colours:
    """Vertex colours, where a mesh has no texture."""

    blocked = 0.0

    def __init__(self, mesh: Mesh, corners: Tensor, manner: Manner, rasterizer: Rasterizer, device: torch.device | str):
        self.rasterizer, self.manner, self.corners = rasterizer, manner, corners
        self.faces = torch.from_numpy(mesh.faces).to(device)
        self.coloured = mesh.colours is not None or any(each.colour is not None for each in mesh.materials.values())
        self.physical, self.maps = False, list[str]()
        self.given = torch.from_numpy(mesh.shown_colours).to(device)
        self.detail = logit(self.given) if manner.details else None
        self.keep = None if mesh.locked is None else torch.from_numpy(mesh.locked > 0).to(device)

    def samples(self) -> tuple[Tensor, Tensor]:
        logits = logit(self.given).clamp(-4, 4)
        return self.corners, F.pad(logits, (0, len(self.manner.maps)))

    def at(
        self, paint: Paint, rast: Tensor, hit: Tensor, clip: Tensor, faces: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """As `Texture.at`."""
        logits = paint(self.corners)
        roughness = paint.roughness(self.corners, logits, generator)
        values = logits[:, :3] if self.detail is None else logits[:, :3] + self.detail
        values = values.sigmoid()
        if self.keep is not None:
            values = torch.where(self.keep[:, None], self.given.float() / 255, values)
        picture = self.rasterizer.interpolate(values[None], rast, self.faces)
        return picture.view(-1, picture.shape[-1])[hit], None, roughness

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
