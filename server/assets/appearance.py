# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a mesh's colours are kept, baked and protected: in its textures, or at its vertices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from msd_blender.protocol import BASE_COLOUR, ROUGHNESS

from ..geometry.colour import srgb_to_linear, tint
from ..geometry.mesh import Mesh
from ..rendering.normals import face_areas, face_normals, vertex_normals
from ..rendering.rasterize import Rasterizer
from ..rendering.textures import UVCharts
from .atlas import Atlas
from .base import MeshOptions
from .colour_grid import ColourGrid

GRAY = np.full(3, round(255 * BASE_COLOUR), np.uint8)
# Where a mesh brings no picture. A metallic of 0 would have no finite logit.
INITIAL = {"roughness": np.array(round(255 * ROUGHNESS), np.uint8), "metallic": np.array(8, np.uint8)}
FLAT_NORMAL = np.array([128, 128, 255], np.uint8)  # of a normal map without bumps
BUMP_HEIGHT = 0.02  # metres that a logit of height seems to raise the surface
CHUNK = 1 << 18  # texels that are baked at once
VARIATION_SAMPLES = 1 << 14  # points of a picture at which the colour's variation is measured


def logit(values: Tensor) -> Tensor:
    """uint8 as logits, finite, such that `byte(logit(v)) == v`; or numbers in [0, 1]."""
    unit = values.float() / 255 if values.dtype == torch.uint8 else values
    unit = unit.clamp(1 / 1024, 1 - 1 / 1024)
    return (unit / (1 - unit)).log()


def byte(logits: Tensor) -> Tensor:
    return (255 * logits.sigmoid()).round().byte()


def perturb_normals(normals: Tensor, gradient: Tensor) -> Tensor:
    """(P, 3) unit normals of a surface raised by a height of that gradient, in metres a metre (Mikkelsen 2010)."""
    along = gradient - (gradient * normals).sum(dim=1, keepdim=True) * normals
    return F.normalize(normals - along, dim=1, eps=1e-6)


@dataclass(frozen=True)
class SurfaceSamples:
    """The appearance at the P pixels that show the surface.

    values: (P, C) in [0, 1], base colour and then the maps of `Appearance.maps`.
    height_gradient: (P, 3) of the height that a normal map shows, metres a metre; None without one.
    variation: () mean squared difference between neighbouring points' logits, a regularizer.
    """

    values: Tensor
    height_gradient: Tensor | None
    variation: Tensor


class Appearance(Protocol):
    """Where a mesh's colours are kept.

    maps: what `SurfaceSamples.values` has after the base colour.
    physical: shaded with roughness and metallic.
    coloured: the given mesh has colours to begin with.
    blocked: share of the free surface that cannot change, because a locked face shows the same texels.
    spacing: metres between neighbouring `points`, about.
    """

    maps: list[str]
    physical: bool
    coloured: bool
    blocked: float
    spacing: float

    def points(self) -> Sequence[Tensor]:
        """All points of the surface at which colours are kept: (N, 3), in parts."""
        ...

    def given_samples(self) -> tuple[Tensor, Tensor]:
        """Points of the surface (N, 3) and the given colours there, as logits (N, C)."""
        ...

    def sample(
        self, grid: ColourGrid, rast: Tensor, hit: Tensor, clip: Tensor, faces: Tensor, generator: torch.Generator
    ) -> SurfaceSamples:
        """The appearance at the pixels that show the surface; differentiable in the grid.

        Args:
            rast: of `clip` and `faces`, whose vertices may be others than the mesh's.
            hit: (P,) those pixels, numbered through all views.
        """
        ...

    def bake(self, mesh: Mesh, grid: ColourGrid) -> Mesh:
        """The mesh with the grid's colours. Protected texels and vertices come back bit for bit."""
        ...


