# SPDX-License-Identifier: GPL-3.0-or-later
"""The few properties that the materials of MTL and UsdPreviewSurface share, from and to a glTF material."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from msd_blender.protocol import METALLIC, ROUGHNESS

from ..colour import tint, to_srgb_bytes
from ..material import GLTF_TEXTURES, JsonObject, Material
from ..mesh import Mesh
from .common import Warn
from .gltf.materials import alpha_map, pixels
from .images import encode_png, resize_nearest

EMISSIVE_STRENGTH = "KHR_materials_emissive_strength"


@dataclass
class SimpleMaterial:
    """A material's constants, which its textures replace; colours are linear."""

    name: str = ""
    base: tuple[float, ...] | None = None  # red, green, blue; None where the file gives none
    alpha: float = 1.0
    cutoff: float = 0.0  # less alpha than this is transparent, the rest opaque; 0: alpha is blended
    roughness: float = ROUGHNESS
    metallic: float = float(METALLIC)
    emission: tuple[float, ...] = (0, 0, 0)
    double_sided: bool = True

    def to_gltf(self, maps: Mapping[str, np.ndarray]) -> Material:
        """The same as a glTF material with textures of those `maps` that are not painted: "alpha" with "texture",
        "emission" and "occlusion", each (H, W) or (H, W, 3) uint8."""
        files = list[bytes]()

        def texture(image: np.ndarray) -> JsonObject:
            files.append(encode_png(image))
            return {"index": len(files) - 1}

        surface: JsonObject = {"metallicFactor": _unit(self.metallic), "roughnessFactor": _unit(self.roughness)}
        gltf = {"name": self.name, "pbrMetallicRoughness": surface, "doubleSided": self.double_sided}
        factor = [*map(_unit, self.base or (1, 1, 1)), _unit(self.alpha)]
        if "alpha" in maps:
            surface["baseColorTexture"] = texture(np.dstack([maps["texture"], maps["alpha"]]))
            factor = [1.0, 1.0, 1.0, 1.0]
        if factor != [1, 1, 1, 1]:
            surface["baseColorFactor"] = factor
        if self.cutoff > 0:
            gltf |= {"alphaMode": "MASK", "alphaCutoff": float(self.cutoff)}
        elif factor[3] < 1 or "alpha" in maps:
            gltf["alphaMode"] = "BLEND"
        light = (1, 1, 1) if "emission" in maps else tuple(max(float(value), 0.0) for value in self.emission)
        if (most := max(light)) > 0:
            gltf["emissiveFactor"] = [value / max(most, 1) for value in light]
        if most > 1:
            gltf["extensions"] = {EMISSIVE_STRENGTH: {"emissiveStrength": most}}
        for kind in ("emission", "occlusion"):
            if kind in maps:
                gltf[{"emission": "emissiveTexture"}.get(kind, "occlusionTexture")] = texture(maps[kind])
        return Material({key: value for key, value in gltf.items() if value != ""}, tuple((file, {}) for file in files))


def _unit(value: float) -> float:
    return min(max(float(value), 0.0), 1.0)


def with_materials(
    mesh: Mesh, found: Mapping[int, SimpleMaterial], over: Collection[int], name: str, warn: Warn
) -> Mesh:
    """A mesh that was read, with a glTF material for each slot in `found`.

    A slot shows its texture, else its vertex colours, else its material's base colour. Textures of kinds that are not
    painted, such as "alpha.0", move into the materials.

    Args:
        over: the slots whose base colour comes before vertex colours.
        name: of the file, for warnings.
    """
    used = np.unique(mesh.face_slots).tolist()
    pictured = {slot for slot in used if f"texture.{slot}" in mesh.textures and mesh.uvs is not None}
    if mesh.colours is not None:
        mesh, found = _resolve_colours(mesh, found, pictured, set(over) - pictured, name, warn)
    textures, materials = dict(mesh.textures), {}
    for slot in used:
        if slot not in found:
            continue
        material = found[slot]
        if slot in pictured:
            if material.base is not None and len(set(material.base)) > 1:  # exporters leave grays there
                warn(f"{name} tints the picture of the material {material.name!r}, which is not followed: bake it.")
            material = replace(material, base=None)
        own = {
            kind: textures.pop(f"{kind}.{slot}")
            for kind in ("alpha", "emission", "occlusion")
            if f"{kind}.{slot}" in textures and mesh.uvs is not None
        }
        if "alpha" in own:
            colour = to_srgb_bytes(np.array(material.base or (1, 1, 1), float))
            base = textures.get(f"texture.{slot}", colour[None, None])
            height, width = np.maximum(base.shape[:2], own["alpha"].shape)
            own |= {
                "texture": resize_nearest(base, height, width),
                "alpha": resize_nearest(own["alpha"], height, width),
            }
            textures[f"texture.{slot}"] = own["texture"]
        materials[slot] = material.to_gltf(own)
    return replace(mesh, textures=textures, materials=materials)


