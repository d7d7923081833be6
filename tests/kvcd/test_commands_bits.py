"""Bits, bit fields and common subsequences: replies by hand, and against a slow, obvious reading of the bits."""

from __future__ import annotations

import random

import pytest

from kvcd.commands.bitfield import Field, Overflow
from kvcd.commands.subsequence import CommonSubsequence
from protocol.replies import OK, Error, Reply
from tests.kvcd.service import Service
from tests.servers import ServerProcess


def plain_bits(value: bytes) -> str:
    """Return the bits as text."""
    return "".join(f"{byte:08b}" for byte in value)


def test_bits_are_set_and_read() -> None:
    """The string grows as far as it has to; an unchanged one is not written again."""
    service = Service()
    assert [service.do("SETBIT", "a", place, 1) for place in (7, 9, 7)] == [0, 0, 1]
    assert service.do("GET", "a") == b"\x01\x40"
    assert [service.do("GETBIT", "a", place) for place in (6, 7, 9, 4_000_000_000)] == [0, 1, 1, 0]
    changes = service.server.store.changes
    assert service.do("SETBIT", "a", 7, 1) == 1
    assert service.server.store.changes == changes


def test_counts_and_places_of_bits_are_those_of_a_slow_look() -> None:
    """Any range of any string, in bytes and in bits."""
    pick = random.Random(1)
    service = Service()
    for _ in range(300):
        value = bytes(pick.choice((0, 255, pick.randrange(256))) for _ in range(pick.randint(1, 12)))
        service.do("SET", "a", value)
        for unit, bits_of_unit in ((b"BIT", 1), (b"BYTE", 8)):
            total = len(value) * 8 // bits_of_unit
            start, end = pick.randrange(total), pick.randrange(total)
            part = plain_bits(value)[start * bits_of_unit : (end + 1) * bits_of_unit] if start <= end else ""
            assert service.do("BITCOUNT", "a", start, end, unit) == part.count("1")
            for bit in "01":
                place = part.find(bit)
                assert service.do("BITPOS", "a", bit, start, end, unit) == (start * bits_of_unit + place if place >= 0 else -1)


def test_zeros_follow_a_string_unless_its_range_has_an_end() -> None:
    """As Redis has it."""
    service = Service()
    service.do("SET", "a", b"\xff\xff")
    assert service.do("BITPOS", "a", 0) == 16
    assert service.do("BITPOS", "a", 0, 0, -1) == -1
    assert service.do("BITPOS", "absent", 0) == 0
    assert service.do("BITPOS", "absent", 1) == -1


def test_operations_fill_up_with_zeros() -> None:
    """And an empty result deletes."""
    service = Service()
    service.do("MSET", "a", b"\xf0\xff", "b", b"\x3c")
    for name, result in (("AND", b"\x30\x00"), ("OR", b"\xfc\xff"), ("XOR", b"\xcc\xff")):
        assert service.do("BITOP", name, "c", "a", "b") == 2
        assert service.do("GET", "c") == result
    assert service.do("BITOP", "NOT", "c", "a") == 2
    assert service.do("GET", "c") == b"\x0f\x00"
    assert service.do("BITOP", "OR", "c", "absent") == 0
    assert service.do("EXISTS", "c") == 0


@pytest.mark.parametrize(
    ("signed", "width_bits", "overflow", "number", "stored"),
    [
        (False, 8, Overflow.WRAP, 256, 0),
        (False, 8, Overflow.SATURATE, 256, 255),
        (False, 8, Overflow.FAIL, 256, None),
        (True, 8, Overflow.WRAP, 128, -128),
        (True, 8, Overflow.SATURATE, -129, -128),
        (True, 64, Overflow.WRAP, 2**63, -(2**63)),
        (True, 1, Overflow.SATURATE, 1, 0),
        (False, 63, Overflow.FAIL, 2**63 - 1, 2**63 - 1),
    ],
)
def test_overflow_of_a_field(signed: bool, width_bits: int, overflow: Overflow, number: int, stored: int | None) -> None:
    """Wrapped, held at the end, or refused."""
    assert Field(0, width_bits, signed).fitted(number, overflow) == stored


