# SPDX-License-Identifier: GPL-3.0-or-later
"""Materials as OBJ's libraries and UsdPreviewSurface know them, from and to glTF's; what a format cannot hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..material import TEXTURES, Material, tinted, to_byte
from ..mesh import Mesh
from .common import ROUGHNESS, Say, corner_normals, png
from .glb import sized
from .glb_reader import alpha, pixels

_STRENGTH = "KHR_materials_emissive_strength"


@dataclass
class Look:
    """What a material is where it has no picture; colours are linear."""

    name: str = ""
    base: tuple[float, ...] | None = None  # None: nothing says it
    alpha: float = 1.0
    cutoff: float = 0.0  # what has less alpha is cut off; 0: alpha is blended
    roughness: float = ROUGHNESS
    metallic: float = 0.0
    emission: tuple[float, ...] = (0, 0, 0)
    double_sided: bool = True

    def material(self, pictures: Mapping[str, np.ndarray]) -> Material:
        """The same in glTF's words. pictures: "texture" and those of kinds that are not painted."""
        files = list[bytes]()

        def texture(picture: np.ndarray) -> dict[str, Any]:
            files.append(png(picture))
            return {"index": len(files) - 1}

        surface: dict[str, Any] = {"metallicFactor": _unit(self.metallic), "roughnessFactor": _unit(self.roughness)}
        gltf = {"name": self.name, "pbrMetallicRoughness": surface, "doubleSided": self.double_sided}
        factor = [*map(_unit, self.base or (1, 1, 1)), _unit(self.alpha)]
        if "alpha" in pictures:
            surface["baseColorTexture"] = texture(np.dstack([pictures["texture"], pictures["alpha"]]))
            factor = [1.0, 1.0, 1.0, 1.0]
        if factor != [1, 1, 1, 1]:
            surface["baseColorFactor"] = factor
        if self.cutoff > 0:
            gltf |= {"alphaMode": "MASK", "alphaCutoff": float(self.cutoff)}
        elif factor[3] < 1 or "alpha" in pictures:
            gltf["alphaMode"] = "BLEND"
        light = (1, 1, 1) if "emission" in pictures else tuple(max(float(value), 0.0) for value in self.emission)
        if (most := max(light)) > 0:
            gltf["emissiveFactor"] = [value / max(most, 1) for value in light]
        if most > 1:
            gltf["extensions"] = {_STRENGTH: {"emissiveStrength": most}}
        for kind in ("emission", "occlusion"):
            if kind in pictures:
                gltf[{"emission": "emissiveTexture"}.get(kind, "occlusionTexture")] = texture(pictures[kind])
        return Material({key: value for key, value in gltf.items() if value != ""}, tuple((file, {}) for file in files))


def _unit(value: float) -> float:
    return min(max(float(value), 0.0), 1.0)


def dressed(mesh: Mesh, looks: Mapping[int, Look], over: Collection[int], name: str, say: Say) -> Mesh:
    """A mesh that was read, with a material for each slot that has a look.

    A picture comes before vertex colours, and those before a look's colour; `over` are the slots whose look's colour
    comes before. The pictures of kinds that are not painted, such as "alpha.0", go into the materials. name: of the
    file.
    """
    used = np.unique(mesh.face_slots).tolist()
    pictured = {slot for slot in used if f"texture.{slot}" in mesh.textures and mesh.uvs is not None}
    if mesh.colours is not None:
        mesh, looks = _coloured(mesh, looks, pictured, set(over) - pictured, name, say)
    textures, materials = dict(mesh.textures), {}
    for slot in used:
        if slot not in looks:
            continue
        look = looks[slot]
        if slot in pictured:
            if look.base is not None and len(set(look.base)) > 1:  # exporters leave grays there
                say(f"{name} tints the picture of the material {look.name!r}, which is not followed: bake it.")
            look = replace(look, base=None)
        own = {
            kind: textures.pop(f"{kind}.{slot}")
            for kind in ("alpha", "emission", "occlusion")
            if f"{kind}.{slot}" in textures and mesh.uvs is not None
        }
        if "alpha" in own:
            colour = to_byte(np.array(look.base or (1, 1, 1), float))
            base = textures.get(f"texture.{slot}", colour[None, None])
            height, width = np.maximum(base.shape[:2], own["alpha"].shape)
            own |= {"texture": sized(base, height, width), "alpha": sized(own["alpha"], height, width)}
            textures[f"texture.{slot}"] = own["texture"]
        materials[slot] = look.material(own)
    return replace(mesh, textures=textures, materials=materials)


