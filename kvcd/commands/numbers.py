"""Commands that count: strings read as numbers."""

from __future__ import annotations

from kvcd.commands import long_double
from kvcd.commands.arguments import LARGEST_INTEGER, SMALLEST_INTEGER, CommandError, parse_integer
from kvcd.commands.registry import handles
from kvcd.commands.strings import Change, change_string
from kvcd.context import ClientState, ServerState
from protocol.replies import Reply
from storage.interface import KeptAs

_NOT_A_FLOAT = "ERR value is not a valid float"


async def _add(client: ClientState, server: ServerState, key: bytes, increment: int) -> Reply:
    def added(value: bytes | None) -> Change:
        total = (0 if value is None else parse_integer(value)) + increment
        if not SMALLEST_INTEGER <= total <= LARGEST_INTEGER:
            raise CommandError("ERR increment or decrement would overflow")
        return Change(total, b"%d" % total, KeptAs.VALUE)

    return await change_string(client, server, key, added)


@handles("incr")
async def handle_incr(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """INCR key."""
    return await _add(client, server, args[1], 1)


@handles("decr")
async def handle_decr(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """DECR key."""
    return await _add(client, server, args[1], -1)


@handles("incrby")
async def handle_incrby(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """INCRBY key increment."""
    return await _add(client, server, args[1], parse_integer(args[2]))


@handles("decrby")
async def handle_decrby(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """DECRBY key decrement."""
    decrement = parse_integer(args[2])
    if decrement == SMALLEST_INTEGER:
        raise CommandError("ERR decrement would overflow")
    return await _add(client, server, args[1], -decrement)


@handles("incrbyfloat")
async def handle_incrbyfloat(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """INCRBYFLOAT key increment: in long double, as Redis counts."""

    def added(value: bytes | None) -> Change:
        # The stored value is read first: when both are bad, Redis complains once and with the same words.
        total = long_double.parse(b"0" if value is None else value)
        increment = long_double.parse(args[2])
        if total is None or increment is None:
            raise CommandError(_NOT_A_FLOAT)
        total = long_double.add(total, increment)
        if long_double.is_nan(total) or long_double.is_infinite(total):
            raise CommandError("ERR increment would produce NaN or Infinity")
        text = long_double.to_text(total)
        return Change(text, text, KeptAs.TEXT)

    return await change_string(client, server, args[1], added)
