# SPDX-License-Identifier: GPL-3.0-or-later
"""Assets with a topology of their own: a mesh that gets a texture, and one whose vertices move as well."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor, nn

from ..geometry.mesh import Mesh
from ..geometry.precondition import Preconditioner
from ..rendering.cameras import OBJECT_RADIUS, Cameras
from ..rendering.normals import face_normals, vertex_normals
from ..rendering.rasterize import Rasterizer
from ..rendering.render import GBuffer, depth_and_normals, shade
from ..rendering.shading import Lights
from . import mesh_stages
from .appearance import Appearance, TextureAppearance, VertexAppearance, perturb_normals
from .base import Asset, AssetState, BuildContext, MeshOptions, ParamGroup
from .colour_grid import ColourGrid, levels_within
from .field_asset import FieldAsset
from .stiffness import Stiffness

POSITION_LR = 0.1  # a vertex's learning rate, metres, beside a colour's, logits


@dataclass(frozen=True)
class Placement:
    """How a mesh is brought before the cameras: (x - centre) * scale. Only pictures use it."""

    centre: NDArray[np.float32]  # (3,) float32, metres
    scale: float

    @classmethod
    def of(cls, mesh: Mesh) -> Placement:
        """Centred, and filling the ball that priors know objects in."""
        used = mesh.positions[np.unique(mesh.faces)]
        centre = (used.min(axis=0) + used.max(axis=0)) / 2
        radius = float(np.linalg.norm(used - centre, axis=1).max())
        return cls(centre, OBJECT_RADIUS / radius if radius > 0 else 1.0)

    def apply(self, positions: NDArray[np.float32]) -> NDArray[np.float32]:
        """(V, 3) float32 before the cameras, of (V, 3) metres."""
        placed: NDArray[np.float32] = ((positions - self.centre) * np.float32(self.scale)).astype(np.float32)
        return placed


class MeshAsset(nn.Module):
    """A given mesh. Its colours are a smooth field over the surface; its vertices, if they move, take smoothed steps.

    Locked vertices and protected texels come back bit for bit.

    Args:
        keep_details: the given colours stay as details under the optimized ones; otherwise the optimized ones begin
            as a smooth copy.
        placement: None centres the mesh.
        grid: (1, 3, n, n, n) colour logits over the cameras' cube, to begin with.
        fit: begin with the given colours otherwise, unless they stay as details.
        level_count: of the colour's levels at most, as an earlier version's checkpoint has them.
    """

    name: ClassVar[str]
    moves: ClassVar[bool]
    """Whether the vertices move, beside the colours."""

    def __init__(
        self,
        mesh: Mesh,
        rasterizer: Rasterizer,
        device: torch.device,
        options: MeshOptions,
        keep_details: bool = False,
        placement: Placement | None = None,
        grid: Tensor | None = None,
        fit: bool = True,
        level_count: int | None = None,
    ):
        super().__init__()
        self.source, self.rasterizer, self.options, self.keep_details = mesh, rasterizer, options, keep_details
        self.placement = placement or Placement.of(mesh)
        # Vertices at one place are one vertex, so that a seam of normals or UVs does not tear.
        welded, index = np.unique(mesh.positions, axis=0, return_inverse=True)
        index = index.reshape(-1)
        self.weld = torch.from_numpy(index).to(device)
        self.faces = torch.from_numpy(index[mesh.faces].astype(np.int32)).to(device)
        self.rest = torch.from_numpy(self.placement.apply(welded)).to(device)
        locked = np.zeros(len(welded), bool)
        if mesh.locked is not None:
            np.logical_or.at(locked, index, mesh.locked > 0)
        self.locked = torch.from_numpy(locked).to(device)
        if self.moves:
            self.preconditioner = Preconditioner(self.faces, len(welded), locked=self.locked)
            self.moved = nn.Parameter(torch.zeros_like(self.rest))
            self.stiffness = Stiffness(self.rest, self.faces)
            self.mirror_index = _mirror_index(welded, options.symmetry, device)
            self.mirror = torch.tensor([-1.0 if axis == options.symmetry else 1.0 for axis in "xyz"], device=device)
        textured = mesh.uvs is not None and (not self.moves or bool(mesh.textures) or mesh.colours is None)
        make = TextureAppearance if textured else VertexAppearance
        corners = self.rest[self.weld]
        self.appearance: Appearance = make(mesh, corners, options, keep_details, rasterizer, device)
        levels = levels_within(options.colour_levels, self.appearance.spacing)
        self.colour_grid = ColourGrid(
            levels[:level_count],
            3 + len(options.maps),
            device,
            [*self.appearance.points(), corners],
            options.colour_levels[-1],
            "normal" in options.maps,
        )
        if grid is not None:
            self.colour_grid.start_from(grid)
        elif fit and not keep_details and self.appearance.coloured:
            self.colour_grid.fit(*self.appearance.given_samples(), torch.Generator().manual_seed(0))

    @classmethod
    @abstractmethod
    def from_previous(cls, previous: Asset | None, context: BuildContext) -> Asset:
        """As `Asset.from_previous`."""

    @classmethod
    def prepared(
        cls,
        mesh: Mesh,
        context: BuildContext,
        keep_details: bool = False,
        placement: Placement | None = None,
        grid: Tensor | None = None,
    ) -> Self:
        """The asset of a mesh as a user brings it, with UVs where it needs them and a warning for what cannot be."""
        mesh = mesh_stages.prepare(mesh, context, needs_uvs=not cls.moves)
        asset = cls(mesh, context.rasterizer, context.device, context.options, keep_details, placement, grid)
        mesh_stages.warn_of_texels(mesh, asset.appearance.blocked, context)
        return asset

    @classmethod
    def from_edit(cls, mesh: Mesh, context: BuildContext) -> Self:
        """The asset that goes on from a mesh that an artist edited, whose colours stay as details."""
        return cls.prepared(mesh, context, keep_details=True)

    @classmethod
    def from_checkpoint(cls, state: AssetState, context: BuildContext) -> Self:
        """As `Asset.from_checkpoint`."""
        mesh, placement = _source(state)
        mesh = mesh_stages.with_file_attributes(mesh, context.mesh)
        asset = cls(
            mesh,
            context.rasterizer,
            context.device,
            context.options,
            state.keep_details,
            placement,
            fit=False,
            level_count=sum(name.startswith(PAINT) for name in state.tensors),
        )
        asset.load_state_dict(
            {
                name.replace(PAINT, "colour_grid."): value
                for name, value in state.tensors.items()
                if name != PLACEMENT and not name.startswith(SOURCE)
            }
        )
        return asset

    def checkpoint_state(self) -> AssetState:
        """The parameters, the mesh as it was given and its placement."""
        source = {f"{SOURCE}{name}": torch.from_numpy(array) for name, array in self.source.arrays().items()}
        placement = torch.tensor([*self.placement.centre.tolist(), self.placement.scale], dtype=torch.float64)
        own = {name.replace("colour_grid.", PAINT): value for name, value in self.state_dict().items()}
        return AssetState(self.name, own | source | {PLACEMENT: placement}, self.keep_details)

    def param_groups(self) -> list[ParamGroup]:
        groups = self.colour_grid.param_groups()
        return [*groups, {"params": [self.moved], "lr_scale": POSITION_LR}] if self.moves else groups

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
        positions = self.placed_positions()
        clip = cameras.clip(positions)
        rast = self.rasterizer.rasterize(clip, self.faces, (resolution, resolution))
        hit = rast[..., 3].flatten().nonzero()[:, 0]
        if self.options.flat:
            face = rast[..., 3].flatten()[hit].long() - 1
            normals = _scatter(hit, face_normals(positions, self.faces)[face], rast)
        else:
            normals = self.rasterizer.interpolate(vertex_normals(positions, self.faces)[None], rast, self.faces)
        normals = F.normalize(normals, dim=-1, eps=1e-6)
        seen = self.appearance.sample(self.colour_grid, rast, hit, clip.detach(), self.faces, generator)
        if seen.height_gradient is not None:
            normals = _scatter(hit, perturb_normals(normals.view(-1, 3)[hit], seen.height_gradient), rast)
        values = _scatter(hit, seen.values, rast)
        maps = {kind: values[..., i : i + 1] for i, kind in enumerate(self.appearance.maps, 3)}
        buffer = GBuffer(
            values[..., :3], normals, maps.get("roughness"), maps.get("metallic"), self.appearance.physical
        )
        picture = shade(self.rasterizer, buffer, positions, rast, clip, self.faces, cameras, lights, backgrounds)
        penalty = 0.01 * seen.variation
        if self.moves:
            penalty = penalty + self.stiffness(positions)
        return picture, penalty

    def depth_and_normals(self, cameras: Cameras, resolution: int) -> tuple[Tensor, Tensor]:
        """As `rendering.render.depth_and_normals`, of the mesh as it is."""
        with torch.no_grad():
            positions = self.placed_positions()
        return depth_and_normals(self.rasterizer, positions, self.faces, cameras, resolution, self.options.flat)

    def placed_positions(self) -> Tensor:
        """(W, 3) the welded vertices before the cameras, metres."""
        return self.rest + self.displacement() if self.moves else self.rest

    def displacement(self) -> Tensor:
        """(W, 3) how far each welded vertex is from where it was given, placed: within its limits."""
        move: Tensor = self.preconditioner.to_positions(self.moved)
        if self.options.symmetry:
            move = (move + self.mirror * move[self.mirror_index]) / 2
            move = move.masked_fill(self.locked[:, None], 0)
        if self.options.max_displacement is not None:
            limit = (1 - 1e-5) * self.options.max_displacement * self.placement.scale
            length = move.detach().norm(dim=1, keepdim=True)
            move = move * (limit / length.clamp(min=1e-12)).clamp(max=1)
        return move

    @torch.no_grad()
    def apply_constraints(self) -> None:
        """As `Asset.apply_constraints`: the part of a move that a limit cuts off is not kept for later."""
        if self.moves and (self.options.max_displacement is not None or self.options.symmetry):
            self.moved.copy_(self.preconditioner.from_positions(self.displacement()))

    @torch.no_grad()
    def mesh(self) -> Mesh:
        """The given mesh with its new colours, and its new positions where they move."""
        masks = mesh_stages.protection_masks(self.source)
        textures = {name: texture for name, texture in self.source.textures.items() if name not in masks}
        mesh = replace(self.source, textures=textures)
        if self.moves:
            move = (self.displacement() / self.placement.scale)[self.weld].cpu().numpy()
            fixed = self.locked[self.weld].cpu().numpy()[:, None] | (move == 0)
            mesh = mesh.with_positions(np.where(fixed, mesh.positions, mesh.positions + move))
        return self.appearance.bake(mesh, self.colour_grid)


class TextureAsset(MeshAsset):
    """A mesh that gets a texture; its vertices and UVs stay."""

    name = "texture"
    moves = False

    @classmethod
    def from_previous(cls, previous: Asset | None, context: BuildContext) -> Asset:
        """Of the uploaded mesh, of a field's surface, or of a mesh that an artist edited."""
        if isinstance(previous, MeshAsset):
            mesh, masks = previous.mesh(), mesh_stages.protection_masks(previous.source)
            return cls.from_edit(replace(mesh, textures=mesh.textures | masks), context)
        if context.mesh is not None:
            return cls.prepared(context.mesh, context)
        if not isinstance(previous, FieldAsset):
            raise TypeError(f"A texture needs a mesh or a field, not {previous!r}.")
        with torch.no_grad():
            grid = previous.grid()
        mesh = mesh_stages.clean_up(grid, context)
        return cls.prepared(mesh, context, placement=Placement(-mesh.ground_offset, 1.0), grid=grid[:, 1:])


