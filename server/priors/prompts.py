# SPDX-License-Identifier: GPL-3.0-or-later
"""View words: telling the prior which side of the object a camera sees (DreamFusion, section 3.2)."""

import math
import re

import numpy as np
from numpy.typing import ArrayLike

# Counter-clockwise from above, an eighth of a turn each. Finer words than front, side and back, because the mean
# of all that "side view" can mean is symmetric, and so is then the object: a stool for a chair.
DIRECTIONS = ("front", "front right", "right side", "back right", "back", "back left", "left side", "front left")
VIEWS = (*DIRECTIONS, "overhead")
_OWN_VIEW = re.compile(
    r"[\s,]*\b(?:(?:seen\s+)?(?:in|from)\s+(?:the|a)\s+)?"
    r"(?:front|back|rear|side|left|right|top|overhead|profile)(?:[\s-]+(?:left|right|side))?[\s-]+view\b(?:\s+of\b\s*)?",
    re.IGNORECASE)


def view_word(azimuth: float, elevation: float) -> str:
    """The one of `VIEWS` of a camera at these angles in degrees.

    Azimuth 0 looks along +Y at the front, 90 stands at +X, the right; it may take any number of turns.
    """
    return "overhead" if elevation > 55 else DIRECTIONS[math.floor(azimuth / 45 + 0.5) % 8]


def without_view(prompt: str) -> str:
    """The prompt without a view of its own, which would contradict a camera's: a prompt that says "front view" for
    all sides makes fronts of them (Hong et al. 2023, prompt debiasing). A prompt of nothing else stays."""
    return _OWN_VIEW.sub(" ", prompt).replace(" ,", ",").strip(" ,") or prompt


def view_prompts(prompt: str, azimuth: ArrayLike, elevation: ArrayLike) -> list[str]:
    """The prompt once per camera, with its view in place of one of its own: "a red chair, right side view".

    azimuth, elevation: degrees, numbers or (B,) arrays that broadcast.
    """
    angles = np.broadcast_arrays(np.atleast_1d(azimuth), np.atleast_1d(elevation))
    prompt = without_view(prompt)
    return [f"{prompt}, {view_word(float(a), float(e))} view" for a, e in zip(*angles, strict=True)]


def negative_prompts(prompt: str, elevation: ArrayLike, negative: str, contrast: ArrayLike) -> list[str]:
    """`negative` once per camera; with the prompt's view from overhead where `contrast` says so, unless that is the
    camera's own: "a red mushroom, overhead view, blurry".

    A side's word means many elevations, and the mode among them hides most: a mushroom from high up is a ball. What
    the guidance scale multiplies is then what tells the side from overhead, the stem. Perp-Neg (Armandpour et al.
    2023, arXiv 2304.04968) has such negatives beside the empty one; where chance picks either, none costs more.

    elevation: degrees; contrast: truths; (B,) arrays that broadcast.
    """
    overhead, = view_prompts(prompt, 0, 90)
    against = f"{overhead}, {negative}" if negative else overhead
    pairs = np.broadcast_arrays(np.atleast_1d(elevation), np.atleast_1d(contrast))
    return [against if yes and view_word(0, float(angle)) != "overhead" else negative
            for angle, yes in zip(*pairs, strict=True)]