def test_fields_at_any_bit_hold_what_was_written() -> None:
    """And leave their neighbours alone."""
    pick = random.Random(2)
    for _ in range(500):
        field = Field(pick.randrange(40), pick.randint(1, 63), pick.random() < 0.5)
        data = bytearray(pick.randbytes(16))
        before = plain_bits(bytes(data))
        number = field.clipped(pick.getrandbits(64))
        field.write(data, number)
        after = plain_bits(bytes(data))
        assert field.read(data) == number
        assert after[: field.offset] == before[: field.offset]
        assert after[field.offset + field.width_bits :] == before[field.offset + field.width_bits :]


def test_a_field_command_answers_each_operation() -> None:
    """One reply for each; a refused one is null, and reading only writes nothing."""
    service = Service()
    assert service.do("BITFIELD", "a", "SET", "u8", "#1", 200, "GET", "u8", 8, "OVERFLOW", "FAIL", "INCRBY", "u8", 8, 100) == [0, 200, None]
    assert service.do("BITFIELD_RO", "a", "GET", "i8", 8) == [-56]
    assert service.do("BITFIELD_RO", "a", "SET", "i8", 8, 1) == Error("ERR BITFIELD_RO only supports the GET subcommand")
    assert service.do("BITFIELD", "absent", "GET", "u8", 0) == [0]
    assert service.do("EXISTS", "absent") == 0


def test_fields_overflow_as_in_redis(redis_server: ServerProcess) -> None:
    """Numbers about the ends of fields of several widths, and of 64-bit words, SET and added, under each rule."""
    edges = [-(1 << 63), -(1 << 63) + 126, -(1 << 63) + 127, -(1 << 63) + 128, (1 << 63) - 1, 0]
    edges += [sign * (1 << bits) + more for bits in (6, 7, 8, 31, 61, 62) for sign in (1, -1) for more in (-1, 0, 1)]
    pick = random.Random(3)
    service = Service()
    with redis_server.connect() as wire:
        for type_name in ("i1", "u1", "i7", "i8", "u8", "i32", "u32", "i62", "i63", "u63", "i64"):
            for rule in ("WRAP", "SAT", "FAIL"):
                for number in edges:
                    words = ["BITFIELD", "a", "OVERFLOW", rule, "SET", type_name, 3, number, "GET", type_name, 3]
                    words += ["INCRBY", type_name, 3, pick.choice(edges), "GET", type_name, 3]
                    service.do("DEL", "a")
                    wire.call("DEL", "a")
                    assert service.do(*words) == wire.call(*words), words


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        ([], b"mytext"),
        (["LEN"], 6),
        (["IDX"], {b"matches": [[[4, 7], [5, 8]], [[2, 3], [0, 1]]], b"len": 6}),
        (["IDX", "MINMATCHLEN", 4, "WITHMATCHLEN"], {b"matches": [[[4, 7], [5, 8], 4]], b"len": 6}),
        (["IDX", "LEN"], Error("ERR If you want both the length and indexes, please just use IDX.")),
    ],
)
def test_a_common_subsequence(words: list[object], reply: Reply) -> None:
    """The example of Redis's manual."""
    service = Service()
    assert service.do("MSET", "a", "ohmytext", "b", "mynewtext") == OK
    assert service.do("LCS", "a", "b", *words) == reply


def test_a_table_that_is_too_large_is_refused() -> None:
    """Before memory is taken for it."""
    service = Service()
    service.do("MSET", "a", b"x" * 20_000, "b", b"y" * 20_000)
    refused = service.do("LCS", "a", "b")
    assert refused == Error("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len")


def test_common_subsequences_are_common_and_longest() -> None:
    """Of short random strings, by trying all."""
    pick = random.Random(3)
    for _ in range(200):
        left, right = (bytes(pick.choice(b"abc") for _ in range(pick.randint(0, 7))) for _ in range(2))
        common = CommonSubsequence(left, right)
        found, ranges = common.walk()
        picks = {bytes(left[place] for place in range(len(left)) if mask >> place & 1) for mask in range(1 << len(left))}
        longest = max(len(part) for part in picks if _is_part(part, right))
        assert len(found) == common.length == longest
        assert _is_part(found, left)
        assert _is_part(found, right)
        assert all(left[a : b + 1] == right[c : d + 1] for a, b, c, d in ranges)


def _is_part(part: bytes, whole: bytes) -> bool:
    rest = iter(whole)
    return all(byte in rest for byte in part)
