# SPDX-License-Identifier: GPL-3.0-or-later
"""Short jobs one after another leave nothing behind in the processes: a few here, 300 with `make long`."""

import time

import psutil
import pytest

from msd_blender.protocol import FINISHED, JobRequest

pytestmark = pytest.mark.long


def held(server):
    """For the server and its worker: (file descriptors, threads), and their bytes of memory."""
    processes = [psutil.Process(pid) for pid in (server.process.pid, server.worker())]
    return (
        [(process.num_fds(), process.num_threads()) for process in processes],
        [process.memory_info().rss for process in processes],
    )


def settled(server):
    """What is `held`, bar memory, once it stays so for half a second: a stream's end may take a moment."""
    seen = []
    while len(seen) < 6 or seen[-6:] != 6 * seen[-1:]:
        assert len(seen) < 100, seen
        time.sleep(0.1)
        seen.append(held(server)[0])
    return seen[-1]


def test_many_jobs_leave_nothing_behind(start_server, tiny, tmp_path, request, capsys):
    # A job's own working memory comes and goes by a tenth: peaks are compared, and few jobs show less than many.
    first, count, growth = (20, 300, 1.05) if request.config.getoption("--long") else (10, 14, 1.15)
    server = start_server(tmp_path)
    client = server.client()
    before, memory = None, []
    for i in range(1, count + 1):
        job = client.submit(JobRequest("a red mushroom", **tiny, seed=i))
        assert list(client.events(job.id))[-1].state == FINISHED
        memory.append(held(server)[1])
        if i == first:
            before = settled(server)
    after = settled(server)
    peaks = [tuple(map(max, zip(*part))) for part in (memory[first // 2 : first], memory[-first // 2 :])]
    with capsys.disabled():
        print(
            f"\nafter {first} and {count} jobs, (descriptors, threads) of server and worker: {before} {after}, "
            f"bytes {peaks}"
        )
    assert after == before
    assert all(now <= growth * then for then, now in zip(*peaks))
