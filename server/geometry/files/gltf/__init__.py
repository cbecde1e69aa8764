# SPDX-License-Identifier: GPL-3.0-or-later
"""glTF 2.0 of the Khronos Group: GLB, and .gltf with its data in it or beside it."""

from .materials import with_alpha
from .scene import load
from .writer import save

__all__ = ["load", "save", "with_alpha"]
