# SPDX-License-Identifier: GPL-3.0-or-later
"""Image files beside a mesh file that its materials name, and the textures and slots that they become."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .common import Warn
from .images import read_image
from .lookup import find_file
from .udim import has_tile_token, split_slots_by_tile, tile_name, tile_numbers, udim_tiles


@dataclass
class TextureFile:
    """An image that a mesh file names; it is searched for in `folders` and beside the mesh file."""

    name: str
    path: Path  # of the mesh file
    mode: str  # "RGB", "L" for its luminance, or "A" for its alpha, else its luminance where it is opaque
    folders: tuple[Path, ...] = ()
    channel: int | None = None  # read this one of RGBA alone
    bump: bool = False  # a bump map, in which some programs store heights and others normals

    def read(self, warn: Warn) -> np.ndarray | None:
        """(H, W, 3) or (H, W) uint8, bottom row first. None, with a warning, where it cannot be read."""
        file = self._find(self.name)
        if file is None:
            warn(
                f"{self.path.name} names the picture {self.name!r}, which is not there, and is read without it: put it "
                "beside the mesh."
            )
            return None
        if file not in [(folder / self.name.strip().replace("\\", "/")).resolve() for folder in self._places]:
            warn(f"{self.path.name} names the picture {self.name!r}: {file.name!r} beside it is taken for it.")
        try:
            values = read_image(file, self.mode if self.channel is None and self.mode != "A" else "RGBA")
            if self.mode == "A" and self.channel is None:
                values = values[..., 3] if (values[..., 3] < 255).any() else read_image(file, "L")
        except Exception as error:  # damaged files make Pillow raise anything
            warn(f"{self.path.name} is read without the picture {self.name!r}. {error}")
            return None
        if self.bump and (values == values[..., :1]).all():
            warn(
                f"{self.path.name} names the picture {self.name!r}, which is of heights and left out: bake it to "
                "normals."
            )
            return None
        return values if self.channel is None else np.ascontiguousarray(values[..., self.channel])

    def read_tiles(self, wanted: Collection[int], warn: Warn) -> dict[int, np.ndarray] | None:
        """The images of those of the `wanted` UDIM tiles that exist; None if the name stands for a single image.

        A name with a tile's number but no token stands for tiles if the file of another wanted tile exists.
        """
        names = {tile: name for tile in wanted if (name := tile_name(self.name, tile)) and self._find(name)}
        if not has_tile_token(self.name) and not set(names.values()) - {self.name}:
            return None
        if missing := ", ".join(str(tile) for tile in sorted(set(wanted) - set(names))):
            warn(
                f"{self.path.name} names the pictures {self.name!r}, which are not there for the tiles {missing}: put "
                "them beside the mesh."
            )
        found = {tile: replace(self, name=name).read(warn) for tile, name in names.items()}
        return {tile: values for tile, values in found.items() if values is not None}

    @property
    def _places(self) -> tuple[Path, ...]:
        return *self.folders, self.path.parent

    def _find(self, name: str) -> Path | None:
        return find_file(name, *self._places)


def load_textures(
    slots: np.ndarray, uvs: np.ndarray | None, materials: Sequence[Mapping[str, TextureFile]], name: str, warn: Warn
) -> tuple[np.ndarray, dict[str, np.ndarray], list[int]]:
    """Read the textures of the materials, and split their slots by UDIM tile where a texture has tiles.

    Args:
        slots: (F,) the material of each face. uvs: (F, 3, 2).
        materials: of each material its texture files by our kinds.
        name: of the mesh file, for warnings.
    Returns:
        ((F,) new slots, the textures as `Mesh.textures` has them, the material of each new slot).
    """
    tile, inside = (np.zeros(len(slots), np.int32), np.ones(len(slots), bool)) if uvs is None else udim_tiles(uvs)
    single, several = dict[tuple[int, str], np.ndarray | None](), dict[tuple[int, str], dict[int, np.ndarray]]()
    for slot, pictures in enumerate(materials):
        for kind, named in pictures.items():
            found = named.read_tiles(tile_numbers(tile[slots == slot]), warn)
            if found is None:
                single[slot, kind] = named.read(warn)
            else:
                several[slot, kind] = found
    tiled = {slot for slot, _ in several}
    if across := int((~inside & np.isin(slots, list(tiled))).sum()):
        warn(f"{name} has triangles across the borders of UDIM tiles ({across:,}), which show the picture of one.")
    slots, owners = split_slots_by_tile(slots, tile, tiled, len(materials))
    textures = {}
    for slot, (owner, number) in enumerate(owners):
        for kind in materials[owner]:
            values = several[owner, kind].get(number) if (owner, kind) in several else single[owner, kind]
            if values is not None:
                textures[f"{kind}.{slot}"] = values
    return slots, textures, [owner for owner, _ in owners]
