"""RDB decoder: finds keys and string values in a snapshot's bytes, however these are split, and checks all of it."""

from typing import final

class RdbError(ValueError):
    """A snapshot that cannot be read: ``offset`` is where (bytes from its beginning), ``reason`` is why."""

    offset: int
    reason: str
    def __init__(self, offset: int, reason: str) -> None: ...

@final
class RdbEntry:
    """A key of a snapshot. ``value`` None: it is large and follows in pieces, ``size_bytes`` in all."""

    database: int
    key: bytes
    value: bytes | None
    size_bytes: int
    expire_at_ms: int
    parent: bytes | None
    depth: int

@final
class RdbDecoder:
    """Takes a snapshot's bytes in order; each ``feed`` returns what became complete by it.

    Nothing that it returned can be trusted before ``finish`` has returned: the checksum comes last.
    """

    offset: int
    version: int
    facts: dict[bytes, bytes]
    entries: int
    functions: int
    has_checksum: bool
    @property
    def is_finished(self) -> bool: ...
    def feed(self, data: bytes | bytearray | memoryview) -> list[RdbEntry | bytes]: ...
    def finish(self) -> None: ...
