"""CONFIG: directives read and changed while the service runs."""

from __future__ import annotations

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError
from kvcd.commands.information import monotonic_counters
from kvcd.commands.registry import handles
from kvcd.config import ConfigError
from kvcd.context import ClientState, ServerState
from protocol.replies import OK, Reply


def _text(argument: bytes) -> str:
    return argument.decode("utf-8", "surrogateescape")


@handles("config|get")
async def handle_config_get(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CONFIG GET parameter [parameter ...]."""
    found = server.config.matching(args[2:])
    return {name.encode(): text.encode("utf-8", "surrogateescape") for name, text in found}


@handles("config|set")
async def handle_config_set(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CONFIG SET parameter value [parameter value ...]: all or none."""
    if len(args) % 2:
        raise CommandError(SYNTAX_ERROR)
    try:
        server.config.set_many([(_text(name), _text(value)) for name, value in zip(args[2::2], args[3::2], strict=True)])
    except ConfigError as refused:
        raise CommandError(f"ERR {refused}") from refused
    return OK


@handles("config|resetstat")
async def handle_config_resetstat(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CONFIG RESETSTAT."""
    server.statistics.reset(monotonic_counters(server))
    return OK
