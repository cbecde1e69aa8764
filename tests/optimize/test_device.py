# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole jobs on an emulated accelerator.

Tensors on the wrong device, `.numpy()` on the device and arguments that nvdiffrast refuses are errors; waits of the
host are counted.
"""

import importlib
import json
import statistics
import sys
import types

import numpy as np
import pytest
import torch
import trimesh

from msd_blender.protocol import JobRequest
from server import guidance, precision, priors
from server.assets.sparse_grid import SparseGrid
from server.geometry import precondition
from server.optimize import release
from server.rendering import cameras, rasterize, volume
from server.rendering.rasterize import warp
from server.rendering.rasterize.cpu import CpuRasterizer
from server.rendering.rasterize.nvdiffrast import NvdiffrastRasterizer
from server.rendering.rasterize.warp import WarpRasterizer
from tests import nvdiffrast_contract
from tests.emulated import DEVICE, FLOAT64, EmulatedCholespy, Emulation, counted_waits, emulated_launch
from tests.optimize.jobs import JOBS, request_of, short, stop_and_go_on

loop = importlib.import_module("server.optimize.loop")


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(loop, "choose_device", lambda name: DEVICE)
    monkeypatch.setattr(
        volume, "device_generator", lambda generator, device: generator
    )  # the emulated device has no generator
    monkeypatch.setattr(precondition, "cholespy", EmulatedCholespy)
    monkeypatch.setattr(precondition, "solver_device", lambda device: device)
    with Emulation():
        yield DEVICE
    release()


@pytest.fixture
def narrow_device(monkeypatch):
    """A device as Apple's: without float64 and without a rasterizer and a solver of its own."""
    monkeypatch.setattr(loop, "choose_device", lambda name: DEVICE)
    monkeypatch.setattr(volume, "device_generator", lambda generator, device: generator)
    monkeypatch.setattr(precision, "NO_FLOAT64", {DEVICE.type})
    monkeypatch.setitem(FLOAT64, 0, False)
    with Emulation():
        yield DEVICE
    release()


@pytest.fixture(params=["cpu", "nvdiffrast", "warp"])
def rasterizer(request, monkeypatch):
    package = types.ModuleType("nvdiffrast")
    package.torch = nvdiffrast_contract
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", nvdiffrast_contract)
    monkeypatch.setattr(warp, "launch", emulated_launch(warp.launch))
    make = {
        "cpu": lambda device: CpuRasterizer(),
        "nvdiffrast": NvdiffrastRasterizer,
        "warp": lambda device: WarpRasterizer(),
    }[request.param]
    monkeypatch.setattr(rasterize, "create", lambda name, device: make(device))
    return make(DEVICE)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("job", JOBS)
def test_a_job_pauses_resumes_and_writes_every_file(device, rasterizer, tiny, tmp_path, job, request):
    """Every job with nvdiffrast, which refuses most; a third of them each with the others, and all with --long."""
    turn = {WarpRasterizer: 1, CpuRasterizer: 0}.get(type(rasterizer))
    if turn is not None and list(JOBS).index(job) % 3 != turn and not request.config.getoption("--long"):
        pytest.skip("only with --long")
    asked, mesh = request_of(job, tiny["model"])
    stop_and_go_on(asked, mesh, tmp_path)
    record = json.loads((tmp_path / "job.json").read_text())
    assert record["state"] == "finished" and record["device"] == "emulated:0"
    assert record["iterations"] == short(asked).iterations(asked.mode)


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_job_runs_on_a_device_without_float64(narrow_device, tiny, tmp_path, job):
    request, mesh = request_of(job, tiny["model"])
    loop.generate(request, tmp_path, lambda message: None, lambda: False, short(request), mesh=mesh)
    assert json.loads((tmp_path / "job.json").read_text())["device"] == "emulated:0"


def test_the_emulation_refuses_float64_as_apples_device_does(narrow_device):
    with pytest.raises(TypeError, match="float64"):
        torch.ones(3, device=DEVICE).double()
    assert precision.widest(torch.ones(3, device=DEVICE, dtype=torch.float16)).dtype == torch.float32


# Waits of the host per iteration; docs/log.md has the counts and how they were made.
LIMITS = {"volume": 6, "surface": 13, "texture": 6}


@pytest.mark.slow
@pytest.mark.parametrize("rasterizer", ["nvdiffrast", "warp"], indirect=True)
def test_an_iteration_waits_for_the_device_within_limits(device, rasterizer, tiny, tmp_path, monkeypatch, capsys):
    request = JobRequest("a red mushroom", model=tiny["model"], texture_size=64, target_faces=200)
    counts = {phase: [] for phase in LIMITS}
    iterate = loop.Optimization._iterate

    def counted(self, asset, *rest):
        with counted_waits() as waits:
            step = iterate(self, asset, *rest)
        counts[asset.name].append(waits)
        return step

    monkeypatch.setattr(loop.Optimization, "_iterate", counted)
    loop.generate(request, tmp_path, lambda message: None, lambda: False, short(request))
    for phase, waits in counts.items():
        last = waits[-1]  # the first one also fills caches
        with capsys.disabled():
            print(f"\n{rasterize.name_of(rasterizer)}, {phase}: {last.count} waits an iteration")
        assert last.count <= LIMITS[phase], last.places
        assert statistics.fmean(each.count for each in waits) <= LIMITS[phase] + 1


