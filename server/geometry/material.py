# SPDX-License-Identifier: GPL-3.0-or-later
"""An artist's material with everything that is not painted: a glTF 2.0 material and its image files."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .colour import to_srgb_bytes

JsonObject = dict[str, Any]  # a part of a glTF document

# The texture maps that can be painted -> their property in glTF.
GLTF_TEXTURES = {
    "texture": "baseColorTexture",
    "roughness": "metallicRoughnessTexture",
    "metallic": "metallicRoughnessTexture",
    "normal": "normalTexture",
}


@dataclass(frozen=True)
class Material:
    """The material of a slot, as its file has it.

    gltf: a material of the glTF 2.0 specification with its extensions. The "index" of a texture counts `textures`;
        its "texCoord" 0 is `Mesh.uvs`, and n is the n-th of `Mesh.more_uvs`.
    textures: (a PNG or JPEG file, its glTF sampler) each.
    """

    gltf: JsonObject = field(default_factory=dict)
    textures: tuple[tuple[bytes, JsonObject], ...] = ()

    @property
    def name(self) -> str:
        return str(self.gltf.get("name", ""))

    @property
    def metallic_roughness(self) -> JsonObject:
        """Its pbrMetallicRoughness: base colour, metallic and roughness."""
        values: JsonObject = self.gltf.get("pbrMetallicRoughness", {})
        return values

    @property
    def base_factor(self) -> np.ndarray:
        """(4,) linear red, green, blue and alpha in [0, 1], which multiply base colour."""
        factor = np.array(self.metallic_roughness.get("baseColorFactor", (1, 1, 1, 1)), float)
        return np.nan_to_num(factor, nan=1.0).clip(0, 1)

    @property
    def colour(self) -> np.ndarray | None:
        """(3,) uint8 sRGB: the base colour of a material without a texture for it; None where it is white."""
        factor = self.base_factor[:3]
        return None if "baseColorTexture" in self.metallic_roughness or (factor == 1).all() else to_srgb_bytes(factor)

    def constants(self) -> dict[str, np.ndarray]:
        """Its constants as maps of one texel each, by the kinds of `protocol.SLOT_ARRAYS`; a texture replaces them."""
        found = {} if self.colour is None else {"texture": self.colour[None, None]}
        for kind in ("roughness", "metallic"):
            value = min(max(float(self.metallic_roughness.get(f"{kind}Factor", 1)), 0.0), 1.0)
            found[kind] = np.full((1, 1), round(255 * value), np.uint8)
        return found

    def uses_other_uv_map(self, kind: str) -> bool:
        """Whether its texture of that kind is on another UV map than base colour."""
        info = (self.gltf if kind == "normal" else self.metallic_roughness).get(GLTF_TEXTURES[kind], {})
        return bool(info.get("texCoord"))

    def without_textures(self) -> Material:
        """The same constants without textures, for UVs that the textures were not made for."""
        gltf = copy.deepcopy(self.gltf)
        for parent, key in list(texture_references(gltf)):
            del parent[key]
        return Material(gltf)


def texture_references(values: JsonObject) -> Iterator[tuple[JsonObject, str]]:
    """(the parent object, its key) of each texture in a glTF material, those of extensions too."""
    for key, value in values.items():
        if not isinstance(value, dict) or key == "extras":
            continue
        if key.endswith("Texture") and "index" in value:
            yield values, key
        else:
            yield from texture_references(value)
