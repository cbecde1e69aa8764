# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP interface of the queue: routes, streams, authentication, metrics, and the server's own page."""
