# SPDX-License-Identifier: GPL-3.0-or-later
"""Time of a render and its gradient: our rasterizers and Mitsuba 3 on the CPU, by pixels and by triangles; on a card
our rasterizers and nvdiffrast.

    python -m benchmarks.rasterizer --output docs/rendering

Mitsuba is measured if it is installed (`pip install mitsuba`, and LLVM 19 or so, whose library DRJIT_LIBLLVM_PATH names
if it is not found); it is not a dependency of the project.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor

from server.rendering import cameras, rasterize
from server.rendering.render import render
from server.rendering.shading import Lights

VIEWS, SIZE = 4, 64
ON_CPU = {"cpu": "numba", "warp": "Warp"}


def sphere(subdivisions: int) -> tuple[Tensor, Tensor]:
    shape = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.7)
    return (
        torch.tensor(np.asarray(shape.vertices), dtype=torch.float32),
        torch.tensor(np.asarray(shape.faces), dtype=torch.int32),
    )


def torus(triangles: int) -> tuple[Tensor, Tensor]:
    """A torus with about this number of triangles."""
    minor = round(math.sqrt(triangles / 4))
    shape = trimesh.creation.torus(0.6, 0.25, major_sections=2 * minor, minor_sections=minor)
    return (
        torch.tensor(np.asarray(shape.vertices), dtype=torch.float32),
        torch.tensor(np.asarray(shape.faces), dtype=torch.int32),
    )


def ours(name: str, positions: Tensor, faces: Tensor) -> Callable[[], object]:
    """Forward and backward of `render`: Lambert under a lamp, gradients to positions and vertex colours."""
    rasterizer = rasterize.create(name)
    views = cameras.orbit(VIEWS)
    lights, behind = Lights.headlight(views), torch.zeros(VIEWS, 3)
    leaf, colours = positions.clone().requires_grad_(), (positions + 0.7).div(1.4).requires_grad_()

    def step() -> object:
        picture = render(rasterizer, leaf, faces, colours, views, lights, behind, SIZE)
        return torch.autograd.grad(picture.square().mean(), [leaf, colours])

    return step


def operations(
    name: str, positions: Tensor, faces: Tensor, size: int, views: int = VIEWS, device: str = "cpu"
) -> tuple[Callable[[], Tensor], Callable[[], object]]:
    """Forward, and forward and backward, of rasterize, interpolate and antialias alone."""
    rasterizer = rasterize.create(name, device)
    positions, faces = positions.to(device), faces.to(device)
    clip = cameras.orbit(views, device=device).clip(positions).contiguous().requires_grad_()
    colours = (positions + 0.7).div(1.4)[None].requires_grad_()

    def forward() -> Tensor:
        rast = rasterizer.rasterize(clip, faces, (size, size))
        return rasterizer.antialias(rasterizer.interpolate(colours, rast, faces), rast, clip, faces)

    return forward, lambda: torch.autograd.grad(forward().square().mean(), [clip, colours])


def mitsuba(positions: Tensor, faces: Tensor, integrator: str, samples: int) -> Callable[[], object]:
    """The same scene and gradients in Mitsuba's variant llvm_ad_rgb; raises ImportError if it is missing."""
    import drjit as dr
    import mitsuba as mi

    mi.set_variant("llvm_ad_rgb")
    mi.set_log_level(mi.LogLevel.Error)
    projective = integrator.endswith("projective")
    sensors = [
        {
            "type": "perspective",
            "fov": cameras.FIELD_OF_VIEW,
            "fov_axis": "y",
            "to_world": mi.ScalarTransform4f().look_at(origin=place, target=[0, 0, 0], up=[0, 0, 1]),
        }
        for place in cameras.orbit(VIEWS).position.tolist()
    ]

    def film(views: int) -> dict[str, object]:
        return {
            "type": "hdrfilm",
            "width": views * SIZE,
            "height": SIZE,
            "rfilter": {"type": "box"},
            "sample_border": projective,
        }

    if projective:  # samples silhouettes from one sensor at a time
        eyes = [mi.load_dict({**sensor, "film": film(1)}) for sensor in sensors]
    else:
        named = {f"sensor{i}": sensor for i, sensor in enumerate(sensors)}
        eyes = [mi.load_dict({"type": "batch", **named, "film": film(VIEWS)})]
    only_seen = {"sppi": 0, "guiding": "none"} if projective else {}  # no silhouettes by way of reflections
    surface = mi.Properties()
    surface["bsdf"] = mi.load_dict(
        {"type": "diffuse", "reflectance": {"type": "mesh_attribute", "name": "vertex_color"}}
    )
    mesh = mi.Mesh("mesh", len(positions), len(faces), props=surface, has_vertex_normals=True)
    mesh.add_attribute("vertex_color", 3, (positions + 0.7).div(1.4).flatten().tolist())
    values = mi.traverse(mesh)
    values["vertex_positions"] = positions.flatten().numpy()
    values["faces"] = faces.flatten().numpy().astype(np.uint32)
    values.update()
    mesh.recompute_vertex_normals()
    scene = mi.load_dict(
        {
            "type": "scene",
            "mesh": mesh,
            "integrator": {"type": integrator, **only_seen},
            "lamp": {"type": "directional", "direction": [0.3, 1.0, -0.6], "irradiance": 2.0},
            "sky": {"type": "constant", "radiance": 0.4},
        }
    )
    parameters = mi.traverse(scene)
    keys = [f"mesh.{name}" for name in ("vertex_positions", "vertex_color")]
    seed = 0

    def step() -> object:
        nonlocal seed
        seed += 1
        for key in keys:
            parameters[key] = dr.detach(parameters[key])
            dr.enable_grad(parameters[key])
        parameters.update()  # the mesh moves in every step, so its tree is built anew
        for eye in eyes:
            picture = mi.render(scene, parameters, sensor=eye, spp=samples, seed=seed)
            dr.backward(dr.mean(dr.square(picture), axis=None) / len(eyes))
        gradients = [dr.grad(parameters[key]) for key in keys]
        dr.eval(gradients)
        dr.sync_thread()
        return gradients

    return step


