# SPDX-License-Identifier: GPL-3.0-or-later
"""Priors that know the truth: with them, a job loses only what its representation and its optimizer lose.

`ExactViews` answers with the true object under the iteration's own cameras, lights and backgrounds, as a multi-view
model at its best. `WordViews` knows some pictures for every word of a view, as a text-to-image model at its best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.metrics import structural_similarity
from torch import Tensor

from msd_blender.protocol import JobRequest, Progress

from ..assets.mesh_asset import Placement
from ..geometry import files
from ..geometry.mesh import Mesh
from ..geometry.uvs import unwrap
from ..optimize import Optimization, Settings
from ..optimize.output import appearance
from ..priors import PriorError, Views
from ..priors.base import TrainableDenoiser
from ..priors.prompts import VIEWS, view_word
from ..rendering import cameras, rasterize
from ..rendering.cameras import Cameras
from ..rendering.render import render
from ..rendering.shading import Lights, backgrounds

SCALE = 1.5  # of the latents, which are the pictures in [-1, 1]: about a unit standard deviation
THRESHOLDS = (0.005, 0.01, 0.02)  # of the diameter, for F-scores
POINTS = 40_000  # samples of a surface
HELD_OUT = ((6, 10.0), (6, 40.0))  # views and their elevation, degrees
SHARES = (2, 4, 8)  # of the true texture's edge, to compare with


@dataclass(frozen=True)
class PictureCondition:
    """The latents that a prior may answer, each with the index of the picture that it belongs to.

    pictures: (K, B, C, H, W), K for each of B views.
    """

    pictures: Tensor
    nfe: int = 1

    def without_cfg(self) -> PictureCondition:
        return self


class Truth:
    """A mesh as it is seen, with its own textures or vertex colours.

    placed: it stands before the cameras as it is; otherwise as a job places a given mesh.
    """

    def __init__(self, mesh: Mesh, device: torch.device | str = "cpu", placed: bool = False):
        self.mesh, self.device = mesh, torch.device(device)
        self.rasterizer = rasterize.create("auto", self.device)
        positions = mesh.positions if placed else Placement.of(mesh).apply(mesh.positions)
        self.positions = torch.from_numpy(positions).to(self.device)
        self.faces = torch.from_numpy(mesh.faces).to(self.device)
        self.colours = appearance(mesh, self.device)

    @torch.no_grad()
    def picture(
        self, views: Cameras, lights: Lights, behind: Tensor, resolution: int, textures: Mesh | None = None
    ) -> Tensor:
        """(B, H, W, 3) sRGB, bottom row first; with the textures of another mesh of the same faces, if given."""
        colours = self.colours if textures is None else appearance(textures, self.device)
        return render(
            self.rasterizer, self.positions, self.faces, colours, views, lights, behind.to(self.device), resolution
        )

    def shape(self) -> trimesh.Trimesh:
        """As it stands before the cameras."""
        return trimesh.Trimesh(self.positions.cpu().numpy(), self.mesh.faces, process=False)

    @torch.no_grad()
    def covered(self, views: Cameras, resolution: int) -> Tensor:
        """(B, H, W) bool: where the object is."""
        rast = self.rasterizer.rasterize(views.clip(self.positions), self.faces, (resolution, resolution))
        return rast[..., 3] > 0


class ExactViews:
    """A `TextToImagePrior` whose answer is the true object, seen and lit as the asset was, whatever it is asked.

    Its latents are the pictures.
    """

    def __init__(self, truth: Truth, resolution: int):
        self.truth, self.resolution, self.device = truth, resolution, truth.device
        self.latent_shape, self.sigma_range = (3, resolution, resolution), (0.03, 14.6)

    def encode(self, images: Tensor) -> Tensor:
        return SCALE * (2 * images - 1)

    def decode(self, latents: Tensor) -> Tensor:
        return ((latents / SCALE + 1) / 2).clamp(0, 1)

    def condition(
        self,
        views: Views,
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        guidance_scale: float = 5.0,
        against_overhead: Tensor | None = None,
    ) -> PictureCondition:
        assert views.distance is not None and views.field_of_view is not None and views.light is not None
        parts = views.azimuth.deg2rad(), views.elevation.deg2rad(), views.distance, views.field_of_view.deg2rad()
        light = views.light
        lights = Lights(light.direction, light.ambient, light.diffuse, light.sky)
        seen = self.truth.picture(Cameras(*parts).to(self.device), lights, light.background, self.resolution)
        return PictureCondition(self.encode(seen.movedim(-1, 1).flip(2))[None])

    def text_condition(
        self, prompts: Sequence[str], negative: str | Sequence[str] = "", guidance_scale: float = 5.0
    ) -> PictureCondition:
        raise PriorError("A prior of ideal views knows one object, and no prompts.")

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: Tensor, condition: object = None) -> Tensor:
        """E[clean | x] of the empirical density of the condition's pictures, in closed form: a softmax."""
        assert isinstance(condition, PictureCondition)
        pictures = condition.pictures
        if len(pictures) == 1:
            return pictures[0].to(x.dtype)
        distance = torch.stack([(x - each).square().sum(dim=(1, 2, 3)) for each in pictures])
        weights = (-distance / (2 * sigma.square()).clamp(min=1e-12)).softmax(dim=0)
        return torch.einsum("kb,kbchw->bchw", weights, pictures)

    def student(self) -> TrainableDenoiser:
        raise PriorError("A prior of ideal views has no network that VSD could fit: use another guidance.")

    def prompt_warnings(self, prompt: str, negative_prompt: str = "", against_overhead: bool = False) -> list[str]:
        return []

    def not_finite(self) -> PriorError:
        return PriorError("The pictures of the true object are not finite.")


