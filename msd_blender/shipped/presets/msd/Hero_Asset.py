# SPDX-License-Identifier: GPL-3.0-or-later
"""A preset: many faces, all maps, 1200 iterations."""

import bpy

settings = bpy.context.scene.msd
settings.quality = "HIGH"
settings.iterations = 0
settings.target_faces = 60000
settings.texture_size = 2048
settings.maps = {"metallic", "normal", "roughness"}
settings.regularization = 0.0
settings.symmetry = "none"
settings.flat = False
