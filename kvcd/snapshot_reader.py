"""Snapshot reader: verifies an RDB file as a whole, and loads it into a store completely or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from protocol.rdb_decoder import RdbDecoder, RdbEntry, RdbError
from storage.intake import Intake
from storage.interface import Status
from storage.staging import StagedValue
from storage.store import MAX_KEY_BYTES, Store

READ_BYTES = 1 << 20

Progress = Callable[[int, int, int], object]  # bytes read, bytes in all, keys so far


class SnapshotError(Exception):
    """A snapshot that is not loaded; the text names the file, what is wrong with it and what to do."""

    def __init__(self, path: str, reason: str, advice: str, offset: int | None = None) -> None:
        where = "" if offset is None else f" at byte {offset}"
        super().__init__(f"snapshot {path}{where}: {reason}. {advice}")
        self.path = path
        self.reason = reason
        self.offset = offset


@dataclass(slots=True)
class Summary:
    """What a whole, undamaged snapshot holds."""

    version: int = 0
    size_bytes: int = 0
    keys: int = 0
    expires: int = 0
    expired: int = 0  # of those, already
    value_bytes: int = 0
    largest_value_bytes: int = 0
    functions: int = 0
    has_checksum: bool = False
    databases: dict[int, int] = field(default_factory=dict)  # keys of each
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a snapshot's keys."""

    keys: int
    expired: int
    seconds: float


class Snapshot:
    """An open file: whoever replaces it under its name meanwhile changes nothing here."""

    def __init__(self, path: str) -> None:
        """Open the file. Raises SnapshotError; FileNotFoundError when there is none."""
        self.path = path
        try:
            self._file: BinaryIO = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
            self.size_bytes = os.fstat(self._file.fileno()).st_size
        except FileNotFoundError:
            raise
        except OSError as error:
            raise SnapshotError(path, f"it cannot be opened: {error.strerror}", "Make it readable, or move it away") from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Snapshot:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # ------------------------------------------------------------------ verify

    def verify(self, *, databases: int, now_ms: int, progress: Progress | None = None) -> Summary:
        """Read all of it once; raises SnapshotError unless every key can be held and the checksum is right."""
        summary = Summary(size_bytes=self.size_bytes)
        decoder = RdbDecoder()
        for items in self._read(decoder, progress):
            for item in items:
                if isinstance(item, RdbEntry):
                    self._check(item, databases, decoder.offset)
                    _count(summary, item, now_ms)
        summary.version = decoder.version
        summary.functions = decoder.functions
        summary.has_checksum = decoder.has_checksum
        summary.facts = {
            name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in decoder.facts.items()
        }
        return summary

    def _read(self, decoder: RdbDecoder, progress: Progress | None) -> Iterator[list[RdbEntry | bytes]]:
        self._file.seek(0)
        read_bytes = 0
        try:
            while data := self._file.read(READ_BYTES):
                yield decoder.feed(data)
                read_bytes += len(data)
                if progress is not None:
                    progress(read_bytes, self.size_bytes, decoder.entries)
            decoder.finish()
        except RdbError as error:
            raise self._error(error.reason, error.offset) from error
        except OSError as error:
            raise self._error(f"it cannot be read: {error.strerror}", decoder.offset) from error

    def _error(self, reason: str, offset: int | None = None) -> SnapshotError:
        return SnapshotError(
            self.path, reason, "Nothing of it was loaded: restore it from a copy, or move it away to start empty", offset
        )

    def _check(self, entry: RdbEntry, databases: int, offset: int) -> None:
        if len(entry.key) > MAX_KEY_BYTES:
            raise self._error(f"a key of {len(entry.key)} bytes before here: the longest that can be held has {MAX_KEY_BYTES}", offset)
        if entry.database >= databases:
            raise SnapshotError(
                self.path,
                f"keys of database {entry.database} before here, and there are {databases}",
                f"Nothing of it was loaded: give databases {entry.database + 1} or more",
                offset,
            )

    # -------------------------------------------------------------------- load

    def load(self, store: Store, *, now_ms: int, progress: Progress | None = None) -> Loaded:
        """Put every key that has not expired into ``store``, which nobody else uses yet.

        The file was verified before. Raises SnapshotError when a key finds no room, or the file has changed since then; the
        store is empty after that.
        """
        begun_s = time.monotonic()
        loading = _Loading(self, store, now_ms)
        try:
            for items in self._read(RdbDecoder(), progress):
                loading.take(items)
            loading.flush()
        except BaseException:
            loading.discard()
            _finish(store.flush(None))
            raise
        return Loaded(loading.keys, loading.expired, time.monotonic() - begun_s)

    def no_room(self, status: Status, loaded: int) -> SnapshotError:
        """Say that the values do not fit."""
        what = "index-entries" if status is Status.INDEX_FULL else "maxmemory or pool-size"
        return SnapshotError(
            self.path,
            f"only {loaded} of its keys fit and the policy evicts nothing for the others",
            f"Nothing of it was loaded: give more {what}, or another maxmemory-policy",
        )


class _Loading:
    """What has been read and not yet been put into the store."""

    def __init__(self, snapshot: Snapshot, store: Store, now_ms: int) -> None:
        self.keys = 0
        self.expired = 0
        self._snapshot = snapshot
        self._intake = Intake(store)
        self._now_ms = now_ms
        self._small: list[RdbEntry] = []
        self._large: RdbEntry | None = None  # whose pieces are coming
        self._staged: StagedValue | None = None  # None although there is a large one: it has expired

    def take(self, items: list[RdbEntry | bytes]) -> None:
        """What one feed of the decoder brought."""
        for item in items:
            if not isinstance(item, RdbEntry):
                self._take_piece(item)
            elif 0 <= item.expire_at_ms <= self._now_ms:
                self.expired += 1
                self._large = item if item.value is None else None
                self._staged = None
            elif item.value is not None:
                self._small.append(item)
            else:
                self._large, self._staged = item, self._intake.stage(item)
        self.flush()

    def flush(self) -> None:
        """Write the small values."""
        self._check(self._intake.add(self._small))
        self.keys += len(self._small)
        self._small.clear()

    def discard(self) -> None:
        """Give back what a value that is not complete holds."""
        if self._staged is not None:
            self._staged.discard()

    def _take_piece(self, piece: bytes) -> None:
        if self._staged is None:
            return
        assert self._large is not None
        if self._staged.receive(piece) < len(piece):
            self._check(Status.FULL)
        if self._staged.is_complete:
            self._check(self._intake.publish(self._large, self._staged))
            self._staged = None
            self.keys += 1

    def _check(self, status: Status) -> None:
        if status is not Status.OK:
            raise self._snapshot.no_room(status, self.keys)


def _count(summary: Summary, entry: RdbEntry, now_ms: int) -> None:
    summary.keys += 1
    summary.value_bytes += entry.size_bytes
    summary.largest_value_bytes = max(summary.largest_value_bytes, entry.size_bytes)
    summary.databases[entry.database] = summary.databases.get(entry.database, 0) + 1
    if entry.expire_at_ms >= 0:
        summary.expires += 1
        summary.expired += entry.expire_at_ms <= now_ms


def _finish(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine of a store on shared memory, which never suspends."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("a store on shared memory suspended")
