# SPDX-License-Identifier: GPL-3.0-or-later
"""Connected parts of an occupancy mask, before it becomes a mesh."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def remove_floaters(inside: np.ndarray, share: float = 0.05) -> np.ndarray:
    """The mask without connected parts of fewer points than `share` of the largest one's.

    inside: (n, n, n) bool. The mask itself where it is empty.
    """
    labels, count = ndimage.label(inside)
    if count == 0:
        return inside
    sizes = np.bincount(labels.ravel())[1:]
    keep = np.flatnonzero(sizes >= share * sizes.max()) + 1
    return np.isin(labels, keep)


def bridge_gaps(inside: np.ndarray, reach: float = 2.0, share: float = 0.02) -> np.ndarray:
    """The mask with the gaps of at most 2 `reach` points between two parts filled.

    This is a morphological closing by a ball, of which a component is kept only if it joins two parts that are no
    floaters: legs of one object stay apart, and so do things that are far from each other.

    Args:
        inside: (n, n, n) bool.
        share: a part with fewer points than this share of the largest one's is a floater.
    Returns:
        (n, n, n) bool; the mask itself where it has one part only.
    """
    parts, count = ndimage.label(remove_floaters(inside, share))
    if count < 2:
        return inside
    solid = np.pad(parts > 0, int(reach) + 1)  # so that a ball at the border is whole
    grown = ndimage.distance_transform_edt(~solid) <= reach
    closed = ndimage.distance_transform_edt(grown) > reach
    inner = (slice(int(reach) + 1, -int(reach) - 1),) * inside.ndim
    bridges, _ = ndimage.label((closed & ~solid)[inner])
    made = inside.copy()
    for i, where in enumerate(ndimage.find_objects(bridges), 1):
        around = tuple(slice(max(0, each.start - 1), each.stop + 1) for each in where)
        bridge = bridges[around] == i
        touched = np.unique(parts[around][ndimage.binary_dilation(bridge)])
        if len(touched) > 2:  # the background and two parts
            made[around] |= bridge
    return made
