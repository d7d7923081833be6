"""LZF: unpacks what redis-server packed, piece by piece."""

def unpack(data: bytes | bytearray | memoryview, size: int) -> bytes:
    """Return the ``size`` bytes that ``data`` packs; ValueError with what is wrong with it."""
