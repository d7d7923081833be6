"""Saver: a process of its own that opens a running service's pool and writes its snapshot; started by ``kvcd.persistence``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from typing import NoReturn

import orjson

from kvcd.snapshot_writer import Written, write_snapshot
from storage.opening import OpenedPool, open_pool
from storage.pool import PoolError
from storage.store import Store

NICENESS = 5  # about a quarter of a busy core: clients come first, and the save still ends
REPORT_INTERVAL_S = 0.5
PAUSE_BUDGET_MS = 0.2  # of background work between two steps: what a front end owes the others of its pool
EXIT_FAILURE = 1


@dataclass(frozen=True, slots=True)
class Task:
    """What to save where. ``memory_fd`` is inherited: the memory of a ``shm:`` pool, -1 for a file."""

    url: str
    memory_fd: int
    databases: int
    path: str
    checksum: bool

    def encode(self) -> str:
        """Return it as the command line has it."""
        return orjson.dumps(asdict(self)).decode()


def main(arguments: list[str]) -> int:
    """Do the task; reports go to standard output, a JSON object a line: ``progress``, and at the end ``saved`` or ``failed``."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is for the service, which says what becomes of its saver
    os.nice(NICENESS)
    task = Task(**orjson.loads(arguments[0]))
    try:
        pool = _open(task)
        try:
            written = _save(pool, task)
        finally:
            pool.close()
    except (PoolError, OSError) as error:
        with contextlib.suppress(BrokenPipeError):  # the service has died, and nobody wants to know
            _report("failed", reason=(error.strerror if isinstance(error, OSError) else None) or str(error))
        return EXIT_FAILURE
    _report("saved", **asdict(written))
    return 0


def _open(task: Task) -> OpenedPool:
    pool = open_pool(
        task.url,
        pool_size_bytes=0,
        index_entries=None,
        log=lambda *_event, **_facts: None,
        pool_size_is_default=True,
        memory_fd=None if task.memory_fd < 0 else task.memory_fd,
    )
    if pool.alone:
        pool.close()
        raise PoolError("the service that asked for a snapshot is gone")
    pool.ready()
    return pool


def _save(pool: OpenedPool, task: Task) -> Written:
    store = Store(pool.pool, policy="noeviction", databases=task.databases)
    store.share(pool.locks, alone=False)
    reported_s = 0.0

    def progress(keys: int, keys_total: int, size_bytes: int) -> None:
        nonlocal reported_s
        if time.monotonic() - reported_s >= REPORT_INTERVAL_S:
            reported_s = time.monotonic()
            # Nobody reads any more when the service has died: the broken pipe ends the save.
            _report("progress", keys=keys, keys_total=keys_total, size_bytes=size_bytes)

    return write_snapshot(
        store, task.path, checksum=task.checksum, progress=progress, pause=lambda: store.maintain(PAUSE_BUDGET_MS)
    )


def _report(event: str, **facts: object) -> None:
    os.write(1, orjson.dumps({"event": event, **facts}) + b"\n")


def _stop(number: int, frame: object) -> NoReturn:
    """SIGTERM: what was written so far is removed on the way out."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
