# SPDX-License-Identifier: GPL-3.0-or-later
"""A preset: paint the active mesh, which keeps its shape."""

import bpy

settings = bpy.context.scene.msd
settings.mode = "texture"
settings.quality = "STANDARD"
settings.iterations = 0
settings.target_faces = 0
settings.texture_size = 2048
settings.maps = {"normal", "roughness"}
settings.regularization = 0.0
settings.symmetry = "none"
settings.flat = False
