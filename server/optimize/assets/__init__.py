# SPDX-License-Identifier: GPL-3.0-or-later
"""What is optimized: a field as a fog, the field's surface, or a mesh with a topology of its own."""

from .atlas import laid_anew
from .base import Asset
from .explicit import Explicit, Manner, Place, remeshed
from .surface import Surface, extract, joined
from .volume import Volume

__all__ = ["Asset", "Explicit", "Manner", "Place", "Surface", "Volume", "extract", "joined", "laid_anew", "remeshed"]