def milliseconds(*steps: Callable[[], object], rounds: int = 10) -> np.ndarray:
    """(2, steps) medians: of wall time, and of processor time over all threads.

    The steps take turns, so that other load on the machine affects all of them.
    """
    for step in steps:
        for _ in range(3):
            step()
    taken = np.empty((rounds, 2, len(steps)))
    for i in range(rounds):
        for k, step in enumerate(steps):
            start = time.perf_counter(), time.process_time()
            step()
            taken[i, :, k] = time.perf_counter() - start[0], time.process_time() - start[1]
    return 1000 * np.median(taken, axis=0)


def beside_mitsuba() -> str:
    positions, faces = sphere(4)
    runs = {
        f"ours with {title}: Lambert, silhouette gradients": ours(name, positions, faces)
        for name, title in ON_CPU.items()
    }
    note = ""
    try:
        for integrator, samples in (("direct", 1), ("direct", 4), ("direct_projective", 4)):
            silhouettes = "with" if integrator.endswith("projective") else "no"
            runs[f"Mitsuba `{integrator}`, {samples} a pixel, {silhouettes} silhouette gradients"] = mitsuba(
                positions, faces, integrator, samples
            )
    except ImportError as error:
        note = f"\nMitsuba is not installed ({error}): install it to compare.\n"
    wall, processor = milliseconds(*runs.values(), rounds=15)
    rows = [
        f"| {name} | {wall[k]:.1f} | {wall[k] / wall[0]:.1f} | {processor[k]:.1f} | {processor[k] / processor[0]:.1f} |"
        for k, name in enumerate(runs)
    ]
    return (
        "\n".join(
            [
                "| forward + backward | ms | times ours | ms of all cores together | times ours |",
                "|---|---|---|---|---|",
                *rows,
            ]
        )
        + "\n"
        + note
    )


Scaling = dict[int, list[float]]


def scaling() -> tuple[Scaling, Scaling]:
    """Milliseconds with each of `ON_CPU` by pixels (one view, 5,120 triangles), and by triangles (4 views of 64 px).

    Processor time of the single thread that runs the kernels, so that other programs do not count.
    """

    def taken(positions: Tensor, faces: Tensor, size: int, views: int, rounds: int = 10) -> list[float]:
        steps = [operations(name, positions, faces, size, views)[1] for name in ON_CPU]
        return [float(each) for each in milliseconds(*steps, rounds=rounds)[1]]

    mesh = sphere(4)
    pixels = {size * size: taken(*mesh, size, 1) for size in (64, 128, 256, 512, 1024)}
    triangles = {}
    for count in (1_000, 5_000, 20_000, 50_000, 100_000, 200_000):
        positions, faces = torus(count)
        triangles[len(faces)] = taken(positions, faces, SIZE, VIEWS)
    for count in (50_000, 1_000_000):
        large = taken(*torus(count), 2048, 1, rounds=3)
        print(f"{count:,} triangles, one view of 2,048 px: " + " and ".join(f"{ms:.0f} ms" for ms in large), flush=True)
    return pixels, triangles


