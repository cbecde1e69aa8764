# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs and their events in SQLite, and their files in folders beside it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from msd_blender.protocol import (
    FILES,
    FINAL_STATES,
    FINISHED,
    PAUSED,
    QUEUED,
    RUNNING,
    Edit,
    Job,
    JobRequest,
    ProtocolError,
    Snapshot,
    decode_snapshot,
    encode_snapshot,
    from_dict,
    to_dict,
)

from ..checkpoint import Checkpoints
from .meshes import Meshes

log = logging.getLogger(__name__)

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, client_key TEXT UNIQUE, state TEXT NOT NULL,
                                 request TEXT NOT NULL, created REAL NOT NULL, error TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS events (job TEXT NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL,
                                   PRIMARY KEY (job, number)) WITHOUT ROWID;
"""
# What each version of the tables adds to the one before; PRAGMA user_version counts them.
_CHANGES = [
    """ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
       ALTER TABLE jobs ADD COLUMN halvings INTEGER NOT NULL DEFAULT 0;
       ALTER TABLE jobs ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0;
       ALTER TABLE jobs ADD COLUMN death_step INTEGER NOT NULL DEFAULT -1;""",
    """ALTER TABLE jobs ADD COLUMN edits INTEGER NOT NULL DEFAULT 0;
       ALTER TABLE jobs ADD COLUMN edited TEXT NOT NULL DEFAULT '';""",
]
_COLUMNS = "id, state, request, created, error, edits"
PAGE = 500  # events that are read at once
LAST = "last.snapshot"  # in an ended job's folder: a frame
SPARE = 4 << 20  # bytes kept back, to write down how a job ended on a full disk
ROOM = 48 << 20  # bytes that a job should find free


class StoreError(OSError):
    """The store cannot be opened, in one sentence."""


class Store:
    """All jobs of a data folder. Safe to use from several threads."""

    def __init__(self, data: Path):
        self.data = data
        self._spare = data / "spare"
        self.meshes = Meshes(data / "meshes")
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(data / "jobs.sqlite", check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA cache_size=-256")  # KiB: its 2 MB fill slowly, which looks like a leak
            self._db.executescript(_TABLES)
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            for number, change in enumerate(_CHANGES[version:], version + 1):
                self._db.executescript(f"BEGIN; {change} PRAGMA user_version = {number}; COMMIT;")
        except sqlite3.Error as error:
            raise StoreError(
                f"The jobs in {data / 'jobs.sqlite'} cannot be opened ({error}): move that file away, "
                "or choose another --data."
            ) from None
        self._keep_spare()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _execute(self, query: str, *values: object) -> list[tuple]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _keep_spare(self) -> None:
        if self.has_room() and not self._spare.exists():
            with open(self._spare, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, SPARE)

    def use_spare(self) -> None:
        """Give up the bytes that are kept back: the next job takes them again, where it can."""
        self._spare.unlink(missing_ok=True)

    def has_room(self) -> bool:
        """Whether the disk has the bytes for another job, `ROOM`."""
        return shutil.disk_usage(self.data).free >= ROOM

    def add(self, request: JobRequest) -> tuple[Job, bool]:
        """(the job of this request, whether it is new): a known `client_key` gives the job it made before."""
        job = uuid.uuid4().hex
        # A request without a key is its own job: NULL is unique to SQLite.
        self._execute(
            "INSERT OR IGNORE INTO jobs (id, client_key, state, request, created, priority) VALUES (?, ?, ?, ?, ?, ?)",
            job,
            request.client_key or None,
            QUEUED,
            json.dumps(to_dict(request)),
            time.time(),
            request.priority,
        )
        found = self.get(job)
        if found is not None:
            return found, True
        ((known,),) = self._execute("SELECT id FROM jobs WHERE client_key = ?", request.client_key)
        return self._known(known), False

    def get(self, job: str) -> Job | None:
        rows = self._execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", job)
        return self._job(rows[0]) if rows else None

    def _known(self, job: str) -> Job:
        found = self.get(job)
        assert found is not None
        return found

    def all(self) -> list[Job]:
        """Newest first."""
        return [self._job(row) for row in self._execute(f"SELECT {_COLUMNS} FROM jobs ORDER BY rowid DESC")]

    def _job(self, row: tuple) -> Job:
        job, state, request, created, error, edits = row
        there: list[str] = []
        if state in FINAL_STATES:
            with suppress(OSError):
                there = os.listdir(self.folder(job))
        files = [name for name in FILES if name in there]
        return Job(job, state, from_dict(JobRequest, json.loads(request)), created, error, files, edits)

    def folder(self, job: str) -> Path:
        """Where an ended job's files are."""
        return self.data / "jobs" / job

    def open_folder(self, job: str) -> Path:
        """The folder in which a job works: its checkpoints stay there from one run to the next."""
        folder = self._part(job)
        folder.mkdir(parents=True, exist_ok=True)
        self._keep_spare()
        return folder

    def checkpoints(self, job: str) -> Checkpoints:
        return Checkpoints(self._part(job) / "checkpoints")

    def keep_snapshot(self, job: str, snapshot: Snapshot) -> None:
        """Keep a job's last snapshot, for readers that come after this server has ended; a full disk has none."""
        with suppress(OSError):
            (self._part(job) / LAST).write_bytes(encode_snapshot(snapshot))

    def last_snapshot(self, job: str) -> Snapshot | None:
        """Of an ended job; None where there is none that is whole."""
        try:
            return decode_snapshot((self.folder(job) / LAST).read_bytes()[8:])
        except (OSError, ProtocolError):
            return None

    def keep_folder(self, job: str) -> None:
        """Take the files of a running job as its result: all of them, or none if the server dies before."""
        shutil.rmtree(self._part(job) / "checkpoints", ignore_errors=True)
        self._part(job).replace(self.folder(job))

    def keep_shown(self, job: Job, shown: Snapshot | None) -> None:
        """End a job that wrote no files with what its readers saw last, if there is anything and room for it."""
        from ..geometry import files  # needs SciPy, which the server itself does not
        from ..geometry.mesh import Mesh

        self.discard_folder(job.id)
        if shown is None:
            return
        try:
            files.save_result(Mesh.from_arrays(shown.arrays), self.open_folder(job.id), job.request.flat)
            self.keep_snapshot(job.id, shown)
            self.keep_folder(job.id)
        except Exception:  # the job must end all the same
            log.exception("What job %s showed could not be kept", job.id)
            self.discard_folder(job.id)

    def discard_folder(self, job: str) -> None:
        shutil.rmtree(self._part(job), ignore_errors=True)

    def _part(self, job: str) -> Path:
        return self.folder(job).with_suffix(".part")

    def set_state(self, job: str, state: str, error: str = "") -> Job:
        self._execute("UPDATE jobs SET state = ?, error = ? WHERE id = ?", state, error, job)
        return self._known(job)

    def next_queued(self) -> Job | None:
        """The one of highest priority that has waited longest; the clock may jump, the order of rows does not."""
        rows = self._execute(
            f"SELECT {_COLUMNS} FROM jobs WHERE state = ? ORDER BY priority DESC, rowid LIMIT 1", QUEUED
        )
        return self._job(rows[0]) if rows else None

    def count(self, state: str) -> int:
        ((number,),) = self._execute("SELECT COUNT(*) FROM jobs WHERE state = ?", state)
        return number

    def take_up_running(self) -> list[Job]:
        """Jobs that a server which died left running: queued again, or finished where their files are there."""
        rows = self._execute("SELECT id FROM jobs WHERE state = ? ORDER BY rowid", RUNNING)
        return [self.set_state(job, FINISHED if self.folder(job).exists() else QUEUED) for (job,) in rows]

    def halvings(self, job: str) -> int:
        """How often a job's views at once were halved for lack of memory."""
        ((number,),) = self._execute("SELECT halvings FROM jobs WHERE id = ?", job)
        return number

    def halve(self, job: str) -> int:
        self._execute("UPDATE jobs SET halvings = halvings + 1 WHERE id = ?", job)
        return self.halvings(job)

    def add_death(self, job: str) -> int:
        """Note that a job's worker died; how many have since the last new checkpoint."""
        step = self.checkpoints(job).step
        self._execute(
            "UPDATE jobs SET deaths = CASE WHEN ? > death_step THEN 1 ELSE deaths + 1 END, death_step = ? WHERE id = ?",
            step,
            step,
            job,
        )
        ((number,),) = self._execute("SELECT deaths FROM jobs WHERE id = ?", job)
        return number

    def edit(self, job: str, edit: Edit) -> Job:
        """Take an edit into the job's request; its mesh counts as one more of `Job.edits`."""
        request = self._known(job).request
        for name in ("prompt", "negative_prompt"):
            if (value := getattr(edit, name)) is not None:
                setattr(request, name, value)
        self._execute(
            "UPDATE jobs SET request = ?, edits = edits + ?, edited = CASE WHEN ? THEN ? ELSE edited END WHERE id = ?",
            json.dumps(to_dict(request)),
            int(bool(edit.mesh)),
            bool(edit.mesh),
            edit.mesh,
            job,
        )
        return self._known(job)

    def edited(self, job: str) -> str:
        """The id of the newest mesh that an edit put in the asset's place, "" for none."""
        ((mesh,),) = self._execute("SELECT edited FROM jobs WHERE id = ?", job)
        return mesh

    def meshes_in_use(self) -> set[str]:
        """The ids of uploads that jobs which have not ended still need."""
        rows = self._execute("SELECT request, edited FROM jobs WHERE state IN (?, ?, ?)", QUEUED, RUNNING, PAUSED)
        return {mesh for request, edited in rows for mesh in (json.loads(request).get("mesh", ""), edited)} - {""}

    def add_event(self, job: str, number: int, data: bytes) -> None:
        self._execute("INSERT INTO events VALUES (?, ?, ?)", job, number, data)

    def events(self, job: str, after: int = 0) -> list[tuple[int, bytes]]:
        """The first of those after a number, `PAGE` at most."""
        return self._execute(
            "SELECT number, data FROM events WHERE job = ? AND number > ? ORDER BY number LIMIT ?", job, after, PAGE
        )

    def last_event(self, job: str) -> int:
        ((number,),) = self._execute("SELECT COALESCE(MAX(number), 0) FROM events WHERE job = ?", job)
        return number
