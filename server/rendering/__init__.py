# SPDX-License-Identifier: GPL-3.0-or-later
"""Cameras, light and the differentiable pictures that a prior judges."""
