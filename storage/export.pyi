"""Export: reads every value of one pool, with all that belongs to it, while others change it."""

from typing import final

from storage.staging import PinnedValue
from storage.store import Store

NEIGHBOURS: int

@final
class ExportedValue:
    """A key as it was at one instant. ``value`` None: it is large, and ``pinned`` has it, or ``Exporter.read_again`` gets it."""

    database: int
    key: bytes
    value: bytes | None
    pinned: PinnedValue | None
    set_number: int
    size_bytes: int
    expire_at_ms: int
    parent_hash: int
    depth: int

@final
class Exporter:
    """Walks through the index once, as one more front end; changes nothing, heat and counts included.

    A key that moves to another slot meanwhile (deleted and set again) may be met twice, within ``NEIGHBOURS`` sets of the first
    time, or not at all. Nothing is returned of a database once it was flushed. Of a pool on
    memory nodes it would see the first node only.
    """

    damaged: int
    def __init__(self, store: Store) -> None: ...
    @property
    def set_count(self) -> int: ...
    def count(self) -> dict[int, tuple[int, int]]: ...
    def read(self, first: int, count: int) -> list[ExportedValue]: ...
    def read_again(self, found: ExportedValue) -> ExportedValue | None: ...
    def key_of(self, database: int, hash_low: int) -> bytes | None: ...
