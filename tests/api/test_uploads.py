# SPDX-License-Identifier: GPL-3.0-or-later
"""Meshes that are uploaded, and edits of a job under way, over a real socket; attacks on both."""

import http.client
import json
import random
import socket
import time
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from msd_blender.client import ClientError
from msd_blender.protocol import MAX_UPLOAD, JobRequest, Snapshot, encode_snapshot
from server.jobs.uploads import Meshes, decode_upload


def tetrahedron(scale=1.0, **more):
    positions = scale * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], np.int32)
    return {"positions": positions.astype(np.float32), "faces": faces, **more}


def post(server, body, length=None):
    """(status, detail) of an upload of these bytes."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    connection.request("POST", "/v1/meshes", body, {"Content-Length": str(len(body) if length is None else length)})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read()).get("detail", "")


def test_an_upload_is_kept_byte_for_byte_under_its_contents_name(server):
    arrays = tetrahedron(
        uvs=np.random.default_rng(0).random((4, 3, 2), np.float32),
        slots=np.zeros(4, np.int32),
        locked=np.array([1, 0, 0, 0], np.uint8),
        **{"texture.0": np.zeros((4, 8, 3), np.uint8)},
    )
    client = server.client()
    first = client.upload(arrays)
    assert (first.vertices, first.faces) == (4, 4) and client.upload(arrays).id == first.id
    assert client.upload(tetrahedron(2.0)).id != first.id
    kept = decode_upload(Meshes(server.data / "meshes").read(first.id))
    assert kept.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(kept[name], array)


@pytest.mark.parametrize(
    "arrays, says",
    [
        ({"positions": np.zeros((3, 3), np.float32)}, "needs positions and faces"),
        (tetrahedron(preview=np.zeros((4, 4, 3), np.uint8)), "has no preview"),
        (tetrahedron() | {"faces": np.zeros((0, 3), np.int32)}, "is empty"),
        (tetrahedron() | {"faces": np.full((1, 3), 9, np.int32)}, "do not exist"),
        (tetrahedron() | {"positions": np.full((4, 3), np.nan, np.float32)}, "no finite numbers"),
        (tetrahedron(locked=np.zeros(3, np.uint8)), "3 locked, expected 4"),
        (tetrahedron(slots=np.full(4, 99, np.int32)), "slot outside"),
        (tetrahedron(**{"texture.0": np.zeros((1, 9000, 3), np.uint8)}), "9000 x 1 pixels"),
        (tetrahedron() | {"faces": np.zeros((2_000_001, 3), np.int32)}, "decimate it"),
    ],
)
def test_meshes_that_are_none_are_refused_in_a_sentence(server, arrays, says):
    with pytest.raises(ClientError, match=says):
        server.client().upload(arrays)


@pytest.mark.long
def test_uploads_that_are_no_frame_are_refused_and_leave_nothing(server, request):
    whole = encode_snapshot(Snapshot(0, 0, tetrahedron()))
    before = sorted((server.data / "meshes").glob("*")), psutil.Process(server.process.pid).memory_info().rss
    rng = random.Random(0)
    count = 20_000 if request.config.getoption("--long") else 100
    for _ in range(count):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(damaged))
            damaged[at : at + rng.randint(0, 4)] = rng.randbytes(rng.randint(0, 4))
        if damaged != whole:
            assert post(server, bytes(damaged))[0] == 422
    for other in (b"", b"x", whole + b"x", whole[:-1], b"\x80\x04pickle"):
        status, detail = post(server, other)
        assert status == 422 and detail.endswith(".")
    assert sorted((server.data / "meshes").glob("*")) == before[0]
    assert psutil.Process(server.process.pid).memory_info().rss < before[1] + (32 << 20)


def test_an_upload_that_is_too_large_is_refused_before_it_is_sent(server):
    with socket.create_connection((urlsplit(server.url).hostname, urlsplit(server.url).port), timeout=30) as large:
        large.sendall(b"POST /v1/meshes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % (MAX_UPLOAD + 1))
        assert b" 413 " in large.recv(200).splitlines()[0]


def test_old_uploads_make_room_but_for_those_in_use(tmp_path):
    import asyncio

    uploads = Meshes(tmp_path / "meshes", max_bytes=2500)

    async def frames(scale):
        yield encode_snapshot(Snapshot(0, 0, tetrahedron(scale)))

    kept = [asyncio.run(uploads.receive(frames(1.0))).id]
    for scale in range(2, 6):
        time.sleep(0.01)
        kept.append(asyncio.run(uploads.receive(frames(float(scale)), kept=kept[:1])).id)
    there = {path.stem for path in uploads.folder.iterdir()}
    assert kept[0] in there and kept[-1] in there and len(there) < len(kept)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a" * 64, "A" * 63, "", "."])
def test_a_mesh_is_found_by_its_hash_alone(server, name):
    with pytest.raises(ClientError, match="upload it first"):
        server.client().submit(JobRequest("a red chair", mode="texture", mesh=name))
    with pytest.raises(ValueError, match="upload it first"):
        Meshes(server.data / "meshes").find(name)
