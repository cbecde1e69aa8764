# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's own importers and exporters, in a process of its own, because Blender and usd-core each bring their USD.

python in_blender.py OUTPUT.npz FILE…       says what Blender makes of files
python in_blender.py OUTPUT.npz --make FILE…   says what Blender had, of which it made the files
"""

import sys

import bpy
import numpy as np


def read(path):
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    kind = path.rpartition(".")[2]
    if kind in ("glb", "gltf"):
        bpy.ops.import_scene.gltf(filepath=path)
    elif kind == "obj":
        bpy.ops.wm.obj_import(filepath=path)
    elif kind == "ply":
        bpy.ops.wm.ply_import(filepath=path)
    else:
        bpy.ops.wm.usd_import(filepath=path)
    (object,) = (each for each in bpy.data.objects if each.type == "MESH")
    mesh = object.data
    world = np.array(object.matrix_world)
    places = np.array([vertex.co for vertex in mesh.vertices]).reshape(-1, 3) @ world[:3, :3].T + world[:3, 3]
    found = {
        "vertices": places,
        "corners": places[[loop.vertex_index for loop in mesh.loops]].reshape(-1, 3, 3),
        "materials": np.array([mesh.materials[p.material_index].name if mesh.materials else "" for p in mesh.polygons]),
        "normals": np.array([normal.vector for normal in mesh.corner_normals]).reshape(-1, 3, 3) @ world[:3, :3].T,
    }
    if mesh.uv_layers:
        found["uvs"] = np.array([each.uv for each in mesh.uv_layers[0].data]).reshape(-1, 3, 2)
        for i, layer in list(enumerate(mesh.uv_layers))[1:]:
            found[f"uvs {i}"] = np.array([each.uv for each in layer.data]).reshape(-1, 3, 2)
    if mesh.color_attributes:
        layer = mesh.color_attributes[0]
        colours = np.array([each.color_srgb for each in layer.data])[:, :3]
        corner = [loop.vertex_index for loop in mesh.loops] if layer.domain == "POINT" else slice(None)
        found["colours"] = colours[corner].reshape(-1, 3, 3)
    for material in filter(None, mesh.materials):
        surface = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
        for name in ("Base Color", "Roughness", "Metallic", "Normal", "Alpha"):
            found[f"{material.name}/{name}"] = picture(surface.inputs[name])
        for node in (each for each in material.node_tree.nodes if each.type == "MAPPING"):
            found[f"{material.name}/mapping"] = np.array(
                [node.inputs[name].default_value for name in ("Location", "Rotation", "Scale")]
            )
    return found


def picture(socket):
    """The pixels behind a socket, or of the channel that it takes; the kind of any other node, or the value."""
    node, used = None, ""
    while socket.links and (node is None or node.type != "TEX_IMAGE"):
        node = socket.links[0].from_node
        used = used or socket.links[0].from_socket.name
        if node.type == "TEX_IMAGE":
            width, height = node.image.size
            pixels = np.array(node.image.pixels[:]).reshape(height, width, 4)
            channel = {"Red": 0, "Green": 1, "Blue": 2, "Alpha": 3}.get(used)
            return pixels[..., :3] if channel is None else pixels[..., channel]
        linked = [each for each in node.inputs if each.is_linked]
        if not linked:
            return np.array(node.type)  # such as that of vertex colours
        socket = linked[0]
    value = socket.default_value
    return np.array(value if isinstance(value, float) else value[:])


def make(paths):
    """Suzanne, of quads and triangles, moved, turned, stretched and mirrored, with two materials and UVs."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    bpy.ops.mesh.primitive_monkey_add(location=(1, 2, 3), rotation=(0.3, 0.2, 0.5))
    object = bpy.context.object
    object.scale = (1, -2, 0.5)
    mesh = object.data
    for name in ("one", "two"):
        mesh.materials.append(bpy.data.materials.new(name))
    for polygon in mesh.polygons:
        polygon.material_index = int(polygon.center.x > 0)
    bpy.context.view_layer.update()
    world = np.array(object.matrix_world)
    mesh.calc_loop_triangles()
    places = np.array([vertex.co for vertex in mesh.vertices]) @ world[:3, :3].T + world[:3, 3]
    found = {
        "vertices": places,
        "materials": np.array([t.material_index for t in mesh.loop_triangles]),
        "corners": places[[tuple(t.vertices)[::-1] for t in mesh.loop_triangles]],  # mirrored
        "uvs": np.array([[mesh.uv_layers[0].data[i].uv for i in tuple(t.loops)[::-1]] for t in mesh.loop_triangles]),
    }
    for path in paths:
        kind = path.rpartition(".")[2]
        if kind == "glb":
            bpy.ops.export_scene.gltf(filepath=path, export_format="GLB")
        elif kind == "obj":
            bpy.ops.wm.obj_export(filepath=path)
        elif kind == "ply":
            bpy.ops.wm.ply_export(filepath=path)
        else:
            bpy.ops.wm.usd_export(filepath=path)
    return found


if __name__ == "__main__":
    if sys.argv[2] == "--make":
        np.savez(sys.argv[1], **make(sys.argv[3:]))
    else:
        np.savez(
            sys.argv[1],
            **{f"{i}/{name}": value for i, path in enumerate(sys.argv[2:]) for name, value in read(path).items()},
        )
