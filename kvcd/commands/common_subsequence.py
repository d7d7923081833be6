"""LCS: what two strings have in common."""

from __future__ import annotations

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError, parse_integer
from kvcd.commands.registry import handles
from kvcd.commands.strings import require_string
from kvcd.commands.subsequence import CommonSubsequence
from kvcd.context import ClientState, ServerState
from protocol.replies import Reply

_TABLE_WORD_BYTES = 4
_LONGEST_BYTES = 2**32 - 2


@handles("lcs")
async def handle_lcs(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """LCS key1 key2 [LEN] [IDX] [MINMATCHLEN len] [WITHMATCHLEN]."""
    entries = await server.store.read_many(client.db, args[1:3])
    for entry in entries:
        if entry is not None:
            require_string(entry)
    words: set[bytes] = set()
    shortest = 0
    position = 3
    while position < len(args):
        word = args[position].lower()
        if word == b"minmatchlen" and position + 1 < len(args):
            position += 1
            shortest = parse_integer(args[position])
        elif word not in (b"idx", b"len", b"withmatchlen"):
            raise CommandError(SYNTAX_ERROR)
        words.add(word)
        position += 1
    if {b"idx", b"len"} <= words:
        raise CommandError("ERR If you want both the length and indexes, please just use IDX.")
    left, right = (b"" if entry is None else entry.payload for entry in entries)
    if max(len(left), len(right)) >= _LONGEST_BYTES:
        raise CommandError("ERR String too long for LCS")
    if (len(left) + 1) * (len(right) + 1) * _TABLE_WORD_BYTES > server.config.number("proto-max-bulk-len"):
        raise CommandError("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len")
    common = CommonSubsequence(left, right)
    if b"len" in words:
        return common.length
    found, ranges = common.walk()
    if b"idx" not in words:
        return found
    matches: list[object] = []
    for left_first, left_last, right_first, right_last in ranges:
        size_bytes = left_last - left_first + 1
        if size_bytes >= shortest:
            matches.append([[left_first, left_last], [right_first, right_last], *([size_bytes] if b"withmatchlen" in words else [])])
    return {b"matches": matches, b"len": common.length}
