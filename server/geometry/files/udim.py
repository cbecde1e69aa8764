# SPDX-License-Identifier: GPL-3.0-or-later
"""UDIM: unit squares of the UV plane, numbered 1001 + u + 10 v, each with a texture of its own."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from msd_blender.protocol import MAX_SLOTS

from ..mesh import Mesh
from .common import Warn

FIRST_TILE = 1001
COLUMNS, ROWS = 10, 100  # of the tiles that have a number
TOLERANCE = 1e-4  # how far UVs may lie outside of a tile and still count as inside


def udim_tiles(uvs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the number of the tile with each face's centre (F,) int32, whether the whole face is in it (F,) bool).

    uvs: (F, 3, 2). The number is 0 where UVs are not finite, and outside of the numbered tiles.
    """
    whole = np.isfinite(uvs).all(axis=(1, 2))
    uvs = np.where(whole[:, None, None], uvs, 0.5).astype(np.float64)
    tile = np.floor(uvs.mean(axis=1))
    local = uvs - tile[:, None]
    inside = (local >= -TOLERANCE).all(axis=(1, 2)) & (local <= 1 + TOLERANCE).all(axis=(1, 2))
    numbered = (tile >= 0).all(axis=1) & (tile < (COLUMNS, ROWS)).all(axis=1)
    return np.where(whole & numbered, FIRST_TILE + tile @ (1, COLUMNS), 0).astype(np.int32), inside & numbered


def split_slots_by_tile(
    slots: np.ndarray, tile: np.ndarray, tiled: Collection[int], count: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Give each tile of the slots in `tiled` a slot of its own.

    The lowest tile keeps its slot's number, and so do faces outside of all tiles; further tiles get numbers from
    `count` on.

    Args:
        slots: (F,) of each face, below `count`. tile: (F,) of each face, as `udim_tiles` numbers them.
    Returns:
        ((F,) new slots, (old slot, tile) of each new slot).
    """
    made, owners = slots.copy(), [(slot, FIRST_TILE) for slot in range(count)]
    for slot in sorted(tiled):
        for i, number in enumerate(tile_numbers(tile[slots == slot])):
            if i:
                owners.append((slot, number))
                made[(slots == slot) & (tile == number)] = len(owners) - 1
            else:
                owners[slot] = slot, number
    return made, owners


def tile_numbers(tile: np.ndarray) -> list[int]:
    """The different tiles of faces (F,), ascending, without 0."""
    return np.unique(tile[tile > 0]).tolist()  # type: ignore[no-any-return]


_TOKEN = re.compile(r"<(udim|uvtile)>|%\(udim\)d", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![0-9])1[0-9]{3}(?![0-9])(?=[^/\\]*$)")


def has_tile_token(name: str) -> bool:
    """Whether a file name stands for the textures of all tiles, such as "wood.<UDIM>.png"."""
    return bool(_TOKEN.search(name))


def tile_name(name: str, tile: int) -> str | None:
    """The file name of a tile's texture, from a name with a token or another tile's number; None for other names."""
    v, u = divmod(tile - FIRST_TILE, COLUMNS)
    if _TOKEN.search(name):
        return _TOKEN.sub(
            lambda token: f"u{u + 1}_v{v + 1}" if token[1] and token[1].lower() == "uvtile" else str(tile), name
        )
    found = list(_NUMBER.finditer(name))
    return name[: found[-1].start()] + str(tile) + name[found[-1].end() :] if found else None


def split_untextured_tiles(mesh: Mesh, name: str, warn: Warn) -> Mesh:
    """The mesh with a slot for each UDIM tile of its slots without textures.

    name: of the file, for the warning about slots with a texture that repeats in several tiles.
    """
    if mesh.uvs is None:
        return mesh
    tile, inside = udim_tiles(mesh.uvs)
    slots = mesh.face_slots
    # UVs that are no wider than a tile share no texels, wherever they lie.
    finite = np.isfinite(mesh.uvs).all(axis=(1, 2))
    spread = [
        slot
        for slot in np.unique(slots[finite]).tolist()
        if (np.ptp(mesh.uvs[finite & (slots == slot)], axis=(0, 1)) > 1 + TOLERANCE).any()
    ]
    pictured = {int(texture.partition(".")[2]) for texture in mesh.textures}
    empty = [slot for slot in spread if slot not in pictured and inside[slots == slot].all()]
    split, owners = split_slots_by_tile(slots, tile, empty, int(slots.max()) + 1)
    if len(owners) > MAX_SLOTS:
        empty, split = [], slots
    if shared := len(set(spread) - set(empty)):
        warn(
            f"{name} has UVs that are wider than their picture in {shared:,} of its materials, so that parts of the "
            "surface can share texels: then what is painted on one shows on the others."
        )
    if not empty:
        return mesh
    return replace(
        mesh,
        slots=split,
        materials={slot: mesh.materials[owner] for slot, (owner, _) in enumerate(owners) if owner in mesh.materials},
    )
