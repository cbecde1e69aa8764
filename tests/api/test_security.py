# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on a real server; those on names, tokens and bodies are in test_auth."""

import io
import json
import socket
import struct
import time
import zipfile
import zlib
from urllib.parse import urlsplit

import numpy as np
import pytest

from msd_blender.client import ClientError
from msd_blender.protocol import JobRequest, ProtocolError, decode_snapshot, read_snapshot
from server.api.auth import RateLimit, allowed_model
from server.api.header_timeout import HEADER_TIMEOUT
from server.checkpoint import load


def connect(server):
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def test_headers_that_do_not_come_close_the_connection(server):
    """Slow loris: a byte now and then keeps nothing open."""
    start = time.monotonic()
    with connect(server) as slow:
        slow.sendall(b"GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        with pytest.raises(OSError):
            while time.monotonic() - start < HEADER_TIMEOUT + 60:
                slow.sendall(b"X")
                time.sleep(0.25)
        assert HEADER_TIMEOUT - 1 < time.monotonic() - start < HEADER_TIMEOUT + 60
    assert server.client().health().worker


def test_a_body_that_does_not_come_is_answered(server):
    with connect(server) as slow:
        slow.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert b" 408 " in slow.recv(200).splitlines()[0]


def test_ten_gigabytes_are_refused_before_they_are_sent(server):
    with connect(server) as large:
        large.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000000000\r\n\r\n")
        assert b" 413 " in large.recv(200).splitlines()[0]


def test_models_lie_below_the_given_roots_links_followed(tmp_path):
    root, outside = tmp_path / "models", tmp_path / "secret"
    (root / "sd").mkdir(parents=True)
    outside.mkdir()
    (root / "link").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    allowed = [str(root / "sd"), str(root), str(root / "sd" / ".." / "sd"), ""]
    refused = [
        str(outside),
        str(root / "link"),
        str(root / ".." / "secret"),
        "/",
        "../secret",
        str(root) + "-other",
        str(root / "loop"),
        "x\0y",
    ]
    assert all(allowed_model(model, [root]) for model in allowed)
    assert not any(allowed_model(model, [root]) for model in refused)
    assert allowed_model(str(outside), None) and not allowed_model(str(outside), [])


def test_an_id_is_allowed_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub" / "models--some--model").mkdir(parents=True)
    assert allowed_model("some/model", [tmp_path / "hub"]) and allowed_model("some/model", None)
    assert not allowed_model("some/model", [tmp_path / "other"]) and not allowed_model("no/model", [tmp_path / "hub"])


def test_a_pickle_in_safetensors_clothes_is_not_opened(server, save_pipeline, tmp_path):
    """It would write a file; it must be refused in a sentence instead."""
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    folder = save_pipeline(tmp_path / "model")
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"):
        (folder / "unet" / name).write_bytes(pickle.dumps(Evil()))
    client = server.client()
    with pytest.raises(ClientError, match="damaged, or no safetensors file"):
        client.submit(JobRequest("a mug", model=str(folder), iterations=1))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()  # then only the .bin is left
    with pytest.raises(ClientError, match="only pickled weights"):
        client.submit(JobRequest("a mug", model=str(folder), iterations=1))
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_that_claims_to_be_huge_costs_nothing(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    for data in (struct.pack("<Q", len(header)) + header, struct.pack("<Q", 1 << 60) + header):
        (tmp_path / "x.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match="cannot be read"):
            load(tmp_path / "x.safetensors")


def framed(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def test_zip_and_array_bombs_are_refused():
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("positions.npy", bytes(50_000_000))
    with pytest.raises(ProtocolError, match="compressed"):
        decode_snapshot(framed(bomb.getvalue()))
    huge = io.BytesIO()
    with zipfile.ZipFile(huge, "w") as archive:
        array = io.BytesIO()
        np.lib.format.write_array_header_1_0(array, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 3)})
        archive.writestr("positions.npy", array.getvalue())
    with pytest.raises(ProtocolError):
        decode_snapshot(framed(huge.getvalue()))
    with pytest.raises(ProtocolError, match="larger"):
        read_snapshot(io.BytesIO(struct.pack("<Q", 1 << 40)).read)


def test_submissions_are_limited_for_each_address(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limit = RateLimit(3, 60)
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False] and limit.allows("b")
    now[0] += 61
    assert limit.allows("a") and len(limit._times) == 1


def test_metrics_count_and_headers_guard(server):
    with connect(server) as ask:
        ask.sendall(b"GET /v1/metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := ask.recv(1 << 16):
            answer += part
    head, _, text = answer.decode().partition("\r\n\r\n")
    assert "x-content-type-options: nosniff" in head and "default-src 'none'" in head
    assert 'msd_jobs{state="finished"}' in text and "msd_events_total" in text and 'msd_workers{state="idle"}' in text
