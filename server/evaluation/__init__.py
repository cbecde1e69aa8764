# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurements of the bundled prior, and of text-to-3D with it. No other part of the server needs them.

- `classifier`: reads noun, colour, view and finish from pictures
- `compare`: scores a mesh against a true shape
- `ideal_views`: priors that know a true object, and what a job keeps of it
- `samples`: the table of the prior's own samples
- `text_to_3d`: the table of generated objects
"""
