# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension's exceptions. The text of each is one sentence for the user.

ValueError
    protocol.ProtocolError      a message or an array that the protocol does not allow
    InvalidInputError           a file or an option that cannot be used
        InvalidMeshError        a mesh that cannot be sent
RuntimeError
    ClientError                 the server cannot be reached, or it refused a request
    ObjectDeletedError          a running job's object is not in the file any more
    OutputError                 a result file could not be written
    GenerationError             a job of `api` ended without a finished object
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import bpy


class InvalidInputError(ValueError):
    """A file or an option cannot be used; the sentence says why."""


class InvalidMeshError(InvalidInputError):
    """A mesh cannot be sent to the server; the sentence says how to repair it."""


class ClientError(RuntimeError):
    """The server could not be reached, or it refused a request."""


class ObjectDeletedError(RuntimeError):
    """The object was deleted while its job still ran."""


class OutputError(RuntimeError):
    """A result file could not be written."""


class GenerationError(RuntimeError):
    """A job ended without a finished object. `object` shows the last state that arrived, None where none did."""

    object: bpy.types.Object | None = None