def _resolve_colours(
    mesh: Mesh, found: Mapping[int, SimpleMaterial], pictured: set[int], over: set[int], name: str, warn: Warn
) -> tuple[Mesh, Mapping[int, SimpleMaterial]]:
    """(the mesh, the materials) with one colour left for each vertex and slot: the one that comes first."""
    assert mesh.colours is not None
    colours = mesh.colours.copy()
    for slot in sorted(over & found.keys()):
        colours[mesh.faces[mesh.face_slots == slot]] = to_srgb_bytes(np.array(found[slot].base or (1, 1, 1), float))
    hidden = mesh.faces[np.isin(mesh.face_slots, list(pictured & found.keys()))]
    colours[hidden] = 255
    changed = (colours != mesh.colours).any(axis=1)
    if (changed & (mesh.colours < 255).any(axis=1)).any():
        warn(f"{name} has vertex colours where its materials have colours or pictures of their own, which count.")
    if any(len(set(material.base or ())) > 1 for slot, material in found.items() if slot not in pictured | over):
        warn(f"{name} has vertex colours, which count before the colours of its materials.")
    shown = {slot: material if slot in pictured else replace(material, base=None) for slot, material in found.items()}
    bare = np.isin(mesh.face_slots, list((pictured | over) & found.keys()))
    if bare.all():  # nothing shows them
        return replace(mesh, colours=None), found
    return replace(mesh, colours=colours), shown


def slot_material(mesh: Mesh, slot: int) -> tuple[SimpleMaterial, dict[str, np.ndarray]]:
    """(a slot's material, its texture maps by their kinds, multiplied by their factors)."""
    maps = {kind: mesh.textures[f"{kind}.{slot}"] for kind in GLTF_TEXTURES if f"{kind}.{slot}" in mesh.textures}
    material = mesh.materials.get(slot)
    if material is None:
        return SimpleMaterial(f"slot_{slot}"), maps
    gltf, surface = material.gltf, material.metallic_roughness
    *base, opaque = material.base_factor.tolist()
    shown = "texture" not in maps and mesh.colours is None
    made = SimpleMaterial(
        material.name or f"slot_{slot}",
        tuple(base) if shown else None,
        roughness=surface.get("roughnessFactor", 1),
        metallic=surface.get("metallicFactor", 1),
        double_sided=bool(gltf.get("doubleSided", False)),
    )
    mode = gltf.get("alphaMode", "OPAQUE")
    made.cutoff = float(gltf.get("alphaCutoff", 0.5)) if mode == "MASK" else 0.0
    if mode == "BLEND" or made.cutoff > 0:
        own = alpha_map(material)
        made.alpha = opaque if own is None else 1.0
        if own is not None:
            maps["alpha"] = np.round(own * opaque).astype(np.uint8)
    light = np.array(gltf.get("emissiveFactor", (0, 0, 0)), float)
    light *= gltf.get("extensions", {}).get(EMISSIVE_STRENGTH, {}).get("emissiveStrength", 1)
    glow = pixels(material, gltf.get("emissiveTexture"), "RGB")
    if glow is not None and light.any():
        maps["emission"] = tint(glow, light)
    elif "emissiveTexture" not in gltf:
        made.emission = tuple(light.tolist())
    shade = pixels(material, info := gltf.get("occlusionTexture"), "RGB")
    if shade is not None and info:
        strength = _unit(info.get("strength", 1))
        maps["occlusion"] = np.round(255 + strength * (shade[..., 0].astype(float) - 255)).astype(np.uint8)
    return made, maps


def unique_names(names: Mapping[int, str], allowed: Callable[[str], str]) -> dict[int, str]:
    """A different name for each slot. allowed: replaces the characters that the format does not allow in names."""
    found = dict[int, str]()
    for slot, name in names.items():
        name = made = allowed(name.encode("utf-8", "replace").decode()) or f"slot_{slot}"
        number = 0
        while made in found.values():
            number += 1
            made = f"{name}_{number}"
        found[slot] = made
    return found


def printable(name: str) -> str:
    """The name on one line, without blanks around it or a backslash at its end, which would continue the line."""
    name = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "_", name).strip()
    return name[:-1] + "_" if name.endswith("\\") else name
