# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of a material: which one its shader shows, a new one in its place, and reading and writing pixels."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import bpy
import numpy as np
from mathutils import Vector

from . import nodes
from .errors import InvalidMeshError
from .nodes import KINDS
from .pixels import encode_png, linear_to_srgb, scaled_down, srgb_to_linear, to_byte_pixels, to_float_pixels

COLOUR = "Color"  # these two names are Blender's own defaults, which glTF tools expect too
UV_MAP = "UVMap"
FIRST_TILE = 1001  # UDIM tile at (u, v): 1001 + u + 10 v
LARGEST_PICTURE = 1024  # pixels of an edge of an image prompt
_COLOUR_NODE = "MSD Colour"  # of the vertex colours, until an image takes their place
_UDIM_TOKEN = "<UDIM>"  # stands for the tile's number in a file name


def new_material(name: str) -> bpy.types.Material:
    """A new material that shows the vertex colours `COLOUR`."""
    material = bpy.data.materials.new(name)
    nodes.ensure_nodes(material)
    tree, shader = material.node_tree, ensure_principled(material)
    shader.inputs["Roughness"].default_value = 0.7
    colour = tree.nodes.new("ShaderNodeVertexColor")
    colour.layer_name, colour.name = COLOUR, _COLOUR_NODE
    colour.location = (-300, 200)
    tree.links.new(colour.outputs["Color"], shader.inputs["Base Color"])
    return material


