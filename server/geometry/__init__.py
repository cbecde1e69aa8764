# SPDX-License-Identifier: GPL-3.0-or-later
"""Shapes: a field on a grid, the mesh of its surface, regularizers, unwrapping and export."""
