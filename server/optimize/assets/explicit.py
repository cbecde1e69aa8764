# SPDX-License-Identifier: GPL-3.0-or-later
"""A mesh with a topology of its own: what is painted, and what is refined."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor, nn

from msd_blender.protocol import METALLIC, ROUGHNESS

from ...bundled.shapes import BALL
from ...geometry.colour import srgb_to_linear, tint
from ...geometry.mesh import Mesh
from ...geometry.precondition import Preconditioner
from ...geometry.remeshing import remesh
from ...rendering.cameras import Cameras
from ...rendering.normals import face_normals, vertex_normals
from ...rendering.rasterize import Rasterizer
from ...rendering.shading import Lights
from .paint import Paint
from .skin import Colours, Texture, bumped
from .stiffness import Stiffness

PACE = 0.1  # a vertex's learning rate, metres, beside a colour's, logits


@dataclass(frozen=True)
class Manner:
    """How a mesh is worked on.

    moves: its vertices, not only its colours.
    details: the given colours stay as details under what is painted; otherwise the paint begins as a smooth copy.
    own: the mesh was made from nothing, so its vertex colours are painted beside its texture.
    levels: of the paint, see `Paint`.
    maps, texture_size, flat, symmetry, max_displacement: as `protocol.JobRequest`.
    """

    moves: bool = False
    details: bool = False
    own: bool = False
    levels: tuple[int, ...] = (5, 9, 17, 33, 65)
    maps: tuple[str, ...] = ()
    texture_size: int = 1024
    flat: bool = False
    symmetry: str = ""
    max_displacement: float | None = None


@dataclass(frozen=True)
class Place:
    """How a mesh is brought before the cameras: (x - centre) * scale. Nothing but pictures knows of it."""

    centre: np.ndarray  # (3,) float32, metres
    scale: float

    @classmethod
    def of(cls, mesh: Mesh) -> Place:
        """Centred in the ball that the bundled prior knows objects in."""
        used = mesh.positions[np.unique(mesh.faces)]
        centre = (used.min(axis=0) + used.max(axis=0)) / 2
        radius = float(np.linalg.norm(used - centre, axis=1).max())
        return cls(centre, BALL / radius if radius > 0 else 1.0)


class Explicit(nn.Module):
    """A given mesh: its colours a smooth field over the surface, its vertices moved by smoothed steps if at all.

    Locked vertices and texels come back bit for bit.

    Args:
        place: None centres the mesh.
        grid: (1, 3, n, n, n) colour logits over the cameras' cube, to begin with.
        fit: begin with the given colours otherwise, unless they stay as details.
    """

    def __init__(
        self,
        mesh: Mesh,
        rasterizer: Rasterizer,
        manner: Manner,
        device: torch.device | str,
        place: Place | None = None,
        grid: Tensor | None = None,
        fit: bool = True,
    ):
        super().__init__()
        self.source, self.rasterizer, self.manner = mesh, rasterizer, manner
        self.name = "refine" if manner.moves else "texture"
        self.place = place or Place.of(mesh)
        # Vertices at one place are one vertex, so that a seam of normals or UVs does not tear.
        welded, index = np.unique(mesh.positions, axis=0, return_inverse=True)
        index = index.reshape(-1)
        self.weld = torch.from_numpy(index).to(device)
        self.faces = torch.from_numpy(index[mesh.faces].astype(np.int32)).to(device)
        self.rest = torch.from_numpy(self._placed(welded)).to(device)
        locked = np.zeros(len(welded), bool)
        if mesh.locked is not None:
            np.logical_or.at(locked, index, mesh.locked > 0)
        self.locked = torch.from_numpy(locked).to(device)
        if manner.moves:
            self.steps = Preconditioner(self.faces, len(welded), locked=self.locked)
            self.moved = nn.Parameter(torch.zeros_like(self.rest))
            self.stiffness = Stiffness(self.rest, self.faces)
            self.twin = _twins(welded, manner.symmetry, device)
            self.mirror = torch.tensor([-1.0 if axis == manner.symmetry else 1.0 for axis in "xyz"], device=device)
        self.paint = Paint(manner.levels, 3 + len(manner.maps), device)
        corners = self.rest[self.weld]
        textured = mesh.uvs is not None and (not manner.moves or bool(mesh.textures) or mesh.colours is None)
        self.skin: Texture | Colours = (Texture if textured else Colours)(mesh, corners, manner, rasterizer, device)
        if grid is not None:
            self.paint.start(grid)
        elif fit and not manner.details and self.skin.coloured:
            self.paint.fit(*self.skin.samples(), torch.Generator().manual_seed(0))

    def groups(self) -> list[dict[str, Any]]:
        return self.paint.groups() + ([{"params": [self.moved], "pace": PACE}] if self.manner.moves else [])

    def state_dict(self, *args: Any, **given: Any) -> Any:
        """The parameters, the mesh as it was given and its place."""
        return (
            super().state_dict(*args, **given)
            | {f"source.{name}": torch.from_numpy(array) for name, array in self.source.arrays().items()}
            | {"place": torch.tensor([*self.place.centre.tolist(), self.place.scale], dtype=torch.float64)}
        )

    def load_state_dict(self, state_dict: Any, *args: Any, **given: Any) -> Any:
        own = {name: value for name, value in state_dict.items() if name != "place" and not name.startswith("source.")}
        return super().load_state_dict(own, *args, **given)

    @staticmethod
    def given(tensors: dict[str, Tensor]) -> tuple[Mesh, Place]:
        """The mesh and its place of a state, with which the same asset is made again."""
        arrays = {
            name.removeprefix("source."): value.numpy() for name, value in tensors.items() if name.startswith("source.")
        }
        *centre, scale = tensors["place"].tolist()
        return Mesh.from_arrays(arrays), Place(np.array(centre, np.float32), scale)

    def render(
        self,
        cameras: Cameras,
        lights: Lights,
        backgrounds: Tensor,
        resolution: int,
        progress: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """As `Asset.render`."""
        positions = self.rest + self.displacement() if self.manner.moves else self.rest
        clip = cameras.clip(positions)
        rast = self.rasterizer.rasterize(clip, self.faces, (resolution, resolution))
        hit = rast[..., 3].flatten().nonzero()[:, 0]
        if self.manner.flat:
            face = rast[..., 3].flatten()[hit].long() - 1
            normals = _placed_at(hit, face_normals(positions, self.faces)[face], rast)
        else:
            normals = self.rasterizer.interpolate(vertex_normals(positions, self.faces)[None], rast, self.faces)
        normals = F.normalize(normals, dim=-1, eps=1e-6)
        seen, slope, smoothness = self.skin.at(self.paint, rast, hit, clip.detach(), self.faces, generator)
        if slope is not None:
            normals = _placed_at(hit, bumped(normals.view(-1, 3)[hit], slope), rast)
        values = _placed_at(hit, seen, rast)
        if self.skin.physical:
            point = self.rasterizer.interpolate(positions[None], rast, self.faces)
            toward = F.normalize(cameras.position[:, None, None] - point, dim=-1)
            maps = {
                "roughness": torch.full_like(values[..., :1], ROUGHNESS),
                "metallic": torch.full_like(values[..., :1], METALLIC),
            }
            maps |= {kind: values[..., i : i + 1] for i, kind in enumerate(self.skin.maps, 3)}
            shaded = lights.shade_physically(values[..., :3], normals, toward, maps["roughness"], maps["metallic"])
        else:
            shaded = lights.shade(values, normals)
        picture = torch.where(rast[..., 3:] > 0, shaded, backgrounds[:, None, None])
        picture = self.rasterizer.antialias(picture, rast, clip, self.faces)
        penalty = 0.01 * smoothness
        if self.manner.moves:
            penalty = penalty + self.stiffness(positions)
        return picture, penalty

    def displacement(self) -> Tensor:
        """(W, 3) how far each welded vertex is from where it was given, placed: within its limits."""
        move: Tensor = self.steps.to_positions(self.moved)
        if self.manner.symmetry:
            move = (move + self.mirror * move[self.twin]) / 2
            move = move.masked_fill(self.locked[:, None], 0)
        if self.manner.max_displacement is not None:
            limit = (1 - 1e-5) * self.manner.max_displacement * self.place.scale
            length = move.detach().norm(dim=1, keepdim=True)
            move = move * (limit / length.clamp(min=1e-12)).clamp(max=1)
        return move

    @torch.no_grad()
    def settle(self) -> None:
        """What a limit cut off is not kept for later."""
        if self.manner.moves and (self.manner.max_displacement is not None or self.manner.symmetry):
            self.moved.copy_(self.steps.from_positions(self.displacement()))

    @torch.no_grad()
    def mesh(self) -> Mesh:
        """The given mesh with what has changed: nothing but colours, or positions too."""
        mesh = replace(
            self.source,
            textures={
                name: picture for name, picture in self.source.textures.items() if not name.startswith("frozen.")
            },
        )
        if self.manner.moves:
            move = (self.displacement() / self.place.scale)[self.weld].cpu().numpy()
            fixed = self.locked[self.weld].cpu().numpy()[:, None] | (move == 0)
            mesh = mesh.with_positions(np.where(fixed, mesh.positions, mesh.positions + move))
        return self.skin.painted(mesh, self.paint)

    def _placed(self, positions: np.ndarray) -> np.ndarray:
        return ((positions - self.place.centre) * np.float32(self.place.scale)).astype(np.float32)


def _placed_at(pixels: Tensor, values: Tensor, rast: Tensor) -> Tensor:
    """(B, H, W, C) pictures like `rast` of (P, C) values at numbered pixels, 0 elsewhere."""
    picture = rast.new_zeros(rast[..., 0].numel(), values.shape[1])
    return picture.index_copy(0, pixels, values).view(*rast.shape[:3], -1)


def _twins(positions: np.ndarray, axis: str, device: torch.device | str) -> Tensor:
    """(W,) each vertex's mirror image in the plane through the origin; itself where it has none."""
    every = np.arange(len(positions))
    if axis and len(positions):
        sign = np.where(np.array(list("xyz")) == axis, -1, 1)
        extent = float(np.ptp(positions, axis=0).max())
        distance, twin = cKDTree(positions).query(positions * sign)
        twin = np.where((distance < 1e-3 * extent) & (twin[twin] == every), twin, every)
        return torch.from_numpy(twin).to(device)
    return torch.from_numpy(every).to(device)


