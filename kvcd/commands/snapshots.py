"""SAVE, BGSAVE, LASTSAVE."""

from __future__ import annotations

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from kvcd.persistence import FAILED, SaveRefused
from protocol.replies import OK, Reply, Simple


@handles("save")
async def handle_save(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SAVE: a process of its own does the work, so only this client waits for it."""
    try:
        if await server.persistence.save():
            return OK
    except SaveRefused as refused:
        raise CommandError(refused.text) from refused
    raise CommandError(FAILED)


@handles("bgsave")
async def handle_bgsave(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """BGSAVE [SCHEDULE]: there is no other background work to wait for, so SCHEDULE changes nothing."""
    if len(args) > 2 or (len(args) == 2 and args[1].lower() != b"schedule"):
        raise CommandError(SYNTAX_ERROR)
    try:
        server.persistence.save_in_background()
    except SaveRefused as refused:
        raise CommandError(refused.text) from refused
    return Simple("Background saving started")


@handles("lastsave")
async def handle_lastsave(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """LASTSAVE."""
    return server.persistence.last_save_s
