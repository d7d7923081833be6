"""The store as command handlers see it: status values, entries, and the asynchronous surface."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

NO_EXPIRY = -1


class Status(enum.IntEnum):
    """Outcome of one store operation; a miss or a full pool is a value, never an exception."""

    OK = 0
    MISS = 1  # no such key (XX, replace and delete of an absent key)
    PRESENT = 2  # NX, and the key is there
    FULL = 3  # no page could be had below maxmemory under the policy
    INDEX_FULL = 4  # every probed set is full and nothing in it may be evicted
    CONFLICT = 5  # the slot no longer holds the exact word that was read
    UNREACHABLE = 6  # the key's memory node does not answer
    BUSY = 7  # every retry was overtaken by other front ends


class Condition(enum.IntEnum):
    """When a write may happen."""

    ALWAYS = 0
    NX = 1  # only if the key is absent
    XX = 2  # only if the key is present


class ValueType(enum.IntEnum):
    """Type field of a value's header; strings now, room for the others."""

    STRING = 0


class KeptAs(enum.IntEnum):
    """How Redis would keep a string's bytes: what OBJECT ENCODING tells. It changes nothing of how they are kept here."""

    VALUE = 0  # as the bytes are: a number as a number
    RAW = 1  # changed in place
    TEXT = 2  # as text, be it a number's


@dataclass(frozen=True, slots=True)
class Entry:
    """One key's state at an instant.

    ``token`` names the slot and the exact word that was read: ``replace`` and ``delete_exact`` succeed only
    while the slot still holds it. ``payload`` is empty when only the head was asked for.
    """

    payload: bytes
    size_bytes: int
    expire_at_ms: int  # Unix time in milliseconds; NO_EXPIRY without one
    type: ValueType
    token: int
    idle_s: int = 0
    hits: int = 0
    frequency: int = 0  # Redis's LFU counter, 0 to 255, as of now
    kept_as: KeptAs = KeptAs.VALUE


