# SPDX-License-Identifier: GPL-3.0-or-later
"""Small pictures of assets, and textures as Blender wants them. No bpy here, so that a thread may make them."""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass, field

import numpy as np

from .protocol import SLOT_ARRAYS, Snapshot

SIZE = 96  # pixels
_POINTS = 30_000  # that a picture is splatted from
_BACKGROUND = 56
_UNIT = np.float32(1 / 255)
LARGE = 3 << 22  # bytes of a texture of 2048 pixels; larger ones would fill the memory twice


def picture(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(SIZE, SIZE, 3) uint8, bottom row first: what the server sent along, else points of the surface."""
    preview = arrays.get("preview")
    return _resize(preview) if preview is not None else _splat(arrays)


def _resize(image: np.ndarray) -> np.ndarray:
    rows, columns = (np.arange(SIZE) * size // SIZE for size in image.shape[:2])
    return np.ascontiguousarray(image[rows][:, columns])


def _splat(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Points on the faces, seen from the front, a little right and above; the nearest wins."""
    image = np.full((SIZE, SIZE, 3), _BACKGROUND, np.uint8)
    corners = arrays["positions"][arrays["faces"]]
    if not len(corners):
        return image
    draw = np.random.default_rng(0)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1)
    a, e = math.radians(30), math.radians(20)
    right, back = (
        np.array([math.cos(a), math.sin(a), 0]),
        np.array([math.sin(a) * math.cos(e), -math.cos(a) * math.cos(e), math.sin(e)]),
    )
    up = np.cross(back, right)
    seen = area * (normal @ back > 0)
    if not seen.sum() > 0:
        return image
    face = draw.choice(len(corners), _POINTS, p=seen / seen.sum())
    root, share = np.sqrt(draw.random(_POINTS, np.float32)), draw.random(_POINTS, np.float32)
    weights = np.stack([1 - root, root * (1 - share), root * share], 1)  # uniform on a triangle
    points = np.einsum("pc,pcx->px", weights, corners[face])
    low, high = corners.min((0, 1)), corners.max((0, 1))
    points = 1.25 * (points - (low + high) / 2) / max(float(np.linalg.norm(high - low)), 1e-9)
    x, y = (np.clip(((points @ axis + 0.5) * SIZE).astype(np.intp), 0, SIZE - 2) for axis in (right, up))
    shade = 0.55 + 0.45 * np.abs((normal[face] / area[face, None]) @ ((back + up + right) / math.sqrt(3)))
    order = np.argsort(points @ back)
    colour = _colours(arrays, face, weights) * shade[:, None]
    # A point covers four pixels, so that the far side does not shine through.
    rows, columns = (y[order, None] + [0, 0, 1, 1]).ravel(), (x[order, None] + [0, 1, 0, 1]).ravel()
    image[rows, columns] = np.repeat(colour[order], 4, axis=0)
    return image


def _colours(arrays: dict[str, np.ndarray], face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(P, 3) in 0..255."""
    if "uvs" in arrays and "texture.0" in arrays:
        uv = np.einsum("pc,pcx->px", weights, arrays["uvs"][face])
        result = np.full((len(face), 3), 180.0)
        slot = arrays["slots"][face] if "slots" in arrays else np.zeros(len(face), int)
        for number in np.unique(slot).tolist():
            texture = arrays.get(f"texture.{number}")
            if texture is not None:
                here = slot == number
                size = np.array(texture.shape[1::-1])
                column, row = np.clip((uv[here] * size).astype(np.intp), 0, size - 1).T
                result[here] = texture[row, column]
        return result
    if "colours" in arrays:
        return np.einsum("pc,pcx->px", weights, arrays["colours"][arrays["faces"][face]].astype(np.float32))
    return np.full((len(face), 3), 180.0)


def floats(array: np.ndarray) -> np.ndarray:
    """(H, W[, 3 or 4]) uint8 as what Blender's pixels are: (H·W·4,) float32 in [0, 1], opaque without a fourth."""
    pixels = np.ones((*array.shape[:2], 4), np.float32)
    for channel in range(array.shape[2] if array.ndim == 3 else 3):  # twice as fast as all at once
        np.multiply(array[..., channel] if array.ndim == 3 else array, _UNIT, out=pixels[..., channel])
    return pixels.ravel()


@dataclass
class Prepared(Snapshot):
    """A snapshot with its textures as Blender's pixels, by name: a thread has the time, the main thread has not."""

    pixels: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot, before: Prepared | None = None) -> Prepared:
        """before: the one that came before, whose pixels are taken again where the texture has not changed."""
        textures = {
            name: array
            for name, array in snapshot.arrays.items()
            if name.partition(".")[0] in SLOT_ARRAYS and array.size <= LARGE
        }
        same = {name for name, array in textures.items() if before and before.arrays.get(name) is array}
        pixels = {
            name: before.pixels[name] if before and name in same else floats(array) for name, array in textures.items()
        }
        return cls(snapshot.version, snapshot.iteration, snapshot.arrays, snapshot.edits, pixels)


def to_text(image: np.ndarray) -> str:
    """A picture as a property keeps it."""
    return base64.b64encode(zlib.compress(image.tobytes())).decode()


def from_text(text: str) -> np.ndarray | None:
    try:
        return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(SIZE, SIZE, 3)
    except (ValueError, zlib.error):
        return None
