# SPDX-License-Identifier: GPL-3.0-or-later
"""Materials of a glTF 2.0 file, and the maps that their textures are."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from ...colour import tint
from ...material import JsonObject, Material, texture_references
from ..common import MeshFileError
from ..images import is_transparent, read_image, resize_nearest, to_eight_bits
from .document import IMAGE_EXTENSIONS, TEXTURE_TRANSFORM, Document


@dataclass(frozen=True)
class UVMap:
    """A UV map that a material uses: TEXCOORD_n of the vertices under KHR_texture_transform."""

    number: int
    transform: tuple[float, ...] = (0, 0, 0, 1, 1)  # offset, rotation, scale

    def uvs(self, values: np.ndarray) -> np.ndarray:
        """(V, 2) UVs with the origin at the bottom left, of the file's (V, 2), whose origin is at the top left."""
        x, y, angle, width, height = self.transform
        if self.transform != UVMap.transform:
            u, v = width * values[:, 0].astype(float), height * values[:, 1].astype(float)
            cos, sin = np.cos(angle), np.sin(angle)
            values = np.stack([x + cos * u + sin * v, y - sin * u + cos * v], axis=1)
        return values * (1, -1) + (0, 1)


class Materials:
    """The materials of a document."""

    def __init__(self, document: Document):
        self.document = document
        self._texture = cache(self._read_texture)

    def _read_texture(self, index: int) -> tuple[bytes, JsonObject] | None:
        """(a PNG or JPEG file, the sampler) of a texture; None, with a warning, where it cannot be read."""
        document, name = self.document, self.document.name
        texture = document.get("textures", index)
        extensions = texture.get("extensions", {})
        sources = [texture, *(extensions[each] for each in IMAGE_EXTENSIONS if each in extensions)]
        source = next((each["source"] for each in sources if "source" in each), None)
        if source is None:
            how = f"in {', '.join(sorted(extensions))}" if extensions else "without a picture"
            document.warn(f"{name} has a texture {how}, which is left out: export it with a PNG or JPEG picture.")
            return None
        image = document.get("images", source)
        title = image.get("name") or (image.get("uri", "") if not image.get("uri", "").startswith("data:") else "")
        try:
            content = document.resource(image["uri"]) if "uri" in image else document.view(image["bufferView"])[0]
            with Image.open(io.BytesIO(content)) as opened:
                opened.load()
                if opened.format not in ("PNG", "JPEG"):
                    data = io.BytesIO()
                    to_eight_bits(opened).save(data, "PNG")
                    content = data.getvalue()
        except MeshFileError as error:
            document.warn(f"{str(error).rstrip('.')}; its picture is left out.")
            return None
        except (ValueError, OSError, SyntaxError, Image.DecompressionBombError):
            document.warn(
                f"The picture {title or source} of {name} cannot be read and is left out: save it as PNG or JPEG."
            )
            return None
        sampler = document.get("samplers", texture["sampler"]) if "sampler" in texture else {}
        return content, sampler

    def read(self, index: int, sets: set[int]) -> tuple[Material, list[UVMap]]:
        """(a material, the UV maps that its textures use, base colour's first).

        sets: numbers n of the TEXCOORD_n that its primitives have; textures on others are left out, with a warning.
        """
        self.document.place = f"material {index}"
        values = copy.deepcopy(self.document.get("materials", index))
        name = values.get("name") or f"number {index}"
        self._convert_specular_glossiness(values, name)
        surface = values.get("pbrMetallicRoughness", {})
        references = list(texture_references(values))
        first = [(surface, "baseColorTexture"), (surface, "metallicRoughnessTexture"), (values, "normalTexture")]
        references.sort(
            key=lambda each: next(
                (i for i, (parent, key) in enumerate(first) if parent is each[0] and key == each[1]), len(first)
            )
        )
        textures: list[tuple[bytes, JsonObject]] = []
        maps: list[UVMap] = []
        for parent, key in references:
            info = parent[key]
            used, texture = _take_uv_map(info), self._texture(info["index"])
            if texture is not None and used.number not in sets:
                self.document.warn(
                    f"The {key} of the material {name!r} is left out, because its faces have no UV map {used.number}."
                )
                texture = None
            if texture is None:
                del parent[key]
                continue
            if not maps and not any(parent is each[0] and key == each[1] for each in first) and 0 in sets:
                maps.append(UVMap(0))  # base colour is painted on it
            if used not in maps:
                maps.append(used)
            if texture not in textures:
                textures.append(texture)
            info["index"], info["texCoord"] = textures.index(texture), maps.index(used)
            if not info["texCoord"]:
                del info["texCoord"]
        return Material(values, tuple(textures)), maps

    def _convert_specular_glossiness(self, values: JsonObject, name: str) -> None:
        """Replace a material's specular-glossiness extension by metallic and roughness, its successor in glTF."""
        old = values.get("extensions", {}).pop("KHR_materials_pbrSpecularGlossiness", None)
        if old is None:
            return
        surface = {"metallicFactor": 0, "roughnessFactor": 1 - old.get("glossinessFactor", 1)}
        values["pbrMetallicRoughness"] = surface | {
            new: old[key]
            for key, new in (("diffuseTexture", "baseColorTexture"), ("diffuseFactor", "baseColorFactor"))
            if key in old
        }
        if "specularGlossinessTexture" in old or "specularFactor" in old:
            self.document.warn(
                f"The material {name!r} is one of specular and glossiness, which glTF has given up: its specular "
                "colours and its picture of glossiness are left out."
            )


