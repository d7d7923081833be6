"""RDB encoder and decoder: every split, every truncation, every flipped bit, and what redis-server writes."""

from __future__ import annotations

import contextlib
import itertools
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.crc64 import crc64
from protocol.lzf import unpack
from protocol.rdb_decoder import RdbDecoder, RdbEntry, RdbError
from protocol.rdb_encoder import RdbEncoder

LARGE_BYTES = 65_537  # the smallest value that is handed on in pieces
Found = tuple[int, bytes, bytes, int, bytes | None, int]  # database, key, value, expiry, parent, depth


def sealed(body: bytes, version: int = 10) -> bytes:
    """Return a snapshot with this body between magic and checksum."""
    data = b"REDIS%04d" % version + body + b"\xff"
    return data + struct.pack("<Q", crc64(data))


def decode(data: bytes, *cuts: int) -> list[Found]:
    """Feed the bytes cut at these places; return every key with its value put together."""
    decoder = RdbDecoder()
    items: list[RdbEntry | bytes] = []
    edges = [0, *sorted(cuts), len(data)]
    for begin, end in itertools.pairwise(edges):
        items += decoder.feed(data[begin:end])
    decoder.finish()
    found: list[list[object]] = []
    for item in items:
        if isinstance(item, bytes):
            found[-1][2] = found[-1][2] + item  # type: ignore[operator]
        else:
            found.append([item.database, item.key, b"" if item.value is None else item.value, item.expire_at_ms, item.parent, item.depth])
    return [tuple(entry) for entry in found]  # type: ignore[misc]


def small_snapshot() -> bytes:
    """Return a snapshot with everything that the encoder can write, in some hundred bytes."""
    encoder = RdbEncoder()
    encoder.aux(b"redis-ver", b"7.0.15")
    encoder.select_database(0)
    encoder.resize_database(keys=3, expires=1)
    encoder.add(b"a", b"")
    encoder.add(b"key", b"value" * 20, expire_at_ms=1_900_000_000_123)
    encoder.add(b"block", b"x", parent=b"its parent", depth=7)
    encoder.select_database(300)
    encoder.add(b"\x00\xff", b"\r\n")
    encoder.finish()
    return encoder.take()


SMALL: list[Found] = [
    (0, b"a", b"", -1, None, 0),
    (0, b"key", b"value" * 20, 1_900_000_000_123, None, 0),
    (0, b"block", b"x", -1, b"its parent", 7),
    (300, b"\x00\xff", b"\r\n", -1, None, 0),
]


def test_checksum_is_redis_own() -> None:
    assert crc64(b"123456789") == 0xE9C6D914C4B8D9CA  # from crc64.c
    data = random.Random(1).randbytes(1000)
    for cut in range(0, 1000, 7):
        assert crc64(data[cut:], crc64(data[:cut])) == crc64(data)


def test_every_split_gives_the_same() -> None:
    data = small_snapshot()
    assert decode(data) == SMALL
    for cut in range(len(data)):
        assert decode(data, cut) == SMALL
    assert decode(data, *range(len(data))) == SMALL


@pytest.mark.parametrize("size", [0, 63, 64, 16383, 16384, 65536, LARGE_BYTES, 300_000])
def test_values_of_every_length_form(size: int) -> None:
    value = random.Random(size).randbytes(size)
    encoder = RdbEncoder()
    encoder.begin_value(b"k", size, expire_at_ms=5)
    data = encoder.take()
    for at in range(0, size, 100_000):
        encoder.pass_by(value[at : at + 100_000])
    encoder.add(b"next", b"1")
    encoder.finish()
    data += value + encoder.take()
    expected: list[Found] = [(0, b"k", value, 5, None, 0), (0, b"next", b"1", -1, None, 0)]
    assert decode(data) == expected
    for cut in random.Random(2).sample(range(len(data)), min(20, len(data))):
        assert decode(data, cut) == expected


def test_a_file_cut_anywhere_is_truncated() -> None:
    data = small_snapshot()
    for length in range(len(data)):
        with pytest.raises(RdbError) as caught:
            decode(data[:length])
        assert caught.value.offset <= length