class WordViews(ExactViews):
    """A `TextToImagePrior` that knows `count` pictures for each word of a view, under random cameras and lights.

    It is told the word of a view only, and finds the rest in the noisy picture.
    """

    def __init__(self, truth: Truth, resolution: int, count: int = 32, seed: int = 0):
        super().__init__(truth, resolution)
        generator = torch.Generator().manual_seed(seed)
        known: dict[str, list[Tensor]] = {word: [] for word in VIEWS}
        while any(len(pictures) < count for pictures in known.values()):
            views = cameras.sample(8, generator)
            lights = Lights.sample(views, generator)
            behind = backgrounds(len(views), generator)
            words = [
                view_word(float(views.azimuth[i].rad2deg()), float(views.elevation[i].rad2deg()))
                for i in range(len(views))
            ]
            if all(len(known[word]) >= count for word in words):
                continue
            seen = self.truth.picture(views.to(self.device), _to(lights, self.device), behind, resolution)
            for word, picture in zip(words, self.encode(seen.movedim(-1, 1).flip(2)), strict=True):
                if len(known[word]) < count:
                    known[word].append(picture)
        self._known = {word: torch.stack(pictures) for word, pictures in known.items()}

    def condition(
        self,
        views: Views,
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        guidance_scale: float = 5.0,
        against_overhead: Tensor | None = None,
    ) -> PictureCondition:
        words = [view_word(a, e) for a, e in zip(views.azimuth.tolist(), views.elevation.tolist(), strict=True)]
        return PictureCondition(torch.stack([self._known[word] for word in words], dim=1))


def _to(lights: Lights, device: torch.device) -> Lights:
    return replace(
        lights,
        direction=lights.direction.to(device),
        ambient=lights.ambient.to(device),
        diffuse=lights.diffuse.to(device),
    )