def test_the_emulation_has_cudas_errors_and_counts_waits(device):
    a = torch.ones(3, device=DEVICE, requires_grad=True)
    with pytest.raises(RuntimeError, match="same device"):
        a + torch.ones(3)
    with pytest.raises(TypeError, match="cpu"):
        a.detach().numpy()
    (2 * a).sum().backward()
    assert a.grad.device == DEVICE and a.detach().cpu().numpy().sum() == 3
    b = a.detach()
    for waiting in (
        lambda: b.cpu(),
        lambda: float(b.sum()),
        lambda: b.tolist(),
        lambda: b[b > 0],
        lambda: b.nonzero(),
        lambda: b.unique(),
        lambda: torch.ones(3).to(DEVICE),
        lambda: torch.tensor([1.0], device=DEVICE),
        lambda: b[[0, 1]],
        lambda: bool((b > 0).any()),
    ):
        with counted_waits() as waits:
            waiting()
        assert waits.count == 1, waits.places
    with counted_waits() as waits:
        _ = torch.where(b > 0, b.exp().sort().values, 0.0)[:2] + torch.ones(2).to(DEVICE, non_blocking=True)
        torch.zeros(3, device=DEVICE).index_add(0, torch.arange(3, device=DEVICE), b)
    assert waits.count == 0


def test_the_contract_refuses_invalid_arguments(device):
    context = nvdiffrast_contract.RasterizeCudaContext()
    clip = torch.ones(1, 6, 4, device=DEVICE)
    faces = torch.arange(6, dtype=torch.int32, device=DEVICE).view(2, 3)
    nvdiffrast_contract.rasterize(context, clip, faces, (4, 4))
    for pos, tri in (
        (clip.double(), faces),
        (clip.movedim(1, 2), faces),
        (clip, faces.long()),
        (clip, faces[:0]),
        (clip, faces.T.contiguous().T),
        (clip.cpu(), faces),
        (clip[0], faces),
    ):
        with pytest.raises(AssertionError):
            nvdiffrast_contract.rasterize(context, pos, tri, (4, 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["msd", "sds", "sdi", "vsd"])
def test_a_guidance_step_with_the_bundled_prior(device, name):
    prior, generator = priors.load(None, DEVICE, torch.float32), torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, prior.resolution, prior.resolution, device=DEVICE, requires_grad=True)
    latents = prior.encode(pixels)
    step = guidance.create(name).step(prior, latents, prior.text_condition(["a red chair"]), 0.5, generator)
    latents.backward(step.gradient)
    assert pixels.grad.device == DEVICE and pixels.grad.cpu().isfinite().all()


def test_an_empty_surface_renders_the_background(device, rasterizer):
    clip = torch.zeros(2, 0, 4, device=DEVICE, requires_grad=True)
    faces = torch.zeros(0, 3, dtype=torch.int32, device=DEVICE)
    rast = rasterizer.rasterize(clip, faces, (8, 8))
    uvs = torch.zeros(1, 0, 2, device=DEVICE)
    pixels = rasterizer.interpolate(torch.zeros(1, 0, 3, device=DEVICE), rast, faces)
    assert rasterizer.footprint(uvs, rast, faces, clip, faces).shape == (2, 8, 8, 4)
    picture = rasterizer.antialias(pixels + 0.5, rast, clip, faces)
    assert picture.device == DEVICE and (picture.cpu() == 0.5).all() and not rast.cpu().any()


@pytest.mark.parametrize("subdivisions, resolution", [(3, 64), (4, 64), (5, 128)])
def test_a_spheres_silhouette_gradient_arrives(device, rasterizer, subdivisions, resolution):
    """d(area)/d(radius) at the vertices is within 5 % of the analytic value; see tests/rendering."""
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
    vertices = torch.tensor(np.asarray(sphere.vertices), dtype=torch.float32).to(DEVICE)
    faces = torch.tensor(np.asarray(sphere.faces), dtype=torch.int32).to(DEVICE)
    radius = torch.tensor(0.7, device=DEVICE, requires_grad=True)
    clip = cameras.orbit(2, device=DEVICE).clip(vertices * radius)
    rast = rasterizer.rasterize(clip, faces, (resolution, resolution))
    cover = rasterizer.interpolate(torch.ones(1, len(vertices), 1, device=DEVICE), rast, faces)
    (gradient,) = torch.autograd.grad(rasterizer.antialias(cover, rast, clip, faces).sum(), radius)
    r = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    outline = (r / 3).asin().tan() / np.tan(np.radians(20)) * resolution / 2
    (slope,) = torch.autograd.grad(2 * np.pi * outline**2, r)
    assert float(gradient) == pytest.approx(float(slope), rel=0.05)


def test_fine_colours_are_read_on_the_device_without_waiting(device):
    points = 0.8 * torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    grids = [SparseGrid(129, 3, [points], place) for place in ("cpu", DEVICE)]
    results = []
    for grid, place in zip(grids, ("cpu", DEVICE)):
        with torch.no_grad():
            grid.values += torch.arange(grid.values.numel(), device=place).view_as(grid.values) % 7
        here = points.to(place)
        with counted_waits() as waits:
            values = grid(here)
            values.square().sum().backward()
        assert waits.count == 0, waits.places
        results.append((values.detach().cpu(), grid.values.grad.cpu()))
    torch.testing.assert_close(*results)
