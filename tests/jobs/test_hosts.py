# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster of three hosts with addresses of their own, one of which is cut off for a minute.

The hosts are network namespaces on a bridge, with host names and temporary folders of their own; the server is on the
first, and its client here, on the other side of the bridge. Ray's own limits of time are as they come.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from msd_blender.client import Client
from msd_blender.protocol import FINISHED, QUEUED, RUNNING, JobRequest, Log
from tests.jobs.ray_machines import ROOT, in_turn, started, until
from tests.jobs.ray_work import journal

pytest.importorskip("ray", reason="the package ray is not installed (Linux only)")

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.long]

# In a mount namespace, where /tmp/ray is the folder $0 and the host's name $1.
HOST = 'mount --bind "$0" /tmp/ray && hostname "$1" && shift && exec "$@"'
RAYLET = 'while :; do "$@"; sleep 1; done'  # as systemd does, once Ray ends because it was cut off
PORT = 6379
SILENCE = 60.0


def ip(*arguments):
    return subprocess.run(["ip", *map(str, arguments)], check=True, capture_output=True, text=True)


class Network:
    """A bridge of this host, whose address ends in 254, and hosts on it, whose addresses end in 1, 2, …

    Each has names of its own, since the kernel takes a network down some time after it was deleted.
    """

    _numbers = itertools.count()

    def __init__(self, folder, count):
        number = next(self._numbers)
        self._folder, self._bridge, self._processes = folder, f"msd{os.getpid()}-{number}", []
        self._names = [f"{self._bridge}-{i}" for i in range(1, count + 1)]
        third = (os.getpid() + number) % 250
        self.addresses = [f"10.77.{third}.{i}" for i in range(1, count + 1)]
        Path("/tmp/ray").mkdir(exist_ok=True)
        try:
            self._make(third)
        except subprocess.CalledProcessError:
            self.close()
            raise

    def _make(self, third):
        ip("link", "add", self._bridge, "type", "bridge")
        ip("address", "add", f"10.77.{third}.254/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")
        for name, address in zip(self._names, self.addresses):
            ip("netns", "add", name)
            ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", name, "master", self._bridge, "up")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")

    def run(self, host, *command):
        """Start a program on the host of this number, from 0."""
        folder = self._folder / f"host-{host}"
        folder.mkdir(exist_ok=True)
        inside = ["ip", "netns", "exec", self._names[host], "unshare", "--mount", "--uts", "sh", "-c", HOST]
        with open(folder / "log.txt", "a") as log:
            started = subprocess.Popen(
                [*inside, folder, f"host-{host}", *map(str, command)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(started)
        return started

    def start_ray(self, host, *options):
        ray = Path(sys.executable).with_name("ray")
        own = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000", "--block"]
        address = f"--node-ip-address={self.addresses[host]}"
        self.run(host, "sh", "-c", RAYLET, "sh", ray, "start", address, *options, *own)

    def connect(self, host, whether):
        ip("link", "set", self._names[host], "up" if whether else "down")

    def close(self):
        for process in self._processes:
            with_all = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for child in with_all:
                if child.is_running():
                    child.kill()
        made = [("link", name) for name in (*self._names, self._bridge)] + [("netns", name) for name in self._names]
        for kind, name in made:
            with suppress(subprocess.CalledProcessError):  # it was not made
                ip(kind, "delete", name)


@pytest.fixture
def hosts(tmp_path, request):
    if not request.config.getoption("--long"):
        pytest.skip("runs with make cluster")
    try:
        made = Network(tmp_path, 3)
    except FileNotFoundError:
        pytest.skip("network namespaces need iproute2")
    except subprocess.CalledProcessError as error:
        if "not permitted" not in error.stderr:
            raise
        pytest.skip(f"network namespaces need root: {error.stderr}")
    yield made
    made.close()


@pytest.fixture
def client(hosts, tmp_path, monkeypatch):
    """Of the server on the first host, with a cluster of all three."""
    monkeypatch.setenv("MSD_TEST_JOURNAL", str(tmp_path))
    head, data = hosts.addresses[0], tmp_path / "data"
    hosts.start_ray(0, "--head", f"--port={PORT}", "--include-dashboard=false")
    for host in (1, 2):
        hosts.start_ray(host, f"--address={head}:{PORT}")
    serve = [sys.executable, "-m", "tests.jobs.ray_serve", "serve", "--host", head, "--port", 0, "--data", data]
    hosts.run(0, *serve, "--executor", "ray", "--ray-address", f"{head}:{PORT}", "--cpus-per-job", 1)
    address = data / "server.json"
    until(address.is_file)
    known = json.loads(address.read_text())
    return Client(known["url"], known["token"])


@pytest.mark.parametrize("cut", [2, 0], ids=["machine", "server"])
def test_a_host_that_is_cut_off_for_a_minute_loses_no_job_and_runs_none_twice(hosts, client, tmp_path, cut):
    """Its job goes on elsewhere meanwhile; when it is back, it gets jobs again. Where it is the server's host, all
    jobs but its own wait, and the client's requests fail until it is back."""

    def submit():
        """A job that seldom waits for checkpoints: it goes on after the cut, until its actor's lease is over."""
        return client.submit(JobRequest("every 400", iterations=1200)).id

    jobs = [submit() for _ in range(9)]
    until(lambda: sum(client.job(job).state == RUNNING for job in jobs) == 3, 120)
    on = {client.job(job).machine: job for job in jobs if client.job(job).state == RUNNING}
    until(lambda: all(started(tmp_path, job, 420) for job in on.values()))
    hosts.connect(cut, False)
    begun = time.monotonic()
    time.sleep(SILENCE)
    hosts.connect(cut, True)
    until(lambda: client.job(jobs[0]), 120)
    waited = time.monotonic()

    def is_back():
        """Whether the machine runs a job; there is always one that waits."""
        known = [client.job(job) for job in jobs]
        if not any(job.state == QUEUED for job in known):
            jobs.append(submit())
        return any(job.machine == "host-2" for job in known)

    until(is_back, 180)
    print(f"host-2 has a job again {time.monotonic() - waited:.0f} s after the link is back")
    for job in jobs:
        until(lambda job=job: client.job(job).ended, 300)
        assert client.job(job).state == FINISHED
        client.download(job, "mesh.glb", tmp_path / "mesh.glb")
        assert (tmp_path / "mesh.glb").read_text() == "every 400 1200"
        assert in_turn(journal(tmp_path, job))
    gone = [on[name] for name in on if (name == f"host-{cut}") == (cut != 0)]
    for job in gone:  # lost its machine, and went on from its checkpoint with a greater number
        lines = journal(tmp_path, job)
        last, first = (pick(each for each in lines if each[2] == attempt) for pick, attempt in ((max, 1), (min, 2)))
        print(
            f"{job}: the first run ended {last[0] - begun:.1f} s after the cut, the next began {first[0] - begun:.1f} s"
        )
        assert begun + 1 < last[0] < first[0] and first[3] == "step-401"
        (warning,) = [each.message for each in client.events(job) if isinstance(each, Log) and each.level == "warning"]
        assert "machine was lost" in warning
    others = [job for job in jobs if job not in gone]
    assert all(attempt == 1 for job in others for _, _, attempt, _ in journal(tmp_path, job))
