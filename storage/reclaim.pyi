"""Hazards and retirement: when memory may be used again; for compiled callers (see reclaim.pxd)."""

from storage.pages import PageAllocator
from storage.pool import Pool

class Reclaimer:
    pin_count: int
    def __init__(self, pool: Pool, allocator: PageAllocator) -> None: ...