def _coloured(
    mesh: Mesh, looks: Mapping[int, Look], pictured: set[int], over: set[int], name: str, say: Say
) -> tuple[Mesh, Mapping[int, Look]]:
    """The colours and looks such that each vertex and slot shows the one that counts."""
    assert mesh.colours is not None
    colours = mesh.colours.copy()
    for slot in sorted(over & looks.keys()):
        colours[mesh.faces[mesh.face_slots == slot]] = to_byte(np.array(looks[slot].base or (1, 1, 1), float))
    hidden = mesh.faces[np.isin(mesh.face_slots, list(pictured & looks.keys()))]
    colours[hidden] = 255
    changed = (colours != mesh.colours).any(axis=1)
    if (changed & (mesh.colours < 255).any(axis=1)).any():
        say(f"{name} has vertex colours where its materials have colours or pictures of their own, which count.")
    if any(len(set(look.base or ())) > 1 for slot, look in looks.items() if slot not in pictured | over):
        say(f"{name} has vertex colours, which count before the colours of its materials.")
    shown = {slot: look if slot in pictured else replace(look, base=None) for slot, look in looks.items()}
    bare = np.isin(mesh.face_slots, list((pictured | over) & looks.keys()))
    if bare.all():  # nothing shows them
        return replace(mesh, colours=None), looks
    return replace(mesh, colours=colours), shown


def look(mesh: Mesh, slot: int) -> tuple[Look, dict[str, np.ndarray]]:
    """A slot's material as other formats know it, and its pictures by their kinds, multiplied by their factors."""
    pictures = {kind: mesh.textures[f"{kind}.{slot}"] for kind in TEXTURES if f"{kind}.{slot}" in mesh.textures}
    material = mesh.materials.get(slot)
    if material is None:
        return Look(f"slot_{slot}"), pictures
    gltf, surface = material.gltf, material.surface
    *base, opaque = material.base_factor.tolist()
    shown = "texture" not in pictures and mesh.colours is None
    made = Look(
        material.name or f"slot_{slot}",
        tuple(base) if shown else None,
        roughness=surface.get("roughnessFactor", 1),
        metallic=surface.get("metallicFactor", 1),
        double_sided=bool(gltf.get("doubleSided", False)),
    )
    mode = gltf.get("alphaMode", "OPAQUE")
    made.cutoff = float(gltf.get("alphaCutoff", 0.5)) if mode == "MASK" else 0.0
    if mode == "BLEND" or made.cutoff > 0:
        own = alpha(material)
        made.alpha = opaque if own is None else 1.0
        if own is not None:
            pictures["alpha"] = np.round(own * opaque).astype(np.uint8)
    light = np.array(gltf.get("emissiveFactor", (0, 0, 0)), float)
    light *= gltf.get("extensions", {}).get(_STRENGTH, {}).get("emissiveStrength", 1)
    glow = pixels(material, gltf.get("emissiveTexture"), "RGB")
    if glow is not None and light.any():
        pictures["emission"] = tinted(glow, light)
    elif "emissiveTexture" not in gltf:
        made.emission = tuple(light.tolist())
    shade = pixels(material, info := gltf.get("occlusionTexture"), "RGB")
    if shade is not None and info:
        strength = _unit(info.get("strength", 1))
        pictures["occlusion"] = np.round(255 + strength * (shade[..., 0].astype(float) - 255)).astype(np.uint8)
    return made, pictures


