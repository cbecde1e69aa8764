# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m server``, but that jobs on Ray are those of `ray_work`."""

import sys

from server.__main__ import main
from server.jobs import EXECUTORS
from server.jobs.ray_pool import RayPool
from tests.jobs.ray_machines import LEASE

if __name__ == "__main__":
    EXECUTORS["ray"] = lambda given: RayPool(given.ray_address, given.cpus_per_job, "tests.jobs.ray_work", LEASE)
    sys.exit(main(sys.argv[1:]))
