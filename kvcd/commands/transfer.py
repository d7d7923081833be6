"""Commands that move keys: to another database, and as a payload to another server and back."""

from __future__ import annotations

from dataclasses import dataclass

from kvcd.commands.arguments import LARGEST_INTEGER, SYNTAX_ERROR, CommandError, parse_integer, refusal, value_bytes
from kvcd.commands.keyspace import checked_database
from kvcd.commands.objects import counts_frequency
from kvcd.commands.registry import handles
from kvcd.commands.strings import require_string
from kvcd.context import ClientState, ServerState
from protocol.dump_payload import ChecksumError, FormatError, dump, restore
from protocol.replies import OK, Reply
from storage.interface import NO_EXPIRY, Condition, Status

SAME_OBJECT = "ERR source and destination objects are the same"
_TARGET_EXISTS = "BUSYKEY Target key name already exists."
_LARGEST_FREQUENCY = 255


@handles("move")
async def handle_move(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MOVE key db: there before it is gone here, so no value is ever lost."""
    database, store, key = checked_database(server, args[2]), server.store, args[1]
    if database == client.db:
        raise CommandError(SAME_OBJECT)
    condition = Condition.NX
    while True:
        entry = await store.read(client.db, key)
        if entry is None:
            # Deleted by another front end after we had copied it: the move came first.
            return int(condition is not Condition.NX)
        result = await store.write(
            database, key, entry.payload, condition=condition, expire_at_ms=entry.expire_at_ms, kept_as=entry.kept_as
        )
        status = result.status
        if status == Status.PRESENT:
            return 0
        if status != Status.OK:
            return refusal(status)
        condition = Condition.ALWAYS
        status = await store.delete_exact(client.db, key, entry.token)
        if status == Status.OK:
            return 1
        if status not in (Status.CONFLICT, Status.MISS):
            return refusal(status)


@handles("dump")
async def handle_dump(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """DUMP key."""
    entry = await server.store.read(client.db, args[1])
    if entry is None:
        return None
    require_string(entry)
    return dump(entry.payload)


@dataclass(slots=True)
class _RestoreOptions:
    replaces: bool = False
    is_instant: bool = False  # the time to live is a Unix time
    idle_s: int = -1
    frequency: int = -1


def _parse_restore(args: list[bytes]) -> _RestoreOptions:
    options = _RestoreOptions()
    position = 4
    while position < len(args):
        word = args[position].lower()
        has_argument = position + 1 < len(args)
        if word == b"replace":
            options.replaces = True
        elif word == b"absttl":
            options.is_instant = True
        elif word == b"idletime" and has_argument and options.frequency == -1:
            position += 1
            options.idle_s = parse_integer(args[position])
            if options.idle_s < 0:
                raise CommandError("ERR Invalid IDLETIME value, must be >= 0")
        elif word == b"freq" and has_argument and options.idle_s == -1:
            position += 1
            options.frequency = parse_integer(args[position])
            if not 0 <= options.frequency <= _LARGEST_FREQUENCY:
                raise CommandError("ERR Invalid FREQ value, must be >= 0 and <= 255")
        else:
            raise CommandError(SYNTAX_ERROR)
        position += 1
    return options


@handles("restore", "restore-asking")
async def handle_restore(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """RESTORE key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]: the policy's one of the last two counts."""
    options, store = _parse_restore(args), server.store
    if not options.replaces and any(await store.exists(client.db, [args[1]])):
        raise CommandError(_TARGET_EXISTS)
    expire_at_ms = parse_integer(args[2])
    if expire_at_ms < 0:
        raise CommandError("ERR Invalid TTL value, must be >= 0")
    try:
        value = restore(value_bytes(args[3]))
    except ChecksumError:
        raise CommandError("ERR DUMP payload version or checksum are wrong") from None
    except FormatError:
        raise CommandError("ERR Bad data format") from None
    if expire_at_ms and not options.is_instant:
        expire_at_ms += server.now_ms()
    # Beyond 64 bits it wraps around in redis-server: such a time is past.
    if expire_at_ms and not server.now_ms() < expire_at_ms <= LARGEST_INTEGER:
        await store.delete(client.db, [args[1]])
        return OK
    condition = Condition.ALWAYS if options.replaces else Condition.NX
    status = (await store.write(client.db, args[1], value, condition=condition, expire_at_ms=expire_at_ms or NO_EXPIRY)).status
    if status == Status.PRESENT:
        raise CommandError(_TARGET_EXISTS)
    if status != Status.OK:
        return refusal(status)
    if options.frequency >= 0 and counts_frequency(server):
        await store.set_use(client.db, args[1], frequency=options.frequency)
    elif options.idle_s >= 0 and not counts_frequency(server):
        await store.set_use(client.db, args[1], idle_ms=options.idle_s * 1000)
    return OK
