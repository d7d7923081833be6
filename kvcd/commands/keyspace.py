"""Commands on keys whatever their values are, and on whole databases."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError, parse_integer, parse_small_integer, refusal
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.glob import matches
from protocol.replies import OK, Reply, Simple
from storage.interface import Condition, Status, ValueType

DATABASE_OUT_OF_RANGE = "ERR DB index is out of range"
_SCAN_COUNT = 10  # Redis's default for COUNT
_LARGEST_SCAN_COUNT = 1 << 20  # COUNT is a hint; this bounds how long one call keeps others waiting
_SCAN_LIMIT_S = 1.0  # how long one SCAN looks for keys in an index that is all but empty: a million sets take about 0.1 s
_SWEEP_COUNT = 1024  # keys asked of the store at a time when all are wanted
_LARGEST_CURSOR = 2**64 - 1
_CURSOR = re.compile(rb"([+-]?)([0-9]+)")  # what strtoul takes, white space before it excepted
_TYPE_NAMES = {ValueType.STRING: "string"}


@handles("del", "unlink")
async def handle_del(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """DEL key [key ...], UNLINK key [key ...]."""
    return await server.store.delete(client.db, args[1:])


@handles("exists")
async def handle_exists(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """EXISTS key [key ...]: a key named twice counts twice."""
    return sum(await server.store.exists(client.db, args[1:]))


@handles("touch")
async def handle_touch(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """TOUCH key [key ...]."""
    entries = await server.store.read_many(client.db, args[1:], payload=False)
    return sum(entry is not None for entry in entries)


@handles("type")
async def handle_type(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """TYPE key."""
    entry = await server.store.read(client.db, args[1], payload=False, touch=False)
    return Simple("none" if entry is None else _TYPE_NAMES[entry.type])


@handles("rename", "renamenx")
async def handle_rename(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """RENAME key newkey, RENAMENX key newkey: the new key is written before the old one goes, so no value is ever lost."""
    store, (source, destination) = server.store, args[1:3]
    only_if_absent = args[0].lower() == b"renamenx"
    condition = Condition.NX if only_if_absent else Condition.ALWAYS
    written = False
    while True:
        entry = await store.read(client.db, source)
        if entry is None and not written:
            raise CommandError("ERR no such key")
        if entry is None:
            break  # another front end deleted the source after we copied it: the rename came first
        if source == destination:
            return 0 if only_if_absent else OK
        written_as = await store.write(
            client.db, destination, entry.payload, condition=condition, expire_at_ms=entry.expire_at_ms, kept_as=entry.kept_as
        )
        status = written_as.status
        if status == Status.PRESENT:
            return 0
        if status != Status.OK:
            return refusal(status)
        written, condition = True, Condition.ALWAYS
        status = await store.delete_exact(client.db, source, entry.token)
        if status == Status.OK:
            break
        if status not in (Status.CONFLICT, Status.MISS):
            return refusal(status)
    return 1 if only_if_absent else OK


@handles("copy")
async def handle_copy(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """COPY source destination [DB destination-db] [REPLACE]."""
    database, condition = client.db, Condition.NX
    position = 3
    while position < len(args):
        word = args[position].lower()
        if word == b"replace":
            condition = Condition.ALWAYS
        elif word == b"db" and position + 1 < len(args):
            position += 1
            database = checked_database(server, args[position])
        else:
            raise CommandError(SYNTAX_ERROR)
        position += 1
    if database == client.db and args[1] == args[2]:
        raise CommandError("ERR source and destination objects are the same")
    entry = await server.store.read(client.db, args[1])
    if entry is None:
        return 0
    result = await server.store.write(
        database, args[2], entry.payload, condition=condition, expire_at_ms=entry.expire_at_ms, kept_as=entry.kept_as
    )
    return int(result.status == Status.OK) if result.status in (Status.OK, Status.PRESENT) else refusal(result.status)


def checked_database(server: ServerState, argument: bytes) -> int:
    """Return the place of the database whose number that is; raises CommandError."""
    database = parse_small_integer(argument)
    if not 0 <= database < server.databases:
        raise CommandError(DATABASE_OUT_OF_RANGE)
    return server.order.place(database)


@handles("swapdb")
async def handle_swapdb(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SWAPDB index1 index2: the numbers change places, no key is moved."""
    first = parse_small_integer(args[1], "ERR invalid first DB index")
    second = parse_small_integer(args[2], "ERR invalid second DB index")
    if not (0 <= first < server.databases and 0 <= second < server.databases):
        raise CommandError(DATABASE_OUT_OF_RANGE)
    if first != second:
        places = server.order.place(first), server.order.place(second)
        try:
            server.swap_databases(first, second)
        except NotImplementedError as refused:
            raise CommandError(str(refused)) from refused
        await server.modes.swapped(*places)
    return OK