def test_every_flipped_bit_is_noticed() -> None:
    data = bytearray(small_snapshot())
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RdbError):
            decode(bytes(data))
        data[bit // 8] ^= 1 << bit % 8
    assert decode(bytes(data)) == SMALL


def test_no_checksum_is_none() -> None:
    encoder = RdbEncoder(checksum=False)
    encoder.add(b"k", b"v")
    encoder.finish()
    decoder = RdbDecoder()
    assert [item.value for item in decoder.feed(encoder.take()) if isinstance(item, RdbEntry)] == [b"v"]
    decoder.finish()
    assert not decoder.has_checksum


@given(st.binary(max_size=300), st.integers(1, 11))
def test_any_bytes_end_in_an_error_or_in_keys(body: bytes, version: int) -> None:
    data = sealed(body, version)
    with contextlib.suppress(RdbError):
        decode(data)
        assert len(data) == len(body) + 18


@given(st.data())
def test_damage_behind_a_right_checksum_is_survived(data: st.DataObject) -> None:
    body = bytearray(small_snapshot()[9:-9])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from([0, 1, 0x40, 0x80, 0x81, 0xC0, 0xC3, 0xFE, 0xFF]))
    whole = sealed(bytes(body))
    try:
        expected = decode(whole)
    except RdbError:
        with pytest.raises(RdbError):
            decode(whole, *range(len(whole)))
    else:
        assert decode(whole, *range(len(whole))) == expected


@pytest.mark.parametrize(
    ("stored", "value"),
    [
        (b"\xc0\x85", b"-123"),
        (b"\xc1\x39\x30", b"12345"),
        (b"\xc2\xff\xff\xff\x7f", b"2147483647"),
        (b"\x80\x00\x00\x00\x02hi", b"hi"),
        (b"\x81\x00\x00\x00\x00\x00\x00\x00\x02hi", b"hi"),
        (b"\x40\x02hi", b"hi"),
        (b"\xc3\x05\x0a\x01ab\xc0\x01", b"ab" * 5),
    ],
)
def test_encodings_that_others_write(stored: bytes, value: bytes) -> None:
    for database in (b"\xfe\x00", b"\xfe\x40\x10"):
        found = decode(sealed(database + b"\xfc" + struct.pack("<q", 77) + b"\xf9\x05\xf8\x09\x00\x01k" + stored))
        assert [(entry[2], entry[3]) for entry in found] == [(value, 77)]
    assert decode(sealed(b"\xfd" + struct.pack("<i", 5) + b"\x00\x01k" + stored))[0][3] == 5000
    assert decode(sealed(b"\x00\x01k" + stored, 6))[0][2] == value


def test_versions_without_a_checksum() -> None:
    assert decode(b"REDIS0004\x00\x01k\x01v\xff") == [(0, b"k", b"v", -1, None, 0)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"REDIX0010", "does not begin with REDIS"),
        (b"\x1f\x8b", "does not begin with REDIS"),
        (b"REDIS0012", "version '0012'"),
        (b"REDIS00x0", "version '00x0'"),
        (sealed(b"\x01\x04name\x01\x01x"), r"'name' holds a list \(type 1\)"),
        (sealed(b"\x05\x04name\x00"), "'name' holds a sorted set"),
        (sealed(b"\xf7\x81" + bytes(8) + b"\x00"), "module AAAAAAAAA"),
        (sealed(b"\xf6"), "preview release"),
        (sealed(b"\x17"), "opcode 23 is not known"),
        (sealed(b"\x00\x01k\xc4"), "encoding 4"),
        (sealed(b"\x00\x01k\x82"), "a length begins with the byte 130"),
        (sealed(b"\x00\x01k\x80\x20\x00\x00\x01"), "the largest has 536870912"),
        (sealed(b"\x00\x80\x00\x20\x00\x00"), "the longest has 1048576"),
        (sealed(b"\xfe\xc0\x01"), "a string stands where a number should"),
        (sealed(b"\x00\x01k\xc3\x02\x05\x00a"), "yields less"),
        (sealed(b"\x00\x01k\xc3\x02\x01\x05a"), "yields more|yields less"),
        (sealed(b"\x00\x01k\xc3\x04\x05\x00a\x20\x05"), "before its beginning"),
        (sealed(b"\xfa\x0akvcd-chain\x03x y\x00\x01k\x00"), "is no depth and key"),
        (sealed(b"") + b"x", "bytes follow the end"),
        (sealed(b"")[:-1] + b"\x01", "the checksum is"),
    ],
)
def test_what_cannot_be_read_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(RdbError, match=reason):
        decode(data)
    with pytest.raises(RdbError, match=reason):
        decode(data, *range(len(data)))


