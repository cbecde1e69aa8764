# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures as Blender's icons: for the panel, the history and the asset browser."""

from __future__ import annotations

from typing import Any

import bpy
import bpy.utils.previews
import numpy as np

from .pictures import from_text

_icons: Any = None  # Blender's collection of previews, by the job's key


def _fill(preview: Any, image: np.ndarray) -> None:
    pixels = np.full((*image.shape[:2], 4), 1, np.float32)
    pixels[..., :3] = image / np.float32(255)
    preview.image_size = image.shape[1], image.shape[0]
    preview.image_pixels_float.foreach_set(pixels.ravel())
    small = np.ascontiguousarray(pixels[::3, ::3])  # what lists show
    preview.icon_size = small.shape[1], small.shape[0]
    preview.icon_pixels_float.foreach_set(small.ravel())


def show(key: str, image: np.ndarray) -> None:
    """Let `icon` of this key be the picture from now on."""
    if _icons is not None:
        _fill(_icons[key] if key in _icons else _icons.new(key), image)


def icon(key: str, text: str = "") -> int:
    """Number of the key's icon for `template_icon`, 0 for none; text: the picture where it is not shown yet."""
    if _icons is not None and key not in _icons and text and (image := from_text(text)) is not None:
        show(key, image)
    return _icons[key].icon_id if _icons is not None and key in _icons else 0


def preview_of(object: Any, image: np.ndarray) -> None:
    """The picture as the object's own preview, which the asset browser shows."""
    _fill(object.preview_ensure(), image)


def register() -> None:
    global _icons
    _icons = bpy.utils.previews.new()


def unregister() -> None:
    global _icons
    bpy.utils.previews.remove(_icons)
    _icons = None
