"""LOLWUT: the version, without computer art."""

from __future__ import annotations

from kvcd import REDIS_VERSION
from kvcd.commands.arguments import parse_integer
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.replies import Reply, Verbatim


@handles("lolwut")
async def handle_lolwut(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """LOLWUT [VERSION version]: Redis 7 shows no more either."""
    if len(args) >= 3 and args[1].lower() == b"version":
        parse_integer(args[2])
    return Verbatim(f"Redis ver. {REDIS_VERSION}\n".encode())
