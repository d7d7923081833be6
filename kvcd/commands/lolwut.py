"""LOLWUT: the version, without computer art."""

from __future__ import annotations

from kvcd import REDIS_VERSION
from kvcd.commands.arguments import parse_integer
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.replies import Reply, Verbatim

_NUMBERS_OF_VERSION = {5: 3, 6: 2}  # that the art of these versions takes


@handles("lolwut")
async def handle_lolwut(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """LOLWUT [VERSION version [number ...]]: Redis 7 shows no more either, but for the versions that had something to show."""
    if len(args) >= 3 and args[1].lower() == b"version":
        count = _NUMBERS_OF_VERSION.get(parse_integer(args[2]), 0)
        for argument in args[3 : 3 + count]:
            parse_integer(argument)
    return Verbatim(f"Redis ver. {REDIS_VERSION}\n".encode())
