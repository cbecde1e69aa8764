# SPDX-License-Identifier: GPL-3.0-or-later
"""A triangle mesh as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from msd_blender.protocol import BASE_COLOUR, SLOT_ARRAYS, array_kind

from .material import Material
from .normals import area_normals

_WIRE_ARRAYS = ("positions", "faces", "colours", "uvs", "slots", "locked")


class InvalidMeshError(ValueError):
    """A mesh cannot be worked on. The message is one sentence that says what to do."""


@dataclass(frozen=True)
class Mesh:
    """Arrays as `msd_blender.protocol.ARRAYS` names them, C-contiguous; None where the mesh has no such array.

    The fields after `textures` do not cross the wire: materials, further UV maps and custom normals come from files.
    """

    positions: np.ndarray  # (V, 3) float32, metres, Z up
    faces: np.ndarray  # (F, 3) int32, counter-clockwise outward
    colours: np.ndarray | None = None  # (V, 3) uint8, sRGB; they multiply the base colour texture of a material
    uvs: np.ndarray | None = None  # (F, 3, 2) float32, origin bottom left
    slots: np.ndarray | None = None  # (F,) int32, the material slot of each face; None: all 0
    locked: np.ndarray | None = None  # (V,) uint8: 1 must not change
    textures: dict[str, np.ndarray] = field(default_factory=dict)  # of `protocol.SLOT_ARRAYS`, such as "texture.0"
    # (3,) float32: add it to the positions to undo `on_ground`.
    ground_offset: np.ndarray = field(default_factory=lambda: np.zeros(3, np.float32))
    # (F, 3, 3) float32, unit custom normals by corner, NaN for a flat face's own; None: smooth ones of the vertices.
    normals: np.ndarray | None = None
    more_uvs: tuple[np.ndarray, ...] = ()  # further UV maps, each (F, 3, 2) float32, NaN where a face has none
    materials: dict[int, Material] = field(default_factory=dict)  # by slot, for all that is not painted

    def __post_init__(self) -> None:
        # Libraries return arrays in Fortran's order, which tensors on devices refuse.
        for name, array in vars(self).items():
            if isinstance(array, np.ndarray):
                object.__setattr__(self, name, np.ascontiguousarray(array))
        contiguous = {name: np.ascontiguousarray(array) for name, array in self.textures.items()}
        object.__setattr__(self, "textures", contiguous)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that cross the wire, by the names of `protocol.ARRAYS` and `protocol.SLOT_ARRAYS`."""
        own = {name: array for name, array in vars(self).items() if name in _WIRE_ARRAYS and array is not None}
        return own | self.textures

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Mesh:
        """The mesh of a frame's arrays; others than a mesh's, such as "preview", are left out."""
        return cls(
            arrays["positions"],
            arrays["faces"],
            arrays.get("colours"),
            arrays.get("uvs"),
            arrays.get("slots"),
            arrays.get("locked"),
            {name: array for name, array in arrays.items() if array_kind(name) in SLOT_ARRAYS},
        )

    @property
    def shown_colours(self) -> np.ndarray:
        """(V, 3) uint8 sRGB: the vertex colours; without any the materials' base colours, or a light grey."""
        if self.colours is not None:
            return self.colours
        shown = np.full((len(self.positions), 3), round(255 * BASE_COLOUR), np.uint8)
        for slot, material in self.materials.items():
            if (colour := material.colour) is not None:
                shown[self.faces[self.face_slots == slot]] = colour
        return shown

    @property
    def face_slots(self) -> np.ndarray:
        """(F,) int32: the material slots, all 0 where the mesh names none."""
        return np.zeros(len(self.faces), np.int32) if self.slots is None else self.slots

    def with_positions(self, positions: np.ndarray) -> Mesh:
        """The mesh with its vertices at other places, (V, 3) float32.

        Custom normals are computed anew where a face has moved: corners with the same vertex and normal share the
        area-weighted mean of their faces', so that hard edges stay hard. Those of faces that have not moved stay.
        """
        mesh = replace(self, positions=positions)
        if self.normals is None:
            return mesh
        key = np.concatenate([self.faces.reshape(-1, 1).astype(np.float64), self.normals.reshape(-1, 3)], axis=1)
        _, group = np.unique(np.nan_to_num(key, nan=2.0), axis=0, return_inverse=True)
        group = group.reshape(-1)
        total = np.zeros((group.max(initial=-1) + 1, 3))
        np.add.at(total, group, np.repeat(area_normals(positions, self.faces), 3, axis=0))
        length = np.linalg.norm(total, axis=1, keepdims=True)
        moves = (positions != self.positions).any(axis=1)[self.faces].any(axis=1)
        anew = np.bincount(group, np.repeat(moves, 3), len(total))[:, None].astype(bool) & (length > 0)
        fresh = (total / np.where(length > 0, length, 1))[group].reshape(-1, 3, 3)
        anew = anew[group].reshape(-1, 3, 1) & np.isfinite(self.normals)
        return replace(mesh, normals=np.where(anew, fresh, self.normals).astype(np.float32))

    def on_ground(self) -> Mesh:
        """The mesh moved along Z so that its lowest point is at 0: the origin is at its base."""
        if not len(self.positions):
            return self
        offset = np.array([0, 0, self.positions[:, 2].min()], np.float32)
        return replace(self, positions=self.positions - offset, ground_offset=self.ground_offset + offset)


def corners_exist(faces: np.ndarray, vertices: int) -> bool:
    """Whether all corners of (F, 3) faces are below `vertices`; True without faces."""
    return not len(faces) or (0 <= int(faces.min()) and int(faces.max()) < vertices)


def edge_counts(faces: np.ndarray) -> tuple[int, int]:
    """(edges, edges without exactly two faces) of (F, 3) faces: the second is 0 for a watertight manifold mesh."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    return len(count), int((count != 2).sum())


def degenerate_faces(positions: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F,) bool: faces with a repeated corner, or whose height is under a millionth of their longest edge."""
    corners = positions[faces].astype(np.float64)
    edges = corners - np.roll(corners, 1, axis=1)
    doubled = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    return doubled <= 1e-6 * np.square(edges).sum(axis=2).max(axis=1, initial=0)
