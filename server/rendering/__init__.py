# SPDX-License-Identifier: GPL-3.0-or-later
"""Cameras, shading, rasterizers and a ray marcher: differentiable images of meshes and fields."""
