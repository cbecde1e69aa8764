# SPDX-License-Identifier: GPL-3.0-or-later
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from server.doctor import BAD, GOOD, NOTE, Card, Cuda, cuda, rasterizer


def doctor(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "server", "doctor", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.mark.slow
def test_a_healthy_machine(tmp_path, folders):
    done = doctor("--data", tmp_path, "--port", 0, "--models", folders["epsilon"])
    assert done.returncode == 0, done.stdout
    for words in ("Python 3.1", "torch", "rasterizer: ", "bundled model", str(folders["epsilon"]), "GiB free"):
        assert words in done.stdout
    assert "MISSING" not in done.stdout


def test_every_fault_comes_with_a_fix(tmp_path, server):
    (tmp_path / "file").touch()
    port = server.url.rpartition(":")[2]
    done = doctor("--data", tmp_path / "file" / "data", "--port", port, "--models", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "has no model_index.json" in done.stdout and "choose another --port" in done.stdout
    assert "another folder with --data" in done.stdout


def test_folders_of_models_are_listed(tmp_path, folders):
    models = tmp_path / "ComfyUI" / "models"
    shutil.copytree(folders["epsilon"], models / "checkpoints" / "tiny")
    (models / "checkpoints" / "old.ckpt").touch()
    (models / "loras").mkdir()
    for name in ("a", "b"):
        save_file(
            {"lora_te2_x.lora_down.weight": np.zeros((2, 2), np.float32)}, models / "loras" / f"{name}.safetensors"
        )
    for given in (
        doctor("--data", tmp_path, "--port", 0, "--models", tmp_path / "ComfyUI"),
        doctor(HOME=str(tmp_path)),
    ):
        assert f"model {models / 'checkpoints' / 'tiny'}: SD 1.x, 16 px" in given.stdout, given.stdout
        assert "old.ckpt is a pickled checkpoint" in given.stdout and "2 LoRAs" in given.stdout


@pytest.mark.slow
def test_the_driver_lists_its_version_and_cards(tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 535.183.01, NVIDIA GeForce RTX 3060, 8.6, 12288\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    output = doctor("--data", tmp_path, "--port", 0, PATH=f"{tmp_path}:{os.environ['PATH']}").stdout
    assert "NVIDIA driver 535.183.01: NVIDIA GeForce RTX 3060" in output and "no NVIDIA card" not in output, output


KERNELS = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
ADA = Card("NVIDIA GeForce RTX 4090", (8, 9), 24 << 30)
HEALTHY = Cuda(
    torch="2.13.0+cu130",
    cuda="13.0",
    driver="580.95.05",
    kernels=KERNELS,
    on_the_bus=1,
    listed=(ADA,),
    usable=(ADA,),
    rasterizer="warp",
)


@pytest.mark.parametrize(
    ("changes", "grades", "words"),
    [
        (
            {},
            [GOOD] * 2,
            ["NVIDIA driver 580.95.05: NVIDIA GeForce RTX 4090", "CUDA 13.0: .*, 24 GiB, .*capability 8.9"],
        ),
        ({"driver": "", "listed": (), "usable": (), "on_the_bus": 0}, [NOTE], ["no NVIDIA card: jobs run on the CPU"]),
        (
            {"driver": "", "listed": (), "usable": ()},
            [NOTE],
            ["no driver", "install .* 580.65.06 or newer.*make setup"],
        ),
        ({"driver": "", "listed": (), "usable": (), "cuda": "12.6"}, [NOTE], ["no driver", "525.60.13 or newer"]),
        (
            {"torch": "2.13.0+cpu", "cuda": "", "kernels": (), "usable": ()},
            [GOOD, NOTE],
            ["torch 2.13.0.cpu has no CUDA", "rm -r .venv && make setup.*nvidia-smi"],
        ),
        (
            {"driver": "535.183.01", "usable": (), "fault": "The driver is too old"},
            [GOOD, NOTE],
            ["driver 535.183.01 is too old: .*CUDA 13.0, which needs driver 580.65.06", "or a torch built for CUDA 12"],
        ),
        (
            {"driver": "470.256.02", "usable": (), "cuda": "12.6"},
            [GOOD, NOTE],
            ["needs driver 525.60.13 or newer", "a torch built for CUDA 11 "],
        ),
        (
            {"driver": "390.157", "usable": ()},
            [GOOD, NOTE],
            ["390.157 is too old", "install driver 580.65.06 or newer$"],
        ),
        ({"driver": "580.65.06"}, [GOOD] * 2, []),
        ({"driver": "580.60"}, [GOOD, NOTE], ["580.60 is too old"]),
        (
            {"usable": (), "visible": ""},
            [GOOD, NOTE],
            ["CUDA_VISIBLE_DEVICES is '', which hides every card", "unset it"],
        ),
        ({"usable": (), "visible": "7"}, [GOOD, NOTE], ["CUDA_VISIBLE_DEVICES is '7', which hides every card"]),
        ({"listed": (ADA, ADA), "visible": "1"}, [GOOD] * 3, ["CUDA_VISIBLE_DEVICES is '1': 1 of 2 cards are used"]),
        (
            {"usable": (), "fault": "unknown error"},
            [GOOD, NOTE],
            [r"not start \(unknown error\)", "restart.*--gpus all"],
        ),
        (
            {"usable": (Card("GTX 1080", (6, 1), 8 << 30),)},
            [GOOD, BAD],
            [
                "GTX 1080 has compute capability 6.1, but torch .* kernels for sm_75, .*sm_120 only",
                "12.6.*hide the card",
            ],
        ),
        ({"usable": (Card("Next", (15, 0), 8 << 30),)}, [GOOD, BAD], ["Next has .* 15.0", "a newer torch"]),
        ({"usable": (Card("Next", (15, 0), 8 << 30),), "kernels": (*KERNELS, "compute_120")}, [GOOD] * 2, []),
        ({"usable": (Card("B", (10, 3), 8 << 30),), "kernels": ("sm_90", "sm_100a")}, [GOOD, BAD], ["B has .* 10.3"]),
        ({"usable": (Card("Orin", (8, 7), 8 << 30),), "kernels": ("sm_80", "sm_90")}, [GOOD] * 2, []),
    ],
)
def test_graphics_cards(changes, grades, words):
    findings = list(cuda(replace(HEALTHY, **changes)))
    assert [finding.grade for finding in findings] == grades, findings
    texts = [text for finding in findings for text in (finding.what, finding.mend)]
    for each in words:
        assert any(re.search(each, text) for text in texts), (each, texts)
    assert all(finding.mend for finding in findings if finding.grade == BAD)


@pytest.mark.parametrize(
    ("changes", "grade", "words"),
    [
        ({}, GOOD, "rasterizer: warp"),
        ({"rasterizer": "nvdiffrast"}, GOOD, "rasterizer: nvdiffrast"),
        ({"rasterizer": "cpu"}, NOTE, "rasterizer: cpu, because neither nvdiffrast nor a Warp .* installed"),
        ({"rasterizer": "cpu", "usable": ()}, GOOD, "rasterizer: cpu$"),
    ],
)
def test_the_rasterizer_in_use(changes, grade, words):
    finding = rasterizer(replace(HEALTHY, **changes))
    assert finding.grade == grade and re.match(words, finding.what) and bool(finding.mend) == (grade == NOTE)
