# SPDX-License-Identifier: GPL-3.0-or-later
"""A preset: smooth and simple, colour alone."""

import bpy

settings = bpy.context.scene.msd
settings.quality = "STANDARD"
settings.iterations = 0
settings.target_faces = 8000
settings.texture_size = 0
settings.maps = set()
settings.regularization = 2.0
settings.symmetry = "none"
settings.flat = False
