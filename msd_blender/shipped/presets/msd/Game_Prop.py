# SPDX-License-Identifier: GPL-3.0-or-later
"""A preset: few faces, one texture, roughness and normals."""

import bpy

settings = bpy.context.scene.msd
settings.quality = "STANDARD"
settings.iterations = 0
settings.target_faces = 5000
settings.texture_size = 1024
settings.maps = {"normal", "roughness"}
settings.regularization = 0.0
settings.symmetry = "none"
settings.flat = False
