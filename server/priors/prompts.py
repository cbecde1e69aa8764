# SPDX-License-Identifier: GPL-3.0-or-later
"""View words: telling the prior which side of the object a camera sees (DreamFusion, section 3.2)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def view_words(azimuth: ArrayLike, elevation: ArrayLike) -> list[str]:
    """ "front", "side", "back" or "overhead" for each camera.

    azimuth, elevation: degrees, numbers or (B,) arrays that broadcast; azimuth 0 looks along +Y at the front
    and may take any number of turns.
    """
    azimuths, elevations = np.broadcast_arrays(np.atleast_1d(azimuth), np.atleast_1d(elevation))
    return [_word(float(a), float(e)) for a, e in zip(azimuths, elevations, strict=True)]


def _word(azimuth: float, elevation: float) -> str:
    if elevation > 55:
        return "overhead"
    from_front = abs((azimuth + 180) % 360 - 180)
    if from_front <= 45:
        return "front"
    return "back" if from_front >= 135 else "side"


def view_prompts(prompt: str, azimuth: ArrayLike, elevation: ArrayLike) -> list[str]:
    """The prompt once per camera, with its view: "a red chair, side view"."""
    words: Sequence[str] = view_words(azimuth, elevation)
    return [f"{prompt}, {word} view" for word in words]
