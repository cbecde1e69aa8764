# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU server: prompts in, optimized meshes out. It never imports bpy."""
