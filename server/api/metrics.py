# SPDX-License-Identifier: GPL-3.0-or-later
"""The answer of GET /v1/metrics: counts in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from msd_blender.protocol import STATES

from ..jobs.queue import Queue
from ..system import peak_memory


class Collector:
    """Reads the counts from a queue at each request."""

    def __init__(self, queue: Queue):
        self.queue = queue

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("msd_jobs", "Jobs on the disk by state", labels=["state"])
        for state in STATES:
            jobs.add_metric([state], self.queue.store.count(state))
        yield jobs
        yield CounterMetricFamily(
            "msd_events", "Events that jobs have sent since the server started", self.queue.streams.events_sent
        )
        yield CounterMetricFamily(
            "msd_snapshots", "Snapshots that jobs have sent since the server started", self.queue.streams.snapshots_sent
        )
        yield CounterMetricFamily("msd_worker_deaths", "Workers that ended without being asked to", self.queue.crashes)
        yield GaugeMetricFamily("msd_readers", "Open streams of events and snapshots", self.queue.streams.readers)
        workers = GaugeMetricFamily("msd_workers", "Workers by state", labels=["state"])
        for state in ("starting", "idle", "busy"):
            workers.add_metric([state], self.queue.executor_states.count(state))
        yield workers
        yield GaugeMetricFamily("msd_server_peak_bytes", "The server process's largest resident size", peak_memory())


def text(queue: Queue) -> bytes:
    registry = CollectorRegistry()
    registry.register(Collector(queue))
    return generate_latest(registry)
