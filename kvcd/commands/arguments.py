"""Reading of command arguments, strict as Redis is, and the refusals that bad ones earn."""

from __future__ import annotations

import re

from protocol.replies import Error
from storage.interface import Payload, Status

LARGEST_INTEGER = 2**63 - 1
SMALLEST_INTEGER = -(2**63)
_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")  # no leading zeros, no plus, no "-0"; 64 bits have 19 digits

NOT_AN_INTEGER = "ERR value is not an integer or out of range"
SYNTAX_ERROR = "ERR syntax error"
OUT_OF_MEMORY = Error("OOM command not allowed when used memory > 'maxmemory'.")
INDEX_FULL = Error("OOM command not allowed: the index has no free place for this key, raise 'index-entries'")
BUSY = Error("ERR too many values are being read or this key is too contended, try again")
UNREACHABLE = Error("ERR the memory node that holds this key does not answer")


class CommandError(Exception):
    """A command is refused; ``text`` is the whole error reply, its code first."""

    def __init__(self, text: str) -> None:
        """Keep the reply's text."""
        super().__init__(text)
        self.text = text


def parse_integer(argument: bytes, refusal: str = NOT_AN_INTEGER) -> int:
    """Return the signed 64-bit integer that ``argument`` spells; raises CommandError with ``refusal``."""
    if _INTEGER.fullmatch(argument):
        number = int(argument)
        if SMALLEST_INTEGER <= number <= LARGEST_INTEGER:
            return number
    raise CommandError(refusal)


def parse_small_integer(argument: bytes, refusal: str = "") -> int:
    """Return the signed 32-bit integer that ``argument`` spells; raises CommandError, with ``refusal`` if there is one."""
    number = parse_integer(argument, refusal or NOT_AN_INTEGER)
    if not -(2**31) <= number < 2**31:
        raise CommandError(refusal or f"ERR value is out of range, value must between {-(2**31)} and {2**31 - 1}")
    return number


def wrong_arity(full_name: str) -> str:
    """Return the error text for a wrong number of arguments."""
    return f"ERR wrong number of arguments for '{full_name}' command"


def wrong_subcommand(args: list[bytes]) -> str:
    """Return the error text of a subcommand that is given more than it takes, where Redis finds that out late."""
    name = shown(args[1][:128])
    return f"ERR unknown subcommand or wrong number of arguments for '{name}'. Try {shown(args[0]).upper()} HELP."


def shown(argument: bytes) -> str:
    """Return an argument as an error reply shows it: like a C string, bytes kept, up to the first zero byte."""
    return argument.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def value_bytes(value: Payload) -> bytes:
    """Return a value argument's bytes, wherever the session put them."""
    return value if isinstance(value, bytes) else bytes(value) if isinstance(value, bytearray) else value.tobytes()


def value_size_bytes(value: Payload) -> int:
    """Return a value argument's length without copying it."""
    return len(value) if isinstance(value, bytes | bytearray | memoryview) else value.size_bytes


def refusal(status: Status) -> Error:
    """Return the reply for a write that the store refused."""
    if status == Status.FULL:
        return OUT_OF_MEMORY
    if status == Status.INDEX_FULL:
        return INDEX_FULL
    if status == Status.UNREACHABLE:
        return UNREACHABLE
    if status == Status.BUSY:
        return BUSY
    raise AssertionError(f"{status!r} is no refusal")
