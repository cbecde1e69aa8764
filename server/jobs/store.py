# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs and their events in SQLite, and their files in folders beside it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import statistics
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count, groupby
from pathlib import Path
from typing import Any

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
from ..system import replace, reserve
from .messages import Checkpoint, EditedMesh, JobInput
from .uploads import Meshes, Pictures

log = logging.getLogger(__name__)

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, client_key TEXT UNIQUE, state TEXT NOT NULL,
                                 request TEXT NOT NULL, created REAL NOT NULL, error TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS events (job TEXT NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL,
                                   PRIMARY KEY (job, number)) WITHOUT ROWID;
"""
# The changes of each version of the tables to the one before; PRAGMA user_version counts them.
_CHANGES = [
    """ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
       ALTER TABLE jobs ADD COLUMN halvings INTEGER NOT NULL DEFAULT 0;
       ALTER TABLE jobs ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0;
       ALTER TABLE jobs ADD COLUMN death_step INTEGER NOT NULL DEFAULT -1;""",
    """ALTER TABLE jobs ADD COLUMN edits INTEGER NOT NULL DEFAULT 0;
       ALTER TABLE jobs ADD COLUMN edited TEXT NOT NULL DEFAULT '';""",
    """ALTER TABLE jobs ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
       ALTER TABLE jobs ADD COLUMN machine TEXT NOT NULL DEFAULT '';
       ALTER TABLE jobs ADD COLUMN client TEXT NOT NULL DEFAULT '';
       ALTER TABLE jobs ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
       CREATE INDEX jobs_client ON jobs (client, turn);
       CREATE INDEX jobs_state ON jobs (state, client);""",
    """ALTER TABLE jobs ADD COLUMN finishing INTEGER NOT NULL DEFAULT 0;
       ALTER TABLE jobs ADD COLUMN settings TEXT NOT NULL DEFAULT '';
       ALTER TABLE jobs ADD COLUMN seconds REAL;
       CREATE INDEX jobs_settings ON jobs (settings, seconds);""",
]
_COLUMNS = "id, state, request, created, error, edits, machine, finishing"
PAGE = 500  # events in one read
FEW = 16  # waiting jobs in one read: the first one nearly always fits
SIMILAR = 5  # earlier jobs by which a job's time is told
# Options that do not tell how long a job takes, or that only its own mesh or picture could.
_OWN = ("prompt", "negative_prompt", "cameras", "seed", "client_key", "priority", "mesh", "image_prompt")
LAST = "last.snapshot"  # a frame, in the folder of an ended job
SPARE_BYTES = 4 << 20  # reserved, so that the end of a job can be written on a full disk
MIN_FREE_BYTES = 48 << 20  # of the disk, for the server to take a job or an upload


class StoreError(OSError):
    """The store cannot be opened. The message is one sentence that says what to do."""


class Store:
    """All jobs of a data folder, its only owner. Safe to use from several threads.

    A job under way has the folder ``jobs/ID.part`` with its checkpoints, an ended one ``jobs/ID`` with its files.
    """

    def __init__(self, data: Path):
        self.data = data
        self._spare = data / "spare"
        self.meshes, self.pictures = Meshes(data / "meshes"), Pictures(data / "pictures")
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(data / "jobs.sqlite", check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA cache_size=-256")  # KiB: the usual 2 MB fill slowly, which looks like a leak
            self._db.executescript(_TABLES)
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            for number, change in enumerate(_CHANGES[version:], version + 1):
                self._db.executescript(f"BEGIN; {change} PRAGMA user_version = {number}; COMMIT;")
        except sqlite3.Error as error:
            raise StoreError(
                f"The jobs in {data / 'jobs.sqlite'} cannot be opened ({error}): move that file away, "
                "or choose another --data."
            ) from None
        self._reserve_spare()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _execute(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _reserve_spare(self) -> None:
        if self.has_free_space() and not self._spare.exists():
            reserve(self._spare, SPARE_BYTES)

    def release_spare(self) -> None:
        """Free the reserved bytes on a full disk; the next job reserves them again, if it can."""
        self._spare.unlink(missing_ok=True)

    def has_free_space(self) -> bool:
        """Whether the disk has `MIN_FREE_BYTES`."""
        return shutil.disk_usage(self.data).free >= MIN_FREE_BYTES

    def add(self, request: JobRequest, client: str = "") -> tuple[Job, bool]:
        """(the job of this request, whether it is new): a known `client_key` gives the job it made before."""
        job = uuid.uuid4().hex
        # A request without a key is its own job: NULL is unique to SQLite.
        self._execute(
            "INSERT OR IGNORE INTO jobs (id, client_key, state, request, created, priority, client, settings) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            job,
            request.client_key or None,
            QUEUED,
            json.dumps(to_dict(request)),
            time.time(),
            request.priority,
            client,
            _settings(request),
        )
        added = self.get(job)
        if added is not None:
            return added, True
        ((same,),) = self._execute("SELECT id FROM jobs WHERE client_key = ?", request.client_key)
        return self._existing(same), False

    def get(self, job: str) -> Job | None:
        rows = self._execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", job)
        return self._job(rows[0]) if rows else None

    def _existing(self, job: str) -> Job:
        found = self.get(job)
        assert found is not None
        return found

    def all(self) -> list[Job]:
        """Newest first."""
        return [self._job(row) for row in self._execute(f"SELECT {_COLUMNS} FROM jobs ORDER BY rowid DESC")]

    def not_ended(self) -> list[Job]:
        """The jobs that wait, run or are paused, newest first."""
        query = f"SELECT {_COLUMNS} FROM jobs WHERE state IN (?, ?, ?) ORDER BY rowid DESC"
        return [self._job(row) for row in self._execute(query, QUEUED, RUNNING, PAUSED)]

    def _job(self, row: tuple[Any, ...]) -> Job:
        job, state, request, created, error, edits, machine, finishing = row
        present: list[str] = []
        if state in FINAL_STATES:
            with suppress(OSError):
                present = os.listdir(self.folder(job))
        files = [name for name in FILES if name in present]
        at = machine if state == RUNNING else ""
        request = from_dict(JobRequest, json.loads(request))
        return Job(job, state, request, created, error, files, edits, at, bool(finishing))

    def folder(self, job: str) -> Path:
        """The folder of an ended job's files."""
        return self.data / "jobs" / job

    def open_folder(self, job: str) -> None:
        """Make the folder of a job that is to run; checkpoints in it stay. Raises OSError."""
        self._part(job).mkdir(parents=True, exist_ok=True)
        self._reserve_spare()

    def checkpoints(self, job: str) -> Checkpoints:
        return Checkpoints(self._part(job) / "checkpoints")

    def job_input(self, job: Job) -> JobInput:
        """All that an executor needs to run a job from where it is. Raises `UploadNotFound`, OSError."""
        mesh, picture, edited = job.request.mesh, job.request.image_prompt, self.edited(job.id)
        checkpoint = self.checkpoints(job.id).read()
        return JobInput(
            job.id,
            job.request,
            self.meshes.read(mesh) if mesh else None,
            Checkpoint(*checkpoint) if checkpoint else None,
            EditedMesh(job.edits, self.meshes.read(edited)) if edited else None,
            self.reductions(job.id),
            self.pictures.read(picture) if picture else None,
            self.attempts(job.id),
            finish=job.finishing,
        )

    def last_snapshot(self, job: str) -> Snapshot | None:
        """The last snapshot of an ended job; None where there is none that can be read."""
        try:
            return decode_snapshot((self.folder(job) / LAST).read_bytes()[8:])
        except (OSError, ProtocolError):
            return None

    def keep_files(self, job: str, files: dict[str, bytes], snapshot: Snapshot | None) -> None:
        """Write the files that a job leaves, and end the life of its checkpoints.

        Either all files are kept, or, if this raises OSError or the server dies, none. The last snapshot is for
        readers that come after this server has ended, and is left out where the disk has no place for it.
        """
        part = self._part(job)
        try:
            for name, data in files.items():
                if name not in FILES:
                    raise ValueError(f"A job leaves {', '.join(FILES)}, not {name!r}.")
                (part / name).write_bytes(data)
        except OSError:
            for name in files:
                (part / name).unlink(missing_ok=True)
            raise
        self._close_folder(job, snapshot)

    def keep_shown(self, job: Job, shown: Snapshot | None) -> None:
        """Make files of the snapshot that readers saw last, for a job that left none.

        A job that showed nothing, or a disk that has no place for the files, leaves no folder.
        """
        from ..geometry import files  # needs SciPy, which the server itself does not
        from ..geometry.mesh import Mesh

        self.discard_folder(job.id)
        if shown is None:
            return
        try:
            self.open_folder(job.id)
            files.save_result(Mesh.from_arrays(shown.arrays), self._part(job.id), job.request.flat)
            self._close_folder(job.id, shown)
        except Exception:  # the job must end all the same
            log.exception("The last snapshot of job %s could not be made its result", job.id)
            self.discard_folder(job.id)

    def _close_folder(self, job: str, snapshot: Snapshot | None) -> None:
        part = self._part(job)
        if snapshot is not None:
            with suppress(OSError):
                (part / LAST).write_bytes(encode_snapshot(snapshot))
        shutil.rmtree(part / "checkpoints", ignore_errors=True)
        replace(part, self.folder(job))

    def discard_folder(self, job: str) -> None:
        """Delete the checkpoints of a job; the files of an ended one stay."""
        shutil.rmtree(self._part(job), ignore_errors=True)

    def _part(self, job: str) -> Path:
        return self.folder(job).with_suffix(".part")

    def set_state(self, job: str, state: str, error: str = "") -> Job:
        self._execute("UPDATE jobs SET state = ?, error = ? WHERE id = ?", state, error, job)
        return self._existing(job)

    def next_queued(self, per_client: int = 0, fits: Callable[[JobRequest], bool] | None = None) -> Job | None:
        """The job that runs next: one that only finishes first, then the highest priority, then the client whose last
        turn is longest ago, then who has waited longest, by the order of rows: the clock may jump.

        Args:
            per_client: no client that has so many running jobs gets a turn; 0 for any number.
            fits: whether a request can be run.
        """
        query = (
            f"SELECT {_COLUMNS} FROM jobs AS job WHERE state = ? AND (? = 0 OR ? > "
            "(SELECT COUNT(*) FROM jobs AS other WHERE other.state = ? AND other.client = job.client)) "
            "ORDER BY finishing DESC, priority DESC, "
            "(SELECT MAX(turn) FROM jobs AS other WHERE other.client = job.client), rowid LIMIT ? OFFSET ?"
        )
        for start in count(0, FEW):
            rows = self._execute(query, QUEUED, per_client, per_client, RUNNING, FEW, start)
            for job in map(self._job, rows):
                if fits is None or fits(job.request):
                    return job
            if len(rows) < FEW:
                break
        return None

    def waiting(self) -> list[tuple[str, str]]:
        """(job, client) of all queued jobs, in the order in which one executor would run them."""
        rows = self._execute(
            "SELECT id, client, finishing, priority, "
            "(SELECT MAX(turn) FROM jobs AS other WHERE other.client = job.client) "
            "FROM jobs AS job WHERE state = ? ORDER BY finishing DESC, priority DESC, rowid",
            QUEUED,
        )
        turns = {client: turn for _, client, _, _, turn in rows}
        order = []
        for _, rank in groupby(rows, key=lambda row: row[2:4]):
            lines: dict[str, deque[str]] = {}
            for job, client, *_ in rank:
                lines.setdefault(client, deque()).append(job)
            while lines:
                client = min(lines, key=lambda each: turns[each])  # of equal ones, whose job is the oldest
                order.append((lines[client].popleft(), client))
                turns[client] = max(turns.values()) + 1
                if not lines[client]:
                    del lines[client]
        return order

    def running(self, client: str) -> int:
        """The number of a client's jobs that run."""
        return self._number("SELECT COUNT(*) FROM jobs WHERE state = ? AND client = ?", RUNNING, client)

    def count(self, state: str) -> int:
        """The number of jobs in a state."""
        return self._number("SELECT COUNT(*) FROM jobs WHERE state = ?", state)

    def _number(self, query: str, *values: object) -> int:
        ((number,),) = self._execute(query, *values)
        return int(number)

    def take_up_running(self) -> list[Job]:
        """End the running state that a dead server left: finished where a job's files are all there, else queued."""
        rows = self._execute("SELECT id FROM jobs WHERE state = ? ORDER BY rowid", RUNNING)
        return [self.set_state(job, FINISHED if self.folder(job).exists() else QUEUED) for (job,) in rows]

    def begin_attempt(self, job: str, machine: str) -> None:
        """Count a run of a job, on this machine, before it starts."""
        self._execute(
            "UPDATE jobs SET attempts = attempts + 1, machine = ?, "
            "turn = (SELECT MAX(turn) + 1 FROM jobs) WHERE id = ?",
            machine,
            job,
        )

    def attempts(self, job: str) -> int:
        """The number of runs of a job so far."""
        return self._number("SELECT attempts FROM jobs WHERE id = ?", job)

    def reductions(self, job: str) -> int:
        """How often a job's use of memory was reduced for lack of it; the column is called halvings."""
        return self._number("SELECT halvings FROM jobs WHERE id = ?", job)

    def reduce(self, job: str) -> int:
        """Reduce a job's use of memory once more; the new count of reductions."""
        self._execute("UPDATE jobs SET halvings = halvings + 1 WHERE id = ?", job)
        return self.reductions(job)

    def add_crash(self, job: str) -> int:
        """Count a crash of a job's executor; the number of crashes since its last new checkpoint."""
        step = self.checkpoints(job).step
        self._execute(
            "UPDATE jobs SET deaths = CASE WHEN ? > death_step THEN 1 ELSE deaths + 1 END, death_step = ? WHERE id = ?",
            step,
            step,
            job,
        )
        return self._number("SELECT deaths FROM jobs WHERE id = ?", job)

    def edit(self, job: str, edit: Edit) -> Job:
        """Apply an edit to the job's request; an edited mesh adds one to `Job.edits`."""
        request = self._existing(job).request
        if edit.prompt is not None:
            request.prompt = edit.prompt
        if edit.negative_prompt is not None:
            request.negative_prompt = edit.negative_prompt
        self._execute(
            "UPDATE jobs SET request = ?, edits = edits + ?, edited = CASE WHEN ? THEN ? ELSE edited END WHERE id = ?",
            json.dumps(to_dict(request)),
            int(bool(edit.mesh)),
            bool(edit.mesh),
            edit.mesh,
            job,
        )
        return self._existing(job)

    def finish(self, job: str) -> Job:
        """Let a job grow no more; see `JobInput.finish`."""
        self._execute("UPDATE jobs SET finishing = 1 WHERE id = ?", job)
        return self._existing(job)

    def note_seconds(self, job: str, seconds: float) -> None:
        """Keep the seconds of work of a job that went its whole way."""
        self._execute("UPDATE jobs SET seconds = ? WHERE id = ? AND finishing = 0 AND edits = 0", seconds, job)

    def expected_seconds(self, request: JobRequest) -> float | None:
        """The median seconds of the last jobs of the same settings, whatever their prompts; None without one."""
        rows = self._execute(
            "SELECT seconds FROM jobs WHERE settings = ? AND seconds IS NOT NULL ORDER BY rowid DESC LIMIT ?",
            _settings(request),
            SIMILAR,
        )
        return statistics.median(seconds for (seconds,) in rows) if rows else None

    def edited(self, job: str) -> str:
        """The id of the newest edited mesh, "" for none."""
        ((mesh,),) = self._execute("SELECT edited FROM jobs WHERE id = ?", job)
        return str(mesh)

    def uploads_in_use(self) -> set[str]:
        """The ids of the uploads that jobs still need."""
        rows = self._execute("SELECT request, edited FROM jobs WHERE state IN (?, ?, ?)", QUEUED, RUNNING, PAUSED)
        requests = [json.loads(request) for request, _ in rows]
        named = {request.get(name, "") for request in requests for name in ("mesh", "image_prompt")}
        return (named | {edited for _, edited in rows}) - {""}

    def add_event(self, job: str, number: int, data: bytes) -> None:
        self._execute("INSERT INTO events VALUES (?, ?, ?)", job, number, data)

    def events(self, job: str, after: int = 0) -> list[tuple[int, bytes]]:
        """The (number, bytes) of the first events after a number, `PAGE` at most."""
        return self._execute(
            "SELECT number, data FROM events WHERE job = ? AND number > ? ORDER BY number LIMIT ?", job, after, PAGE
        )

    def last_event(self, job: str) -> int:
        """The number of a job's newest event, 0 for none."""
        return self._number("SELECT COALESCE(MAX(number), 0) FROM events WHERE job = ?", job)


def _settings(request: JobRequest) -> str:
    """The part of a request that tells how long its job takes, equal for equal settings."""
    kept = {name: value for name, value in to_dict(request).items() if name not in _OWN}
    return json.dumps({**kept, "image_prompt": bool(request.image_prompt)}, sort_keys=True)
