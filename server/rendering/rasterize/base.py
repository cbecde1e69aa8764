# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface of all rasterizers: nvdiffrast's documented operations and conventions."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

BOUNDARIES = ("wrap", "clamp")


class Rasterizer(Protocol):
    """Differentiable rasterization (Laine et al. 2020, "Modular Primitives for High-Performance Differentiable
    Rendering"). Images are (B, H, W, C), row 0 at the bottom.

    All tensors of a call are on one device, and so is its result; they need not be contiguous. Without triangles the
    images are all 0. `antialias` must give silhouettes a gradient even where triangles are finer than a pixel.
    """

    def rasterize(self, clip: Tensor, faces: Tensor, resolution: tuple[int, int]) -> Tensor:
        """(B, H, W, 4) of (u, v, z/w, triangle id + 1), all 0 where nothing is.

        Args:
            clip: (B, V, 4) OpenGL clip-space positions.
            faces: (F, 3) int32; both sides are drawn.
            resolution: (H, W) pixels.

        u and v are the perspective-correct barycentrics of a triangle's first and second corner. Gradients
        flow from u and v to `clip`, not from z/w.
        """
        ...

    def interpolate(self, attributes: Tensor, rast: Tensor, faces: Tensor) -> Tensor:
        """(B, H, W, C) of per-vertex attributes (B or 1, V, C), 0 where nothing is.

        Gradients flow to the attributes and to u and v of `rast` (B, H, W, 4). faces: (F, 3) int32.
        """
        ...

    def footprint(
        self, attributes: Tensor, rast: Tensor, attribute_faces: Tensor, clip: Tensor, faces: Tensor
    ) -> Tensor:
        """(B, H, W, 2C) screen-space derivatives per pixel, (dA/dX, dA/dY) for every attribute A in turn.

        Args:
            attributes: (B or 1, N, C), with triangles of their own, `attribute_faces` (F, 3).
            rast: (B, H, W, 4) of `clip` (B, V, 4) and `faces` (F, 3).

        No gradient flows through it.
        """
        ...

    def texture(self, texture: Tensor, uv: Tensor, footprint: Tensor | None = None, boundary: str = "wrap") -> Tensor:
        """(B, H, W, C) of a texture (B or 1, h, w, C) at uv (B, H, W, 2); gradients flow to texels and to uv.

        The origin is the texture's bottom left, texel i's centre lies at (i + 0.5) / edge. Bilinear; with the
        uv's `footprint` (B, H, W, 4) trilinear from mipmaps, at the mip level where the longer axis of the footprint
        is one texel. Mip levels end where an edge is odd, so textures whose edges are powers of two have them all.

        Args:
            boundary: "wrap" repeats the texture, "clamp" holds the centres of its outermost texels.
        """
        ...

    def antialias(self, colour: Tensor, rast: Tensor, clip: Tensor, faces: Tensor) -> Tensor:
        """`colour` (B, H, W, C) blended across silhouettes, so that gradients reach the positions.

        Laine et al. 2020, section 3.6: where neighbouring pixels see different triangles, the silhouette
        edge of the nearer one divides the space between their centres.
        """
        ...