@handles("randomkey")
async def handle_randomkey(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """RANDOMKEY."""
    return await server.store.random_key(client.db)


async def all_keys(client: ClientState, server: ServerState) -> AsyncIterator[bytes]:
    """Yield every key of the client's database once."""
    seen: set[bytes] = set()
    cursor = 0
    while True:
        cursor, keys = await server.store.scan(client.db, cursor, _SWEEP_COUNT)
        for key in keys:
            if key not in seen:
                seen.add(key)
                yield key
        if cursor == 0:
            return


@handles("keys")
async def handle_keys(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """KEYS pattern."""
    pattern = args[1]
    return [key async for key in all_keys(client, server) if pattern == b"*" or matches(pattern, key)]


def parse_cursor(argument: bytes) -> int:
    """Return SCAN's cursor, read as C's strtoul reads it; raises CommandError."""
    text = argument.partition(b"\0")[0]
    found = _CURSOR.fullmatch(text)
    if found is None and text:
        raise CommandError("ERR invalid cursor")
    number = int(found[2]) if found is not None and len(found[2]) < 4096 else 0
    if number > _LARGEST_CURSOR:
        raise CommandError("ERR invalid cursor")
    return -number & _LARGEST_CURSOR if found is not None and found[1] == b"-" else number


async def _turn_of_others() -> None:
    # A future, and not asyncio.sleep(0): the session goes on with a command when the future that it gave is done.
    loop = asyncio.get_running_loop()
    turn = loop.create_future()
    loop.call_soon(turn.set_result, None)
    await turn


async def _some_keys(client: ClientState, server: ServerState, *, cursor: int, count: int) -> tuple[int, list[bytes]]:
    """Next cursor and about ``count`` keys; fewer at the end of the database, or after _SCAN_LIMIT_S.

    Clients take it for granted that a small database comes in one answer, and the index is as large as the pool, not as the database.
    """
    database, ends_at = client.db, time.monotonic() + _SCAN_LIMIT_S
    found: list[bytes] = []
    while True:
        cursor, keys = await server.store.scan(database, cursor, count - len(found))
        found += keys
        if cursor == 0 or len(found) >= count or time.monotonic() > ends_at:
            return cursor, found
        await _turn_of_others()


@handles("scan")
async def handle_scan(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]."""
    cursor = parse_cursor(args[1])
    pattern, type_name, count = b"*", None, _SCAN_COUNT
    for position in range(2, len(args), 2):
        word = args[position].lower()
        if position + 1 == len(args):
            raise CommandError(SYNTAX_ERROR)
        if word == b"match":
            pattern = args[position + 1]
        elif word == b"count":
            count = parse_integer(args[position + 1])
            if count < 1:
                raise CommandError(SYNTAX_ERROR)
        elif word == b"type":
            type_name = args[position + 1].lower()
        else:
            raise CommandError(SYNTAX_ERROR)
    cursor, keys = await _some_keys(client, server, cursor=cursor, count=min(count, _LARGEST_SCAN_COUNT))
    if pattern != b"*":
        keys = [key for key in keys if matches(pattern, key)]
    if type_name is not None:
        entries = await server.store.read_many(client.db, keys, payload=False, touch=False)
        keys = [
            key for key, entry in zip(keys, entries, strict=True) if entry is not None and _TYPE_NAMES[entry.type].encode() == type_name
        ]
    return [b"%d" % cursor, [*keys]]


@handles("dbsize")
async def handle_dbsize(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """DBSIZE."""
    return server.store.database_size(client.db).keys


@handles("flushdb", "flushall")
async def handle_flush(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """FLUSHDB [ASYNC | SYNC], FLUSHALL [ASYNC | SYNC]: emptying is one change of an epoch, so both words mean the same."""
    if len(args) > 2 or (len(args) == 2 and args[1].lower() not in (b"async", b"sync")):
        raise CommandError(SYNTAX_ERROR)
    if args[0].lower() == b"flushdb":
        await server.store.flush(client.db)
        server.persistence.note_flush()
    else:
        await server.store.flush(None)
        server.persistence.save_flushed()
    return OK


@handles("time")
async def handle_time(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """TIME: to the microsecond, so not from the batch's clock."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return [b"%d" % seconds, b"%d" % microseconds]
