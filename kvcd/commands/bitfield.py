"""BITFIELD: integers of any width at any bit of a string."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError, parse_integer
from kvcd.commands.bits import parse_offset
from kvcd.commands.registry import handles
from kvcd.commands.strings import Change, change_string, read_string
from kvcd.context import ClientState, ServerState
from protocol.replies import Reply

_NO_TYPE = "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is."
_LARGEST_WORD = (1 << 63) - 1
_ARGUMENTS = {b"get": 2, b"set": 3, b"incrby": 3, b"overflow": 1}


class Overflow(enum.Enum):
    """What becomes of a number that its field cannot hold."""

    WRAP = b"wrap"
    SATURATE = b"sat"
    FAIL = b"fail"


@dataclass(frozen=True, slots=True)
class Field:
    """A place for an integer: its first bit, its width, and whether one of them is a sign."""

    offset: int
    width_bits: int
    signed: bool

    def read(self, data: bytearray | bytes) -> int:
        """Return the field's number; what lies behind the end of ``data`` is 0."""
        first, last = self.offset >> 3, self.offset + self.width_bits - 1 >> 3
        covered = int.from_bytes(bytes(data[first : last + 1]).ljust(last + 1 - first, b"\0"), "big")
        return self.clipped(covered >> (7 - (self.offset + self.width_bits - 1 & 7)))

    def write(self, data: bytearray, number: int) -> None:
        """Put the number there; ``data`` reaches so far."""
        first, last = self.offset >> 3, self.offset + self.width_bits - 1 >> 3
        shift = 7 - (self.offset + self.width_bits - 1 & 7)
        mask = (1 << self.width_bits) - 1
        covered = int.from_bytes(data[first : last + 1], "big") & ~(mask << shift) | (number & mask) << shift
        data[first : last + 1] = covered.to_bytes(last + 1 - first, "big")

    def clipped(self, number: int) -> int:
        """Return the number's lowest bits as this field holds them."""
        number &= (1 << self.width_bits) - 1
        return number - (1 << self.width_bits) if self.signed and number >> (self.width_bits - 1) else number

    @property
    def largest(self) -> int:
        """The largest number that it holds."""
        return (1 << (self.width_bits - self.signed)) - 1

    def is_far_above(self, number: int) -> bool:
        """Whether the number is so far below that the distance is no 64-bit number: Redis takes it for one above the field."""
        return self.signed and self.width_bits < 64 and self.largest - number > _LARGEST_WORD

    def fitted(self, number: int, overflow: Overflow) -> int | None:
        """Return what is stored for the number, None when it fails."""
        largest = self.largest
        smallest = -largest - 1 if self.signed else 0
        if smallest <= number <= largest:
            return number
        if overflow is Overflow.FAIL:
            return None
        if overflow is Overflow.WRAP:
            return self.clipped(number)
        return largest if number > largest else smallest


@dataclass(frozen=True, slots=True)
class Operation:
    """One GET, SET or INCRBY."""

    word: bytes
    field: Field
    number: int
    overflow: Overflow


def _parse_field(server: ServerState, type_name: bytes, offset: bytes) -> Field:
    signed = type_name[:1] == b"i"
    if not signed and type_name[:1] != b"u":
        raise CommandError(_NO_TYPE)
    width_bits = parse_integer(type_name[1:], _NO_TYPE)
    if not 1 <= width_bits <= (64 if signed else 63):
        raise CommandError(_NO_TYPE)
    return Field(parse_offset(server, offset, field_bits=width_bits), width_bits, signed)


def parse_operations(server: ServerState, args: list[bytes]) -> list[Operation]:
    """Return the operations of a command line; raises CommandError."""
    operations: list[Operation] = []
    overflow = Overflow.WRAP
    position = 2
    while position < len(args):
        word = args[position].lower()
        count = _ARGUMENTS.get(word)
        if count is None or position + count >= len(args):
            raise CommandError(SYNTAX_ERROR)
        if word == b"overflow":
            try:
                overflow = Overflow(args[position + 1].lower())
            except ValueError:
                raise CommandError("ERR Invalid OVERFLOW type specified") from None
        else:
            field = _parse_field(server, args[position + 1], args[position + 2])
            number = parse_integer(args[position + 3]) if count == 3 else 0
            operations.append(Operation(word, field, number, overflow))
        position += 1 + count
    return operations


def _apply(operation: Operation, data: bytearray) -> int | None:
    field = operation.field
    before = field.read(data)
    if operation.word == b"get":
        return before
    if operation.word == b"incrby":
        number = before + operation.number
    elif operation.overflow is Overflow.SATURATE and field.is_far_above(operation.number):
        number = field.largest
    elif field.signed or operation.number >= 0:
        number = operation.number
    else:
        number = operation.number + (1 << 64)  # Redis reads it as an unsigned word
    stored = field.fitted(number, operation.overflow)
    if stored is None:
        return None
    field.write(data, stored)
    return stored if operation.word == b"incrby" else before


@handles("bitfield", "bitfield_ro")
async def handle_bitfield(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """BITFIELD key [GET type offset | [OVERFLOW WRAP | SAT | FAIL] SET type offset value | INCRBY type offset increment ...]."""
    operations = parse_operations(server, args)
    ends = [operation.field.offset + operation.field.width_bits for operation in operations if operation.word != b"get"]
    if not ends:
        entry = await read_string(client, server, args[1])
        payload = b"" if entry is None else entry.payload
        return [operation.field.read(payload) for operation in operations]
    if args[0].lower() == b"bitfield_ro":
        raise CommandError("ERR BITFIELD_RO only supports the GET subcommand")
    size_bytes = (max(ends) + 7) // 8

    def changed(value: bytes | None) -> Change:
        data = bytearray(value or b"")
        data.extend(bytes(max(size_bytes - len(data), 0)))
        replies: list[object] = [_apply(operation, data) for operation in operations]
        return Change(replies, None if value is not None and bytes(data) == value else bytes(data))

    return await change_string(client, server, args[1], changed)
