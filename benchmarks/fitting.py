# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the four tasks of Laine et al. 2020 on our rasterizers: cube, pose, texture, environment.

The tasks follow the descriptions in the paper and the documentation, on our own meshes and textures. `tests/rendering`
limits the errors; this command shows them: python -m benchmarks.fitting --output DIR [--rasterizer warp]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from PIL import Image
from torch import Tensor

from server.rendering import rasterize
from server.rendering.normals import vertex_normals
from server.rendering.rasterize import Rasterizer
from server.rendering.textures import UVCharts

DISTANCE, FOCAL = 3.5, 2.5  # of the camera in the original tasks, which looks along -Z


@dataclass
class Fit:
    """The result of a task: errors by name, and (H, W, 3) pictures in [0, 1], bottom row first, ours and the target."""

    errors: dict[str, float]
    pictures: list[Tensor] = field(default_factory=list)


def rotations(count: int, generator: torch.Generator) -> Tensor:
    """(count, 3, 3) uniformly random rotations."""
    return matrix(F.normalize(torch.randn(count, 4, generator=generator), dim=1))


def matrix(q: Tensor) -> Tensor:
    """(..., 3, 3) rotation of the unit quaternions (..., 4), real part first."""
    w, x, y, z = q.unbind(-1)
    return torch.stack(
        [
            1 - 2 * (y * y + z * z),
            2 * (x * y - w * z),
            2 * (x * z + w * y),
            2 * (x * y + w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z - w * x),
            2 * (x * z - w * y),
            2 * (y * z + w * x),
            1 - 2 * (x * x + y * y),
        ],
        dim=-1,
    ).view(*q.shape[:-1], 3, 3)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product of quaternions (..., 4)."""
    real = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdim=True)
    rest = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + torch.linalg.cross(a[..., 1:], b[..., 1:])
    return torch.cat([real, rest], dim=-1)


def clip_space(
    positions: Tensor,
    rotation: Tensor,
    shift: Tensor | float = 0.0,
    distance: Tensor | float = DISTANCE,
    near: float = 1.0,
    far: float = 50.0,
) -> Tensor:
    """(B, V, 4): positions (V, 3) turned by (B, 3, 3), moved by `shift` (B, 1, 3), `distance` before the camera."""
    x, y, z = (positions @ rotation.transpose(-1, -2) + shift).unbind(-1)
    z = z - distance
    depth = -(far + near) / (far - near) * z - 2 * far * near / (far - near)
    return torch.stack([FOCAL * x, FOCAL * y, depth, -z], dim=-1)


def cube() -> tuple[Tensor, Tensor]:
    shape = trimesh.creation.box((1, 1, 1))
    return (
        torch.tensor(np.asarray(shape.vertices), dtype=torch.float32),
        torch.tensor(np.asarray(shape.faces), dtype=torch.int32),
    )


def draw(
    rasterizer: Rasterizer, clip: Tensor, faces: Tensor, colours: Tensor, colour_faces: Tensor, size: int
) -> Tensor:
    """(B, size, size, 3) renders on black; colours (N, 3) have their own triangles."""
    rast = rasterizer.rasterize(clip, faces, (size, size))
    return rasterizer.antialias(rasterizer.interpolate(colours[None], rast, colour_faces), rast, clip, faces)


def fit_cube(
    rasterizer: Rasterizer, iterations: int = 1000, size: int = 16, discontinuous: bool = False, seed: int = 0
) -> Fit:
    """Fit eight corners, moved by up to half an edge along each axis, and their colours, from one tiny view a step.

    discontinuous: each side has its own corner colours. Errors: mean distance of the corners from the true ones, in
    edges; root mean square of the colours.
    """
    generator = torch.Generator().manual_seed(seed)
    positions, faces = cube()
    if discontinuous:
        normals = trimesh.creation.box((1, 1, 1)).face_normals @ np.array([1, 2, 3])
        keys = torch.tensor(np.stack([np.repeat(normals, 3), np.asarray(faces).reshape(-1)], axis=1))
        unique, index = keys.unique(dim=0, return_inverse=True)
        colours, colour_faces = torch.rand(len(unique), 3, generator=generator), index.view(-1, 3).int()
    else:
        colours, colour_faces = positions + 0.5, faces
    moved = (positions + torch.rand(positions.shape, generator=generator) - 0.5).requires_grad_()
    painted = torch.rand(colours.shape, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([moved, painted], lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: max(0.01, 10 ** (-0.0005 * i)))
    for _ in range(iterations):
        turn = rotations(1, generator), 0.5 * torch.rand(1, 1, 3, generator=generator) - 0.25
        target = draw(rasterizer, clip_space(positions, *turn), faces, colours, colour_faces, size)
        ours = draw(rasterizer, clip_space(moved, *turn), faces, painted, colour_faces, size)
        loss = (ours - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        view = matrix(F.normalize(torch.tensor([[1.0, 0.4, 0.5, 0.1]]), dim=1))
        pictures = [
            draw(rasterizer, clip_space(p, view), faces, c, colour_faces, 256)[0]
            for p, c in ((moved, painted), (positions, colours))
        ]
    return Fit(
        {
            "corners": float((moved - positions).detach().norm(dim=1).mean()),
            "colours": float((painted - colours).detach().square().mean().sqrt()),
        },
        pictures,
    )


def fit_pose(rasterizer: Rasterizer, iterations: int = 1000, size: int = 64, seed: int = 0) -> Fit:
    """Fit the orientation of a cube with six colours to one picture; error in degrees.

    As in the paper, the first half keeps the best of random rotations of shrinking size, combined with the cube's
    symmetries, because the other minima lie there; the second half descends the gradient.
    """
    generator = torch.Generator().manual_seed(seed)
    positions, faces = cube()
    normals = torch.tensor(trimesh.creation.box((1, 1, 1)).face_normals @ np.array([1, 2, 3])).round()
    palette = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    colours = palette[normals.unique(return_inverse=True)[1]].repeat_interleave(3, dim=0)
    corners = torch.arange(36, dtype=torch.int32).view(12, 3)
    symmetries = cube_symmetries()

    def picture(q: Tensor) -> Tensor:
        return draw(rasterizer, clip_space(positions, matrix(q)), faces, colours, corners, size)

    truth, best = (F.normalize(torch.randn(1, 4, generator=generator), dim=1) for _ in range(2))
    target = picture(truth)

    def difference(q: Tensor) -> Tensor:
        return torch.tanh(5 * (picture(q) - target).square().amax(dim=-1)).mean()

    lowest = math.inf
    half = iterations // 2
    for i in range(half):
        noise = 1e-4 ** (i / iterations) * torch.randn(1, 4, generator=generator)
        noise = F.normalize(torch.tensor([[1.0, 0, 0, 0]]) + noise, dim=1)
        k = int(torch.randint(len(symmetries), (1,), generator=generator))
        tried = multiply(best, multiply(noise, symmetries[k : k + 1]))
        with torch.no_grad():
            loss = float(difference(tried))
        if loss < lowest:
            lowest, best = loss, tried
    pose = best.clone().requires_grad_()
    optimizer = torch.optim.Adam([pose], lr=0.01)
    for i in range(iterations - half):
        optimizer.param_groups[0]["lr"] = 0.01 * 0.01 ** (i / (iterations - half))
        optimizer.zero_grad()
        difference(F.normalize(pose, dim=1)).backward()
        optimizer.step()
    fitted = F.normalize(pose.detach(), dim=1)
    between = multiply(fitted * torch.tensor([1.0, -1, -1, -1]), truth)[0]
    angle = 2 * math.degrees(math.atan2(float(between[1:].norm()), float(between[0].abs())))
    with torch.no_grad():
        return Fit({"degrees": angle}, [picture(fitted)[0], target[0]])


def cube_symmetries() -> Tensor:
    """(24, 4) quaternions of the rotations that map a cube to itself."""
    r = math.sqrt(0.5)
    symmetries = [torch.eye(4)]
    for a in range(4):
        for b in range(a + 1, 4):
            for sign in (1, -1):
                q = torch.zeros(4)
                q[a], q[b] = r, sign * r
                symmetries.append(q[None])
    for signs in ((1, s, t, u) for s in (1, -1) for t in (1, -1) for u in (1, -1)):
        symmetries.append(0.5 * torch.tensor([signs], dtype=torch.float32))
    return torch.cat(symmetries)


def globe(rows: int = 32) -> tuple[Tensor, Tensor, UVCharts]:
    """A sphere of radius 1 and its UV chart by longitude and latitude, with one seam."""
    columns = 2 * rows
    j, i = np.meshgrid(np.arange(rows + 1), np.arange(columns), indexing="ij")
    latitude, longitude = np.pi * (j / rows - 0.5), 2 * np.pi * i / columns
    positions = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=-1
    ).reshape(-1, 3)
    faces, uvs = [], []
    for a in range(rows):
        for b in range(columns):
            c = (b + 1) % columns
            quad = [(a, b, b), (a, c, b + 1), (a + 1, c, b + 1), (a + 1, b, b)]
            for corners in ((0, 1, 2), (0, 2, 3)):
                faces.append([quad[k][0] * columns + quad[k][1] for k in corners])
                uvs.append([[quad[k][2] / columns, quad[k][0] / rows] for k in corners])
    faces = torch.tensor(faces, dtype=torch.int32)
    return torch.tensor(positions, dtype=torch.float32), faces, UVCharts.from_faces(faces, torch.tensor(uvs))


def continents(height: int, width: int, generator: torch.Generator, channels: int = 3) -> Tensor:
    """(height, width, channels) in [0.05, 0.95]: partly thresholded noise with coasts, like a map."""
    total = torch.zeros(1, channels, height, width)
    for octave in range(2, int(math.log2(height)) + 1):
        noise = torch.randn(1, channels, 2**octave, 2 ** (octave + 1), generator=generator)
        total += 0.6**octave * F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=False)
    total = total / total.std()
    return (0.5 + 0.25 * torch.tanh(8 * total) + 0.1 * total).clamp(0.05, 0.95)[0].movedim(0, -1)


def fit_texture(
    rasterizer: Rasterizer, iterations: int = 400, size: int = 64, mipmaps: bool = True, edge: int = 64, seed: int = 0
) -> Fit:
    """Fit a globe's texture to views at random, mostly far distances, with or without mipmaps.

    The targets are rendered four times larger, with mipmaps, and averaged down. Error: PSNR of the texture away from
    the poles, in decibels (higher is better).
    """
    generator = torch.Generator().manual_seed(seed)
    positions, faces, charts = globe()
    truth = continents(edge, 2 * edge, generator)
    texture = torch.full_like(truth, 0.2).requires_grad_()
    uvs = charts.uvs[None].contiguous()

    def draw(texture: Tensor, clip: Tensor, size: int, mipmaps: bool) -> Tensor:
        rast = rasterizer.rasterize(clip, faces, (size, size))
        uv = rasterizer.interpolate(uvs, rast, charts.faces)
        footprint = rasterizer.footprint(uvs, rast, charts.faces, clip, faces) if mipmaps else None
        return rasterizer.texture(texture[None], uv, footprint) * (rast[..., 3:] > 0)

    optimizer = torch.optim.Adam([texture], lr=0.03)
    for i in range(iterations):
        optimizer.param_groups[0]["lr"] = 0.03 * 0.1 ** (i / iterations)
        away = 1.5 + 48.5 * torch.rand(1, 1, generator=generator).square()
        clip = clip_space(positions, rotations(1, generator), distance=away, far=200.0)
        with torch.no_grad():
            target = F.avg_pool2d(draw(truth, clip, 4 * size, True).movedim(-1, 1), 4).movedim(1, -1)
        optimizer.zero_grad()
        (draw(texture, clip, size, mipmaps) - target).square().mean().backward()
        optimizer.step()
    seen = slice(edge // 6, -(edge // 6))
    error = (texture.detach() - truth)[seen].square().mean()
    with torch.no_grad():
        clip = clip_space(positions, matrix(F.normalize(torch.tensor([[1.0, -0.6, 0.2, 0.3]]), dim=1)), distance=3.2)
        return Fit(
            {"decibels": float(-10 * error.log10())},
            [draw(each, clip, 256, True)[0] for each in (texture, truth)] + [texture.detach(), truth],
        )


def fit_environment(
    rasterizer: Rasterizer, iterations: int = 500, size: int = 48, edge: int = 16, seed: int = 0
) -> Fit:
    """Fit the environment in a curved mirror, and the colour and exponent of its Phong lobe, under random lamps.

    Errors: root mean square of the lobe's colour, relative error of its exponent, root mean square of the pictures
    over the last tenth.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = trimesh.creation.torus(0.9, 0.45, major_sections=64, minor_sections=32)
    positions = torch.tensor(np.asarray(shape.vertices), dtype=torch.float32)
    faces = torch.tensor(np.asarray(shape.faces), dtype=torch.int32)
    normals = vertex_normals(positions, faces)
    truth = continents(edge, 2 * edge, generator)
    lobe = torch.tensor([1.0, 0.8, 0.6, 25.0])
    environment = torch.full_like(truth, 0.5).requires_grad_()
    raw = torch.rand(4, generator=generator).requires_grad_()
    scale = torch.tensor([1.0, 1.0, 1.0, 10.0])

    def shade(environment: Tensor, lobe: Tensor, reflected: Tensor, lamp: Tensor, covered: Tensor) -> Tensor:
        x, y, z = reflected.unbind(-1)
        uv = torch.stack([torch.atan2(y, x) / (2 * math.pi), z.clamp(-1, 1).asin() / math.pi + 0.5], dim=-1)
        mirrored = rasterizer.texture(environment[None], uv)
        cosine = (reflected * lamp).sum(dim=-1, keepdim=True).clamp(min=1e-6)
        return torch.where(covered, mirrored + lobe[:3] * cosine ** lobe[3], 1.0)

    def look(rotation: Tensor, shift: Tensor | float, size: int) -> tuple[Tensor, Tensor]:
        """(unit reflection of the view direction, mask of the surface) at every pixel."""
        clip = clip_space(positions, rotation, shift, far=200.0)
        eye = (torch.tensor([0.0, 0, DISTANCE]) - shift) @ rotation[0]
        sight = positions - eye.reshape(1, 3)
        mirror = F.normalize(sight - 2 * normals * (normals * sight).sum(dim=1, keepdim=True), dim=1)
        rast = rasterizer.rasterize(clip, faces, (size, size))
        return F.normalize(rasterizer.interpolate(mirror[None], rast, faces), dim=-1), rast[..., 3:] > 0

    optimizer = torch.optim.Adam([environment, raw], lr=0.1)
    losses = []
    for i in range(iterations):
        optimizer.param_groups[0]["lr"] = 0.1 * 0.1 ** (i / iterations)
        lamp = F.normalize(torch.randn(3, generator=generator), dim=0)
        reflected, covered = look(rotations(1, generator), 0.5 * torch.rand(1, 1, 3, generator=generator) - 0.25, size)
        ours = shade(environment, raw * scale, reflected, lamp, covered)
        loss = (ours - shade(truth, lobe, reflected, lamp, covered)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    found = (raw * scale).detach()
    with torch.no_grad():
        reflected, covered = look(matrix(F.normalize(torch.tensor([[1.0, -0.5, 0.3, 0.0]]), dim=1)), 0.0, 256)
        lamp = F.normalize(torch.tensor([0.3, 0.2, 1.0]), dim=0)
        pictures = [shade(*each, reflected, lamp, covered)[0] for each in ((environment, found), (truth, lobe))]
    return Fit(
        {
            "lobe colour": float((found[:3] - lobe[:3]).square().mean().sqrt()),
            "lobe exponent": float((found[3] / lobe[3] - 1).abs()),
            "pictures": float(np.sqrt(np.mean(losses[-max(1, iterations // 10) :]))),
        },
        [*pictures, environment.detach(), truth],
    )


TASKS: dict[str, Callable[[Rasterizer], Fit]] = {
    "cube": fit_cube,
    "cube-discontinuous": lambda r: fit_cube(r, discontinuous=True),
    "pose": fit_pose,
    "texture-mipmaps": fit_texture,
    "texture-bilinear": lambda r: fit_texture(r, mipmaps=False),
    "environment": fit_environment,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder for fitting.png: a row for each task, ours and the target in turn",
    )
    parser.add_argument("--rasterizer", default="cpu", choices=rasterize.BACKENDS)
    given = parser.parse_args()
    folder = given.output
    folder.mkdir(parents=True, exist_ok=True)
    rasterizer = rasterize.create(given.rasterizer)
    edge = 160
    sheet = Image.new("RGB", (4 * edge, len(TASKS) * edge), (60, 60, 60))
    print("| task | errors | seconds |\n|---|---|---|")
    for row, (name, task) in enumerate(TASKS.items()):
        start = time.perf_counter()
        fit = task(rasterizer)
        errors = ", ".join(f"{key} {value:.4g}" for key, value in fit.errors.items())
        print(f"| {name} | {errors} | {time.perf_counter() - start:.1f} |", flush=True)
        for column, picture in enumerate(fit.pictures):
            image = Image.fromarray((255 * picture.clamp(0, 1).flip(0)).round().byte().numpy())
            image = image.resize((edge, edge * image.height // image.width))
            sheet.paste(image, (column * edge, row * edge + (edge - image.height) // 2))
    sheet.save(folder / "fitting.png")


if __name__ == "__main__":
    main()
