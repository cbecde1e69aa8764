# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that crosses the wire between Blender and the server, defined once.

Standard library and numpy only: the extension imports this inside Blender, the server outside of it.

HTTP resources, all under ``/v1``:

======  =========================  =====================================================
GET     /health                    `Health`: also the version handshake
GET     /metrics                   counts, in Prometheus's text format
GET     /models                    a list of `Model`: what the server's machine has
POST    /meshes                    a frame of `UPLOADED` arrays -> `Upload`, for `JobRequest.mesh`
POST    /pictures                  a PNG, JPEG or WebP file -> `Picture`, for `JobRequest.image_prompt`
POST    /forecast                  `JobRequest` -> `Forecast`: what is known of a job that is not submitted yet
POST    /jobs                      `JobRequest` -> `Job`; the same `client_key` gives the same job
GET     /jobs, /jobs/{id}          `Job`; ``/jobs?active=true`` those that have not ended
POST    /jobs/{id}/cancel          `Job`; the worker keeps the last state as the job's files
POST    /jobs/{id}/pause, …/resume `Job`; a paused one keeps its place, not the worker
POST    /jobs/{id}/finish          `Job`; it grows no more, and what is there becomes its result
POST    /jobs/{id}/edit            `Edit` -> `Job`; the artist's changes, from which the job goes on
GET     /jobs/{id}/events          server-sent events, each data a `Progress`, `Log` or `Job`
GET     /jobs/{id}/snapshots       chunked stream of length-prefixed `Snapshot` frames
GET     /jobs/{id}/files/{name}    an ended job's file, see `FILES`
======  =========================  =====================================================

An error answer is ``{"detail": "one sentence that says what to do"}`` with a 4xx or 5xx status.
"""

from .arguments import add_options
from .cameras import MAX_CAMERAS, PlacedCamera, join_camera, split_camera
from .errors import ProtocolError
from .frames import (
    ARRAYS,
    BASE_COLOUR,
    MAX_FACES,
    MAX_FRAME,
    MAX_SLOTS,
    MAX_TEXTURE_SIZE,
    MAX_UPLOAD,
    METALLIC,
    ROUGHNESS,
    SLOT_ARRAYS,
    UPLOADED,
    Snapshot,
    array_kind,
    check_array,
    check_mesh,
    decode_snapshot,
    encode_snapshot,
    read_snapshot,
)
from .loras import MAX_LORA_WEIGHT, join_lora, split_lora
from .messages import (
    CANCELLED,
    DEFAULT_HOST,
    DEFAULT_PORT,
    FAILED,
    FILES,
    FINAL_STATES,
    FINISHED,
    PAUSED,
    PROTOCOL_VERSION,
    QUEUED,
    RUNNING,
    STATES,
    WRITING,
    Edit,
    Forecast,
    Health,
    Job,
    Log,
    Message,
    Model,
    Picture,
    Progress,
    Upload,
    decode_event,
    encode_event,
    from_dict,
    to_dict,
)
from .options import MAX_PROMPT, MODES, Option
from .pictures import MAX_PICTURE, MAX_PIXELS, picture_id, read_picture
from .places import data_folder
from .request import (
    AXES,
    BACKGROUNDS,
    CONTROLS,
    DEVICES,
    GUIDANCES,
    MAPS,
    MAX_ITERATIONS,
    MAX_PRIORITY,
    MAX_SEED,
    OPTIONS,
    PATHS,
    RASTERIZERS,
    JobRequest,
)

__all__ = [
    "ARRAYS",
    "AXES",
    "BACKGROUNDS",
    "CANCELLED",
    "CONTROLS",
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "DEVICES",
    "Edit",
    "FAILED",
    "FILES",
    "FINAL_STATES",
    "FINISHED",
    "Forecast",
    "GUIDANCES",
    "Health",
    "Job",
    "JobRequest",
    "Log",
    "MAPS",
    "MAX_CAMERAS",
    "MAX_FACES",
    "MAX_FRAME",
    "MAX_ITERATIONS",
    "MAX_LORA_WEIGHT",
    "MAX_PICTURE",
    "MAX_PIXELS",
    "MAX_PRIORITY",
    "MAX_PROMPT",
    "MAX_SEED",
    "MAX_SLOTS",
    "MAX_TEXTURE_SIZE",
    "MAX_UPLOAD",
    "MODES",
    "Message",
    "Model",
    "OPTIONS",
    "Option",
    "PATHS",
    "PAUSED",
    "PROTOCOL_VERSION",
    "Picture",
    "PlacedCamera",
    "Progress",
    "ProtocolError",
    "QUEUED",
    "RASTERIZERS",
    "RUNNING",
    "SLOT_ARRAYS",
    "STATES",
    "Snapshot",
    "BASE_COLOUR",
    "METALLIC",
    "ROUGHNESS",
    "UPLOADED",
    "Upload",
    "WRITING",
    "add_options",
    "array_kind",
    "check_array",
    "check_mesh",
    "data_folder",
    "decode_event",
    "decode_snapshot",
    "encode_event",
    "encode_snapshot",
    "from_dict",
    "join_camera",
    "join_lora",
    "picture_id",
    "read_picture",
    "read_snapshot",
    "split_camera",
    "split_lora",
    "to_dict",
]
