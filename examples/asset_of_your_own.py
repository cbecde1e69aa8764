# SPDX-License-Identifier: GPL-3.0-or-later
"""An asset of one's own: a ball whose radius and colour are all that a job may change.

    .venv/bin/python -m examples.asset_of_your_own --output out/asset

An asset is a class with the members of `server.assets.Asset` and a line in `server.assets.ASSETS`, by which a
checkpoint finds it again. A phase of `server.optimize.Settings` names its class.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import trimesh
from torch import Tensor, nn

from msd_blender.protocol import JobRequest
from server.assets import ASSETS, Asset, AssetState, BuildContext, ParamGroup
from server.geometry.mesh import Mesh
from server.optimize import Settings, generate
from server.rendering.cameras import Cameras
from server.rendering.rasterize import Rasterizer
from server.rendering.render import render
from server.rendering.shading import Lights

SPHERE = trimesh.creation.icosphere(3)


class Ball(nn.Module):
    """A sphere about the origin, in one colour."""

    name: ClassVar[str] = "ball"

    def __init__(self, rasterizer: Rasterizer, device: torch.device):
        super().__init__()
        self.rasterizer = rasterizer
        self.sphere = torch.tensor(SPHERE.vertices, dtype=torch.float32, device=device)
        self.faces = torch.tensor(SPHERE.faces, dtype=torch.int32, device=device)
        self.log_radius = nn.Parameter(torch.tensor(-1.0, device=device))
        self.colour = nn.Parameter(torch.zeros(3, device=device))  # logits

    @classmethod
    def from_previous(cls, previous: Asset | None, context: BuildContext) -> Ball:
        return cls(context.rasterizer, context.device)

    @classmethod
    def from_checkpoint(cls, state: AssetState, context: BuildContext) -> Ball:
        ball = cls(context.rasterizer, context.device)
        ball.load_state_dict(state.tensors)
        return ball

    def checkpoint_state(self) -> AssetState:
        return AssetState(self.name, self.state_dict())

    def param_groups(self) -> list[ParamGroup]:
        return [{"params": [self.colour], "lr_scale": 1.0}, {"params": [self.log_radius], "lr_scale": 0.1}]

    def render(
        self,
        cameras: Cameras,
        lights: Lights,
        backgrounds: Tensor,
        resolution: int,
        progress: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        positions = self.log_radius.exp() * self.sphere
        colours = self.colour.sigmoid().expand(len(positions), -1)
        images = render(self.rasterizer, positions, self.faces, colours, cameras, lights, backgrounds, resolution)
        return images, self.log_radius.square()

    @torch.no_grad()
    def apply_constraints(self) -> None:
        self.log_radius.clamp_(max=-0.2)  # it stays before the cameras

    @torch.no_grad()
    def mesh(self) -> Mesh:
        positions = (self.log_radius.exp() * self.sphere).cpu().numpy()
        colour = (255 * self.colour.sigmoid()).round().byte().cpu().numpy()
        return Mesh(positions, self.faces.cpu().numpy(), np.tile(colour, (len(positions), 1))).on_ground()


ASSETS[Ball.name] = Ball


def settings_of(request: JobRequest) -> Settings:
    """One phase, on a ball, in place of the three of mode generate."""
    settings = replace(Settings.of(request), snapshots=0)
    ball = replace(settings.volume, asset=Ball, iterations=request.iterations or 100, resolution=1.0, penalty=0.1)
    none = replace(settings.surface, asset=Ball, iterations=0)
    return replace(settings, volume=ball, surface=none, finish=none)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--model", default="", metavar="DIR")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    request = JobRequest("a red sphere", iterations=given.iterations, model=given.model)
    generate(request, given.output, print, lambda: False, settings_of(request))


if __name__ == "__main__":
    main()
