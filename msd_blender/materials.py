# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots <-> materials: the images that feed a Principled shader, found, made, read and written. Main thread only."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from .pictures import floats

COLOUR = "Color"                            # names that Blender and glTF tools expect
UV_MAP = "UVMap"
FIRST_TILE = 1001                           # of UDIM: 1001 + u + 10 v
SOCKETS = {"texture": "Base Color", "roughness": "Roughness", "metallic": "Metallic", "normal": "Normal"}
KINDS = tuple(SOCKETS)
_TOKEN = "<UDIM>"                           # in a file's name, for the number of the tile


def new_material(name: str) -> Any:
    """A material that shows the vertex colours `COLOUR`."""
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    shader = principled(material)
    shader.inputs["Roughness"].default_value = 0.7
    colour = nodes.new("ShaderNodeVertexColor")
    colour.layer_name = COLOUR
    colour.location = (-300, 200)
    links.new(colour.outputs["Color"], shader.inputs["Base Color"])
    return material


def principled(material: Any) -> Any:
    """The material's Principled shader, made and put to its output where there is none."""
    if material.node_tree is None:
        material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    found = _principled(material)
    if found is None:
        found = nodes.new("ShaderNodeBsdfPrincipled")
        output = material.node_tree.get_output_node("ALL") or nodes.new("ShaderNodeOutputMaterial")
        found.location = (output.location.x - 300, output.location.y)
        links.new(found.outputs["BSDF"], output.inputs["Surface"])
    return found


def _principled(material: Any) -> Any:
    tree = material.node_tree
    if tree is None:
        return None
    output = tree.get_output_node("ALL")
    feeding = [link.from_node for link in output.inputs["Surface"].links] if output else []
    return next((node for node in [*feeding, *tree.nodes] if node.type == "BSDF_PRINCIPLED"), None)


def _image_node(material: Any, kind: str) -> Any:
    shader = _principled(material)
    links = shader.inputs[SOCKETS[kind]].links if shader else ()
    node = links[0].from_node if links else None
    if node and kind == "normal" and node.type == "NORMAL_MAP":
        links = node.inputs["Color"].links
        node = links[0].from_node if links else None
    return node if node and node.type == "TEX_IMAGE" else None


def image_of(material: Any, kind: str) -> Any:
    """The image that feeds the shader's base colour, roughness, metallic or normal; None where none does."""
    node = _image_node(material, kind)
    return node.image if node else None


def show(material: Any, kind: str, image: Any, uv_map: str) -> None:
    """Let an image feed the shader, through the node that fed it before or a new one."""
    node = _image_node(material, kind)
    if node is not None:
        node.image = image
        return
    shader = principled(material)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    x, y = shader.location.x, shader.location.y - 300 * KINDS.index(kind)
    uv = next((node for node in nodes if node.type == "UVMAP" and node.uv_map == uv_map), None)
    if uv is None:
        uv = nodes.new("ShaderNodeUVMap")
        uv.uv_map = uv_map
        uv.location = (x - 800, y)
    node = nodes.new("ShaderNodeTexImage")
    node.image = image
    node.location = (x - 600, y)
    links.new(uv.outputs["UV"], node.inputs["Vector"])
    output = node.outputs["Color"]
    if kind == "normal":
        bend = nodes.new("ShaderNodeNormalMap")
        bend.uv_map = uv_map
        bend.location = (x - 250, y)
        links.new(output, bend.inputs["Color"])
        output = bend.outputs["Normal"]
    links.new(output, shader.inputs[SOCKETS[kind]])


def new_image(name: str, kind: str, width: int, height: int) -> Any:
    image = bpy.data.images.new(name, width, height)
    set_colour_space(image, kind)
    return image


def set_colour_space(image: Any, kind: str) -> None:
    image.colorspace_settings.name = "sRGB" if kind == "texture" else "Non-Color"


def read(image: Any, out: np.ndarray | None = None) -> np.ndarray:
    """(H·W·4,) floats of an image that is not made of tiles."""
    size = len(image.pixels)
    out = out if out is not None and len(out) == size else np.empty(size, np.float32)
    image.pixels.foreach_get(out)
    return out


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of `floats` are equal, which is asked two at a time."""
    return len(a) == len(b) and bool((a.view(np.uint64) == b.view(np.uint64)).all())


def write(image: Any, pixels: np.ndarray, width: int, height: int) -> None:
    """Put `floats` of an array into an image, which takes its size."""
    if tuple(image.size) != (width, height):
        image.scale(width, height)
    image.pixels.foreach_set(pixels)
    image.update()


def to_bytes(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, 4) uint8 of Blender's pixels."""
    return np.rint(pixels.reshape(height, width, 4).clip(0, 1) * 255).astype(np.uint8)


def pixels_of(image: Any, tile: int = FIRST_TILE) -> np.ndarray | None:
    """(H, W, 4) uint8, bottom row first, of an image's UDIM tile; None where it has none.

    Blender's Python reaches only the first tile's pixels: the others are read from their files.
    """
    if image is None or not image.size[0] or not image.size[1]:
        return None
    if image.source != "TILED":
        if image.channels != 4 and image.channels != 3:
            return None
        pixels = read(image)
        if image.is_float and image.colorspace_settings.name != "Non-Color":
            pixels = np.where(pixels <= 0.0031308, 12.92 * pixels, 1.055 * np.maximum(pixels, 0) ** (1 / 2.4) - 0.055)
        if image.channels == 3:
            pixels = np.insert(pixels.reshape(-1, 3), 3, 1, axis=1).ravel()
        return to_bytes(pixels, *image.size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(bpy.path.abspath(image.filepath_raw.replace(_TOKEN, str(tile))))
        for packed in image.packed_files:
            if str(tile) in Path(packed.filepath).name:
                path = Path(folder) / Path(packed.filepath).name
                path.write_bytes(packed.packed_file.data)
        if not path.is_file():
            return None
        single = bpy.data.images.load(str(path))
        try:
            return pixels_of(single)
        finally:
            bpy.data.images.remove(single)


def new_tiled_image(name: str, kind: str, tiles: dict[int, np.ndarray]) -> Any:
    """A packed image of UDIM tiles, number -> (H, W[, 3]) uint8."""
    with tempfile.TemporaryDirectory() as folder:
        for number, array in tiles.items():
            height, width = array.shape[:2]
            single = new_image("tile", kind, width, height)
            write(single, floats(array), width, height)
            single.filepath_raw, single.file_format = str(Path(folder) / f"tile.{number}.png"), "PNG"
            single.save()
            bpy.data.images.remove(single)
        image = bpy.data.images.load(str(Path(folder) / f"tile.{min(tiles)}.png"))
        image.name, image.source = name, "TILED"
        image.filepath_raw = str(Path(folder) / f"tile.{_TOKEN}.png")
        known = {tile.number for tile in image.tiles}
        for number in tiles.keys() - known:
            image.tiles.new(number)
        for number in known - tiles.keys():
            image.tiles.remove(image.tiles.get(number))
        set_colour_space(image, kind)
        image.reload()
        image.pack()
    return image
