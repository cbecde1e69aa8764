# SPDX-License-Identifier: GPL-3.0-or-later
"""Batches of perspective cameras that look at the origin.

Right-handed, Z up. Azimuth 0 is the front: the camera stands at -Y and looks along +Y; azimuth grows
counter-clockwise seen from above, so 90 degrees is at +X. Row 0 of every image is the bottom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import widest

# The bundled prior was trained on pictures of such cameras (`bundled_prior.objects`); they suit other priors as well.
FIELD_OF_VIEW = 40.0  # degrees, vertical
DISTANCE, DISTANCE_JITTER = 3.0, 0.15  # metres: the middle, and how far either side of it
ELEVATION = (-10.0, 45.0)  # degrees, from the sides
OVERHEAD = (58.0, 72.0)  # degrees, from above
OVERHEAD_SHARE = 0.15  # of the cameras
ORBIT_ELEVATION = 20.0  # degrees, of a turntable's cameras
NEAR = 15.0  # degrees either side of a placed view
OBJECT_RADIUS = 0.85  # metres: an object fills the ball of this radius around the origin


@dataclass(frozen=True)
class Cameras:
    """B cameras, each field (B,): azimuth and elevation in radians, distance in metres, fov in radians.

    placed: the number of the placed view that each stands near, -1 for none; None where no view was placed.
    """

    azimuth: Tensor
    elevation: Tensor
    distance: Tensor
    fov: Tensor
    placed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.azimuth)

    def to(self, device: str | torch.device) -> Cameras:
        parts = {name: part for name, part in vars(self).items() if part is not None}
        return Cameras(**{name: part.to(device, non_blocking=True) for name, part in parts.items()})

    @property
    def position(self) -> Tensor:
        """(B, 3) metres, in the world."""
        c = self.elevation.cos()
        direction = torch.stack([self.azimuth.sin() * c, -self.azimuth.cos() * c, self.elevation.sin()], dim=1)
        return self.distance[:, None] * direction

    def axes(self) -> tuple[Tensor, Tensor, Tensor]:
        """(right, up, backward), each (B, 3): the camera's x, y and z axes in the world."""
        backward = F.normalize(self.position, dim=1)
        zero = torch.zeros_like(self.azimuth)
        right = torch.stack([self.azimuth.cos(), self.azimuth.sin(), zero], dim=1)
        return right, torch.linalg.cross(backward, right), backward

    def view(self) -> Tensor:
        """(B, 4, 4): world to camera, which looks along its -Z."""
        rotation = torch.stack(self.axes(), dim=1)
        matrix = torch.zeros(len(self), 4, 4, device=self.azimuth.device, dtype=self.azimuth.dtype)
        matrix[:, :3, :3] = rotation
        matrix[:, :3, 3] = -(rotation @ self.position[:, :, None])[:, :, 0]
        matrix[:, 3, 3] = 1
        return matrix

    def projection(self) -> Tensor:
        """(B, 4, 4): camera to OpenGL clip space, for square images."""
        near = 0.1
        far = (widest(self.distance).amax() + 5).clamp(min=10) if len(self) else 10.0
        focal = 1 / (self.fov / 2).tan()
        matrix = torch.zeros(len(self), 4, 4, device=self.azimuth.device, dtype=self.azimuth.dtype)
        matrix[:, 0, 0] = matrix[:, 1, 1] = focal
        matrix[:, 2, 2] = -(far + near) / (far - near)
        matrix[:, 2, 3] = -2 * far * near / (far - near)
        matrix[:, 3, 2] = -1
        return matrix

    def clip(self, positions: Tensor) -> Tensor:
        """(B, V, 4) clip-space positions of (V, 3) world positions in metres."""
        homogeneous = F.pad(positions, (0, 1), value=1.0)
        return homogeneous @ (self.projection() @ self.view()).transpose(1, 2).to(positions.dtype)

    def rays(self, resolution: int) -> tuple[Tensor, Tensor]:
        """Origins (B, 3) and unit directions (B, resolution, resolution, 3) through the pixels' centres."""
        right, up, backward = (axis[:, None, None] for axis in self.axes())
        centre = (torch.arange(resolution, device=self.azimuth.device) + 0.5) * (2 / resolution) - 1
        slope = (self.fov / 2).tan()[:, None] * centre
        directions = slope[:, None, :, None] * right + slope[:, :, None, None] * up - backward
        return self.position, F.normalize(directions, dim=-1)