def on_a_card() -> str:
    """Table of milliseconds, forward / forward + backward, with each rasterizer that a card can have."""
    names = [name for name, backend in rasterize.BACKENDS.items() if backend.is_available("cuda")]
    lines = [f"| triangles, 4 views | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for count in (5_000, 50_000, 200_000, 1_000_000):
        for size in (64, 256, 512, 1024):
            cells = []
            for name in names:
                steps = operations(name, *torus(count), size, device="cuda")
                cells.append(" / ".join(f"{_on_card(step):.2f}" for step in steps))
            lines.append(f"| {count:,}, {size} px | {' | '.join(cells)} |")
    return "\n".join(lines)


def _on_card(step: Callable[[], object], rounds: int = 20) -> float:
    """Milliseconds of a step, of a row of them that the host does not wait in."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        step()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start) / rounds


def silhouettes(name: str, device: str) -> str:
    """Table row: share of d(area)/d(radius) of a sphere that arrives at its vertices, by triangles and picture size."""
    rasterizer = rasterize.create(name, device)
    cells = []
    for subdivisions in (3, 4, 5):
        for size in (64, 128):
            positions, faces = (each.to(device) for each in sphere(subdivisions))
            scale = torch.tensor(1.0, device=device, requires_grad=True)
            clip = cameras.orbit(VIEWS, device=device).clip(positions * scale)
            rast = rasterizer.rasterize(clip, faces, (size, size))
            cover = rasterizer.interpolate(torch.ones(1, len(positions), 1, device=device), rast, faces)
            area = rasterizer.antialias(cover, rast, clip, faces).sum()
            (gradient,) = torch.autograd.grad(area, scale)
            r = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
            outline = (r / 3).asin().tan() / math.tan(math.radians(cameras.FIELD_OF_VIEW / 2)) * size / 2
            (slope,) = torch.autograd.grad(VIEWS * math.pi * outline**2, r)
            cells.append(f"{float(gradient) / (0.7 * float(slope)):.1%}")
    return f"| {name} | " + " | ".join(cells) + " |"


def plot(pixels: Scaling, triangles: Scaling, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axes, data, label in zip(
        panels, (pixels, triangles), ("pixels (5,120 triangles, 1 view)", "triangles (4 views of 64 x 64)")
    ):
        x, values = np.array(list(data)), np.array(list(data.values()))
        for title, y in zip(ON_CPU.values(), values.T):
            axes.loglog(x, y, "o-", label=title)
        axes.loglog(x, values[-1, 0] * x / x[-1], "--", color="gray", label="proportional")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
    panels[0].set_ylabel("forward + backward, ms of one core")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder for the plot")
    output = parser.parse_args().output
    torch.set_num_threads(1)  # like our kernels; Mitsuba uses all cores
    print(f"{VIEWS} views of {SIZE} x {SIZE}, 5,120 triangles; gradients to positions and vertex colours.\n")
    print(beside_mitsuba(), flush=True)
    pixels, triangles = scaling()
    for label, data in (("pixels", pixels), ("triangles", triangles)):
        print(f"| {label} | " + " | ".join(f"{count:,}" for count in data) + " |")
        print("|---" * (len(data) + 1) + "|")
        for k, title in enumerate(ON_CPU.values()):
            print(f"| {title}, ms | " + " | ".join(f"{each[k]:.1f}" for each in data.values()) + " |")
        print(flush=True)
    print("Share of the analytic d(area)/d(radius) of a sphere:\n")
    print("| rasterizer | 1,280 at 64 px | at 128 | 5,120 at 64 | at 128 | 20,480 at 64 | at 128 |")
    print("|---" * 7 + "|")
    for name in ON_CPU:
        print(silhouettes(name, "cpu"), flush=True)
    if torch.cuda.is_available():
        for name in rasterize.BACKENDS:
            if rasterize.BACKENDS[name].is_available("cuda"):
                print(silhouettes(name, "cuda"), flush=True)
        print(f"\nOn {torch.cuda.get_device_name()}:\n\n{on_a_card()}")
    else:
        print("\nA card was not measured: there is none.")
    if output:
        output.mkdir(parents=True, exist_ok=True)
        plot(pixels, triangles, output / "rasterizer.png")


if __name__ == "__main__":
    main()