def ensure_principled(material: bpy.types.Material) -> bpy.types.ShaderNode:
    """The material's shader that is painted; without one, a new Principled BSDF at its output."""
    if not nodes.has_nodes(material):
        nodes.ensure_nodes(material)
        for shader in (node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED"):
            shader.inputs["Metallic"].default_value = material.metallic
            shader.inputs["Roughness"].default_value = material.roughness
    tree, found = material.node_tree, nodes.shader_of(material)
    shader = found.node if found else tree.nodes.new("ShaderNodeBsdfPrincipled")
    output = nodes.active_output(tree) or tree.nodes.new("ShaderNodeOutputMaterial")
    if found is None:
        shader.location = (output.location.x - 300, output.location.y)
    if found is None or not output.inputs["Surface"].is_linked:
        tree.links.new(shader.outputs[0], output.inputs["Surface"])
    return shader


def image_of(material: bpy.types.Material, kind: str) -> bpy.types.Image | None:
    """The image that the shader shows for a kind of `KINDS`; None without one, or where it uses one channel only."""
    source = nodes.socket_input(material, kind)
    return source.node.image if source and source.node and source.channel is None else None


def assign_image(material: bpy.types.Material, kind: str, image: bpy.types.Image, uv_map: str) -> bool:
    """Show an image for a kind of `KINDS`; False where the shader has no socket for it.

    The image goes into the Image Texture node that the socket has, or into a new one where that node has other
    coordinates or is used elsewhere too. A node group that other materials use is copied first. uv_map: where nodes do
    not name one.
    """
    ensure_principled(material)
    while True:
        reference, coordinates = _reference_coordinates(material, uv_map)
        source = nodes.socket_input(material, kind)
        if source is None:
            return False
        replaces = (
            source.path is not None
            and source.replaceable
            and coordinates_of(material, source.path, uv_map) == coordinates
        )
        groups, socket = (source.path.groups, None) if source.path and replaces else source.insertion_point
        shared = next((group for group in groups if group.node_tree.users > 1 or is_linked(group.node_tree)), None)
        if shared is None:
            break
        shared.node_tree = shared.node_tree.copy()
    if socket is None:
        assert source.node is not None
        source.node.image = image
        _show_in_solid_view(material, kind, source.node)
        return True
    tree = socket.node.id_data
    location = Vector(socket.node.location) - Vector((300, 300 * KINDS.index(kind)))
    node = tree.nodes.new("ShaderNodeTexImage")
    node.image, node.location = image, location
    if reference is not None and reference.node.id_data == tree:
        node.interpolation, node.extension = reference.node.interpolation, reference.node.extension
        if reference.node.inputs["Vector"].links:
            tree.links.new(reference.node.inputs["Vector"].links[0].from_socket, node.inputs["Vector"])
    else:
        tree.links.new(_uv_map_output(tree, coordinates.uv_map, location), node.inputs["Vector"])
    output = node.outputs["Color"]
    if kind == "normal" and not source.has_normal_map:
        normal_map = tree.nodes.new("ShaderNodeNormalMap")
        normal_map.uv_map, normal_map.location = coordinates.uv_map, location
        node.location.x -= 200
        tree.links.new(output, normal_map.inputs["Color"])
        output = normal_map.outputs["Normal"]
    tree.links.new(output, socket)
    _show_in_solid_view(material, kind, node)
    unused = tree.nodes.get(_COLOUR_NODE)
    if unused is not None and not any(each.is_linked for each in unused.outputs):
        tree.nodes.remove(unused)
    return True


def _show_in_solid_view(material: bpy.types.Material, kind: str, node: bpy.types.ShaderNode) -> None:
    """Make the base colour's node the active one, whose image solid view shows, unless another image's is."""
    tree = material.node_tree
    active = tree.nodes.active
    if kind == "texture" and node.id_data == tree and (active is None or active.type != "TEX_IMAGE"):
        tree.nodes.active = node


def is_linked(data: bpy.types.ID) -> bool:
    """Whether a data-block belongs to a library, so that it cannot be changed here."""
    return bool(data.library or data.override_library)


def _reference_coordinates(
    material: bpy.types.Material, uv_map: str
) -> tuple[nodes.ImagePath | None, nodes.TextureCoordinates]:
    with suppress(InvalidMeshError):
        return nodes.reference_coordinates(material, uv_map)
    return None, nodes.TextureCoordinates(uv_map)  # after an edit that was refused and given up


def coordinates_of(material: bpy.types.Material, path: nodes.ImagePath, uv_map: str) -> nodes.TextureCoordinates | None:
    """The coordinates of an image, None where they are not supported. uv_map: where nodes do not name one."""
    with suppress(InvalidMeshError):
        return nodes.texture_coordinates(material, path, uv_map)
    return None


def _uv_map_output(tree: bpy.types.NodeTree, uv_map: str, location: Vector) -> bpy.types.NodeSocket:
    """The output of the tree's UV Map node for this map, made left of `location` where there is none."""
    node = next((node for node in tree.nodes if node.type == "UVMAP" and node.uv_map == uv_map), None)
    if node is None:
        node = tree.nodes.new("ShaderNodeUVMap")
        node.uv_map, node.location = uv_map, (location.x - 200, location.y)
    return node.outputs["UV"]


def new_image(name: str, kind: str, width: int, height: int) -> bpy.types.Image:
    image = bpy.data.images.new(name, width, height)
    set_colour_space(image, kind)
    return image


def set_colour_space(image: bpy.types.Image, kind: str) -> None:
    image.colorspace_settings.name = "sRGB" if kind == "texture" else "Non-Color"


def read_pixels(image: bpy.types.Image, buffer: np.ndarray | None = None) -> np.ndarray:
    """(H·W·channels,) float32 of an image without tiles. buffer: is reused where it has this size."""
    size = len(image.pixels)
    pixels = buffer if buffer is not None and len(buffer) == size else np.empty(size, np.float32)
    image.pixels.foreach_get(pixels)
    return pixels


def write_pixels(image: bpy.types.Image, pixels: np.ndarray, width: int, height: int) -> None:
    """Write (H·W·4,) float32 into an image, and resize it where it has another size."""
    if tuple(image.size) != (width, height):
        image.scale(width, height)
    image.pixels.foreach_set(pixels)
    image.update()


def encode_image(image: bpy.types.Image) -> bytes:
    """An image as a PNG file in sRGB, of `LARGEST_PICTURE` pixels an edge at most: an image encoder sees some hundred.

    Packed, generated and painted ones too. Raises ValueError for an image without pixels.
    """
    rows = read_tile(image, kind="texture")
    if rows is None:
        raise ValueError(f"The image {image.name!r} has no pixels: choose another as image prompt.")
    return encode_png(scaled_down(rows, LARGEST_PICTURE)[::-1])


def read_tile(image: bpy.types.Image | None, tile: int = FIRST_TILE, kind: str = "") -> np.ndarray | None:
    """(H, W, 4) uint8, bottom row first, of an image's UDIM tile; None where it cannot be read.

    kind: for "texture" the values are sRGB, for the other `KINDS` the linear ones that the shader computes with, for ""
    those of the image's colour space. (Blender's Python has the pixels of the first tile only, so tiles are read from
    their files.)
    """
    if image is None or not image.size[0] or not image.size[1]:
        return None
    if image.source != "TILED":
        channels = image.channels
        pixels = read_pixels(image).reshape(-1, channels) if channels else None
        if pixels is None or not len(pixels):
            return None
        is_colour = not image.colorspace_settings.is_data
        is_srgb, wants_srgb = is_colour and not image.is_float, kind == "texture" if kind else is_colour
        if channels == 4 and not image.is_float and is_srgb == wants_srgb and image.alpha_mode != "NONE":
            return to_byte_pixels(pixels, *image.size)
        colour = pixels[:, :3] if channels > 2 else np.repeat(pixels[:, :1], 3, axis=1)
        alpha = pixels[:, -1:] if channels in (2, 4) and image.alpha_mode != "NONE" else np.ones_like(pixels[:, :1])
        if image.is_float and image.alpha_mode in ("STRAIGHT", "PREMUL"):  # Blender stores these premultiplied
            colour = np.divide(colour, alpha, out=colour.copy(), where=alpha > 0)
        if is_srgb and not wants_srgb:
            colour = srgb_to_linear(colour)
        elif wants_srgb and not is_srgb:
            colour = linear_to_srgb(colour)
        return to_byte_pixels(np.hstack([colour, alpha]), *image.size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(bpy.path.abspath(image.filepath_raw.replace(_UDIM_TOKEN, str(tile))))
        for packed in image.packed_files:
            if str(tile) in Path(packed.filepath).name:
                path = Path(folder) / Path(packed.filepath).name
                path.write_bytes(packed.packed_file.data)
        if not path.is_file():
            return None
        single = bpy.data.images.load(str(path))
        single.colorspace_settings.name, single.alpha_mode = image.colorspace_settings.name, image.alpha_mode
        try:
            return read_tile(single, kind=kind)
        finally:
            bpy.data.images.remove(single)


def new_tiled_image(name: str, kind: str, tiles: dict[int, np.ndarray]) -> bpy.types.Image:
    """A new packed image of UDIM tiles: number -> (H, W[, 3 or 4]) uint8."""
    with tempfile.TemporaryDirectory() as folder:
        for number, array in tiles.items():
            height, width = array.shape[:2]
            single = new_image("tile", kind, width, height)
            write_pixels(single, to_float_pixels(array), width, height)
            single.filepath_raw, single.file_format = str(Path(folder) / f"tile.{number}.png"), "PNG"
            single.save()
            bpy.data.images.remove(single)
        image = bpy.data.images.load(str(Path(folder) / f"tile.{min(tiles)}.png"))
        image.name, image.source = name, "TILED"
        image.filepath_raw = str(Path(folder) / f"tile.{_UDIM_TOKEN}.png")
        known = {tile.number for tile in image.tiles}
        for number in tiles.keys() - known:
            image.tiles.new(number)
        for number in known - tiles.keys():
            image.tiles.remove(image.tiles.get(number))
        set_colour_space(image, kind)
        image.reload()
        image.pack()
    return image
