# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures that are uploaded as image prompts: PNG, JPEG or WebP, as bytes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .errors import ProtocolError

MAX_PICTURE = 32 << 20  # bytes of a file
MAX_PIXELS = 32 << 20  # of a picture


def read_picture(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a picture's file. Raises `ProtocolError` where it cannot be read."""
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ProtocolError(
            f"The picture {path} cannot be read ({error.strerror}): name a PNG, JPEG or WebP file."
        ) from None


def picture_id(data: bytes) -> str:
    """The id of a picture's upload, for `JobRequest.image_prompt`. Raises `ProtocolError` for a file too large."""
    if len(data) > MAX_PICTURE:
        raise ProtocolError(f"A picture may have at most {MAX_PICTURE >> 20} MB: scale it down.")
    return hashlib.sha256(data).hexdigest()
