"""Values that say what they are: key, version and length stand in their head, and every other byte follows from those."""

from __future__ import annotations

import random
import struct
import zlib

_HEAD = struct.Struct("<4sIQII")  # magic, CRC-32 of the key, version, length of all, CRC-32 of what stands before
HEAD_BYTES = _HEAD.size
_MAGIC = b"KvV1"
_OFFSETS = 1 << 19
LARGEST_BYTES = 1 << 19
# Any part of it differs from any other, so a page in the wrong place shows; comparing it costs a memcmp.
_NOISE = random.Random(20250101).randbytes(_OFFSETS + LARGEST_BYTES)


def make_value(key: bytes, version: int, length: int) -> bytes:
    """Return the value of ``length`` bytes that this version of the key has."""
    length = max(length, HEAD_BYTES)
    name = zlib.crc32(key)
    head = struct.pack("<4sIQI", _MAGIC, name, version, length)
    begin = _begin(name, version)
    return head + struct.pack("<I", zlib.crc32(head)) + _NOISE[begin : begin + length - HEAD_BYTES]


def version_of(key: bytes, value: bytes) -> int | None:
    """Return the version that these bytes are, all of them compared, or None when they are no value of this key."""
    if len(value) < HEAD_BYTES:
        return None
    magic, name, version, length, check = _HEAD.unpack_from(value)
    if magic != _MAGIC or name != zlib.crc32(key) or length != len(value) or check != zlib.crc32(value[: HEAD_BYTES - 4]):
        return None
    begin = _begin(name, version)
    body = memoryview(_NOISE)[begin : begin + length - HEAD_BYTES]
    return int(version) if value[HEAD_BYTES:] == body else None


def _begin(name: int, version: int) -> int:
    return (name ^ version * 2_654_435_761) % _OFFSETS
