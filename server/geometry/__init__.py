# SPDX-License-Identifier: GPL-3.0-or-later
"""Geometry: fields on grids, their surfaces as meshes, remeshing, UVs, regularizers, mesh files."""
