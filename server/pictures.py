# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of users, decoded with care."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from msd_blender.protocol import MAX_PIXELS, ProtocolError

FORMATS = "PNG", "JPEG", "WEBP"
EDGE = 2048  # pixels that are kept of a longer one: image encoders see some hundred


def decode(data: bytes) -> Image.Image:
    """A picture of one of `FORMATS` as RGB, turned as its camera was held, and on white where it is transparent.

    Its longer edge has at most `EDGE` pixels.

    Raises `ProtocolError`, with one sentence, for anything else, and for more than `MAX_PIXELS` pixels.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would cut off at 255
            image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
        elif image.mode not in ("RGB", "L"):
            image = image.convert("RGBA")
        image.thumbnail((EDGE, EDGE))
        turned = ImageOps.exif_transpose(image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned).convert("RGB")
    except Image.DecompressionBombError:
        raise ProtocolError(f"The picture has more than {MAX_PIXELS >> 20} million pixels: scale it down.") from None
    except Exception as error:  # of many kinds, by the format
        raise ProtocolError("The picture cannot be read: give a PNG, JPEG or WebP file that is whole.") from error