def test_functions_are_passed_over_and_counted() -> None:
    decoder = RdbDecoder()
    items = decoder.feed(sealed(b"\xf5\x03abc\xf5\x00\x00\x01k\x01v"))
    decoder.finish()
    assert (len(items), decoder.functions) == (1, 2)


def pack_worst(data: bytes) -> bytes:
    """Return LZF that packs nothing: literal runs alone."""
    return b"".join(bytes([len(data[at : at + 32]) - 1]) + data[at : at + 32] for at in range(0, len(data), 32))


def pack_runs(byte: int, size: int) -> bytes:
    """Return LZF for one byte over and over: references that overlap what they write, the longest there are."""
    out, left = b"\x00" + bytes([byte]), size - 1
    while left >= 9:
        length = min(left, 264)
        out += bytes([0xE0, length - 9, 0])
        left -= length
    return out + (pack_worst(bytes([byte]) * left) if left else b"")


@pytest.mark.parametrize("size", [1, 100, 65_535, 65_536, LARGE_BYTES, 200_000])
def test_packed_values_of_every_size(size: int) -> None:
    noise = random.Random(size).randbytes(size)
    for packed, plain in ((pack_runs(7, size), b"\x07" * size), (pack_worst(noise), noise)):
        assert unpack(packed, size) == plain
        if len(packed) > 131_072 >= 2 * size:
            continue
        stored = b"\xc3\x80" + struct.pack(">I", len(packed)) + b"\x80" + struct.pack(">I", size) + packed
        data = sealed(b"\x00\x01k" + stored + b"\x00\x01n\x01w")
        expected: list[Found] = [(0, b"k", plain, -1, None, 0), (0, b"n", b"w", -1, None, 0)]
        assert decode(data) == expected
        for cut in random.Random(3).sample(range(len(data)), min(12, len(data))):
            assert decode(data, cut) == expected


def test_a_packed_bomb_costs_no_memory() -> None:
    """However much a value unpacks to, it comes in pieces of 64 KiB."""
    size = 5_000_000
    packed = pack_runs(0, size)
    stored = b"\xc3\x80" + struct.pack(">I", len(packed)) + b"\x80" + struct.pack(">I", size) + packed
    decoder = RdbDecoder()
    data = sealed(b"\x00\x01k" + stored)
    longest = total = 0
    for at in range(0, len(data), 100):
        for item in decoder.feed(data[at : at + 100]):
            if isinstance(item, bytes):
                total += len(item)
                longest = max(longest, len(item))
    assert total == size
    assert longest <= 65_536


def test_the_encoder_refuses_a_wrong_order() -> None:
    encoder = RdbEncoder()
    encoder.begin_value(b"k", 3)
    with pytest.raises(ValueError, match="not complete"):
        encoder.finish()
    with pytest.raises(ValueError, match="take what is ready"):
        encoder.pass_by(b"abc")
    encoder.take()
    with pytest.raises(ValueError, match="more bytes"):
        encoder.pass_by(b"abcd")
    with pytest.raises(ValueError, match="not complete"):
        encoder.add(b"other", b"")
    encoder.pass_by(b"abc")
    encoder.finish()
    with pytest.raises(ValueError, match="finished"):
        encoder.add(b"other", b"")
