# SPDX-License-Identifier: GPL-3.0-or-later
"""How a material's nodes show an image: followed from its shader back to the image and its coordinates, through
groups, reroutes, muted nodes and nodes that change colours. Main thread only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from mathutils import Euler

# A shader's sockets by what they show; of several shaders that reach the output the first kind here counts.
SHADERS = {
    "BSDF_PRINCIPLED": {"texture": "Base Color", "roughness": "Roughness", "metallic": "Metallic", "normal": "Normal"},
    "BSDF_DIFFUSE": {"texture": "Color", "normal": "Normal"},
    "EMISSION": {"texture": "Color"},
    "BACKGROUND": {"texture": "Color"},
}
KINDS = tuple(SHADERS["BSDF_PRINCIPLED"])
_SEPARATE = {"SEPARATE_COLOR", "SEPRGB"}
# Nodes that change values on their way, whose inputs are followed.
_CHANGE = {
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
_CARRY = {
    "texture": {"RGBA"},
    "roughness": {"RGBA", "VALUE"},
    "metallic": {"RGBA", "VALUE"},
    "normal": {"RGBA", "VECTOR"},
}

Groups = tuple[Any, ...]  # the group nodes that lead to a node, outermost first


class Unfit(ValueError):
    """Why a mesh cannot be sent, in one sentence that says what to do."""


@dataclass(frozen=True)
class Hop:
    """A link, and where it is."""

    groups: Groups
    link: Any


@dataclass(frozen=True)
class End:
    """Where the way back from an input ends: at an output, None where a constant counts. socket: the last input on
    the way, at which the value can be replaced."""

    groups: Groups
    socket: Any
    output: Any
    hops: tuple[Hop, ...] = ()


def follow(groups: Groups, socket: Any) -> End:
    """The way back from an input through all that changes nothing."""
    hops: tuple[Hop, ...] = ()
    while True:
        link = next((each for each in socket.links if not each.is_muted), None)
        if link is None:
            return End(groups, socket, None, hops)
        here, hops = End(groups, socket, link.from_socket, (*hops, Hop(groups, link))), (*hops, Hop(groups, link))
        node, output = link.from_node, link.from_socket
        if node.mute:
            inner = next((each.from_socket for each in node.internal_links if each.to_socket == output), None)
        elif node.type == "REROUTE":
            inner = node.inputs[0]
        elif node.type == "GROUP" and node.node_tree:
            end = next(
                (each for each in node.node_tree.nodes if each.type == "GROUP_OUTPUT" and each.is_active_output), None
            )
            inner, groups = end and _same(end.inputs, output), (*groups, node)
        elif node.type == "GROUP_INPUT" and groups:
            inner, groups = _same(groups[-1].inputs, output), groups[:-1]
        else:
            return here
        if inner is None:
            return End(here.groups, here.socket, None, hops)
        socket = inner


def _same(sockets: Any, other: Any) -> Any:
    return next((each for each in sockets if each.identifier == other.identifier), None)


@dataclass(frozen=True)
class Shader:
    """The node whose sockets a material's images feed. others: how many more reach the output."""

    groups: Groups
    node: Any
    others: int = 0


