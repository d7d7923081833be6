"""Commands that store, read and cut strings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError, parse_integer, refusal, value_bytes, value_size_bytes, wrong_arity
from kvcd.commands.expiry import deadline_ms
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.replies import OK, Reply
from storage.interface import NO_EXPIRY, Condition, Entry, KeptAs, Payload, Status, ValueType

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


@dataclass(frozen=True, slots=True)
class SetOptions:
    """What SET and GETEX were asked for beyond key and value."""

    condition: Condition = Condition.ALWAYS
    want_previous: bool = False
    keep_ttl: bool = False
    persist: bool = False
    expiry_unit: bytes = b""  # EX, PX, EXAT or PXAT in lower case; empty without one
    expiry_argument: bytes = b""

    def expire_at_ms(self, server: ServerState, command_name: str) -> int:
        """Return the Unix time in milliseconds that the options give, NO_EXPIRY without one; raises CommandError."""
        if not self.expiry_unit:
            return NO_EXPIRY
        return deadline_ms(server, self.expiry_argument, unit=self.expiry_unit, command_name=command_name)


@dataclass(frozen=True, slots=True)
class Change:
    """What a read-modify-write comes to: the value to store (None: nothing) and the reply if that succeeds."""

    reply: Reply
    value: bytes | None = None
    kept_as: KeptAs = KeptAs.RAW  # as one that was there is changed; what creates it may say something else


def require_string(entry: Entry) -> None:
    """Raise CommandError unless the entry is a string."""
    if entry.type != ValueType.STRING:
        raise CommandError(WRONG_TYPE)


async def read_string(client: ClientState, server: ServerState, key: bytes) -> Entry | None:
    """Return the string under a key, None without one; raises CommandError for another type."""
    entry = await server.store.read(client.db, key)
    if entry is not None:
        require_string(entry)
    return entry


async def change_string(client: ClientState, server: ServerState, key: bytes, compute: Callable[[bytes | None], Change]) -> Reply:
    """Replace a string by what ``compute`` makes of it, keeping its expiry.

    ``compute`` gets None for an absent key, and may run again when another front end changed the key meanwhile; each
    such round means that somebody else's write succeeded, so the loop needs no bound of its own.
    """
    store = server.store
    while True:
        entry = await read_string(client, server, key)
        change = compute(None if entry is None else entry.payload)
        if change.value is None:
            return change.reply
        if entry is None:
            status = (await store.write(client.db, key, change.value, condition=Condition.NX, kept_as=change.kept_as)).status
        else:
            status = await store.replace(client.db, key, entry.token, change.value, expire_at_ms=entry.expire_at_ms, kept_as=change.kept_as)
        if status == Status.OK:
            return change.reply
        if status not in (Status.PRESENT, Status.CONFLICT, Status.MISS):
            return refusal(status)


def parse_options(args: list[bytes], first: int, *, storing: bool) -> SetOptions:
    """Read the options of SET (``storing``) or GETEX from position ``first`` on; raises CommandError."""
    options = SetOptions()
    position = first
    while position < len(args):
        word = args[position].lower()
        following = args[position + 1] if position + 1 < len(args) else None
        if storing and word in (b"nx", b"xx"):
            wanted = Condition.NX if word == b"nx" else Condition.XX
            if options.condition not in (Condition.ALWAYS, wanted):
                raise CommandError(SYNTAX_ERROR)
            options = replace(options, condition=wanted)
        elif storing and word == b"get":
            options = replace(options, want_previous=True)
        elif storing and word == b"keepttl" and not options.expiry_unit:
            options = replace(options, keep_ttl=True)
        elif not storing and word == b"persist" and not options.expiry_unit:
            options = replace(options, persist=True)
        elif word in (b"ex", b"px", b"exat", b"pxat") and following is not None:
            # The same unit twice is fine, the later one counts; two units are not.
            if options.keep_ttl or options.persist or options.expiry_unit not in (b"", word):
                raise CommandError(SYNTAX_ERROR)
            options = replace(options, expiry_unit=word, expiry_argument=following)
            position += 1
        else:
            raise CommandError(SYNTAX_ERROR)
        position += 1
    return options


@handles("get")
async def handle_get(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """GET key."""
    entry = await read_string(client, server, args[1])
    return None if entry is None else entry.payload


@handles("set")
async def handle_set(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SET key value [options]."""
    options = parse_options(args, 3, storing=True)
    result = await server.store.write(
        client.db,
        args[1],
        cast(Payload, args[2]),
        condition=options.condition,
        expire_at_ms=options.expire_at_ms(server, "set"),
        keep_ttl=options.keep_ttl,
        want_previous=options.want_previous,
    )
    if result.status not in (Status.OK, Status.PRESENT, Status.MISS):
        return refusal(result.status)
    if options.want_previous:
        return None if result.previous is None else result.previous.payload
    return OK if result.status == Status.OK else None


