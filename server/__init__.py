# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU server: prompts in, optimized meshes out. It never imports bpy."""

import os

# OpenMP's threads else spin while they wait for each other, and on a machine that is busy, with Blender for one, a
# job takes three times as long. Set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
