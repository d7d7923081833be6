"""CONFIG: directives read and changed while the service runs."""

from __future__ import annotations

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError
from kvcd.commands.registry import handles
from kvcd.config import ConfigError
from kvcd.configuration_rewrite import rewrite_file
from kvcd.context import ClientState, ServerState
from protocol.replies import OK, Reply

_GLOB_CHARACTERS = (b"*", b"?", b"[", b"\\")


def _text(argument: bytes) -> str:
    return argument.decode("utf-8", "surrogateescape")


@handles("config|get")
async def handle_config_get(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CONFIG GET parameter [parameter ...]."""
    found: dict[object, object] = {}
    for pattern in args[2:]:
        is_name = not any(special in pattern for special in _GLOB_CHARACTERS)
        for name, text in server.config.matching([pattern]):
            if name.encode() not in found and pattern not in found:
                # Redis repeats a plain name in the letters it was asked in, and clients look it up by those.
                found[pattern if is_name else name.encode()] = text.encode("utf-8", "surrogateescape")
    return found


@handles("config|set")
async def handle_config_set(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CONFIG SET parameter value [parameter value ...]: all or none."""
    if len(args) % 2:
        raise CommandError(SYNTAX_ERROR)
    try:
        await server.service.change(server, [(_text(name), _text(value)) for name, value in zip(args[2::2], args[3::2], strict=True)])
    except ConfigError as refused:
        raise CommandError(f"ERR {refused}") from refused
    return OK


@handles("config|rewrite")
async def handle_config_rewrite(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CONFIG REWRITE: comments and the order of what is there stay."""
    if not server.config.file:
        raise CommandError("ERR The server is running without a config file")
    try:
        rewrite_file(server.config, server.access.users)
    except OSError as error:
        raise CommandError(f"ERR Rewriting config file: {error.strerror}") from error
    return OK


@handles("config|resetstat")
async def handle_config_resetstat(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CONFIG RESETSTAT."""
    await server.service.reset_statistics(server)
    return OK
