# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots <-> materials: the images that feed a shader, found, made, read and written. Main thread only."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Vector

from . import nodes
from .nodes import KINDS
from .pictures import floats

COLOUR = "Color"  # names that Blender and glTF tools expect
UV_MAP = "UVMap"
FIRST_TILE = 1001  # of UDIM: 1001 + u + 10 v
_TOKEN = "<UDIM>"  # in a file's name, for the number of the tile


def new_material(name: str) -> Any:
    """A material that shows the vertex colours `COLOUR`."""
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    tree, shader = material.node_tree, principled(material)
    shader.inputs["Roughness"].default_value = 0.7
    colour = tree.nodes.new("ShaderNodeVertexColor")
    colour.layer_name = COLOUR
    colour.location = (-300, 200)
    tree.links.new(colour.outputs["Color"], shader.inputs["Base Color"])
    return material


def principled(material: Any) -> Any:
    """A Principled shader at the material's output, made and put there where there is none."""
    if not material.use_nodes or material.node_tree is None:
        material.use_nodes = True
        for shader in (node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED"):
            shader.inputs["Metallic"].default_value = material.metallic
            shader.inputs["Roughness"].default_value = material.roughness
    tree = material.node_tree
    shader = nodes.shader_of(material)
    found = shader.node if shader else tree.nodes.new("ShaderNodeBsdfPrincipled")
    output = nodes.output_of(tree) or tree.nodes.new("ShaderNodeOutputMaterial")
    if shader is None:
        found.location = (output.location.x - 300, output.location.y)
    if shader is None or not output.inputs["Surface"].is_linked:
        tree.links.new(found.outputs[0], output.inputs["Surface"])
    return found


def image_of(material: Any, kind: str) -> Any:
    """The image, whole, behind the shader's base colour, roughness, metallic or normal; None without one."""
    found = nodes.feed(material, kind)
    return found.node.image if found and found.node and found.channel is None else None


def show(material: Any, kind: str, image: Any, uv_map: str) -> bool:
    """Let an image feed the shader: through the node that fed it before, or a new one where that one feeds something
    else too. uv_map: where nodes do not name one. False where the shader has no such socket."""
    principled(material)
    while True:
        like, wanted = _lead(material, uv_map)
        found = nodes.feed(material, kind)
        if found is None:
            return False
        same = found.route is not None and found.exchangeable and _coordinates(material, found.route, uv_map) == wanted
        groups, socket = (found.route.groups, None) if found.route and same else found.place
        others = next((each for each in groups if each.node_tree.users > 1 or is_linked(each.node_tree)), None)
        if others is None:
            break
        others.node_tree = others.node_tree.copy()  # what is in it is other materials' too
    if socket is None:
        found.node.image = image
        return True
    tree = socket.node.id_data
    place = Vector(socket.node.location) - Vector((300, 300 * KINDS.index(kind)))
    node = tree.nodes.new("ShaderNodeTexImage")
    node.image, node.location = image, place
    if like is not None and like.node.id_data == tree:
        node.interpolation, node.extension = like.node.interpolation, like.node.extension
        if like.node.inputs["Vector"].links:
            tree.links.new(like.node.inputs["Vector"].links[0].from_socket, node.inputs["Vector"])
    else:
        tree.links.new(_uv_output(tree, wanted.uv_map, place), node.inputs["Vector"])
    output = node.outputs["Color"]
    if kind == "normal" and not found.bent:
        bend = tree.nodes.new("ShaderNodeNormalMap")
        bend.uv_map, bend.location = wanted.uv_map, place
        node.location.x -= 200
        tree.links.new(output, bend.inputs["Color"])
        output = bend.outputs["Normal"]
    tree.links.new(output, socket)
    return True


def is_linked(data: Any) -> bool:
    """Whether a library owns it, so that it cannot be changed here."""
    return bool(data.library or data.override_library)


def _lead(material: Any, uv_map: str) -> tuple[nodes.Route | None, nodes.Coordinates]:
    with suppress(nodes.Unfit):
        return nodes.lead(material, uv_map)
    return None, nodes.Coordinates(uv_map)  # the artist's change was refused and given up


def _coordinates(material: Any, route: nodes.Route, uv_map: str) -> nodes.Coordinates | None:
    with suppress(nodes.Unfit):
        return nodes.coordinates(material, route, uv_map)
    return None


def _uv_output(tree: Any, uv_map: str, place: Any) -> Any:
    node = next((node for node in tree.nodes if node.type == "UVMAP" and node.uv_map == uv_map), None)
    if node is None:
        node = tree.nodes.new("ShaderNodeUVMap")
        node.uv_map, node.location = uv_map, (place.x - 200, place.y)
    return node.outputs["UV"]


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


def srgb(linear: np.ndarray) -> np.ndarray:
    """Linear colours as sRGB."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


def to_bytes(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, 4) uint8 of Blender's pixels."""
    return np.rint(pixels.reshape(height, width, 4).clip(0, 1) * 255).astype(np.uint8)


def pixels_of(image: Any, tile: int = FIRST_TILE, kind: str = "") -> np.ndarray | None:
    """(H, W, 4) uint8, bottom row first, of an image's UDIM tile; None where it cannot be read. kind: "texture" is
    read as sRGB, another as the shader's own numbers, "" as the image's colour space says.

    Blender's Python reaches only the first tile's pixels: the others are read from their files.
    """
    if image is None or not image.size[0] or not image.size[1]:
        return None
    if image.source != "TILED":
        channels = image.channels
        pixels = read(image).reshape(-1, channels) if channels else None
        if pixels is None or not len(pixels):
            return None
        coloured = not image.colorspace_settings.is_data
        encoded, wanted = coloured and not image.is_float, kind == "texture" if kind else coloured
        if channels == 4 and not image.is_float and encoded == wanted and image.alpha_mode != "NONE":
            return to_bytes(pixels, *image.size)
        colour = pixels[:, :3] if channels > 2 else np.repeat(pixels[:, :1], 3, axis=1)
        alpha = pixels[:, -1:] if channels in (2, 4) and image.alpha_mode != "NONE" else np.ones_like(pixels[:, :1])
        if image.is_float and image.alpha_mode in ("STRAIGHT", "PREMUL"):  # Blender holds them multiplied
            colour = np.divide(colour, alpha, out=colour.copy(), where=alpha > 0)
        if encoded and not wanted:
            colour = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        elif wanted and not encoded:
            colour = srgb(colour)
        return to_bytes(np.hstack([colour, alpha]), *image.size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(bpy.path.abspath(image.filepath_raw.replace(_TOKEN, str(tile))))
        for packed in image.packed_files:
            if str(tile) in Path(packed.filepath).name:
                path = Path(folder) / Path(packed.filepath).name
                path.write_bytes(packed.packed_file.data)
        if not path.is_file():
            return None
        single = bpy.data.images.load(str(path))
        single.colorspace_settings.name, single.alpha_mode = image.colorspace_settings.name, image.alpha_mode
        try:
            return pixels_of(single, kind=kind)
        finally:
            bpy.data.images.remove(single)


def new_tiled_image(name: str, kind: str, tiles: dict[int, np.ndarray]) -> Any:
    """A packed image of UDIM tiles, number -> (H, W[, 3 or 4]) uint8."""
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
