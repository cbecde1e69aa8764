# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP routes, which the docstring of `msd_blender.protocol` lists."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, Header, HTTPException, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel

from msd_blender.protocol import (
    FILES,
    PATHS,
    QUEUED,
    Edit,
    Forecast,
    Health,
    Job,
    JobRequest,
    Model,
    Picture,
    ProtocolError,
    Upload,
    from_dict,
)

from ..jobs.queue import Queue, QueueError
from ..jobs.store import MIN_FREE_BYTES
from ..jobs.uploads import Meshes, Pictures, UploadNotFound
from ..priors import PriorError, Selection, check, reading
from ..priors.catalogue import catalogue
from ..priors.prompts import unread_loras
from . import metrics
from .auth import Guard, RateLimit, allowed_model
from .schema import edit_schema, request_schema

LAST_EVENT = 2**63 - 1  # the largest integer of SQLite
MAX_QUEUED = 1000  # jobs that wait
MAX_READERS = 200  # open streams
MAX_UPLOADS = 4  # that are being sent
UPLOAD_SECONDS = 120.0  # for one to arrive
DISK_FULL = (
    f"The disk of the data folder {{}} has less than {MIN_FREE_BYTES >> 20} MB left: make room there, then try again."
)
NOT_ALLOWED = (
    "This server opens models and what is put on them only below the folders that it was started with (--models): name "
    "those, or none for the bundled model."
)
SUBMISSIONS = 600  # a minute and address
PAGE = Path(__file__).parent / "page"
KINDS = {".glb": "model/gltf-binary", ".png": "image/png", ".json": "application/json"}  # of FILES
EVENT = {
    "type": "object",
    "description": "each event; its data is JSON",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "data": {"type": "string"},
        "event": {"enum": ["job", "progress", "log"]},
    },
}


class Refusal(BaseModel):
    """Every error's answer."""

    detail: str


Answers = dict[int | str, dict[str, type[Refusal] | str]]  # by status, as FastAPI documents them
REFUSALS: Answers = {
    status: {"model": Refusal, "description": reason}
    for status, reason in {
        401: "the token is missing or wrong",
        403: "another host or site is named",
        408: "the body did not arrive in time",
        413: "the body is too large",
        422: "a value is out of its range",
        500: "an unforeseen error",
        507: "the disk is full",
    }.items()
}
NO_JOB: Answers = {404: {"model": Refusal, "description": "there is no such job or mesh"}}
CONFLICT: Answers = {**NO_JOB, 409: {"model": Refusal, "description": "the job's state does not allow it"}}
BUSY: Answers = {429: {"model": Refusal, "description": "too much at once"}}
UNFIT: Answers = {409: {"model": Refusal, "description": "the model, or what is put on it, cannot be used"}}
BYTES = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
JobId = Annotated[str, PathParameter(max_length=64)]


