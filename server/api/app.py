# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes, as the docstring of `msd_blender.protocol` lists them."""

from __future__ import annotations

import os
from typing import Annotated, Any

from fastapi import Body, FastAPI, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from msd_blender.protocol import Health, Job, JobRequest, ProtocolError, from_dict

from ..jobs.queue import Queue, QueueError
from .auth import Guard

LAST_EVENT = 2**63 - 1                      # what SQLite can count to


def create_app(queue: Queue, host: str = "127.0.0.1", token: str = "", version: str = "") -> FastAPI:
    """The application on a started queue. With a token every request must carry it."""
    app = FastAPI(title="msd_blender server", version=version or "0")
    app.add_middleware(Guard, host=host, token=token)

    @app.exception_handler(ProtocolError)
    async def refuse(request: Request, error: ProtocolError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(QueueError)
    async def conflict(request: Request, error: QueueError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"The request's {first['loc'][-1] if first['loc'] else 'body'} cannot be "
                                       f"read: {first['msg']}."}, 422)

    @app.exception_handler(Exception)       # uvicorn writes the traceback into the log
    async def fault(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "The server met an unforeseen error: its log says more."}, 500)

    def job_of(id: str) -> Job:
        job = queue.store.get(id)
        if job is None:
            raise HTTPException(404, f"There is no job {id!r} on this server.")
        return job

    @app.get("/v1/health")
    def health() -> Health:
        return Health(version=version, pid=os.getpid(), worker=queue.state)

    @app.post("/v1/jobs", status_code=201)
    def submit(request: Annotated[dict[str, Any], Body()]) -> Job:
        return queue.submit(from_dict(JobRequest, request).validate())

    @app.get("/v1/jobs")
    def jobs() -> list[Job]:
        return queue.store.all()

    @app.get("/v1/jobs/{id}")
    def job(id: str) -> Job:
        return job_of(id)

    @app.post("/v1/jobs/{id}/cancel")
    def cancel(id: str) -> Job:
        return queue.cancel(job_of(id).id)

    @app.post("/v1/jobs/{id}/pause")
    def pause(id: str) -> Job:
        return queue.pause(job_of(id).id)

    @app.post("/v1/jobs/{id}/resume")
    def resume(id: str) -> Job:
        return queue.resume(job_of(id).id)

    @app.get("/v1/jobs/{id}/events")
    async def events(id: str, last_event_id: Annotated[int, Header(ge=0, le=LAST_EVENT)] = 0) -> StreamingResponse:
        job_of(id)
        return StreamingResponse(queue.events(id, last_event_id), media_type="text/event-stream")

    @app.get("/v1/jobs/{id}/snapshots")
    async def snapshots(id: str) -> StreamingResponse:
        job_of(id)
        return StreamingResponse(queue.snapshots(id), media_type="application/octet-stream")

    @app.get("/v1/jobs/{id}/files/{name}")
    def file(id: str, name: str) -> FileResponse:
        if name not in job_of(id).files:
            raise HTTPException(404, f"Job {id!r} has no file {name!r}.")
        return FileResponse(queue.store.folder(id) / name)

    return app
