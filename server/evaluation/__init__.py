# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurements of the bundled prior and of text-to-3D with it; nothing that a job needs.

`classifier`: reads noun, colour, view and finish from pictures. `compare`: a mesh against a true shape. `samples`: the
table of the prior's own samples. `text_to_3d`: the table of generated objects.
"""
