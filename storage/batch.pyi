"""Batch: requests that go to the pool together; compiled callers fill it (see batch.pxd), Python only makes one."""

class Batch:
    def __init__(self, capacity: int = 256, nodes: int = 1) -> None: ...
