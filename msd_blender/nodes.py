# SPDX-License-Identifier: GPL-3.0-or-later
"""Which image a material's shader shows, and at which texture coordinates.

The links are traced from a socket of the shader back to an Image Texture node, and from its Vector socket back to a UV
map: through groups, reroutes, muted nodes and nodes that change values. Nothing is changed here; see `materials`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import bpy
import numpy as np
from mathutils import Euler

from .errors import InvalidMeshError

# The sockets of each type of shader, by kind of texture. Of several shaders that reach the output, the one whose type
# comes first here is painted.
SHADER_SOCKETS = {
    "BSDF_PRINCIPLED": {"texture": "Base Color", "roughness": "Roughness", "metallic": "Metallic", "normal": "Normal"},
    "BSDF_DIFFUSE": {"texture": "Color", "normal": "Normal"},
    "EMISSION": {"texture": "Color"},
    "BACKGROUND": {"texture": "Color"},
}
KINDS = tuple(SHADER_SOCKETS["BSDF_PRINCIPLED"])
_SEPARATE = {"SEPARATE_COLOR", "SEPRGB"}
# Types of nodes that change values; the trace goes on through their inputs.
_VALUE_NODES = {
    "MIX",
    "MIX_RGB",
    "HUE_SAT",
    "GAMMA",
    "BRIGHTCONTRAST",
    "CURVE_RGB",
    "INVERT",
    "RGBTOBW",
    "VALTORGB",
    "MATH",
    "CLAMP",
    "MAP_RANGE",
    "CURVE_FLOAT",
    "VECT_MATH",
    "NORMAL_MAP",
    "BUMP",
    *_SEPARATE,
}
# Types of these inputs, by kind of texture.
_VALUE_SOCKETS = {
    "texture": {"RGBA"},
    "roughness": {"RGBA", "VALUE"},
    "metallic": {"RGBA", "VALUE"},
    "normal": {"RGBA", "VECTOR"},
}

GroupPath = tuple[bpy.types.Node, ...]  # the group nodes that contain a node, outermost first


@dataclass(frozen=True)
class LinkStep:
    """A link on a traced path, and the groups that contain it."""

    groups: GroupPath
    link: bpy.types.NodeLink


@dataclass(frozen=True)
class TraceEnd:
    """The end of a trace back from an input.

    groups: around `socket`. socket: the last input on the path, at which the value can be replaced. output: the output
    that is linked to it, None where the input's own value counts. steps: the links on the path.
    """

    groups: GroupPath
    socket: bpy.types.NodeSocket
    output: bpy.types.NodeSocket | None
    steps: tuple[LinkStep, ...] = ()


def trace_input(groups: GroupPath, socket: bpy.types.NodeSocket) -> TraceEnd:
    """Trace an input back through reroutes, muted nodes and groups, to the first node that computes something."""
    steps: tuple[LinkStep, ...] = ()
    while True:
        link = next((each for each in socket.links if not each.is_muted), None)
        if link is None:
            return TraceEnd(groups, socket, None, steps)
        steps = (*steps, LinkStep(groups, link))
        here = TraceEnd(groups, socket, link.from_socket, steps)
        node, output = link.from_node, link.from_socket
        if node.mute:
            inner = next((each.from_socket for each in node.internal_links if each.to_socket == output), None)
        elif node.type == "REROUTE":
            inner = node.inputs[0]
        elif node.type == "GROUP" and node.node_tree:
            end = next(
                (each for each in node.node_tree.nodes if each.type == "GROUP_OUTPUT" and each.is_active_output), None
            )
            inner, groups = end and _matching_socket(end.inputs, output), (*groups, node)
        elif node.type == "GROUP_INPUT" and groups:
            inner, groups = _matching_socket(groups[-1].inputs, output), groups[:-1]
        else:
            return here
        if inner is None:
            return TraceEnd(here.groups, here.socket, None, steps)
        socket = inner


def _matching_socket(sockets: Any, other: bpy.types.NodeSocket) -> bpy.types.NodeSocket | None:
    """The socket on the other side of a group."""
    return next((each for each in sockets if each.identifier == other.identifier), None)


@dataclass(frozen=True)
class Shader:
    """The shader node that is painted. other_shaders: how many others reach the material's output too."""

    groups: GroupPath
    node: bpy.types.ShaderNode
    other_shaders: int = 0