def sample(
    batch: int,
    generator: torch.Generator,
    device: str | torch.device = "cpu",
    elevation: tuple[float, float] | None = None,
    field_of_view: float = FIELD_OF_VIEW,
    distance: tuple[float, float] | None = None,
    together: int = 1,
    placed: Sequence[tuple[float, float]] = (),
) -> Cameras:
    """Random training cameras: azimuths spread evenly round the circle from a random start, with jitter.

    Args:
        elevation: lowest and highest, degrees; None is `ELEVATION` with a share of `OVERHEAD`.
        field_of_view: vertical, degrees.
        distance: nearest and farthest, metres; None is `DISTANCE` with its jitter, or at another field of view the
            distances from which the ball of radius 1 fills as much of the picture.
        together: cameras in a row that differ only in azimuth, by equal parts of the circle, and see one object at
            once; `batch` is a multiple of it.
        placed: azimuth and elevation of views, degrees; each second camera, or the first of each second `together`,
            stands at most `NEAR` away from one of them. Several views take turns from a random one on.
    """
    groups = batch // together

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(groups, generator=generator)

    if distance is None:
        away = math.sin(math.radians(FIELD_OF_VIEW / 2)) / math.sin(math.radians(field_of_view / 2))
        distance = away * (DISTANCE - DISTANCE_JITTER), away * (DISTANCE + DISTANCE_JITTER)
    start = torch.rand(1, generator=generator)
    part = 2 * math.pi / together
    azimuth = part * ((torch.arange(groups) + uniform(-0.5, 0.5)) / groups + start)
    low, high = uniform(*(elevation or ELEVATION)), uniform(*OVERHEAD)
    overhead = torch.rand(groups, generator=generator) < (OVERHEAD_SHARE if elevation is None else 0)
    fov = torch.full((groups,), math.radians(field_of_view))
    up = torch.deg2rad(torch.where(overhead, high, low))
    near: Tensor | None = None  # the placed view of each group, -1 for none
    if placed:
        order = torch.arange(groups)
        begin = torch.randint(len(placed), (1,), generator=generator) if len(placed) > 1 else torch.tensor([0])
        turn = (begin + order // 2) % len(placed)
        near = torch.where(order % 2 == 0, turn, -1)
        angles = torch.tensor([[math.radians(angle) for angle in view] for view in placed])[turn]
        beside, above = (angle + torch.deg2rad(uniform(-NEAR, NEAR)) for angle in angles.unbind(dim=1))
        beside, above = beside + math.pi * (above.cos() < 0), torch.asin(above.sin())  # beyond a pole is another side
        azimuth, up = torch.where(near >= 0, beside, azimuth), torch.where(near >= 0, above, up)
    first = azimuth, up, uniform(*distance), fov
    azimuth, up, far, fov = (each.repeat_interleave(together) for each in first)
    place = torch.arange(together).repeat(groups)
    if near is not None:
        near = torch.where(place == 0, near.repeat_interleave(together), -1)
    return Cameras(azimuth + part * place, up, far, fov, near).to(device)


def orbit(count: int, elevation: float = ORBIT_ELEVATION, device: str | torch.device = "cpu") -> Cameras:
    """`count` cameras evenly round the object from the front on, at an elevation in degrees."""
    azimuth = 2 * math.pi * torch.arange(count, device=device) / count
    full = torch.ones_like(azimuth)
    return Cameras(azimuth, math.radians(elevation) * full, DISTANCE * full, math.radians(FIELD_OF_VIEW) * full)
