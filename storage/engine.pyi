"""Engine: runs batches of requests against the pool; its requests are C structures (see engine.pxd)."""

from storage.pages import PageAllocator
from storage.pool import Pool

class Room:
    """Base of what makes room when the pool is full; compiled policies override it."""

class Engine:
    pool: Pool
    allocator: PageAllocator
    def __init__(self, pool: Pool) -> None: ...
