# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers and their devices: which there are, one that fails, one that is idle, one that is slow."""

import gc
import json
import time
import weakref
from functools import partial

import pytest
import torch

from msd_blender.protocol import CANCELLED, FILES, FINISHED, JobRequest
from server.jobs.local_process import LocalProcess, devices
from server.jobs.messages import REDUCED
from server.jobs.queue import Queue
from server.jobs.store import Store
from server.optimize import is_device_fault, is_out_of_memory, release
from server.priors import Selection, load_cached
from tests.jobs import faulty


@pytest.mark.parametrize(
    "variable, expected",
    [
        ("", [""]),
        ("0", ["0"]),
        ("1, 0", ["1", "0"]),
        ("GPU-5f3c,1", ["GPU-5f3c", "1"]),
        ("-1", [""]),
        ("0,-1,1", ["0"]),
        ("0,,1", ["0"]),
        (" ", [""]),
    ],
)
def test_cards_that_the_environment_hides_get_no_worker(monkeypatch, variable, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert devices() == expected


AcceleratorError = getattr(torch, "AcceleratorError", RuntimeError)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        AcceleratorError("CUDA error: out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried to"
        ),
        RuntimeError("Cuda error: 2[cudaMalloc(&m_gpuPtr, bytes);]"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_memory_that_ran_out_is_known_by_every_librarys_words(error):
    assert is_out_of_memory(error) and not is_device_fault(error)
    wrapped = ValueError("The model could not be loaded.")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Cuda error: 700[cudaDeviceSynchronize()]"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_MAPPING_ERROR"),
        RuntimeError("CUDA driver error: unknown error"),
    ],
)
def test_a_device_that_fails_is_told_from_one_that_is_full(error):
    assert is_device_fault(error) and not is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("There is no CUDA device here: choose the device cpu or auto."),
        OSError(28, "No space left on device"),
        RuntimeError("The size of tensor a (4) must match the size of tensor b (3)"),
        KeyError("source"),
    ],
)
def test_other_errors_are_neither(error):
    assert not is_device_fault(error) and not is_out_of_memory(error)


@pytest.fixture
def faults(monkeypatch, tmp_path):
    """Run the jobs of a queue whose device fails in turn as the letters say; the queue and the file of letters."""
    path = tmp_path / "faults"
    path.touch()
    monkeypatch.setenv("MSD_FAULTS", str(path))
    monkeypatch.setenv("MSD_CHECKPOINT_SECONDS", "0")
    data = tmp_path / "data"
    data.mkdir()
    queue = Queue(Store(data), [partial(LocalProcess, main=faulty.main)])
    queue.start()
    yield queue, path
    queue.stop()
    queue.store.close()


def ended(queue, job, limit=300):
    deadline = time.monotonic() + limit
    while not (now := queue.store.get(job.id)).ended:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return now


def warnings(queue, job):
    events = [data.decode() for _, data in queue.store.events(job.id)]
    return [json.loads(event.partition("data: ")[2])["message"] for event in events if "event: log" in event]


@pytest.mark.slow
def test_a_device_that_fails_and_then_has_too_little_memory_costs_a_worker_and_views_but_no_job(faults, tiny):
    queue, path = faults
    path.write_text("XOOO")
    job = ended(queue, queue.submit(JobRequest("a red mushroom", **tiny)))
    assert job.state == FINISHED and job.files == list(FILES)
    fault, *reduced = warnings(queue, job)
    assert "its device failed: CUDA error: an illegal memory access" in fault and fault.count("\n") == 0
    assert reduced == list(REDUCED)
    record = json.loads((queue.store.folder(job.id) / "job.json").read_text())
    assert record["settings"]["views"] == 1 and record["settings"]["one_by_one"] and queue.crashes == 1


def test_an_idle_workers_memory_is_given_back_and_the_next_job_loads_anew(start_server, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MSD_IDLE_SECONDS", "0.5")
    server = start_server(tmp_path)
    client = server.client()
    for count in (1, 2):
        job = client.submit(JobRequest("a red mushroom", **tiny))
        assert list(client.events(job.id))[-1].state == FINISHED
        deadline = time.monotonic() + 300
        while server.said().count("memory are given back") < count:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert client.health().worker == "idle"


def test_release_leaves_no_prior(folders):
    model = weakref.ref(load_cached(Selection(str(folders["epsilon"])), torch.device("cpu")).unet)
    assert model() is not None
    release()
    gc.collect()
    assert model() is None


@pytest.mark.slow
def test_a_cancelled_job_on_a_slow_device_keeps_all_that_it_reached(faults, tiny):
    """An iteration takes longer than the 1.8 seconds after which a worker that hangs is ended."""
    queue, path = faults
    path.write_text("S")
    job = queue.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 100}))
    deadline = time.monotonic() + 300
    while not any(b'"iteration": 3,' in data for _, data in queue.store.events(job.id)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    queue.cancel(job.id)
    last = ended(queue, job)
    assert last.state == CANCELLED and last.error == "" and warnings(queue, job) == []
    assert {"mesh.glb", "turntable.png", "job.json"} <= set(last.files)
    assert json.loads((queue.store.folder(job.id) / "job.json").read_text())["iterations"] >= 3