class TextureAppearance:
    """Colours in textures. Each pixel shows its nearest texel, so that the optimized picture is the baked one.

    Where UVs overlap, two points share a texel. It has the mean of their colours, or stays if one of them is locked.

    Attributes:
        protected: (T,) bool, the texels that must not change: frozen by the artist, or of a face whose vertices are
            all locked. None where there are none.
    """

    def __init__(
        self,
        mesh: Mesh,
        corners: Tensor,
        options: MeshOptions,
        keep_details: bool,
        rasterizer: Rasterizer,
        device: torch.device,
    ):
        self.rasterizer, self.options, self.keep_details = rasterizer, options, keep_details
        self.corners, self.mesh_faces = corners, torch.from_numpy(mesh.faces).to(device)
        sizes = {slot: _size(mesh, slot, options.texture_size) for slot in np.unique(mesh.face_slots).tolist()}
        self.atlas = atlas = Atlas(mesh, sizes, torch.device(device))
        self.split = torch.arange(3 * len(mesh.faces), device=device, dtype=torch.int32).view(-1, 3)
        self.places = atlas.interpolate(corners, self.mesh_faces)  # (N, 3)
        self.others = atlas.interpolate_second(corners, self.mesh_faces)  # (M, 3)
        self.spacing = _spacing(corners, self.mesh_faces, len(self.places) + len(self.others))
        constants = {
            f"{kind}.{slot}": values
            for slot, material in mesh.materials.items()
            for kind, values in material.constants().items()
        }
        filled = replace(mesh, textures=constants | mesh.textures)
        base = atlas.textures_of(filled, "texture", GRAY)
        pictured = torch.cat(
            [torch.full((tile.height * tile.width,), f"texture.{tile.slot}" in mesh.textures) for tile in atlas.tiles]
        ).to(device)
        self.coloured = mesh.colours is not None or any(f"texture.{slot}" in filled.textures for slot in sizes)
        if mesh.colours is not None:
            colours = torch.from_numpy(mesh.colours).to(device).float()
            spread, shared = atlas.interpolate(colours, self.mesh_faces), atlas.second >= 0
            spread[shared] = (spread[shared] + atlas.interpolate_second(colours, self.mesh_faces)) / 2
            spread = spread.round().byte()[atlas.nearest.long()]
            base = torch.where(pictured[:, None], self._times_vertex_colours(mesh, base, spread), spread)
        maps = [name for name in options.maps if name in INITIAL]
        self.given = {
            "texture": base,
            **{name: atlas.textures_of(filled, name, INITIAL[name])[:, None] for name in maps},
        }
        self.blocked = 0.0
        protected = atlas.textures_of(mesh, "frozen", np.array(0, np.uint8)) > 0
        if mesh.locked is not None:
            locked_faces = torch.from_numpy((mesh.locked[mesh.faces] > 0).all(axis=1)).to(device)
            shared = atlas.second >= 0
            either, both = locked_faces[atlas.triangle], locked_faces[atlas.triangle]
            either[shared] |= locked_faces[atlas.second_triangle]
            both[shared] &= locked_faces[atlas.second_triangle]
            self.blocked = float((either & ~both).sum() / (~both).sum().clamp(min=1))
            protected = protected | either[atlas.nearest.long()]
        self.protected = protected if bool(protected.any()) else None
        self.maps = [name for name in self.given if name != "texture"]
        self.bumps = "normal" in options.maps
        self.physical = bool(options.maps)
        if self.bumps:
            self._normals, self._tangents = self._tangent_frames(mesh, corners)
            self._given_normals = atlas.textures_of(mesh, "normal", FLAT_NORMAL)

    def _times_vertex_colours(self, mesh: Mesh, base: Tensor, colours: Tensor) -> Tensor:
        """(T, 3) uint8 pictures times the vertex colours, where a slot has a material, whose colours they are."""
        for tile in self.atlas.tiles:
            own = colours[tile.texels]
            if tile.slot in mesh.materials and bool((own < 255).any()):
                made = tint(base[tile.texels].cpu().numpy(), srgb_to_linear(own.cpu().numpy() / 255))
                base = base.clone()
                base[tile.texels] = torch.from_numpy(made).to(base.device)
        return base

    def points(self) -> Sequence[Tensor]:
        """As `Appearance.points`."""
        return self.places, self.others

    def given_samples(self) -> tuple[Tensor, Tensor]:
        """As `Appearance.given_samples`."""
        logits = logit(self.given["texture"][self.atlas.own]).clamp(-4, 4)
        logits = torch.cat([logits, logits[self.atlas.second >= 0]])
        return torch.cat([self.places, self.others]), F.pad(logits, (0, len(self.options.maps)))

    def sample(
        self, grid: ColourGrid, rast: Tensor, hit: Tensor, clip: Tensor, faces: Tensor, generator: torch.Generator
    ) -> SurfaceSamples:
        """As `Appearance.sample`."""
        uvs = self.atlas.uvs[None]
        uv = self.rasterizer.interpolate(uvs, rast, self.split)
        texel = self.atlas.texels_at(uv.view(-1, 2)[hit], rast[..., 3].flatten()[hit].long() - 1)
        covered = self.atlas.nearest[texel].long()
        points = self.places[covered]
        if grid.fine:
            points, way = self._pixels(points, covered, rast.detach(), hit, clip, faces)
            logits = self._with_others(grid, covered, grid.on_both_sides(points, way))
        else:
            logits = self._with_others(grid, covered, grid(points)[None])
        variation = grid.variation(points[:VARIATION_SAMPLES], logits.mean(dim=0)[:VARIATION_SAMPLES], generator)
        gradient = self._height_gradient(grid, points) if self.bumps else None
        given = torch.cat([picture[texel] for picture in self.given.values()], dim=1)
        details = self._details(given)
        if self.keep_details:  # finer than a pixel, perhaps
            footprint = self.rasterizer.footprint(uvs, rast, self.split, clip, faces)
            details[:, :3] = logit(self._mipmapped_colour(uv, footprint, hit, texel))
        values = (logits[..., : 3 + len(self.maps)] + details).sigmoid().mean(dim=0)
        if self.protected is not None:
            values = torch.where(self.protected[texel][:, None], given.float() / 255, values)
            gradient = None if gradient is None else gradient.masked_fill(self.protected[texel][:, None], 0)
        return SurfaceSamples(values, gradient, variation)

    def _mipmapped_colour(self, uv: Tensor, footprint: Tensor, hit: Tensor, texel: Tensor) -> Tensor:
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
        """(P, C) logits to add to the grid's, of the given pictures' (P, C) uint8: a map always begins with them."""
        details = logit(given)
        return details if self.keep_details else F.pad(details[:, 3:], (3, 0))

    def _pixels(
        self, places: Tensor, covered: Tensor, rast: Tensor, hit: Tensor, clip: Tensor, faces: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The points (P, 3) at the centres of pixels, and the way (P, 3) to the middle of a quarter.

        The mean over both sides of the centre, along one diagonal or the other in turn, is close to the pixel's mean.
        Texels that show two points, or one far from the pixel's because their charts are smaller than they, stand for
        the pixel as they will be baked.
        """
        corners = self.corners[None]
        seen = self.rasterizer.interpolate(corners, rast, self.mesh_faces).view(-1, 3)[hit]
        axes = self.rasterizer.footprint(corners, rast, self.mesh_faces, clip, faces).view(-1, 3, 2)[hit]
        turn = 1 - 2 * ((hit + hit // rast.shape[2]) % 2)
        way = (axes[..., 0] + turn[:, None] * axes[..., 1]) / 4
        own = (((seen - places).norm(dim=1) < 2 * self.spacing) & (self.atlas.second[covered] < 0))[:, None]
        return torch.where(own, seen, places), way * own

    def _with_others(self, grid: ColourGrid, covered: Tensor, logits: Tensor) -> Tensor:
        """(K, P, C) logits at some covered texels, where two points share a texel the mean with the other's."""
        second = self.atlas.second[covered]
        if len(self.others) and len(shared := (second >= 0).nonzero()[:, 0]):
            both = (logits[:, shared] + grid(self.others[second[shared]])) / 2
            logits = logits.index_copy(1, shared, both)
        return logits

    def _height_gradient(self, grid: ColourGrid, points: Tensor) -> Tensor:
        """(P, 3) gradient at points of the height that the grid's last channel is."""
        step = 1 / (grid.levels[-1] - 1)  # half a finest cell
        heights: Tensor = grid(points)[:, -1]
        ahead = [grid(points + step * axis)[:, -1] for axis in torch.eye(3, device=points.device)]
        gradient: Tensor = (torch.stack(ahead, dim=1) - heights[:, None]) * (BUMP_HEIGHT / step)
        return gradient

    def _tangent_frames(self, mesh: Mesh, corners: Tensor) -> tuple[Tensor, Tensor]:
        """Normals (N, 3) and tangents with their side (N, 4) at the covered texels."""
        charts = UVCharts.from_faces(self.mesh_faces, self.atlas.uvs.view(-1, 3, 2))
        if self.options.flat:
            normals = face_normals(corners, self.mesh_faces)[self.atlas.triangle]
        else:
            normals = F.normalize(
                self.atlas.interpolate(vertex_normals(corners, self.mesh_faces), self.mesh_faces), dim=1
            )
        return normals, self.atlas.interpolate(charts.tangents(corners, self.mesh_faces), charts.faces)

    def _normal_map(self, grid: ColourGrid) -> Tensor:
        """(T, 3) uint8: the painted height as tangent-space normals, over those of the given pictures."""
        normals, tangents = self._normals, F.normalize(self._tangents[:, :3], dim=1)
        tangents = F.normalize(tangents - (tangents * normals).sum(dim=1, keepdim=True) * normals, dim=1)
        sides = torch.where(self._tangents[:, 3:] < 0, -1.0, 1.0)
        axes = torch.stack([tangents, sides * torch.linalg.cross(normals, tangents), normals], dim=1)
        slopes = torch.cat([self._height_gradient(grid, points) for points in self.places.split(CHUNK)])
        bent = torch.einsum("nij,nj->ni", axes, perturb_normals(normals, slopes))
        bent = torch.where((tangents.square().sum(dim=1, keepdim=True) > 0.5), bent, bent.new_tensor([0, 0, 1.0]))
        level = 2 * self._given_normals.float() / 255 - 1
        bent = bent[self.atlas.nearest.long()]
        # Slopes add up: the given map's details stay.
        slope = bent[:, :2] / bent[:, 2:].clamp(min=0.1) + level[:, :2] / level[:, 2:].clamp(min=0.1)
        total = F.normalize(F.pad(slope, (0, 1), value=1.0), dim=1)
        return (255 * (total + 1) / 2).round().byte()

    @torch.no_grad()
    def bake(self, mesh: Mesh, grid: ColourGrid) -> Mesh:
        """As `Appearance.bake`."""
        atlas = self.atlas
        every = torch.arange(len(self.places), device=self.places.device)
        logits = torch.cat(
            [self._with_others(grid, part, grid(self.places[part])[None])[0] for part in every.split(CHUNK)]
        )[:, : 3 + len(self.maps)]
        pictures = torch.cat(list(self.given.values()), dim=1)
        values = torch.cat(
            [
                byte(logits[near.long()] + self._details(given))
                for near, given in zip(atlas.nearest.split(CHUNK), pictures.split(CHUNK))
            ]
        )
        write = atlas.baked if self.protected is None else atlas.baked & ~self.protected
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
            pictures = torch.where(write[:, None], self._normal_map(grid), self._given_normals)
            textures |= {f"normal.{tile.slot}": tile.image(pictures) for tile in atlas.tiles}
        mesh = replace(mesh, textures=textures)
        return replace(mesh, colours=_baked_vertices(mesh, grid, self.corners)) if self.options.from_scratch else mesh


class VertexAppearance:
    """Colours at the vertices, where a mesh has no texture."""

    blocked = 0.0

    def __init__(
        self,
        mesh: Mesh,
        corners: Tensor,
        options: MeshOptions,
        keep_details: bool,
        rasterizer: Rasterizer,
        device: torch.device,
    ):
        self.rasterizer, self.options, self.corners = rasterizer, options, corners
        self.faces = torch.from_numpy(mesh.faces).to(device)
        self.spacing = _spacing(corners, self.faces, len(corners))
        self.coloured = mesh.colours is not None or any(each.colour is not None for each in mesh.materials.values())
        self.physical, self.maps = False, list[str]()
        self.given = torch.from_numpy(mesh.shown_colours).to(device)
        self.detail = logit(self.given) if keep_details else None
        self.protected = None if mesh.locked is None else torch.from_numpy(mesh.locked > 0).to(device)

    def points(self) -> Sequence[Tensor]:
        """As `Appearance.points`."""
        return (self.corners,)

    def given_samples(self) -> tuple[Tensor, Tensor]:
        """As `Appearance.given_samples`."""
        logits = logit(self.given).clamp(-4, 4)
        return self.corners, F.pad(logits, (0, len(self.options.maps)))

    def sample(
        self, grid: ColourGrid, rast: Tensor, hit: Tensor, clip: Tensor, faces: Tensor, generator: torch.Generator
    ) -> SurfaceSamples:
        """As `Appearance.sample`."""
        logits = grid(self.corners)
        variation = grid.variation(self.corners, logits, generator)
        values = logits[:, :3] if self.detail is None else logits[:, :3] + self.detail
        values = values.sigmoid()
        if self.protected is not None:
            values = torch.where(self.protected[:, None], self.given.float() / 255, values)
        picture = self.rasterizer.interpolate(values[None], rast, self.faces)
        return SurfaceSamples(picture.view(-1, picture.shape[-1])[hit], None, variation)

    @torch.no_grad()
    def bake(self, mesh: Mesh, grid: ColourGrid) -> Mesh:
        """As `Appearance.bake`."""
        return replace(mesh, colours=_baked_vertices(mesh, grid, self.corners, self.detail))


def _baked_vertices(mesh: Mesh, grid: ColourGrid, corners: Tensor, detail: Tensor | None = None) -> NDArray[np.generic]:
    """(V, 3) uint8 of the grid's colours at the vertices; locked ones keep their own."""
    logits = grid(corners)[:, :3]
    colours = byte(logits if detail is None else logits + detail).cpu().numpy()
    return colours if mesh.locked is None else np.where(mesh.locked[:, None] > 0, mesh.shown_colours, colours)


def _spacing(corners: Tensor, faces: Tensor, count: int) -> float:
    return math.sqrt(float(face_areas(corners, faces).sum()) / max(1, count))


def _size(mesh: Mesh, slot: int, size: int) -> tuple[int, int]:
    for kind in ("texture", "roughness", "metallic", "normal"):
        if (picture := mesh.textures.get(f"{kind}.{slot}")) is not None:
            return picture.shape[0], picture.shape[1]
    return size, size
