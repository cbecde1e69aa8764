# SPDX-License-Identifier: GPL-3.0-or-later
"""A preset: mirrored, flat shading, metal."""

import bpy

settings = bpy.context.scene.msd
settings.quality = "STANDARD"
settings.iterations = 0
settings.target_faces = 0
settings.texture_size = 0
settings.maps = {"metallic", "roughness"}
settings.regularization = 0.5
settings.symmetry = "x"
settings.flat = True
