# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m server serve | generate | texture | refine | doctor``."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from msd_blender import __version__
from msd_blender.protocol import MODES, PROTOCOL_VERSION, JobRequest, Log, Progress, Snapshot, picture_id, read_picture

from . import cores, logs
from .cli import parser
from .jobs import EXECUTORS
from .paths import PathError, Results, is_full, opened, writable
from .system import speak_utf8, wait_for_end, write_private

OK, FAILURE, INTERRUPTED = 0, 1, 130


class UsageError(Exception):
    """A command cannot be done. The message is one sentence that says what to do."""


def bind(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UsageError(f"A port is a number from 0 to 65535, not {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    if sys.platform == "win32":  # where SO_REUSEADDR lets two programs have one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"The server cannot listen on {host}:{port} ({error.strerror}): "
            "choose another --port, or 0 for any free one, or another --host."
        ) from None
    return listener


def serve(
    host: str,
    port: int,
    data: Path,
    parent: int | None,
    models: list[Path] | None,
    executor: str,
    ray_address: str,
    cpus_per_job: int,
    jobs_per_client: int,
) -> int:
    """Answer until a signal says stop."""
    import uvicorn
    from filelock import FileLock, Timeout

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await asyncio.to_thread(queue.stop)  # uvicorn waits for the open streams: end them first
            await super().shutdown(sockets)

    from .api.app import create_app
    from .api.auth import is_loopback
    from .api.header_timeout import HeaderTimeoutProtocol
    from .jobs.executor import ExecutorOptions
    from .jobs.queue import Queue
    from .jobs.store import Store
    from .priors.additions.lora_files import ROOTS

    executors = EXECUTORS[executor](ExecutorOptions(ray_address, cpus_per_job))
    writable(data)
    lock = FileLock(data / "server.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(f"Another server uses the data folder {data}: stop it, or choose another --data.") from None
    listener = bind(host, port)
    port = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    token = secrets.token_urlsafe(32)

    queue = Queue(Store(data), executors, per_client=jobs_per_client)
    if models is None and not is_loopback(host):
        models = []
    if models:
        os.environ[ROOTS] = os.pathsep.join(map(str, models))  # for the workers, which look for LoRAs by name
    app = create_app(queue, host, "" if is_loopback(host) else token, __version__, models)
    server = Server(uvicorn.Config(app, http=HeaderTimeoutProtocol, log_level="warning", timeout_graceful_shutdown=1))

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn raises the signal that ended it once more: these handlers let what follows run.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if parent is not None:
        threading.Thread(target=_watch, args=(parent, stop), daemon=True).start()
    address = data / "server.json"
    queue.start()
    gc.freeze()  # spares answers the pauses in which all that was imported is looked through
    try:
        known = {"url": f"http://{shown}:{port}", "token": token, "pid": os.getpid(), "protocol": PROTOCOL_VERSION}
        write_private(address, json.dumps(known))
        print(f"Serving on http://{shown}:{port}, data in {data}", flush=True)
        server.run(sockets=[listener])
    finally:
        address.unlink(missing_ok=True)
        queue.stop()
        queue.store.close()
    return OK


def _watch(parent: int, stop: Callable[[], None]) -> None:
    wait_for_end(parent)
    stop()


def within_memory(run: Callable[[int], None], report: Callable[[Log], None]) -> None:
    """Call `run(reductions)`: with all views at once, and with one reduction more each time that memory runs out.

    Raises UsageError where one view is too much, and where the device fails.
    """
    from .jobs.messages import REDUCED, TOO_LITTLE_MEMORY
    from .optimize import is_device_fault, is_out_of_memory, release

    for reductions in range(len(REDUCED) + 1):
        try:
            return run(reductions)
        except Exception as error:  # what it holds of the device goes with it, before the next try
            if is_device_fault(error):
                raise UsageError(
                    f"The device failed ({str(error).splitlines()[0]}): try again, and if it does so "
                    "again, python -m server doctor says more."
                ) from error
            if not is_out_of_memory(error):
                raise
        release()
        if reductions < len(REDUCED):
            report(Log(REDUCED[reductions], "warning"))
    raise UsageError(TOO_LITTLE_MEMORY)


def make(
    mode: str,
    output: Path,
    format: list[str],
    overwrite: bool,
    input: Path | None = None,
    image_prompt: str = "",
    **options: Any,
) -> int:
    """Run one job in this process, with its progress on stderr. Ctrl-C keeps the last state."""
    from . import pictures
    from .priors import Selection

    shown = read_picture(image_prompt) if image_prompt else None
    known = "" if shown is None else picture_id(shown)  # as an upload's, in job.json
    request = JobRequest(**options, mode=mode, image_prompt=known).validate(uploaded=False)
    picture = None if shown is None else pictures.decode(shown)
    Selection.of(request).check()
    writable(output)
    stopped = threading.Event()
    live = sys.stderr.isatty()

    def stop(number: int, _: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, signal.default_int_handler)  # the second time, at once

    def report(message: Progress | Log | Snapshot) -> None:
        if isinstance(message, Log):
            print(message.message, file=sys.stderr, flush=True)
        elif isinstance(message, Progress):
            last = message.iteration == message.iterations
            if live or last or message.iteration % 50 == 0:
                left = f", {message.eta:.0f} s left" if message.eta is not None else ""
                done = "" if message.share is None else f" {message.share:.0%},"
                print(
                    f"{message.phase}{done} {message.iteration}/{message.iterations}, {message.elapsed:.0f} s{left}",
                    end="    \r" if live else "\n",
                    file=sys.stderr,
                    flush=True,
                )

    def leave(*_: object) -> None:  # nothing to save yet; an exception could be lost inside an import
        os.write(2, b"Interrupted.\n")
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, leave)
    print("Loading …", file=sys.stderr, flush=True)
    from .checkpoint import Checkpoints
    from .geometry import files
    from .geometry.validation import validate
    from .optimize import Settings
    from .optimize import generate as run

    suffixes = [files.normalize_suffix(suffix) for suffix in format]
    with opened() as read:
        mesh = validate(files.load(input, lambda note: report(Log(note, "warning")))) if input else None
    results = Results(output, mode, overwrite, [*read, *([input] if input else [])])
    results.expect(suffixes)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with results.written() as folder, tempfile.TemporaryDirectory(prefix="msd-") as kept:
        checkpoints = Checkpoints(Path(kept))
        within_memory(
            lambda reductions: run(
                request,
                folder,
                report,
                stopped.is_set,
                replace(Settings.of(request, reductions), snapshots=0),  # nobody looks
                checkpoints,
                mesh=mesh,
                picture=picture,
            ),
            report,
        )
        record = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        if input:
            text = json.dumps({**record, "input": str(input)}, indent=2) + "\n"
            (folder / "job.json").write_text(text, encoding="utf-8")
        if suffixes:
            made = files.load(folder / "mesh.glb")
            for suffix in suffixes:
                files.save(made, folder / f"mesh{suffix}", request.flat, lambda note: report(Log(note, "warning")))
    held = {name: value / 2**30 for name, value in record["memory"].items()}
    print(f"Peak memory {held['peak']:.2f} GiB ({held['predicted']:.2f} predicted).", file=sys.stderr)
    print(f"{'Stopped; what was reached is' if stopped.is_set() else 'Done:'} in {output}", file=sys.stderr)
    return INTERRUPTED if stopped.is_set() else OK


def doctor(host: str, port: int, data: Path, models: list[Path] | None) -> int:
    from .doctor import main

    return main(host, port, data, models)


def main(arguments: list[str], program: str = "python -m server") -> int:
    speak_utf8()
    logs.set_up()
    given = vars(parser(program).parse_args(arguments))
    commands: dict[str, Callable[..., int]] = {
        "serve": serve,
        "doctor": doctor,
        **{mode: partial(make, mode) for mode in MODES},
    }
    cores.share(given.pop("cores", None))
    try:
        return commands[given.pop("command")](**given)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except (UsageError, PathError, ValueError, OSError) as error:
        full = isinstance(error, OSError) and is_full(error)
        print(
            "Error: The disk is full: make room, or choose another folder." if full else f"Error: {error}",
            file=sys.stderr,
        )
        return FAILURE


def run() -> int:
    """The command ``msd-server``."""
    return main(sys.argv[1:], "msd-server")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
