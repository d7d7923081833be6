"""SORT: of what is absent, since strings cannot be sorted and nothing else is held here."""

from __future__ import annotations

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError, parse_integer
from kvcd.commands.registry import handles
from kvcd.commands.strings import WRONG_TYPE
from kvcd.context import ClientState, ServerState
from protocol.command_table import lookup
from protocol.replies import Reply


def destination_place(args: list[bytes], *, may_read_others: bool = True) -> int | None:
    """Return where in a SORT the key after STORE stands, None without one; raises CommandError.

    ``may_read_others``: whether the client may read what keys BY and GET lead to.
    """
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
            if not may_read_others and (word == b"get" or b"*" in args[position].partition(b"\0")[0]):
                raise CommandError(f"ERR {word.decode().upper()} option of SORT denied due to insufficient ACL permissions.")
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
    spec = lookup(args[0])
    assert spec is not None
    destination = destination_place(args, may_read_others=server.access.may_read_others(client, spec, args))
    if await server.store.read(client.db, args[1], payload=False) is not None:
        raise CommandError(WRONG_TYPE)
    if destination is None:
        return []
    await server.store.delete(client.db, [args[destination]])
    return 0
