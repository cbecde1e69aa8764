# SPDX-License-Identifier: GPL-3.0-or-later
"""Real parts for tests: a diffusers folder, tiny and untrained, and a server process."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Networks here are tiny: two threads of OpenMP mostly wait for each other, also in the servers that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import psutil
import pytest

from msd_blender.client import Client

WIDTH, TOKENS = 16, 77
PROCESS_FIXTURES = {"start_server", "start_lasting_server", "server"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="whole counts, and tight limits of time: with -m long")


@pytest.hookimpl(tryfirst=True)  # before pytest-timeout reads its option
def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.register_profile("long", max_examples=100_000, deadline=None)
    if config.getoption("--long"):
        hypothesis.settings.load_profile("long")
        config.option.timeout = config.option.timeout or 7200


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        names = set(item.fixturenames) if isinstance(item, pytest.Function) else set()
        if names & PROCESS_FIXTURES:
            item.add_marker("process")
        if "two_seconds" in names:
            item.add_marker("long")


@pytest.fixture(scope="session")
def two_seconds(request: pytest.FixtureRequest) -> float:
    """Seconds that a stop which is promised within two may take. Only `make long` has the machine for itself and
    holds the promise to half a second; elsewhere a stop that waits for the end of the work is told from one that
    does not."""
    return 2.5 if request.config.getoption("--long") else 30.0


@pytest.fixture(scope="session")
def needs_bpy() -> None:
    """Skip the tests that use it where there is no bpy, as for Python 3.12."""
    if importlib.util.find_spec("bpy") is None:
        pytest.skip("there is no bpy for this Python")


def _save_pipeline(folder: Path, prediction: str = "epsilon", **scheduler_settings: object) -> Path:
    # Imported here, because they take ten seconds that most tests do not need.
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = folder.parent / "vocab.json", folder.parent / "merges.txt"
    vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")
    blocks = {"layers_per_block": 1, "norm_num_groups": 4}
    StableDiffusionPipeline(
        tokenizer=CLIPTokenizer(str(vocabulary), str(merges), model_max_length=TOKENS),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=WIDTH,
                intermediate_size=WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=TOKENS,
                bos_token_id=len(words) - 2,
                eos_token_id=len(words) - 1,
                pad_token_id=len(words) - 1,
            )
        ),
        unet=UNet2DConditionModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=8,
            **blocks,
        ),
        vae=AutoencoderKL(
            latent_channels=3,
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            sample_size=16,
            scaling_factor=0.7,
            shift_factor=0.2,
            **blocks,
        ),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction,
            **scheduler_settings,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def save_pipeline():
    return _save_pipeline


@pytest.fixture(scope="session")
def folders(save_pipeline, tmp_path_factory):
    """Prediction type -> folder."""
    root = tmp_path_factory.mktemp("models")
    return {kind: save_pipeline(root / kind, kind) for kind in ("epsilon", "v_prediction", "sample")}


@pytest.fixture(scope="session")
def prior(folders):
    from server.priors import load

    return load(folders["v_prediction"], "cpu")


class Server:
    """A real server process on a real socket."""

    def __init__(self, data: Path, *arguments: str):
        self.data = data
        self._log = tempfile.TemporaryFile()  # not a pipe, which is full one day
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server", "serve", "--port", "0", "--data", str(data), *arguments],
            cwd=Path(__file__).parents[1],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        address = data / "server.json"
        deadline = time.monotonic() + 60
        while not address.is_file():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.05)
        known = json.loads(address.read_text())
        self.url, self.token = known["url"], known["token"]

    def client(self) -> Client:
        return Client(self.url, self.token)

    def worker(self) -> int:
        """The pid of the worker process, the child that multiprocessing spawned; a dead one is soon replaced."""
        deadline = time.monotonic() + 60
        while True:
            for child in psutil.Process(self.process.pid).children():
                try:
                    if child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(child.cmdline()):
                        return child.pid
                except psutil.NoSuchProcess:
                    pass
            assert time.monotonic() < deadline, "the server has no worker"
            time.sleep(0.02)

    def said(self) -> str:
        """The server's log so far."""
        return os.pread(self._log.fileno(), 1 << 24, 0).decode()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)


@contextmanager
def _servers() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(data: Path, *arguments: str) -> Server:
        started.append(Server(data, *arguments))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def start_server() -> Iterator[Callable[..., Server]]:
    """Start a server on a data folder; it is gone after the test, if not before."""
    with _servers() as start:
        yield start


@pytest.fixture(scope="session")
def start_lasting_server() -> Iterator[Callable[..., Server]]:
    """The same for fixtures of many tests: it is gone after the last one."""
    with _servers() as start:
        yield start


@pytest.fixture(scope="session")
def server(start_lasting_server, tmp_path_factory):
    """One server that tests share where they leave it as it was."""
    return start_lasting_server(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="session")
def tiny(folders):
    """A job's settings that make it end within seconds."""
    return {"model": str(folders["epsilon"]), "iterations": 4}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The project's wheel in a folder of its own, built from a copy, as setuptools leaves files beside the sources."""
    root = Path(__file__).parents[1]
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in ("msd_blender", "server"):
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(root / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "-w",
        made,
    ]
    subprocess.run([*command, source], check=True)
    (wheel,) = made.glob("*.whl")
    return wheel