def create_app(
    queue: Queue, host: str = "127.0.0.1", token: str = "", version: str = "", models: list[Path] | None = None
) -> FastAPI:
    """The application on a started queue. With a token every request must carry it.

    Args:
        models: folders below which a request's model must lie, and which are listed; None allows any, and lists those
            that programs on this machine keep.
    """
    app = FastAPI(title="msd_blender server", version=version or "0", docs_url=None, redoc_url=None, responses=REFUSALS)
    app.add_middleware(Guard, host=host, token=token)
    submissions = RateLimit(SUBMISSIONS)
    uploads = 0

    @app.exception_handler(ProtocolError)
    async def refuse(request: Request, error: ProtocolError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(PriorError)
    async def unfit(request: Request, error: PriorError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409)

    @app.exception_handler(UploadNotFound)
    async def missing(request: Request, error: UploadNotFound) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 404)

    @app.exception_handler(QueueError)
    async def conflict(request: Request, error: QueueError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409)

    @app.exception_handler(sqlite3.OperationalError)
    async def unwritable(request: Request, error: sqlite3.OperationalError) -> JSONResponse:
        return JSONResponse(
            {"detail": f"The server cannot write its data folder ({error}): make room there, or repair the disk."}, 507
        )

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse(
            {"detail": f"The request's {first['loc'][-1] if first['loc'] else 'body'} cannot be read: {first['msg']}."},
            422,
        )

    @app.exception_handler(Exception)  # uvicorn writes the traceback into the log
    async def fault(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "The server met an unforeseen error: its log says more."}, 500)

    def job_of(id: str) -> Job:
        job = queue.store.get(id)
        if job is None:
            raise HTTPException(404, f"There is no job {id!r} on this server.")
        return job

    def check_models(job_request: JobRequest) -> None:
        """Refuse what this server may not open, and what cannot be put on the model."""
        if not all(allowed_model(getattr(job_request, name), models) for name in PATHS):
            raise HTTPException(403, NOT_ALLOWED)
        if job_request.model:
            check(job_request.model)
        selection = Selection.of(job_request)
        if not all(allowed_model(lora.file, models) for lora in selection.loras):
            raise HTTPException(403, NOT_ALLOWED)
        selection.check()
        if (adapter := selection.adapter_file()) and not allowed_model(str(adapter.encoder), models):
            raise HTTPException(403, NOT_ALLOWED)

    def admit_reader() -> None:
        if queue.streams.readers >= MAX_READERS:
            raise HTTPException(429, f"The server has {MAX_READERS} readers already: try again later.")

    @app.get("/v1/health")
    def health() -> Health:
        """The server's state and the version of its protocol."""
        device = queue.device()
        return Health(
            version=version,
            pid=os.getpid(),
            device=device.device,
            memory=device.memory,
            memory_total=device.memory_total,
            worker=queue.state,
            problem=queue.problem,
        )

    @app.get("/v1/models")
    def available() -> list[Model]:
        """What this machine has: the bundled model, other models, LoRAs, ControlNets and IP-Adapters."""
        return catalogue(models)

    @app.get(
        "/v1/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    def measures() -> Response:
        """Counts in Prometheus's text format."""
        return Response(metrics.text(queue), media_type="text/plain; version=0.0.4")

    async def receive(request: Request, kept: Meshes | Pictures) -> Upload | Picture:
        nonlocal uploads
        if uploads >= MAX_UPLOADS:
            raise HTTPException(429, f"{MAX_UPLOADS} uploads are being sent already: try again later.")
        if not queue.store.has_free_space():
            raise HTTPException(507, DISK_FULL.format(queue.store.data))
        uploads += 1
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                return await kept.receive(request.stream(), queue.store.uploads_in_use())
        except TimeoutError:
            raise HTTPException(408, f"The {kept.noun} did not arrive within {UPLOAD_SECONDS:g} seconds.") from None
        except OSError as error:
            raise HTTPException(
                507, f"The server cannot keep the {kept.noun} ({error.strerror}): make room in {queue.store.data}."
            ) from None
        finally:
            uploads -= 1

    @app.post("/v1/meshes", status_code=201, responses=BUSY, response_model=Upload, openapi_extra=BYTES)
    async def upload(request: Request) -> Upload | Picture:
        """Keep a mesh, sent as one snapshot's frame."""
        return await receive(request, queue.store.meshes)

    @app.post("/v1/pictures", status_code=201, responses=BUSY, response_model=Picture, openapi_extra=BYTES)
    async def upload_picture(request: Request) -> Upload | Picture:
        """Keep a picture, sent as a PNG, JPEG or WebP file."""
        return await receive(request, queue.store.pictures)

    @app.post(
        "/v1/forecast",
        responses=UNFIT,
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": request_schema(False)}}}
        },
    )
    def forecast(body: Annotated[dict[str, object], Body()]) -> Forecast:
        """What is known of a job before it is submitted; a mesh need not be named yet."""
        job_request = from_dict(JobRequest, body).validate(uploaded=False)
        if not allowed_model(job_request.model, models):
            raise HTTPException(403, NOT_ALLOWED)
        seconds = queue.store.expected_seconds(job_request)
        if (known := reading(job_request.model)) is None:
            return Forecast(seconds=seconds)
        read, distilled = known
        prompts, negative_prompt = job_request.prompts(), job_request.negative_prompt
        against_overhead = job_request.mode == "generate" and not distilled
        unknown = [word for prompt in prompts for word in read.unknown(prompt)]
        warnings = [each for prompt in prompts for each in read.cuts(prompt, negative_prompt, against_overhead)]
        warnings += [each for prompt in prompts for each in read.unheeded(prompt, negative_prompt)]
        warnings += unread_loras(prompts)
        return Forecast(list(dict.fromkeys(unknown)), list(dict.fromkeys(warnings)), seconds)

    @app.post(
        "/v1/jobs",
        status_code=201,
        responses={**BUSY, **NO_JOB, **UNFIT},
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": request_schema()}}}
        },
    )
    def submit(request: Request, body: Annotated[dict[str, object], Body()]) -> Job:
        """Queue a job; a known `client_key` gives the job that it made before."""
        job_request = from_dict(JobRequest, body).validate()
        check_models(job_request)
        if not submissions.allows(request.client.host if request.client else ""):
            raise HTTPException(429, f"At most {SUBMISSIONS} jobs a minute can be submitted: try again later.")
        if queue.store.count(QUEUED) >= MAX_QUEUED:
            raise HTTPException(429, f"{MAX_QUEUED} jobs wait already: cancel some, or try again later.")
        if not queue.store.has_free_space():
            raise HTTPException(507, DISK_FULL.format(queue.store.data))
        if job_request.mesh:
            queue.store.meshes.find(job_request.mesh)
        if job_request.image_prompt:
            queue.store.pictures.find(job_request.image_prompt)
        job = queue.submit(job_request, request.client.host if request.client else "")
        return queue.with_places([job])[0]

    @app.get("/v1/jobs")
    def jobs(active: bool = False) -> list[Job]:
        """All jobs, newest first; with active only those that wait, run or are paused."""
        return queue.with_places(queue.store.not_ended() if active else queue.store.all())

    @app.get("/v1/jobs/{id}", responses=NO_JOB)
    def job(id: JobId) -> Job:
        """One job: its state, its place in the queue, its request and its files."""
        return queue.with_places([job_of(id)])[0]

    @app.post("/v1/jobs/{id}/cancel", responses=NO_JOB)
    def cancel(id: JobId) -> Job:
        """Stop a job; a running one leaves its last state as its files."""
        return queue.cancel(job_of(id).id)

    @app.post("/v1/jobs/{id}/pause", responses=CONFLICT)
    def pause(id: JobId) -> Job:
        """Take a job off its worker at a checkpoint."""
        return queue.pause(job_of(id).id)

    @app.post("/v1/jobs/{id}/resume", responses=CONFLICT)
    def resume(id: JobId) -> Job:
        """Go on with a job that is paused, or that failed and has a checkpoint."""
        return queue.resume(job_of(id).id)

    @app.post("/v1/jobs/{id}/finish", responses=CONFLICT)
    def finish(id: JobId) -> Job:
        """Let a job grow no more: generate unwraps and textures what is there, texture and refine end with it."""
        return queue.finish(job_of(id).id)

    @app.post(
        "/v1/jobs/{id}/edit",
        responses=CONFLICT,
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": edit_schema()}}}},
    )
    def edit(id: JobId, body: Annotated[dict[str, object], Body()]) -> Job:
        """Let a job go on from an artist's edit: of its prompts, or of the asset itself."""
        current, change = job_of(id), from_dict(Edit, body).validate()
        if change.prompt is not None:
            check_models(replace(current.request, prompt=change.prompt))
        return queue.edit(current.id, change)

    @app.get(
        "/v1/jobs/{id}/events",
        response_class=StreamingResponse,
        responses={**NO_JOB, **BUSY, 200: {"content": {"text/event-stream": {"schema": EVENT}}}},
    )
    async def events(id: JobId, last_event_id: Annotated[int, Header(ge=0, le=LAST_EVENT)] = 0) -> StreamingResponse:
        """Server-sent events after a number, to the end of the job."""
        job_of(id)
        admit_reader()
        return StreamingResponse(queue.streams.events(id, last_event_id), media_type="text/event-stream")

    @app.get(
        "/v1/jobs/{id}/snapshots",
        response_class=StreamingResponse,
        responses={
            **NO_JOB,
            **BUSY,
            200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        },
    )
    async def snapshots(id: JobId) -> StreamingResponse:
        """Length-prefixed frames of the asset as it grows."""
        job_of(id)
        admit_reader()
        return StreamingResponse(queue.streams.snapshots(id), media_type="application/octet-stream")

    @app.get(
        "/v1/jobs/{id}/files/{name}",
        response_class=FileResponse,
        responses={
            **NO_JOB,
            200: {"content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in KINDS.values()}},
        },
    )
    def file(id: JobId, name: Annotated[str, PathParameter(max_length=64)]) -> FileResponse:
        """A file that an ended job left: mesh.glb, texture.png, turntable.png or job.json."""
        if name not in FILES or name not in job_of(id).files:
            raise HTTPException(404, f"Job {id!r} has no file {name!r}.")
        return FileResponse(queue.store.folder(id) / name, media_type=KINDS[Path(name).suffix])

    def page(name: str, kind: str) -> None:
        @app.get(f"/{name}" if name != "index.html" else "/", include_in_schema=False)
        def part() -> FileResponse:
            return FileResponse(PAGE / name, media_type=kind)

    for name, kind in (("index.html", "text/html"), ("page.js", "text/javascript"), ("page.css", "text/css")):
        page(name, kind)
    return app
