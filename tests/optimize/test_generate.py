# SPDX-License-Identifier: GPL-3.0-or-later
"""Short runs of the whole optimization, on a tiny untrained diffusers folder."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import trimesh
from safetensors.torch import load_file, save_file
from scipy.spatial import cKDTree

from msd_blender.protocol import FILES, JobRequest, Log, Progress, Snapshot
from server.geometry.field import Field
from server.geometry.isosurface import extract_mesh
from server.geometry.mesh import edge_counts
from server.guidance.bandwidth import Geometric
from server.optimize import generate
from server.optimize.settings import Settings
from server.priors import PriorError


def run(folder, tiny, cancelled=lambda: False, **changes):
    messages = []
    folder.mkdir(exist_ok=True)
    generate(JobRequest(**{"prompt": "a red mushroom", **tiny, **changes}), folder, messages.append, cancelled)
    return messages


def newest(messages):
    return [message for message in messages if isinstance(message, Snapshot)][-1]


def test_the_result_is_a_closed_textured_mesh_on_the_ground(tiny, tmp_path):
    messages = run(tmp_path, tiny)
    arrays = newest(messages).arrays
    assert edge_counts(arrays["faces"])[1] == 0
    solid = trimesh.Trimesh(arrays["positions"], arrays["faces"], process=False)
    assert solid.volume > 0 and arrays["positions"][:, 2].min() == 0
    assert len(np.unique(arrays["faces"])) == len(arrays["positions"])  # no loose vertices
    assert arrays["uvs"].shape == (*arrays["faces"].shape, 2) and arrays["texture.0"].any()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    progress = [message for message in messages if isinstance(message, Progress)]
    assert [p.iteration for p in progress[:4]] == [1, 2, 3, 4] and {p.phase for p in progress} >= {"volume", "surface"}
    record = json.loads((tmp_path / "job.json").read_text())
    assert record["iterations"] == 4 and record["mesh"]["non_manifold_edges"] == 0
    assert record["denoiser_calls"] == progress[-1].denoiser_calls > 0
    assert record["request"]["prompt"] == "a red mushroom" and record["seconds"]["denoiser"] > 0


@pytest.mark.slow
def test_snapshots_do_not_change_the_files(tiny, tmp_path):
    request = JobRequest("a red mushroom", **tiny)
    messages = []
    for snapshots in (0, 40):
        (tmp_path / str(snapshots)).mkdir()
        generate(
            request,
            tmp_path / str(snapshots),
            messages.append,
            lambda: False,
            dataclasses.replace(Settings.of(request), snapshots=snapshots),
        )
        assert any(isinstance(message, Snapshot) for message in messages) == bool(snapshots)
    for name in ("mesh.glb", "texture.png", "turntable.png"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "40" / name).read_bytes()
    seconds = json.loads((tmp_path / "0" / "job.json").read_text())["seconds"]
    assert "snapshot" not in seconds or seconds["snapshot"] == 0


def test_the_texture_matches_the_vertex_colours(tiny, tmp_path):
    arrays = newest(run(tmp_path, tiny)).arrays
    size = len(arrays["texture.0"])
    texel = np.clip((arrays["uvs"].reshape(-1, 2) * size).astype(int), 0, size - 1)
    baked = arrays["texture.0"][texel[:, 1], texel[:, 0]].astype(int)
    vertex = arrays["colours"][arrays["faces"].reshape(-1)].astype(int)
    assert np.abs(baked - vertex).mean() < 4


@pytest.mark.slow
@pytest.mark.parametrize("guidance", ["msd", "sds"])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tiny, tmp_path, guidance):
    one, two, other = (
        newest(run(tmp_path / str(i), tiny, guidance=guidance, seed=seed)).arrays for i, seed in enumerate([3, 3, 4])
    )
    for name, array in one.items():
        assert array.tobytes() == two[name].tobytes(), name
    assert one["positions"].tobytes() != other["positions"].tobytes()


def test_a_cancelled_job_keeps_its_result(tiny, tmp_path):
    asked = []

    def cancelled():
        asked.append(1)
        return len(asked) > 2

    messages = run(tmp_path, {**tiny, "iterations": 1000}, cancelled)
    assert max(message.iteration for message in messages if isinstance(message, Progress)) == 2
    assert trimesh.load(tmp_path / "mesh.glb", force="mesh").volume > 0
    assert json.loads((tmp_path / "job.json").read_text())["state"] == "cancelled"


def test_a_single_iteration_is_enough(tiny, tmp_path):
    assert len(newest(run(tmp_path, {**tiny, "iterations": 1})).arrays["positions"])


def test_an_empty_field_still_has_a_mesh():
    field = Field((9,))
    with torch.no_grad():
        field.grids[0][:, 0] = -5 - torch.rand(9, 9, 9, generator=torch.Generator().manual_seed(0))
    assert len(extract_mesh(field.grid()).faces)
    with torch.no_grad():
        field.grids[0][:, 0] = -5
    assert len(extract_mesh(field.grid()).faces)


def test_iterations_are_divided_in_the_proportions_of_the_defaults():
    default, half = Settings(), Settings.of(JobRequest("x", iterations=210))
    assert half.iterations("generate") == 210
    for name, phase in half.phases("generate").items():
        whole = default.phases("generate")[name]
        assert phase.iterations / 210 == pytest.approx(whole.iterations / default.iterations("generate"), abs=0.01)


def test_a_request_changes_the_settings():
    request = JobRequest(
        "x",
        diversity=2.0,
        sharpness=0.1,
        regularization=3,
        texture_size=256,
        elevation=[0, 10],
        field_of_view=60,
        guidance_scale=7,
    )
    default, changed = Settings(), Settings.of(request)
    assert [phase.bandwidth for phase in changed.phases("generate").values()] == [
        Geometric(2.0, 1.5),
        Geometric(2.0, 0.6),
        Geometric(0.9, 0.1),
    ]
    assert changed.surface.penalty == 3 * default.surface.penalty and changed.guidance_scale == 7
    assert changed.texture_size == changed.made_texture_size == 256
    assert changed.elevation == (0, 10) and changed.field_of_view == 60
    narrow = Settings.of(JobRequest("x", mode="texture", mesh="x", diversity=0.05))
    assert narrow.texture.bandwidth == Geometric(0.05, 0.05) and narrow.refine == default.refine
    reduced = [Settings.of(JobRequest("x"), reductions) for reductions in range(5)]
    assert [each.views for each in reduced] == [4, 4, 2, 1, 1]
    assert [each.one_by_one for each in reduced] == [False, True, True, True, True]


def test_options_of_the_shape_take_effect(tiny, tmp_path):
    arrays = newest(
        run(
            tmp_path,
            tiny,
            target_faces=800,
            texture_size=64,
            symmetry="x",
            flat=True,
            elevation=[10, 20],
            field_of_view=30.0,
            background="gray",
            iterations=8,
        )
    ).arrays
    assert abs(len(arrays["faces"]) / 800 - 1) < 0.1 and arrays["texture.0"].shape == (64, 64, 3)
    points, _ = trimesh.sample.sample_surface(trimesh.Trimesh(arrays["positions"], arrays["faces"]), 4000, seed=0)
    assert cKDTree(points).query(points * [-1, 1, 1])[0].mean() < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("prompt, warned", [("a red dragon", True), ("a red mushroom", False)])
def test_the_bundled_model_warns_of_unknown_words(tmp_path, prompt, warned):
    messages = run(tmp_path, {}, prompt=prompt, iterations=1)
    warnings = [message.message for message in messages if isinstance(message, Log)]
    assert [("dragon" in text, "mushroom" in text) for text in warnings] == [(True, True)] * warned


@pytest.mark.slow
def test_a_cut_prompt_is_warned_of_once(tmp_path):
    messages = run(
        tmp_path, {}, prompt="a red mushroom and a blue chair and a green car and a wooden table", iterations=2
    )
    warnings = [message.message for message in messages if isinstance(message, Log)]
    assert ["and a wooden table" in text for text in warnings] == [True]


def test_an_unknown_model_is_named(tiny, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        run(tmp_path, tiny, model=str(tmp_path / "nowhere"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="no CUDA device"):
        run(tmp_path, tiny, device="cuda")


def test_nan_from_the_model_stops_the_job_at_once(save_pipeline, tmp_path):
    folder = save_pipeline(tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {"conv_out.weight": tensors["conv_out.weight"] * 3e38}, weights, {"format": "pt"})
    messages = []
    with pytest.raises(PriorError, match="NaN or infinite on the cpu in float32"):
        generate(JobRequest("a mug", model=str(folder), iterations=100), tmp_path, messages.append, lambda: False)
    assert not [message for message in messages if isinstance(message, Progress)]
