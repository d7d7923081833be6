"""Commands about when a key expires."""

from __future__ import annotations

from kvcd.commands.arguments import LARGEST_INTEGER, SMALLEST_INTEGER, CommandError, parse_integer, refusal, shown
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.replies import Reply
from storage.interface import NO_EXPIRY, Entry, Status

_UNIT_OF_COMMAND = {b"expire": b"ex", b"pexpire": b"px", b"expireat": b"exat", b"pexpireat": b"pxat"}


def _invalid_time(command_name: str) -> CommandError:
    return CommandError(f"ERR invalid expire time in '{command_name}' command")


def deadline_ms(server: ServerState, argument: bytes, *, unit: bytes, command_name: str) -> int:
    """Return the Unix time in milliseconds of SET's EX, PX, EXAT or PXAT (``unit`` in lower case).

    Raises CommandError unless it is positive and fits 64 bits.
    """
    amount = parse_integer(argument)
    milliseconds = amount * 1000 if unit in (b"ex", b"exat") else amount
    if unit in (b"ex", b"px"):
        milliseconds += server.now_ms()
    if amount <= 0 or milliseconds > LARGEST_INTEGER:
        raise _invalid_time(command_name)
    return milliseconds


def _parse_conditions(args: list[bytes]) -> set[bytes]:
    conditions = set()
    for argument in args:
        word = argument.lower()
        if word not in (b"nx", b"xx", b"gt", b"lt"):
            raise CommandError(f"ERR Unsupported option {shown(argument)}")
        conditions.add(word)
    if b"nx" in conditions and len(conditions) > 1:
        raise CommandError("ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"gt", b"lt"} <= conditions:
        raise CommandError("ERR GT and LT options at the same time are not compatible")
    return conditions


def _allowed(conditions: set[bytes], *, expire_at_ms: int, current_ms: int) -> bool:
    """Whether EXPIRE's conditions let the new time replace the current one; no expiry counts as the end of time."""
    has_expiry = current_ms != NO_EXPIRY
    if b"nx" in conditions and has_expiry:
        return False
    if b"xx" in conditions and not has_expiry:
        return False
    if b"gt" in conditions and (not has_expiry or expire_at_ms <= current_ms):
        return False
    return not (b"lt" in conditions and has_expiry and expire_at_ms >= current_ms)


@handles("expire", "pexpire", "expireat", "pexpireat")
async def handle_expire(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """EXPIRE key seconds [NX | XX | GT | LT] and its kin; a time in the past deletes the key."""
    command_name = args[0].lower()
    unit = _UNIT_OF_COMMAND[command_name]
    conditions = _parse_conditions(args[3:])
    expire_at_ms = parse_integer(args[2])
    if unit in (b"ex", b"exat"):
        expire_at_ms *= 1000
    too_small = expire_at_ms < SMALLEST_INTEGER
    if unit in (b"ex", b"px"):
        expire_at_ms += server.now_ms()
    if too_small or expire_at_ms > LARGEST_INTEGER:
        raise _invalid_time(command_name.decode())
    store = server.store
    while True:
        entry = await store.read(client.db, args[1], payload=False)
        if entry is None or not _allowed(conditions, expire_at_ms=expire_at_ms, current_ms=entry.expire_at_ms):
            return 0
        if expire_at_ms <= server.now_ms():
            status = await store.delete_exact(client.db, args[1], entry.token)
        else:
            status = await store.replace(client.db, args[1], entry.token, None, expire_at_ms=expire_at_ms)
        if status == Status.OK:
            return 1
        if status not in (Status.CONFLICT, Status.MISS):
            return refusal(status)


@handles("persist")
async def handle_persist(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PERSIST key."""
    while True:
        entry = await server.store.read(client.db, args[1], payload=False)
        if entry is None or entry.expire_at_ms == NO_EXPIRY:
            return 0
        status = await server.store.replace(client.db, args[1], entry.token, None, expire_at_ms=NO_EXPIRY)
        if status == Status.OK:
            return 1
        if status not in (Status.CONFLICT, Status.MISS):
            return refusal(status)


async def _peek(client: ClientState, server: ServerState, key: bytes) -> Entry | None:
    return await server.store.read(client.db, key, payload=False, touch=False)


@handles("ttl", "pttl")
async def handle_ttl(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """TTL key, PTTL key: -2 without the key, -1 without an expiry."""
    entry = await _peek(client, server, args[1])
    if entry is None or entry.expire_at_ms == NO_EXPIRY:
        return -2 if entry is None else -1
    left_ms = max(entry.expire_at_ms - server.now_ms(), 0)
    return (left_ms + 500) // 1000 if args[0].lower() == b"ttl" else left_ms


@handles("expiretime", "pexpiretime")
async def handle_expiretime(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """EXPIRETIME key, PEXPIRETIME key: -2 without the key, -1 without an expiry."""
    entry = await _peek(client, server, args[1])
    if entry is None or entry.expire_at_ms == NO_EXPIRY:
        return -2 if entry is None else -1
    return (entry.expire_at_ms + 500) // 1000 if args[0].lower() == b"expiretime" else entry.expire_at_ms