def remeshed(mesh: Mesh, target_faces: int | None) -> Mesh:
    """The mesh with new triangles, about as many as it had if no count is given; a texture becomes vertex colours."""
    return remesh(replace(mesh, colours=_base_colours(mesh)), target_faces or max(100, len(mesh.faces)))


def _base_colours(mesh: Mesh) -> np.ndarray | None:
    """(V, 3) uint8: the base colour at the vertices; None where the mesh has no colour at all."""
    slots = [] if mesh.uvs is None else np.unique(mesh.face_slots).tolist()
    pictures = {slot: mesh.textures[f"texture.{slot}"] for slot in slots if f"texture.{slot}" in mesh.textures}
    if not pictures and all(material.colour is None for material in mesh.materials.values()):
        return mesh.colours
    colours = mesh.shown_colours.copy()
    for slot, picture in pictures.items():
        assert mesh.uvs is not None
        faces = np.flatnonzero(mesh.face_slots == slot)
        size = np.array([picture.shape[1], picture.shape[0]])
        column, row = np.clip((mesh.uvs[faces] * size).astype(int), 0, size - 1).reshape(-1, 2).T
        corner, seen = mesh.faces[faces].reshape(-1), picture[row, column]
        if slot in mesh.materials and mesh.colours is not None:
            seen = tint(seen, srgb_to_linear(mesh.colours[corner] / 255))
        colours[corner] = seen
    return colours
