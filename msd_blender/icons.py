# SPDX-License-Identifier: GPL-3.0-or-later
"""Thumbnails as Blender icons and previews, for the panel, the history and the asset browser."""

from __future__ import annotations

import bpy
import bpy.utils.previews
import numpy as np

from .thumbnails import decode_thumbnail

_previews: bpy.utils.previews.ImagePreviewCollection | None = None  # by the job's key; None while not registered


def _write_preview(preview: bpy.types.ImagePreview, image: np.ndarray) -> None:
    pixels = np.full((*image.shape[:2], 4), 1, np.float32)
    pixels[..., :3] = image / np.float32(255)
    preview.image_size = image.shape[1], image.shape[0]
    preview.image_pixels_float.foreach_set(pixels.ravel())
    small = np.ascontiguousarray(pixels[::3, ::3])  # the icon of lists
    preview.icon_size = small.shape[1], small.shape[0]
    preview.icon_pixels_float.foreach_set(small.ravel())


def set_icon(key: str, image: np.ndarray) -> None:
    """Make a thumbnail the icon of a job's key."""
    if _previews is not None:
        _write_preview(_previews[key] if key in _previews else _previews.new(key), image)


def icon_id(key: str, encoded: str = "") -> int:
    """Number of the key's icon for `UILayout.template_icon`, 0 without one.

    encoded: text of `encode_thumbnail`, from which a missing icon is made.
    """
    if _previews is not None and key not in _previews and encoded and (image := decode_thumbnail(encoded)) is not None:
        set_icon(key, image)
    return _previews[key].icon_id if _previews is not None and key in _previews else 0


def set_object_preview(object: bpy.types.Object, image: np.ndarray) -> None:
    """Make a thumbnail the object's own preview, which the asset browser shows."""
    _write_preview(object.preview_ensure(), image)


def register() -> None:
    global _previews
    _previews = bpy.utils.previews.new()


def unregister() -> None:
    global _previews
    bpy.utils.previews.remove(_previews)
    _previews = None
