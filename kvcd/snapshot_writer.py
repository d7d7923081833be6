"""Snapshot writer: streams every value of a store into an RDB file, which appears under its name complete or not at all."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import kvcd
from protocol.rdb_encoder import RdbEncoder
from storage.database_order import read_order
from storage.export import NEIGHBOURS, ExportedValue, Exporter
from storage.store import Store

STEP_SETS = 128  # index sets read at a time: some hundred values, at most 29 MB of them
WRITE_BYTES = 1 << 20  # gathered before they are written
PIECE_BYTES = 4 << 20  # of a large value, written at a time
PAUSE_LIMIT = 1000  # how often a large value is asked for while every pin is in use

Progress = Callable[[int, int, int], object]  # keys written, keys there are about, bytes written


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished snapshot holds."""

    keys: int
    size_bytes: int
    seconds: float
    damaged: int  # entries that cannot be right, left out


def temporary_path(path: str, process: int) -> str:
    """Return where a process writes before the snapshot is whole, in the same folder."""
    return os.path.join(os.path.dirname(path), f"temp-{process}.rdb")


def write_snapshot(
    store: Store, path: str, *, checksum: bool = True, progress: Progress | None = None, pause: Callable[[], object] | None = None
) -> Written:
    """Write all of ``store`` to ``path``: each value as it was at some instant of this call.

    ``progress`` is told after each step; ``pause`` is called between steps, for what else this front end owes the pool. Raises
    OSError with the old file left as it was.
    """
    temporary = temporary_path(path, os.getpid())
    begun_s = time.monotonic()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        try:
            snapshot = _Snapshot(descriptor, Exporter(store), checksum)
            order = read_order(store.pool, store.databases) or []
            snapshot.numbers = {place: number for number, place in enumerate(order)}
            snapshot.write(progress, pause)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(os.path.dirname(path) or ".")
    return Written(snapshot.keys, snapshot.encoder.taken_bytes, time.monotonic() - begun_s, snapshot.exporter.damaged)


def _sync_folder(folder: str) -> None:
    """The new name is on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Snapshot:
    """One walk through a store, and the file that grows by it."""

    def __init__(self, descriptor: int, exporter: Exporter, checksum: bool) -> None:
        self.exporter = exporter
        self.encoder = RdbEncoder(checksum)
        self.keys = 0
        self.numbers: dict[int, int] = {}  # of the databases that SWAPDB has moved, by place
        self._descriptor = descriptor
        self._database = -1
        self._announced: set[int] = set()

    def write(self, progress: Progress | None, pause: Callable[[], object] | None) -> None:
        """Everything from the magic to the checksum."""
        for name, text in (
            (b"redis-ver", kvcd.REDIS_VERSION),
            (b"redis-bits", "64"),
            (b"kvcd-ver", kvcd.__version__),
            (b"ctime", str(int(time.time()))),
            (b"aof-base", "0"),
        ):
            self.encoder.aux(name, text.encode())
        self._sizes = self.exporter.count()
        total = sum(keys for keys, _ in self._sizes.values())
        for values in steps(self.exporter):
            for value in sorted(values, key=_database_of):
                self._add(value)
            self._flush(WRITE_BYTES)
            if progress is not None:
                progress(self.keys, max(total, self.keys), self.encoder.taken_bytes)
            if pause is not None:
                pause()
        self.encoder.finish()
        self._flush(0)

    def _add(self, value: ExportedValue) -> None:
        if value.value is None:
            current = self._read_again(value)
            if current is None:
                return
            value = current
        if value.database != self._database:
            self._select(value.database)
        parent = self.exporter.key_of(value.database, value.parent_hash) if value.parent_hash else None
        if value.value is not None:
            self.encoder.add(value.key, value.value, expire_at_ms=value.expire_at_ms, parent=parent, depth=value.depth)
            if self.encoder.ready_bytes >= WRITE_BYTES:
                self._flush(0)
        else:
            self._add_pinned(value, parent)
        self.keys += 1

    def _select(self, database: int) -> None:
        self._database = database
        self.encoder.select_database(self.numbers.get(database, database))
        if database not in self._announced:
            self._announced.add(database)
            keys, expires = self._sizes.get(database, (0, 0))
            self.encoder.resize_database(keys=keys, expires=expires)

    def _read_again(self, value: ExportedValue) -> ExportedValue | None:
        """A large value with its pages pinned; every pin may be in use for a moment."""
        for _ in range(PAUSE_LIMIT):
            try:
                return self.exporter.read_again(value)
            except BlockingIOError:
                time.sleep(0.001)  # this is a process of its own: nobody else's turn is spent
        raise BlockingIOError(f"no large value could be pinned in {PAUSE_LIMIT} attempts")

    def _add_pinned(self, value: ExportedValue, parent: bytes | None) -> None:
        pinned = value.pinned
        assert pinned is not None
        try:
            self.encoder.begin_value(value.key, value.size_bytes, expire_at_ms=value.expire_at_ms, parent=parent, depth=value.depth)
            self._flush(0)
            position = 0
            while position < value.size_bytes:
                # Straight from the pages, which nobody changes; the bytes are looked at once more, for the checksum.
                with memoryview(pinned.slice(position, PIECE_BYTES)) as piece:
                    self.encoder.pass_by(piece)
                    self._write(piece)
                    position += len(piece)
        finally:
            pinned.release()

    def _flush(self, least_bytes: int) -> None:
        if self.encoder.ready_bytes > least_bytes or (self.encoder.ready_bytes and least_bytes == 0):
            self._write(memoryview(self.encoder.take()))

    def _write(self, data: memoryview) -> None:
        written = 0
        while written < len(data):
            written += os.write(self._descriptor, data[written:])


def _database_of(value: ExportedValue) -> int:
    return value.database


def steps(exporter: Exporter) -> Iterator[list[ExportedValue]]:
    """Walk through the index and yield what each step found, no key twice.

    A key that is deleted and set again during the walk may lie in another slot then, but never far from the first: it is
    remembered for as long as it may come again, the first sets' until the end, where the index goes round.
    """
    total = exporter.set_count
    beginning: set[tuple[int, bytes]] = set()
    recent: set[tuple[int, bytes]] = set()
    for first in range(0, total, STEP_SETS):
        end = min(first + STEP_SETS, total)
        found = {(value.database, value.key): value for value in exporter.read(first, STEP_SETS)}
        met = found.keys() & recent
        if first and end > total - NEIGHBOURS:
            met |= found.keys() & beginning
        recent = {name for name, value in found.items() if value.set_number >= end - NEIGHBOURS}
        if first == 0:
            beginning = {name for name, value in found.items() if value.set_number < NEIGHBOURS}
        for name in met:
            del found[name]
        yield list(found.values())