class RefineAsset(MeshAsset):
    """A mesh whose vertices move, and whose colours change."""

    name = "refine"
    moves = True

    @classmethod
    def from_previous(cls, previous: Asset | None, context: BuildContext) -> Asset:
        """Of the uploaded mesh, or of a mesh that an artist edited, which is handed on as it is."""
        if isinstance(previous, MeshAsset):
            return previous
        if context.mesh is None:
            raise TypeError("Refine needs a mesh.")
        mesh = mesh_stages.remesh(context.mesh, context) if context.remesh else context.mesh
        return cls.prepared(mesh, context, keep_details=True)


SOURCE, PLACEMENT, PAINT = "source.", "place", "paint."  # names in checkpoints


def _source(state: AssetState) -> tuple[Mesh, Placement]:
    """The mesh that a checkpoint's asset began with, and its placement."""
    arrays = {
        name.removeprefix(SOURCE): value.numpy() for name, value in state.tensors.items() if name.startswith(SOURCE)
    }
    *centre, scale = state.tensors[PLACEMENT].tolist()
    return Mesh.from_arrays(arrays), Placement(np.array(centre, np.float32), scale)


def _scatter(pixels: Tensor, values: Tensor, rast: Tensor) -> Tensor:
    """(B, H, W, C) pictures like `rast` of (P, C) values at numbered pixels, 0 elsewhere."""
    picture = rast.new_zeros(rast[..., 0].numel(), values.shape[1])
    return picture.index_copy(0, pixels, values).view(*rast.shape[:3], -1)


def _mirror_index(positions: NDArray[np.float32], axis: str, device: torch.device) -> Tensor:
    """(W,) each vertex's mirror image in the plane through the origin; itself where it has none."""
    every = np.arange(len(positions))
    if axis and len(positions):
        sign = np.where(np.array(list("xyz")) == axis, -1, 1)
        extent = float(np.ptp(positions, axis=0).max())
        distance, mirrored = cKDTree(positions).query(positions * sign)
        mirrored = np.where((distance < 1e-3 * extent) & (mirrored[mirrored] == every), mirrored, every)
        return torch.from_numpy(mirrored).to(device)
    return torch.from_numpy(every).to(device)