def detailed_picture(size: int, seed: int = 0) -> NDArray[np.uint8]:
    """(size, size, 3) sRGB with detail on every scale: noise of falling strength, and sharp lines."""
    rng = np.random.default_rng(seed)

    def noise(points: int) -> NDArray[np.floating]:
        values = torch.from_numpy(rng.random((points, points, 3)).astype(np.float32)).permute(2, 0, 1)[None]
        fine = F.interpolate(values, size=(size, size), mode="bicubic", align_corners=False)
        return np.asarray(fine[0].permute(1, 2, 0))

    picture = sum(weight * noise(points) for points, weight in ((4, 0.5), (16, 0.3), (64, 0.2), (256, 0.15)))
    assert not isinstance(picture, int)
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    y, x = np.mgrid[:size, :size] / size
    picture[((x * 48) % 1 < 0.12) | ((y * 48) % 1 < 0.12)] *= 0.35
    return (255 * np.clip(picture, 0.08, 0.95)).round().astype(np.uint8)


def with_picture(mesh: Mesh, size: int, new_uvs: bool = False) -> Mesh:
    """The mesh with UVs and a base colour in every slot, `detailed_picture` where it has none.

    new_uvs: instead of its own, with one picture for all faces. Other maps, vertex colours and materials are left out.
    """
    if new_uvs or mesh.uvs is None or np.isnan(mesh.uvs).any():
        _, split, uvs = unwrap(mesh.positions, mesh.faces, size)
        mesh = replace(mesh, uvs=uvs[split], slots=None, textures={})
    names = [f"texture.{slot}" for slot in np.unique(mesh.face_slots).tolist()]
    pictures = {
        name: mesh.textures[name] if name in mesh.textures else detailed_picture(size, i)
        for i, name in enumerate(names)
    }
    return Mesh(mesh.positions, mesh.faces, uvs=mesh.uvs, slots=mesh.slots, textures=pictures)


def blurred(picture: NDArray[np.uint8], share: int) -> NDArray[np.uint8]:
    """A texture (H, W, 3) at a share of its resolution, brought back to its size."""
    values = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    small = F.avg_pool2d(values, share)
    large = F.interpolate(small, size=picture.shape[:2], mode="bilinear", align_corners=False)
    return large[0].permute(1, 2, 0).round().byte().numpy()


def less_detailed(mesh: Mesh, share: int) -> Mesh:
    """The mesh with its textures at a share of their resolution."""
    return replace(mesh, textures={name: blurred(picture, share) for name, picture in mesh.textures.items()})


def read_mesh(path: str) -> Mesh:
    """The mesh of a file; a ball of 1,280 faces without one."""
    if path:
        return files.load(Path(path))
    ball = trimesh.creation.icosphere(3)
    return Mesh(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32))


@dataclass(frozen=True)
class Held:
    """Pictures from views that no iteration had, and where the object is in them: (B, H, W, 3) and (B, H, W)."""

    pictures: Tensor
    covered: Tensor


def held_out(truth: Truth, resolution: int, textures: Mesh | None = None) -> Held:
    """The truth, or the same object with the textures of another mesh of its faces, from `HELD_OUT`."""
    pictures, covered = [], []
    for count, elevation in HELD_OUT:
        views = cameras.orbit(count, elevation, truth.device)
        behind = torch.full((count, 3), 0.5, device=truth.device)
        pictures.append(truth.picture(views, Lights.headlight(views), behind, resolution, textures).cpu())
        covered.append(truth.covered(views, resolution).cpu())
    return Held(torch.cat(pictures), torch.cat(covered))


def likeness(real: Held, made: Held) -> dict[str, float]:
    """PSNR in dB and SSIM (Wang et al. 2004, as scikit-image has it), over the object's pixels."""
    error = (real.pictures - made.pictures)[real.covered].square().mean()
    similar = [
        structural_similarity(a, b, channel_axis=-1, data_range=1.0, full=True)[1].mean(axis=-1)
        for a, b in zip(real.pictures.numpy(), made.pictures.numpy(), strict=True)
    ]
    return {
        "PSNR, dB": float(-10 * error.clamp(min=1e-10).log10()),
        "SSIM": float(np.stack(similar)[real.covered.numpy()].mean()),
    }


