# SPDX-License-Identifier: GPL-3.0-or-later
"""Small pictures of a job's asset, for the panel, the history and the asset browser. Needs no bpy, so threads may
use it."""

from __future__ import annotations

import base64
import math
import zlib

import numpy as np

SIZE = 96  # pixels
_SAMPLES = 30_000  # surface points per picture
_BACKGROUND = 56
_DEFAULT_GREY = 180.0


def render_thumbnail(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(SIZE, SIZE, 3) uint8 sRGB, bottom row first, of a snapshot's arrays: its "preview" array if it has one, else
    shaded points of the surface. Raises IndexError or ValueError for arrays that do not fit each other."""
    preview = arrays.get("preview")
    return _resize(preview) if preview is not None else _render_points(arrays)


def _resize(image: np.ndarray) -> np.ndarray:
    rows, columns = (np.arange(SIZE) * size // SIZE for size in image.shape[:2])
    return np.ascontiguousarray(image[rows][:, columns])


def _render_points(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Splat points of the faces, seen from the front, 30° to the right and 20° above; the nearest point wins."""
    image = np.full((SIZE, SIZE, 3), _BACKGROUND, np.uint8)
    corners = arrays["positions"][arrays["faces"]]
    if not len(corners):
        return image
    random = np.random.default_rng(0)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1)
    azimuth, elevation = math.radians(30), math.radians(20)
    right, back = (
        np.array([math.cos(azimuth), math.sin(azimuth), 0]),
        np.array(
            [math.sin(azimuth) * math.cos(elevation), -math.cos(azimuth) * math.cos(elevation), math.sin(elevation)]
        ),
    )
    up = np.cross(back, right)
    visible = area * (normal @ back > 0)
    if not visible.sum() > 0:
        return image
    face = random.choice(len(corners), _SAMPLES, p=visible / visible.sum())
    root, share = np.sqrt(random.random(_SAMPLES, np.float32)), random.random(_SAMPLES, np.float32)
    weights = np.stack([1 - root, root * (1 - share), root * share], 1)  # uniform on a triangle
    points = np.einsum("pc,pcx->px", weights, corners[face])
    low, high = corners.min((0, 1)), corners.max((0, 1))
    points = 1.25 * (points - (low + high) / 2) / max(float(np.linalg.norm(high - low)), 1e-9)
    x, y = (np.clip(((points @ axis + 0.5) * SIZE).astype(np.intp), 0, SIZE - 2) for axis in (right, up))
    shade = 0.55 + 0.45 * np.abs((normal[face] / area[face, None]) @ ((back + up + right) / math.sqrt(3)))
    order = np.argsort(points @ back)
    colour = _point_colours(arrays, face, weights) * shade[:, None]
    # A point covers four pixels, so that the far side does not shine through.
    rows, columns = (y[order, None] + [0, 0, 1, 1]).ravel(), (x[order, None] + [0, 1, 0, 1]).ravel()
    image[rows, columns] = np.repeat(colour[order], 4, axis=0)
    return image


def _point_colours(arrays: dict[str, np.ndarray], face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(P, 3) base colours in 0..255 of points given by their faces (P,) and barycentric weights (P, 3)."""
    if "uvs" in arrays and "texture.0" in arrays:
        uv = np.einsum("pc,pcx->px", weights, arrays["uvs"][face])
        colours = np.full((len(face), 3), _DEFAULT_GREY)
        slots = arrays["slots"][face] if "slots" in arrays else np.zeros(len(face), int)
        for slot in np.unique(slots).tolist():
            texture = arrays.get(f"texture.{slot}")
            if texture is not None:
                here = slots == slot
                size = np.array(texture.shape[1::-1])
                column, row = np.clip((uv[here] * size).astype(np.intp), 0, size - 1).T
                colours[here] = texture[row, column]
        return colours
    if "colours" in arrays:
        return np.einsum("pc,pcx->px", weights, arrays["colours"][arrays["faces"][face]].astype(np.float32))
    return np.full((len(face), 3), _DEFAULT_GREY)


def encode_thumbnail(image: np.ndarray) -> str:
    """A thumbnail as text, for a string property."""
    return base64.b64encode(zlib.compress(image.tobytes())).decode()


def decode_thumbnail(text: str) -> np.ndarray | None:
    """The (SIZE, SIZE, 3) uint8 thumbnail of `encode_thumbnail`; None where the text is no thumbnail."""
    try:
        return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(SIZE, SIZE, 3)
    except (ValueError, zlib.error):
        return None
