"""The store's judge: a slow, obvious model of it in one dict, with a clock that the test sets."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

from storage.interface import (
    NO_EXPIRY,
    Condition,
    DatabaseSize,
    Entry,
    HotBlock,
    KeptAs,
    Payload,
    PrefixInfo,
    Status,
    ValueType,
    WriteResult,
)


@dataclass(slots=True)
class Record:
    """What the model knows of one key."""

    value: bytes
    expire_at_ms: int
    token: int  # another number after every change
    place: int  # order in which keys appeared; scan walks along it
    parent: bytes | None = None
    hits: int = 0
    last_use_ms: int = 0
    kept_as: KeptAs = KeptAs.VALUE


def payload_bytes(value: Payload) -> bytes:
    """Return a value's bytes, whatever carries them."""
    return bytes(value) if isinstance(value, bytes | bytearray) else value.tobytes()


@dataclass
class ModelStore:
    """Implements ``storage.interface.StoreInterface`` without eviction.

    ``now_ms`` is the clock. ``limit_bytes`` bounds the sum of key and value lengths (a write beyond it is FULL, and
    what was there stays), ``limit_keys`` the number of keys (INDEX_FULL); None means no bound.
    """

    now_ms: int = 1_000_000
    limit_bytes: int | None = None
    limit_keys: int | None = None
    records: dict[tuple[int, bytes], Record] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("hits", "misses", "expired", "evicted"), 0))
    leases: dict[tuple[int, bytes], int] = field(default_factory=dict)
    changes: int = 0
    places: int = 0
    removals: list[tuple[bool, int, bytes]] | None = None

    def live(self, database: int, key: bytes) -> Record | None:
        """Return the key's record unless it has expired; an expired one goes."""
        record = self.records.get((database, key))
        if record is not None and record.expire_at_ms != NO_EXPIRY and record.expire_at_ms <= self.now_ms:
            del self.records[database, key]
            self.counts["expired"] += 1
            if self.removals is not None:
                self.removals.append((False, database, key))
            return None
        return record

    def live_keys(self, database: int) -> list[bytes]:
        """Return the database's keys in the order of their places."""
        keys = [key for number, key in list(self.records) if number == database and self.live(database, key) is not None]
        return sorted(keys, key=lambda key: self.records[database, key].place)

    def used_bytes(self) -> int:
        """Return the sum of key and value lengths."""
        return sum(len(key) + len(record.value) for (_, key), record in self.records.items())

    def _entry(self, record: Record, *, payload: bool, touch: bool) -> Entry:
        idle_s = (self.now_ms - record.last_use_ms) // 1000
        if touch:
            record.hits += 1
            record.last_use_ms = self.now_ms
        return Entry(
            payload=record.value if payload else b"",
            size_bytes=len(record.value),
            expire_at_ms=record.expire_at_ms,
            type=ValueType.STRING,
            token=record.token,
            idle_s=idle_s,
            hits=record.hits,
            kept_as=record.kept_as,
        )

    def _store(self, database: int, key: bytes, value: bytes, expire_at_ms: int, kept_as: KeptAs = KeptAs.VALUE) -> Status:
        record = self.records.get((database, key))
        old_bytes = 0 if record is None else len(key) + len(record.value)
        if self.limit_bytes is not None and self.used_bytes() - old_bytes + len(key) + len(value) > self.limit_bytes:
            return Status.FULL
        if record is None and self.limit_keys is not None and len(self.records) >= self.limit_keys:
            return Status.INDEX_FULL
        self.changes += 1
        if record is None:
            self.places += 1
            self.records[database, key] = Record(
                value, expire_at_ms, self.changes, self.places, last_use_ms=self.now_ms, kept_as=kept_as
            )
        else:
            record.value, record.expire_at_ms, record.token, record.kept_as = value, expire_at_ms, self.changes, kept_as
        return Status.OK

    async def read(self, database: int, key: bytes, *, payload: bool = True, touch: bool = True) -> Entry | None:
        """Return the live entry under ``key`` or None."""
        record = self.live(database, key)
        if touch:
            self.counts["misses" if record is None else "hits"] += 1
        return None if record is None else self._entry(record, payload=payload, touch=touch)

    async def read_many(self, database: int, keys: Sequence[bytes], *, payload: bool = True, touch: bool = True) -> list[Entry | None]:
        """Return the entries of several keys."""
        return [await self.read(database, key, payload=payload, touch=touch) for key in keys]

    async def write(
        self,
        database: int,
        key: bytes,
        value: Payload,
        *,
        condition: Condition = Condition.ALWAYS,
        expire_at_ms: int = NO_EXPIRY,
        keep_ttl: bool = False,
        want_previous: bool = False,
        parent: bytes | None = None,
        kept_as: KeptAs = KeptAs.VALUE,
    ) -> WriteResult:
        """Store ``value`` under ``key``; ``previous`` is there whether or not the condition held."""
        record = self.live(database, key)
        previous = self._entry(record, payload=True, touch=True) if want_previous and record is not None else None
        if condition == Condition.NX and record is not None:
            return WriteResult(Status.PRESENT, previous)
        if condition == Condition.XX and record is None:
            return WriteResult(Status.MISS)
        if keep_ttl and record is not None:
            expire_at_ms = record.expire_at_ms
        return WriteResult(self._store(database, key, payload_bytes(value), expire_at_ms, kept_as), previous)

    async def write_many(self, database: int, pairs: Sequence[tuple[bytes, Payload]]) -> Status:
        """Store all pairs, later ones over earlier ones; stops at the first that is refused."""
        for key, value in pairs:
            status = (await self.write(database, key, value)).status
            if status != Status.OK:
                return status
        return Status.OK

    async def replace(
        self, database: int, key: bytes, token: int, value: Payload | None, *, expire_at_ms: int, kept_as: KeptAs = KeptAs.VALUE
    ) -> Status:
        """Replace the exact entry that ``token`` names."""
        record = self.live(database, key)
        if record is None or record.token != token:
            return Status.CONFLICT
        if value is None:
            return self._store(database, key, record.value, expire_at_ms, record.kept_as)
        return self._store(database, key, payload_bytes(value), expire_at_ms, kept_as)

    async def delete(self, database: int, keys: Sequence[bytes]) -> int:
        """Delete keys; returns how many were there."""
        deleted = 0
        for key in keys:
            if self.live(database, key) is not None:
                del self.records[database, key]
                deleted += 1
        return deleted

    async def delete_exact(self, database: int, key: bytes, token: int) -> Status:
        """Delete the exact entry that ``token`` names."""
        record = self.live(database, key)
        if record is None or record.token != token:
            return Status.CONFLICT
        del self.records[database, key]
        return Status.OK

    async def exists(self, database: int, keys: Sequence[bytes]) -> list[bool]:
        """Presence of each key, in order."""
        return [self.live(database, key) is not None for key in keys]

    async def stamps(self, database: int, keys: Sequence[bytes]) -> list[int | None]:
        """Return each key's token, None while it is absent."""
        found = [self.live(database, key) for key in keys]
        return [None if record is None else record.token for record in found]

    def watch_removals(self, wanted: bool) -> None:
        """Note from now on which keys expire, or stop that."""
        self.removals = [] if wanted else None

    def take_removals(self) -> list[tuple[bool, int, bytes]]:
        """Return what expired since the last call."""
        taken = self.removals or []
        self.removals = None if self.removals is None else []
        return taken

    def take_lost_removals(self) -> int:
        """Return 0: the model loses none."""
        return 0

    async def lease(self, database: int, keys: Sequence[bytes], until_ms: int) -> int:
        """Nothing is ever evicted here: a lease is a promise that is kept anyway."""
        count = 0
        for key in keys:
            record = self.live(database, key)
            if record is None:
                break
            self.leases[database, key] = max(until_ms, self.leases.get((database, key), 0))
            count += 1
        return count

    async def set_use(self, database: int, key: bytes, *, idle_ms: int | None = None, frequency: int | None = None) -> None:
        """Remember when it was used; how often it does not know."""
        record = self.live(database, key)
        if record is not None and idle_ms is not None:
            record.last_use_ms = self.now_ms - idle_ms

    async def unlease(self, database: int, keys: Sequence[bytes]) -> int:
        """End leases; how many there were."""
        return sum(self.live(database, key) is not None and self.leases.pop((database, key), 0) > self.now_ms for key in keys)

    async def scan(self, database: int, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """Return the keys whose places follow the cursor; a key keeps its place as long as it is there."""
        keys = self.live_keys(database)
        start = bisect.bisect_right([self.records[database, key].place for key in keys], cursor)
        chosen = keys[start : start + count]
        at_end = start + count >= len(keys)
        return (0 if at_end else self.records[database, chosen[-1]].place), chosen

    async def random_key(self, database: int) -> bytes | None:
        """Return some live key; the model takes the first."""
        return next(iter(self.live_keys(database)), None)

    def database_size(self, database: int) -> DatabaseSize:
        """Return how many keys there are, and how many of them expire."""
        keys = self.live_keys(database)
        return DatabaseSize(len(keys), sum(self.records[database, key].expire_at_ms != NO_EXPIRY for key in keys))

    async def flush(self, database: int | None) -> None:
        """Empty one database, or all of them."""
        for number, key in list(self.records):
            if database in (None, number):
                del self.records[number, key]

    def survey(self, database: int) -> ModelSurvey:
        """Begin to look for the hottest blocks of a database."""
        return ModelSurvey(self, database)

    async def prefix_info(self, database: int, key: bytes) -> PrefixInfo | None:
        """Return the chain facts of one key."""
        record = self.live(database, key)
        if record is None:
            return None
        depth, seen, parent = 0, {key}, record.parent
        while parent is not None and parent not in seen and (above := self.live(database, parent)) is not None:
            seen.add(parent)
            depth, parent = depth + 1, above.parent
        resident_parent = record.parent if record.parent is not None and self.live(database, record.parent) is not None else None
        children = sum(self.records[database, other].parent == key for other in self.live_keys(database))
        return PrefixInfo(
            parent=resident_parent,
            depth=depth,
            children=children,
            hits=record.hits,
            last_use_ms=record.last_use_ms,
            size_bytes=len(record.value),
            lease_until_ms=0,
            node=0,
        )

    def is_over_limit(self) -> bool:
        """Its limits only bound what is added."""
        return False

    def lost_node_of(self, database: int, keys: Sequence[bytes]) -> str | None:
        """It has no memory nodes to lose."""
        return None

    def reuse_facts(self) -> dict[str, float]:
        """The model learns nothing."""
        return {}

    def counters(self) -> dict[str, int]:
        """Return the monotonic counts."""
        return dict(self.counts)

    def memory(self) -> dict[str, int | float | str]:
        """Return what INFO needs of the pool."""
        return {"used_bytes": self.used_bytes(), "limit_bytes": self.limit_bytes or 0}


@dataclass
class ModelSurvey:
    """Implements ``storage.interface.Survey`` in one step."""

    store: ModelStore
    database: int
    blocks: list[HotBlock] = field(default_factory=list)

    def step(self) -> bool:
        """Look at everything."""
        store = self.store
        for key in store.live_keys(self.database):
            record = store.records[self.database, key]
            if record.hits:
                parent = hash(record.parent) if record.parent is not None else 0
                size = len(record.value)
                self.blocks.append(HotBlock(key, hash(key), parent, 0, record.hits, float(record.hits), record.last_use_ms, size))
        return False

    def result(self) -> list[HotBlock]:
        """Return what was found."""
        return self.blocks
