# SPDX-License-Identifier: GPL-3.0-or-later
"""Cameras that an artist placed, as texts: "AZIMUTH,ELEVATION" or "AZIMUTH,ELEVATION:PROMPT" in a request's list."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import ProtocolError
from .options import MAX_PROMPT

MAX_CAMERAS = 32

_DECIMALS = r"(?:\.[0-9]*)?"
_AZIMUTH = rf"[+-]?(?:180(?:\.0*)?|(?:1[0-7][0-9]|[1-9]?[0-9]){_DECIMALS}|\.[0-9]+)"
_ELEVATION = rf"[+-]?(?:90(?:\.0*)?|[1-8]?[0-9]{_DECIMALS}|\.[0-9]+)"
# A JSON schema's too, so that there is nothing in it that only Python has.
CAMERA = rf"^ *{_AZIMUTH} *, *{_ELEVATION} *(?::[^\x00]{{0,{MAX_PROMPT}}})?$"


@dataclass(frozen=True)
class PlacedCamera:
    """A side of the object that a job's cameras favour, and the prompt of its pictures; empty: the job's."""

    azimuth: float  # degrees, -180 to 180: 0 stands at -Y and sees the front, 90 stands at +X
    elevation: float  # degrees, -90 to 90
    prompt: str = ""


def split_camera(text: str) -> PlacedCamera:
    """The camera of a text, its prompt without the spaces around it. Raises `ProtocolError` with one sentence."""
    angles, _, prompt = text.partition(":")
    prompt = prompt.strip()
    if len(prompt) > MAX_PROMPT:
        raise ProtocolError(f"A camera's prompt has {len(prompt):,} characters; shorten it to at most {MAX_PROMPT:,}.")
    if not re.search(CAMERA, text):
        raise ProtocolError(
            "cameras must be written AZIMUTH,ELEVATION or AZIMUTH,ELEVATION:PROMPT, as '30,10:a smiling face', with an "
            f"azimuth from -180 to 180 degrees and an elevation from -90 to 90, not {text[:80]!r}."
        )
    azimuth, elevation = angles.split(",")
    return PlacedCamera(float(azimuth), float(elevation), prompt)


def join_camera(camera: PlacedCamera) -> str:
    """The inverse of `split_camera`, for angles to a thousandth of a degree."""
    angles = ",".join(f"{round(angle, 3) + 0.0:g}" for angle in (camera.azimuth, camera.elevation))
    return f"{angles}:{camera.prompt}" if camera.prompt else angles
