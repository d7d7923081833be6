"""Commands on single bits of strings, and on all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvcd.commands.arguments import LARGEST_INTEGER, SYNTAX_ERROR, CommandError, parse_integer, refusal
from kvcd.commands.registry import handles
from kvcd.commands.strings import Change, change_string, read_string, require_string
from kvcd.context import ClientState, ServerState
from protocol.replies import Reply
from storage.interface import KeptAs, Status

_NO_OFFSET = "ERR bit offset is not an integer or out of range"
_NO_BIT = "ERR bit is not an integer or out of range"


def parse_offset(server: ServerState, argument: bytes, *, field_bits: int = 0) -> int:
    """Return a bit's place; with ``field_bits`` ``#N`` is the N-th field of that width. Raises CommandError.

    The byte that it names must fit a value (``proto-max-bulk-len``).
    """
    in_fields = field_bits > 0 and argument.startswith(b"#")
    offset = parse_integer(argument[in_fields:], _NO_OFFSET) * (field_bits if in_fields else 1)
    if offset < 0 or offset > LARGEST_INTEGER or offset >> 3 >= server.config.number("proto-max-bulk-len"):
        raise CommandError(_NO_OFFSET)
    return offset


@handles("setbit")
async def handle_setbit(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SETBIT key offset value."""
    offset = parse_offset(server, args[2])
    bit = parse_integer(args[3], _NO_BIT)
    if bit not in (0, 1):
        raise CommandError(_NO_BIT)
    place, mask = offset >> 3, 0x80 >> (offset & 7)

    def changed(value: bytes | None) -> Change:
        data = bytearray(value or b"")
        if len(data) <= place:
            data.extend(bytes(place + 1 - len(data)))
        before = int(data[place] & mask != 0)
        if value is not None and len(value) == len(data) and before == bit:
            return Change(before)
        data[place] = data[place] | mask if bit else data[place] & ~mask
        return Change(before, bytes(data))

    return await change_string(client, server, args[1], changed)


@handles("getbit")
async def handle_getbit(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """GETBIT key offset: what lies behind the end is 0."""
    offset = parse_offset(server, args[2])
    entry = await read_string(client, server, args[1])
    if entry is None or offset >> 3 >= len(entry.payload):
        return 0
    return entry.payload[offset >> 3] >> (7 - (offset & 7)) & 1


@dataclass(frozen=True, slots=True)
class _Span:
    """Bits of a string: the first and the last one that count; empty when the last comes before the first."""

    first: int
    last: int


def _span(size_bytes: int, start: int, end: int, *, in_bits: bool) -> _Span:
    """Return what BITCOUNT's and BITPOS's range means for a string: negative ends count from its end."""
    unit_bits = 1 if in_bits else 8
    total = size_bytes * 8 // unit_bits
    first = max(start + total if start < 0 else start, 0)
    last = min(max(end + total if end < 0 else end, 0), total - 1)
    return _Span(first * unit_bits, last * unit_bits + unit_bits - 1)


def _is_in_bits(argument: bytes) -> bool:
    word = argument.lower()
    if word not in (b"bit", b"byte"):
        raise CommandError(SYNTAX_ERROR)
    return word == b"bit"


def _cut(payload: bytes, span: _Span) -> int:
    """Return the span's bits as a number whose lowest bit is the last of them."""
    number = int.from_bytes(payload[span.first >> 3 : (span.last >> 3) + 1], "big") >> (7 - (span.last & 7))
    return number & ((1 << (span.last - span.first + 1)) - 1)


@handles("bitcount")
async def handle_bitcount(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """BITCOUNT key [start end [BYTE | BIT]]: an absent key has no bits, whatever else was asked."""
    entry = await read_string(client, server, args[1])
    if entry is None:
        return 0
    if len(args) == 2:
        return int.from_bytes(entry.payload, "big").bit_count()
    if len(args) not in (4, 5):
        raise CommandError(SYNTAX_ERROR)
    start, end = parse_integer(args[2]), parse_integer(args[3])
    if start < 0 and end < 0 and start > end:
        return 0
    span = _span(len(entry.payload), start, end, in_bits=len(args) == 5 and _is_in_bits(args[4]))
    return 0 if span.first > span.last else _cut(entry.payload, span).bit_count()


@handles("bitpos")
async def handle_bitpos(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """BITPOS key bit [start [end [BYTE | BIT]]]: -1 without such a bit; zeros follow a string unless its range has an end."""
    bit = parse_integer(args[2])
    if bit not in (0, 1):
        raise CommandError("ERR The bit argument must be 1 or 0.")
    entry = await read_string(client, server, args[1])
    if entry is None:
        return -1 if bit else 0
    if len(args) > 6:
        raise CommandError(SYNTAX_ERROR)
    start = parse_integer(args[3]) if len(args) > 3 else 0
    in_bits = len(args) == 6 and _is_in_bits(args[5])
    end = parse_integer(args[4]) if len(args) > 4 else -1
    size_bytes = len(entry.payload)
    span = _span(size_bytes, start, end, in_bits=in_bits)
    if span.first > span.last:
        return -1
    found = _first_bit(entry.payload, span, bit)
    if found < 0 and not bit and len(args) < 5:
        return size_bytes * 8
    return found


def _first_bit(payload: bytes, span: _Span, bit: int) -> int:
    """Return the place of the first such bit of the span, -1 without one."""
    place = span.first
    # The bits up to a byte's border, the whole bytes, and what is left: whole bytes are passed over by the stripping of one value.
    while place <= span.last and place & 7:
        if payload[place >> 3] >> (7 - (place & 7)) & 1 == bit:
            return place
        place += 1
    whole = payload[place >> 3 : (span.last + 1) >> 3]
    place += 8 * (len(whole) - len(whole.lstrip(b"\0" if bit else b"\xff")))
    while place <= span.last:
        if payload[place >> 3] >> (7 - (place & 7)) & 1 == bit:
            return place
        place += 1
    return -1


_OPERATIONS: dict[bytes, Callable[[int, int], int]] = {
    b"and": lambda one, other: one & other,
    b"or": lambda one, other: one | other,
    b"xor": lambda one, other: one ^ other,
}


@handles("bitop")
async def handle_bitop(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """BITOP AND | OR | XOR | NOT destkey key [key ...]: shorter strings are filled up with zeros."""
    operation = args[1].lower()
    if operation not in _OPERATIONS and operation != b"not":
        raise CommandError(SYNTAX_ERROR)
    if operation == b"not" and len(args) != 4:
        raise CommandError("ERR BITOP NOT must be called with a single source key.")
    entries = await server.store.read_many(client.db, args[3:])
    for entry in entries:
        if entry is not None:
            require_string(entry)
    sources = [b"" if entry is None else entry.payload for entry in entries]
    size_bytes = max(map(len, sources))
    if size_bytes == 0:
        await server.store.delete(client.db, [args[2]])
        return 0
    numbers = [int.from_bytes(source.ljust(size_bytes, b"\0"), "big") for source in sources]
    result = numbers[0]
    if operation == b"not":
        result ^= (1 << (8 * size_bytes)) - 1
    else:
        for number in numbers[1:]:
            result = _OPERATIONS[operation](result, number)
    status = (await server.store.write(client.db, args[2], result.to_bytes(size_bytes, "big"), kept_as=KeptAs.RAW)).status
    return size_bytes if status == Status.OK else refusal(status)
