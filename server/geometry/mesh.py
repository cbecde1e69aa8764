# SPDX-License-Identifier: GPL-3.0-or-later
"""A finished mesh: plain arrays, its clean-up and export."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from msd_blender.protocol import SLOT_ARRAYS, array_kind

if TYPE_CHECKING:
    from .material import Material


@dataclass(frozen=True)
class Mesh:
    """Arrays as `msd_blender.protocol.ARRAYS` names them, in C's order; what is None is not there.

    What follows `lift` comes from files and does not cross the wire.

    normals: (F, 3, 3) float32, unit normals of the faces' corners; not numbers where a face has its own, flat one.
        None: smooth ones, of the vertices.
    more_uvs: further UV maps, each (F, 3, 2) float32, not numbers where a face has none.
    materials: how slots look beside what is painted. The vertex colours multiply the picture of a slot with one.
    """

    positions: np.ndarray  # (V, 3) float32, metres, Z up
    faces: np.ndarray  # (F, 3) int32, counter-clockwise outward
    colours: np.ndarray | None = None  # (V, 3) uint8, sRGB
    uvs: np.ndarray | None = None  # (F, 3, 2) float32
    slots: np.ndarray | None = None  # (F,) int32: the texture that a face has
    locked: np.ndarray | None = None  # (V,) uint8: 1 must not change
    textures: dict[str, np.ndarray] = field(default_factory=dict)  # of `protocol.SLOT_ARRAYS`, such as "texture.0"
    lift: np.ndarray = field(default_factory=lambda: np.zeros(3, np.float32))  # add to be back in the field
    normals: np.ndarray | None = None
    more_uvs: tuple[np.ndarray, ...] = ()
    materials: dict[int, Material] = field(default_factory=dict)

    def __post_init__(self) -> None:  # libraries hand out arrays in Fortran's order, and devices refuse them
        for name in ("positions", "faces", "colours", "uvs", "slots", "locked", "lift", "normals"):
            if (array := getattr(self, name)) is not None:
                object.__setattr__(self, name, np.ascontiguousarray(array))
        object.__setattr__(
            self, "textures", {name: np.ascontiguousarray(array) for name, array in self.textures.items()}
        )

    def arrays(self) -> dict[str, np.ndarray]:
        values = {
            "positions": self.positions,
            "faces": self.faces,
            "colours": self.colours,
            "uvs": self.uvs,
            "slots": self.slots,
            "locked": self.locked,
            **self.textures,
        }
        return {name: array for name, array in values.items() if array is not None}

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> Mesh:
        """The mesh of a frame's arrays."""
        names = ("positions", "faces", "colours", "uvs", "slots", "locked")
        given: dict[str, Any] = {name: arrays[name] for name in names if name in arrays}
        return cls(**given, textures={name: array for name, array in arrays.items() if array_kind(name) in SLOT_ARRAYS})

    @property
    def shown_colours(self) -> np.ndarray:
        """(V, 3) uint8: the vertex colours; without any the materials' own, or a light gray."""
        if self.colours is not None:
            return self.colours
        shown = np.full((len(self.positions), 3), 204, np.uint8)
        for slot, material in self.materials.items():
            if (colour := material.colour) is not None:
                shown[self.faces[self.face_slots == slot]] = colour
        return shown

    @property
    def face_slots(self) -> np.ndarray:
        """(F,) int32: the slots, all 0 where the mesh names none."""
        return np.zeros(len(self.faces), np.int32) if self.slots is None else self.slots

    def moved(self, positions: np.ndarray) -> Mesh:
        """The mesh with its vertices elsewhere (V, 3). Corners that share a vertex and a normal share their faces'
        mean one, so that hard edges stay hard; normals of faces that did not move stay."""
        mesh = replace(self, positions=positions)
        if self.normals is None:
            return mesh
        key = np.concatenate([self.faces.reshape(-1, 1).astype(np.float64), self.normals.reshape(-1, 3)], axis=1)
        _, group = np.unique(np.nan_to_num(key, nan=2.0), axis=0, return_inverse=True)
        group = group.reshape(-1)
        a, b, c = (positions[self.faces[:, i]].astype(np.float64) for i in range(3))
        total = np.zeros((group.max(initial=-1) + 1, 3))
        np.add.at(total, group, np.repeat(np.cross(b - a, c - a), 3, axis=0))
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
        lift = np.array([0, 0, self.positions[:, 2].min()], np.float32)
        return replace(self, positions=self.positions - lift, lift=self.lift + lift)


def edge_counts(faces: np.ndarray) -> tuple[int, int]:
    """(edges, edges without exactly two faces): the second is 0 for a closed manifold mesh."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    return len(count), int((count != 2).sum())


def degenerate(positions: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F,) bool: a corner twice, or so thin that its height is under a millionth of its longest edge."""
    corners = positions[faces].astype(np.float64)
    edges = corners - np.roll(corners, 1, axis=1)
    doubled = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    return doubled <= 1e-6 * np.square(edges).sum(axis=2).max(axis=1, initial=0)


def largest_parts(inside: np.ndarray, share: float = 0.05) -> np.ndarray:
    """The mask without its connected parts smaller than `share` of the largest: the floaters."""
    labels, count = ndimage.label(inside)
    if count == 0:
        return inside
    sizes = np.bincount(labels.ravel())[1:]
    keep = np.flatnonzero(sizes >= share * sizes.max()) + 1
    return np.isin(labels, keep)


def bridged(inside: np.ndarray, reach: float = 2.0, share: float = 0.02) -> np.ndarray:
    """The mask of a grid with what fills the gaps between parts that nearly touch, at most 2 `reach` points wide.

    It is a closing by a ball, kept only where it joins two parts, none of them a floater: legs stay apart, and
    so do things that are far from each other. The mask itself where there is one part only.
    """
    parts, count = ndimage.label(largest_parts(inside, share))
    if count < 2:
        return inside
    solid = np.pad(parts > 0, int(reach) + 1)  # a ball at the border is not cut
    grown = ndimage.distance_transform_edt(~solid) <= reach
    closed = ndimage.distance_transform_edt(grown) > reach
    inner = (slice(int(reach) + 1, -int(reach) - 1),) * inside.ndim
    bridges, _ = ndimage.label((closed & ~solid)[inner])
    made = inside.copy()
    for i, where in enumerate(ndimage.find_objects(bridges), 1):
        around = tuple(slice(max(0, each.start - 1), each.stop + 1) for each in where)
        bridge = bridges[around] == i
        if len(np.unique(parts[around][ndimage.binary_dilation(bridge)])) > 2:  # nothing, and two parts
            made[around] |= bridge
    return made


def srgb_to_linear(colour: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, values in [0, 1]."""
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(colour: np.ndarray) -> np.ndarray:
    """The inverse of `srgb_to_linear`."""
    return np.where(colour <= 0.0031308, colour * 12.92, 1.055 * np.maximum(colour, 1e-9) ** (1 / 2.4) - 0.055)
