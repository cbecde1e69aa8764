# SPDX-License-Identifier: GPL-3.0-or-later
"""The Blender extension. Importing it needs no bpy; `register` does."""

__version__ = "0.1.0"
