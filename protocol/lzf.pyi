"""LZF: unpacks what redis-server packed, piece by piece."""

from typing import final

@final
class LzfUnpacker:
    """One value after the other, for compiled callers (see lzf.pxd); Python only builds it."""

def unpack(data: bytes | bytearray | memoryview, size: int) -> bytes:
    """Return the ``size`` bytes that ``data`` packs; ValueError with what is wrong with it."""
