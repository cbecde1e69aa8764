# SPDX-License-Identifier: GPL-3.0-or-later
"""A preset: a quick look."""

import bpy

settings = bpy.context.scene.msd
settings.quality = "DRAFT"
settings.iterations = 0
settings.target_faces = 0
settings.texture_size = 0
settings.maps = set()
settings.regularization = 0.0
settings.symmetry = "none"
settings.flat = False
