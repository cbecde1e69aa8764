# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures that a file names beside it, and UDIM: squares of the UV plane with a picture each."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from msd_blender.protocol import MAX_SLOTS

from ..mesh import Mesh
from .common import Say, find, picture

FIRST_TILE = 1001  # of UDIM: 1001 + u + 10 v, u from 0 to 9
BORDER = 1e-4  # how far a UV may lie outside of its tile


def tiles(uvs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the UDIM tile that each triangle's middle is in (F,), whether all of the triangle is (F,)), of (F, 3, 2) UVs.

    The tile is 0 where there are no UVs, and where UDIM has no number for the place.
    """
    whole = np.isfinite(uvs).all(axis=(1, 2))
    uvs = np.where(whole[:, None, None], uvs, 0.5).astype(np.float64)
    tile = np.floor(uvs.mean(axis=1))
    local = uvs - tile[:, None]
    inside = (local >= -BORDER).all(axis=(1, 2)) & (local <= 1 + BORDER).all(axis=(1, 2))
    numbered = (tile >= 0).all(axis=1) & (tile < (10, 100)).all(axis=1)
    return np.where(whole & numbered, FIRST_TILE + tile @ (1, 10), 0).astype(np.int32), inside & numbered


def split_tiles(
    slots: np.ndarray, tile: np.ndarray, tiled: Collection[int], count: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A slot of its own for each tile of the slots in `tiled`: ((F,) new slots, (old slot, tile) of each new one).

    A slot's lowest tile keeps its number, as do the triangles in none; further ones follow behind the `count` old
    slots.
    """
    made, owners = slots.copy(), [(slot, FIRST_TILE) for slot in range(count)]
    for slot in sorted(tiled):
        for i, number in enumerate(numbers(tile[slots == slot])):
            if i:
                owners.append((slot, number))
                made[(slots == slot) & (tile == number)] = len(owners) - 1
            else:
                owners[slot] = slot, number
    return made, owners


def numbers(tile: np.ndarray) -> list[int]:
    """The tiles that are there, the lowest first."""
    return np.unique(tile[tile > 0]).tolist()  # type: ignore[no-any-return]


_TOKEN = re.compile(r"<(udim|uvtile)>|%\(udim\)d", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![0-9])1[0-9]{3}(?![0-9])(?=[^/\\]*$)")


def _tile_name(name: str, tile: int) -> str | None:
    """The name of a tile's picture, from the name with a token or with another tile's number; None without those."""
    v, u = divmod(tile - FIRST_TILE, 10)
    if _TOKEN.search(name):
        return _TOKEN.sub(
            lambda token: f"u{u + 1}_v{v + 1}" if token[1] and token[1].lower() == "uvtile" else str(tile), name
        )
    found = list(_NUMBER.finditer(name))
    return name[: found[-1].start()] + str(tile) + name[found[-1].end() :] if found else None


@dataclass
class Picture:
    """A picture that a file names; it is looked for in `folders` and beside the file."""

    name: str
    path: Path  # of the file
    mode: str  # "RGB", "L", or "A": its alpha if it has some, else its brightness
    folders: tuple[Path, ...] = ()
    channel: int | None = None  # the one to read of RGB
    bump: bool = False  # of heights with some programs, of normals with others

    def read(self, say: Say) -> np.ndarray | None:
        """(H, W, 3) or (H, W) uint8, bottom row first. None where it cannot be had, which is said."""
        file = self._find(self.name)
        if file is None:
            say(
                f"{self.path.name} names the picture {self.name!r}, which is not there, and is read without it: put it "
                "beside the mesh."
            )
            return None
        if file not in [(folder / self.name.strip().replace("\\", "/")).resolve() for folder in self._places]:
            say(f"{self.path.name} names the picture {self.name!r}: {file.name!r} beside it is taken for it.")
        try:
            values = picture(file, self.mode if self.channel is None and self.mode != "A" else "RGBA")
            if self.mode == "A" and self.channel is None:
                values = values[..., 3] if (values[..., 3] < 255).any() else picture(file, "L")
        except Exception as error:  # damaged files make Pillow raise anything
            say(f"{self.path.name} is read without the picture {self.name!r}. {error}")
            return None
        if self.bump and (values == values[..., :1]).all():
            say(
                f"{self.path.name} names the picture {self.name!r}, which is of heights and left out: bake it to "
                "normals."
            )
            return None
        return values if self.channel is None else np.ascontiguousarray(values[..., self.channel])

    def read_tiles(self, wanted: Collection[int], say: Say) -> dict[int, np.ndarray] | None:
        """The pictures of UDIM tiles that the name stands for, those that are there; None if it names a single one.

        A name with a number but no token is of tiles if another wanted tile is there.
        """
        names = {tile: name for tile in wanted if (name := _tile_name(self.name, tile)) and self._find(name)}
        if not _TOKEN.search(self.name) and not set(names.values()) - {self.name}:
            return None
        if missing := ", ".join(str(tile) for tile in sorted(set(wanted) - set(names))):
            say(
                f"{self.path.name} names the pictures {self.name!r}, which are not there for the tiles {missing}: put "
                "them beside the mesh."
            )
        found = {tile: replace(self, name=name).read(say) for tile, name in names.items()}
        return {tile: values for tile, values in found.items() if values is not None}

    @property
    def _places(self) -> tuple[Path, ...]:
        return *self.folders, self.path.parent

    def _find(self, name: str) -> Path | None:
        return find(name, *self._places)


def textured(
    slots: np.ndarray, uvs: np.ndarray | None, materials: Sequence[Mapping[str, Picture]], name: str, say: Say
) -> tuple[np.ndarray, dict[str, np.ndarray], list[int]]:
    """((F,) slots, the textures, the material of each slot), from the pictures of the materials, by our kinds.

    A slot becomes one for each tile where a picture has tiles. name: of the file.
    """
    tile, inside = (np.zeros(len(slots), np.int32), np.ones(len(slots), bool)) if uvs is None else tiles(uvs)
    single, several = dict[tuple[int, str], np.ndarray | None](), dict[tuple[int, str], dict[int, np.ndarray]]()
    for slot, pictures in enumerate(materials):
        for kind, named in pictures.items():
            found = named.read_tiles(numbers(tile[slots == slot]), say)
            if found is None:
                single[slot, kind] = named.read(say)
            else:
                several[slot, kind] = found
    tiled = {slot for slot, _ in several}
    if across := int((~inside & np.isin(slots, list(tiled))).sum()):
        say(f"{name} has triangles across the borders of UDIM tiles ({across:,}), which show the picture of one.")
    slots, owners = split_tiles(slots, tile, tiled, len(materials))
    textures = {}
    for slot, (owner, number) in enumerate(owners):
        for kind in materials[owner]:
            values = several[owner, kind].get(number) if (owner, kind) in several else single[owner, kind]
            if values is not None:
                textures[f"{kind}.{slot}"] = values
    return slots, textures, [owner for owner, _ in owners]


def with_tiles(mesh: Mesh, name: str, say: Say) -> Mesh:
    """A slot for each UDIM tile of what has no picture yet; a note where one picture repeats in several tiles."""
    if mesh.uvs is None:
        return mesh
    tile, inside = tiles(mesh.uvs)
    slots = mesh.face_slots
    # What is no wider than a picture shares nothing, wherever it lies.
    finite = np.isfinite(mesh.uvs).all(axis=(1, 2))
    spread = [
        slot
        for slot in np.unique(slots[finite]).tolist()
        if (np.ptp(mesh.uvs[finite & (slots == slot)], axis=(0, 1)) > 1 + BORDER).any()
    ]
    pictured = {int(texture.partition(".")[2]) for texture in mesh.textures}
    empty = [slot for slot in spread if slot not in pictured and inside[slots == slot].all()]
    split, owners = split_tiles(slots, tile, empty, int(slots.max()) + 1)
    if len(owners) > MAX_SLOTS:
        empty, split = [], slots
    if shared := len(set(spread) - set(empty)):
        say(
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
