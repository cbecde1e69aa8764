# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs: their store, the queue that runs them, and the worker process that does the work."""
