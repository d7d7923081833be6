"""Engine: runs batches of requests against the pool; its requests are C structures (see engine.pxd)."""

from storage.pages import PageAllocator
from storage.pool import Pool
from storage.removals import Removals

class Room:
    """Base of what makes room when the pool is full; compiled policies override it."""

class Engine:
    pool: Pool
    allocator: PageAllocator
    removals: Removals | None
    number: int
    name: str | None
    def __init__(
        self, pool: Pool, number: int = 0, name: str | None = None, location_entries: int = 65536, hot_values_bytes: int = 0
    ) -> None: ...
