# SPDX-License-Identifier: GPL-3.0-or-later
"""What is optimized: a field as a fog, the field's surface, or a mesh with a topology of its own."""

from .base import Asset
from .explicit import Explicit, Manner, Place, remeshed, texture_colours
from .surface import Surface, extract, joined
from .volume import Volume

__all__ = ["Asset", "Explicit", "Manner", "Place", "Surface", "Volume", "extract", "joined", "remeshed",
           "texture_colours"]
