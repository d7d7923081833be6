"""SORT: of what is absent, since strings cannot be sorted and nothing else is held here."""

from __future__ import annotations

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError, parse_integer
from kvcd.commands.registry import handles
from kvcd.commands.strings import WRONG_TYPE
from kvcd.context import ClientState, ServerState
from protocol.replies import Reply


def destination_place(args: list[bytes]) -> int | None:
    """Return where in a SORT the key after STORE stands, None without one; raises CommandError."""
    found = None
    position = 2
    while position < len(args):
        word, left = args[position].lower(), len(args) - position - 1
        if word in (b"asc", b"desc", b"alpha"):
            pass
        elif word == b"limit" and left >= 2:
            parse_integer(args[position + 1])
            parse_integer(args[position + 2])
            position += 2
        elif word in (b"by", b"get") and left >= 1:
            position += 1
        elif word == b"store" and left >= 1 and args[0].lower() == b"sort":
            position += 1
            found = position
        else:
            raise CommandError(SYNTAX_ERROR)
        position += 1
    return found


@handles("sort", "sort_ro")
async def handle_sort(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SORT key [BY pattern] [LIMIT offset count] [GET pattern ...] [ASC | DESC] [ALPHA] [STORE destination]."""
    destination = destination_place(args)
    if await server.store.read(client.db, args[1], payload=False) is not None:
        raise CommandError(WRONG_TYPE)
    if destination is None:
        return []
    await server.store.delete(client.db, [args[destination]])
    return 0