def shader_of(material: Any) -> Shader | None:
    """The shader that a material shows; None where there is none that has a colour."""
    if not material.use_nodes or material.node_tree is None:
        return None
    output = output_of(material.node_tree)
    if output is None or not output.inputs["Surface"].is_linked:
        loose = next((node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED"), None)
        return Shader((), loose) if loose else None
    found: list[Shader] = []
    _shaders((), output.inputs["Surface"], found, set())
    found.sort(key=lambda each: list(SHADERS).index(each.node.type))
    return Shader(found[0].groups, found[0].node, len(found) - 1) if found else None


def output_of(tree: Any) -> Any:
    """The output node that counts, None where there is none."""
    return next((node for target in ("ALL", "EEVEE", "CYCLES") if (node := tree.get_output_node(target))), None)


def _shaders(groups: Groups, socket: Any, found: list[Shader], seen: set[Any]) -> None:
    end = follow(groups, socket)
    if end.output is None or (key := (*end.groups, end.output.node)) in seen:
        return
    seen.add(key)
    if end.output.node.type in SHADERS:
        found.append(Shader(end.groups, end.output.node))
        return
    for each in end.output.node.inputs:
        if each.type == "SHADER":
            _shaders(end.groups, each, found, seen)


@dataclass(frozen=True)
class Route:
    """The links from a shader's socket back to an image node."""

    groups: Groups
    node: Any
    hops: tuple[Hop, ...]

    @cached_property
    def changing(self) -> list[int]:
        """Numbers of the hops that go into a node which changes values."""
        return [
            i
            for i, hop in enumerate(self.hops)
            if hop.link.to_node.type in _CHANGE
            and not hop.link.to_node.mute
            and hop.link.to_node.type not in ("NORMAL_MAP", *_SEPARATE)
        ]

    @cached_property
    def separated(self) -> int | None:
        """Number of the hop that comes out of a node which separates the image's channels."""
        return next((i for i, hop in enumerate(self.hops) if hop.link.from_node.type in _SEPARATE), None)


@dataclass(frozen=True)
class Feed:
    """What gives one of a shader's sockets its values.

    name: the socket's. end: how far back nothing changes them. routes: to the image nodes behind.
    """

    kind: str
    name: str
    end: End
    routes: tuple[Route, ...]

    @property
    def route(self) -> Route | None:
        """The way to the one image; None where there is none, or more than one."""
        return self.routes[0] if len({each.node for each in self.routes}) == 1 else None

    @property
    def node(self) -> Any:
        """The image node, None without one."""
        return self.route.node if self.route else None

    @property
    def channel(self) -> int | None:
        """Of the image, the one that counts; None: all."""
        if self.route is None or self.route.separated is None:
            return None
        link = self.route.hops[self.route.separated].link
        return list(link.from_node.outputs).index(link.from_socket)

    @property
    def exchangeable(self) -> bool:
        """Whether the node's image can be exchanged without changing anything but this socket."""
        return self.route is not None and self._fork is None

    @property
    def _fork(self) -> int | None:
        """Number of the last hop, seen from the image or what else is there, out of an output that feeds something
        else too."""
        ours = {hop.link for route in self.routes for hop in route.hops} | {hop.link for hop in self.end.hops}
        separated = self.route.separated if self.route else None
        return next(
            (
                i
                for i, hop in enumerate(self.route.hops if self.route else self.end.hops)
                if i == separated or set(_links(hop.link.from_socket)) - ours
            ),
            None,
        )

    @property
    def _kept(self) -> tuple[Hop, ...]:
        """The hops that stay where another image node takes the place of what is there."""
        fork = self._fork
        if self.route is not None and (fork is None or len(self.routes) == 1):
            return self.route.hops if fork is None else self.route.hops[: fork + 1]
        return self.end.hops if fork is None else self.end.hops[: fork + 1]

    @property
    def place(self) -> tuple[Groups, Any]:
        """The input that another image node is to be linked to, and the groups that it is in."""
        if self._kept and (self._fork is not None or len(self.routes) == 1):
            return self._kept[-1].groups, self._kept[-1].link.to_socket
        return self.end.groups, self.end.socket

    @property
    def bent(self) -> bool:
        """Whether a Normal Map node stays between that input and the shader."""
        return any(hop.link.to_node.type == "NORMAL_MAP" for hop in self._kept)

    @property
    def kept(self) -> list[str]:
        """Names of the nodes between that go on changing what the image shows."""
        return [hop.link.to_node.name for i, hop in enumerate(self._kept) if self.route and i in self.route.changing]

    @property
    def dropped(self) -> list[str]:
        """Names of the nodes that no longer feed the socket once an image of its own does."""
        if self.route:
            return [
                name for i in self.route.changing if (name := self.route.hops[i].link.to_node.name) not in self.kept
            ]
        return [self.end.output.node.name] if self.end.output else []


def _links(output: Any) -> list[Any]:
    """The links out of an output; a group's input has an output in each of its input nodes."""
    node = output.node
    nodes = (
        [each for each in node.id_data.nodes if each.type == "GROUP_INPUT"] if node.type == "GROUP_INPUT" else [node]
    )
    return [link for each in nodes for link in _same(each.outputs, output).links if not link.is_muted]


def feed(material: Any, kind: str) -> Feed | None:
    """What feeds the socket of a kind; None where the material has no shader with such a socket."""
    shader = shader_of(material)
    name = SHADERS[shader.node.type].get(kind) if shader else None
    if shader is None or name is None:
        return None
    end = follow(shader.groups, shader.node.inputs[name])
    routes: list[Route] = []
    _routes(end, kind, end.hops, routes, set())
    if kind == "normal":
        routes = [each for each in routes if any(hop.link.to_node.type == "NORMAL_MAP" for hop in each.hops)]
    return Feed(kind, name, end, tuple(routes))


def _routes(end: End, kind: str, hops: tuple[Hop, ...], found: list[Route], seen: set[Any]) -> None:
    if end.output is None:
        return
    node = end.output.node
    if node.type == "TEX_IMAGE":
        if node.image is not None and end.output.name == "Color":
            found.append(Route(end.groups, node, hops))
        return
    key = (*end.groups, node, end.output)
    if node.type not in _CHANGE or key in seen:
        return
    inputs = [each for each in node.inputs if each.enabled and each.type in _CARRY[kind]]
    inputs = [each for each in inputs if each.name not in ("Fac", "Factor")] or inputs
    for each in inputs:
        further = follow(end.groups, each)
        _routes(further, kind, (*hops, *further.hops), found, {*seen, key})


# Coordinates.


@dataclass(frozen=True)
class Coordinates:
    """Where an image is read: a UV map, and the affine map of (u, v, 1) that a Mapping node makes, (2, 3)."""

    uv_map: str
    rows: tuple[tuple[float, ...], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))

    @property
    def moved(self) -> bool:
        """Whether a Mapping node changes the UV map's."""
        return self != Coordinates(self.uv_map)

    def of(self, uvs: np.ndarray) -> np.ndarray:
        """(…, 2) of the UV map's (…, 2)."""
        rows = np.array(self.rows)
        return uvs @ rows[:, :2].T + rows[:, 2] if self.moved else uvs


def shown_uv_map(mesh: Any) -> str:
    """The UV map that images have where no node says another: the one with the camera icon."""
    return str(next((layer.name for layer in mesh.uv_layers if layer.active_render), ""))


def lead(material: Any, shown: str) -> tuple[Route | None, Coordinates]:
    """The image whose coordinates all new ones of the material have: that of base colour, else another; and those
    coordinates. shown: the UV map where nodes do not name one. Raises `Unfit` for an unfit base colour."""
    for kind in KINDS:
        found = feed(material, kind)
        if found and found.route:
            try:
                return found.route, coordinates(material, found.route, shown)
            except Unfit:
                if kind == "texture":
                    raise
    return None, Coordinates(shown)


def coordinates(material: Any, route: Route, shown: str) -> Coordinates:
    """Raises `Unfit` where they are not a UV map, moved, turned or scaled."""
    node = route.node

    def unfit(what: str) -> Unfit:
        return Unfit(
            f"Material {material.name!r} shows its image {what}: let it use a UV map of the mesh, with a UV "
            "Map node or nothing before the image's Vector."
        )

    if node.projection != "FLAT":
        raise unfit(f"by {node.projection.title()} projection")
    matrix, mapped = np.eye(4), False
    end = follow(route.groups, node.inputs["Vector"])
    while end.output is not None and end.output.node.type == "MAPPING":
        mapping = end.output.node
        numbers = [] if "Location" in mapping.inputs else [(0, 0, 0)]  # a vector has none
        for name in ("Location", "Rotation", "Scale")[len(numbers) :]:
            value = follow(end.groups, mapping.inputs[name])
            if value.output is not None:
                raise unfit(f"through the nodes before {mapping.name}'s {name}")
            numbers.append(value.socket.default_value)
        if mapping.vector_type == "NORMAL" or 0 in tuple(numbers[2]):
            raise unfit(f"through {mapping.name}")
        matrix, mapped = matrix @ _mapping(mapping.vector_type, *numbers), True
        end = follow(end.groups, mapping.inputs["Vector"])
    if end.output is None:
        if mapped or end.hops:
            raise unfit("at a single point")
        name = shown
    else:
        name = _uv_map(end.output, shown, unfit)
    return Coordinates(name, tuple(tuple(row) for row in matrix[:2][:, [0, 1, 3]].tolist()))


def _uv_map(output: Any, shown: str, unfit: Callable[[str], Unfit]) -> str:
    node = output.node
    if node.type == "UVMAP" and not node.from_instancer:
        return str(node.uv_map or shown)
    if node.type == "TEX_COORD" and output.name == "UV" and not node.from_instancer:
        return shown
    if node.type == "ATTRIBUTE" and node.attribute_type == "GEOMETRY" and output.name == "Vector":
        return str(node.attribute_name)
    raise unfit(f"through {node.name}'s {output.name}")


def _mapping(kind: str, location: Any, rotation: Any, scale: Any) -> np.ndarray:
    """(4, 4) of a Mapping node."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(Euler(rotation).to_matrix()) @ np.diag(scale)
    if kind != "VECTOR":
        matrix[:3, 3] = location
    return np.linalg.inv(matrix) if kind == "TEXTURE" else matrix