@dataclass(frozen=True, slots=True)
class DatabaseSize:
    """How many keys a database holds, and how many of them expire."""

    keys: int
    expires: int


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a write did; ``previous`` is filled when it was asked for and there was one."""

    status: Status
    previous: Entry | None = None


@dataclass(frozen=True, slots=True)
class PrefixInfo:
    """What is known of one block of a chain (PREFIX.INFO)."""

    parent: bytes | None  # the parent's key while it is resident
    depth: int  # blocks before this one in its chain
    children: int  # resident blocks that name this one as their parent
    hits: int
    last_use_ms: int  # Unix time in milliseconds
    size_bytes: int
    lease_until_ms: int  # 0 without a lease
    node: int


@dataclass(frozen=True, slots=True)
class HotBlock:
    """One of the hottest blocks of a database (PREFIX.TOP)."""

    key: bytes
    own_hash: int
    parent_hash: int  # 0 without a parent
    depth: int
    hits: int
    heat: float  # hits, halved for every ten minutes since the last use
    last_use_ms: int  # Unix time in milliseconds
    size_bytes: int


class Survey(Protocol):
    """Looks at all blocks of a database, slice by slice."""

    def step(self) -> bool:
        """Look at the next slice; False when all was looked at."""
        ...

    def result(self) -> list[HotBlock]:
        """Return the hottest blocks found, in no order."""
        ...


class StagedValue(Protocol):
    """A large argument that was received straight into pool pages and not yet published."""

    size_bytes: int

    def tobytes(self) -> bytes:
        """Copy the value out (commands that need the bytes themselves)."""
        ...

    def discard(self) -> None:
        """Give the pages back; harmless after the value was published."""
        ...


class ArrivingValue(Protocol):
    """A value as it comes from elsewhere, with all that belongs to it; ``value`` is None for one that is staged."""

    @property
    def database(self) -> int:
        """The database that it goes to."""
        ...

    @property
    def key(self) -> bytes:
        """Its key."""
        ...

    @property
    def value(self) -> bytes | None:
        """Its bytes."""
        ...

    @property
    def size_bytes(self) -> int:
        """How many these are."""
        ...

    @property
    def expire_at_ms(self) -> int:
        """Unix time in milliseconds; NO_EXPIRY without one."""
        ...

    @property
    def parent(self) -> bytes | None:
        """The block before it in its chain, where that is known."""
        ...

    @property
    def depth(self) -> int:
        """How many blocks are before it in its chain."""
        ...


Payload = bytes | bytearray | memoryview | StagedValue


class StoreInterface(Protocol):
    """Everything a command handler may ask of the store.

    On shared memory none of these coroutines ever suspends; over RDMA they may. Keys are whole
    Redis keys, at most ``MAX_KEY_BYTES``; times are Unix milliseconds.
    """

    async def read(self, database: int, key: bytes, *, payload: bool = True, touch: bool = True) -> Entry | None:
        """Return the live entry under ``key`` or None. ``touch`` refreshes its heat."""
        ...

    async def read_many(
        self, database: int, keys: Sequence[bytes], *, payload: bool = True, touch: bool = True
    ) -> list[Entry | None]:
        """Like ``read`` for many keys in a few rounds of the fabric."""
        ...

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
        """Store ``value`` under ``key``, in a chain behind ``parent`` when there is one."""
        ...

    async def write_many(self, database: int, pairs: Sequence[tuple[bytes, Payload]]) -> Status:
        """Store all pairs (MSET); later pairs win over earlier ones with the same key."""
        ...

    async def replace(
        self, database: int, key: bytes, token: int, value: Payload | None, *, expire_at_ms: int, kept_as: KeptAs = KeptAs.VALUE
    ) -> Status:
        """Replace the exact entry that ``token`` names: its value (None keeps it) and its expiry.

        Returns CONFLICT when the slot holds anything else by now.
        """
        ...

    async def delete(self, database: int, keys: Sequence[bytes]) -> int:
        """Delete keys; returns how many were there."""
        ...

    async def delete_exact(self, database: int, key: bytes, token: int) -> Status:
        """Delete the exact entry that ``token`` names (GETDEL, RENAME); OK or CONFLICT."""
        ...

    async def exists(self, database: int, keys: Sequence[bytes]) -> list[bool]:
        """Presence of each key, in order."""
        ...

    async def stamps(self, database: int, keys: Sequence[bytes]) -> list[int | None]:
        """What each key is at this moment, None while it is absent: equal stamps mean that nobody changed it in between."""
        ...

    def watch_removals(self, wanted: bool) -> None:
        """Note from now on which keys expire or are evicted, or stop that."""
        ...

    def take_removals(self) -> list[tuple[bool, int, bytes]]:
        """What was noted since the last call: whether it was evicted (else it expired), its database, its key."""
        ...

    def take_lost_removals(self) -> int:
        """How many keys found no room among those since the last call."""
        ...

    async def lease(self, database: int, keys: Sequence[bytes], until_ms: int) -> int:
        """Lease the leading keys that are there until a time; how many are safe from eviction till then at least."""
        ...

    async def set_use(self, database: int, key: bytes, *, idle_ms: int | None = None, frequency: int | None = None) -> None:
        """Let a key that is there have been used so long ago, or so often (Redis's LFU counter, 0 to 255)."""
        ...

    async def unlease(self, database: int, keys: Sequence[bytes]) -> int:
        """End the leases of some keys; how many had one."""
        ...

    async def scan(self, database: int, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """Next cursor (0 at the end) and about ``count`` live keys.

        A key that is present from the first call to the last is returned at least once.
        """
        ...

    async def random_key(self, database: int) -> bytes | None:
        """Some live key, or None when the database is empty."""
        ...

    def database_size(self, database: int) -> DatabaseSize:
        """Counts for DBSIZE and INFO keyspace."""
        ...

    async def flush(self, database: int | None) -> None:
        """Empty one database, or all of them."""
        ...

    def survey(self, database: int) -> Survey:
        """Begin to look for the hottest blocks of a database."""
        ...

    async def prefix_info(self, database: int, key: bytes) -> PrefixInfo | None:
        """Chain facts of one key, or None when it is absent."""
        ...

    def is_over_limit(self) -> bool:
        """Whether the limit leaves room for nothing at all, or is far below what is used while nothing may be evicted."""
        ...

    def lost_node_of(self, database: int, keys: Sequence[bytes]) -> str | None:
        """The name of a memory node that does not answer and that one of these keys lives on, or None."""
        ...

    def counters(self) -> dict[str, int]:
        """Monotonic counts (hits, misses, expired, evicted, operations by kind, rounds) for INFO and PREFIX.STATS."""
        ...

    def reuse_facts(self) -> dict[str, float]:
        """What the eviction policy has learned of this front end's accesses; empty where it learns nothing."""

    def memory(self) -> dict[str, int | float | str]:
        """The pool's state for INFO memory: bytes used and limit, pages and cells by class, index load, fragmentation."""
        ...
