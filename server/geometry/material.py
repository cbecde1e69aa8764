# SPDX-License-Identifier: GPL-3.0-or-later
"""An artist's material, whatever of it is not painted: a material of glTF 2.0 and its pictures."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .mesh import linear_to_srgb, srgb_to_linear

# A kind of picture that is painted -> where glTF names it.
TEXTURES = {
    "texture": "baseColorTexture",
    "roughness": "metallicRoughnessTexture",
    "metallic": "metallicRoughnessTexture",
    "normal": "normalTexture",
}


@dataclass(frozen=True)
class Material:
    """How a slot looks, as its file has it.

    gltf: a material of the glTF 2.0 specification with its extensions. The "index" of a texture counts `pictures`;
        its "texCoord" 0 is `Mesh.uvs`, and n is the n-th of `Mesh.more_uvs`.
    pictures: of each a PNG or JPEG file and its glTF sampler.
    """

    gltf: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[tuple[bytes, dict[str, Any]], ...] = ()

    @property
    def name(self) -> str:
        return str(self.gltf.get("name", ""))

    @property
    def surface(self) -> dict[str, Any]:
        """Its base colour, metallic and roughness."""
        return self.gltf.get("pbrMetallicRoughness", {})  # type: ignore[no-any-return]

    @property
    def base_factor(self) -> np.ndarray:
        """(4,) linear red, green, blue and alpha, which multiply base colour."""
        factor = np.array(self.surface.get("baseColorFactor", (1, 1, 1, 1)), float)
        return np.nan_to_num(factor, nan=1.0).clip(0, 1)

    @property
    def colour(self) -> np.ndarray | None:
        """(3,) uint8, sRGB: the base colour of a material without a picture of it; None where it is white."""
        factor = self.base_factor[:3]
        return None if "baseColorTexture" in self.surface or (factor == 1).all() else to_byte(factor)

    def constants(self) -> dict[str, np.ndarray]:
        """The numbers that count where it has no picture, by their kinds of `protocol.SLOT_ARRAYS`: a texel each."""
        found = {} if self.colour is None else {"texture": self.colour[None, None]}
        for kind in ("roughness", "metallic"):
            value = min(max(float(self.surface.get(f"{kind}Factor", 1)), 0.0), 1.0)
            found[kind] = np.full((1, 1), round(255 * value), np.uint8)
        return found

    def lies_elsewhere(self, kind: str) -> bool:
        """Whether its picture of that kind is on another UV map than base colour."""
        info = (self.gltf if kind == "normal" else self.surface).get(TEXTURES[kind], {})
        return bool(info.get("texCoord"))

    def without_pictures(self) -> Material:
        """The same numbers, for UVs that its pictures were not made for."""
        gltf = copy.deepcopy(self.gltf)
        for parent, key in list(textures(gltf)):
            del parent[key]
        return Material(gltf)


def textures(values: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Where in a glTF material its textures are named: (the object, its key), those of extensions too."""
    for key, value in values.items():
        if not isinstance(value, dict) or key == "extras":
            continue
        if key.endswith("Texture") and "index" in value:
            yield values, key
        else:
            yield from textures(value)


def tinted(picture: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """A (…, 3) uint8 sRGB picture times a linear factor, (3,) or (…, 3)."""
    if factor.ndim > 1:
        return to_byte(srgb_to_linear(picture / 255) * factor)
    table = to_byte(srgb_to_linear(np.arange(256)[:, None] / 255) * factor)
    return np.stack([table[picture[..., i], i] for i in range(3)], axis=-1)


def to_byte(linear: np.ndarray) -> np.ndarray:
    """uint8, sRGB, of linear values, cut off at 0 and 1."""
    return np.round(255 * linear_to_srgb(linear.clip(0, 1))).astype(np.uint8)
