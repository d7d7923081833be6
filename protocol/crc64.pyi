"""CRC-64 as RDB files and DUMP payloads use it (Jones)."""

def crc64(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """Return the checksum of ``data``, which follows bytes with checksum ``crc``."""
