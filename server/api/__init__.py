# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP face of the queue."""