def texture_maps(material: Material) -> dict[str, np.ndarray]:
    """The material's textures on the mesh's first UV map, multiplied by their factors, by the kinds of
    `protocol.SLOT_ARRAYS`."""
    surface, found = material.metallic_roughness, dict[str, np.ndarray]()
    if (base := pixels(material, surface.get("baseColorTexture"), "RGB")) is not None:
        found["texture"] = base if (material.base_factor[:3] == 1).all() else tint(base, material.base_factor[:3])
    info = material.gltf.get("normalTexture")
    if (normal := pixels(material, info, "RGB")) is not None:
        scale = float(info.get("scale", 1)) if info else 1.0
        found["normal"] = normal if scale == 1 else _scale_normals(normal, scale)
    packed = pixels(material, surface.get("metallicRoughnessTexture"), "RGB")
    if packed is not None:
        for kind, channel in (("roughness", 1), ("metallic", 2)):
            factor = float(surface.get(kind + "Factor", 1))
            found[kind] = np.round(packed[..., channel] * min(max(factor, 0.0), 1.0)).astype(np.uint8)
    return found


def alpha_map(material: Material) -> np.ndarray | None:
    """(H, W) uint8 alpha of the base colour texture, bottom row first; None where there is none or all is opaque."""
    info = material.metallic_roughness.get("baseColorTexture")
    if info is None or not is_transparent(io.BytesIO(material.textures[info["index"]][0])):
        return None
    base = pixels(material, info, "RGBA")
    return None if base is None or (base[..., 3] == 255).all() else base[..., 3]


def with_alpha(base: np.ndarray, material: Material) -> np.ndarray:
    """Base colour (H, W, 3), or (H, W, 4) with the alpha of the material's own base colour texture if it has some."""
    own = alpha_map(material)
    return base if own is None else np.dstack([base, resize_nearest(own, *base.shape[:2])])


def pixels(material: Material, info: JsonObject | None, mode: str) -> np.ndarray | None:
    """The texture of a glTF textureInfo as `images.read_image` reads it; None without one on the first UV map."""
    if info is None or info.get("texCoord"):
        return None
    return read_image(io.BytesIO(material.textures[info["index"]][0]), mode)


def _scale_normals(normal_map: np.ndarray, scale: float) -> np.ndarray:
    """A normal map (H, W, 3) uint8 whose x and y are multiplied by glTF's normalTexture.scale."""
    normals = (2 * normal_map.astype(float) / 255 - 1) * (scale, scale, 1)
    normals /= np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-9)
    return np.round(255 * (normals + 1) / 2).astype(np.uint8)


def _take_uv_map(info: JsonObject) -> UVMap:
    """Remove texCoord and KHR_texture_transform from a textureInfo and return the UV map that they mean."""
    number = info.pop("texCoord", 0)
    extensions = info.get("extensions", {})
    given = extensions.pop(TEXTURE_TRANSFORM, {})
    if not extensions:
        info.pop("extensions", None)
    x, y = given.get("offset", (0, 0))
    width, height = given.get("scale", (1, 1))
    return UVMap(int(given.get("texCoord", number)), (x, y, float(given.get("rotation", 0)), width, height))