def shape_likeness(real: trimesh.Trimesh, made: trimesh.Trimesh, seed: int = 0) -> dict[str, float]:
    """F-scores at `THRESHOLDS` of the true diameter (Tatarchenko et al. 2019), and normal consistency: the mean cosine
    between nearest points' normals, their sign left out, both ways. Both meshes stand in one place."""
    diameter = 2 * float(np.linalg.norm(real.vertices - real.vertices.mean(axis=0), axis=1).max())
    a, of_a = trimesh.sample.sample_surface(made, POINTS, seed=seed)
    b, of_b = trimesh.sample.sample_surface(real, POINTS, seed=seed)
    there, at_b = cKDTree(b).query(a)
    back, at_a = cKDTree(a).query(b)
    scores = {}
    for threshold in THRESHOLDS:
        precision, recall = (there < threshold * diameter).mean(), (back < threshold * diameter).mean()
        scores[f"F {100 * threshold:g} %"] = float(2 * precision * recall / max(precision + recall, 1e-9))
    normal_a, normal_b = made.face_normals[of_a], real.face_normals[of_b]
    cosines = [(normal_a * normal_b[at_b]).sum(axis=1), (normal_b * normal_a[at_a]).sum(axis=1)]
    return scores | {"normal consistency": float(np.mean(np.abs(cosines)))}


@dataclass(frozen=True)
class Result:
    """A job under an ideal prior: its mesh, placed as the truth is, and its time of the processor in seconds."""

    mesh: Mesh
    iterations: int
    seconds: dict[str, float]


def make(prior: ExactViews, mode: str, settings: Settings | None = None, report: bool = True, **options: Any) -> Result:
    """Run a job of mode texture or generate under a prior. options: of the `JobRequest`."""
    given = replace(prior.truth.mesh, textures={}) if mode == "texture" else None
    request = JobRequest(
        "the object", mode=mode, mesh="" if given is None else "given", device=prior.device.type, **options
    )
    every = max(1, (settings or Settings.of(request)).iterations(mode) // 10)

    def show(message: object) -> None:
        if report and isinstance(message, Progress) and message.iteration % every == 0:
            print(f"{message.phase} {message.iteration}/{message.iterations}, {message.elapsed:.0f} s", flush=True)

    settings = replace(settings or Settings.of(request), snapshots=0)
    run = Optimization(request, show, lambda: False, settings, mesh=given, prior=prior)
    mesh = run.run().mesh()
    if given is None:
        mesh = replace(mesh, positions=mesh.positions + mesh.ground_offset)
    return Result(mesh, run.iteration, dict(run.clock.seconds))


def grating(period: float, resolution: int, texture_size: int) -> Mesh:
    """A square sheet that fills the picture, with a grating of `period` pixels of a picture of that resolution."""
    edge = 1.2  # metres before placing
    corners = np.array([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], np.float32) * np.float32(edge / 2)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    sheet = Mesh(corners, faces, uvs=uv[faces])
    metres = 2 * cameras.DISTANCE * math.tan(math.radians(cameras.FIELD_OF_VIEW) / 2) / resolution  # of a pixel
    waves = edge * Placement.of(sheet).scale / (period * metres)
    across = 0.5 + 0.35 * np.sin(2 * np.pi * waves * (np.arange(texture_size) + 0.5) / texture_size)
    picture = np.broadcast_to((255 * across).round().astype(np.uint8)[None, :, None], (texture_size, texture_size, 3))
    return replace(sheet, textures={"texture.0": np.ascontiguousarray(picture)})


def contrast_kept(truth: Truth, made: Mesh, resolution: int) -> float:
    """The share of the truth's contrast, seen from the front, that another texture has: the slope of a regression."""
    views = cameras.orbit(1, 0.0, truth.device)
    lights, behind = Lights.headlight(views), torch.full((1, 3), 0.5)
    inside = truth.covered(views, resolution)[0].cpu()
    real, ours = (
        truth.picture(views, lights, behind, resolution, mesh)[0].cpu()[inside].mean(dim=1) for mesh in (None, made)
    )
    real = real - real.mean()
    return float((real * ours).sum() / real.square().sum())
