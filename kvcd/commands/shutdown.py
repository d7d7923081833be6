"""SHUTDOWN: the end of the service, at a client's word."""

from __future__ import annotations

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.replies import NO_REPLY, Reply


@handles("shutdown")
async def handle_shutdown(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]: no reply, the connection closes. It is at once, so none is there to abort."""
    words = [argument.lower() for argument in args[1:]]
    if not {b"nosave", b"save", b"now", b"force", b"abort"}.issuperset(words) or {b"nosave", b"save"}.issubset(words):
        raise CommandError(SYNTAX_ERROR)
    if b"abort" in words:
        raise CommandError("ERR No shutdown in progress." if set(words) == {b"abort"} else SYNTAX_ERROR)
    save = True if b"save" in words else False if b"nosave" in words else None
    if not await server.stop(save=save, now=b"now" in words, force=b"force" in words):
        raise CommandError("ERR Errors trying to SHUTDOWN. Check logs.")
    client.close_after_reply = True
    return NO_REPLY
