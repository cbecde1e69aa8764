# SPDX-License-Identifier: GPL-3.0-or-later
"""The error of everything that crosses the wire."""


class ProtocolError(ValueError):
    """A message, a frame or an option does not fit the protocol. The text is one sentence that says what to do."""
