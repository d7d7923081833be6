"""DUMP payloads: forms that redis-server writes, ways in which they can be wrong, and that what is written can be read."""

from __future__ import annotations

import pytest

from protocol.crc64 import crc64
from protocol.dump_payload import ChecksumError, FormatError, dump, restore


def signed(body: bytes, version: int = 10) -> bytes:
    """Return a payload with its footer."""
    body += version.to_bytes(2, "little")
    return body + crc64(body).to_bytes(8, "little")


@pytest.mark.parametrize(
    "value",
    [b"", b"a", b"0", b"-1", b"007", b"-0", b"127", b"-128", b"128", b"32768", b"-2147483648", b"2147483648", b"--1", b"-",
     b"x" * 63, b"x" * 64, b"x" * 16383, b"x" * 16384, b"\x00\xff" * 40_000],
    ids=lambda value: repr(value[:12]),
)  # fmt: skip
def test_what_is_written_is_read(value: bytes) -> None:
    """Every form of length and number."""
    assert restore(dump(value)) == value


def test_forms_are_redis_servers() -> None:
    """Bytes that redis-server 7.0.15 gave."""
    assert dump(b"hello") == signed(b"\x00\x05hello")
    assert dump(b"12345") == signed(b"\x00\xc1\x39\x30")
    assert restore(signed(b"\x00\xc3\x09\x40\x64\x01xx\xe0\x57\x00\x01xx", 11)) == b"x" * 100


@pytest.mark.parametrize("payload", [b"", b"123456789", dump(b"a")[:-1], signed(b"\x00\x01a", 12), dump(b"a")[:-1] + b"\0"])
def test_a_wrong_footer_is_told(payload: bytes) -> None:
    """Too short, of a later version, or damaged."""
    with pytest.raises(ChecksumError):
        restore(payload)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x01\x01a",
        b"\x00\x05hi",
        b"\x00\xc4",
        b"\x00\xc0",
        b"\x00\x90",
        b"\x00\xc3\xc0\x01",
        b"\x00\xc3\x02\x40\x64\xe0\xff",
        b"\x00\x81",
    ],
)
def test_a_wrong_body_is_told(body: bytes) -> None:
    """Another type, too short, an unknown encoding, packed data that makes no sense."""
    with pytest.raises(FormatError):
        restore(signed(body))