@handles("setnx")
async def handle_setnx(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SETNX key value."""
    result = await server.store.write(client.db, args[1], cast(Payload, args[2]), condition=Condition.NX)
    return int(result.status == Status.OK) if result.status in (Status.OK, Status.PRESENT) else refusal(result.status)


@handles("setex", "psetex")
async def handle_setex(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SETEX key seconds value, PSETEX key milliseconds value."""
    name = args[0].lower()
    expire_at_ms = deadline_ms(server, args[2], unit=b"ex" if name == b"setex" else b"px", command_name=name.decode())
    result = await server.store.write(client.db, args[1], cast(Payload, args[3]), expire_at_ms=expire_at_ms)
    return OK if result.status == Status.OK else refusal(result.status)


@handles("getex")
async def handle_getex(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """GETEX key [options]."""
    options = parse_options(args, 2, storing=False)
    store = server.store
    while True:
        entry = await read_string(client, server, args[1])
        if entry is None:
            return None
        expire_at_ms = options.expire_at_ms(server, "getex")
        if not options.expiry_unit and (not options.persist or entry.expire_at_ms == NO_EXPIRY):
            return entry.payload
        if options.expiry_unit and expire_at_ms <= server.now_ms():
            status = await store.delete_exact(client.db, args[1], entry.token)
        else:
            status = await store.replace(client.db, args[1], entry.token, None, expire_at_ms=expire_at_ms)
        if status == Status.OK:
            return entry.payload
        if status not in (Status.CONFLICT, Status.MISS):
            return refusal(status)


@handles("getdel")
async def handle_getdel(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """GETDEL key: of several at once, only the one whose delete took effect gets the value."""
    while True:
        entry = await read_string(client, server, args[1])
        if entry is None:
            return None
        status = await server.store.delete_exact(client.db, args[1], entry.token)
        if status == Status.OK:
            return entry.payload
        if status not in (Status.CONFLICT, Status.MISS):
            return refusal(status)


@handles("getset")
async def handle_getset(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """GETSET key value."""
    result = await server.store.write(client.db, args[1], cast(Payload, args[2]), want_previous=True)
    if result.status != Status.OK:
        return refusal(result.status)
    return None if result.previous is None else result.previous.payload


@handles("mget")
async def handle_mget(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MGET key [key ...]: another type reads as absent."""
    entries = await server.store.read_many(client.db, args[1:])
    return [None if entry is None or entry.type != ValueType.STRING else entry.payload for entry in entries]


def _pairs(args: list[bytes], command_name: str) -> list[tuple[bytes, Payload]]:
    if len(args) % 2 == 0:
        raise CommandError(wrong_arity(command_name))
    return [(args[position], cast(Payload, args[position + 1])) for position in range(1, len(args), 2)]


@handles("mset")
async def handle_mset(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MSET key value [key value ...]."""
    status = await server.store.write_many(client.db, _pairs(args, "mset"))
    return OK if status == Status.OK else refusal(status)


@handles("msetnx")
async def handle_msetnx(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MSETNX key value [key value ...]: on shared memory nothing runs between the check and the writes."""
    pairs = _pairs(args, "msetnx")
    if any(await server.store.exists(client.db, [key for key, _ in pairs])):
        return 0
    status = await server.store.write_many(client.db, pairs)
    return 1 if status == Status.OK else refusal(status)


@handles("strlen")
async def handle_strlen(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """STRLEN key."""
    entry = await server.store.read(client.db, args[1], payload=False)
    if entry is None:
        return 0
    require_string(entry)
    return entry.size_bytes


def _check_size(server: ServerState, size_bytes: int) -> None:
    if size_bytes > server.config.number("proto-max-bulk-len"):
        raise CommandError("ERR string exceeds maximum allowed size (proto-max-bulk-len)")


@handles("append")
async def handle_append(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """APPEND key value."""
    addition = value_bytes(args[2])

    def appended(value: bytes | None) -> Change:
        if value is None:
            return Change(len(addition), addition, KeptAs.VALUE)
        _check_size(server, len(value) + len(addition))
        return Change(len(value) + len(addition), value + addition)

    return await change_string(client, server, args[1], appended)


@handles("setrange")
async def handle_setrange(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SETRANGE key offset value."""
    offset = parse_integer(args[2])
    if offset < 0:
        raise CommandError("ERR offset is out of range")
    if value_size_bytes(args[3]):
        _check_size(server, offset + value_size_bytes(args[3]))
    patch = value_bytes(args[3])

    def patched(value: bytes | None) -> Change:
        if not patch:
            return Change(0 if value is None else len(value))
        old = value or b""
        new = b"".join((old[:offset].ljust(offset, b"\0"), patch, old[offset + len(patch) :]))
        return Change(len(new), new)

    return await change_string(client, server, args[1], patched)


@handles("getrange", "substr")
async def handle_getrange(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """GETRANGE key start end: both ends included, negative ones count from the end."""
    start, end = parse_integer(args[2]), parse_integer(args[3])
    entry = await read_string(client, server, args[1])
    if entry is None or (start < 0 and end < 0 and start > end):
        return b""
    size_bytes = len(entry.payload)
    first = max(start + size_bytes if start < 0 else start, 0)
    last = max(end + size_bytes if end < 0 else end, 0)
    return entry.payload[first : last + 1]
