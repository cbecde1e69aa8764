# SPDX-License-Identifier: GPL-3.0-or-later
"""Write Blender's monkey as arrays, with Blender's UVs: python scripts/suzanne.py OUT.npz [LEVELS]

LEVELS: subdivision levels, default 0. Runs in its own process, because bpy changes floating-point and thread settings.
"""

import sys

import bpy
import numpy as np


def read(values, name: str, kind: type, width: int) -> np.ndarray:
    array = np.empty(width * len(values), kind)
    values.foreach_get(name, array)
    return array.reshape(-1, width)


bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.mesh.primitive_monkey_add(calc_uvs=True)
thing = bpy.context.object
if levels := int(sys.argv[2]) if len(sys.argv) > 2 else 0:
    thing.modifiers.new("", "SUBSURF").levels = levels
mesh = thing.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
mesh.calc_loop_triangles()
uvs = read(mesh.uv_layers.active.data, "uv", np.float32, 2)
np.savez(
    sys.argv[1],
    positions=read(mesh.vertices, "co", np.float32, 3),
    faces=read(mesh.loop_triangles, "vertices", np.int32, 3),
    uvs=uvs[read(mesh.loop_triangles, "loops", np.int32, 3)],
)