def has_nodes(owner: Any) -> bool:
    """Whether a material or world is drawn by its nodes; since Blender 5.0 all are."""
    return owner.node_tree is not None and getattr(owner, "use_nodes", True)


def ensure_nodes(owner: Any) -> None:
    """Let a material or world be drawn by its nodes."""
    if not has_nodes(owner):
        owner.use_nodes = True


def shader_of(material: bpy.types.Material) -> Shader | None:
    """The shader of a material that is painted; None where no shader has a base colour."""
    if not has_nodes(material):
        return None
    output = active_output(material.node_tree)
    if output is None or not output.inputs["Surface"].is_linked:
        unlinked = next((node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED"), None)
        return Shader((), unlinked) if unlinked else None
    found: list[Shader] = []
    _collect_shaders((), output.inputs["Surface"], found, set())
    found.sort(key=lambda each: list(SHADER_SOCKETS).index(each.node.type))
    return Shader(found[0].groups, found[0].node, len(found) - 1) if found else None


def active_output(tree: bpy.types.NodeTree) -> bpy.types.Node | None:
    """The output node that Blender renders, None without one."""
    return next((node for target in ("ALL", "EEVEE", "CYCLES") if (node := tree.get_output_node(target))), None)


def _collect_shaders(groups: GroupPath, socket: bpy.types.NodeSocket, found: list[Shader], seen: set[Any]) -> None:
    end = trace_input(groups, socket)
    if end.output is None or (key := (*end.groups, end.output.node)) in seen:
        return
    seen.add(key)
    if end.output.node.type in SHADER_SOCKETS:
        found.append(Shader(end.groups, end.output.node))
        return
    for each in end.output.node.inputs:
        if each.type == "SHADER":
            _collect_shaders(end.groups, each, found, seen)


@dataclass(frozen=True)
class ImagePath:
    """The links from a shader's socket back to an Image Texture node."""

    groups: GroupPath
    node: bpy.types.ShaderNodeTexImage
    steps: tuple[LinkStep, ...]

    @cached_property
    def changing_steps(self) -> list[int]:
        """Indices of the steps into nodes that change values."""
        return [
            i
            for i, step in enumerate(self.steps)
            if step.link.to_node.type in _VALUE_NODES
            and not step.link.to_node.mute
            and step.link.to_node.type not in ("NORMAL_MAP", *_SEPARATE)
        ]

    @cached_property
    def separating_step(self) -> int | None:
        """Index of the step out of a node that separates the image's channels, None without one."""
        return next((i for i, step in enumerate(self.steps) if step.link.from_node.type in _SEPARATE), None)


@dataclass(frozen=True)
class SocketInput:
    """The nodes that give one of a shader's sockets its values.

    name: the socket's. end: how far the trace goes through nodes that change nothing. paths: to all Image Texture nodes
    behind it.
    """

    kind: str
    name: str
    end: TraceEnd
    paths: tuple[ImagePath, ...]

    @property
    def path(self) -> ImagePath | None:
        """The path to the only image; None where there is no image, or more than one."""
        return self.paths[0] if len({each.node for each in self.paths}) == 1 else None

    @property
    def node(self) -> bpy.types.ShaderNodeTexImage | None:
        """The only Image Texture node, else None."""
        return self.path.node if self.path else None

    @property
    def channel(self) -> int | None:
        """Index of the image's channel that reaches the socket, None for all channels."""
        if self.path is None or self.path.separating_step is None:
            return None
        link = self.path.steps[self.path.separating_step].link
        return list(link.from_node.outputs).index(link.from_socket)

    @property
    def replaceable(self) -> bool:
        """Whether another image in the node changes nothing but this socket."""
        return self.path is not None and self._shared_step is None

    @property
    def _shared_step(self) -> int | None:
        """Index of the step nearest to the shader that starts at an output which other sockets use too, or which is
        one channel of an image. None without such a step."""
        ours = {step.link for path in self.paths for step in path.steps} | {step.link for step in self.end.steps}
        separating = self.path.separating_step if self.path else None
        return next(
            (
                i
                for i, step in enumerate(self.path.steps if self.path else self.end.steps)
                if i == separating or set(_outgoing_links(step.link.from_socket)) - ours
            ),
            None,
        )

    @property
    def _kept_steps(self) -> tuple[LinkStep, ...]:
        """The steps that stay when a new Image Texture node is linked in."""
        shared = self._shared_step
        if self.path is not None and (shared is None or len(self.paths) == 1):
            return self.path.steps if shared is None else self.path.steps[: shared + 1]
        return self.end.steps if shared is None else self.end.steps[: shared + 1]

    @property
    def insertion_point(self) -> tuple[GroupPath, bpy.types.NodeSocket]:
        """The groups and the input to which a new Image Texture node is to be linked."""
        if self._kept_steps and (self._shared_step is not None or len(self.paths) == 1):
            return self._kept_steps[-1].groups, self._kept_steps[-1].link.to_socket
        return self.end.groups, self.end.socket

    @property
    def has_normal_map(self) -> bool:
        """Whether a Normal Map node stays between the insertion point and the shader."""
        return any(step.link.to_node.type == "NORMAL_MAP" for step in self._kept_steps)

    @property
    def kept_nodes(self) -> list[str]:
        """Names of the nodes that still change the values of a new image."""
        return [
            step.link.to_node.name
            for i, step in enumerate(self._kept_steps)
            if self.path and i in self.path.changing_steps
        ]

    @property
    def dropped_nodes(self) -> list[str]:
        """Names of the nodes that a new image unlinks from the socket."""
        if self.path:
            return [
                name
                for i in self.path.changing_steps
                if (name := self.path.steps[i].link.to_node.name) not in self.kept_nodes
            ]
        return [self.end.output.node.name] if self.end.output else []


def _outgoing_links(output: bpy.types.NodeSocket) -> list[bpy.types.NodeLink]:
    """The links out of an output. An input of a group has an output in each Group Input node of its tree."""
    node = output.node
    nodes = (
        [each for each in node.id_data.nodes if each.type == "GROUP_INPUT"] if node.type == "GROUP_INPUT" else [node]
    )
    outputs = [each for node in nodes for each in node.outputs if each.identifier == output.identifier]
    return [link for each in outputs for link in each.links if not link.is_muted]


def socket_input(material: bpy.types.Material, kind: str) -> SocketInput | None:
    """The input of the shader's socket for a kind of `KINDS`; None where the shader has no such socket."""
    shader = shader_of(material)
    name = SHADER_SOCKETS[shader.node.type].get(kind) if shader else None
    if shader is None or name is None:
        return None
    end = trace_input(shader.groups, shader.node.inputs[name])
    paths: list[ImagePath] = []
    _collect_paths(end, kind, end.steps, paths, set())
    if kind == "normal":
        paths = [each for each in paths if any(step.link.to_node.type == "NORMAL_MAP" for step in each.steps)]
    return SocketInput(kind, name, end, tuple(paths))


def _collect_paths(
    end: TraceEnd, kind: str, steps: tuple[LinkStep, ...], found: list[ImagePath], seen: set[Any]
) -> None:
    if end.output is None:
        return
    node = end.output.node
    if node.type == "TEX_IMAGE":
        if node.image is not None and end.output.name == "Color":
            found.append(ImagePath(end.groups, node, steps))
        return
    key = (*end.groups, node, end.output)
    if node.type not in _VALUE_NODES or key in seen:
        return
    inputs = [each for each in node.inputs if each.enabled and each.type in _VALUE_SOCKETS[kind]]
    inputs = [each for each in inputs if each.name not in ("Fac", "Factor")] or inputs
    for each in inputs:
        further = trace_input(end.groups, each)
        _collect_paths(further, kind, (*steps, *further.steps), found, {*seen, key})


# Texture coordinates.


@dataclass(frozen=True)
class TextureCoordinates:
    """Coordinates at which an image is read: a UV map, and a (2, 3) matrix for (u, v, 1) from Mapping nodes."""

    uv_map: str
    matrix: tuple[tuple[float, ...], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))

    @property
    def is_transformed(self) -> bool:
        """Whether Mapping nodes transform the UV map."""
        return self != TextureCoordinates(self.uv_map)

    def transform(self, uvs: np.ndarray) -> np.ndarray:
        """Coordinates (…, 2) at the UV map's (…, 2)."""
        matrix = np.array(self.matrix)
        return uvs @ matrix[:, :2].T + matrix[:, 2] if self.is_transformed else uvs


def render_uv_map(mesh: bpy.types.Mesh) -> str:
    """Name of the UV map that images use by default, the one with the camera icon; "" without one."""
    return str(next((layer.name for layer in mesh.uv_layers if layer.active_render), ""))


def reference_coordinates(
    material: bpy.types.Material, default_map: str
) -> tuple[ImagePath | None, TextureCoordinates]:
    """The coordinates that all new images of the material use, and the image that they come from: the one of base
    colour, else of the next kind that has one.

    default_map: the UV map where nodes do not name one. Raises `InvalidMeshError` where the coordinates of base colour
    are not supported.
    """
    for kind in KINDS:
        found = socket_input(material, kind)
        if found and found.path:
            try:
                return found.path, texture_coordinates(material, found.path, default_map)
            except InvalidMeshError:
                if kind == "texture":
                    raise
    return None, TextureCoordinates(default_map)


def texture_coordinates(material: bpy.types.Material, path: ImagePath, default_map: str) -> TextureCoordinates:
    """The coordinates of an image. Raises `InvalidMeshError` unless they are a UV map, with or without Mapping
    nodes."""
    node = path.node

    def unsupported(how: str) -> InvalidMeshError:
        return InvalidMeshError(
            f"Material {material.name!r} shows its image {how}: let it use a UV map of the mesh, with a UV "
            "Map node or nothing before the image's Vector."
        )

    if node.projection != "FLAT":
        raise unsupported(f"by {node.projection.title()} projection")
    matrix, mapped = np.eye(4), False
    end = trace_input(path.groups, node.inputs["Vector"])
    while end.output is not None and end.output.node.type == "MAPPING":
        mapping = end.output.node
        numbers = [] if "Location" in mapping.inputs else [(0, 0, 0)]  # type VECTOR has no Location
        for name in ("Location", "Rotation", "Scale")[len(numbers) :]:
            value = trace_input(end.groups, mapping.inputs[name])
            if value.output is not None:
                raise unsupported(f"through the nodes before {mapping.name}'s {name}")
            numbers.append(value.socket.default_value)
        if mapping.vector_type == "NORMAL" or 0 in tuple(numbers[2]):
            raise unsupported(f"through {mapping.name}")
        matrix, mapped = matrix @ _mapping_matrix(mapping.vector_type, *numbers), True
        end = trace_input(end.groups, mapping.inputs["Vector"])
    if end.output is None:
        if mapped or end.steps:
            raise unsupported("at a single point")
        name = default_map
    else:
        name = _uv_map_of_output(end.output, default_map, unsupported)
    return TextureCoordinates(name, tuple(tuple(row) for row in matrix[:2][:, [0, 1, 3]].tolist()))


def _uv_map_of_output(
    output: bpy.types.NodeSocket, default_map: str, unsupported: Callable[[str], InvalidMeshError]
) -> str:
    node = output.node
    if node.type == "UVMAP" and not node.from_instancer:
        return str(node.uv_map or default_map)
    if node.type == "TEX_COORD" and output.name == "UV" and not node.from_instancer:
        return default_map
    if node.type == "ATTRIBUTE" and node.attribute_type == "GEOMETRY" and output.name == "Vector":
        return str(node.attribute_name)
    raise unsupported(f"through {node.name}'s {output.name}")


def _mapping_matrix(kind: str, location: Any, rotation: Any, scale: Any) -> np.ndarray:
    """The (4, 4) matrix of a Mapping node of this vector type."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(Euler(rotation).to_matrix()) @ np.diag(scale)
    if kind != "VECTOR":
        matrix[:3, 3] = location
    return np.linalg.inv(matrix) if kind == "TEXTURE" else matrix
