# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's memory: predicted, measured, and kept within a limit."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.random_models import random_prior
from msd_blender.protocol import JobRequest, Log
from server.optimize import Optimization, Settings, generate, is_out_of_memory
from server.optimize.memory import GIB, PeakMemory, fitting, forecast, operations, predicted_peak
from server.priors import Selection, least_memory, load
from tests.optimize.jobs import short
from tests.priors.single_files import shipped_shapes, sparse

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prior():
    return random_prior("tiny", CPU, torch.float32, edge=128)  # 1024 pixels


def request(**changes):
    return JobRequest("a red mushroom", device="cpu", **changes)


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--at-once"], [], ["--at-once", "--guidance", "vsd"]], ids=" ".join)
def test_the_prediction_is_near_the_peak(options):
    """Of what an iteration needs beside the weights and the libraries, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.true_size", "--family", "tiny", "--edge", "48", "--device", "cpu"]
    ended = subprocess.run([*command, *options], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    peak, predicted = map(float, re.search(r"([\d.]+) GiB of it \(([\d.]+)\)", ended.stdout).groups())
    assert peak > 0.1 and 0.7 < predicted / peak < 1.5, ended.stdout


def test_a_limit_takes_views_one_by_one_then_fewer_and_then_refuses(prior):
    options = {"mode": "texture", "mesh": "x"}  # whose renders are small beside the encoder's part
    ladder = [Settings.of(request(**options), reductions) for reductions in range(4)]
    peaks = [predicted_peak(request(**options), settings, prior, CPU) for settings in ladder]
    for settings, peak, more in zip(ladder, peaks, [2 * peaks[0], *peaks]):
        assert peak < 0.95 * more
        limited = request(**options, memory_limit=1.02 * peak / GIB)
        found, _ = fitting(limited, ladder[0], prior, CPU)
        assert found == settings
        (sentence, *_) = forecast(limited, found, prior, CPU, peak)
        assert f"{peak / GIB:.1f} GiB" in sentence
        assert ("one by one" in sentence) == (found.one_by_one and found.views > 1)
    with pytest.raises(ValueError, match=r"one view at a time, but its memory limit is 0.1 GiB: raise the limit"):
        fitting(request(**options, memory_limit=0.1), ladder[0], prior, CPU)


def test_a_model_larger_than_the_limit_is_refused_before_it_is_loaded(tmp_path, tiny):
    """SD 1.5 has 860 million weights in its U-Net, 123 in its text encoder and 84 in its VAE."""
    file = sparse(tmp_path / "model.safetensors", shipped_shapes("stable-diffusion-1"))
    assert least_memory(Selection(str(file)), on_card=True) == pytest.approx(2 * 860e6, rel=0.01)
    assert least_memory(Selection(str(file)), on_card=False) == pytest.approx(4 * (860 + 123 + 84) * 1e6, rel=0.01)
    with pytest.raises(ValueError, match=r"needs 4.[69] GiB, but the job's memory limit is 4.5 GiB: raise the limit"):
        Optimization(request(model=str(file), memory_limit=4.5), print, lambda: False)
    weights = sum(each.numel() for each in networks(load(tiny["model"], "cpu")))
    assert least_memory(Selection(tiny["model"]), on_card=False) == 4 * weights


def networks(prior):
    return [each for part in (prior.unet, prior.vae, prior.text_encoder) for each in part.parameters()]


def test_a_job_beyond_its_limit_ends_as_one_that_has_run_out_of_memory():
    peak = PeakMemory(CPU, 0.5 * PeakMemory(CPU).bytes / GIB)
    with pytest.raises(MemoryError) as caught:
        peak.check()
    assert is_out_of_memory(caught.value)
    PeakMemory(CPU, 1000).check()


def test_the_record_has_the_peak_and_its_prediction(tiny, tmp_path):
    messages = []
    asked = request(model=tiny["model"], memory_limit=500.0, texture_size=64, target_faces=200)
    generate(asked, tmp_path, messages.append, lambda: False, short(asked))
    memory = json.loads((tmp_path / "job.json").read_text())["memory"]
    assert 0.3 * GIB < memory["peak"] < 30 * GIB and 0.5 * GIB < memory["predicted"] < 2 * GIB
    assert "with 4 views at once" in next(message.message for message in messages if isinstance(message, Log))


def test_a_peak_is_seen_after_it_has_gone():
    peak = PeakMemory(CPU)
    before = peak.bytes
    torch.ones(1 << 28, dtype=torch.uint8)
    assert peak.bytes - before > 0.9 * 2**28


def test_a_cpu_says_before_how_long_it_will_take(prior):
    settings = Settings.of(request())
    work = operations(request(), settings, prior)
    assert operations(request(guidance="sds"), settings, prior) < work
    sentence = forecast(request(iterations=100_000), Settings.of(request(iterations=100_000)), prior, CPU, 0)[-1]
    assert re.search(r"iteration will take about \d+ (seconds|minutes), and the job \d+ hours", sentence)
    assert not forecast(request(iterations=1), Settings.of(request(iterations=1)), prior, CPU, 0)


def test_stable_diffusion_15_costs_what_was_counted():
    """6.2 GiB for encoding four views of 512 pixels in float16, and 0.8 TFLOP for the U-Net's evaluation."""
    with torch.device("meta"):
        from diffusers import AutoencoderKL, UNet2DConditionModel

        from benchmarks.random_models import FAMILIES
        from server.priors.cost import cost_of

        vae = AutoencoderKL(**FAMILIES["sd15"]["vae"]).to(torch.float16)
        unet = UNet2DConditionModel(**FAMILIES["sd15"]["unet"]).to(torch.float16)
    cost = cost_of([vae, unet], vae, unet, 512, 64**2)
    assert 4 * cost.encode / GIB == pytest.approx(6.2, rel=0.07)
    assert 4 * cost.encode_thrifty / GIB == pytest.approx(0.43, rel=0.07)
    assert 3 * 4 * cost.encode_operations == pytest.approx(3 / 2 * 8.7e12, rel=0.15)
    assert cost.denoise_operations == pytest.approx(0.8e12, rel=0.2)
    assert cost.weights == pytest.approx(2 * (860e6 + 84e6), rel=0.01)