def unique_names(names: Mapping[int, str], allowed: Callable[[str], str]) -> dict[int, str]:
    """A name of its own for each slot, that the format allows."""
    found = dict[int, str]()
    for slot, name in names.items():
        name = made = allowed(name.encode("utf-8", "replace").decode()) or f"slot_{slot}"
        number = 0
        while made in found.values():
            number += 1
            made = f"{name}_{number}"
        found[slot] = made
    return found


def _features(mesh: Mesh) -> dict[str, bool]:
    """What a mesh has beside places, faces and colours of vertices, in the words of a note."""
    used = np.unique(mesh.face_slots).tolist()
    looks = {slot: look(mesh, slot) for slot in used}
    own = {slot: mesh.materials[slot] for slot in used if slot in mesh.materials}
    names = [material.name for material in own.values()]
    gltfs = [material.gltf for material in own.values()]
    samplers = [sampler for material in own.values() for _, sampler in material.pictures]
    tints = mesh.colours is not None and any(
        (mesh.colours[mesh.faces[mesh.face_slots == slot]] < 255).any()
        for slot in used
        if {"texture", "alpha"} & looks[slot][1].keys()
    )
    sides = {found.double_sided for found, _ in looks.values()}
    return {
        "several materials": len(used) > 1,
        "UV maps": mesh.uvs is not None,
        "further UV maps": bool(mesh.more_uvs),
        "hard edges": hard(mesh),
        "pictures": any(pictures for _, pictures in looks.values()),
        "pictures on further UV maps": any(_elsewhere(gltf) for gltf in gltfs),
        "the clamping or mirroring of pictures": any(
            sampler.get(wrap, 10497) != 10497 for sampler in samplers for wrap in ("wrapS", "wrapT")
        ),
        "vertex colours over pictures": tints,
        "names of materials": any(names),
        "roughness and metallic": bool(own),
        "transparency": any(found.alpha < 1 or "alpha" in pictures for found, pictures in looks.values()),
        "where alpha is cut off": any(found.cutoff > 0 for found, _ in looks.values()),
        "emission": any(any(found.emission) or "emission" in pictures for found, pictures in looks.values()),
        "occlusion": any("occlusion" in pictures for _, pictures in looks.values()),
        "which sides are shown": False in sides,
        "different sides of different materials": len(sides) > 1,
        "extensions of materials": any(set(gltf.get("extensions", {})) - {_STRENGTH} for gltf in gltfs),
        "extras": any("extras" in gltf for gltf in gltfs),
    }


def _elsewhere(gltf: Any) -> bool:
    """Whether a glTF material has a picture on another than the first UV map."""
    if not isinstance(gltf, dict):
        return False
    return bool(gltf.get("texCoord")) or any(_elsewhere(value) for key, value in gltf.items() if key != "extras")


def hard(mesh: Mesh) -> bool:
    """Whether corners that share a vertex have different normals."""
    if mesh.normals is None:
        return False
    normals, first = corner_normals(mesh).reshape(-1, 3), np.zeros((len(mesh.positions), 3), np.float32)
    first[mesh.faces.reshape(-1)] = normals
    return bool((np.abs(first[mesh.faces.reshape(-1)] - normals) > 1e-5).any())


FEATURES = tuple(_features(Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))))


def say_lost(mesh: Mesh, lost: Collection[str], path: Path, say: Say) -> None:
    """One sentence about those of the features that the mesh has and its format does not."""
    if found := [name for name, there in _features(mesh).items() if there and name in lost]:
        say(f"{path.name} has no place for {', '.join(found)}, which it is written without: GLB keeps them.")


def printable(name: str) -> str:
    """The name on one line, without blanks around it or a backslash at its end, which goes on in the next line."""
    name = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "_", name).strip()
    return name[:-1] + "_" if name.endswith("\\") else name
