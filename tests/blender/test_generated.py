# SPDX-License-Identifier: GPL-3.0-or-later
"""Two-way editing under random node trees, slots and image sharing: every job ends, with no more edits than the artist
made, and changes nothing that it was not asked to paint."""

from __future__ import annotations

import hashlib
import random
import time
from typing import Any

import bpy
import numpy as np
import pytest

from msd_blender import jobs, materials
from msd_blender.capture import read_positions
from msd_blender.client import Client
from msd_blender.errors import InvalidMeshError
from msd_blender.live_job import LiveJob, running_jobs
from msd_blender.local_server import LocalServer
from msd_blender.nodes import KINDS
from msd_blender.protocol import FINISHED, MAPS, JobRequest

pytestmark = pytest.mark.long

SECONDS = 300  # in which a job of a few iterations ends, on a busy machine too
SIZE = 16


class Scene:
    """An artist's object, drawn at random, and another that shares some of its materials."""

    def __init__(self, draw: random.Random) -> None:
        bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
        self.draw = draw
        self.groups: list[Any] = []
        self._images = [self._image(i).name for i in range(draw.randint(1, 3))]
        self._materials = [self._material(i).name for i in range(draw.randint(1, 4))]
        self._object, self._other = self._cube().name, self._cube().name

    # By name, which undo leaves.

    @property
    def images(self) -> list[Any]:
        return [bpy.data.images[name] for name in self._images]

    @property
    def materials(self) -> list[Any]:
        return [bpy.data.materials[name] for name in self._materials]

    @property
    def object(self) -> Any:
        return bpy.data.objects[self._object]

    @property
    def other(self) -> Any:
        return bpy.data.objects[self._other]

    def _image(self, number: int) -> Any:
        draw = np.random.default_rng(self.draw.randrange(1 << 30))
        image = bpy.data.images.new(f"image {number}", SIZE, SIZE, alpha=True)
        if self.draw.random() < 0.3:
            image.colorspace_settings.name = "Non-Color"
        pixels = draw.random((SIZE, SIZE, 4), np.float32)
        if self.draw.random() < 0.5:
            pixels[..., 3] = 1
        image.pixels.foreach_set(pixels.ravel())
        image.update()
        return image

    def _material(self, number: int) -> Any:
        made = bpy.data.materials.new(f"material {number}")
        made.use_nodes = self.draw.random() < 0.95
        if made.use_nodes:
            tree = made.node_tree
            tree.nodes.remove(next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED"))
            tree.links.new(self._shader(tree, 2), tree.get_output_node("ALL").inputs["Surface"])
        return made

    def _shader(self, tree: Any, depth: int) -> Any:
        kind = self.draw.choices(["Principled", "Diffuse", "Glass", "mix", "group", "emission"], [12, 1, 1, 1, 3, 1])[0]
        if depth and kind == "mix":
            node = tree.nodes.new("ShaderNodeMixShader")
            for index in (1, 2):
                tree.links.new(self._shader(tree, depth - 1), node.inputs[index])
            return node.outputs[0]
        if depth and kind == "group":
            if not self.groups or self.draw.random() < 0.5:
                inside = bpy.data.node_groups.new("group", "ShaderNodeTree")
                inside.interface.new_socket("Color", in_out="INPUT", socket_type="NodeSocketColor")
                inside.interface.new_socket("Shader", in_out="OUTPUT", socket_type="NodeSocketShader")
                inside.nodes.new("NodeGroupInput")
                inside.links.new(self._shader(inside, 0), inside.nodes.new("NodeGroupOutput").inputs[0])
                self.groups.append(inside)
            node = tree.nodes.new("ShaderNodeGroup")
            node.node_tree = self.draw.choice(self.groups)
            tree.links.new(self._colour(tree, 2), node.inputs[0])
            return node.outputs[0]
        if kind == "emission":
            node = tree.nodes.new("ShaderNodeEmission")
        else:
            kind = kind if kind in ("Diffuse", "Glass") else "Principled"
            node = tree.nodes.new(f"ShaderNodeBsdf{kind}")
        for socket in node.inputs:
            if (
                socket.type in ("RGBA", "VALUE")
                and socket.enabled
                and self.draw.random() < (0.8 if socket.type == "RGBA" else 0.25)
            ):
                tree.links.new(self._colour(tree, 2), socket)
        return node.outputs[0]

    def _colour(self, tree: Any, depth: int) -> Any:
        """An output with a colour or a number."""
        draw = self.draw
        kind = draw.choice(["image"] * 6 + ["mix", "gamma", "reroute", "noise", "separate", "input", "muted"])
        there = [node for node in tree.nodes if node.type == "TEX_IMAGE"]
        if not depth or kind == "image":
            if there and draw.random() < 0.5:
                return draw.choice(there).outputs["Color"]  # one node behind two sockets
            node = tree.nodes.new("ShaderNodeTexImage")
            node.image = draw.choice([*self.images, None]) if draw.random() < 0.2 else draw.choice(self.images)
            self._vector(tree, node)
            return node.outputs[draw.choices(["Color", "Alpha"], [9, 1])[0]]
        if kind == "input":
            found = next((node for node in tree.nodes if node.type == "GROUP_INPUT"), None)
            return found.outputs[0] if found else self._colour(tree, depth - 1)
        if kind == "reroute":
            node = tree.nodes.new("NodeReroute")
            tree.links.new(self._colour(tree, depth - 1), node.inputs[0])
            return node.outputs[0]
        if kind == "noise":
            return tree.nodes.new("ShaderNodeTexNoise").outputs["Color"]
        if kind == "separate":
            node = tree.nodes.new("ShaderNodeSeparateColor")
            tree.links.new(self._colour(tree, depth - 1), node.inputs[0])
            return draw.choice(list(node.outputs))
        if kind == "mix":
            node = tree.nodes.new("ShaderNodeMix")
            node.data_type = "RGBA"
            tree.links.new(self._colour(tree, depth - 1), node.inputs[6])
            if draw.random() < 0.4:
                tree.links.new(self._colour(tree, depth - 1), node.inputs[7])
            return node.outputs[2]
        node = tree.nodes.new("ShaderNodeGamma")
        node.mute = kind == "muted"
        tree.links.new(self._colour(tree, depth - 1), node.inputs["Color"])
        return node.outputs[0]

    def _vector(self, tree: Any, node: Any) -> None:
        kind = self.draw.choices(
            ["", "map", "coordinates", "mapping", "box", "generated", "gone"], [60, 15, 10, 10, 2, 2, 1]
        )[0]
        if kind == "box":
            node.projection = "BOX"
        elif kind in ("map", "gone"):
            source = tree.nodes.new("ShaderNodeUVMap")
            source.uv_map = self.draw.choice(["UVMap", "second"]) if kind == "map" else "gone"
            tree.links.new(source.outputs[0], node.inputs["Vector"])
        elif kind:
            source = tree.nodes.new("ShaderNodeTexCoord").outputs["Generated" if kind == "generated" else "UV"]
            if kind == "mapping":
                mapping = tree.nodes.new("ShaderNodeMapping")
                mapping.inputs["Scale"].default_value = (0.5, 0.5, 1)
                tree.links.new(source, mapping.inputs["Vector"])
                source = mapping.outputs[0]
            tree.links.new(source, node.inputs["Vector"])

    def _cube(self) -> Any:
        bpy.ops.mesh.primitive_cube_add()
        object, draw = bpy.context.object, self.draw
        second = object.data.uv_layers.new(name="second")
        second.uv.foreach_set("vector", np.tile(np.float32([0, 0, 1, 0, 1, 1, 0, 1]), 6))
        draw.choice(list(object.data.uv_layers)).active_render = True
        object.data.uv_layers.active = draw.choice(list(object.data.uv_layers))
        for _ in range(draw.randint(0, 4)):
            object.data.materials.append(draw.choice([*self.materials, *self.materials, None]))
        object.data.polygons.foreach_set("material_index", [draw.randint(0, 3) for _ in range(6)])
        object.scale = draw.choice([(1, 1, 1), (-1, 1, 1), (5e-4,) * 3])
        bpy.context.view_layer.update()
        return object

    # The artist's operations while the job runs.

    def act(self, live_job: LiveJob) -> int:
        """Do one random operation; whether it may be an edit."""
        object, draw = live_job.object, self.draw
        if object is None:
            return 0
        shown = [
            image
            for slot in object.material_slots
            if slot.material
            for kind in KINDS
            if (image := materials.image_of(slot.material, kind)) and image.get("msd_key")
        ]

        def paint() -> None:
            for image in shown[:1]:
                pixels = materials.read_pixels(image).reshape(image.size[1], image.size[0], 4)
                pixels[:3, :3] = draw.random()
                image.pixels.foreach_set(pixels.ravel())

        def exchange() -> None:
            for slot in object.material_slots:
                for node in slot.material.node_tree.nodes if slot.material and slot.material.use_nodes else ():
                    if node.type == "TEX_IMAGE":
                        node.image = draw.choice(self.images)
                        return

        def assign() -> None:
            for slot in object.material_slots:
                slot.material = object.material_slots[0].material

        def swap() -> None:
            for slot in list(object.material_slots)[:1]:
                slot.material = draw.choice(self.materials)

        def add() -> None:
            object.data.materials.append(draw.choice(self.materials))

        def share() -> None:
            for slot in list(self.other.material_slots)[:1]:
                slot.material = object.material_slots[0].material if object.material_slots else None

        def wire() -> None:
            for slot in object.material_slots:
                tree = slot.material.node_tree if slot.material else None
                images = [node for node in tree.nodes if node.type == "TEX_IMAGE"] if tree else []
                shader = next((node for node in tree.nodes if node.type == "BSDF_PRINCIPLED"), None) if tree else None
                if images and shader:
                    tree.links.new(images[0].outputs["Color"], shader.inputs[draw.choice(["Roughness", "Base Color"])])
                    return

        def move() -> None:
            mine = read_positions(object.data)
            mine[draw.randrange(8)] += np.float32(0.1)
            object.data.attributes["position"].data.foreach_set("vector", mine.ravel())

        def pause() -> None:
            live_job.session.pause()

        def duplicate() -> None:
            for slot in object.material_slots:
                if slot.material:
                    slot.material = slot.material.copy()

        def undo() -> None:
            bpy.ops.ed.undo_push(message="one")
            bpy.ops.ed.undo_push(message="two")
            bpy.ops.ed.undo()

        action = draw.choice([paint, paint, exchange, assign, swap, add, share, wire, move, pause, duplicate, undo])
        action()
        return action not in (pause, undo, share)


def signature(socket: Any, groups: tuple[Any, ...] = ()) -> Any:
    """The nodes, values and images behind a shader's input, without their names."""
    link = next((each for each in socket.links), None)
    if link is None:
        value = getattr(socket, "default_value", None)
        return tuple(value) if hasattr(value, "__len__") and not isinstance(value, str) else value
    node, output = link.from_node, link.from_socket

    def same(sockets: Any) -> Any:
        return next(each for each in sockets if each.identifier == output.identifier)

    if node.type == "GROUP":
        end = next(each for each in node.node_tree.nodes if each.type == "GROUP_OUTPUT")
        return signature(same(end.inputs), (*groups, node))
    if node.type == "GROUP_INPUT":
        return signature(same(groups[-1].inputs), groups[:-1])
    image = getattr(node, "image", None)
    return (
        node.bl_idname,
        output.identifier,
        node.mute,
        image and _digest(image),
        tuple(signature(each, groups) for each in node.inputs if each.name not in _asked(node, signature.asked)),
    )


signature.asked = ()  # type: ignore[attr-defined]


def _asked(node: Any, kinds: tuple[str, ...]) -> set[str]:
    from msd_blender.nodes import SHADER_SOCKETS

    return {SHADER_SOCKETS.get(node.type, {}).get(kind, "") for kind in kinds}


def _digest(image: Any) -> str:
    return hashlib.sha256(materials.read_pixels(image).tobytes()).hexdigest() if image.size[0] else image.name


def look(material: Any, asked: tuple[str, ...] = ()) -> Any:
    """The `signature` of a material, without the sockets of some kinds."""
    if not material.use_nodes:
        return None
    signature.asked = asked  # type: ignore[attr-defined]
    output = next(node for node in material.node_tree.nodes if node.type == "OUTPUT_MATERIAL")
    return signature(output.inputs["Surface"])


def shape(object: Any) -> tuple[Any, ...]:
    mesh = object.data
    uvs = [np.array([each.vector for each in layer.uv]).tobytes() for layer in mesh.uv_layers]
    return read_positions(mesh).tobytes(), uvs, [polygon.material_index for polygon in mesh.polygons]


def run(seed: int, server: LocalServer, tiny: dict[str, Any]) -> str:
    """Run one job; returns how it ended."""
    draw = random.Random(seed)
    scene = Scene(draw)
    count = draw.choice([0, 0, 1, 2, 3])
    request = JobRequest(
        "a wooden crate",
        texture_size=64,
        maps=draw.sample(MAPS, draw.randint(0, 3)),
        seed=seed,
        **{**tiny, "iterations": 4 + 2 * count},
    )
    request.mode = draw.choice(["texture", "texture", "refine"])
    asked = ("texture", *request.maps)

    def looks(*kinds: str) -> dict[str, Any]:
        return {material.name: look(material, kinds) for material in scene.materials}

    def pictures() -> dict[str, str]:
        return {image.name: _digest(image) for image in scene.images}

    before, unasked, given, form = looks(), looks(*asked), pictures(), shape(scene.object)
    names = [
        {slot.material.name for slot in object.material_slots if slot.material}
        for object in (scene.object, scene.other)
    ]
    try:
        live_job = jobs.start(request, [scene.object])
    except InvalidMeshError as refused:
        assert str(refused).endswith(".") and "\n" not in str(refused)
        assert (looks(), pictures(), shape(scene.object)) == (before, given, form)
        return "refused"
    session, done, deadline = live_job.session, 0, time.monotonic() + SECONDS
    replaced = {name for name in names[0] if any(name in note and "no shader" in note for note in session.log)}
    while running_jobs:
        jobs.tick()
        assert time.monotonic() < deadline, f"seed {seed} does not end: {session.state}, {session.job}"
        if session.state == "paused":
            bpy.ops.msd.resume()
        elif count and session.snapshot is not None and not session.edit_pending and session.state == "running":
            count -= 1
            done += scene.act(live_job)
        time.sleep(0.01)
    assert (session.state, session.error) == (FINISHED, ""), (seed, session.error)
    edits = Client(server.url, server.token).job(session.id).edits
    assert edits <= done, f"seed {seed}: {edits} edits of {done}"
    assert pictures() == given, f"seed {seed}: an artist's image was written"
    if not done:
        after, rest = looks(), looks(*asked)
        if request.mode == "texture":
            assert shape(scene.object) == form, seed
        for name, was in before.items():
            if name not in names[0] or name in names[1]:
                assert after[name] == was, f"seed {seed}: {name} was not asked for"
            elif name not in replaced and was is not None:
                assert rest[name] == unasked[name], f"seed {seed}: {name}, what was not asked for"
        assert live_job.scene_object is not None and session.snapshot is not None
        captured = live_job.scene_object.captured
        for slot, (index, _) in enumerate(captured.slots if "uvs" in captured.arrays else []):
            image = materials.image_of(scene.object.material_slots[index].material, "texture")
            np.testing.assert_array_equal(
                materials.read_tile(image)[..., :3], session.snapshot.arrays[f"texture.{slot}"], f"seed {seed}"
            )
    return f"{edits} of {done}"


def test_generated_jobs_end_and_keep_what_was_not_asked_for(
    remote: LocalServer, tiny: dict[str, Any], request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    long = request.config.getoption("--long")
    ends, began = [], time.monotonic()
    for seed in range(200 if long else 6):
        ends.append(run(seed, remote, tiny))
    if long:
        with capsys.disabled():
            print({end: ends.count(end) for end in sorted(set(ends))}, f"{time.monotonic() - began:.0f} s")
    assert any(end != "refused" for end in ends)
