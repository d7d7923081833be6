"""DUMP payload: one value as redis-server's DUMP writes it and RESTORE reads it, with format version and checksum."""

from __future__ import annotations

import re
import struct

from protocol.crc64 import crc64
from protocol.lzf import unpack

WRITTEN_VERSION = 10  # redis-server 7.0's
NEWEST_VERSION = 11  # redis-server 7.2's; nothing new for strings
_STRING = 0
_FOOTER = struct.Struct("<HQ")  # version, CRC-64 of everything before it
_NUMBER = re.compile(rb"0|-?[1-9][0-9]*")
_LONGEST_NUMBER = 11  # digits and sign of 32 bits
_INTEGERS = (struct.Struct("<b"), struct.Struct("<h"), struct.Struct("<i"))  # by code
_PACKED = 3


class ChecksumError(ValueError):
    """A payload of an unknown version, or one that was damaged."""


class FormatError(ValueError):
    """A payload that holds no string, or not all of one."""


def _length(number: int) -> bytes:
    if number < 1 << 6:
        return bytes((number,))
    if number < 1 << 14:
        return (0x4000 | number).to_bytes(2, "big")
    if number < 1 << 32:
        return b"\x80" + number.to_bytes(4, "big")
    return b"\x81" + number.to_bytes(8, "big")


def _as_number(value: bytes) -> bytes | None:
    """Return the short form of a value that spells an integer of at most 32 bits."""
    if len(value) > _LONGEST_NUMBER or not _NUMBER.fullmatch(value):
        return None
    number = int(value)
    for code, form in enumerate(_INTEGERS):
        limit = 1 << (8 * form.size - 1)
        if -limit <= number < limit:
            return bytes((0xC0 | code,)) + form.pack(number)
    return None


def dump(value: bytes) -> bytes:
    """Return the payload of a string. It is not packed, which every reader takes."""
    text = _as_number(value)
    body = bytes((_STRING,)) + (_length(len(value)) + value if text is None else text) + struct.pack("<H", WRITTEN_VERSION)
    return body + crc64(body).to_bytes(8, "little")


class _Reader:
    """Takes a payload apart from its front."""

    def __init__(self, data: memoryview) -> None:
        """Begin at the first byte."""
        self.data = data
        self.at = 0

    def take(self, count: int) -> memoryview:
        """Return the next bytes. Raises FormatError when there are fewer."""
        if count > len(self.data) - self.at:
            raise FormatError("the payload ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def length(self) -> tuple[int, bool]:
        """Return a length, or an encoding's code and True."""
        first = self.take(1)[0]
        if first >> 6 == 0:
            return first, False
        if first >> 6 == 1:
            return (first & 63) << 8 | self.take(1)[0], False
        if first >> 6 == 3:
            return first & 63, True
        if first not in (0x80, 0x81):
            raise FormatError(f"no length begins with {first}")
        return int.from_bytes(self.take(4 if first == 0x80 else 8), "big"), False

    def plain_length(self) -> int:
        """Return a length; FormatError for an encoding."""
        number, is_code = self.length()
        if is_code:
            raise FormatError("an encoding stands where a length should")
        return number

    def string(self) -> bytes:
        """Return a string in any of its forms."""
        number, is_code = self.length()
        if not is_code:
            return bytes(self.take(number))
        if number < len(_INTEGERS):
            form = _INTEGERS[number]
            return b"%d" % int(form.unpack(self.take(form.size))[0])
        if number != _PACKED:
            raise FormatError(f"unknown encoding {number}")
        packed_bytes, size_bytes = self.plain_length(), self.plain_length()
        try:
            return unpack(self.take(packed_bytes), size_bytes)
        except ValueError as error:
            raise FormatError(str(error)) from None


def restore(payload: bytes) -> bytes:
    """Return the string that a payload holds. Raises ChecksumError or FormatError."""
    if len(payload) < _FOOTER.size:
        raise ChecksumError("the payload has no footer")
    version, checksum = _FOOTER.unpack(payload[-_FOOTER.size :])
    if version > NEWEST_VERSION or crc64(payload[:-8]) != checksum:
        raise ChecksumError("version or checksum is wrong")
    reader = _Reader(memoryview(payload)[: -_FOOTER.size])
    if reader.take(1)[0] != _STRING:
        raise FormatError("only strings can be held here")
    return reader.string()
